"""Answers as they are written: pieces of text whose join is the completion's text, to the character.

    for piece in (answer := stream(model, request)):
        print(piece, end="", flush=True)
    answer.completion.stop_reason

A piece is given out when nothing that follows can change it: bytes of an unfinished character wait for the rest of it,
and what may be the beginning of a stop string waits until it is one or is not. Tokens are decoded in short windows that
overlap by one piece, so that a long answer costs no more per token than a short one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Protocol, runtime_checkable

from fivefold.runtime.protocol import Model, OnDone, OnText, Request
from fivefold.types import Completion

UNFINISHED = "\ufffd"


@runtime_checkable
class Streams(Protocol):
    """A model that can say what it has written so far."""

    def generate(
        self, requests: Sequence[Request], *, on_done: OnDone | None = None, on_text: OnText | None = None
    ) -> list[Completion]:
        """As `Model.generate`; `on_text` is called with (index of the request, next piece)."""
        ...


class TextStream:
    """One growing answer: tokens go in, text that is certain comes out through `emit`."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], emit: Callable[[str], None]
    ) -> None:
        self._decode, self._stops, self._emit = decode, tuple(s for s in stops if s), emit
        self._from = self._read = self._sent = 0
        self._text = ""

    def push(self, tokens: Sequence[int]) -> None:
        """All tokens so far, of an answer that goes on."""
        known, now = self._decode(tokens[self._from : self._read]), self._decode(tokens[self._from :])
        if len(now) <= len(known) or now.endswith(UNFINISHED):
            return
        self._text += now[len(known) :]
        self._from, self._read = self._read, len(tokens)
        self._give(self._text[: len(self._text) - self._held()])

    def finish(self, text: str) -> None:
        """The answer's whole text; what is left of it is given out."""
        self._give(text)

    def _give(self, text: str) -> None:
        if len(text) > self._sent:
            piece, self._sent = text[self._sent :], len(text)
            self._emit(piece)

    def _held(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        longest = max((len(s) - 1 for s in self._stops), default=0)
        return next(
            (
                n
                for n in range(min(longest, len(self._text)), 0, -1)
                if any(s.startswith(self._text[-n:]) for s in self._stops)
            ),
            0,
        )


class Stream:
    """Pieces of one answer; `completion` is there when they have ended.

    A model that cannot stream gives its whole answer as one piece. Leaving the loop early (`close`) ends the generation
    at its next token. An exception of the model is raised by the loop; an answer that failed has its `error`.
    """

    def __init__(self, model: Model, request: Request) -> None:
        self.completion: Completion | None = None
        self._model, self._request = model, request
        self._queue: SimpleQueue[str | BaseException | None] = SimpleQueue()
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[str]:
        threading.Thread(target=self._run, name="fivefold-stream", daemon=True).start()
        try:
            while (piece := self._queue.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self._closed.set()

    def close(self) -> None:
        """Ask for no more."""
        self._closed.set()

    def _run(self) -> None:
        try:
            self.completion = self._answer()
            self._queue.put(None)
        except _ClosedError:
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)

    def _answer(self) -> Completion:
        if getattr(self._model, "streams", False) and isinstance(self._model, Streams):
            return self._model.generate([self._request], on_text=self._piece)[0]
        answer = self._model.generate([self._request])[0]
        if answer.text:
            self._queue.put(answer.text)
        return answer

    def _piece(self, index: int, text: str) -> None:
        if self._closed.is_set():
            raise _ClosedError
        self._queue.put(text)


class _ClosedError(Exception):
    """Nobody listens any more."""


def stream(model: Model, request: Request) -> Stream:
    """The answer to one request, piece by piece."""
    return Stream(model, request)
