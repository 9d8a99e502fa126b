"""Compare two runs or versions on the cases that both were asked: flipped cases first, paired tests after.

Every suite and language is one test, and all of them are one family: p-values are adjusted by Holm, so that a comparison
over many suites does not find a regression by asking often enough. Runs that were not asked alike (another prompt,
judge, length of answer) are not compared unless that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from fivefold.errors import UsageError
from fivefold.evidence import Store
from fivefold.stats import detectable_paired, holm, measure_change, non_inferior, sign_flip_p
from fivefold.thread.outcomes import Row, SuiteOutcomes, load
from fivefold.types import Measurement, Outcome, Scored

ALPHA = 0.05
EXIT_CODES = {"no regression found": 0, "non-inferior": 0, "regression": 3, "undecided": 4}
SETTINGS = ("max_new_tokens", "temperature", "seed", "stop", "dtype")
MAX_PAIRS = 2_000
"""Up to this many pairs the smallest difference that would have been found is worked out."""

Verdict: TypeAlias = Literal["regression", "improvement", "no regression found", "non-inferior", "undecided", "changed"]


def compare_runs(
    store: Store,
    a: str,
    b: str,
    *,
    alpha: float = ALPHA,
    margin: float | None = None,
    allow_different: bool = False,
) -> dict[str, Any]:
    """`a` and `b` are RUN or RUN:VERSION (base when left out); b is the newer.

    A test is a regression when b is worse, with a Holm-adjusted p of at most `alpha`. With a `margin`, each must also
    be shown to be worse by less than that (non-inferiority), else it is undecided. UsageError when the runs share no
    suite or were not asked alike.
    """
    before, after = ({s.suite: s for s in load(store, name)} for name in (a, b))
    shared = [name for name in before if name in after]
    if not shared:
        raise UsageError(f"{a} and {b} have no suite in common", got=f"{', '.join(before)} | {', '.join(after)}")
    different = [line for name in shared for line in differences(before[name], after[name])]
    if different and not allow_different:
        raise UsageError(
            f"{a} and {b} were not asked alike",
            got="; ".join(different[:6]),
            next_step="measure both alike, or compare all the same with --allow-different",
        )
    rows: list[dict[str, Any]] = []
    flips: list[dict[str, Any]] = []
    changed: list[str] = []
    for name in shared:
        made, flipped, other = _suite(before[name], after[name], b, alpha=alpha, margin=margin)
        rows, flips, changed = [*rows, *made], [*flips, *flipped], [*changed, *other]
    _judge(rows, alpha, margin)
    return {
        "a": a,
        "b": b,
        "verdict": verdict_of(rows, margin),
        "alpha": alpha,
        "margin": margin,
        "family": len(rows),
        "flipped": flips,
        "comparisons": rows,
        "different": different,
        "changed_cases": changed,
        "only_in_a": [n for n in before if n not in after],
        "only_in_b": [n for n in after if n not in before],
        "external": sorted({s.external for s in (*before.values(), *after.values()) if s.external}),
    }


def differences(a: SuiteOutcomes, b: SuiteOutcomes) -> list[str]:
    """What was not the same in how two runs were asked and judged, one line each."""
    lines = []
    if a.metric != b.metric:
        lines.append(f"{a.suite}: the metric is {a.metric} in one and {b.metric} in the other")
    if a.judge and b.judge and a.judge != b.judge:
        lines.append(f"{a.suite}: judged by {a.judge[:12]} and by {b.judge[:12]}")
    if stopped := [s.run for s in (a, b) if "stop_when" in s.settings]:
        lines.append(
            f"{a.suite}: {', '.join(stopped)} stopped when its answer was known, which these tests cannot correct"
        )
    for key in SETTINGS:
        if key in a.settings and key in b.settings and a.settings[key] != b.settings[key]:
            lines.append(f"{a.suite}: {key} was {a.settings[key]} and {b.settings[key]}")
    return lines


def verdict_of(rows: Sequence[Mapping[str, Any]], margin: float | None) -> str:
    """The worst word of all tests."""
    words = {row["verdict"] for row in rows}
    if "regression" in words:
        return "regression"
    if not rows or "undecided" in words:
        return "undecided"
    return "no regression found" if margin is None else "non-inferior"


def _suite(
    a: SuiteOutcomes, b: SuiteOutcomes, subject: str, *, alpha: float, margin: float | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Rows by language, flipped cases, and the cases whose text is not the same in both runs (they are left out)."""
    both = [i for i in a.rows if i in b.rows]
    other = [i for i in both if a.rows[i].case and b.rows[i].case and a.rows[i].case != b.rows[i].case]
    alike = [i for i in both if i not in set(other)]
    rows, flips = [], []
    for language in sorted({a.rows[i].language for i in alike}):
        ids = [i for i in alike if a.rows[i].language == language]
        change = _change(a, b, ids, subject, 1 - alpha)
        if change.estimate is None:
            continue
        rows.append(_row(a, b, ids, language, change, margin, alpha))
        flipped = [*change.metadata["rose"], *change.metadata["fell"]]
        worse = set(change.metadata["fell" if a.safer == "higher" else "rose"]) if a.safer != "neither" else set()
        flips += [
            {
                "suite": a.suite,
                "case": i,
                "a": _label(a.rows[i].outcome),
                "b": _label(b.rows[i].outcome),
                "worse": i in worse,
            }
            for i in flipped
        ]
    return rows, sorted(flips, key=lambda f: not f["worse"]), [f"{a.suite}: {i}" for i in other]


def _change(a: SuiteOutcomes, b: SuiteOutcomes, ids: Sequence[str], subject: str, level: float) -> Measurement:
    return measure_change(
        {i: a.rows[i].outcome for i in ids},
        {i: b.rows[i].outcome for i in ids},
        metric=a.metric,
        subject=subject,
        subject_name=subject,
        safer=a.safer,
        level=level,
        clusters={i: _cluster(i, a.rows[i]) for i in ids},
    )


def _cluster(id: str, row: Row) -> str:
    return row.behaviour or id


def _row(
    a: SuiteOutcomes,
    b: SuiteOutcomes,
    ids: Sequence[str],
    language: str,
    change: Measurement,
    margin: float | None,
    alpha: float,
) -> dict[str, Any]:
    pairs = [(i, x.value, y.value) for i in ids if (x := _scored(a, i)) and (y := _scored(b, i))]
    before, after = [x for _, x, _ in pairs], [y for _, _, y in pairs]
    clusters = [_cluster(i, a.rows[i]) for i, _, _ in pairs]
    p = change.metadata["p_value"]
    if p is None:
        p = sign_flip_p(before, after, clusters=clusters)
    shown = None
    if margin is not None and a.safer != "neither":
        # The bound is one-sided: an interval of level 1 - 2 alpha errs at each end with alpha.
        shown = non_inferior(before, after, margin, a.safer, 1 - 2 * alpha, clusters=clusters).shown
    differ = sum(x != y for _, x, y in pairs) / len(pairs)
    binary = all(v in (0, 1) for v in (*before, *after))
    return {
        "suite": a.suite,
        "metric": a.metric,
        "language": language,
        "safer": a.safer,
        "n": change.n_scored,
        "n_errored": change.n_errored,
        "n_unscored": change.n_unscored,
        "a": sum(before) / len(before),
        "b": sum(after) / len(after),
        "difference": change.estimate,
        "low": change.low,
        "high": change.high,
        "p_value": p,
        "non_inferior": shown,
        "detectable": detectable_paired(len(pairs), differ) if binary and differ and len(pairs) <= MAX_PAIRS else None,
    }


def _judge(rows: list[dict[str, Any]], alpha: float, margin: float | None) -> None:
    """Fill in the adjusted p and the word of every row."""
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]) if rows else (), strict=True):
        row["p_adjusted"] = float(adjusted)
        row["verdict"] = _verdict(row, alpha, margin)


def _verdict(row: Mapping[str, Any], alpha: float, margin: float | None) -> Verdict:
    difference = row["difference"]
    significant = row["p_adjusted"] <= alpha and difference != 0
    if row["safer"] == "neither":
        return "changed" if significant else "no regression found"
    worse = difference < 0 if row["safer"] == "higher" else difference > 0
    if significant and worse and not (margin is not None and row["non_inferior"]):
        return "regression"
    if margin is not None:
        return "non-inferior" if row["non_inferior"] else "undecided"
    return "improvement" if significant else "no regression found"


def _scored(found: SuiteOutcomes, id: str) -> Scored | None:
    outcome = found.rows[id].outcome
    return outcome if isinstance(outcome, Scored) else None


def _label(outcome: Outcome) -> str:
    return str(getattr(outcome, "label", outcome.kind))
