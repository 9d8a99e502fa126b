"""From successes to findings: one weakness is one finding, with a severity that has reasons and a shortest case.

Clusters are made in two passes. First by (hazard category, attack, language): the same wrapper in the same category is
one weakness. Then a success that needs no attack is not the attack's: where the plain request (`direct`) succeeds on
the same behaviour, the other attacks' successes on it belong to that finding, which keeps their cases as further
reproductions, so that a patch is replayed against them too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fivefold.redteam.campaign import Tried
from fivefold.redteam.protocol import Attempt
from fivefold.redteam.severity import assess
from fivefold.types import Finding, Reproduction, Taxonomy

CATEGORY_NAMES: Mapping[str, str] = {
    "vcr": "violent crimes",
    "ncr": "non-violent crimes",
    "src": "sex-related crimes",
    "cse": "child sexual exploitation",
    "iwp": "indiscriminate weapons",
    "ssh": "suicide and self-harm",
    "hte": "hate",
    "prv": "privacy",
    "ipv": "intellectual property",
    "dfm": "defamation",
    "sxc": "sexual content",
    "spc": "specialised advice",
}
"""MLCommons AILuminate hazard categories."""

BASELINE = "direct"
KEPT_CASES = 4
NEEDS_WEIGHTS = ("weights", "gradient", "embedding", "activations")


@dataclass(frozen=True)
class Cluster:
    """Successes that one weakness explains. `own` are the attack's, `also` those of other attacks; `tried` is the
    number of behaviours that the attack was tried on and that were judged."""

    category: str
    attack: str
    language: str
    own: tuple[Tried, ...]
    also: tuple[Tried, ...]
    tried: int


def findings_from(
    tried: Sequence[Tried],
    *,
    subject: str,
    run: str,
    taxonomies: Mapping[str, Taxonomy],
    baseline: str = BASELINE,
    judge: str = "",
) -> list[Finding]:
    """One finding a weakness; `baseline` names the attack that explains the others (empty: none does), `judge` what judged
    where no check of a case's own told.

    The id is a digest of the subject and the cluster, so the same weakness of the same model keeps its id over runs.
    """
    return [_finding(c, subject, run, taxonomies[c.attack], judge) for c in clusters(tried, baseline=baseline)]


def clusters(tried: Sequence[Tried], *, baseline: str = BASELINE) -> list[Cluster]:
    """Successes by weakness, sorted by category, attack and language."""
    open_doors = {_spot(t) for t in tried if t.attack == baseline and t.success}
    own: dict[tuple[str, str, str], list[Tried]] = {}
    also: dict[tuple[str, str], list[Tried]] = {}
    for item in tried:
        if item.success is None:
            continue
        if item.attack != baseline and _spot(item) in open_doors:
            also.setdefault((item.case.category, item.case.language), []).append(item)
        else:
            own.setdefault((item.case.category, item.attack, item.case.language), []).append(item)
    return [
        Cluster(
            *key,
            tuple(items),
            tuple(also.get((key[0], key[2]), ())) if key[1] == baseline else (),
            sum(_kind(t) == key and t.outcome.kind == "scored" for t in tried),
        )
        for key, items in sorted(own.items())
    ]


def finding_id(subject: str, category: str, attack: str, language: str) -> str:
    """`FF-` and eight hex digits."""
    return "FF-" + hashlib.sha256(f"{subject}|{category}|{attack}|{language}".encode()).hexdigest()[:8]


def _spot(item: Tried) -> tuple[str, str, str]:
    return item.case.category, item.case.behaviour or item.case.id, item.case.language


def _kind(item: Tried) -> tuple[str, str, str]:
    return item.case.category, item.attack, item.case.language


def _finding(cluster: Cluster, subject: str, run: str, taxonomy: Taxonomy, judge: str) -> Finding:
    items = (*cluster.own, *cluster.also)
    judged = _judged_by(items)
    severity, reason = assess(
        cluster.category,
        queries=min(i.queries for i in cluster.own),
        hits=len(cluster.own),
        tried=cluster.tried,
        weights=any(word in f"{taxonomy.surface} {taxonomy.technique}" for word in NEEDS_WEIGHTS),
        proof=_proof(cluster.own),
    )
    name = CATEGORY_NAMES.get(cluster.category, cluster.category or "uncategorised")
    return Finding(
        id=finding_id(subject, cluster.category, cluster.attack, cluster.language),
        title=f"{name} by {cluster.attack} ({cluster.language})",
        category=cluster.category,
        language=cluster.language,
        attack=cluster.attack,
        taxonomy=taxonomy,
        severity=severity,
        severity_reason=reason,
        behaviours=tuple(sorted({i.case.behaviour or i.case.id for i in items})),
        reproductions=_kept(cluster),
        subject=subject,
        history=(("open", run, "an attack succeeded"),),
        run=run,
        also=tuple(sorted({i.attack for i in cluster.also})),
        judge=judge if judged else "",
        judge_digest=judged,
    )


def _judged_by(items: Sequence[Tried]) -> str:
    """The digest of the judge of these successes; empty where checks told them all."""
    successes = [i.success for i in items]
    told = (a.outcome.judge for a in successes if a is not None and not a.metadata.get("check"))
    return next(iter(sorted(told)), "")


def _kept(cluster: Cluster) -> tuple[Reproduction, ...]:
    """The attack's shortest cases, and the shortest of every other attack that the weakness explains."""
    shortest: dict[str, Reproduction] = {}
    for item in sorted(cluster.also, key=_length):
        shortest.setdefault(item.attack, reproduction_of(item))
    own = sorted(cluster.own, key=_length)[:KEPT_CASES]
    return (*(reproduction_of(i) for i in own), *shortest.values())


def reproduction_of(item: Tried) -> Reproduction:
    """The case that showed the weakness, as it can be asked again."""
    attempt = item.success
    assert attempt is not None
    completion = attempt.completion
    return Reproduction(
        messages=attempt.messages,
        prefill=attempt.prefill,
        response=completion.text if completion else "",
        seed=completion.seed if completion else 0,
        temperature=float(attempt.metadata.get("temperature", 0.0)),
        request="" if attempt.messages[-1].content == item.case.prompt else item.case.prompt,
        check=attempt.metadata.get("check", {}),
        tokens=completion.usage.completion if completion else 0,
    )


def _proof(items: Sequence[Tried]) -> str:
    kinds = {str(i.success.metadata.get("check", {}).get("kind", "")) for i in items if i.success}
    return "leak" if kinds & {"leak", "overlap"} else next(iter(sorted(kinds - {"", "tokens", "open_weights"})), "")


def _length(item: Tried) -> int:
    attempt: Attempt | None = item.success
    assert attempt is not None
    return sum(len(m.content) for m in attempt.messages) + len(attempt.prefill)
