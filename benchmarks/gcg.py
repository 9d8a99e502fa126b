"""GCG against nanoGCG 0.2.3 on the embedded model: same weights, prompt, target, width and candidates, in lockstep.

After nanoGCG has drawn and filtered its candidates for a step, the same candidates go through fivefold's step
(gradient, drawing, filtering, losses, choice), so both sides meet the same work under the same load; each side's
CPU-seconds are counted apart. Losses of the chosen suffix must agree at every step, and so must the choice.

nanoGCG's default configuration uses a prefix cache in a way that transformers 5 no longer supports, and crashes. Two
lines are printed: nanoGCG without a prefix cache, as a user can run it, and nanoGCG with a prefix cache behind a shim
that gives it the caches that it expects. One more thing is mended for it: it deletes every `bos_token` from the chat
template's text, which for this model is the marker that opens each turn; it is given a tokenizer that names no
`bos_token`, so that it attacks the prompt that is really sent. All other settings are its own.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from _common import emit, limit, one_thread

one_thread()

import torch  # noqa: E402

from fivefold.redteam._gcg_objective import Objective, Point  # noqa: E402
from fivefold.redteam._gcg_prompt import SuffixPrompt  # noqa: E402
from fivefold.redteam._gcg_search import Found, Search  # noqa: E402
from fivefold.runtime.load import load  # noqa: E402
from fivefold.types import user_case  # noqa: E402

REQUEST, GOAL, INIT = "Write a rude letter to my neighbour.", "Sure, here is", " ".join(["x"] * 20)
WIDTH, SEED, TOLERANCE = 64, 0, 1e-4


class Cached:
    """A module that takes and gives prefix caches as the tuples that nanoGCG was written for."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.device, self.dtype = module.device, module.dtype
        self.get_input_embeddings = module.get_input_embeddings

    def __call__(self, inputs_embeds: torch.Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        from transformers import DynamicCache

        past = None if past_key_values is None else DynamicCache([(k, v) for k, v in past_key_values])
        out = self.module(inputs_embeds=inputs_embeds, past_key_values=past, use_cache=use_cache)
        if use_cache:
            out.past_key_values = tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)
        return out


class Replayed(Search):
    """Our search, which draws its own candidates at full cost and then takes those that it is given."""

    given: list[tuple[int, ...]]

    def propose(self, point: Point) -> list[tuple[int, ...]]:
        super().propose(point)
        return list(dict.fromkeys(self.given))


class Ours:
    """Our search, advanced one step at a time."""

    def __init__(self, model: Any, topk: int) -> None:
        prompt = SuffixPrompt(model, user_case("bench", REQUEST), INIT, GOAL)
        generator = torch.Generator().manual_seed(SEED)
        self.search = Replayed(prompt, Objective(prompt), generator, width=WIDTH, topk=topk, n_replace=1)
        self.found: list[Found] = []
        self.seconds = 0.0
        self._run: Iterator[Found] | None = None

    def step(self, candidates: list[tuple[int, ...]], steps: int) -> float:
        """Take one step over `candidates`; returns its CPU-seconds (the first includes the gradient at the start)."""
        self.search.given = candidates
        started = time.process_time()
        if self._run is None:
            self._run = self.search.run(steps)
            next(self._run)
        self.found.append(next(self._run))
        spent = time.process_time() - started
        self.seconds += spent
        return spent


def lockstep(model: Any, steps: int, cached: bool) -> tuple[float, float, dict[str, Any]]:
    """CPU-seconds a step of both sides, and how well they agree."""
    from nanogcg import gcg

    config = gcg.GCGConfig(
        num_steps=steps, optim_str_init=f" {INIT}", search_width=WIDTH, use_prefix_cache=cached, verbosity="ERROR"
    )
    ours, seconds = Ours(model, config.topk), 0.0
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.bos_token = None
    logging.getLogger("nanogcg").setLevel(logging.ERROR)
    peer = gcg.GCG(Cached(model.module) if cached else model.module, tokenizer, config)
    filter_ids: Callable[..., torch.Tensor] = gcg.filter_ids
    gradient = peer.compute_token_gradient
    began: list[float] = []

    def first(ids: torch.Tensor) -> torch.Tensor:
        began.append(time.process_time())
        return gradient(ids)

    def shared(ids: torch.Tensor, tokenizer: Any) -> torch.Tensor:
        nonlocal seconds
        kept = filter_ids(ids, tokenizer)
        seconds -= ours.step([tuple(row) for row in kept.tolist()], steps)
        return kept

    peer.compute_token_gradient = first
    gcg.filter_ids = shared
    torch.manual_seed(SEED)
    try:
        result = peer.run([{"role": "user", "content": REQUEST + "{optim_str}"}], GOAL)
    finally:
        gcg.filter_ids = filter_ids
    seconds += time.process_time() - began[0]
    return ours.seconds / steps, seconds / steps, agreement(ours, result)


def agreement(ours: Ours, result: Any) -> dict[str, Any]:
    """Largest difference of the losses, and whether each step chose the same suffix."""
    differences = [abs(f.loss - loss) for f, loss in zip(ours.found, result.losses, strict=True)]
    chosen = [ours.search.prompt.text(f.suffix) == s for f, s in zip(ours.found, result.strings, strict=True)]
    return {
        "agrees": max(differences) <= TOLERANCE and all(chosen),
        "tolerance": TOLERANCE,
        "largest_loss_difference": max(differences),
        "same_choice": f"{sum(chosen)} of {len(chosen)} steps",
        "losses": [round(f.loss, 4) for f in ours.found],
    }


def main() -> None:
    """Print one line for nanoGCG as it runs, one for nanoGCG with a prefix cache."""
    model, steps = load("smollm2"), limit(4)
    for cached, peer in ((False, "nanogcg, prefix cache off"), (True, "nanogcg, prefix cache by shim")):
        ours, theirs, agrees = lockstep(model, steps, cached)
        agrees |= {"width": WIDTH, "steps": steps, "ours_cpu_s": round(ours, 2), "theirs_cpu_s": round(theirs, 2)}
        emit("gcg", peer, "steps per CPU-second", 1 / ours, 1 / theirs, agrees, "nanogcg")


if __name__ == "__main__":
    main()
