"""What a campaign's results say about effort: success after n queries, survival over a budget, cost of a success.

Pure functions over `Tried`. Success at n follows the budget curves of Hughes et al. 2024 ("Best-of-N Jailbreaking", arXiv
2412.03556); survival is Kaplan & Meier's (1958), with behaviours that an attack gave up on, or that a limit cut off,
censored where they ended.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fivefold.redteam.attacks._text import succeeded
from fivefold.redteam.campaign import Tried
from fivefold.redteam.protocol import Attempt
from fivefold.score.calibrate import confusion
from fivefold.stats import Confusion, Interval, clustered_rate, effective_n, rogan_gladen
from fivefold.stats.survival import Survival, kaplan_meier
from fivefold.types import Errored, Outcome, Scored, Unscored

Unit: TypeAlias = Literal["queries", "tokens", "seconds"]
UNITS: tuple[Unit, ...] = ("queries", "tokens", "seconds")


@dataclass(frozen=True, kw_only=True)
class AtN:
    """Attack success when every behaviour may cost at most `n` queries, raw and without the judge's error.

    `corrected` is None where the judge's error is not known in the behaviours' language, or they have several.
    """

    n: int
    raw: Interval
    corrected: Interval | None
    scored: int
    unscored: int
    errored: int


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What successes cost, over the behaviours that fell: quartiles. None without a success."""

    unit: Unit
    successes: int
    median: float | None
    first_quartile: float | None
    third_quartile: float | None


def spent(attempts: Sequence[Attempt], unit: Unit) -> float:
    """What these attempts cost; tokens count those of helping models too."""
    if unit == "tokens":
        return float(sum(a.tokens + a.helper_tokens for a in attempts))
    return float(sum(a.queries if unit == "queries" else a.seconds for a in attempts))


def until_success(item: Tried) -> Sequence[Attempt]:
    """The attempts up to and with the first success, or all of them."""
    hit = next((i for i, a in enumerate(item.attempts) if succeeded(a)), len(item.attempts) - 1)
    return item.attempts[: hit + 1]


def outcome_at(item: Tried, n: int) -> Outcome:
    """What would have been known of a behaviour after at most `n` queries: an attack that ended by itself before has
    failed, one that was cut off before is not known."""
    used, within = 0, []
    for attempt in item.attempts:
        used += attempt.queries
        if used > n:
            break
        within.append(attempt)
    hit = next((a.outcome for a in within if succeeded(a)), None)
    if hit is not None and isinstance(hit, Scored):
        return Scored(value=1.0, label="success", judge=hit.judge)
    failed = next((a.outcome for a in within if isinstance(a.outcome, Errored)), None)
    if failed is not None:
        return failed
    scored = [a.outcome for a in within if isinstance(a.outcome, Scored)]
    if item.cut_off and len(within) == len(item.attempts) and used < n:
        return Unscored(reason=item.cut_off)
    if not scored:
        return Unscored(reason=f"nothing was judged within {n} queries")
    return Scored(value=0.0, label="withstood", judge=scored[0].judge)


def success_curve(
    tried: Sequence[Tried],
    at: Sequence[int] = (),
    *,
    judge: Literal["refusal", "other"] = "refusal",
    level: float = 0.95,
) -> list[AtN]:
    """Success after each n in `at` (default: 1, 2, 4, … up to the most that any behaviour took)."""
    most = max((int(spent(t.attempts, "queries")) for t in tried), default=0)
    points = list(at) or sorted({*(2**i for i in range(16) if 2**i < most), most} - {0})
    return [_at(tried, n, judge, level) for n in points]


def _at(tried: Sequence[Tried], n: int, judge: str, level: float) -> AtN:
    outcomes = [outcome_at(t, n) for t in tried]
    kept = [(o.value, t) for o, t in zip(outcomes, tried, strict=True) if isinstance(o, Scored)]
    values, clusters = [v for v, _ in kept], [t.case.behaviour or t.case.id for _, t in kept]
    counts = judge_counts([t for _, t in kept], n) if judge == "refusal" else None
    corrected = None
    if counts is not None and values:
        size = effective_n(values, clusters, level)
        corrected = rogan_gladen(sum(values) / len(values) * size, size, counts, level)
    return AtN(
        n=n,
        raw=clustered_rate(values, clusters, level),
        corrected=corrected,
        scored=len(kept),
        unscored=sum(isinstance(o, Unscored) for o in outcomes),
        errored=sum(isinstance(o, Errored) for o in outcomes),
    )


def judge_counts(tried: Sequence[Tried], n: int | None = None) -> Confusion | None:
    """The measured counts of the judge by rules for these behaviours' one language, over as many answers (within `n`
    queries) as each gave it to judge; None for several languages, or one in which it was not measured."""
    language = language_of(tried)
    counts = confusion("compliance", language) if language else None
    return None if counts is None else over_tried(counts, tried, n)


def language_of(tried: Sequence[Tried]) -> str | None:
    """The one language of these behaviours; None for none or several."""
    languages = {t.case.language for t in tried}
    return languages.pop() if len(languages) == 1 else None


def over_tried(judge: Confusion, tried: Sequence[Tried], n: int | None = None) -> Confusion:
    """A judge's counts over as many answers (within `n` queries) as each of these behaviours gave it to judge."""
    answers = [sum(isinstance(a.outcome, Scored) for a in _within(t, n)) for t in tried]
    return over_answers(judge, max(1.0, sum(answers) / len(answers)))


def _within(item: Tried, n: int | None) -> list[Attempt]:
    used, kept = 0, []
    for attempt in until_success(item):
        used += attempt.queries
        if n is None or used <= n:
            kept.append(attempt)
    return kept


def over_answers(judge: Confusion, k: float) -> Confusion:
    """A judge's counts when one false alarm in any of `k` answers makes a false success.

    The specificity becomes Sp^k (errors taken as independent); the number of labelled non-events is shrunk so that its
    variance is that of the delta method, k² Sp^(2k-2) Var(Sp). Sensitivity stays: one true success must be seen.
    """
    n = judge.tn + judge.fp
    if k <= 1 or n == 0 or judge.fp == 0 or judge.tn == 0:
        return judge
    sp = judge.tn / n
    joint = sp**k
    shrunk = max(2, round(n * joint * (1 - joint) / (k**2 * sp ** (2 * k - 2) * sp * (1 - sp))))
    tn = min(shrunk, max(0, round(joint * shrunk)))
    return Confusion(tp=judge.tp, fn=judge.fn, tn=tn, fp=shrunk - tn)


def survival_curve(tried: Sequence[Tried], unit: Unit = "queries", level: float = 0.95) -> list[Survival]:
    """The share of behaviours that hold out beyond a budget. Behaviours without a single judged answer tell nothing and
    are left out."""
    judged = [t for t in tried if any(isinstance(a.outcome, Scored) for a in t.attempts)]
    times = [spent(until_success(t), unit) for t in judged]
    return kaplan_meier(times, [t.success is not None for t in judged], level)


def effort(tried: Sequence[Tried], unit: Unit = "queries") -> Effort:
    """Quartiles of what the successes cost."""
    costs = sorted(spent(until_success(t), unit) for t in tried if t.success is not None)
    if not costs:
        return Effort(unit=unit, successes=0, median=None, first_quartile=None, third_quartile=None)
    low, middle, high = statistics.quantiles(costs, n=4, method="inclusive") if len(costs) > 1 else costs * 3
    return Effort(unit=unit, successes=len(costs), median=middle, first_quartile=low, third_quartile=high)


def by_attack(tried: Sequence[Tried]) -> Mapping[str, list[Tried]]:
    """The results of each attack, and of each language apart (`attack @ko`) where it was tried in several."""
    several = {t.attack for t in tried if len({u.case.language for u in tried if u.attack == t.attack}) > 1}
    groups: dict[str, list[Tried]] = {}
    for item in tried:
        name = f"{item.attack} @{item.case.language}" if item.attack in several else item.attack
        groups.setdefault(name, []).append(item)
    return groups
