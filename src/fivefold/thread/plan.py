"""A whole run as one frozen, hashed value, read from YAML. Unknown keys are refused and the nearest is suggested."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fivefold.errors import PlanError, nearest
from fivefold.types import Split, digest

MAX_PLAN_BYTES = 1_000_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Limit = Annotated[int, Field(gt=0)] | dict[str, Annotated[int, Field(gt=0)]] | None
"""Cases per language: one number for all, one for each, or None for every case."""


class SuiteRun(_Part):
    """One suite to evaluate. `limit` counts cases per language, balanced over categories (one number, or one for each
    language); None takes all. `split: null` takes all splits: for suites on which nothing is trained. A string of
    `stop` ends an answer and is not part of it."""

    suite: str
    split: Split | None = "test"
    languages: tuple[str, ...] = ("en", "ko", "ja")
    limit: Limit = None
    max_new_tokens: int = Field(default=40, gt=0, le=4096)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()


class AttackRun(_Part):
    """One attack on `behaviours` behaviours. `name` may compose transforms, `base64 | role_play`; `options` go to the
    attack's factory. `attacker` names the model that writes for an attack that asks for one."""

    name: str
    behaviours: int = Field(default=8, gt=0)
    languages: tuple[str, ...] = ("en",)
    queries: int = Field(default=8, gt=0)
    steps: int = Field(default=10, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)
    attacker: str | None = None


class RedteamPlan(_Part):
    """Attacks on behaviours of one split. Successes become findings.

    `attacker` writes prompts and `judge` judges answers, each any model by its name; `judge` may also be a scorer's name
    (the default is `refusal`, judged by rules). `max_queries` and `max_tokens` cap the whole step for each model version.
    """

    suite: str = "core-harms"
    split: Split = "train"
    attacks: tuple[AttackRun, ...] = ()
    max_new_tokens: int = Field(default=40, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    attacker: str | None = None
    judge: str | None = None
    max_queries: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)


class InterpretPlan(_Part):
    """Which concept is sought, on which prompts, and where along the prompt it is read. In the languages of `framed` the
    final probe also learns from framed and everyday prompts, so that a frame alone does not look harmful."""

    harmful: str = "core-harms"
    benign: str = "core-benign"
    languages: tuple[str, ...] = ("en", "ko", "ja")
    limit: Limit = None
    framed: tuple[str, ...] = ("en",)
    position: Literal["last", "mean"] = "last"


class PatchPlan(_Part):
    """The weight patch: a recipe of `align` with its options."""

    recipe: str = "patch"
    options: dict[str, Any] = Field(default_factory=dict)


GuardName: TypeAlias = Literal["probe", "text", "unicode"]


class GuardPlan(_Part):
    """The guard patch. Its probes come from the interpret step; thresholds are set on train and dev prompts at
    `target_fpr`. `languages` says which languages a guard judges, where not all: a probe and a text model that both
    judge a language add up their false alarms."""

    guards: tuple[GuardName, ...] = ("probe",)
    languages: dict[GuardName, tuple[str, ...]] = Field(default_factory=dict)
    target_fpr: float = Field(default=0.05, gt=0, lt=1)


class Plan(_Part):
    """One run of the thread.

    `statements` are the owner's own sentences for the card (`intended use`, `out-of-scope use`, `licence terms`); they
    are shown as stated, not as measured.
    """

    fivefold: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$")
    model: str
    seed: int = 0
    owner: str = ""
    budget: str | None = None
    evaluate: tuple[SuiteRun, ...]
    redteam: RedteamPlan | None = None
    interpret: InterpretPlan | None = None
    patch: PatchPlan | None = None
    guard: GuardPlan | None = None
    reattack: RedteamPlan | None = None
    gate: str = "release"
    statements: dict[str, str] = Field(default_factory=dict)
    quick: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's content."""
        return digest(self.model_dump(mode="json"))

    @property
    def minutes(self) -> float | None:
        """The time budget in minutes, if there is one."""
        return parse_minutes(self.budget) if self.budget else None


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file; PlanError says which key is wrong and what was meant."""
    if not path.is_file():
        plans = [str(p) for p in sorted(Path("plans").glob("*.yaml"))]
        near = nearest(str(path), plans, n=1)
        raise PlanError(
            f"no plan at {path}",
            expected="a YAML file",
            next_step=f"did you mean {near[0]}?" if near else "fivefold init writes one for your model",
        )
    if path.stat().st_size > MAX_PLAN_BYTES:
        raise PlanError(f"{path} is too large for a plan", expected=f"at most {MAX_PLAN_BYTES} bytes")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not valid YAML", got=str(error).replace("\n", " ")[:300]) from error
    except PermissionError as error:
        raise PlanError(f"{path} cannot be read", got=str(error), next_step="check the file's permissions") from error
    return plan_from(data, where=str(path))


def plan_from(data: object, *, where: str = "plan") -> Plan:
    """Check a mapping against the plan's schema."""
    if not isinstance(data, dict):
        raise PlanError(f"{where} is not a plan", expected="a mapping with `fivefold: 1`", got=type(data).__name__)
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        raise _plan_error(error, where) from error
    if plan.budget:
        parse_minutes(plan.budget)
    if plan.guard and "probe" in plan.guard.guards and not plan.interpret:
        raise PlanError(
            f"{where}: guard needs interpret",
            next_step="add an interpret section, the guard's probe comes from it; or guards: [text], which reads no model",
        )
    if plan.guard:
        _check_guard(plan.guard, where)
    if plan.patch and not plan.redteam:
        raise PlanError(
            f"{where}: patch needs redteam", next_step="add a redteam section: the patch answers its findings"
        )
    return plan


def _check_guard(part: GuardPlan, where: str) -> None:
    idle = [name for name in part.languages if name not in part.guards or name == "unicode"]
    if idle:
        raise PlanError(
            f"{where}: guard.languages names {idle[0]}, which judges no language here",
            expected=", ".join(g for g in part.guards if g != "unicode") or "no entry",
        )


def _plan_error(error: ValidationError, where: str) -> PlanError:
    # an unknown key first: where another is missing, it is often that one misspelt
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    loc = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = _fields_at(Plan, first["loc"][:-1])
        near = nearest(key, known)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else None
        return PlanError(f"{where}: unknown key {loc!r}", expected=f"one of: {', '.join(known)}", next_step=hint)
    return PlanError(f"{where}: {loc or 'plan'}: {first['msg']}", got=repr(first.get("input"))[:200])


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        if isinstance(part, int):
            continue
        model = _part_of(model.model_fields[part].annotation) or model
    return sorted(model.model_fields)


def _part_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (tuple, typing.Union, types.UnionType):
        for arg in typing.get_args(annotation):
            if found := _part_of(arg):
                return found
    return None


def parse_minutes(text: str) -> float:
    """`5m`, `90s`, `1.5h` or a plain number of minutes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if not match or float(match[1]) <= 0:
        raise PlanError("not a budget of time", expected="for example 90s, 5m or 1h", got=repr(text))
    return float(match[1]) * {"s": 1 / 60, "m": 1.0, "": 1.0, "h": 60.0}[match[2]]


def scaled(plan: Plan, share: float) -> Plan:
    """The plan with every number of cases, behaviours and training examples multiplied by `share` (at least 4)."""

    def fewer(n: int | None, full: int) -> int:
        return max(4, round((n or full) * share))

    def fewer_each(limit: int | dict[str, int] | None) -> int | dict[str, int]:
        if isinstance(limit, dict):
            return {language: fewer(n, 80) for language, n in limit.items()}
        return fewer(limit, 80)

    def fewer_attacks(part: RedteamPlan | None) -> RedteamPlan | None:
        if part is None:
            return None
        attacks = [a.model_copy(update={"behaviours": max(2, round(a.behaviours * share))}) for a in part.attacks]
        return part.model_copy(update={"attacks": tuple(attacks)})

    evaluate = tuple(s.model_copy(update={"limit": fewer_each(s.limit)}) for s in plan.evaluate)
    update: dict[str, Any] = {
        "evaluate": evaluate,
        "redteam": fewer_attacks(plan.redteam),
        "reattack": fewer_attacks(plan.reattack),
    }
    if plan.interpret:
        limit = fewer_each(plan.interpret.limit or 240)
        prompts = {k: max(28, n) for k, n in limit.items()} if isinstance(limit, dict) else max(28, limit)
        update["interpret"] = plan.interpret.model_copy(update={"limit": prompts, "framed": ()})
    if plan.patch:
        update["patch"] = plan.patch.model_copy(update={"options": {**plan.patch.options, "share": share}})
    return plan.model_copy(update=update)


def quick(plan: Plan) -> Plan:
    """A tenth of the plan, to see every step once; its decision is as undecided as so few cases must be."""
    return scaled(plan, 0.12).model_copy(update={"quick": True})
