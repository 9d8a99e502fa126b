"""Any provider of Inspect as a model: `openai/…`, `anthropic/…`, `google/…`, `vllm/…`, `fivefold/…`.

Keys and addresses are the provider's own business (its environment variables, its options). Requests run at the same
time on an event loop of this backend's own thread, as many as the provider allows; Inspect repeats what failed for
overload. The weights behind an API are unknown: the fingerprint covers the name and the options, and says nothing when
the provider changes the model behind the name. Inspect: https://inspect.aisi.org.uk, pinned by the extra `eval`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future, as_completed
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from fivefold.errors import CapabilityError, MissingExtraError, ModelError
from fivefold.runtime.protocol import Capability, Context, OnDone, Request
from fivefold.types import Completion, Likelihood, Message, StopReason, Usage, digest

if TYPE_CHECKING:
    from inspect_ai.model import ChatMessage, ModelOutput
    from inspect_ai.model import Model as InspectModel

T = TypeVar("T")

_STOP: Mapping[str, StopReason] = {"max_tokens": "length", "model_length": "length", "content_filter": "filtered"}


_MARKUP = re.compile(r"\[/?(?:bold|blue|red|italic)[^\]]*\]")


class ProviderModel:
    """One model of one Inspect provider. Text in, text out."""

    capabilities = frozenset({Capability.GENERATE})

    def __init__(self, spec: str, *, timeout: int = 300, retries: int = 4, **options: Any) -> None:
        """`timeout` is in seconds a request, `retries` counts repeats; other options go to the provider."""
        self.name = spec
        self._options = options
        self._timeout, self._retries = timeout, retries
        self._loop = _PrivateLoop()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the name and the provider's options."""
        return digest({"inspect": self.name, "options": self._options})

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Answers in the order of the requests; a failed request yields an error completion."""
        model = self._model
        futures: dict[Future[Completion], int] = {
            self._loop.submit(self._answer(model, request)): i for i, request in enumerate(requests)
        }
        done: dict[int, Completion] = {}
        for future in as_completed(futures):
            i = futures[future]
            done[i] = future.result()
            if on_done:
                on_done(i, done[i])
        return [done[i] for i in range(len(requests))]

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Not offered: providers return no likelihood of given text."""
        raise CapabilityError(f"{self.name} offers no likelihoods", next_step="use a local model")

    @cached_property
    def _model(self) -> InspectModel:
        try:
            from inspect_ai.model import GenerateConfig, get_model
        except ImportError as error:
            raise MissingExtraError("inspect_ai", "eval") from error
        config = GenerateConfig(attempt_timeout=self._timeout, max_retries=self._retries)
        try:
            return get_model(self.name, config=config, memoize=False, **self._options)
        except Exception as error:  # providers raise whatever they like when a key or a package is missing
            raise ModelError(f"{self.name} cannot be loaded", got=_MARKUP.sub("", str(error))[:500]) from error

    async def _answer(self, model: InspectModel, request: Request) -> Completion:
        from inspect_ai.model import GenerateConfig

        if request.prefill:
            return self._failed(request, f"{self.name} takes no prefill")
        config = GenerateConfig(
            max_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_p=None if request.top_p == 1.0 else request.top_p,
            stop_seqs=list(request.stop) or None,
            seed=request.seed,
        )
        try:
            output = await model.generate([_chat(m) for m in request.messages], config=config)
        except Exception as error:  # the same: any failure is this request's failure, and no answer
            return self._failed(request, f"{type(error).__name__}: {error}"[:1000])
        return self._completion(output, request)

    def _completion(self, output: ModelOutput, request: Request) -> Completion:
        if output.empty:
            return self._failed(request, output.error or "the provider sent no answer")
        used = output.usage
        return Completion(
            text=output.completion,
            model=self.fingerprint,
            stop_reason=_STOP.get(output.stop_reason, "stop"),
            usage=Usage(
                prompt=used.input_tokens + (used.input_tokens_cache_read or 0) + (used.input_tokens_cache_write or 0),
                completion=used.output_tokens,
                shared=used.input_tokens_cache_read or 0,
            )
            if used
            else Usage(),
            seed=request.seed,
            metadata={"served_by": output.model},
        )

    def _failed(self, request: Request, error: str) -> Completion:
        return Completion(text="", model=self.fingerprint, stop_reason="error", seed=request.seed, error=error)


class _PrivateLoop:
    """An event loop on a thread that starts with the first call and ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="fivefold-provider", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def load(spec: str, **options: Any) -> ProviderModel:
    """The model that Inspect calls `spec`. Nothing is asked yet."""
    return ProviderModel(spec, **options)


def _chat(message: Message) -> ChatMessage:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageTool, ChatMessageUser

    kinds: dict[str, type[ChatMessage]] = {
        "system": ChatMessageSystem,
        "assistant": ChatMessageAssistant,
        "tool": ChatMessageTool,
    }
    return kinds.get(message.role, ChatMessageUser)(content=message.content)
