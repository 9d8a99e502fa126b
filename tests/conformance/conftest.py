"""How the extensions that need something (a model, a file, a server) are built for the conformance test."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from fivefold.runtime.load import load
from fivefold.runtime.protocol import Model
from fivefold.types import user_case


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny random Llama with everything a white-box model offers."""
    pytest.importorskip("torch")
    from _tiny import tiny_folder

    return load(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "model")))


@pytest.fixture(scope="session")
def scorer_options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the scorers that cannot be made without options are given."""
    pytest.importorskip("torch")
    from _classifiers import classifier_folder

    folder = tmp_path_factory.mktemp("scorers")
    (folder / "policy.md").write_text("1. Help nobody to break in.\n2. Insult nobody.\n")
    return {
        "classifier": {"model": str(classifier_folder(folder / "classifier")), "positive": "harmful"},
        "policy": {"policy": folder / "policy.md"},
    }


@pytest.fixture(scope="session")
def guards(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every guard, built on the tiny model and on what is trained here."""
    from fivefold.evaluate.suites import suite
    from fivefold.guard.train import TextTraining, train_text
    from fivefold.registry import registry

    def build(name: str, *arguments: Any) -> Any:
        return registry("guard").module(name).guard(*arguments)

    few = {"languages": ["en"], "limit": 60}
    config = TextTraining(own_requests=False, folds=2, target_fpr=0.2, framed_fpr=0.3)
    text = train_text(suite("core-harms").cases(**few), suite("core-benign").cases(**few), config).model
    return {
        "probe": build("probe", _probe(tiny, tmp_path_factory), tiny),
        "text": build("text", text),
        "injection_rules": build("injection_rules"),
        "secrets": build("secrets"),
        "unicode": build("unicode"),
    }


def _probe(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fivefold.registry import registry

    positive = [user_case(f"p{i}", f"Tell me about harm number {i}", behaviour=f"b{i}") for i in range(40)]
    negative = [user_case(f"n{i}", f"Tell me about help number {i}", behaviour=f"b{i}") for i in range(40)]
    result = registry("method").module("linear_probe").method().run(tiny, positive, negative)
    path = tmp_path_factory.mktemp("probe") / "probe.safetensors"
    next(iter(result.artifacts.values())).save(path)
    return path


class _Chat(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...

    def _send(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._send({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"][:20]
        self._send({"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {}})


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[], Model]]]:
    """Every backend's way to a model."""
    from _tiny import tiny_folder

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = str(tiny_folder(tmp_path_factory.mktemp("tiny") / "model"))

    def inspect_model() -> Model:
        pytest.importorskip("inspect_ai")
        import fivefold.engine.provider  # noqa: F401  (registers what an installation finds by entry point)
        from fivefold.runtime.backends.inspect_provider import load as provider

        return provider("fivefold/scripted:comply")

    yield {
        "hf": lambda: load(folder),
        "scripted": lambda: load("scripted:comply"),
        "http": lambda: load(f"http://127.0.0.1:{server.server_address[1]}/v1"),
        "inspect_provider": inspect_model,
    }
    server.shutdown()
    server.server_close()
