"""fivefold's models as an Inspect model provider: `inspect eval task.py --model fivefold/smollm2`.

Inspect finds this module, and with it the sandbox `bubblewrap`, by its entry point (group `inspect_ai`). Requests of
concurrent samples meet in batches. The name that a log carries ends in the model's fingerprint
(`smollm2@3f2a9c0d1e4b`), because Inspect's output cache keys on the name alone. Models that live in this process, such
as one behind guards, get a name with `register`.

Deviations from Inspect's own providers: no temperature means greedy; sampling options that the runtime does not have
raise instead of being dropped; an error completion raises, so that the sample is an error and never a score.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar, cast

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    modelapi,
)
from inspect_ai.model import StopReason as InspectStop
from inspect_ai.tool import ToolCall, ToolChoice, ToolFunction, ToolInfo
from pydantic import JsonValue

from fivefold.engine import tools as tool_text
from fivefold.engine._inspect_sandbox import BubblewrapSandbox as BubblewrapSandbox
from fivefold.engine.serving import Served
from fivefold.errors import CapabilityError, ModelError, UsageError
from fivefold.runtime.protocol import Capability, Context, Model, Request, require
from fivefold.types import Completion, Likelihood, Message, plain

T = TypeVar("T")

DEFAULT_MAX_TOKENS = 512
DIGITS = 12

_UNSUPPORTED = ("top_k", "frequency_penalty", "presence_penalty", "logit_bias", "response_schema", "best_of")

_handles: dict[str, Served] = {}
_handles_lock = threading.Lock()


def register(model: Model | Served) -> str:
    """Make a model of this process available to Inspect; returns its name, to be used as `fivefold/<name>`."""
    served = model if isinstance(model, Served) else Served(model)
    name = log_name(served.model)
    with _handles_lock:
        _handles[name] = served
    return name


def unregister(name: str) -> None:
    """Forget a registered model."""
    with _handles_lock:
        _handles.pop(name, None)


def log_name(model: Model) -> str:
    """The model's name as logs carry it, with the first digits of its fingerprint."""
    return f"{model.name}@{model.fingerprint[:DIGITS]}"


@modelapi(name="fivefold")
class FivefoldAPI(ModelAPI):
    """Inspect's view of one model."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        with _handles_lock:
            known = _handles.get(model_name)
        self.served = known or Served(_load(model_name, model_args))
        self.model_name = log_name(self.served.model)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer one conversation; joins the batch that is being gathered."""
        specs = [] if tool_choice == "none" else [_spec(tool) for tool in tools]
        request = request_from(self.served.model, input, specs, tool_choice, config)
        requests = [replace(request, seed=request.seed + i) for i in range(config.num_choices or 1)]
        futures = [self.served.generate(r) for r in requests]
        completions = [await _awaited(future) for future in futures]
        return output_from(self.model_name, completions, [s.name for s in specs], config)

    async def loglikelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Log-probability of each continuation after its context, in nats; noted in the sample's transcript."""
        from inspect_ai.log import transcript

        require(self.served.model, Capability.LIKELIHOOD, for_="scoring by likelihood")
        found = await _awaited(self.served.log_likelihood(pairs))
        data = [{"continuation": c, **cast(dict[str, Any], plain(x))} for (_, c), x in zip(pairs, found, strict=True)]
        transcript().info(cast(JsonValue, data), source="loglikelihood")
        return found

    def max_tokens(self) -> int | None:
        """Tokens to generate when the task does not say."""
        return DEFAULT_MAX_TOKENS

    def max_connections(self) -> int:
        """Samples that may wait for the model at once: they share batches, so many."""
        return 256

    def connection_key(self) -> str:
        """Each model has its own connections."""
        return self.model_name

    async def count_text_tokens(self, text: str) -> int:
        """Tokens by the model's tokenizer, else a quarter of the characters; never a download."""
        tokenizer = getattr(self.served.model, "tokenizer", None)
        return len(tokenizer.encode(text)) if tokenizer is not None else len(text) // 4 + 1

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, if the model has a tokenizer."""
        tokenizer = getattr(self.served.model, "tokenizer", None)
        if tokenizer is None:
            raise NotImplementedError(f"{self.model_name} has no tokenizer")
        return [int(i) for i in tokenizer.encode(text)]


def request_from(
    model: Model,
    input: Sequence[ChatMessage],
    specs: Sequence[tool_text.ToolSpec],
    tool_choice: ToolChoice,
    config: GenerateConfig,
) -> Request:
    """Inspect's call as a request. A last assistant message is the answer's forced start."""
    if unsupported := [name for name in _UNSUPPORTED if getattr(config, name, None) is not None]:
        raise UsageError(f"fivefold models do not support {', '.join(unsupported)}", next_step="leave the option out")
    messages = [_message(m) for m in input]
    if config.system_message:
        messages.insert(0, Message(role="system", content=config.system_message))
    prefill = ""
    if messages and messages[-1].role == "assistant" and Capability.PREFILL in model.capabilities:
        prefill = messages.pop().content
    if specs:
        must = tool_choice.name if isinstance(tool_choice, ToolFunction) else ("any" if tool_choice == "any" else None)
        messages = list(tool_text.with_instructions(messages, tool_text.instructions(specs, must=must)))
    return Request(
        messages=tuple(messages),
        max_new_tokens=config.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=config.temperature or 0.0,
        top_p=1.0 if config.top_p is None else config.top_p,
        stop=tuple(config.stop_seqs or ()),
        seed=config.seed or 0,
        prefill=prefill,
    )


def output_from(
    name: str, completions: Sequence[Completion], tool_names: Sequence[str], config: GenerateConfig
) -> ModelOutput:
    """Completions as Inspect's output, one choice each. An error completion raises ModelError."""
    for completion in completions:
        if completion.error is not None:
            raise ModelError(completion.error)
    prompt, generated = completions[0].usage.prompt, sum(c.usage.completion for c in completions)
    return ModelOutput(
        model=name,
        choices=[_choice(name, c, tool_names, bool(config.logprobs)) for c in completions],
        usage=ModelUsage(
            input_tokens=prompt - completions[0].usage.shared,
            input_tokens_cache_read=completions[0].usage.shared,
            output_tokens=generated,
            total_tokens=prompt + generated,
        ),
        metadata={"fivefold": details(completions[0])},
    )


def details(completion: Completion) -> dict[str, Any]:
    """What a completion holds beyond Inspect's output, to be read back from the log."""
    kept = cast(dict[str, Any], plain(completion))
    del kept["text"]
    kept["metadata"].pop("logprobs", None)
    return kept


def _choice(name: str, completion: Completion, tool_names: Sequence[str], logprobs: bool) -> ChatCompletionChoice:
    text, calls = tool_text.parse(completion.text, tool_names) if tool_names else (completion.text, [])
    tool_calls = [
        ToolCall(id=f"call_{i}", function=c.name, arguments=dict(c.arguments), parse_error=c.error)
        for i, c in enumerate(calls)
    ]
    return ChatCompletionChoice(
        message=ChatMessageAssistant(content=text, tool_calls=tool_calls or None, model=name, source="generate"),
        stop_reason="tool_calls" if tool_calls else _STOP[completion.stop_reason],
        logprobs=_logprobs(completion) if logprobs else None,
    )


_STOP: dict[str, InspectStop] = {
    "stop": "stop",
    "length": "max_tokens",
    "filtered": "content_filter",
    "error": "unknown",
}


def _logprobs(completion: Completion) -> Logprobs:
    """Token log-probabilities, which a backend puts into `metadata["logprobs"]` as {token, logprob, top}."""
    tokens = completion.metadata.get("logprobs")
    if tokens is None:
        raise CapabilityError("the model returned no log-probabilities of its tokens", next_step="leave logprobs out")
    return Logprobs(
        content=[
            Logprob(
                token=t["token"],
                logprob=t["logprob"],
                top_logprobs=[TopLogprob(token=x, logprob=p) for x, p in t.get("top", {}).items()] or None,
            )
            for t in tokens
        ]
    )


def _message(message: ChatMessage) -> Message:
    if not isinstance(message.content, str) and any(part.type not in ("text", "reasoning") for part in message.content):
        raise UsageError("fivefold models read text only", got="a message with an image, a sound or a document")
    if isinstance(message, ChatMessageTool):
        name = message.function or "tool"
        text = message.error.message if message.error else message.text
        return Message(role="user", content=f"Result of {name}:\n{text}")
    text = message.text
    if isinstance(message, ChatMessageAssistant) and message.tool_calls:
        calls = "\n".join(tool_text.rendered_call(c.function, c.arguments) for c in message.tool_calls)
        text = f"{text}\n{calls}".strip()
    return Message(role=message.role, content=text)


def _spec(tool: ToolInfo) -> tool_text.ToolSpec:
    parameters = json.loads(tool.parameters.model_dump_json(exclude_none=True))
    return tool_text.ToolSpec(name=tool.name, description=tool.description, parameters=parameters)


async def _awaited(future: Future[T]) -> T:
    """Wait for a future of another thread, under asyncio or trio."""
    from anyio import to_thread
    from sniffio import current_async_library

    if current_async_library() == "asyncio":
        return await asyncio.wrap_future(future)
    return await to_thread.run_sync(future.result, abandon_on_cancel=True)


def _load(name: str, options: dict[str, Any]) -> Model:
    from fivefold.runtime.load import load

    return load(name, **options)
