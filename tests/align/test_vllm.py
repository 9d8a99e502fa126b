"""Rollouts from a server: the protocol of vLLM, spoken by a stand-in that really samples from the adapter it is given."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from fivefold.align._adapter import Lora, causal_lm, packed_copy, trainable_copy
from fivefold.align._loop import TrainConfig
from fivefold.align._pack import Item
from fivefold.align._vllm import VLLMSampler
from fivefold.align.rewards import Sample
from fivefold.align.rl import RLConfig, reinforce
from fivefold.align.train import score
from fivefold.errors import ModelError, TrainingError, UsageError
from fivefold.types import user_case

CASES = [user_case(f"c{i}", text) for i, text in enumerate(["fox", "dog jumps", "What is Paris?", "quartz"])]
EOS = 2


class Server(ThreadingHTTPServer):
    """What `vllm serve --enable-lora` answers, for the four requests that are asked of it."""

    def __init__(self, model: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = model
        self.adapters: dict[str, Any] = {}
        self.known: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.lock = threading.Lock()
        self.loads, self.stale, self.tells_tokens = True, False, True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append((path, body))
        if path == "/v1/load_lora_adapter":
            if not self.loads:
                return 404, {"detail": "Not Found"}
            if body["lora_name"] in self.adapters:
                return 400, {"error": {"message": "already loaded"}}
            folder = Path(body["lora_path"])
            assert folder.is_absolute() and (folder / "adapter_config.json").is_file()
            module = causal_lm(trainable_copy(self.model.module, None, folder))
            self.adapters[body["lora_name"]] = module.requires_grad_(False)
            return 200, None
        if path == "/v1/unload_lora_adapter":
            known = self.adapters.pop(body["lora_name"], None) is not None
            return (200, None) if known else (404, {"error": {"message": "unknown adapter"}})
        if path == "/v1/completions":
            return 200, {"choices": [self.choice(body, g) for g in range(body["n"])][::-1]}
        return 404, {}

    @torch.no_grad()
    def logps(self, name: str, prefix: tuple[int, ...]) -> torch.Tensor:
        """Log-probabilities of the next token under an adapter."""
        if (name, prefix) not in self.known:
            module = packed_copy(self.model.module) if self.stale else self.adapters[name]
            item = Item(prompt=prefix, answers=tuple((t,) for t in range(320)))
            self.known[name, prefix] = torch.stack(score(module, [item], 10_000)[0])[:, 0]
        return self.known[name, prefix]

    def choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        """One sampled answer with raw log-probabilities, as vLLM gives them."""
        generator = torch.Generator().manual_seed(body["seed"] + index)
        tokens: list[int] = []
        logps: list[float] = []
        while len(tokens) < body["max_tokens"] and (not tokens or tokens[-1] not in body["stop_token_ids"]):
            logp = self.logps(body["model"], (*body["prompt"], *tokens))
            p = (logp / body["temperature"]).softmax(-1)
            token = int(torch.multinomial(p, 1, generator=generator))
            tokens.append(token)
            logps.append(float(logp[token]))
        stopped = tokens[-1] in body["stop_token_ids"]
        found: dict[str, Any] = {
            "index": index,
            "text": "",
            "finish_reason": "stop" if stopped else "length",
            "logprobs": {"token_logprobs": logps},
        }
        return {**found, "token_ids": tokens} if self.tells_tokens else found


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": "base"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.reply(*self.server.answer(self.path, body))

    def reply(self, status: int, value: Any) -> None:
        data = b"Success" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture()
def server(model: Any) -> Iterator[Server]:
    made = Server(model)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def config(server: Server, **changes: Any) -> RLConfig:
    train = TrainConfig(
        loss="grpo",
        adapter=Lora(r=4),
        lr=6e-2,
        batch_items=4,
        schedule="constant",
        warmup=0.0,
        row_tokens=200,
        seed=1,
        checkpoint_steps=1,
    )
    given: dict[str, Any] = {"rounds": 10, "prompts": 4, "samples": 10, "max_new_tokens": 3, "vllm": server.address}
    return RLConfig(train=train, **{**given, **changes})


def low_ids(samples: Any) -> list[float | None]:
    return [sum(t < 160 for t in s.tokens) / len(s.tokens) for s in samples]


def test_a_policy_learns_from_samples_that_the_server_draws_from_it(server: Server, model: Any, tmp_path: Path) -> None:
    run = reinforce(model, CASES, low_ids, config(server), tmp_path, reward_name="low ids")
    rewards = [h["reward"] for h in run.history]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.1, rewards
    assert max(h["sampler_gap"] for h in run.history) < 1e-3, "every round was drawn from that round's weights"
    loaded = [body["lora_name"] for path, body in server.asked if path.endswith("/load_lora_adapter")]
    assert len(set(loaded)) == len(loaded) == 10 and server.adapters == {}, "none is left behind"
    assert not (tmp_path / "served").exists()
    asked = next(body for path, body in server.asked if path == "/v1/completions")
    assert asked["n"] == 10 and asked["max_tokens"] == 3 and EOS in asked["stop_token_ids"]
    assert (asked["top_p"], asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
    assert asked["prompt"] in [list(model.encode(case.messages)) for case in CASES]


def test_a_server_with_other_weights_is_noticed(server: Server, model: Any, tmp_path: Path) -> None:
    server.stale = True
    with pytest.raises(TrainingError, match="does not serve this policy"):
        reinforce(model, CASES, low_ids, config(server, rounds=20), tmp_path, reward_name="low ids")


def test_what_is_drawn_is_in_order_and_whole(server: Server, model: Any, tmp_path: Path) -> None:
    trained = trainable_copy(model.module, Lora(r=4))
    sampler = VLLMSampler(
        model, trained, server.address + "/v1/", tmp_path / "served", samples=3, limit=3, temperature=1.0, seed=0
    )
    sampler.refresh(0)
    items, samples = sampler.draw(CASES, 0)
    assert [i.prompt for i in items] == [tuple(model.encode(c.messages)) for c in CASES]
    assert [a for i in items for a in i.answers] == [s.tokens for s in samples]
    assert [s.case.id for s in samples] == [c.id for c in CASES for _ in range(3)]
    assert all(s.ended == (s.tokens[-1] in sampler.eos) and s.logps is not None for s in samples)
    assert sampler.draw(CASES, 0)[1] == samples and sampler.draw(CASES, 1)[1] != samples
    assert isinstance(samples[0], Sample)


def test_without_a_server_it_says_how_to_start_one(model: Any, tmp_path: Path) -> None:
    settings = RLConfig(vllm="http://127.0.0.1:9")
    with pytest.raises(UsageError, match="no vLLM server answers") as caught:
        reinforce(model, CASES, low_ids, settings, tmp_path, reward_name="low ids")
    assert "vllm serve MODEL --enable-lora" in str(caught.value)


def test_a_server_that_takes_no_adapters_or_tells_no_tokens_is_refused(
    server: Server, model: Any, tmp_path: Path
) -> None:
    server.tells_tokens = False
    with pytest.raises(UsageError, match="does not say which tokens"):
        reinforce(model, CASES, low_ids, config(server), tmp_path / "a", reward_name="low ids")
    server.loads = False
    with pytest.raises(UsageError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        reinforce(model, CASES, low_ids, config(server), tmp_path / "b", reward_name="low ids")


def test_too_few_answers_are_an_error(server: Server, model: Any, tmp_path: Path) -> None:
    trained = trainable_copy(model.module, Lora(r=4))
    sampler = VLLMSampler(
        model, trained, server.address, tmp_path / "served", samples=3, limit=2, temperature=1.0, seed=0
    )
    with pytest.raises(ModelError, match="too few answers"):
        sampler._samples(CASES[0], {"choices": []})
