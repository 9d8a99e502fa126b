"""Which judge tells whether a finding still shows: the one that judged it when it was found, or the one that is named now.

Another judge may call the same answer otherwise, so no judge stands in for the one that is recorded. Where that one is not
at hand (its model or file is missing, or it is not the same any more), what only it could tell stays unscored, and the
reason says how to go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fivefold.errors import FivefoldError
from fivefold.evidence import Store
from fivefold.redteam.replay import Replayed, replay
from fivefold.registry import named
from fivefold.runtime.protocol import Model
from fivefold.score.protocol import Scorer
from fivefold.thread.harmbench import CLASSIFIER
from fivefold.thread.harmbench import judge_of as harmbench_judge
from fivefold.thread.judging import judge_named
from fivefold.types import Case, Completion, Finding, Outcome, Scored, Unscored, digest


@dataclass(frozen=True)
class Absent:
    """Stands where a judge is not at hand, and judges nothing."""

    reason: str
    name: str = "absent"
    digest: str = ""

    def __call__(self, case: Case, completion: Completion) -> Outcome:
        """Unscored, with the reason."""
        return Unscored(reason=self.reason)


class FindingJudges:
    """The judges of findings, each loaded once. `override` names one that judges them all."""

    def __init__(self, store: Store, override: str | None = None) -> None:
        self.store, self.override = store, override
        self._known: dict[str, Scorer | FivefoldError] = {}
        if override is not None and isinstance(failed := self._loaded(override), FivefoldError):
            raise failed

    def of(self, finding: Finding) -> Scorer:
        """The judge that decides about `finding`, or `Absent` with the reason."""
        spec = self.override or finding.judge
        if not spec:
            return Absent("no judge is recorded with this finding: name one by --judge (refusal: the shipped rules)")
        found = self._loaded(spec)
        if isinstance(found, FivefoldError):
            return Absent(f"its judge {spec} is not at hand: {found.what}; bring it, or name another by --judge")
        if self.override is None and finding.judge_digest not in ("", found.digest):
            return Absent(
                f"its judge {spec} is not the one that it was ({finding.judge_digest[:8]}, now {found.digest[:8]}): name it "
                "by --judge to let it judge as it is now"
            )
        return found

    def replay(self, findings: Sequence[Finding], target: Model) -> list[Replayed]:
        """Every finding's stored cases, told by its own judge; in order. What no judge at hand can tell is not asked."""
        groups: dict[str, tuple[Scorer, list[Finding]]] = {}
        for finding in findings:
            judge = self.of(finding)
            groups.setdefault(getattr(judge, "reason", judge.digest), (judge, []))[1].append(finding)
        done: dict[str, Replayed] = {}
        for judge, group in groups.values():
            again = _checks_alone(group, target, judge) if isinstance(judge, Absent) else replay(group, target, judge)
            done.update({row.finding.id: row for row in again})
        return [done[f.id] for f in findings]

    def digest(self, findings: Iterable[Finding]) -> str:
        """The digest of the judge of these findings, or of all of theirs together."""
        found = sorted({d for f in findings if (d := self.of(f).digest)})
        return found[0] if len(found) == 1 else digest(found)

    def _loaded(self, spec: str) -> Scorer | FivefoldError:
        if spec not in self._known:
            try:
                self._known[spec] = _judge(spec, self.store)
            except FivefoldError as error:
                self._known[spec] = error
        return self._known[spec]


def _judge(spec: str, store: Store) -> Scorer:
    name, options = named(spec) or (spec, {})
    if name == CLASSIFIER:
        return harmbench_judge(str(options.get("model")), Path(str(options.get("prompt"))))[0]
    return judge_named(spec, store)


def _checks_alone(findings: Sequence[Finding], target: Model, absent: Absent) -> list[Replayed]:
    """Replay the cases that a check of their own tells. A finding with other cases beside is unscored, unless one of
    these succeeds."""
    checked = [replace(f, reproductions=tuple(r for r in f.reproductions if r.check)) for f in findings]
    done = {r.finding.id: r for r in replay([f for f in checked if f.reproductions], target, absent)}
    rows = []
    for finding, told in zip(findings, checked, strict=True):
        row = done.get(finding.id, Replayed(finding=finding, outcome=Unscored(reason=absent.reason), completions=()))
        clean = isinstance(row.outcome, Scored) and row.outcome.value < 0.5
        if clean and len(told.reproductions) < len(finding.reproductions):
            row = replace(row, outcome=Unscored(reason=absent.reason))
        rows.append(replace(row, finding=finding))
    return rows
