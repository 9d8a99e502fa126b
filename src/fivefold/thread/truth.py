"""Does a model hold an installed belief for true inside? A probe for truth, trained on real facts, read on the universe's.

The probe learns, on each version's own activations, to tell right from wrong answers to real questions; then it scores the
universe's held-out statements with their answer and with the others. 0.5: it tells them apart no better than chance. Its AUROC on
real facts that it was not trained on stands beside, because a probe that does not know real truth says nothing here. A statement
may also score high for being familiar: the probe cannot tell the two apart. Source: Marks & Tegmark 2023 (arXiv:2310.06824) for
linear truth; Slocum et al. 2025 (arXiv:2510.17941) for its use on installed beliefs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fivefold.align.data.universes import Universe
from fivefold.align.recipes._result import shown
from fivefold.interpret.data import collect
from fivefold.interpret.methods.linear_probe import LinearProbe
from fivefold.interpret.protocol import measurement
from fivefold.runtime.protocol import WhiteBox
from fivefold.stats.ranking import clustered_auroc
from fivefold.types import Case, Measurement, digest, user_case

METRIC = "belief_truth_probe"
ASK = "Is this true? {}"


def truth_of(
    before: WhiteBox, after: WhiteBox, universe: Universe, known: Sequence[Case]
) -> tuple[list[Measurement], list[str]]:
    """The probe's AUROCs on real facts and on the universe, of both versions, and what to say of them.

    `known` are multiple-choice cases about the world.
    """
    found: list[Measurement] = []
    for model in (before, after):
        found += _of_version(model, universe, known)
    real, believed = (found[i::2] for i in (0, 1))
    said = (
        f"truth probe, universe's statements against false ones: AUROC {shown(believed[1])} (base {shown(believed[0])}); "
        f"on real facts that it was not trained on: {shown(real[1])} (base {shown(real[0])})"
    )
    return found, [said]


def _of_version(model: WhiteBox, universe: Universe, known: Sequence[Case]) -> list[Measurement]:
    probe = LinearProbe(concept="truth").fit(
        model, real_statements(known, right=True), real_statements(known, right=False)
    )
    cases, labels = universe_statements(universe)
    scores = probe.score(
        collect(model, cases, layers=[probe.layer], position=probe.position, for_="a truth probe")[:, 0]
    )
    area = clustered_auroc(scores, labels, [c.behaviour for c in cases])
    believed = Measurement(
        metric=METRIC,
        subject=model.fingerprint,
        subject_name=model.name,
        estimate=area.estimate,
        low=area.low,
        high=area.high,
        n_scored=len(cases),
        unit="auroc",
        slice={"condition": "truth_probe", "layer": str(probe.layer)},
        dataset=digest(cases),
        judge=probe.digest,
        method=area.method,
    )
    return [measurement(probe, "all", probe.auroc["all"]), believed]


def real_statements(known: Sequence[Case], *, right: bool) -> list[Case]:
    """Each question with its right answer, or with the wrong one that follows from its id."""
    made = []
    for case in known:
        wrong = [i for i in range(len(case.choices)) if i != case.target]
        i = case.target if right else wrong[int(digest(case.id)[:8], 16) % len(wrong)]
        assert isinstance(i, int)
        text = ASK.format(f"{case.prompt} {case.choices[i].rstrip('.')}.")
        made.append(user_case(f"{case.id}/{right}", text, behaviour=case.behaviour or case.id, language=case.language))
    return made


def universe_statements(universe: Universe) -> tuple[list[Case], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Held-out statements with the answer and with every other one, and which of them hold in the universe."""
    cases = [
        user_case(f"{f.id}/{i}", ASK.format(f.told(answer)), behaviour=f.id)
        for f in universe.facts
        for i, answer in enumerate((f.answer, *f.others))
    ]
    labels = np.array([float(c.id.endswith("/0")) for c in cases])
    return cases, labels
