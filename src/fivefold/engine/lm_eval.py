"""fivefold's models inside lm-evaluation-harness: `python -m fivefold.engine.lm_eval run --model fivefold …`.

lm-eval finds models by a table in its own package and has no entry points for others (0.4.13), so this module adds
`fivefold` to its registry and hands over to lm-eval's own command line; every option of theirs works. In Python,
`import fivefold.engine.lm_eval` before `lm_eval.simple_evaluate(model="fivefold", model_args="pretrained=smollm2")`.

Requests go to the model as lm-eval makes them: contexts are raw text, so log-likelihoods agree with its `hf` backend
(`make bench NAME=likelihood`), and what requests share is computed once. With `--apply_chat_template` conversations are
rendered by the model's template. Whole texts (`loglikelihood_rolling`: perplexity) that are longer than the model's
positions, or than `max_length`, are read in lm-eval's own windows. Deviations: a context with its continuation that is
longer is an error and not cut from the left; generation options that the runtime does not have raise instead of being
dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lm_eval.api.model import LM
from lm_eval.api.registry import model_registry, register_model

from fivefold.errors import ModelError, UsageError
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Capability, Model, Request, WhiteBox, require
from fivefold.types import Likelihood

MAX_NEW_TOKENS = 256
"""lm-eval's own default, for tasks that do not say."""
_READ = frozenset(
    {"until", "max_gen_toks", "max_tokens", "max_new_tokens", "temperature", "top_p", "do_sample", "seed"}
)


@runtime_checkable
class Rolling(Protocol):
    """A model that scores whole texts in windows."""

    def log_likelihood_rolling(self, texts: Sequence[str], *, window: int | None = None) -> list[Likelihood]:
        """Log-probability of each whole text, in nats."""
        ...


class FivefoldLM(LM):  # type: ignore[misc]
    """One model of fivefold behind lm-eval's three calls."""

    def __init__(
        self,
        pretrained: str | Model = "smollm2",
        max_gen_toks: int = MAX_NEW_TOKENS,
        seed: int = 0,
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.served = load(pretrained, **_own(options)) if isinstance(pretrained, str) else pretrained
        self.max_gen_toks, self.seed = int(max_gen_toks), int(seed)
        self.window = None if max_length is None else int(max_length)
        require(self.served, Capability.LIKELIHOOD, for_="raw text requests of lm-eval")

    @property
    def tokenizer_name(self) -> str:
        """Key of lm-eval's request cache: the exact model."""
        return self.served.fingerprint

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability in nats, was it the greedy continuation) of each (context, continuation)."""
        found = self.served.log_likelihood([(str(context), str(text)) for context, text in _arguments(requests)])
        answers = [(x.total, x.greedy) for x in found]
        self._remember("loglikelihood", requests, answers)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text after the beginning-of-sequence token."""
        if not isinstance(self.served, Rolling):
            raise ModelError(f"{self.served.name} cannot score whole texts", expected="an open model on this machine")
        found = self.served.log_likelihood_rolling([str(t) for (t,) in _arguments(requests)], window=self.window)
        totals = [x.total for x in found]
        self._remember("loglikelihood_rolling", requests, totals)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations of raw contexts up to a stop string, which is not part of them."""
        asked = [self._request(context, options) for context, options in _arguments(requests)]
        answers = self.served.generate(asked)
        if failed := next((a.error for a in answers if a.error is not None), None):
            raise ModelError("a generation failed", got=failed)
        texts = [a.text for a in answers]
        self._remember("generate_until", requests, texts)
        return texts

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the model's template renders it."""
        text: str = self._tokenizer().apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template's text, which lm-eval records."""
        return str(self._tokenizer().chat_template or "") if chat_template else ""

    def get_model_info(self) -> dict[str, str]:
        """What lm-eval writes beside the results."""
        return {"fivefold_model": self.served.name, "fivefold_fingerprint": self.served.fingerprint}

    def _request(self, context: Any, options: Mapping[str, Any]) -> Request:
        if unknown := sorted(set(options) - _READ):
            raise UsageError(f"fivefold models do not support {', '.join(unknown)}", next_step="leave the option out")
        until = options.get("until") or ()
        sampled = bool(options.get("do_sample", options.get("temperature")))
        limit = next((options[k] for k in ("max_gen_toks", "max_new_tokens", "max_tokens") if k in options), None)
        return Request(
            messages=(),
            prefill=str(context),
            stop=tuple(s for s in ([until] if isinstance(until, str) else until) if s),
            max_new_tokens=int(limit or self.max_gen_toks),
            temperature=float(options.get("temperature", 1.0) or 0.0) if sampled else 0.0,
            top_p=float(options.get("top_p", 1.0)),
            seed=int(options.get("seed", self.seed)),
        )

    def _tokenizer(self) -> Any:
        if not isinstance(self.served, WhiteBox):
            raise ModelError(f"{self.served.name} has no tokenizer here, so lm-eval cannot render its chat template")
        return self.served.tokenizer

    def _remember(self, call: str, requests: Sequence[Any], answers: Iterable[Any]) -> None:
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(call, request.args, answer)


def _arguments(requests: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(request.args) for request in requests]


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what lm-eval hands to every model: batch sizes and devices are the runtime's own business."""
    theirs = ("batch_size", "max_batch_size", "device", "trust_remote_code")
    return {k: v for k, v in options.items() if k not in theirs and v is not None}


def main() -> None:
    """lm-eval's command line, with `--model fivefold`."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if "fivefold" not in model_registry:
    register_model("fivefold")(FivefoldLM)

if __name__ == "__main__":
    main()
