"""Harmful requests by their wording: a trained classifier of n-grams and concepts, without a model.

Reads every view of the text (disguises taken off) and keeps the worst, judged by the threshold of a language that the
text holds. Abstains where it has no measured threshold. About a millisecond a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fivefold.guard._scored import Scored, judge
from fivefold.guard.text_model import TextModel
from fivefold.guard.texts import views_of
from fivefold.types import Exchange, Stage, Taxonomy, Verdict, digest

TAXONOMY = Taxonomy(
    surface="user prompt", technique="harmful request", owasp=("LLM01:2025",), atlas=("AML.T0054", "AML.T0068")
)
"""What it stands against, in the words of the public catalogues."""


class TextGuard:
    """A trained text model at the input stage, or wherever `stages` says."""

    def __init__(
        self,
        model: TextModel,
        *,
        languages: Sequence[str] | None = None,
        stages: Sequence[Stage] = ("input",),
        assume: str | None = None,
        name: str = "text",
    ) -> None:
        self.model, self.name, self.stages, self.assume = model, name, frozenset(stages), assume
        known = model.thresholds if languages is None else {k: model.thresholds[k] for k in languages}
        self.thresholds = {k: t.value for k, t in known.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over the model's file and the thresholds in use."""
        return digest([self.model.digest, self.thresholds, self.assume, sorted(self.stages)])

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange."""
        return [self._check(exchange) for exchange in exchanges]

    def _check(self, exchange: Exchange) -> Verdict:
        scored = [Scored(view=v, score=self.model.score(v.text)) for v in views_of(exchange)]
        return judge(self.name, self.model.concept, scored, self.thresholds, exchange, self.assume)


def guard(
    artifact: str | Path | TextModel,
    *,
    digest: str | None = None,
    languages: Sequence[str] | None = None,
    stages: Sequence[Stage] = ("input",),
    assume: str | None = None,
    name: str = "text",
) -> TextGuard:
    """`artifact`: a file of `fivefold guard train` (checked against `digest` if given) or a model. `languages`: those
    to judge (None: all with a threshold). `assume`: the language whose threshold serves for languages without one
    (None: abstain)."""
    model = artifact if isinstance(artifact, TextModel) else TextModel.load(Path(artifact), digest=digest)
    return TextGuard(model, languages=languages, stages=stages, assume=assume, name=name)
