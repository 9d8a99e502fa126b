"""The contract that every model satisfies, white-box or black-box, bare, patched or behind guards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from fivefold.errors import CapabilityError
from fivefold.types import Completion, Likelihood, Message

if TYPE_CHECKING:
    import torch


class Capability(StrEnum):
    """What a model can be asked. A method declares what it needs; `require` refuses loudly before work starts."""

    GENERATE = "generate"
    PREFILL = "prefill"
    LIKELIHOOD = "likelihood"
    ACTIVATIONS = "activations"
    GRADIENTS = "gradients"
    INTERVENTIONS = "interventions"
    ADAPTERS = "adapters"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation. `prefill` is text that the assistant's answer is forced to start with (not part of the answer).
    Without any message `prefill` is the whole prompt as raw text, outside the chat template: a completion, as of a base
    model. That takes a white-box model.

    `temperature` 0 is greedy; with a positive temperature the `seed` fixes this request's samples whatever else is in
    the batch. `stop` strings end the answer and are not part of it.
    """

    messages: tuple[Message, ...]
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    prefill: str = ""


Context: TypeAlias = str | tuple[Message, ...]
"""Raw text, or a conversation that the chat template renders up to where the assistant speaks."""

OnDone: TypeAlias = Callable[[int, Completion], None]
"""Called with (index of the request, its completion) as soon as that one is finished."""

OnText: TypeAlias = Callable[[int, str], None]
"""Called with (index of the request, next piece of its text) while it is written; see `streaming.py`."""


@runtime_checkable
class Model(Protocol):
    """One model. Everything that changes answers (weights, adapter, interventions, guards, template) is in the
    fingerprint."""

    @property
    def name(self) -> str:
        """What people call it: `smollm2`, `hf:org/name`, `guarded:…`."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over everything that changes answers."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What may be called."""
        ...

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Answers in the order of the requests. A request that fails yields a Completion with `error`, not an
        exception."""
        ...

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Log-probability of each continuation after its context, in nats."""
        ...


InterventionKind: TypeAlias = Literal["add", "ablate", "clamp", "replace"]


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """A change to the residual stream after decoder layer `layer` (0-based), at every position.

    add: x + scale·v;  ablate: x - (x·v̂)v̂;  clamp: x with (x·v̂) set to `scale`;  replace: x becomes v.
    """

    kind: InterventionKind
    layer: int
    vector: tuple[float, ...]
    scale: float = 1.0


@runtime_checkable
class WhiteBox(Model, Protocol):
    """A model whose inside is open: a torch module with its tokenizer."""

    @property
    def module(self) -> Any:
        """The `transformers` causal LM (a `torch.nn.Module`), adapters attached, in eval mode."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The `transformers` tokenizer."""
        ...

    @property
    def n_layers(self) -> int:
        """Number of decoder layers L."""
        ...

    @property
    def d_model(self) -> int:
        """Width D of the residual stream."""
        ...

    def encode(self, context: Context, *, prefill: str = "") -> list[int]:
        """Token ids exactly as `generate` feeds them: chat template with generation prompt, then the prefill."""
        ...

    def activations(
        self,
        contexts: Sequence[Context],
        *,
        layers: Sequence[int],
        position: Literal["last", "mean"] | int = "last",
    ) -> torch.Tensor:
        """Residual stream after each layer in `layers`: float32 [N, len(layers), D]. `mean` averages over the tokens
        of the context without the first (an attention sink); the forward stops at the deepest layer asked."""
        ...

    def with_interventions(self, interventions: Sequence[Intervention]) -> WhiteBox:
        """The same weights with interventions that hold through every call; a different fingerprint."""
        ...

    def with_adapter(self, path: str, *, name: str) -> WhiteBox:
        """The same base with a peft adapter from a folder; a different fingerprint."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a piece of work is expected to take. Tokens are prompt tokens computed plus tokens generated."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    train_tokens: int = 0
    minutes: float = 0.0
    money: float = 0.0
    notes: tuple[str, ...] = field(default=())

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            train_tokens=self.train_tokens + other.train_tokens,
            minutes=self.minutes + other.minutes,
            money=self.money + other.money,
            notes=self.notes + other.notes,
        )


def require(model: Model, *needed: Capability, for_: str) -> None:
    """Raise CapabilityError unless `model` declares all of `needed`."""
    missing = [c.value for c in needed if c not in model.capabilities]
    if missing:
        raise CapabilityError(
            f"{for_} needs {', '.join(missing)}, which {model.name} does not offer",
            expected=", ".join(c.value for c in needed),
            got=", ".join(sorted(c.value for c in model.capabilities)) or "nothing",
            next_step="use a local white-box model (smollm2, hf:org/name, a path)",
        )
