"""The nouns of fivefold: frozen values that flow between its layers. Standard library only."""

from fivefold.types._json import Json, canonical, digest, digest_bytes, plain
from fivefold.types.case import (
    Case,
    Completion,
    Likelihood,
    Message,
    Role,
    Split,
    StopReason,
    Usage,
    split_of,
    user_case,
)
from fivefold.types.decision import (
    Decision,
    DecisionKind,
    Fail,
    GateResult,
    Pass,
    Undecided,
    Verdict4,
    Waived,
)
from fivefold.types.finding import TRANSITIONS, Finding, Reproduction, Severity, Status, Taxonomy
from fivefold.types.measurement import Measurement, Safer
from fivefold.types.outcome import Errored, Outcome, Scored, Unscored, outcome_from_json
from fivefold.types.verdict import Action, Exchange, Stage, Verdict
from fivefold.types.version import ModelVersion, VersionKind

__all__ = [
    "TRANSITIONS",
    "Action",
    "Case",
    "Completion",
    "Decision",
    "DecisionKind",
    "Errored",
    "Exchange",
    "Fail",
    "Finding",
    "GateResult",
    "Json",
    "Likelihood",
    "Measurement",
    "Message",
    "ModelVersion",
    "Outcome",
    "Pass",
    "Reproduction",
    "Role",
    "Safer",
    "Scored",
    "Severity",
    "Split",
    "Stage",
    "Status",
    "StopReason",
    "Taxonomy",
    "Undecided",
    "Unscored",
    "Usage",
    "Verdict",
    "Verdict4",
    "VersionKind",
    "Waived",
    "canonical",
    "digest",
    "digest_bytes",
    "outcome_from_json",
    "plain",
    "split_of",
    "user_case",
]
