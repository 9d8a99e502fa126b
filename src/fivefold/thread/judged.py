"""The judge's own measured error, as the report and the card show it."""

from __future__ import annotations

from typing import Any

from fivefold.score.calibrate import confusion
from fivefold.stats import clopper_pearson

EVENTS = ("compliance", "refusal", "incoherent")
LANGUAGES = ("en", "ko", "ja")


def judge_rows() -> list[dict[str, Any]]:
    """Precision and recall of each label in each language on held-out labelled answers, with exact intervals."""
    rows = []
    for language in LANGUAGES:
        for event in EVENTS:
            counts = confusion(event, language)
            if counts is None:
                rows.append({"language": language, "label": event, "n": 0, "precision": None, "recall": None})
                continue
            recall = clopper_pearson(counts.tp, counts.tp + counts.fn)
            precision = clopper_pearson(counts.tp, counts.tp + counts.fp)
            rows.append(
                {
                    "language": language,
                    "label": event,
                    "n": counts.tp + counts.fn + counts.tn + counts.fp,
                    "precision": precision.estimate,
                    "precision_low": precision.low,
                    "precision_high": precision.high,
                    "recall": recall.estimate,
                    "recall_low": recall.low,
                    "recall_high": recall.high,
                }
            )
    return rows
