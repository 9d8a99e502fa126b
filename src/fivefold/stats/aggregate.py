"""From outcomes to measurements: the one place where scores become numbers that a gate reads."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fivefold.errors import UsageError
from fivefold.stats.clustered import clustered_mean, clustered_rate, effective_n
from fivefold.stats.intervals import Floats, Interval, mean_interval, nothing
from fivefold.stats.judge import Confusion, rogan_gladen
from fivefold.stats.paired import flipped, mcnemar_p, pair, paired_difference
from fivefold.stats.power import cases_to_clear
from fivefold.stats.sequential import anytime_rate
from fivefold.types import Errored, Measurement, Outcome, Safer, Scored, Unscored


def measure_rate(
    outcomes: Sequence[Outcome],
    *,
    metric: str,
    subject: str,
    subject_name: str,
    safer: Safer,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    slice: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    anytime: bool = False,
    **fields: str,
) -> Measurement:
    """The mean of the scored outcomes' values, which lie between 0 and 1: the share with the scorer's event.

    `clusters` names what each outcome's case belongs to (its behaviour or scenario); where one repeats, the interval
    counts effective cases. `anytime`: the interval of a run that was looked at while it went on. Nothing scored gives a
    measurement without estimate. `fields` are the digests and names that a Measurement carries: dataset, code, judge,
    run, unit.
    """
    values, groups = _scored(outcomes, clusters)
    found = (anytime_rate if anytime else clustered_rate)(values, groups, level)
    details: dict[str, Any] = dict(metadata or {})
    if groups is not None and values.size and len(set(groups)) < values.size:
        details |= {"clusters": len(set(groups)), "effective_n": round(effective_n(values, groups, level), 3)}
    return _measurement(
        found, outcomes, metric, subject, subject_name, safer, slice=dict(slice or {}), metadata=details, **fields
    )


def measure_mean(
    outcomes: Sequence[Outcome],
    *,
    metric: str,
    subject: str,
    subject_name: str,
    safer: Safer,
    unit: str,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    slice: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **fields: str,
) -> Measurement:
    """The mean of scores of any range (nats, tokens, minutes), with Student's t interval, clustered where clusters
    repeat. See `measure_rate` for the rest."""
    values, groups = _scored(outcomes, clusters)
    repeated = groups is not None and len(set(groups)) < values.size
    found = clustered_mean(values, groups or (), level) if repeated else mean_interval(values, level)
    return _measurement(
        found,
        outcomes,
        metric,
        subject,
        subject_name,
        safer,
        unit=unit,
        slice=dict(slice or {}),
        metadata=dict(metadata or {}),
        **fields,
    )


def measure_change(
    before: Mapping[str, Outcome],
    after: Mapping[str, Outcome],
    *,
    metric: str,
    subject: str,
    subject_name: str,
    safer: Safer,
    clusters: Mapping[str, Hashable] | None = None,
    level: float = 0.95,
    slice: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **fields: str,
) -> Measurement:
    """The paired difference `after` minus `before` over the cases (by id) that both were scored on.

    `subject` is the version after. The metadata list the flipped cases both ways, the cases that only one side scored,
    and McNemar's mid-p for 0 and 1 without repeated clusters (None otherwise: it assumes independent cases). A case
    counts as errored when either side errored, else as unscored when either side has no score.
    """
    a, b, ids, lost = pair(before, after)
    groups = None if clusters is None else [clusters[i] for i in ids]
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    found = paired_difference(a, b, level, method="tango" if binary else "bootstrap", clusters=groups)
    flips = flipped(before, after)
    independent = groups is None or len(set(groups)) == len(ids)
    tested = binary and independent and bool(ids)
    details = {
        "rose": list(flips.rose),
        "fell": list(flips.fell),
        "same": flips.same,
        "lost": lost,
        "p_value": mcnemar_p(len(flips.fell), len(flips.rose), mid=True) if tested else None,
        **(metadata or {}),
    }
    both = [_worse(before.get(i), after.get(i)) for i in {**before, **after}]
    return _measurement(
        found,
        both,
        metric,
        subject,
        subject_name,
        safer,
        unit="difference",
        slice=dict(slice or {}),
        metadata=details,
        **fields,
    )


def correct_rate(raw: Measurement, judge: Confusion) -> Measurement:
    """The measurement that a raw rate becomes once the judge's measured error is taken out. `corrects` names the raw
    one, which must have been recorded. Without a usable judge the estimate is None and the metadata say why.

    A clustered rate is corrected at its effective number of cases.
    """
    if not raw.id:
        raise UsageError("the raw measurement has no id yet", next_step="record it first, then correct it")
    n = float(raw.metadata.get("effective_n", raw.n_scored))
    if raw.estimate is None:
        found = nothing("lang-reiczigel", raw.level, "nothing was scored")
    else:
        found = rogan_gladen(raw.estimate * n, n, judge, raw.level)
    counts = {"tp": judge.tp, "fn": judge.fn, "tn": judge.tn, "fp": judge.fp}
    return replace(
        raw,
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        method=f"rogan-gladen, {found.method}",
        metadata=_explained({**raw.metadata, "judge_counts": counts}, found),
        corrects=raw.id,
        id="",
    )


def more_cases(measured: Measurement, threshold: float, safer: Safer) -> int | None:
    """About how many more cases of the same kind, with the same estimate and clustering, until the worse end of the
    interval meets `threshold`; 0 when it does. None when nothing was measured, or the estimate is on the wrong side.

    Wilson intervals are solved for n at their effective number of cases; others narrow as 1 / sqrt(n).
    """
    m = measured
    end = m.high if safer == "lower" else m.low
    if m.estimate is None or end is None or safer == "neither":
        return None
    gap, width = threshold - m.estimate, end - m.estimate
    if safer == "higher":
        gap, width = -gap, -width
    if width <= gap:
        return 0
    if gap <= 0:
        return None
    if m.method.startswith("wilson") and 0 < threshold < 1:
        effective = float(m.metadata.get("effective_n", m.n_scored))
        more = cases_to_clear(m.estimate * effective, effective, threshold, safer, m.level)
        return None if more is None else math.ceil(more * m.n_scored / effective)
    return max(1, math.ceil(m.n_scored * ((width / gap) ** 2 - 1)))


def _scored(outcomes: Sequence[Outcome], clusters: Sequence[Hashable] | None) -> tuple[Floats, list[Hashable] | None]:
    if clusters is not None and len(clusters) != len(outcomes):
        raise UsageError("each outcome needs its cluster", expected=f"{len(outcomes)} clusters", got=len(clusters))
    places = [i for i, o in enumerate(outcomes) if isinstance(o, Scored)]
    values = np.array([o.value for o in outcomes if isinstance(o, Scored)], dtype=np.float64)
    return values, None if clusters is None else [clusters[i] for i in places]


def _measurement(
    found: Interval,
    outcomes: Sequence[Outcome],
    metric: str,
    subject: str,
    subject_name: str,
    safer: Safer,
    *,
    metadata: Mapping[str, Any],
    **fields: Any,
) -> Measurement:
    return Measurement(
        metric=metric,
        subject=subject,
        subject_name=subject_name,
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        level=found.level,
        n_scored=sum(isinstance(o, Scored) for o in outcomes),
        n_unscored=sum(isinstance(o, Unscored) for o in outcomes),
        n_errored=sum(isinstance(o, Errored) for o in outcomes),
        safer=safer,
        method=found.method,
        metadata=_explained(metadata, found),
        **fields,
    )


def _explained(metadata: Mapping[str, Any], found: Interval) -> dict[str, Any]:
    return {**metadata, **({"reason": found.reason} if found.reason else {})}


def _worse(a: Outcome | None, b: Outcome | None) -> Outcome:
    """One outcome for a pair: an error of either, else the lack of a score in either, else scored."""
    for kind in (Errored, Unscored):
        for outcome in (a, b):
            if isinstance(outcome, kind):
                return outcome
    return a if a is not None and b is not None else Unscored(reason="only one side has this case")
