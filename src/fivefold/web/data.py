"""The data contract of the report: one plain JSON object that a run stores, and from which the page is made again.

Every field may be absent or None, except those marked `Required`; what is absent is shown as "not measured". Fields
that are not named here are kept and, in tables of rows, shown. Rates are proportions from 0 to 1, times are seconds,
intervals are `low` and `high` at the level that the measurement states (0.95 where a row states none).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Required, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from fivefold.errors import DataError
from fivefold.types import DecisionKind, Safer, Severity, Status, plain


class FileData(TypedDict, total=False):
    """One file of the model."""

    path: Required[str]
    sha256: str | None
    bytes: int | None


class ScanData(TypedDict, total=False):
    """What the scan of the model's files said."""

    verdict: str | None
    notes: list[str] | None


class ModelData(TypedDict, total=False):
    """The model as it was received."""

    name: Required[str]
    fingerprint: str | None
    files: list[FileData] | None
    scan: ScanData | None


class VersionData(TypedDict, total=False):
    """One model version: `base`, `patched`, `guarded`, `patched+guarded`. `parent`: a fingerprint, "" for the base."""

    name: Required[str]
    fingerprint: str | None
    parent: str | None
    kind: str | None


class MeasurementData(TypedDict, total=False):
    """`plain(Measurement)`. The last one of a metric, version and slice counts."""

    metric: Required[str]
    subject: str | None
    subject_name: str | None
    estimate: float | None
    low: float | None
    high: float | None
    level: float | None
    n_scored: int | None
    n_unscored: int | None
    n_errored: int | None
    unit: str | None
    safer: Safer | None
    slice: dict[str, str] | None
    id: str | None
    corrects: str | None


class VerdictData(TypedDict, total=False):
    """`plain` of Pass, Fail, Undecided or Waived."""

    kind: Required[Literal["pass", "fail", "undecided", "waived"]]
    reason: str | None
    missing: list[str] | None
    next_measurement: str | None
    extra_cases: int | None
    owner: str | None
    expiry: str | None


class GateResultData(TypedDict, total=False):
    """`plain(GateResult)`: one rule applied to one version."""

    rule: Required[str]
    verdict: Required[VerdictData]
    subject: str | None
    subject_name: str | None
    metric: str | None
    threshold: float | None
    bound: float | None
    measurement: str | None
    slice: dict[str, str] | None


class DecisionData(TypedDict, total=False):
    """`plain(Decision)`."""

    decision: Required[DecisionKind]
    subject: str | None
    subject_name: str | None
    reasons: list[str] | None
    gates: list[GateResultData] | None
    closure: dict[str, str] | None
    owner: str | None
    decided_at: str | None
    run: str | None
    next_measurement: str | None


class RuleData(TypedDict, total=False):
    """One rule of the gate file. Exactly one of `max` and `min`."""

    id: Required[str]
    metric: str | None
    slice: dict[str, str] | None
    max: float | None
    min: float | None
    min_n: int | None
    why: str | None


class GateFileData(TypedDict, total=False):
    """The gate file as JSON."""

    gate: str | None
    version: str | None
    description: str | None
    rules: list[RuleData] | None


class SignatureData(TypedDict, total=False):
    """Who signed the decision's record."""

    key_id: str | None
    record: str | None


class ComparisonData(TypedDict, total=False):
    """Two versions on the same cases. `difference` is `b` minus `a`; the lists name cases whose outcome flipped."""

    suite: Required[str]
    metric: Required[str]
    a: Required[str]
    b: Required[str]
    language: str | None
    n: int | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    to_safer: list[str] | None
    to_worse: list[str] | None


class AnswerData(TypedDict, total=False):
    """What one version answered and how it was judged. `label` None: not judged; `error` set: neither hit nor pass."""

    text: str | None
    label: str | None
    stop_reason: str | None
    error: str | None


class MessageData(TypedDict, total=False):
    """One turn."""

    role: Required[str]
    content: Required[str]


class TranscriptData(TypedDict, total=False):
    """One case with the answers of the versions. `attack` names the attack that made the prompt. `messages` is given
    where the conversation is more than the prompt."""

    prompt: Required[str]
    category: str | None
    language: str | None
    suite: str | None
    attack: str | None
    messages: list[MessageData] | None
    answers: dict[str, AnswerData] | None


class HeatCellData(TypedDict, total=False):
    """Attack success on one category. `cases` are transcript ids; without them, transcripts of the same category,
    attack and language are shown."""

    category: Required[str]
    attack: Required[str]
    language: str | None
    successes: int | None
    n: int | None
    errored: int | None
    unscored: int | None
    low: float | None
    high: float | None
    cases: list[str] | None


class TaxonomyData(TypedDict, total=False):
    """`plain(Taxonomy)`."""

    surface: str | None
    technique: str | None
    owasp: list[str] | None
    atlas: list[str] | None


class ReproductionData(TypedDict, total=False):
    """`plain(Reproduction)`."""

    messages: list[MessageData] | None
    prefill: str | None
    response: str | None
    seed: int | None


class FindingData(TypedDict, total=False):
    """`plain(Finding)`. `cause` may hold `sentence`, else `concept`, `layer`, `position`, `projection`, `threshold` and
    `percentile` (0 to 100, among harmful prompts of the language); other keys are listed as they are."""

    id: Required[str]
    title: Required[str]
    status: Required[Status]
    severity: Severity | None
    severity_reason: str | None
    category: str | None
    language: str | None
    attack: str | None
    taxonomy: TaxonomyData | None
    behaviours: list[str] | None
    reproductions: list[ReproductionData] | None
    cause: dict[str, Any] | None
    patches: list[str] | None
    history: list[list[str]] | None


class LayerData(TypedDict, total=False):
    """How well one method separates the concept at one layer, on held-out prompts."""

    layer: Required[int]
    method: Required[str]
    auroc: float | None
    low: float | None
    high: float | None


class BaselineData(TypedDict, total=False):
    """The same separation from the words of the prompt alone."""

    auroc: float | None
    low: float | None
    high: float | None


class ScoreData(TypedDict, total=False):
    """Where one prompt lies on the direction."""

    score: Required[float]
    group: Required[Literal["harmful", "benign", "finding"]]
    language: str | None


class ProbeData(TypedDict, total=False):
    """The internal cause: the direction that separates harmful from benign prompts."""

    concept: str | None
    position: str | int | None
    best_layer: int | None
    method: str | None
    rows: list[LayerData] | None
    text_baseline: BaselineData | None
    scores: list[ScoreData] | None
    threshold: dict[str, float] | None


class LossData(TypedDict, total=False):
    """Training loss after one step of one stage."""

    step: Required[float]
    loss: Required[float]
    stage: str | None


class TrainingData(TypedDict, total=False):
    """The weight patch."""

    losses: list[LossData] | None
    seconds: float | None
    examples: dict[str, int] | None


class GuardData(TypedDict, total=False):
    """The guard on held-out prompts: rows of `language`, `recall`, `fpr`; `recall_low`, `recall_high` … if known."""

    rows: list[dict[str, Any]] | None


class ClaimData(TypedDict, total=False):
    """`plain(Claim)`."""

    text: Required[str]
    basis: Required[Literal["measured", "recorded", "stated", "not measured"]]
    records: list[str] | None


class CardSectionData(TypedDict, total=False):
    """`plain(Section)`."""

    title: Required[str]
    claims: list[ClaimData] | None


class CardData(TypedDict, total=False):
    """`plain(Document)`."""

    title: str | None
    sections: list[CardSectionData] | None


class CostData(TypedDict, total=False):
    """What one step took. `reused`: its result was already in the store."""

    step: Required[str]
    seconds: float | None
    requests: int | None
    tokens: int | None
    reused: bool | None


class ReportData(TypedDict, total=False):
    """Everything the report shows. `judge` rows: `language`, `precision`, `recall`, `n` and whatever else is known."""

    run: str | None
    plan: str | None
    created_at: str | None
    fivefold_version: str | None
    seconds: float | None
    quick: bool | None
    model: ModelData | None
    decision: DecisionData | None
    decision_record: str | None
    signature: SignatureData | None
    versions: list[VersionData] | None
    measurements: list[MeasurementData] | None
    comparisons: list[ComparisonData] | None
    transcripts: dict[str, TranscriptData] | None
    heatmap: dict[str, list[HeatCellData]] | None
    findings: list[FindingData] | None
    probe: ProbeData | None
    training: TrainingData | None
    guard: GuardData | None
    judge: list[dict[str, Any]] | None
    gate_file: GateFileData | None
    card: CardData | None
    costs: list[CostData] | None
    limits: list[str] | None


def check(data: Mapping[str, Any]) -> ReportData:
    """`data` as plain JSON that keeps the contract; DataError names the first field that does not."""
    try:
        body = plain(data)
        _adapter().validate_python(body, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the whole"
        raise DataError(
            f"the report's data is malformed at {where}", expected=first["msg"], got=repr(first.get("input"))[:200]
        ) from error
    except (TypeError, ValueError) as error:
        raise DataError("the report's data is not plain JSON", got=error) from error
    return cast(ReportData, body)


def part(value: Mapping[str, object] | None) -> Mapping[str, Any]:
    """A part of the data, empty where it is absent."""
    return value or {}


@cache
def _adapter() -> TypeAdapter[ReportData]:
    return TypeAdapter(ReportData)
