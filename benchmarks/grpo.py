"""A GRPO round with its generation against TRL's GRPOTrainer: `BENCH_LIMIT` prompts of 8 samples of 64 tokens.

Both sides sample at temperature 1 with random numbers of their own, so the samples differ; none may end early, so that
chance does not give one side the longer ones. A round is generation, update, and what it takes to sample from the new
weights. For the agreement our loss is computed once more on TRL's own samples, with TRL's
rewards and adapter: loss and gradient must be TRL's. TRL multiplies its KL penalty by the ratio (`use_bias_correction_kl`,
on by default), which changes the gradient and not the loss's value; ours does so for the comparison (`unbiased_kl`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from _common import dtype, limit, one_thread, timed

one_thread()

import torch  # noqa: E402
from _trl import (  # noqa: E402
    LORA,
    Watch,
    above,
    at_rest,
    beside,
    fresh,
    peft_config,
    prepared,
    report,
    same_gradient,
    settings,
    triples,
    twin,
)

from fivefold.align._learner import Learner, State  # noqa: E402
from fivefold.align._pack import Item  # noqa: E402
from fivefold.align._rollouts import Drawn, collect  # noqa: E402
from fivefold.align.losses import grpo  # noqa: E402
from fivefold.align.rewards import each  # noqa: E402
from fivefold.align.rl import RLConfig  # noqa: E402
from fivefold.align.train import TrainConfig  # noqa: E402
from fivefold.runtime.load import load  # noqa: E402
from fivefold.types import user_case  # noqa: E402

SAMPLES, NEW_TOKENS = 8, 64
AS_TRL = {"unbiased_kl": True}


def reward_of(tokens: Any) -> float:
    """A reward that tells samples apart: the share of even token ids."""
    return sum(int(t) % 2 == 0 for t in tokens) / max(len(tokens), 1)


def main() -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, n = load("smollm2", dtype=dtype()), limit(2)
    texts = [t["prompt"] for t in triples(n)]

    def peer(**more: Any) -> tuple[Any, Watch, list[dict[str, Any]]]:
        sizes: dict[str, Any] = {
            "num_generations": SAMPLES,
            "max_completion_length": NEW_TOKENS,
            "temperature": 1.0,
            "top_k": 0,
        }
        sizes["generation_kwargs"] = {"min_new_tokens": NEW_TOKENS}
        trainer = GRPOTrainer(
            model=fresh(model),
            reward_funcs=lambda completion_ids, **_: [reward_of(ids) for ids in completion_ids],
            args=settings(GRPOConfig, n * SAMPLES, 2, **sizes, beta=0.04, loss_type="grpo", **more),
            train_dataset=Dataset.from_list([{"prompt": t} for t in texts]),
            processing_class=model.tokenizer,
            peft_config=peft_config(),
        )
        return trainer, prepared(trainer, 1), kept(trainer)

    trainer, plain, seen = peer(gradient_checkpointing=False)
    learner = learner_of(model, trainer.model, n)
    trainer.train()
    agreement = compared(learner, seen[0], plain, trainer.state.log_history[0]["loss"])
    count(plain, seen)
    learner = learner_of(model, trainer.model, n)
    learner.sampler.eos = frozenset()
    ours = min((ours_step(learner, model, texts) for _ in range(2)), key=lambda step: step["seconds"])
    trainer, common, seen = peer()
    trainer.train()
    count(common, seen)
    agreement |= {"tokens": ours["tokens"], "theirs_tokens": common.n, "ours_drawing_cpu_s": round(ours["drawing"], 2)}
    rate = ours["tokens"] / ours["seconds"]
    beside("grpo", "tokens per CPU-second", "GRPOTrainer", (common, plain), agreement, ours, rate)


def kept(trainer: Any) -> list[dict[str, Any]]:
    """The samples of each of TRL's steps, as they come."""
    seen = list[dict[str, Any]]()
    generate = trainer._generate_and_score_completions

    def keeping(inputs: Any) -> Any:
        seen.append(generate(inputs))
        return seen[-1]

    trainer._generate_and_score_completions = keeping
    return seen


def count(watch: Watch, seen: list[dict[str, Any]]) -> None:
    """Count a round's tokens, of which every round has as many."""
    made = {int(s["completion_mask"].sum()) for s in seen}
    if len(made) != 1:
        raise SystemExit(f"TRL's samples have different lengths: {sorted(made)} tokens a round")
    watch.n = made.pop()


def learner_of(model: Any, theirs: Any, prompts: int) -> Learner:
    """Our learner with TRL's adapter in it."""
    train = TrainConfig(
        loss="grpo", loss_options=AS_TRL, adapter=LORA, lr=1e-5, batch_items=prompts, schedule="constant", warmup=0.0
    )
    config = RLConfig(train=train, rounds=2, prompts=prompts, samples=SAMPLES, max_new_tokens=NEW_TOKENS)
    learner = Learner(model, config, grpo, grpo.Config(**AS_TRL), None, None, Path(tempfile.mkdtemp()))
    _, params = twin(model, theirs)
    with torch.no_grad():
        for name, p in learner.policy.items():
            p.copy_(params[name])
    learner.sampler.refresh(0)
    return learner


def compared(learner: Learner, theirs: dict[str, Any], watch: Watch, loss: float) -> dict[str, Any]:
    """Our loss and gradient on TRL's samples."""
    items, rewards = list[Item](), list[float]()
    for start in range(0, len(theirs["prompt_ids"]), SAMPLES):
        rows = range(start, start + SAMPLES)
        prompt = tuple(theirs["prompt_ids"][start][theirs["prompt_mask"][start].bool()].tolist())
        answers = [tuple(theirs["completion_ids"][r][theirs["completion_mask"][r].bool()].tolist()) for r in rows]
        items.append(Item(prompt=prompt, answers=tuple(answers)))
        rewards += [reward_of(a) for a in answers]
    values = torch.tensor(rewards).view(len(items), SAMPLES)
    drawn = Drawn(
        items=items, samples=[], rewards=values, scored=torch.ones_like(values, dtype=torch.bool), costs=None, asked=0
    )
    known = learner._known(drawn, State())
    advantages = grpo.advantages(known, learner.options)
    total, count = 0.0, len(items)
    for b in range(count):
        total += learner._row(drawn, [b], known, advantages, None, 1 / count)[0]["loss"] / count
    params = dict(learner.policy)
    return report({"loss": total}, loss, same_gradient(params, watch.gradient), prompts=count)


def ours_step(learner: Learner, model: Any, texts: list[str]) -> dict[str, Any]:
    """Generated tokens, CPU-seconds (drawing apart), and peak memory of one whole round."""
    learner.optimizer.zero_grad()
    asked = [t.split("user\n", 1)[1].split("<|im_end|>", 1)[0] for t in texts]
    cases = [user_case(str(i), t) for i, t in enumerate(asked)]

    def draw() -> Drawn:
        learner.sampler.refresh(1)
        reward = each(lambda s: reward_of(s.tokens))
        return collect(learner.sampler, cases, reward, None, first=0, count=len(cases), number=0, tries=0)

    rest = at_rest()
    drawn, drawing = timed(draw)
    _, updating = timed(lambda: learner.learn(drawn, State(), 0))
    tokens = sum(len(a) for item in drawn.items for a in item.answers)
    return {"tokens": tokens, "drawing": drawing, "seconds": drawing + updating, "peak": above(rest)}


if __name__ == "__main__":
    main()
