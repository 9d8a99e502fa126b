"""What `fivefold align` was asked for, as one value that every recipe takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from fivefold.align._processes import ALONE, Processes
from fivefold.align.data.datasheet import Datasheet
from fivefold.align.recipes._result import RecipeResult
from fivefold.runtime.protocol import Model, WhiteBox

OnStage: TypeAlias = Callable[[str, int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What `fivefold align` was asked for."""

    model: WhiteBox
    out: Path
    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    changes: Sequence[str] = ()
    contaminated: str = "refuse"
    feedback: Model | None = None
    constitution: Path | None = None
    reward: Sequence[str] = ()
    gold: Sequence[str] = ()
    start: Path | None = None
    on_step: OnStage | None = None
    on_data: Callable[[Datasheet], None] | None = None
    together: Processes = ALONE

    def leave(self, sheet: Datasheet) -> Mapping[str, Path]:
        """Write the datasheet and say that it is there, before anything is trained."""
        files = self.together.told(lambda: sheet.write(self.out))
        if self.on_data:
            self.on_data(sheet)
        return files


def with_files(result: RecipeResult, files: Mapping[str, Path]) -> RecipeResult:
    """The result with further files."""
    return replace(result, files={**result.files, **files})
