"""Constitutional AI: a model corrects its own answers by written principles, then learns from labels that cite them.

Stage 1, supervised: the model answers, a principle is drawn, the feedback model criticises the answer by it and the answer
is rewritten; SFT on the last revisions beside the model's own answers to harmless requests. Stage 2, reinforcement: two
answers are sampled, the feedback model says which one keeps a principle better (by the likelihood of "A" and "B", asked in
both orders, whose log odds are averaged, so that a liking for one place cancels out), a reward model learns these labels,
and the policy learns from it. Every critique, revision and label cites `principle@version`; `audit.jsonl` leads from each
behaviour that was trained on back to them. Source: Bai et al. 2022 (arXiv:2212.08073), sections 3 and 4; Lee et al. 2023
(RLAIF, arXiv:2309.00267), section 2.1, for the two orders.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fivefold.align import _checkpoint, _ranges
from fivefold.align._adapter import Lora
from fivefold.align._pack import Item
from fivefold.align._processes import processes
from fivefold.align._tuned import begun, need_adapters, need_local_samples, tuned
from fivefold.align.data.constitution import Constitution, Principle, load_constitution
from fivefold.align.data.preferences import Preference, preference_items
from fivefold.align.data.tokens import encode_reply
from fivefold.align.recipes._result import RecipeResult, raised, shown
from fivefold.align.recipes.rlhf import OnStage
from fivefold.align.reward import Pairs, RewardConfig, RewardResult, load_reward, train_reward
from fivefold.align.rl import RLConfig, RLResult, reinforce
from fivefold.align.train import TrainConfig, train
from fivefold.errors import DataError, ModelError
from fivefold.runtime.protocol import Capability, Model, Request, WhiteBox, require
from fivefold.types import Case, Message, digest, plain

LORA = Lora(r=16, alpha=32)
AUDIT = "audit.jsonl"
CONSTITUTION = "constitution.json"
LEAST_ODDS = 1e-9
"""Probabilities nearer to 0 or 1 than this are taken for it: what a float holds there is rounding."""


def _rl() -> RLConfig:
    settings = TrainConfig(loss="rloo", adapter=LORA, lr=1e-4, batch_items=8, schedule="constant")
    return RLConfig(train=settings, rounds=20, prompts=8, samples=4, max_new_tokens=48)


@dataclass(frozen=True, kw_only=True)
class ConstitutionalConfig:
    """Both stages."""

    revisions: int = 1
    """How often an answer is criticised and rewritten, each time by another principle."""
    sft: TrainConfig = field(default_factory=lambda: TrainConfig(loss="sft", adapter=LORA, lr=3e-4))
    """Training on revisions."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward model of the AI labels."""
    rl: RLConfig = field(default_factory=_rl)
    """The last stage."""
    least_sure: float = 0.02
    """Labels whose probability is nearer to one half than this are left out."""
    reasoning_tokens: int = 0
    """Let the feedback model think aloud for so many tokens before it compares; 0 asks at once."""
    max_new_tokens: int = 48
    """Longest answer, critique and revision."""
    temperature: float = 1.0
    """At which the two answers to compare are sampled."""
    seed: int = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        _ranges.counts(self, "max_new_tokens")
        _ranges.counts(self, "revisions", "reasoning_tokens", least=0)
        _ranges.numbers(self, "least_sure", most=1.0)
        _ranges.numbers(self, "temperature", below=True)
        need_adapters(reward__train=self.reward.train, rl__train=self.rl.train)
        need_local_samples(self.sft, self.rl)


@dataclass(frozen=True, kw_only=True)
class Revised:
    """An answer, what was said against it, and what became of it, with the principles cited."""

    case: str
    answer: str
    critiques: tuple[str, ...]
    revisions: tuple[str, ...]
    cites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Label:
    """Which of two answers keeps a principle better: the probability of the first, in both orders and averaged.

    The average is of log odds: a liking for one place adds the same to the log odds of both orders with opposite signs, so
    it cancels. Lee et al. average probabilities, which presses every label of a biased judge towards one half.
    """

    case: str
    cites: str
    first: str
    second: str
    shown_first: float
    shown_second: float
    reasoning: str = ""

    @property
    def probability(self) -> float:
        """Of the first answer, without the feedback model's liking for a place."""
        odds = (_log_odds(self.shown_first) + _log_odds(self.shown_second)) / 2
        return 1 / (1 + math.exp(-odds))


def _log_odds(probability: float) -> float:
    kept = min(max(probability, LEAST_ODDS), 1 - LEAST_ODDS)
    return math.log(kept / (1 - kept))


def constitutional(
    model: WhiteBox,
    harmful: Sequence[Case],
    *,
    out: Path,
    harmless: Sequence[Case] = (),
    constitution: Constitution | None = None,
    feedback: Model | None = None,
    config: ConstitutionalConfig | None = None,
    on_step: OnStage | None = None,
) -> RecipeResult:
    """Train `model` on its answers to `harmful` (and `harmless`) requests, corrected by `constitution`.

    `feedback` criticises, rewrites and labels; by default that is the model itself. It must offer likelihoods. Killed and
    called again, it goes on where it was. DataError when no label is sure enough to learn from.
    """
    config, constitution = config or ConstitutionalConfig(), constitution or load_constitution()
    judge = feedback or model
    require(judge, Capability.GENERATE, Capability.LIKELIHOOD, for_="constitutional feedback")
    processes(next(model.module.parameters()).device)  # what the last stage refuses is refused now
    say = on_step or (lambda *_: None)
    key = digest(
        [model.fingerprint, judge.fingerprint, constitution.digest, list(harmful), list(harmless), plain(config)]
    )
    revised = _kept(out / "revisions.json", key, Revised, lambda: revise(model, judge, harmful, constitution, config))
    own = _kept(
        out / "own.json",
        key,
        Revised,
        lambda: revise(model, judge, harmless, constitution, replace(config, revisions=0)),
    )
    sft = train(
        model,
        [*_learnt(model, harmful, revised, config), *_learnt(model, harmless, own, config)],
        replace(config.sft, seed=config.seed),
        out / "sft",
        on_step=lambda p: say("sft", p.step, p.total, p.loss),
    )
    name = f"{model.name}+sl-cai"
    policy, start = begun(model, sft.path, name)
    answering = tuned(model, sft.path, name) if start else policy
    cases = [*harmful, *harmless]
    labels = _kept(out / "labels.json", key, Label, lambda: label(answering, judge, cases, constitution, config))
    pairs = preferences_of(labels, cases, config.least_sure)
    write_audit(out / AUDIT, revised, labels, config.least_sure)
    _checkpoint.write_json(out / CONSTITUTION, plain(constitution))
    if len(pairs) < 2:
        raise DataError(
            "the feedback model told too few answers apart",
            expected=f"at least 2 labels further than {config.least_sure} from one half",
            got=f"{len(pairs)} of {len(labels)}",
            next_step="a stronger feedback model, a higher temperature, or more requests",
        )
    reward, run = _reinforce(policy, pairs, cases, start, out, config, say)
    found = _result(out, run, reward, revised, labels, pairs, sft.losses, constitution)
    return replace(found, on=None if start else sft.path)


def revise(
    model: Model, judge: Model, cases: Sequence[Case], constitution: Constitution, config: ConstitutionalConfig
) -> list[Revised]:
    """Each case's greedy answer, criticised and rewritten `config.revisions` times, all cases in one batch a step."""
    answers = _ask(model, [c.messages for c in cases], config.max_new_tokens)
    critiques: list[list[str]] = [[] for _ in cases]
    revisions: list[list[str]] = [[] for _ in cases]
    cites: list[list[str]] = [[] for _ in cases]
    for turn in range(config.revisions):
        principles = [constitution.for_case(c.id, turn) for c in cases]
        now = [r[-1] if r else a for r, a in zip(revisions, answers, strict=True)]
        asked = [_critique(c, a, p) for c, a, p in zip(cases, now, principles, strict=True)]
        said = _ask(judge, asked, config.max_new_tokens)
        rewritten = [_revision(m, s, p) for m, s, p in zip(asked, said, principles, strict=True)]
        for i, text in enumerate(_ask(judge, rewritten, config.max_new_tokens)):
            critiques[i].append(said[i])
            revisions[i].append(text)
            cites[i].append(constitution.cite(principles[i]))
    return [
        Revised(case=c.id, answer=a, critiques=tuple(k), revisions=tuple(r), cites=tuple(p))
        for c, a, k, r, p in zip(cases, answers, critiques, revisions, cites, strict=True)
    ]


def _critique(case: Case, answer: str, principle: Principle) -> tuple[Message, ...]:
    text = f"Request: {case.prompt}\n\nAnswer: {answer}\n\nPrinciple: {principle.text}\n{principle.critique}"
    return (Message(role="user", content=text),)


def _revision(critique: tuple[Message, ...], said: str, principle: Principle) -> tuple[Message, ...]:
    ask = f"{principle.revision} Write the new answer only."
    return (*critique, Message(role="assistant", content=said), Message(role="user", content=ask))


def _ask(
    model: Model, asked: Sequence[tuple[Message, ...]], limit: int, seed: int | None = None, temperature: float = 1.0
) -> list[str]:
    """Greedy answers, or with a seed sampled ones."""
    heat = 0.0 if seed is None else temperature
    requests = [
        Request(messages=m, max_new_tokens=limit, temperature=heat, seed=(seed or 0) * 1_000_003 + i)
        for i, m in enumerate(asked)
    ]
    found = model.generate(requests) if requests else []
    if failed := [c.error for c in found if c.error]:
        raise ModelError(f"{model.name} did not answer", got=failed[0])
    return [c.text.strip() for c in found]


def _learnt(
    model: WhiteBox, cases: Sequence[Case], revised: Sequence[Revised], config: ConstitutionalConfig
) -> list[Item]:
    """SFT items of the last revisions (or the answers themselves); empty ones are left out."""
    items = []
    for case, r in zip(cases, revised, strict=True):
        text = r.revisions[-1] if r.revisions else r.answer
        if text.strip():
            reply = encode_reply(model, text, config.max_new_tokens)
            group = r.cites[-1] if r.cites else "own"
            items.append(Item(prompt=tuple(model.encode(case.messages)), answers=(reply,), group=group))
    return items


def label(
    model: Model, judge: Model, cases: Sequence[Case], constitution: Constitution, config: ConstitutionalConfig
) -> list[Label]:
    """Two sampled answers to each case, compared by one principle in both orders. Equal answers are not compared."""
    sides = [
        _ask(model, [c.messages for c in cases], config.max_new_tokens, config.seed * 2 + k + 1, config.temperature)
        for k in (0, 1)
    ]
    there = [i for i in range(len(cases)) if sides[0][i] != sides[1][i]]
    principles = [constitution.for_case(cases[i].id, config.revisions) for i in there]
    orders = [
        [_comparison(cases[i], p, sides[k][i], sides[1 - k][i]) for i, p in zip(there, principles, strict=True)]
        for k in (0, 1)
    ]
    thoughts = [
        _ask(judge, asked, config.reasoning_tokens) if config.reasoning_tokens else [""] * len(there)
        for asked in orders
    ]
    first = [_prefer_a(judge, asked, thought) for asked, thought in zip(orders, thoughts, strict=True)]
    return [
        Label(
            case=cases[i].id,
            cites=constitution.cite(principles[n]),
            first=sides[0][i],
            second=sides[1][i],
            shown_first=first[0][n],
            shown_second=1 - first[1][n],
            reasoning=thoughts[0][n],
        )
        for n, i in enumerate(there)
    ]


def _comparison(case: Case, principle: Principle, a: str, b: str) -> tuple[Message, ...]:
    text = (
        f"Request: {case.prompt}\n\n(A) {a}\n\n(B) {b}\n\nPrinciple: {principle.text}\n{principle.question} "
        "Answer with A or B."
    )
    return (Message(role="user", content=text),)


def _prefer_a(judge: Model, asked: Sequence[tuple[Message, ...]], thoughts: Sequence[str]) -> list[float]:
    """Probability of "A" against "B" as the answer, [n]."""
    contexts = [
        (*m, Message(role="assistant", content=t), Message(role="user", content="So which one? Answer with A or B."))
        if t
        else m
        for m, t in zip(asked, thoughts, strict=True)
    ]
    found = judge.log_likelihood([(m, option) for m in contexts for option in ("A", "B")]) if contexts else []
    return [1 / (1 + math.exp(b.total - a.total)) for a, b in zip(found[::2], found[1::2], strict=True)]


def preferences_of(labels: Sequence[Label], cases: Sequence[Case], least_sure: float) -> list[Preference]:
    """Labels that are sure enough as preferences; `source` cites the principle."""
    messages = {c.id: c.messages for c in cases}
    found = []
    for made in labels:
        sure = made.probability - 0.5
        better, worse = (made.first, made.second) if sure > 0 else (made.second, made.first)
        if abs(sure) >= least_sure and better and worse:
            found.append(
                Preference(id=made.case, messages=messages[made.case], chosen=better, rejected=worse, source=made.cites)
            )
    return found


def _reinforce(
    model: WhiteBox,
    pairs: Sequence[Preference],
    cases: Sequence[Case],
    start: Path | None,
    out: Path,
    config: ConstitutionalConfig,
    say: OnStage,
) -> tuple[RewardResult, RLResult]:
    """The reward model of the labels (a fifth of them held out), and the policy that learns from it."""
    items = preference_items(model, pairs, prompt_tokens=10**6, answer_tokens=config.max_new_tokens)
    held = items[::5] if len(items) >= 10 else []
    settings = replace(config.reward, train=replace(config.reward.train, seed=config.seed))
    reward = train_reward(
        model,
        Pairs(items=[i for i in items if i not in held]),
        settings,
        out / "reward",
        held_out=held,
        start=start,
        on_step=lambda p: say("reward", p.step, p.total, p.loss),
    )
    run = reinforce(
        model,
        cases,
        load_reward(model, out / "reward"),
        replace(config.rl, train=replace(config.rl.train, seed=config.seed)),
        out / "rl",
        reward_name=digest(reward.record.read_text()),
        start=start,
        critic_start=reward.path,
        on_round=lambda done, total, health: say("rl", done, total, health.get("reward", 0.0)),
    )
    return reward, run


def write_audit(path: Path, revised: Sequence[Revised], labels: Sequence[Label], least_sure: float) -> None:
    """One line a behaviour that was trained on: its answers, what was changed or preferred, and by which principle."""
    rows = [{"stage": "revision", **_plain(r)} for r in revised]
    rows += [
        {
            "stage": "label",
            **_plain(made),
            "probability": made.probability,
            "used": abs(made.probability - 0.5) >= least_sure,
        }
        for made in labels
    ]
    text = b"".join(_checkpoint.line(row) for row in rows)
    _checkpoint.write_atomic(path, lambda handle: handle.write(text))


def trace(path: Path, case: str | None = None) -> list[dict[str, Any]]:
    """Everything in an audit, or what concerns one behaviour, with the principles it rests on."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [row for row in rows if case in (None, row["case"])]


def _plain(value: Any) -> dict[str, Any]:
    made = plain(value)
    assert isinstance(made, dict)
    return dict(made)


def _kept(path: Path, key: str, kind: Any, make: Any) -> list[Any]:
    """What `make` gives, from `path` where this very run has made it already."""
    known = _checkpoint.read_json(path)
    if known is not None:
        _checkpoint.check_key(path.parent, known["key"], key)
        return [kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in known["rows"]]
    made: list[Any] = make()
    _checkpoint.write_json(path, {"key": key, "rows": [_plain(m) for m in made]})
    return made


def _result(
    out: Path,
    run: RLResult,
    reward: RewardResult,
    revised: Sequence[Revised],
    labels: Sequence[Label],
    pairs: Sequence[Preference],
    losses: tuple[float, ...],
    constitution: Constitution,
) -> RecipeResult:
    by_principle = Counter(p.source for p in pairs)
    bias = sum(made.shown_first - made.shown_second for made in labels) / len(labels)
    accuracy = "not measured" if reward.accuracy is None else shown(reward.accuracy)
    first, last = run.history[0], run.history[-1]
    return RecipeResult(
        path=run.path,
        data_digest=digest([revised, labels]),
        losses=losses,
        sentences=(
            f"{constitution.name} {constitution.version}: {len(revised)} answers revised, {len(labels)} pairs labelled, "
            f"{len(pairs)} of them surely enough to learn from",
            f"the feedback model gives the place shown first {bias:+.3f} of probability, which the two orders cancel",
            f"reward model of the labels: held-out accuracy {accuracy}",
            f"{run.ended} after {len(run.history)} rounds: reward {first.get('reward', 0.0):.2f} → "
            f"{last.get('reward', 0.0):.2f}, KL {last['kl']:.2f} nats",
            *raised(run.alarms),
        ),
        measurements=[] if reward.accuracy is None else [reward.accuracy],
        rows=[{"principle": name, "labels": n} for name, n in sorted(by_principle.items())],
        files={"audit": out / AUDIT, "constitution": out / CONSTITUTION, "record": run.record},
    )
