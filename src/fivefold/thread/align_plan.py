"""A training as a plan: which recipe on which model, with every setting that is not its default, in one YAML file.

`fivefold align plans/align/rlhf.yaml` runs it; `--model` and the other flags change it, so the same plan serves a larger
model. What a plan leaves out is the recipe's own default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fivefold.align.options import changes_of
from fivefold.align.rewards.named import file_of
from fivefold.errors import PlanError, nearest
from fivefold.thread.problems import NAMED
from fivefold.thread.training_data import Policy


class AlignPlan(BaseModel):
    """One training. `settings` are those of the recipe, nested as they are dotted on the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fivefold: Literal[1]
    recipe: str
    model: str = "smollm2"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    data: Path | None = None
    limit: int | None = Field(default=None, gt=0)
    seed: int = 0
    contaminated: Policy = "refuse"
    feedback: str | None = None
    constitution: Path | None = None
    reward: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def changes(self) -> list[str]:
        """The settings as `name=value`."""
        return list(changes_of(self.settings))


def read_align_plan(path: Path) -> AlignPlan:
    """The plan in a YAML file; PlanError says what is wrong with it. Paths in it are relative to its folder."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = nearest(str(path), sorted(str(p) for p in path.parent.glob("*.yaml")), n=1)
        hint = f"did you mean {near[0]}?" if near else "name a recipe: fivefold list recipes"
        raise PlanError(f"no plan at {path}", expected="a YAML file", next_step=hint) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not valid YAML", got=str(error).replace("\n", " ")[:300]) from error
    if not isinstance(content, dict):
        raise PlanError(f"{path} is not a plan", expected="a mapping with `fivefold: 1`", got=type(content).__name__)
    try:
        plan = AlignPlan.model_validate(content)
    except ValidationError as error:
        raise _plan_error(error, path) from error
    own: dict[str, Any] = {
        name: path.parent / value for name in ("data", "constitution") if (value := getattr(plan, name))
    }
    if str(plan.data) in NAMED and not own["data"].exists():
        own["data"] = plan.data
    own |= {name: tuple(_beside(s, path.parent) for s in getattr(plan, name)) for name in ("reward", "gold")}
    return plan.model_copy(update=own)


def _beside(spec: str, folder: Path) -> str:
    """A reward of a plan as it is written on the command line: a file's path is relative to the plan's folder."""
    return spec if file_of(spec) is None else str(folder / spec)


def _plan_error(error: ValidationError, path: Path) -> PlanError:
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    name = ".".join(map(str, first["loc"])) or "plan"
    if first["type"] == "extra_forbidden":
        known = sorted(AlignPlan.model_fields)
        near = nearest(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "settings of the recipe belong under `settings`"
        return PlanError(f"{path}: unknown key {name!r}", expected=", ".join(known), next_step=hint)
    return PlanError(f"{path}: {name}: {first['msg']}", got=repr(first.get("input"))[:200])
