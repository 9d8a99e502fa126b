"""Any OpenAI-compatible server: `http://host:port/v1`, or `http://host:port/v1#model` where it serves several.

vLLM, llama.cpp, Ollama, TGI, SGLang and gateways speak this protocol (`POST /chat/completions`, `GET /models`).
Standard library only. The key, if the server wants one, is the option `api_key` or the variable `FIVEFOLD_API_KEY`;
keys of other services are never sent. A closed server's weights are unknown: the fingerprint covers address and model
name, and says nothing when the server changes what stands behind the name.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fivefold.errors import CapabilityError, ModelError, UnknownNameError, UsageError
from fivefold.runtime.protocol import Capability, Context, OnDone, Request
from fivefold.types import Completion, Likelihood, StopReason, Usage, digest

MAX_REPLY_BYTES = 50_000_000
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_STOP: Mapping[str, StopReason] = {"length": "length", "content_filter": "filtered"}


class HttpModel:
    """A model behind an OpenAI-compatible server. Text in, text out."""

    capabilities = frozenset({Capability.GENERATE})

    def __init__(
        self,
        spec: str,
        *,
        api_key: str | None = None,
        timeout: float = 300.0,
        retries: int = 4,
        concurrency: int = 16,
    ) -> None:
        """`timeout` is in seconds a request, `retries` counts repeats after overload or a lost connection."""
        self.name = spec
        self._url = _address(spec)
        self._key = api_key or os.environ.get("FIVEFOLD_API_KEY")
        self._timeout, self._retries, self._concurrency = timeout, retries, concurrency

    @cached_property
    def model(self) -> str:
        """The model's name on the server: the part after `#`, else the only one that the server lists."""
        known = [str(m.get("id")) for m in self._ask("GET", "/models").get("data") or ()]
        wanted = self._url.fragment
        if wanted and known and wanted not in known:
            raise UnknownNameError("model of the server", wanted, known)
        if not wanted and len(known) != 1:
            raise UsageError(
                f"{self.name} serves {len(known)} models", expected="one, or a name after #", got=", ".join(known[:10])
            )
        return wanted or known[0]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the address and the model's name."""
        return digest({"http": self._base, "model": self.model})

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Answers in the order of the requests, several at a time; a failed request yields an error completion."""
        done: dict[int, Completion] = {}
        with ThreadPoolExecutor(max_workers=self._concurrency, thread_name_prefix="fivefold-http") as pool:
            futures = {pool.submit(self._answer, request): i for i, request in enumerate(requests)}
            for future in as_completed(futures):
                i = futures[future]
                done[i] = future.result()
                if on_done:
                    on_done(i, done[i])
        return [done[i] for i in range(len(requests))]

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Not offered: the chat protocol returns no likelihood of given text."""
        raise CapabilityError(f"{self.name} offers no likelihoods", next_step="use a local model")

    @property
    def _base(self) -> str:
        return f"{self._url.scheme}://{self._url.netloc}{self._url.path.rstrip('/')}"

    def _answer(self, request: Request) -> Completion:
        try:
            if request.prefill:
                raise CapabilityError(f"{self.name} takes no prefill")
            return self._completion(self._ask("POST", "/chat/completions", _body(request, self.model)), request)
        except ModelError as error:
            return Completion(text="", model=self.fingerprint, stop_reason="error", seed=request.seed, error=error.what)

    def _completion(self, reply: Mapping[str, Any], request: Request) -> Completion:
        try:
            choice = reply["choices"][0]
            text = choice["message"]["content"] or ""
        except (KeyError, IndexError, TypeError) as error:
            raise ModelError(f"{self.name} sent no answer: {json.dumps(reply)[:200]}") from error
        used = reply.get("usage") or {}
        return Completion(
            text=str(text),
            model=self.fingerprint,
            stop_reason=_STOP.get(str(choice.get("finish_reason")), "stop"),
            usage=Usage(prompt=int(used.get("prompt_tokens") or 0), completion=int(used.get("completion_tokens") or 0)),
            seed=request.seed,
        )

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call, repeated after overload with growing pauses; ModelError when it stays without success."""
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                status, data, wait = self._call(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                if last:
                    raise ModelError(f"{self._base} cannot be reached: {error}") from error
                time.sleep(_pause(attempt, None))
                continue
            if status in RETRIED and not last:
                time.sleep(_pause(attempt, wait))
                continue
            return _object(data, status, self._base + path)
        raise AssertionError("unreachable")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes, str | None]:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.netloc, timeout=self._timeout)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, self._url.path.rstrip("/") + path, body=payload, headers=headers)
            response = connection.getresponse()
            data = response.read(MAX_REPLY_BYTES + 1)
            return response.status, data, response.headers.get("Retry-After")
        finally:
            connection.close()


def load(spec: str, **options: Any) -> HttpModel:
    """The model at an address. Options: api_key, timeout (seconds), retries, concurrency. Nothing is asked yet."""
    try:
        return HttpModel(spec, **options)
    except TypeError as error:
        raise UsageError(f"an unknown option for {spec}", expected="api_key, timeout, retries, concurrency") from error


def _address(spec: str) -> SplitResult:
    try:
        url = urlsplit(spec)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable or url.query or url.username:
        raise UsageError(
            "not the address of a server", expected="http://host:port/v1 or http://host/v1#model", got=spec
        )
    return url


def _body(request: Request, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = list(request.stop)
    return body


def _object(data: bytes, status: int, where: str) -> dict[str, Any]:
    if len(data) > MAX_REPLY_BYTES:
        raise ModelError(f"{where} sent more than {MAX_REPLY_BYTES} bytes")
    if status != 200:
        raise ModelError(f"{where} answered {status}: {data[:300].decode('utf-8', 'replace')}")
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ModelError(f"{where} sent no JSON: {data[:200].decode('utf-8', 'replace')}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{where} sent {type(value).__name__} instead of an object")
    return value


def _pause(attempt: int, wait: str | None) -> float:
    """Seconds before the next try: what the server asked for (30 at most), else doubling with a little chance."""
    if wait is not None and wait.strip().isdigit():
        return min(30.0, float(wait))
    return min(30.0, 0.25 * 2.0**attempt) * (0.75 + 0.5 * random.random())
