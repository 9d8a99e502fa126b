"""Where in the network a concept can be read: AUROC per layer of two read-outs, beside a text baseline.

For every layer a difference of means and a linear probe are fitted on the train split. The layer is chosen on dev and
out-of-fold train prompts, and only then is the test split looked at. Negatives should be look-alikes of the positives
(`core-benign` for `core-harms`): against ordinary prompts a classifier of words alone is nearly perfect.
Sources: the read-outs' own (Arditi et al. 2024, arXiv 2406.11717; Alain & Bengio 2016, arXiv 1610.01644); control by a
text baseline after Hewitt & Liang 2019, arXiv 1909.03368.
Cost: one forward pass per prompt up to the deepest layer, all layers read at once; then a few seconds of linear
algebra. After Alain & Bengio 2016 (arXiv:1610.01644) and Arditi et al. 2024 (arXiv:2406.11717, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fivefold.interpret._baseline import baseline_scores
from fivefold.interpret._fit import Framed, Read, artifact_of, held_out_scores, separation, separations
from fivefold.interpret._linear import Array, Fit, fit_difference, logistic_fit
from fivefold.interpret.artifacts import Position, ProbeArtifact, Separation
from fivefold.interpret.data import Prompts, collect
from fivefold.interpret.protocol import MethodResult, measurement
from fivefold.runtime.protocol import Capability, WhiteBox
from fivefold.types import Case, Measurement

SWEEP_FOLDS = 3
BASELINE = "text_baseline"


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One method at one layer (None: the text baseline): how well it separates the prompts of each language and of
    `all`."""

    method: str
    layer: int | None
    chosen_by: float
    """AUROC on dev and out-of-fold train prompts, by which layers are compared (mean over languages)."""
    dev: Mapping[str, Separation]
    test: Mapping[str, Separation]

    def to_json(self) -> dict[str, Any]:
        """The row as a table shows it."""
        tables = {s: {k: dict(vars(v)) for k, v in getattr(self, s).items()} for s in ("dev", "test")}
        return {"method": self.method, "layer": self.layer, "chosen_by": self.chosen_by, **tables}


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """Every row, and the artifacts of the best layer of each method."""

    concept: str
    rows: tuple[SweepRow, ...]
    probe: ProbeArtifact
    direction: ProbeArtifact
    scores: Mapping[str, float] = field(default_factory=dict)
    """Probe score of every prompt by case id, none of them by a probe that had seen its behaviour."""

    @property
    def best(self) -> SweepRow:
        """The probe's row at the chosen layer."""
        return next(r for r in self.rows if r.method == "linear_probe" and r.layer == self.probe.layer)

    @property
    def baseline(self) -> SweepRow:
        """The text baseline's row."""
        return next(r for r in self.rows if r.method == BASELINE)

    def measurements(self) -> list[Measurement]:
        """AUROC on test of both read-outs at their chosen layers and of the baseline, per language."""
        found = [measurement(a, k, s) for a in (self.probe, self.direction) for k, s in a.auroc.items()]
        for language, s in self.baseline.test.items():
            row = measurement(self.probe, language, s)
            place = {"language": language, "layer": "", "method": BASELINE, "split": "test"}
            found.append(Measurement(**{**vars(row), "slice": place, "metadata": {}}))
        return found


def layer_sweep(
    model: WhiteBox,
    harmful: Sequence[Case],
    benign: Sequence[Case],
    *,
    concept: str = "harmfulness",
    position: Position = "last",
    layers: Sequence[int] | None = None,
    languages: Sequence[str] | None = None,
    target_fpr: float = 0.05,
    framed_fpr: float = 0.15,
    ridge: float = 0.1,
    extra: tuple[Sequence[Case], Sequence[Case]] = ((), ()),
) -> SweepResult:
    """Sweep `layers` (None: all in the first two thirds of the depth, where a prompt's meaning is read best and the
    forward pass stops early). Splits follow each case's behaviour; DataError when one has too few prompts of a kind.

    `extra` are more (harmful, benign) prompts that the final probe learns from, read at the chosen layer alone: framed
    variants of the prompts, other requests, everyday ones. They enter no AUROC; those that share a behaviour with
    `benign` also count in the threshold.
    """
    read = Read(
        position=position,
        languages=None if languages is None else tuple(languages),
        target_fpr=target_fpr,
        framed_fpr=framed_fpr,
    )
    prompts = Prompts.of(harmful, benign, read.languages)
    prompts.check("train", "dev", "test")
    places = list(range(-(-2 * model.n_layers // 3))) if layers is None else list(layers)
    x = collect(model, prompts.cases, layers=places, position=position, for_="the layer sweep")
    rows = [_baseline_row(prompts)]
    best: dict[str, int] = {}
    fits = {"difference_of_means": fit_difference, "linear_probe": logistic_fit(ridge)}
    for name, fit in fits.items():
        of_method = [_row(name, layer, x[:, i], prompts, fit) for i, layer in enumerate(places)]
        best[name] = places[int(np.argmax([r.chosen_by for r in of_method]))]
        rows += of_method
    final = _Final(model=model, prompts=prompts, read=read, concept=concept)
    at = {name: x[:, places.index(layer)] for name, layer in best.items()}
    direction, _ = final.train(
        "difference_of_means", best["difference_of_means"], at["difference_of_means"], fit_difference
    )
    positive, negative = ([c for c in side if c.split != "test"] for side in extra)
    more = Prompts.of(positive, negative, prompts.languages)
    probe, scores = final.train("linear_probe", best["linear_probe"], at["linear_probe"], fits["linear_probe"], more)
    by_id = {c.id: float(s) for c, s in zip(prompts.cases, scores, strict=True)}
    return SweepResult(concept=concept, rows=tuple(rows), probe=probe, direction=direction, scores=by_id)


@dataclass(frozen=True, kw_only=True)
class _Final:
    """What the artifacts of one sweep share."""

    model: WhiteBox
    prompts: Prompts
    read: Read
    concept: str

    def train(
        self, name: str, layer: int, x: NDArray[np.float32], fit: Fit, more: Prompts | None = None
    ) -> tuple[ProbeArtifact, Array]:
        """The artifact at one layer, and the held-out score of every prompt [N]; `more` prompts are learnt from
        besides."""
        n, framed, wide = len(self.prompts.cases), None, self.prompts
        if more is not None and more.cases:
            wide = self.prompts.and_(more)
            extra = collect(self.model, more.cases, layers=[layer], position=self.read.position, for_="the layer sweep")
            x = np.concatenate([x, extra[:, 0]])
        linear, scores = held_out_scores(x, wide, fit)
        if more is not None and more.cases:
            same = np.isin(more.clusters, self.prompts.clusters)
            framed = Framed(prompts=more.rows(same), scores=scores[n:][same])
        artifact = artifact_of(
            linear,
            scores[:n],
            self.prompts,
            model=self.model,
            layer=layer,
            read=self.read,
            concept=self.concept,
            method=name,
            framed=framed,
        )
        return replace(artifact, dataset=wide.digest), scores[:n]


def _row(name: str, layer: int, x: NDArray[np.float32], prompts: Prompts, fit: Fit) -> SweepRow:
    scores = held_out_scores(x, prompts, fit, SWEEP_FOLDS)[1]
    return _judge(name, layer, scores, prompts, prompts.of_split("train") | prompts.of_split("dev"))


def _baseline_row(prompts: Prompts) -> SweepRow:
    return _judge(BASELINE, None, baseline_scores(prompts), prompts, prompts.of_split("dev"))


def _judge(name: str, layer: int | None, scores: Array, prompts: Prompts, rows: NDArray[np.bool_]) -> SweepRow:
    found = [separation(scores, prompts, rows & prompts.of_language(k)) for k in prompts.languages]
    return SweepRow(
        method=name,
        layer=layer,
        chosen_by=float(np.mean([s.estimate for s in found if s is not None])),
        dev=separations(scores, prompts, "dev"),
        test=separations(scores, prompts, "test"),
    )


class LayerSweep:
    """The sweep as a registered method."""

    name = "layer_sweep"
    needs = frozenset({Capability.ACTIVATIONS})

    def __init__(self, **options: Any) -> None:
        self.options = options

    def run(self, model: WhiteBox, positive: Sequence[Case], negative: Sequence[Case] = ()) -> MethodResult:
        """The best probe and direction as artifacts, their AUROCs as measurements, every layer as a table row."""
        result = layer_sweep(model, positive, negative, **self.options)
        return MethodResult(
            artifacts={"probe": result.probe, "direction": result.direction},
            measurements=tuple(result.measurements()),
            table=tuple(r.to_json() for r in result.rows),
        )


def method(**options: Any) -> LayerSweep:
    """Options: those of `layer_sweep`."""
    return LayerSweep(**options)
