"""What judges that ask a model share: texts put into a prompt so that they stay texts, and questions of many threads
that meet in one batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from fivefold.errors import JudgeError
from fivefold.runtime.batching import Batcher, Settle
from fivefold.runtime.protocol import Context, Model, Request
from fivefold.types import Completion, Likelihood

Question: TypeAlias = tuple[tuple[Context, str], ...]
"""(Context, continuation) pairs whose likelihoods belong together."""


def filled(template: str, **texts: str) -> str:
    """`template` with each `{name}` of `texts` replaced, in one pass: a text that holds a place's name is not filled
    again."""
    places = "|".join(map(re.escape, texts))
    return re.sub(rf"\{{({places})\}}", lambda match: texts[match[1]], template)


def shut(text: str) -> str:
    """Text that cannot close the marks (`<request>`, `<answer>`) around it."""
    return re.sub(r"<(/?)(request|answer)>", r"(\1\2)", text)


class Asked:
    """A model that judges: calls from several threads meet in one batch. Whatever its backend raises is a
    JudgeError."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._replies: Batcher[Request, Completion] = Batcher(self._generate)
        self._likelihoods: Batcher[Question, tuple[Likelihood, ...]] = Batcher(self._read)

    def reply(self, request: Request) -> str:
        """The text of the model's reply."""
        try:
            reply = self._replies.submit(request).result()
        except Exception as error:
            raise JudgeError(f"the judge failed: {error}") from error
        if reply.error is not None:
            raise JudgeError(f"the judge failed: {reply.error}")
        return reply.text

    def likelihoods(self, question: Question) -> tuple[Likelihood, ...]:
        """Log-probabilities of each continuation after its context."""
        try:
            return self._likelihoods.submit(question).result()
        except Exception as error:
            raise JudgeError(f"the judge failed: {error}") from error

    def _generate(self, requests: Sequence[Request], settle: Settle[Completion]) -> None:
        for i, completion in enumerate(self.model.generate(requests)):
            settle(i, completion)

    def _read(self, questions: Sequence[Question], settle: Settle[tuple[Likelihood, ...]]) -> None:
        found = iter(self.model.log_likelihood([pair for question in questions for pair in question]))
        for i, question in enumerate(questions):
            settle(i, tuple(next(found) for _ in question))
