"""The HTTP backend against a server on loopback: answers, overload, garbage, and what is never sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fivefold.errors import CapabilityError, ModelError, UnknownNameError, UsageError
from fivefold.runtime.backends import http as backend
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.types import Message


class Server(ThreadingHTTPServer):
    models = ("tiny",)
    seen: list[dict[str, Any]]
    headers_seen: list[dict[str, str]]
    failures: int = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        data = [{"id": m} for m in self.server.models]
        self.reply(200, json.dumps({"data": data}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        self.server.headers_seen.append(dict(self.headers))
        text = body["messages"][-1]["content"]
        if text == "overloaded" and self.server.failures > 0:
            self.server.failures -= 1
            return self.reply(503, b"busy", Retry_After="0")
        if text == "denied":
            return self.reply(401, b"no such key")
        if text == "garbage":
            return self.reply(200, b"<html>")
        if text == "empty":
            return self.reply(200, b'{"choices": []}')
        answer = {
            "choices": [{"message": {"content": f"you said {text}"}, "finish_reason": body.get("expect", "length")}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        }
        return self.reply(200, json.dumps(answer).encode())


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    running.seen, running.headers_seen = [], []
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def request(text: str, **fields: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **fields)


def test_answers_come_in_order_with_usage_and_stop_reason(server: Server) -> None:
    model = load(url(server))
    done: list[int] = []
    texts = [f"m{i}" for i in range(30)]
    answers = model.generate(
        [request(t, max_new_tokens=9, stop=("z",), seed=4) for t in texts], on_done=lambda i, _: done.append(i)
    )
    assert [a.text for a in answers] == [f"you said {t}" for t in texts]
    assert sorted(done) == list(range(30))
    assert answers[0].usage.prompt == 7 and answers[0].stop_reason == "length"
    sent = server.seen[0]
    assert (sent["model"], sent["max_tokens"], sent["stop"], sent["seed"]) == ("tiny", 9, ["z"], 4)


def test_overload_is_retried_and_other_failures_are_errors_of_their_request(server: Server) -> None:
    server.failures = 2
    model = load(url(server))
    answers = model.generate([request(t) for t in ("overloaded", "denied", "garbage", "empty", "fine")])
    assert answers[0].text == "you said overloaded" and answers[0].error is None
    assert "401" in (answers[1].error or "")
    assert "no JSON" in (answers[2].error or "")
    assert "no answer" in (answers[3].error or "")
    assert answers[4].error is None


def test_overload_that_lasts_is_an_error(server: Server) -> None:
    server.failures = 100
    answer = load(url(server), retries=1).generate([request("overloaded")])[0]
    assert "503" in (answer.error or "") and answer.text == ""


def test_a_server_that_is_not_there_is_a_model_error() -> None:
    model = load("http://127.0.0.1:9/v1", retries=0, timeout=2)
    with pytest.raises(ModelError, match="cannot be reached"):
        _ = model.fingerprint


def test_the_model_is_named_after_the_hash_or_is_the_only_one(server: Server) -> None:
    server.models = ("alpha", "beta")
    with pytest.raises(UsageError, match="serves 2 models"):
        _ = load(url(server)).fingerprint
    with pytest.raises(UnknownNameError, match="alpha"):
        _ = load(f"{url(server)}#alfa").fingerprint
    prints = {load(f"{url(server)}#{name}").fingerprint for name in ("alpha", "beta")}
    assert len(prints) == 2


def test_only_its_own_key_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-another-service")
    monkeypatch.delenv("FIVEFOLD_API_KEY", raising=False)
    load(url(server)).generate([request("hello")])
    assert "Authorization" not in server.headers_seen[-1]
    load(url(server), api_key="mine").generate([request("hello")])
    assert server.headers_seen[-1]["Authorization"] == "Bearer mine"


def test_prefill_and_likelihood_are_refused_loudly(server: Server) -> None:
    model = load(url(server))
    assert "prefill" in (model.generate([request("a", prefill="Sure")])[0].error or "")
    with pytest.raises(CapabilityError):
        model.log_likelihood([("a", "b")])


@pytest.mark.parametrize("spec", ["http://", "http://host:port/v1", "http://user:pw@host/v1", "http://h/v1?x=1"])
def test_addresses_that_are_none_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="not the address"):
        load(spec)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown option"):
        load("http://127.0.0.1:9/v1", temprature=1)


def test_pauses_grow_and_end() -> None:
    assert backend._pause(0, "7") == 7.0
    assert backend._pause(0, "9999") == 30.0
    assert backend._pause(20, None) <= 30.0 * 1.25
