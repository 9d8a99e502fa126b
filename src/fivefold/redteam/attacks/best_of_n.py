"""Best-of-N jailbreaking: resample random augmentations of the prompt until one answer complies (black-box search).

Defensive use: measures how far a refusal is from random noise. Source: Hughes et al. 2024, "Best-of-N Jailbreaking"
(arXiv 2412.03556, section 2): scrambling inside words, random capitalisation, ASCII noise. Deviations: the first try
is unaugmented; for text without letter case or spaces (Korean, Japanese) neighbouring characters are swapped instead.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from fivefold.redteam.attacks._text import request, send, succeeded
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Model
from fivefold.types import Case


def augment(prompt: str, rng: random.Random, *, strength: float) -> str:
    """One random augmentation. `strength` in [0, 1] scales the paper's probabilities (.6 scramble, .6 case, .06
    noise)."""
    words = [_scramble(w, rng) if len(w) > 3 and rng.random() < 0.6 * strength else w for w in prompt.split(" ")]
    text = "".join(c.swapcase() if rng.random() < 0.6 * strength else c for c in " ".join(words))
    return "".join(_noise(c, rng) if rng.random() < 0.06 * strength else c for c in text)


def _scramble(word: str, rng: random.Random) -> str:
    if not word.isascii():
        at = rng.randrange(len(word) - 1)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    middle = list(word[1:-1])
    rng.shuffle(middle)
    return word[0] + "".join(middle) + word[-1]


def _noise(char: str, rng: random.Random) -> str:
    code = ord(char) + rng.choice((-1, 1))
    return chr(code) if 32 < code < 127 and char.isascii() else char


class BestOfN:
    """Batches of augmented prompts at temperature 1, up to `queries` in all."""

    name = "best_of_n"
    needs = frozenset({Capability.GENERATE})
    taxonomy = attack_taxonomy("best_of_n")

    def __init__(self, batch: int = 4, temperature: float = 1.0) -> None:
        self.batch, self.temperature = batch, temperature

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield every attempt, batch by batch, and stop after the batch that has a success."""
        for start in range(0, budget.queries, self.batch):
            tries = range(start, min(start + self.batch, budget.queries))
            strengths = [0.0 if i == 0 else min(1.0, 0.3 + 0.7 * i / budget.queries) for i in tries]
            requests = [
                request(
                    case,
                    augment(case.prompt, rng, strength=s),
                    budget,
                    temperature=self.temperature,
                    seed=rng.randrange(2**31),
                )
                for s in strengths
            ]
            notes = [
                {"try": i, "strength": round(s, 2), "temperature": self.temperature}
                for i, s in zip(tries, strengths, strict=True)
            ]
            attempts = send(case, self.name, target, judge, budget, requests, notes)
            yield from attempts
            if any(succeeded(a) for a in attempts):
                return


def attack(batch: int = 4, temperature: float = 1.0) -> BestOfN:
    """Best-of-N with batches of `batch` samples."""
    return BestOfN(batch, temperature)
