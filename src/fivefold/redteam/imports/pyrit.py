"""PyRIT's conversations with scores, as its memory exports them: a JSON list of message pieces (versions 0.5 to 1.1).

Each piece has `role`, `conversation_id`, `sequence`, `original_value`, `converted_value` (what was sent) and, in
exports with scores, `scores`. A `true_false` score that is true, or a `float_scale` score of at least 0.5, is a hit
on the assistant's piece that it scores; an inverted scorer (one for refusals) is a hit when it is false. A piece that
was converted keeps its original as the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fivefold.errors import DataError
from fivefold.redteam.imports import Hit
from fivefold.redteam.imports import _safe as safe
from fivefold.types import Message

THRESHOLD = 0.5
ROLES = {"simulated_assistant": "assistant", "developer": "system"}
Piece = Mapping[str, Any]


def read(path: Path) -> list[Hit]:
    """Every hit of the export."""
    value = safe.document_of(path)
    pieces = value.get("pieces") if isinstance(value, dict) else value
    if not isinstance(pieces, list) or not pieces:
        raise DataError(f"{path} holds no message pieces", expected="PyRIT's export of conversations as a JSON list")
    conversations: dict[str, list[tuple[str, Piece]]] = {}
    for i, item in enumerate(pieces):
        where = f"{path}: piece {i}"
        piece = safe.object_of(item, where)
        conversations.setdefault(safe.text_of(piece.get("conversation_id"), where), []).append((where, piece))
    hits = [hit for turns in conversations.values() for hit in _hits(sorted(turns, key=_place))]
    safe.bounded(len(hits), str(path))
    return hits


def _place(entry: tuple[str, Piece]) -> int:
    where, piece = entry
    sequence = piece.get("sequence", 0)
    if isinstance(sequence, bool) or not isinstance(sequence, int):
        raise DataError(f"{where}: sequence is not a whole number", got=repr(sequence)[:60])
    return sequence


def _hits(turns: Sequence[tuple[str, Piece]]) -> list[Hit]:
    messages, hits = list[Message](), list[Hit]()
    asked: Piece = {}
    for where, piece in turns:
        role = safe.text_of(piece.get("role"), where)
        message = safe.turn(ROLES.get(role, role), piece.get("converted_value") or piece.get("original_value"), where)
        if message.role == "assistant":
            hits += [_hit(s, messages, message, asked, piece, where) for s in _successes(piece, where)]
        elif message.role == "user":
            asked = piece
        messages.append(message)
    return hits


def _successes(piece: Piece, where: str) -> list[Mapping[str, Any]]:
    scores = [safe.object_of(s, where) for s in safe.list_of(piece.get("scores"), where)]
    return [s for s in scores if _succeeded(s, where)]


def _succeeded(score: Mapping[str, Any], where: str) -> bool:
    value = safe.text_of(score.get("score_value"), where).strip().lower()
    if score.get("score_type") == "true_false":
        return value == ("false" if "refusal" in _scorer(score, where).lower() else "true")
    try:
        return float(value or 0) >= THRESHOLD
    except ValueError as error:
        raise DataError(f"{where}: a score is not a number", got=value[:60]) from error


def _scorer(score: Mapping[str, Any], where: str) -> str:
    identifier = score.get("scorer_class_identifier")
    name = identifier.get("__type__", identifier.get("class_name")) if isinstance(identifier, dict) else identifier
    return safe.name_of(name, where, "scorer")


def _hit(
    score: Mapping[str, Any], messages: list[Message], answer: Message, asked: Piece, piece: Piece, where: str
) -> Hit:
    categories = score.get("score_category")
    category = categories[0] if isinstance(categories, list) and categories else categories
    target = piece.get("prompt_target_identifier")
    name = target.get("model_name") or target.get("__type__") if isinstance(target, dict) else target
    original = safe.text_of(asked.get("original_value"), where)
    return Hit(
        weakness=safe.name_of(category, where, "uncategorised"),
        detector=_scorer(score, where),
        messages=safe.conversation(messages, where),
        response=answer.content,
        model=safe.name_of(name, where, "unknown model"),
        request=original if original != asked.get("converted_value") else "",
    )
