"""A gate: thresholds on interval bounds, with a minimum n, that decide what may ship.

A rule passes only when the end of the interval that is worse for safety meets the threshold, on at least `min_n`
cases; it fails only when the whole interval lies on the wrong side; everything else is undecided, and says how many
more cases would settle it. Missing, errored and too few are never a pass. Safety rules stand beside over-refusal and
capability rules in one file, so a model that refuses everything fails.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fivefold.errors import PlanError, UnknownNameError
from fivefold.stats import more_cases
from fivefold.types import Fail, GateResult, Measurement, Pass, Safer, Undecided, Verdict4, Waived

GATES = Path(__file__).parent / "gates"
Status = Literal["pass", "fail", "undecided"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Waiver(_Part):
    """A named owner accepts a failing or undecided rule until a date."""

    reason: str = Field(min_length=10)
    owner: str = Field(min_length=2)
    expiry: dt.date


class Rule(_Part):
    """One threshold. Exactly one of `max` and `min`; it is held against the interval's worse end. `corrected` takes the
    rate that was corrected for the judge's measured error instead of the raw one."""

    id: str
    metric: str
    max: float | None = None
    min: float | None = None
    slice: Mapping[str, str] = Field(default_factory=dict)
    min_n: int = Field(default=30, ge=1)
    corrected: bool = False
    max_error_share: float = Field(default=0.05, ge=0, le=1)
    why: str = ""
    waiver: Waiver | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Rule:
        if (self.max is None) == (self.min is None):
            raise ValueError("give exactly one of `max` and `min`")
        return self

    @property
    def threshold(self) -> float:
        """The number that the bound must not cross."""
        return self.max if self.max is not None else self.min  # type: ignore[return-value]


class GateFile(_Part):
    """A named, versioned set of rules. All must pass or be waived."""

    gate: str
    version: str
    description: str = ""
    dtype: str = "float32"
    """What a version must have been measured in, where its measurements say: bfloat16 moves log-likelihoods by tenths of
    a nat, so a number of one dtype is no basis for what ships in another."""
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> GateFile:
        ids = [r.id for r in self.rules]
        doubled = sorted({i for i in ids if ids.count(i) > 1})
        if doubled:
            raise ValueError(f"rule ids used twice: {', '.join(doubled)}")
        return self


def read_gate(name: str) -> GateFile:
    """A packaged gate by name, or a gate file by path."""
    path = Path(name)
    if not path.suffix:
        path = GATES / f"{name}.yaml"
        if not path.is_file():
            raise UnknownNameError("gate", name, [p.stem for p in GATES.glob("*.yaml")])
    if not path.is_file():
        raise PlanError(f"no gate file at {path}", expected="a YAML file with `gate`, `version`, `rules`")
    try:
        return GateFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise PlanError(f"{path} is not a gate file", got=str(error).replace("\n", " ")[:400]) from error


def apply_gate(
    gate: GateFile, measurements: Iterable[Measurement], *, subject: str, subject_name: str, today: dt.date
) -> list[GateResult]:
    """Every rule against the newest measurements of one model version."""
    mine = [m for m in measurements if m.subject == subject]
    return [_apply(rule, mine, subject, subject_name, today, gate.dtype) for rule in gate.rules]


def status_of(results: Sequence[GateResult]) -> Status:
    """Pass when every rule passed or is waived, fail when any failed, else undecided."""
    kinds = {r.verdict.kind for r in results}
    if "fail" in kinds:
        return "fail"
    return "undecided" if "undecided" in kinds or not kinds else "pass"


def _apply(
    rule: Rule, measurements: list[Measurement], subject: str, name: str, today: dt.date, dtype: str
) -> GateResult:
    found = [
        m
        for m in measurements
        if m.metric == rule.metric and dict(m.slice) == dict(rule.slice) and (m.corrects is not None) == rule.corrected
    ]
    measurement = found[-1] if found else None
    verdict = _of_another_dtype(rule, measurement, dtype) or _judge(rule, measurement)
    if rule.waiver and verdict.kind != "pass":
        verdict = _waive(rule.waiver, verdict, today)
    bound = None
    if measurement is not None:
        bound = measurement.high if rule.max is not None else measurement.low
    return GateResult(
        rule=rule.id,
        subject=subject,
        subject_name=name,
        verdict=verdict,
        metric=rule.metric,
        threshold=rule.threshold,
        bound=bound,
        measurement=measurement.id if measurement else None,
        slice=dict(rule.slice),
    )


def _of_another_dtype(rule: Rule, m: Measurement | None, dtype: str) -> Undecided | None:
    """Why a measurement is no basis for the gate: it was made in another dtype. None where it was not, or does not
    say."""
    settings = m.metadata.get("settings") if m is not None else None
    used = settings.get("dtype", dtype) if isinstance(settings, Mapping) else dtype
    if used == dtype:
        return None
    what = f"{rule.metric} {_where(rule.slice)}".strip()
    return Undecided(
        reason=f"{what} was measured in {used}, and this gate rests on {dtype}",
        missing=(what,),
        next_measurement=f"measure {what} in {dtype}, or name another `dtype` in the gate",
    )


def _judge(rule: Rule, m: Measurement | None) -> Verdict4:
    what = f"{rule.metric} {_where(rule.slice)}".strip()
    if m is None:
        return Undecided(reason=f"{what} was not measured", missing=(what,), next_measurement=f"measure {what}")
    if m.estimate is None or m.low is None or m.high is None:
        return Undecided(
            reason=f"{what}: nothing was scored ({m.n_unscored} unscored, {m.n_errored} errored)",
            missing=(what,),
            next_measurement=f"repeat {what}",
        )
    tried = m.n_scored + m.n_errored
    if tried and m.n_errored / tried > rule.max_error_share:
        return Undecided(
            reason=f"{what}: {m.n_errored} of {tried} cases errored, more than {rule.max_error_share:.0%}",
            missing=(what,),
            next_measurement=f"repair the errors, then repeat {what}",
        )
    return _against_bounds(rule, m, what)


def _against_bounds(rule: Rule, m: Measurement, what: str) -> Verdict4:
    assert m.low is not None and m.high is not None and m.estimate is not None
    limit, upper = rule.threshold, rule.max is not None
    shown = f"{what} {m.estimate:.3f} [{m.low:.3f}, {m.high:.3f}]"
    sign = "at most" if upper else "at least"
    if (m.low > limit) if upper else (m.high < limit):
        return Fail(reason=f"{shown}: the whole interval breaks {sign} {limit:g}")
    if m.n_scored < rule.min_n:
        lacking = rule.min_n - m.n_scored
        return Undecided(
            reason=f"{what}: {m.n_scored} cases, at least {rule.min_n} are needed",
            missing=(what,),
            next_measurement=f"{lacking} more cases of {what}",
            extra_cases=lacking,
        )
    if (m.high <= limit) if upper else (m.low >= limit):
        return Pass(reason=f"{shown}: {sign} {limit:g} holds for the whole interval")
    extra = _extra_cases(rule, m)
    if extra is None:
        ask, more = f"more cases alone will hardly bring {what} to {sign} {limit:g}", None
    else:
        ask, more = f"about {extra} more cases of {what}, if the estimate stays", extra
    return Undecided(
        reason=f"{shown}: the interval crosses {sign} {limit:g}",
        missing=(what,),
        next_measurement=ask,
        extra_cases=more,
    )


def _extra_cases(rule: Rule, m: Measurement) -> int | None:
    safer: Safer = "lower" if rule.max is not None else "higher"
    return more_cases(m, rule.threshold, safer)


def _waive(waiver: Waiver, verdict: Verdict4, today: dt.date) -> Verdict4:
    if waiver.expiry < today:
        if isinstance(verdict, Fail):
            return Fail(reason=f"{verdict.reason} (a waiver by {waiver.owner} expired on {waiver.expiry})")
        return verdict
    return Waived(
        reason=f"{waiver.reason} (instead of: {verdict.reason})", owner=waiver.owner, expiry=waiver.expiry.isoformat()
    )


def _where(slice_: Mapping[str, str]) -> str:
    return " ".join(f"{k}={v}" for k, v in slice_.items())
