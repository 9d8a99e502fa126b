"""Greedy answers of the embedded model against Inspect's `hf` provider and transformers' own `generate`.

`generation-shared`: short questions behind one long system prompt, asked through Inspect. `generation-apart`: prompts
that share nothing, in batches of 32 by `generate`. One thread on both sides, float32, or with `BENCH_DTYPE=bfloat16` ours
in bfloat16 beside the peers in float32 and in bfloat16. Rates are answer tokens per CPU-second; the agreement says how many
texts are the same to the last character (in bfloat16 few stay so: a rounded tie leads to another word).
"""

from __future__ import annotations

from _common import dtype, emit, limit, one_thread, peer_dtypes, timed

one_thread()

import asyncio  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

NEW_TOKENS = 64
PEER_BATCH = 32

RULES = (
    "You answer questions for visitors of a public library.",
    "Use plain words and short sentences, because many visitors are still learning the language.",
    "Say first what was asked for, and add background only where it helps to understand the answer.",
    "When a question can be meant in two ways, say which one you answer and name the other briefly.",
    "When you do not know something, say so, and say where in the library it could be looked up.",
    "Never invent the title of a book, the name of a writer, a year or a number.",
    "Do not repeat the question, do not greet, and do not close with an offer of further help.",
    "Give at most three facts, each in a sentence of its own, the most important one first.",
    "Prefer examples that a child of twelve has met: food, weather, animals, games, a walk through a town.",
    "Use metric units and the twenty-four hour clock, and write numbers up to twelve as words.",
    "Explain a word from another language when you cannot avoid it, and avoid it when you can.",
    "Be kind about mistakes in spelling and grammar, and answer what was meant.",
    "If a question is about health, law or money, give general knowledge and point to the desk for more.",
    "If a question is about the library, its opening hours, cards or rooms, point to the notice at the door.",
    "Do not take sides in matters of taste, religion or politics; say what different people think and why.",
    "Keep the whole answer under eighty words, so that it can be read aloud at the desk in half a minute.",
    "The library has three floors: children and comics below, novels in the middle, sciences and music above.",
    "Books may be kept for four weeks, films for one week, and both may be kept once more if nobody waits.",
    "Children may ask anything; answer them as seriously as anybody else, and leave out what would frighten them.",
    "If somebody asks for a recommendation, ask which book they last enjoyed instead of naming one at once.",
    "Write every answer as one paragraph without headings, lists, tables, links or signs that are not letters.",
    "Visitors may be in a hurry, so the first sentence alone should already be useful to them.",
)
SYSTEM = " ".join(RULES)
TOPICS = (
    "rain", "bees", "bread", "the moon", "bridges", "salt", "owls", "paper", "tides", "glass", "apples", "maps",
    "wool", "volcanoes", "clocks", "rice", "whales", "trains", "snow", "honey", "deserts", "ink", "spiders",
    "rivers", "cheese", "kites", "thunder", "frogs", "coffee", "mirrors", "sand", "bicycles", "tea", "forests",
    "cats", "windmills", "stars", "potatoes", "lighthouses", "horses", "soap", "islands", "drums", "butter",
    "clouds", "ants", "chess", "iron", "fog", "roses", "ladders", "penguins", "rope", "sugar", "caves", "violins",
    "dogs", "silk", "ice", "foxes", "gold", "ferns", "canals", "shadows",
)  # fmt: skip


def conversations(count: int) -> list[tuple[str, str]]:
    """(system, user) pairs behind one long system prompt."""
    return [(SYSTEM, f"What is special about {topic}?") for topic in TOPICS[:count]]


def apart(count: int) -> list[tuple[str, str]]:
    """(system, user) pairs of about 128 tokens that differ from the first word."""
    pairs = []
    for i, topic in enumerate(TOPICS[:count]):
        rules = [RULES[(i + 5 * k) % len(RULES)] for k in range(4)]
        pairs.append((f"{topic.capitalize()} is the subject. {' '.join(rules)}", f"What is special about {topic}?"))
    return pairs


def ours(model: Any, pairs: list[tuple[str, str]]) -> list[str]:
    """Our answers, in order."""
    from fivefold.runtime.protocol import Request
    from fivefold.types import Message

    requests = [
        Request(
            messages=(Message(role="system", content=system), Message(role="user", content=user)),
            max_new_tokens=NEW_TOKENS,
        )
        for system, user in pairs
    ]
    answers = model.generate(requests)
    failed = [a.error for a in answers if a.error]
    if failed:
        raise SystemExit(f"generation failed: {failed[0]}")
    return [a.text for a in answers]


def inspect_answers(api: Any, pairs: list[tuple[str, str]]) -> list[str]:
    """Inspect's answers, asked all at once as an evaluation does."""
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig

    config = GenerateConfig(max_tokens=NEW_TOKENS, max_connections=PEER_BATCH)

    async def ask() -> list[str]:
        turns = [[ChatMessageSystem(content=s), ChatMessageUser(content=u)] for s, u in pairs]
        outputs = await asyncio.gather(*(api.generate(turn, config=config) for turn in turns))
        return [o.completion for o in outputs]

    return asyncio.run(ask())


def generate_answers(module: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> list[str]:
    """Answers of transformers' `generate`, padded on the left, in batches."""
    import torch

    texts = [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": s}, {"role": "user", "content": u}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for s, u in pairs
    ]
    answers: list[str] = []
    for start in range(0, len(texts), PEER_BATCH):
        batch = tokenizer(texts[start : start + PEER_BATCH], return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            out = module.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)
        answers.extend(tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


def compare(
    name: str, peer: str, package: str, model: Any, pairs: list[tuple[str, str]], peers: dict[str, Any]
) -> None:
    """Time our side, then each of `peers` (what it computes in, and how it is asked) on the same conversations."""
    ours(model, pairs[:2])
    mine, our_seconds = timed(lambda: ours(model, pairs))
    prompt = sum(len(model.tokenizer(s + u)["input_ids"]) for s, u in pairs) / len(pairs)
    for theirs, ask in peers.items():
        ask(pairs[:2])
        other, their_seconds = timed(partial(ask, pairs))
        same = sum(a == b for a, b in zip(mine, other, strict=True))
        count = [sum(len(model.tokenizer(t)["input_ids"]) for t in texts) for texts in (mine, other)]
        agreement = {"prompts": len(pairs), "identical_texts": same, "tokens_a_prompt": round(prompt)}
        unit = f"answer tokens/CPU-s, {dtype()} against {theirs}, greedy, {NEW_TOKENS} new"
        emit(name, peer, unit, count[0] / our_seconds, count[1] / their_seconds, agreement, package)


def main() -> None:
    """A line for each way of asking and each dtype of the peer."""
    from inspect_ai.model import get_model

    from fivefold.runtime.load import load

    model = load("smollm2", dtype=dtype())
    folder = str(model.source.folder)
    settings: dict[str, Any] = {"model_path": folder, "device": "cpu", "do_sample": False, "memoize": False}
    apis: dict[str, Any] = {kind: get_model("hf/smollm2", dtype=kind, **settings) for kind in peer_dtypes()}
    through_inspect = {kind: partial(inspect_answers, api) for kind, api in apis.items()}
    by_generate = {kind: partial(generate_answers, api.api.model, api.api.tokenizer) for kind, api in apis.items()}
    count = limit(64)
    compare("generation-shared", "inspect hf", "inspect_ai", model, conversations(count), through_inspect)
    compare("generation-apart", "transformers generate, batch 32", "transformers", model, apart(count), by_generate)


if __name__ == "__main__":
    main()
