"""Samples from a vLLM server, for policies that are too large to sample beside their training.

The server holds the base model and takes each round's adapter by name:

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 16

`refresh` writes the adapter where the server can read it and has it loaded (`POST /v1/load_lora_adapter`); `draw` asks
for G answers a prompt as token ids (`POST /v1/completions`), so that nothing is encoded twice. vLLM computes in its own
way and in its own precision: the trainer takes its own log-probabilities of the samples, and the difference between the
two is watched, because a server with other weights would look like learning. A round drawn again, after a kill, may differ
in its samples; vLLM's seeds hold for one batch composition only.

What is sent: token ids, sampling settings that undo the defaults of a model's generation_config, the adapter's folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fivefold.align._adapter import save_trained
from fivefold.align._pack import Item
from fivefold.align._rollouts import ends_of
from fivefold.align.rewards import Sample
from fivefold.errors import ModelError, UsageError
from fivefold.runtime.protocol import WhiteBox
from fivefold.types import Case

START = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank R"


class VLLMSampler:
    """Draws from a server that is given the policy's adapter every round; stands in for `_rollouts.Sampler`."""

    def __init__(
        self,
        model: WhiteBox,
        trained: Any,
        address: str,
        folder: Path,
        *,
        samples: int,
        limit: int,
        temperature: float,
        seed: int,
        timeout: float = 600.0,
        concurrency: int = 32,
    ) -> None:
        """`folder` is where adapters are written for the server; `timeout` in seconds a request."""
        self.model, self.trained, self.folder = model, trained, folder.resolve()
        self.samples, self.limit, self.temperature, self.seed = samples, limit, temperature, seed
        self.timeout, self.concurrency = timeout, concurrency
        self.base = address.rstrip("/").removesuffix("/v1") + "/v1"
        self.eos = ends_of(model)
        self.served = ""
        self._check()

    def refresh(self, number: int) -> None:
        """Give the server the policy as it stands before round `number`, and take the one before away."""
        folder = self.folder / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path = save_trained(self.trained, folder)
        name = f"fivefold-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]}-{number}"
        before, before_at = self.served, self.folder / str(number - 1)
        self._unload(name)  # left by a run that was killed
        self._ask("/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        self.served = name
        if before and before != name:
            self._unload(before)
            shutil.rmtree(before_at, ignore_errors=True)

    def close(self) -> None:
        """Take the last adapter away."""
        if self.served:
            self._unload(self.served)
            self.served = ""
        shutil.rmtree(self.folder, ignore_errors=True)

    def draw(self, cases: Sequence[Case], number: int) -> tuple[list[Item], list[Sample]]:
        """G answers to each case in round `number`."""
        prompts = [tuple(self.model.encode(case.messages)) for case in cases]
        asked = [self._request(prompts[b], case, number, b) for b, case in enumerate(cases)]
        with ThreadPoolExecutor(max_workers=self.concurrency, thread_name_prefix="fivefold-vllm") as pool:
            replies = list(pool.map(lambda body: self._ask("/completions", body), asked))
        samples = [s for case, reply in zip(cases, replies, strict=True) for s in self._samples(case, reply)]
        n = self.samples
        items = [
            Item(prompt=prompts[b], answers=tuple(s.tokens for s in samples[b * n : (b + 1) * n]), group="sampled")
            for b in range(len(cases))
        ]
        return items, samples

    def _request(self, prompt: tuple[int, ...], case: Case, number: int, place: int) -> dict[str, Any]:
        name = f"{self.seed}/{number}/{case.id}/{place}"
        return {
            "model": self.served,
            "prompt": list(prompt),
            "n": self.samples,
            "max_tokens": self.limit,
            "temperature": self.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": sorted(self.eos),
            "skip_special_tokens": False,
            "seed": int(hashlib.sha256(name.encode()).hexdigest()[:8], 16),
            "logprobs": 0,
            "return_token_ids": True,
        }

    def _samples(self, case: Case, reply: Mapping[str, Any]) -> list[Sample]:
        choices = sorted(reply.get("choices") or (), key=lambda c: c["index"])
        if len(choices) != self.samples:
            raise ModelError(f"{self.base} gave too few answers", expected=self.samples, got=len(choices))
        return [self._sample(case, choice) for choice in choices]

    def _sample(self, case: Case, choice: Mapping[str, Any]) -> Sample:
        tokens = choice.get("token_ids")
        if not tokens:
            raise UsageError(
                f"{self.base} does not say which tokens it drew",
                expected="vLLM 0.10.2 or newer, which knows return_token_ids",
                got=f"a choice with {', '.join(choice)}",
            )
        ended = choice.get("finish_reason") == "stop"
        if ended and tokens[-1] not in self.eos:
            raise ModelError(f"{self.base} ended an answer in its own way", expected=sorted(self.eos), got=tokens[-1])
        text: str = self.model.tokenizer.decode(tokens, skip_special_tokens=True)
        logps = (choice.get("logprobs") or {}).get("token_logprobs")
        known = None if logps is None or len(logps) != len(tokens) else tuple(map(float, logps))
        return Sample(case=case, text=text, tokens=tuple(tokens), ended=ended, logps=known)

    def _check(self) -> None:
        """Raise UsageError unless a server answers."""
        try:
            with urllib.request.urlopen(f"{self.base}/models", timeout=10) as reply:
                json.load(reply)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"no vLLM server answers at {self.base}",
                got=error,
                next_step=f"pip install vllm, then {START}; or leave vllm out: samples are then drawn here",
            ) from error

    def _unload(self, name: str) -> None:
        """A name that the server does not know is no error."""
        self._ask("/unload_lora_adapter", {"lora_name": name}, missing_is_fine=True)

    def _ask(self, path: str, body: Mapping[str, Any], *, missing_is_fine: bool = False) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data=data, headers={"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            if missing_is_fine and error.code in (400, 404):
                return {}
            raise self._refused(path, error) from error
        except OSError as error:
            raise ModelError(f"{self.base}{path} cannot be reached", got=error) from error
        return json.loads(text) if text[:1] == b"{" else {}

    def _refused(self, path: str, error: urllib.error.HTTPError) -> ModelError | UsageError:
        said = error.read(2000).decode("utf-8", errors="replace")
        if path == "/load_lora_adapter":
            return UsageError(
                f"{self.base} does not take the policy's adapter",
                expected="a server that loads adapters at run time and sees this machine's files",
                got=f"{error.code}: {said}",
                next_step=START,
            )
        return ModelError(f"{self.base}{path} failed", got=f"{error.code}: {said}")
