"""Patch from findings: teach a model to refuse what it complied with, and to go on helping where it should.

Two stages of LoRA training on harmful requests, benign look-alikes, everyday requests and framed ones of both kinds:
(1) SFT on safe and on the model's own helpful answers, because a model that never refuses must first learn to;
(2) a preference loss with a likelihood term (RPO) that pushes complying answers to harmful requests and refusals of
benign ones down. What was tried on the way, with measurements, is in docs/decisions/patch-recipe.md.

Method after Rafailov et al. 2023 (DPO, arXiv:2305.18290), Pang et al. 2024 (arXiv:2404.19733), and the contrast pairs
of Röttger et al. 2024 (XSTest, arXiv:2308.01263).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fivefold.align import _checkpoint
from fivefold.align._adapter import Lora
from fivefold.align._pack import Item
from fivefold.align._tuned import begun
from fivefold.align.data.contamination import refuse_contaminated
from fivefold.align.data.pairs import (
    Example,
    Reply,
    Rotation,
    framed,
    harmful_examples,
    helpful_examples,
)
from fivefold.align.data.sources import SafeAnswer, frames, safe_answers
from fivefold.align.data.sources import contrast as contrast_cases
from fivefold.align.data.sources import everyday as everyday_cases
from fivefold.align.data.tokens import pair_items, single_items
from fivefold.align.losses._base import load
from fivefold.align.train import Progress, TrainConfig, TrainResult, check_loss, train
from fivefold.errors import DataError, ModelError, UsageError
from fivefold.runtime.protocol import Capability, Request, WhiteBox, require
from fivefold.score import answers as judge
from fivefold.types import Case, Completion, digest, plain

SAMPLE_TEMPERATURE = 0.8

LORA = Lora(r=16, alpha=32, from_layer=12)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How much of one language is trained on. A language that costs many tokens a word gets shorter answers."""

    behaviours: int | None = None
    """At most this many behaviours, harmful and benign each; None takes all."""
    harmful: float = 1.0
    """Share of them on the harmful side: refusing is learnt from few, telling look-alikes apart is not."""
    framed: int = 0
    """Behaviours that are trained on once more inside a frame, harmful and benign each."""
    prefilled: int = 0
    """Harmful behaviours that are trained on once more with the start of a complying answer already given."""
    everyday: int = 0
    """Everyday requests."""
    contrast: int = 0
    """Harmless requests that sound like a hazard category, beyond the look-alikes of the suite."""
    passes: int = 1
    """How often the SFT stage sees each example."""
    pairs: bool = True
    """Whether the preference stage sees this language."""
    sentences: int | None = None
    """Only so many sentences of each safe answer; None takes the whole."""
    variety: int | None = None
    """Only so many safe answers per category, the shortest; None takes all."""
    own_tokens: int = 32
    """Longest answer of the model's own that is learnt or unlearnt."""


def _mix() -> dict[str, Mix]:
    return {"en": Mix(framed=16, everyday=24, contrast=36, own_tokens=16)}


def _sft() -> TrainConfig:
    return TrainConfig(loss="sft", adapter=LORA, lr=2e-3, batch_items=16)


def _preference() -> TrainConfig:
    return TrainConfig(
        loss="rpo", loss_options={"beta": 0.1, "alpha": 1.0}, reference="start", adapter=LORA, lr=2e-3, batch_items=8
    )


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """What the patch is trained on and how."""

    mix: Mapping[str, Mix] = field(default_factory=_mix)
    """Language → how much of it."""
    sft: TrainConfig | None = field(default_factory=_sft)
    """First stage, or None to begin with the second."""
    sft_share: float = 0.7
    """Share of the behaviours that the first stage sees, all examples of each; the second sees all."""
    preference: TrainConfig | None = field(default_factory=_preference)
    """Second stage, or None to stop after the first."""
    prefill_tokens: int = 8
    """How much of a complying answer is given where one is (`Mix.prefilled`)."""
    safe_tokens: int = 96
    """Longest safe answer."""
    pair_tokens: int = 32
    """Longest answer, chosen or rejected, in the preference stage; where answers part ways is near their start."""
    resample: int = 4
    """Samples taken of a benign request that the model refuses, to find an answer of its own that helps."""
    seed: int = 0
    """Seed of both stages."""

    def __post_init__(self) -> None:
        for stage in filter(None, (self.sft, self.preference)):
            check_loss(load(stage.loss), stage)
        if self.sft and self.preference:
            _check_stages(self.sft, self.preference)


def _check_stages(first: TrainConfig, second: TrainConfig) -> None:
    """Raise UsageError where the second stage cannot begin from what the first leaves."""
    if first.adapter is not None and second.adapter is None:
        raise UsageError(
            "the preference stage cannot train all weights from where an adapter ended",
            expected="all weights in both stages, or an adapter in the second",
            got="preference.adapter=none after an adapter",
            next_step="--set sft.adapter=none, or --set sft=none to begin with the second stage",
        )
    if first.adapter is None and second.reference == "base" and load(second.loss).REFERENCE:
        raise UsageError(
            "the reference cannot be the base: all of its weights were trained in the first stage",
            expected="preference.reference=start",
            got="preference.reference=base with sft.adapter=none",
        )


@dataclass(frozen=True, kw_only=True)
class PatchProgress:
    """What a watcher sees: the stage's name and what the trainer says of it."""

    stage: str
    step: Progress


@dataclass(frozen=True, kw_only=True)
class PatchResult:
    """A trained patch. `path` is the folder of the adapter or, where all weights were trained, of the model; `stages` the
    trainings by name in their order; `groups` counts examples by kind and language. `on` is the folder of the model that the
    last stage began from, where the first trained all weights."""

    path: Path
    stages: Mapping[str, TrainResult]
    data_digest: str
    groups: Mapping[str, int]
    losses: tuple[float, ...]
    tokens: int
    seconds: float
    on: Path | None = None


OnPatch = Callable[[PatchProgress], None]


def patch(
    model: WhiteBox,
    *,
    harms: Sequence[Case],
    benign: Sequence[Case],
    out: Path,
    config: PatchConfig | None = None,
    answers: Mapping[str, Completion] | None = None,
    held_out: Sequence[Case] = (),
    safe: Sequence[SafeAnswer] | None = None,
    everyday: Sequence[Case] | None = None,
    contrast: Sequence[Case] | None = None,
    on_step: OnPatch | None = None,
) -> PatchResult:
    """Train an adapter that makes `model` refuse `harms` and their like, and leaves its other answers alone.

    `harms` and `benign` are cases of the train split (DataError otherwise, and when they repeat a `held_out` case).
    `answers` are greedy completions of the unpatched model that are already known, by case id; the others are
    generated. `safe`, `everyday` and `contrast` replace the authored data of the package. Killed and called again with the same
    arguments, it goes on where it was.
    """
    require(model, Capability.GENERATE, Capability.GRADIENTS, for_="the patch recipe")
    config = config or PatchConfig()
    if config.sft is None and config.preference is None:
        raise UsageError("the patch has no stage to train", expected="sft, preference or both")
    refuse_contaminated([*harms, *benign], held_out)
    began = time.monotonic()
    chosen = choose(
        config,
        harms,
        benign,
        everyday_cases() if everyday is None else everyday,
        contrast_cases() if contrast is None else contrast,
    )
    own = own_answers(model, chosen, config, answers or {}, out)
    examples = examples_of(model, chosen, own, config, safe_answers() if safe is None else safe)
    write_examples(out, examples)

    def watch(stage: str) -> Callable[[Progress], None] | None:
        return None if on_step is None else lambda step: on_step(PatchProgress(stage=stage, step=step))

    stages: dict[str, TrainResult] = {}
    on: Path | None = None
    if config.sft is not None:
        seen = [e for e in examples if _rank(e.behaviour) < config.sft_share]
        items = single_items(model, [e for e in seen for _ in range(config.mix[e.language].passes)], config.safe_tokens)
        settings = replace(config.sft, seed=config.seed)
        stages["sft"] = train(model, items, settings, out / "sft", on_step=watch("sft"))
    if config.preference is not None:
        pairs = pair_items(model, [e for e in examples if config.mix[e.language].pairs], config.pair_tokens)
        settings = replace(config.preference, seed=config.seed)
        base, start = begun(model, stages["sft"].path, f"{model.name}+sft") if stages else (model, None)
        on = stages["sft"].path if stages and start is None else None
        stages["preference"] = train(
            base, pairs, settings, out / "preference", start=start, on_step=watch("preference")
        )
    return PatchResult(
        path=[*stages.values()][-1].path,
        on=on,
        stages=stages,
        data_digest=digest(examples),
        groups=count_groups(examples),
        losses=tuple(loss for stage in stages.values() for loss in stage.losses),
        tokens=sum(s.tokens for s in stages.values()),
        seconds=time.monotonic() - began,
    )


def _rank(behaviour: str) -> float:
    """Where a behaviour stands in an order that its name alone fixes, in [0, 1)."""
    return int(digest(behaviour)[:8], 16) / 16**8


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The cases that are trained on: plain requests, and those that come once more in a frame or with a prefill."""

    harms: Sequence[Case]
    benign: Sequence[Case]
    everyday: Sequence[Case]
    framed_harms: Sequence[Case]
    framed_benign: Sequence[Case]
    prefilled: Sequence[Case]


def choose(
    config: PatchConfig,
    harms: Sequence[Case],
    benign: Sequence[Case],
    everyday: Sequence[Case],
    contrast: Sequence[Case] = (),
) -> Chosen:
    """The cases that the configuration asks for; the same ones on every call."""
    mix = config.mix
    kept_harms = _some(harms, {lang: _harmful(harms, lang, m) for lang, m in mix.items()})
    kept_benign = _some(benign, {lang: m.behaviours for lang, m in mix.items()})
    without = [lang for lang in mix if not all(any(c.language == lang for c in side) for side in (harms, benign))]
    if without or not mix:
        raise DataError(
            "no cases to train on in the languages asked", expected="harmful and benign ones", got=", ".join(without)
        )
    counts = {lang: m.framed for lang, m in mix.items()}
    names = tuple(frames())
    return Chosen(
        harms=kept_harms,
        benign=[*kept_benign, *_some(contrast, {lang: m.contrast for lang, m in mix.items()})],
        everyday=_some(everyday, {lang: m.everyday for lang, m in mix.items()}),
        framed_harms=framed(_some(kept_harms, counts), names),
        framed_benign=framed(_some(kept_benign, counts), names),
        prefilled=_some(kept_harms, {lang: m.prefilled for lang, m in mix.items()}, salt="prefill"),
    )


def _harmful(harms: Sequence[Case], language: str, mix: Mix) -> int:
    n = sum(c.language == language for c in harms)
    return round(mix.harmful * (n if mix.behaviours is None else min(n, mix.behaviours)))


def _some(cases: Sequence[Case], limits: Mapping[str, int | None], salt: str = "") -> list[Case]:
    """At most so many cases per language, in an order fixed by the behaviours' hashes, so categories mix."""
    kept: list[Case] = []
    for language, limit in limits.items():
        own = [c for c in cases if c.language == language]
        own.sort(key=lambda c: digest(salt + (c.behaviour or c.id)))
        kept += own[:limit]
    return kept


def own_answers(
    model: WhiteBox, chosen: Chosen, config: PatchConfig, known: Mapping[str, Completion], out: Path
) -> dict[str, Reply]:
    """The unpatched model's greedy answers by case id, cut to the language's length; kept in `out`.

    Where it refuses a benign request, an answer that helps is looked for among samples. A framed harmful request has
    its plain form's answer to unlearn, so it is not asked.
    """
    path = out / "own_answers.json"
    kept: dict[str, Reply] = {k: Reply(**v) for k, v in (_checkpoint.read_json(path) or {}).items()}
    limit = {language: m.own_tokens for language, m in config.mix.items()}
    helpful = [*chosen.benign, *chosen.everyday, *chosen.framed_benign]
    cases = [*chosen.harms, *helpful]
    before = len(kept)
    kept |= {c.id: _reply(model, known[c.id], limit[c.language]) for c in cases if c.id in known and c.id not in kept}
    greedy = {c.id: c for c in cases if c.id not in kept}
    answered = _ask(model, list(greedy.values()), limit)
    kept |= {c.id: reply for c, reply in zip(greedy.values(), answered, strict=True)}
    if len(kept) > before:
        refused = [c for c in helpful if _judge(c.prompt, kept[c.id].text) == "refusal"]
        kept |= _sampled(model, refused, limit, config.resample)
        _checkpoint.write_json(path, plain(kept))
    return {c.id: kept[c.id] for c in cases}


def _ask(model: WhiteBox, cases: Sequence[Case], limit: Mapping[str, int], seed: int | None = None) -> list[Reply]:
    """Greedy answers, or with a seed sampled ones."""
    heat = 0.0 if seed is None else SAMPLE_TEMPERATURE
    requests = [
        Request(messages=c.messages, max_new_tokens=limit[c.language], temperature=heat, seed=seed or 0) for c in cases
    ]
    replies = []
    for case, completion in zip(cases, model.generate(requests) if requests else [], strict=True):
        if completion.error is not None:
            raise ModelError(f"the model did not answer {case.id}", got=completion.error)
        replies.append(_reply(model, completion, limit[case.language]))
    return replies


def _sampled(model: WhiteBox, refused: Sequence[Case], limit: Mapping[str, int], tries: int) -> dict[str, Reply]:
    """For benign requests that the model refuses: its first sampled answer that helps, where one of `tries` does."""
    found: dict[str, Reply] = {}
    for seed in range(tries):
        left = [c for c in refused if c.id not in found]
        for case, reply in zip(left, _ask(model, left, limit, seed), strict=True):
            if _judge(case.prompt, reply.text) == "compliance":
                found[case.id] = reply
    return found


def _reply(model: WhiteBox, completion: Completion, limit: int) -> Reply:
    """A completion cut to `limit` tokens, not in the middle of a character."""
    tokens: list[int] = model.tokenizer(completion.text, add_special_tokens=False)["input_ids"]
    ended = completion.stop_reason == "stop" and len(tokens) < limit
    text: str = model.tokenizer.decode(tokens[:limit], skip_special_tokens=True)
    return Reply(text=text.rstrip("\ufffd"), ended=ended)


def examples_of(
    model: WhiteBox, chosen: Chosen, own: Mapping[str, Reply], config: PatchConfig, safe: Sequence[SafeAnswer]
) -> list[Example]:
    """The training examples, in a fixed order."""
    rotation = Rotation(
        safe,
        sentences={lang: m.sentences for lang, m in config.mix.items()},
        variety={lang: m.variety for lang, m in config.mix.items()},
    )
    categories = sorted({a.category for a in safe})
    of_frames = {c.id: own[str(c.metadata["plain"])] for c in chosen.framed_harms}
    return [
        *harmful_examples(chosen.harms, own, rotation, _judge),
        *harmful_examples(chosen.framed_harms, of_frames, rotation, _judge),
        *prefilled(harmful_examples(chosen.prefilled, own, rotation, _judge), model, config.prefill_tokens),
        *helpful_examples([*chosen.benign, *chosen.framed_benign], own, rotation, _judge, "benign"),
        *helpful_examples(chosen.everyday, own, rotation, _judge, "everyday", categories),
    ]


def prefilled(examples: Sequence[Example], model: WhiteBox, n_tokens: int) -> list[Example]:
    """The examples that have a complying answer to unlearn, with the first `n_tokens` of it already given.

    After Qi et al. 2024 ("Safety alignment should be made more than just a few tokens deep", arXiv:2406.05946).
    """
    made = []
    for example in examples:
        if example.rejected is None:
            continue
        tokens: list[int] = model.tokenizer(example.rejected.text, add_special_tokens=False)["input_ids"]
        start: str = model.tokenizer.decode(tokens[:n_tokens], skip_special_tokens=True)
        rest: str = model.tokenizer.decode(tokens[n_tokens:], skip_special_tokens=True)
        unlearn = replace(example.rejected, text=rest) if rest.strip() else None
        made.append(replace(example, prefill=start.rstrip("\ufffd") + " ", rejected=unlearn))
    return made


def _judge(prompt: str, answer: str) -> str:
    return judge.judge(prompt, answer).label


def write_examples(out: Path, examples: Sequence[Example]) -> None:
    """Keep the training data beside the adapter, one object a line, so that it can be read and cited."""
    lines = b"".join(_checkpoint.line(plain(e)) for e in examples)
    _checkpoint.write_atomic(out / "examples.jsonl", lambda handle: handle.write(lines))


def count_groups(items: Sequence[Example] | Sequence[Item]) -> dict[str, int]:
    """How many examples of each kind and language."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.group] = counts.get(item.group, 0) + 1
    return dict(sorted(counts.items()))
