"""Costs and provenance: what the run took, exactly which files and evidence it rests on, and how to check them."""

from __future__ import annotations

from dataclasses import dataclass

from fivefold.web import text
from fivefold.web.data import CostData, part
from fivefold.web.names import version_title
from fivefold.web.sections.frame import Frame


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One step. `share` is its part of the longest step's time, for the bar."""

    step: str
    seconds: str
    requests: str
    tokens: str
    reused: bool
    share: float


@dataclass(frozen=True, kw_only=True)
class ProvenanceView:
    """Tables of shown text; an empty one is shown as "not measured"."""

    costs: tuple[CostRow, ...]
    total: tuple[str, str, str]
    identity: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str, str, str], ...]
    files: tuple[tuple[str, str, str], ...]
    scan: tuple[str, tuple[str, ...]]
    closure: tuple[tuple[str, str], ...]
    run: str


def view(frame: Frame) -> ProvenanceView:
    """Costs and provenance."""
    data = frame.data
    costs = data.get("costs") or []
    longest = max((c.get("seconds") or 0.0 for c in costs), default=0.0)
    model = part(data.get("model"))
    scan = model.get("scan") or {}
    return ProvenanceView(
        costs=tuple(_cost(c, longest) for c in costs),
        total=_total(costs),
        identity=_identity(frame),
        versions=_versions(frame),
        files=tuple(
            (f["path"], f.get("sha256") or text.NOT_MEASURED, text.size(f.get("bytes")))
            for f in model.get("files") or []
        ),
        scan=(scan.get("verdict") or text.NOT_MEASURED, tuple(scan.get("notes") or [])),
        closure=tuple(sorted((part(data.get("decision")).get("closure") or {}).items())),
        run=data.get("run") or "",
    )


def _cost(c: CostData, longest: float) -> CostRow:
    seconds = c.get("seconds")
    return CostRow(
        step=c["step"],
        seconds=text.duration(seconds),
        requests=text.count(c.get("requests")),
        tokens=text.count(c.get("tokens")),
        reused=bool(c.get("reused")),
        share=(seconds or 0.0) / longest if longest else 0.0,
    )


def _total(costs: list[CostData]) -> tuple[str, str, str]:
    seconds = [c["seconds"] for c in costs if c.get("seconds") is not None]
    requests = [c["requests"] for c in costs if c.get("requests") is not None]
    tokens = [c["tokens"] for c in costs if c.get("tokens") is not None]
    return (
        text.duration(sum(s for s in seconds if s is not None) if seconds else None),
        text.count(sum(n for n in requests if n is not None) if requests else None),
        text.count(sum(n for n in tokens if n is not None) if tokens else None),
    )


def _identity(frame: Frame) -> tuple[tuple[str, str], ...]:
    data = frame.data
    model, signature = part(data.get("model")), part(data.get("signature"))
    return (
        ("Run", data.get("run") or text.NOT_MEASURED),
        ("Plan", data.get("plan") or text.NOT_MEASURED),
        ("Made by", f"fivefold {data['fivefold_version']}" if data.get("fivefold_version") else text.NOT_MEASURED),
        ("Model", model.get("name") or text.NOT_MEASURED),
        ("Fingerprint as received", model.get("fingerprint") or text.NOT_MEASURED),
        ("Decision record", data.get("decision_record") or text.NOT_MEASURED),
        ("Signed with key", signature.get("key_id") or "not signed"),
    )


def _versions(frame: Frame) -> tuple[tuple[str, str, str, str], ...]:
    rows = frame.data.get("versions") or []
    names = {v["fingerprint"]: version_title(v["name"]) for v in rows if v.get("fingerprint")}
    return tuple(
        (
            version_title(v["name"]),
            v.get("kind") or text.NOT_MEASURED,
            v.get("fingerprint") or text.NOT_MEASURED,
            names.get(v.get("parent") or "", v.get("parent") or "none"),
        )
        for v in rows
    )
