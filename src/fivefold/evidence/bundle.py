"""One run's evidence as one file that anyone can check without the store.

A bundle is a zip of
- `manifest.json`: what is inside (path, sha256, size), the run, the head of the ledger, what was left out;
- `manifest.dsse.json`: the manifest again, in a DSSE envelope signed with the store's key;
- `public_key.pem`: that key; who wants to trust it compares it with one from its owner;
- `records.jsonl`: the run's records and every record they name, directly or through others;
- `links.jsonl`: seq, prev and hash of every record of the ledger, so that the place of each record shows;
- `artifacts/<digest>` or `artifacts/<digest>/…`: the artifacts that those records name, up to a size.
"""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import sqlalchemy as sa

from fivefold.errors import StoreError, TamperedError
from fivefold.evidence.artifacts import listing
from fivefold.evidence.chain import GENESIS, Record, now, record_from_json, record_to_json, rehash
from fivefold.evidence.database import store_error
from fivefold.evidence.heads import Head
from fivefold.evidence.schema import records
from fivefold.evidence.signing import parse_payload, public_pem, read_public_keys, verify_envelope
from fivefold.evidence.store import Store
from fivefold.evidence.verify import Findings, VerifyReport, check_result, check_signature
from fivefold.types import canonical, digest, plain

FORMAT = "fivefold-bundle/1"
MANIFEST = "application/vnd.fivefold.bundle+json"
"""DSSE payload type of a bundle's manifest."""

EPOCH = (1980, 1, 1, 0, 0, 0)
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a bundle may hold. `artifact` bytes is the largest artifact that is exported. On reading, more than `files`
    entries, `total` bytes unpacked, `text` bytes in one of the JSON files, or an entry that unpacks to more than
    `ratio` times its packed size is taken for an attack."""

    artifact: int = 50_000_000
    files: int = 20_000
    total: int = 4_000_000_000
    text: int = 500_000_000
    ratio: int = 1_000


def export_bundle(store: Store, run: str, out: Path, *, limits: Limits | None = None) -> Path:
    """Write the evidence of a run to `out`; StoreError for an unknown run or a place that cannot be written.

    Artifacts over `limits.artifact` are named in the manifest with their digest and left out.
    """
    bounds = limits or Limits()
    chosen = closure(store, run)
    if not any(r.run == run for r in chosen):
        raise StoreError(f"no records of run {run!r}", next_step="fivefold measurements lists the runs")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=".bundle-", delete=False) as file:
            temporary = Path(file.name)
            try:
                _write(store, run, chosen, file, bounds)
                file.flush()
                temporary.replace(out)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise store_error(error, str(out), "written") from error
    return out


def verify_bundle(path: Path, *, public_key: str | None = None, limits: Limits | None = None) -> VerifyReport:
    """Check a bundle without unpacking it to disk. `public_key` (PEM) is the key that must have signed it; without one
    the bundle's own key is used and a note says that nobody vouches for it.

    A file that is no zip, or is built to harm whoever opens it, is a report with problems, not an exception; StoreError
    only when the file cannot be read at all.
    """
    found = Findings()
    try:
        with zipfile.ZipFile(path) as archive:
            _check_shape(archive, limits or Limits())
            _check_bundle(archive, public_key, found)
    except OSError as error:
        raise store_error(error, str(path), "read") from error
    except TamperedError as error:
        found.add("bad bundle", error.what)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, NotImplementedError, EOFError) as error:
        found.add("bad bundle", f"not a readable zip: {error}")
    except (KeyError, TypeError, ValueError, StoreError, RecursionError) as error:
        found.add("bad bundle", f"not in the form of a bundle: {type(error).__name__} {error}".strip())
    return found.report()


def closure(store: Store, run: str) -> list[Record]:
    """The run's records and all that they name by id or digest, and what those name, in order."""
    by_id: dict[str, Record] = {}
    by_artifact: dict[str, Record] = {}
    by_subject: dict[str, list[Record]] = {}
    for record in store.ledger.select():
        by_id[record.id] = record
        if record.kind == "artifact":
            by_artifact[str(record.body["digest"])] = record
        if record.kind in ("signature", "version"):
            by_subject.setdefault(str(record.body.get("record") or record.body.get("id")), []).append(record)
    waiting = [r for r in by_id.values() if r.run == run or r.kind == "key"]
    chosen: dict[str, Record] = {}
    while waiting:
        record = waiting.pop()
        if record.id in chosen:
            continue
        chosen[record.id] = record
        for name in (*_digests(record.body), record.id):
            waiting += [r for r in (by_id.get(name), by_artifact.get(name)) if r is not None]
            waiting += by_subject.get(name, [])
    return sorted(chosen.values(), key=lambda r: r.seq)


def _digests(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) == 64 and all(c in "0123456789abcdef" for c in value):
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _digests(key)
            yield from _digests(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _digests(item)


def _write(store: Store, run: str, chosen: list[Record], file: IO[bytes], limits: Limits) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        files: dict[str, dict[str, Any]] = {}
        _add(archive, files, "records.jsonl", _lines(record_to_json(r) for r in chosen))
        head, links = _links(store)
        _add(archive, files, "links.jsonl", _lines(links))
        left_out = [e for r in chosen if r.kind == "artifact" for e in _add_artifact(store, archive, files, r, limits)]
        manifest = {
            "format": FORMAT,
            "run": run,
            "created_at": now(),
            "head": plain(head),
            "keyid": store.signer.keyid,
            "files": files,
            "left_out": left_out,
        }
        envelope = store.signer.sign(MANIFEST, canonical(manifest))
        _put(archive, "manifest.json", canonical(manifest))
        _put(archive, "manifest.dsse.json", canonical(envelope))
        _put(archive, "public_key.pem", public_pem(store.signer.public_key).encode())


def _links(store: Store) -> tuple[Head, list[dict[str, Any]]]:
    c = records.c
    with store.database.read() as conn:
        rows = conn.execute(sa.select(c.seq, c.prev, c.hash, c.created_at, c.kind).order_by(c.seq)).all()
    last = rows[-1]
    head = Head(seq=last.seq, hash=last.hash, at=last.created_at, kind=last.kind)
    return head, [{"seq": r.seq, "prev": r.prev, "hash": r.hash} for r in rows]


def _add_artifact(
    store: Store, archive: zipfile.ZipFile, files: dict[str, dict[str, Any]], record: Record, limits: Limits
) -> list[dict[str, Any]]:
    """Put one artifact in, or say why it is left out."""
    digest_ = str(record.body["digest"])
    entry = {"digest": digest_, "name": record.body["name"], "size": record.body["size"]}
    if record.body["size"] > limits.artifact:
        return [{**entry, "reason": f"larger than {limits.artifact} bytes"}]
    if store.folder.locate(digest_) is None:
        return [{**entry, "reason": "not in the store"}]
    path = store.artifact(digest_)
    inside = {f"artifacts/{digest_}": path}
    if path.is_dir():
        inside = {f"artifacts/{digest_}/{e['path']}": path / e["path"] for e in listing(path)}
    for name, source in inside.items():
        if name not in files:
            _add(archive, files, name, source.read_bytes())
    return []


def _add(archive: zipfile.ZipFile, files: dict[str, dict[str, Any]], name: str, data: bytes) -> None:
    _put(archive, name, data)
    files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    archive.writestr(entry, data)


def _lines(values: Any) -> bytes:
    return b"".join(canonical(v) + b"\n" for v in values)


def _check_shape(archive: zipfile.ZipFile, limits: Limits) -> None:
    """Refuse what could harm, from the directory alone: names that leave the folder, links, doubles, bombs."""
    entries = archive.infolist()
    if len(entries) > limits.files:
        raise TamperedError(f"{len(entries)} entries, at most {limits.files} are read")
    if len({e.filename for e in entries}) != len(entries):
        raise TamperedError("two entries have the same name")
    if sum(e.file_size for e in entries) > limits.total:
        raise TamperedError(f"it unpacks to more than {limits.total} bytes")
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if not parts or ".." in parts or parts[0] == "/" or "\\" in entry.filename or ":" in parts[0]:
            raise TamperedError(f"the entry {entry.filename!r} points outside of the bundle")
        mode = entry.external_attr >> 16
        if entry.is_dir() or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)):
            raise TamperedError(f"the entry {entry.filename!r} is not a plain file")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise TamperedError(f"the entry {entry.filename!r} is encrypted or packed in an unusual way")
        if entry.file_size > limits.ratio * max(entry.compress_size, 1) + CHUNK:
            raise TamperedError(f"the entry {entry.filename!r} unpacks to {entry.file_size} bytes: a bomb")
        if not entry.filename.startswith("artifacts/") and entry.file_size > limits.text:
            raise TamperedError(f"the entry {entry.filename!r} is larger than {limits.text} bytes")


def _check_bundle(archive: zipfile.ZipFile, public_key: str | None, found: Findings) -> None:
    own = _read(archive, "public_key.pem").decode()
    keys = read_public_keys([public_key or own])
    if public_key is None:
        found.notes.append("checked with the bundle's own key: compare its public_key.pem with one from its owner")
    raw = _read(archive, "manifest.json")
    found.counts["signatures"] += 1
    try:
        signed = verify_envelope(parse_payload(_read(archive, "manifest.dsse.json")), *keys, payload_type=MANIFEST)
    except TamperedError as error:
        found.add("bad signature", f"manifest.dsse.json: {error.what}")
        return
    if signed != raw:
        found.add("bad signature", "manifest.json is not what was signed")
        return
    manifest = parse_payload(raw)
    if manifest.get("format") != FORMAT:
        found.add("bad bundle", f"of format {manifest.get('format')!r}, this reads {FORMAT}")
        return
    _check_files(archive, manifest["files"], found)
    _check_records(archive, manifest, keys, found)


def _check_files(archive: zipfile.ZipFile, files: Mapping[str, Mapping[str, Any]], found: Findings) -> None:
    there = set(archive.namelist())
    for name in sorted(there - {*files, "manifest.json", "manifest.dsse.json", "public_key.pem"}):
        found.add("bad bundle", f"{name} is not in the manifest")
    for name, entry in files.items():
        found.counts["files"] += 1
        if name not in there:
            found.add("missing artifact", f"{name} is not in the bundle")
            continue
        hasher = hashlib.sha256()
        for chunk in _chunks(archive, name):
            hasher.update(chunk)
        if hasher.hexdigest() != entry["sha256"]:
            found.add("changed artifact", f"{name} does not have its digest")


def _check_records(archive: zipfile.ZipFile, manifest: Mapping[str, Any], keys: list[Any], found: Findings) -> None:
    links = [json.loads(line) for line in _read(archive, "links.jsonl").splitlines()]
    _check_links(links, manifest["head"], found)
    by_seq = {link["seq"]: link for link in links}
    there = {str(link["hash"]) for link in links}
    read = [record_from_json(json.loads(line)) for line in _read(archive, "records.jsonl").splitlines()]
    introduced = read_public_keys([str(r.body.get("public_key")) for r in read if r.kind == "key"])
    for record in read:
        found.counts["records"] += 1
        if rehash(record) != record.hash:
            found.add("edited record", "its content does not have its hash", record)
        elif by_seq.get(record.seq) != {"seq": record.seq, "prev": record.prev, "hash": record.hash}:
            found.add("edited record", "it is not the one at its place in the ledger", record)
        else:
            check_signature(record, there, [*keys, *introduced], found)
            check_result(record, found)
            _check_artifact(record, manifest, found)


def _check_links(links: list[Any], head: Mapping[str, Any], found: Findings) -> None:
    before: Mapping[str, Any] = {"seq": 0, "hash": GENESIS}
    for link in links:
        found.counts["links"] += 1
        if link["seq"] != before["seq"] + 1 or link["prev"] != before["hash"]:
            found.add("bad bundle", f"links.jsonl: record {link['seq']} does not follow record {before['seq']}")
            return
        before = link
    if (before["seq"], before["hash"]) != (head["seq"], head["hash"]):
        found.add("bad bundle", "links.jsonl does not end at the head that the manifest names")


def _check_artifact(record: Record, manifest: Mapping[str, Any], found: Findings) -> None:
    if record.kind != "artifact":
        return
    found.counts["artifacts"] += 1
    digest_ = str(record.body["digest"])
    if digest_ in {e["digest"] for e in manifest["left_out"]}:
        found.notes.append(f"artifact {record.body['name']} ({digest_[:12]}) was left out")
        return
    root = f"artifacts/{digest_}"
    files: Mapping[str, Any] = manifest["files"]
    inside = [
        {"path": n[len(root) + 1 :], "sha256": f["sha256"], "size": f["size"]}
        for n, f in files.items()
        if n.startswith(f"{root}/")
    ]
    now_ = digest(sorted(inside, key=lambda e: str(e["path"]))) if inside else files.get(root, {}).get("sha256")
    if now_ != digest_:
        found.add(
            "changed artifact", f"{record.body['name']} ({digest_[:12]}) is not in the bundle as recorded", record
        )


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    return b"".join(_chunks(archive, name))


def _chunks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """An entry piece by piece: a single read would unpack all that is there, whatever size the directory declares."""
    with archive.open(name) as file:
        while chunk := file.read(CHUNK):
            yield chunk
