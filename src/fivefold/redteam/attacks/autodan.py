"""AutoDAN: jailbreak prompts bred by a genetic algorithm so that the wanted opening becomes likely; readable, unlike GCG's.

Defensive use: measures whether fluent prompts, which a perplexity filter lets through, can be found automatically.
Source: Liu et al. 2023, "AutoDAN: Generating Stealthy Jailbreak Prompts on Aligned LLMs" (arXiv 2310.04451): AutoDAN-GA
and AutoDAN-HGA (hierarchical: sentences cross over, then words move by a momentum score). Needs likelihoods of the
target's opening, no gradients.

Deviations: the first population is this project's wrappers and their sentence mixtures, and mutation replaces words by
synonyms of a small list, because the paper's GPT-4 diversification needs a capable model; without a wrapper in a language the
English ones are used. Fitness is the mean log-likelihood of the opening's tokens, in one batch a generation; what is read
for it counts as tokens of the attempt that follows, and is paid by the campaign's cap like answers.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

from fivefold.errors import ModelError, UnknownNameError, UsageError
from fivefold.redteam.attacks._checked import local, texts
from fivefold.redteam.attacks._text import request, send, succeeded, with_prompt
from fivefold.redteam.attacks.gcg import TARGETS
from fivefold.redteam.attacks.template import wrappers
from fivefold.redteam.budget import tokens_of
from fivefold.redteam.cost import searched
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.runtime.protocol import Capability, Cost, Model
from fivefold.types import Case, Taxonomy

Genome: TypeAlias = tuple[str, ...]
"""Sentences of a wrapper; exactly one holds `{request}`."""

_SENTENCE = re.compile(r".+?(?:[.!?。！？:：]+\s*|$)", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
PLACE = "{request}"
WRAPPER_TOKENS = 100
"""Tokens of a wrapper, about: for the estimate of what a run takes."""


@dataclass(frozen=True, kw_only=True)
class AutoDANConfig:
    """How prompts are bred. The paper's values, where they are not said to be smaller."""

    population: int = 16
    """Prompts in a generation (256 in the paper)."""
    elites: float = 0.1
    """Share that passes on unchanged."""
    crossover: float = 0.5
    """Chance that two parents exchange sentences."""
    points: int = 5
    """Most places where parents are cut."""
    mutation: float = 0.1
    """Chance that a word is replaced by a synonym (0.01 in the paper, where a mutation rewrites a whole prompt)."""
    hierarchical: bool = True
    """AutoDAN-HGA; off: AutoDAN-GA."""
    momentum: float = 0.5
    """Hierarchical: share of a word's score before in its new one."""
    target_text: Mapping[str, str] = field(default_factory=lambda: TARGETS)
    """How the answer should open, by language."""

    def __post_init__(self) -> None:
        if self.population < 2 or self.points < 1:
            raise UsageError("autodan: population is at least 2 and points at least 1", got=self.population)
        for name in ("elites", "crossover", "mutation", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"autodan: {name} is a share", expected="0 … 1", got=getattr(self, name))


class AutoDAN:
    """`budget.steps` generations; the best prompt not yet tried is tested when a query is due."""

    name = "autodan"
    needs = frozenset({Capability.GENERATE, Capability.LIKELIHOOD})
    taxonomy = Taxonomy(
        surface="user prompt",
        technique="genetic prompt search",
        owasp=("LLM01:2025",),
        atlas=("AML.T0054", "AML.T0043.001"),
    )

    def __init__(self, config: AutoDANConfig) -> None:
        self.config = config

    def cost(self, budget: AttackBudget, *, prompt_tokens: int, behaviours: int) -> Cost:
        """The likelihood of the opening under the first generation, and under every prompt that is new in a later one."""
        a_prompt = prompt_tokens + WRAPPER_TOKENS
        new = self.config.population - max(1, round(self.config.elites * self.config.population))
        first = Cost(prompt_tokens=behaviours * self.config.population * a_prompt)
        return first + searched(budget, prompt_tokens, a_step=new * a_prompt, behaviours=behaviours)

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt a test until one succeeds or the budget is spent."""
        breeding = _Breeding(self.config, case, target, rng)
        started = time.monotonic()
        tested: set[Genome] = set()
        for step in range(budget.steps + 1):
            ranked = breeding.rank()
            late = budget.seconds is not None and time.monotonic() - started >= budget.seconds
            last = step == budget.steps or late
            due = last or step * budget.queries >= (len(tested) + 1) * budget.steps
            fresh = next((r for r in ranked if r[1] not in tested), None)
            if due and fresh is not None and len(tested) < budget.queries:
                score, genome = fresh
                tested.add(genome)
                asked = request(case, expressed(genome, case.prompt), budget)
                notes = {"step": step, "loss": -score, "wrapper": "".join(genome), "scored": breeding.scored}
                (attempt,) = send(case, self.name, target, judge, budget, [asked], [notes])
                yield replace(attempt, loss=-score, tokens=attempt.tokens + breeding.spent())
                if succeeded(attempt):
                    return
            if last or len(tested) >= budget.queries:
                return
            breeding.breed(ranked)


class _Breeding:
    """One population: `rank` scores it, `breed` makes the next. `scored` counts likelihoods asked, `tokens` what they took."""

    def __init__(self, config: AutoDANConfig, case: Case, target: Model, rng: random.Random) -> None:
        self.config, self.case, self.target, self.rng = config, case, target, rng
        goal = case.metadata.get("target_text") or config.target_text.get(case.language, config.target_text["en"])
        self.goal = str(goal)
        self.synonyms = _synonyms(case.language)
        self.words: dict[str, float] = {}
        self.known: dict[Genome, float] = {}
        self.scored = self.tokens = 0
        self.population = self._first()

    def rank(self) -> list[tuple[float, Genome]]:
        """The population with its fitness (mean log-likelihood of the opening, in nats a token), best first."""
        new = [g for g in dict.fromkeys(self.population) if g not in self.known]
        pairs = [(with_prompt(self.case, expressed(g, self.case.prompt)), self.goal) for g in new]
        found = self.target.log_likelihood(pairs)
        self.tokens += sum(map(tokens_of, found))
        for genome, likelihood in zip(new, found, strict=True):
            score = likelihood.total / max(1, likelihood.n_tokens)
            if not math.isfinite(score):
                raise ModelError(f"{self.target.name} gave a likelihood that is not finite", got=likelihood.total)
            self.known[genome] = score
        self.scored += len(new)
        return sorted(((self.known[g], g) for g in dict.fromkeys(self.population)), reverse=True)

    def spent(self) -> int:
        """Tokens that were read to score prompts since this was asked last."""
        tokens, self.tokens = self.tokens, 0
        return tokens

    def breed(self, ranked: Sequence[tuple[float, Genome]]) -> None:
        """Elites, then children of parents drawn by the softmax of their fitness."""
        size = self.config.population
        elites = [g for _, g in ranked[: max(1, round(self.config.elites * size))]]
        weights = [math.exp(score - ranked[0][0]) for score, _ in ranked]
        parents = self.rng.choices([g for _, g in ranked], weights, k=size - len(elites) + 1)
        children: list[Genome] = []
        for a, b in zip(parents[::2], [*parents[1::2], parents[0]], strict=False):
            children += self._cross(a, b)
        if self.config.hierarchical:
            self._learn(ranked)
            children = [self._reword(g) for g in children]
        self.population = [*elites, *(self._mutate(g) for g in children)][:size]

    def _first(self) -> list[Genome]:
        own = [parsed(local(t, self.case.language)) for t in wrappers().values()]
        made = list(dict.fromkeys(own))
        while len(made) < self.config.population:
            a, b = self.rng.choice(own), self.rng.choice(own)
            made += [self._mutate(g, 0.5) for g in self._cross(a, b)]
        return made[: self.config.population]

    def _cross(self, a: Genome, b: Genome) -> list[Genome]:
        """Multi-point crossover of sentences; the sentence with the request stays each parent's own."""
        if self.rng.random() >= self.config.crossover:
            return [a, b]
        free = [i for i in range(min(len(a), len(b))) if PLACE not in a[i] and PLACE not in b[i]]
        swapped = set(self.rng.sample(free, self.rng.randint(0, min(len(free), self.config.points))))
        return [
            tuple(b[i] if i in swapped else s for i, s in enumerate(a)),
            tuple(a[i] if i in swapped else s for i, s in enumerate(b)),
        ]

    def _mutate(self, genome: Genome, chance: float | None = None) -> Genome:
        rate = self.config.mutation if chance is None else chance

        def other(word: str) -> str:
            near = self.synonyms.get(word.lower())
            return self.rng.choice(near) if near and self.rng.random() < rate else word

        return _each_word(genome, other)

    def _learn(self, ranked: Sequence[tuple[float, Genome]]) -> None:
        """Each word's score: the mean fitness of the prompts that hold it, with momentum."""
        seen: dict[str, list[float]] = {}
        for score, genome in ranked:
            for word in {w.lower() for s in genome for w in _WORD.findall(s)}:
                seen.setdefault(word, []).append(score)
        for word, scores in seen.items():
            now = sum(scores) / len(scores)
            before = self.words.get(word, now)
            self.words[word] = self.config.momentum * before + (1 - self.config.momentum) * now

    def _reword(self, genome: Genome) -> Genome:
        """Words give way to a synonym that scores higher."""

        def better(word: str) -> str:
            options = [w for w in self.synonyms.get(word.lower(), ()) if w in self.words]
            best = max(options, key=self.words.__getitem__, default=None)
            own = self.words.get(word.lower(), -math.inf)
            return best if best is not None and self.words[best] > own else word

        return _each_word(genome, better)


def parsed(wrapper: str) -> Genome:
    """The sentences of a wrapper."""
    return tuple(_SENTENCE.findall(wrapper))


def expressed(genome: Genome, prompt: str) -> str:
    """The prompt that a genome makes of a request."""
    return "".join(genome).replace(PLACE, prompt)


def _each_word(genome: Genome, change: Any) -> Genome:
    def kept(match: re.Match[str]) -> str:
        word = match[0]
        new = str(change(word))
        return new[:1].upper() + new[1:] if word[:1].isupper() else new

    parts = [s.split(PLACE) for s in genome]
    return tuple(PLACE.join(_WORD.sub(kept, p) for p in sentence) for sentence in parts)


def _synonyms(language: str) -> Mapping[str, Sequence[str]]:
    """Word → its synonyms."""
    groups: Sequence[Sequence[str]] = texts("synonyms.yaml").get(language, ())
    return {word: [w for w in group if w != word] for group in groups for word in group}


def attack(**options: Any) -> AutoDAN:
    """AutoDAN with the options of `AutoDANConfig`."""
    known = [f.name for f in fields(AutoDANConfig)]
    for key in options:
        if key not in known:
            raise UnknownNameError("option of autodan", key, known)
    return AutoDAN(AutoDANConfig(**options))
