"""What the patch trains on, compared with what is measured, with its datasheet: for a run and for `fivefold align patch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fivefold.align.data.datasheet import Datasheet, Origin
from fivefold.align.data.sources import contrast, everyday
from fivefold.align.recipes.patch import PatchConfig
from fivefold.runtime.protocol import Model
from fivefold.thread.training_data import Prepared, case_rows, prepare, shipped_origin
from fivefold.types import Case


@dataclass(frozen=True, kw_only=True)
class PatchData:
    """Requests to refuse and to answer, without those that are left out."""

    harms: Sequence[Case]
    benign: Sequence[Case]
    ready: Prepared[Case]

    def sheet(self, model: Model, origins: Sequence[Origin], config: PatchConfig) -> Datasheet:
        """The datasheet; the everyday and contrast requests that the recipe adds are among the sources."""
        added = {"everyday": everyday(), "contrast": contrast()}
        asked = {
            "everyday": [m.everyday for m in config.mix.values()],
            "contrast": [m.contrast for m in config.mix.values()],
        }
        shipped = [shipped_origin(name, rows) for name, rows in added.items() if any(asked[name])]
        how_many = ", ".join(f"{sum(n)} {name} requests" for name, n in asked.items() if any(n))
        made = f"answers by {model.name}, beside authored safe answers" + (f" and {how_many}" if how_many else "")
        return self.ready.sheet("patch", model, [*origins, *shipped], config, made=made)


def patch_data(
    harms: Sequence[Case], benign: Sequence[Case], config: PatchConfig, *, policy: str, alike: bool = False
) -> PatchData:
    """What there is of both in the languages that `config` trains on, compared with what is held out. `alike` keeps near
    repetitions, such as wordings of one attack. Raises DataError as `prepare` does."""
    harms, benign = ([c for c in cases if c.language in config.mix] for cases in (harms, benign))
    kinds = {c.id: "harmful requests" for c in harms} | {c.id: "benign requests" for c in benign}
    ready = prepare(case_rows([*harms, *benign]), policy=policy, alike=alike, kinds=lambda c: kinds[c.id])
    return PatchData(
        harms=[c for c in ready.rows if kinds[c.id].startswith("harmful")],
        benign=[c for c in ready.rows if kinds[c.id].startswith("benign")],
        ready=ready,
    )
