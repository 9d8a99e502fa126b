"""Open models on this machine: Hugging Face causal LMs from the embedded package, a folder, a GGUF file or the hub."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fivefold.errors import CapabilityError, MissingExtraError, ModelError, ModelFileError, UsageError
from fivefold.runtime import _activations, _generate, _likelihood
from fivefold.runtime._files import Source, resolve
from fivefold.runtime._forward import Engine
from fivefold.runtime._generate import Job
from fivefold.runtime._hush import without_progress
from fivefold.runtime._interventions import attach
from fivefold.runtime._scan_checks import safetensors as check_safetensors
from fivefold.runtime._structure import decoder_layers, share, width
from fivefold.runtime._threads import pin_threads
from fivefold.runtime._tokens import Codec, cut_at_stop
from fivefold.runtime.compute import on_compute_thread
from fivefold.runtime.crew import workers_of
from fivefold.runtime.fingerprint import Fingerprint, fingerprint_adapter, fingerprint_model
from fivefold.runtime.protocol import Capability, Context, Intervention, OnDone, OnText, Request, WhiteBox
from fivefold.runtime.streaming import TextStream
from fivefold.types import Completion, Likelihood, StopReason, Usage

CAPABILITIES = frozenset(Capability)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a local model is loaded and run."""

    dtype: str = "float32"
    """`float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the processor has it, else float32."""
    device: str | None = None
    """Torch device; None takes the first GPU, else the CPU."""
    revision: str | None = None
    """Commit, tag or branch of a hub model."""
    trust: bool = False
    """Load although the scan of the files was inconclusive. A blocked file is never loaded."""
    slots: int | None = None
    """Sequences decoded at once; None is 64 a worker on a CPU and 256 on a GPU."""
    pack_tokens: int | None = None
    """Tokens that a packed row aims at; None is 1024 on a CPU and 8192 on a GPU."""
    workers: int | None = None
    """Rows computed side by side; None is one a core, up to four, on a CPU and one on a GPU."""


@on_compute_thread
def load(spec: str, **options: Any) -> WhiteBox:
    """The model that `spec` names: `smollm2`, `hf:org/name[@revision]`, a folder, or a GGUF file."""
    settings = _options(options)
    pin_threads()
    source = resolve(spec, revision=settings.revision, trust=settings.trust)
    return HFModel._open(spec, source, settings)


def _options(options: Mapping[str, Any]) -> Options:
    known = Options.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"unknown model option {unknown[0]!r}", expected=f"one of: {', '.join(known)}")
    return Options(**options)


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    if name not in _DTYPES:
        raise UsageError(f"unknown dtype {name!r}", expected="float32, bfloat16, float16 or auto")
    return _DTYPES[name]


def _own_device() -> str:
    """The GPU if there is one; that of this process (LOCAL_RANK) where a launcher started several."""
    if not torch.cuda.is_available():
        return "cpu"
    rank = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{int(rank) % torch.cuda.device_count()}" if rank.isdigit() else "cuda"


def _has_bfloat16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware here."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    except (OSError, IndexError):
        return False
    return bool({"avx512_bf16", "amx_bf16"} & flags)


@dataclass(eq=False, kw_only=True)
class HFModel:
    """A causal LM with its inside open. Handles made from it share its weights and nothing else."""

    name: str
    module: Any
    tokenizer: Any
    source: Source
    options: Options
    engine: Engine
    parts: Fingerprint
    interventions: tuple[Intervention, ...] = ()
    capabilities: frozenset[Capability] = field(default=CAPABILITIES)
    streams: bool = True
    joins: bool = True

    @classmethod
    def _open(cls, spec: str, source: Source, options: Options) -> HFModel:
        device = torch.device(options.device or _own_device())
        dtype = _dtype(options.dtype, device)
        module, tokenizer = _read(source, dtype)
        module.to(device).eval().requires_grad_(False)
        engine = _engine(module, threading.RLock(), options, device)
        parts = fingerprint_model(source, module.config, tokenizer, str(dtype).removeprefix("torch."))
        return cls(
            name=spec, module=module, tokenizer=tokenizer, source=source, options=options, engine=engine, parts=parts
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over weights, configuration, tokenizer, template, dtype, adapters and interventions."""
        return self.parts.digest

    @property
    def n_layers(self) -> int:
        """Number of decoder layers L."""
        return len(self.engine.layers)

    @cached_property
    def d_model(self) -> int:
        """Width D of the residual stream."""
        return width(self.module)

    @cached_property
    def codec(self) -> Codec:
        """Text to tokens and back."""
        return Codec(self.tokenizer, self.name)

    @cached_property
    def eos(self) -> frozenset[int]:
        """Tokens that end an answer: the generation config's and the tokenizer's."""
        config = getattr(self.module, "generation_config", None)
        ids = getattr(config, "eos_token_id", None)
        found = ids if isinstance(ids, list) else [ids]
        return frozenset(int(i) for i in (*found, self.tokenizer.eos_token_id) if i is not None)

    def encode(self, context: Context, *, prefill: str = "") -> list[int]:
        """Token ids exactly as `generate` feeds them."""
        return self.codec.encode(context, prefill)

    # -- generation ------------------------------------------------------------------------------------------------

    @on_compute_thread
    def generate(
        self,
        requests: Sequence[Request],
        *,
        on_done: OnDone | None = None,
        on_text: OnText | None = None,
        more: Callable[[], Sequence[Request]] | None = None,
    ) -> list[Completion]:
        """Answers in the order of `requests`; a request that fails carries its `error`.

        `on_text` hears each answer while it is written (`streaming.py`).

        `more` is asked between steps, while there is room, for requests that have arrived since: they join the running
        batch, and their answers follow those of `requests` in the order in which they came. The call ends when nothing
        is left and `more` has nothing.
        """
        asked: list[Request] = []
        results: dict[int, Completion] = {}
        written: dict[int, TextStream] = {}
        on_text = None if on_text is None else _one_at_a_time(on_text)

        def finish(index: int, completion: Completion) -> None:
            results[index] = completion
            if on_done is not None:
                on_done(index, completion)

        def jobs(new: Sequence[Request]) -> list[Job]:
            made = []
            for request in new:
                asked.append(request)
                try:
                    made.append(self._job(len(asked) - 1, request, on_text, written))
                except Exception as error:
                    finish(len(asked) - 1, self._failed(request, f"{type(error).__name__}: {error}"))
            return made

        def done(job: Job) -> None:
            completion = self._completion(job, asked[job.index])
            if job.index in written and completion.error is None:
                written[job.index].finish(completion.text)
            finish(job.index, completion)

        arrived = None if more is None else lambda: jobs(more())
        with self.engine.lock, torch.no_grad():
            _generate.run(self.engine, jobs(requests), self.eos, done, arrived)
        return [results[i] for i in range(len(asked))]

    def _job(
        self, index: int, request: Request, on_text: OnText | None = None, written: dict[int, TextStream] | None = None
    ) -> Job:
        prompt = self.encode(request.messages or "", prefill=request.prefill)
        limit = self.engine.max_length
        if request.max_new_tokens < 1:
            raise UsageError("max_new_tokens must be at least 1", got=request.max_new_tokens)
        if limit is not None and len(prompt) + request.max_new_tokens > limit:
            raise ModelError(
                "prompt and answer do not fit the model's positions",
                expected=f"at most {limit} tokens",
                got=f"{len(prompt)} + {request.max_new_tokens}",
            )
        heard = None
        if on_text is not None and written is not None:
            written[index] = TextStream(self.codec.decode, request.stop, lambda piece: on_text(index, piece))
            heard = written[index].push
        return Job(
            index=index,
            heard=heard,
            prompt=tuple(prompt),
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stopped=self._stopper(request.stop),
        )

    def _stopper(self, stops: Sequence[str]) -> Any:
        stops = tuple(s for s in stops if s)
        if not stops:
            return lambda tokens: False
        reach = max(len(s.encode()) for s in stops) + 8

        def stopped(tokens: list[int]) -> bool:
            return cut_at_stop(self.codec.decode(tokens[-reach:]), stops)[1]

        return stopped

    def _completion(self, job: Job, request: Request) -> Completion:
        usage = Usage(prompt=len(job.prompt), completion=len(job.tokens), shared=job.shared)
        if job.error is not None:
            return replace(self._failed(request, job.error), usage=usage)
        tokens = [t for i, t in enumerate(job.tokens) if not (i == len(job.tokens) - 1 and t in self.eos)]
        text, _ = cut_at_stop(self.codec.decode(tokens), request.stop)
        reason: StopReason = "stop" if job.ended else "length"
        return Completion(
            text=text,
            model=self.fingerprint,
            stop_reason=reason,
            tokens=tuple(tokens),
            usage=usage,
            seed=request.seed,
        )

    def _failed(self, request: Request, why: str) -> Completion:
        return Completion(text="", model=self.fingerprint, stop_reason="error", seed=request.seed, error=why)

    # -- reading ---------------------------------------------------------------------------------------------------

    @on_compute_thread
    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Log-probability of each continuation after its context, in nats."""
        tokens = self.codec.encode_pairs(pairs)
        for pair in tokens:
            self._fits(len(pair.inputs))
        with self.engine.lock, torch.no_grad():
            scores = _likelihood.score(self.engine, tokens)
        return [
            Likelihood(
                total=sum(s.log_probs),
                n_tokens=len(s.log_probs),
                n_bytes=len(continuation.encode()),
                greedy=s.greedy,
                model=self.fingerprint,
                read=len(pair.inputs),
            )
            for s, pair, (_, continuation) in zip(scores, tokens, pairs, strict=True)
        ]

    @on_compute_thread
    def log_likelihood_rolling(self, texts: Sequence[str], *, window: int | None = None) -> list[Likelihood]:
        """Log-probability of each whole text, in nats; each of its tokens is predicted once.

        A text longer than the model's positions (or than `window`, if that is less) is read in windows, as lm-eval
        does, so its later windows begin with little context. `greedy` says whether every token was the likeliest.
        """
        limits = [x for x in (self.engine.max_length, window) if x is not None]
        split = [self.codec.encode_windows(text, min(limits, default=None)) for text in texts]
        with self.engine.lock, torch.no_grad():
            scores = iter(_likelihood.score(self.engine, [pair for pairs in split for pair in pairs]))
        found = [[next(scores) for _ in pairs] for pairs in split]
        return [
            Likelihood(
                total=sum(sum(s.log_probs) for s in parts),
                n_tokens=sum(len(s.log_probs) for s in parts),
                n_bytes=len(text.encode()),
                greedy=all(s.greedy for s in parts),
                model=self.fingerprint,
            )
            for parts, text in zip(found, texts, strict=True)
        ]

    def _fits(self, length: int) -> None:
        limit = self.engine.max_length
        if limit is not None and length > limit:
            raise ModelError(
                "a context does not fit the model's positions", expected=f"at most {limit} tokens", got=length
            )

    @on_compute_thread
    def activations(
        self, contexts: Sequence[Context], *, layers: Sequence[int], position: Literal["last", "mean"] | int = "last"
    ) -> Tensor:
        """Residual stream after each of `layers`: float32 [N, len(layers), D] on the CPU."""
        wrong = [layer for layer in layers if not 0 <= layer < self.n_layers]
        if wrong or not layers:
            raise UsageError("no such decoder layer", expected=f"0 … {self.n_layers - 1}", got=list(layers))
        if not contexts:
            return torch.zeros(0, len(layers), self.d_model)
        sequences = [self.encode(context) for context in contexts]
        for ids in sequences:
            self._fits(len(ids))
        with self.engine.lock, torch.no_grad():
            return _activations.read(self.engine, sequences, layers, position)

    # -- other handles on the same weights -------------------------------------------------------------------------

    def _with(self, module: nn.Module, parts: Fingerprint, **changes: Any) -> HFModel:
        engine = replace(self.engine, module=module)
        return replace(self, module=module, engine=engine, parts=parts, **changes)

    def with_interventions(self, interventions: Sequence[Intervention]) -> HFModel:
        """The same weights with interventions after those already there; they hold in every call."""
        module = share(self.module)
        attach(decoder_layers(module), interventions, self.d_model)
        return self._with(
            module,
            self.parts.with_interventions(interventions),
            interventions=(*self.interventions, *interventions),
        )

    @on_compute_thread
    def with_adapter(self, path: str, *, name: str) -> HFModel:
        """The same base with the peft adapter in folder `path`."""
        digest = fingerprint_adapter(Path(path))
        module = _adapted(share(self.module), Path(path))
        return self._with(module, self.parts.with_adapter(digest), name=name)


def _one_at_a_time(on_text: OnText) -> OnText:
    """The same for callers on several threads."""
    lock = threading.Lock()

    def told(index: int, piece: str) -> None:
        with lock:
            on_text(index, piece)

    return told


def _engine(module: nn.Module, lock: threading.RLock, options: Options, device: torch.device) -> Engine:
    gpu = device.type != "cpu"
    workers = options.workers or workers_of(device)
    engine = Engine(
        module=module,
        lock=lock,
        pack_tokens=options.pack_tokens or (8192 if gpu else 1024),
        slots=options.slots or (256 if gpu else 64 * workers),
        cache_bytes=torch.cuda.mem_get_info(device)[0] // 2 if gpu else 2 << 30,
        workers=workers,
    )
    with torch.no_grad():
        engine.packed = engine.check_packing()
    return engine


def _read(source: Source, dtype: torch.dtype) -> tuple[Any, Any]:
    """Module and tokenizer from a local folder; nothing but safetensors, no code of the model's own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with without_progress():
            tokenizer = AutoTokenizer.from_pretrained(source.folder, **common)
            module = AutoModelForCausalLM.from_pretrained(source.folder, dtype=dtype, use_safetensors=True, **common)
    except (OSError, ValueError, KeyError, json.JSONDecodeError, RuntimeError) as error:
        raise ModelFileError(
            f"the model in {source.folder} cannot be read",
            expected="a causal LM as safetensors with its tokenizer",
            got=f"{type(error).__name__}: {error}",
        ) from error
    return module, tokenizer


def _adapted(module: nn.Module, path: Path) -> nn.Module:
    """`module` with the adapter's layers put in; `module` must be a copy of one's own."""
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise MissingExtraError("peft", "local") from error
    _check_adapter(path)
    try:
        if PeftConfig.from_pretrained(str(path)).is_prompt_learning:
            raise CapabilityError(
                "adapters that learn a prompt are not supported", expected="LoRA or another of layers"
            )
        with warnings.catch_warnings():  # peft asks for a property by its old name
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            adapted = PeftModel.from_pretrained(module, str(path), is_trainable=False)
    except (ValueError, KeyError, RuntimeError, OSError, TypeError) as error:
        raise ModelFileError(f"the adapter in {path} does not fit this model", got=str(error)[:400]) from error
    base: nn.Module = adapted.get_base_model().eval().requires_grad_(False)
    return base


def _check_adapter(path: Path) -> None:
    weights = path / "adapter_model.safetensors"
    if not (path / "adapter_config.json").is_file() or not weights.is_file():
        raise ModelFileError(
            f"no adapter in {path}", expected="a folder with adapter_config.json and adapter_model.safetensors"
        )
    problems = check_safetensors(weights)
    if problems:
        raise ModelFileError(f"the adapter file {weights} is broken", got=problems[0][1])
