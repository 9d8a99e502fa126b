"""Probe guard: blocks a prompt whose activations lie beyond a trained probe's threshold (input stage).

Nearly free when the guarded model is the probed one. Source: linear probes as monitors, e.g. Zou et al. 2023 (arXiv
2310.01405) and Constitutional Classifiers++ (probe cascade). Every reading of a disguised text is scored, the worst counts.
It abstains on languages for which the probe has no threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fivefold.guard._files import Probe, read_probe
from fivefold.guard.language import languages_in
from fivefold.guard.texts import views_of, with_last_user
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Exchange, Stage, Verdict, digest


class ProbeGuard:
    """Reads one probe on the activations of an open model."""

    name = "probe"
    stages: frozenset[Stage] = frozenset({"input"})

    def __init__(self, probe: Probe, model: WhiteBox) -> None:
        self.probe, self.model = probe, model

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over the probe's file and the model that it reads."""
        return digest({"guard": self.name, "probe": self.probe.digest, "model": self.model.fingerprint})

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, from one forward pass for all readings of all exchanges."""
        readings = [[with_last_user(e.messages, v.text) for v in views_of(e)] for e in exchanges]
        flat = [context for contexts in readings for context in contexts]
        if not flat:
            return []
        x = self.model.activations(flat, layers=[self.probe.layer], position=self.probe.position)  # type: ignore[arg-type]
        scores = iter(self.probe.score(x[:, 0].cpu().numpy()))
        return [self._verdict(e, [float(next(scores)) for _ in c]) for e, c in zip(exchanges, readings, strict=True)]

    def _verdict(self, exchange: Exchange, scores: list[float]) -> Verdict:
        text = exchange.messages[-1].content if exchange.messages else ""
        known = [self.probe.thresholds[k] for k in languages_in(text) if k in self.probe.thresholds]
        if not known:
            return Verdict(action="abstain", guard=self.name, reason="no threshold was measured for this language")
        worst, limit = float(np.max(scores)), min(t.value for t in known)
        action = "block" if worst >= limit else "allow"
        reason = f"score {worst:.2f}, threshold {limit:.2f}"
        return Verdict(action=action, guard=self.name, reason=reason, score=worst, threshold=limit)  # type: ignore[arg-type]


def guard(path: str | Path, model: WhiteBox, digest: str | None = None) -> ProbeGuard:
    """The guard of a probe file; `digest` must match the file."""
    return ProbeGuard(read_probe(Path(path), digest=digest), model)
