"""Is the policy getting better, or getting better at the reward? What is watched while it learns, and what follows.

Four signs, each from the rounds' own numbers, so that a run that was broken off and goes on sees the same alarms:
- `divergence`: the proxy reward has risen since the gold reward's best round, and the gold reward has fallen, both by
  more than sampling error (Gao et al. 2022, arXiv:2210.10760, call this over-optimisation);
- `exploit`: answers that carry a known trick (`exploits.yaml`) become common, most of all among the well rewarded;
- `degeneration`: answers become broken text, or one and the same answer to different prompts;
- `drift`: the KL divergence from the reference, or the entropy, leaves its bounds.

An alarm says in which round it was raised, in which it began (`onset`), and what was measured. What happens then is the
configuration's choice: go on and warn, stop, or go back to the weights kept before the onset. Taxonomy of failures:
Skalse et al. 2022 (arXiv:2209.13085); Pan et al. 2022 (arXiv:2201.03544).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias

import yaml

from fivefold.align import _ranges
from fivefold.align.rewards import Sample
from fivefold.score import coherence
from fivefold.stats.intervals import z_of

Health: TypeAlias = Mapping[str, float]
"""Numbers of one round. A number that was not measured is absent."""

Sign: TypeAlias = Literal["divergence", "exploit", "degeneration", "drift"]


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """When to raise an alarm, and what to do then."""

    action: Literal["warn", "stop", "rollback"] = "warn"
    """Go on, end the run with the weights as they are, or with those kept before the alarm's onset."""
    level: float = 0.99
    """Confidence that proxy and gold reward have parted, each side one-sided at (1 + level) / 2."""
    window: int = 3
    """Gold measurements that are averaged."""
    exploit_share: float = 0.3
    """Share of a round's answers with one known trick, where the first round had less than half of that."""
    broken_share: float = 0.5
    """Share of answers that are broken text, where the first round had less than half of that."""
    same_share: float = 0.5
    """Share of answers that repeat the answer to another prompt, where the first round had less than half of that."""
    most_kl: float | None = None
    """Largest mean KL divergence of an answer from the reference, in nats."""
    least_entropy: float | None = None
    """Least mean entropy of a token, in nats."""

    def __post_init__(self) -> None:
        _ranges.words(self, "action")
        _ranges.numbers(self, "level", above=True, most=1.0, below=True)
        _ranges.counts(self, "window")
        _ranges.numbers(self, "exploit_share", "broken_share", "same_share", most=1.0)
        _ranges.numbers(self, "most_kl", "least_entropy")


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that a person should look at. Rounds count from 0."""

    sign: Sign
    round: int
    onset: int
    message: str


@cache
def exploits() -> Mapping[str, re.Pattern[str]]:
    """Name → pattern of known tricks on reward functions."""
    found = yaml.safe_load((files("fivefold.align") / "exploits.yaml").read_text(encoding="utf-8"))
    return {name: re.compile(row["pattern"], re.MULTILINE) for name, row in found.items()}


def health_of(samples: Sequence[Sample], proxy: Sequence[float | None], errored: int = 0) -> dict[str, float]:
    """What a round's answers show by themselves: reward, length, tricks, degeneration. For `errored` of those without a
    reward it failed."""
    known = [v for v in proxy if v is not None]
    n = len(samples)
    texts = Counter((s.text.strip(), s.case.id) for s in samples)
    of_prompts = Counter(text for text, _ in texts)
    found = {
        "length": sum(len(s.tokens) for s in samples) / n,
        "ended": sum(s.ended for s in samples) / n,
        "unscored": 1 - (len(known) + errored) / n,
        "errored": errored / n,
        "broken": sum(bool(coherence.broken(s.text, s.case.prompt)) for s in samples) / n,
        "same": sum(of_prompts[s.text.strip()] > 1 for s in samples) / n,
    }
    for name, pattern in exploits().items():
        found[f"exploit/{name}"] = sum(bool(pattern.search(s.text)) for s in samples) / n
    return found | spread("reward", known)


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean and standard error of `values`; nothing where there are none (no error for a single one)."""
    if not values:
        return {}
    mean = sum(values) / len(values)
    if len(values) == 1:
        return {name: mean}
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return {name: mean, f"{name}_error": math.sqrt(variance / len(values))}


def alarms(history: Sequence[Health], config: MonitorConfig) -> list[Alarm]:
    """Alarms of the last round of `history`."""
    now = len(history) - 1
    found = [parted(history, config), *_shares(history, config)]
    kl, entropy = history[now].get("kl"), history[now].get("entropy")
    if config.most_kl is not None and kl is not None and kl > config.most_kl:
        found.append(_alarm("drift", now, now, f"KL {kl:.2f} nats is above {config.most_kl}"))
    if config.least_entropy is not None and entropy is not None and entropy < config.least_entropy:
        found.append(_alarm("drift", now, now, f"entropy {entropy:.3f} nats is below {config.least_entropy}"))
    return [a for a in found if a is not None]


def parted(history: Sequence[Health], config: MonitorConfig) -> Alarm | None:
    """The alarm of proxy and gold reward that part, if the last round's measurement shows it."""
    measured = [i for i, h in enumerate(history) if "gold_error" in h and "reward_error" in h]
    w = config.window
    if len(measured) < 2 * w or measured[-1] != len(history) - 1:
        return None
    windows = [measured[i : i + w] for i in range(len(measured) - w + 1)]
    best = max(windows[:-1], key=lambda rounds: _mean(history, rounds, "gold"))
    last = windows[-1]
    if best[-1] >= last[0]:
        return None
    fallen, risen = (_z(history, best, last, name) for name in ("gold", "reward"))
    limit = z_of(config.level)
    if fallen > -limit or risen < limit:
        return None
    gold, proxy = ([_mean(history, r, name) for r in (best, last)] for name in ("gold", "reward"))
    message = (
        f"the reward rose from {proxy[0]:.3f} to {proxy[1]:.3f} while the gold reward fell from {gold[0]:.3f} to "
        f"{gold[1]:.3f} since round {best[-1]}"
    )
    return _alarm("divergence", len(history) - 1, best[-1] + 1, message)


def _shares(history: Sequence[Health], config: MonitorConfig) -> list[Alarm]:
    limits = {"broken": config.broken_share, "same": config.same_share}
    limits |= {name: config.exploit_share for name in history[-1] if name.startswith("exploit/")}
    said = {"broken": "is broken text", "same": "repeats the answer to another prompt"}
    found = []
    for name, limit in limits.items():
        share, before = history[-1].get(name, 0.0), history[0].get(name, 0.0)
        if share < limit or before >= limit / 2:
            continue
        onset = next(i for i, h in enumerate(history) if h.get(name, 0.0) >= limit / 2)
        sign: Sign = "exploit" if name.startswith("exploit/") else "degeneration"
        what = said.get(name) or f"carries the trick {name.removeprefix('exploit/')!r}"
        found.append(
            _alarm(sign, len(history) - 1, onset, f"{share:.0%} of the answers {what} ({before:.0%} at first)")
        )
    return found


def _alarm(sign: Sign, now: int, onset: int, message: str) -> Alarm:
    return Alarm(sign=sign, round=now, onset=onset, message=message)


def _mean(history: Sequence[Health], rounds: Sequence[int], name: str) -> float:
    return sum(history[i][name] for i in rounds) / len(rounds)


def _z(history: Sequence[Health], before: Sequence[int], after: Sequence[int], name: str) -> float:
    """Standard errors between the means of two windows."""
    moved = _mean(history, after, name) - _mean(history, before, name)
    errors = [sum(history[i][f"{name}_error"] ** 2 for i in rounds) / len(rounds) ** 2 for rounds in (before, after)]
    error = math.sqrt(sum(errors))
    return moved / error if error else math.copysign(math.inf, moved) if moved else 0.0
