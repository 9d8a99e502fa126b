"""The evidence store: one door to records, artifacts, remembered answers and the anchors that make them checkable."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fivefold.errors import StoreError
from fivefold.evidence import typed
from fivefold.evidence.artifacts import Artifact, ArtifactFolder
from fivefold.evidence.cache import CompletionCache
from fivefold.evidence.chain import Record, body_text, record_to_json
from fivefold.evidence.database import Database, store_error
from fivefold.evidence.heads import Head, Heads
from fivefold.evidence.keys import signer_for
from fivefold.evidence.ledger import Ledger, Writer, matches
from fivefold.evidence.signing import Signer, public_pem, sign_statement
from fivefold.types import Finding, Measurement, ModelVersion, Status, digest_bytes

DATABASE = "evidence.db"
HEADS = "heads.jsonl"
ARTIFACTS = "artifacts"
RECORD_PREDICATE = "urn:fivefold:record:v1"
"""in-toto predicate type of a signed record."""


class Store:
    """Append-only evidence in one folder (`FIVEFOLD_HOME`, default `.fivefold/`).

    Records are in SQLite there, or in the PostgreSQL database of `FIVEFOLD_DATABASE`; artifacts, keys and anchors are
    files. Any number of processes may use one store at a time; threads of one process may share one `Store`.
    """

    def __init__(self, home: Path, database: Database, signer: Signer) -> None:
        self.home = home
        self.database = database
        self.signer = signer
        self.ledger = Ledger(database)
        self.cache = CompletionCache(database)
        self.folder = ArtifactFolder(home / ARTIFACTS)
        self.heads = Heads(home / HEADS)

    @classmethod
    def open(cls, home: Path | str | None = None, url: str | None = None, *, create: bool = True) -> Store:
        """Open a store and bring its schema up to date; make it if it is not there, unless `create` is False (who
        wants to verify a store does not want a new one).

        Raises StoreError when the folder or database cannot be made, read or written, is something else, or was
        written by a newer fivefold.
        """
        folder = Path(home or os.environ.get("FIVEFOLD_HOME") or ".fivefold").expanduser().absolute()
        if not create and not folder.is_dir():
            raise StoreError(
                f"there is no evidence store at {folder}",
                next_step="run a plan first, or point FIVEFOLD_HOME to it",
            )
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise store_error(error, str(folder), "created") from error
        chosen = url or os.environ.get("FIVEFOLD_DATABASE") or f"sqlite:///{folder / DATABASE}"
        database = Database(chosen)
        try:
            database.migrate()
            store = cls(folder, database, signer_for(folder))
            store._introduce_key()
        except BaseException:
            database.close()
            raise
        return store

    def close(self) -> None:
        """Release the database."""
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Records

    def append(self, kind: str, body: Mapping[str, Any], *, run: str = "", signed: bool = False) -> Record:
        """Add a record at the end of the chain. `signed` adds a second one, of kind `signature`, that holds a DSSE
        envelope around an in-toto statement on the first."""
        with self._writing() as writer:
            record = writer.append(kind, body, run)
            if signed:
                self._sign(writer, record)
        return record

    def append_once(self, kind: str, body: Mapping[str, Any], *, run: str = "") -> Record:
        """The record of this run with exactly this body, added if there is none: work that is repeated after a kill
        leaves no second copy."""
        with self._writing() as writer:
            return writer.append_once(kind, body, run)

    def records(self, kind: str | None = None, run: str | None = None) -> list[Record]:
        """Records in order, of one kind or run where given."""
        return list(self.ledger.select(kind, run))

    def get(self, id_or_prefix: str) -> Record:
        """The record whose id starts with these digits (six at least)."""
        return self.ledger.get(id_or_prefix)

    def latest(self, kind: str, run: str | None = None, **filters: Any) -> Record | None:
        """The newest record of a kind whose body has these values."""
        newest_first = self.ledger.select(kind, run, newest_first=True)
        return next((r for r in newest_first if matches(r.body, filters)), None)

    def head(self) -> Head | None:
        """Where the chain ends now. Kept elsewhere, it shows any later change of what is there now."""
        last = self.ledger.last()
        return None if last is None else Head.of(last)

    def envelope(self, record_id: str) -> Mapping[str, Any] | None:
        """The DSSE envelope of a record that was appended `signed`."""
        found = self.ledger.by_key("signature", record_id)
        return found[-1].body["envelope"] if found else None

    # Artifacts

    def put_artifact(self, data: bytes | Path, *, name: str, media_type: str, run: str = "") -> Artifact:
        """Keep bytes, a file or a folder under its digest, and record that it exists."""
        artifact, files = self.folder.put(data, name)
        body = {
            "digest": artifact.digest,
            "name": name,
            "media_type": media_type,
            "size": artifact.size,
            "files": files,
        }
        self.append_once("artifact", body, run=run)
        return artifact

    def artifact(self, digest: str) -> Path:
        """Where an artifact lies; TamperedError when its content no longer has this digest."""
        return self.folder.find(digest)

    # Remembered answers

    def cached(self, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The remembered values of those keys that are known."""
        return self.cache.cached(keys)

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep one value, committed when this returns."""
        self.cache.remember(key, value)

    # Steps

    def step(self, key: str) -> Record | None:
        """The record of a finished step; its result is `record.body["result"]`."""
        done = [r for r in self.ledger.by_key("step", key) if r.body.get("status") == "done"]
        return done[-1] if done else None

    def finish_step(self, key: str, name: str, result: Mapping[str, Any], *, run: str = "") -> Record:
        """Record that a step is done, with its result and the digest of it."""
        outcomes = digest_bytes(body_text("step", result).encode())
        body = {"key": key, "name": name, "status": "done", "result": result, "outcomes": outcomes}
        return self.append("step", body, run=run)

    # Nouns

    def add_measurement(self, measurement: Measurement) -> Measurement:
        """Record a measurement, once per run; the same with its id filled in."""
        return self.add_measurements([measurement])[0]

    def add_measurements(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        """Record several measurements in one transaction: all of them or, after a kill, none."""
        with self._writing() as writer:
            records = [writer.append_once("measurement", typed.body_of(m), m.run) for m in measurements]
        return [typed.measurement_of(r) for r in records]

    def measurements(self, run: str | None = None, *, history: bool = False, **filters: Any) -> list[Measurement]:
        """Measurements whose fields have these values (`slice={"language": "ko"}` matches any slice with it). Of those
        that measure the same thing in the same run only the last is given, unless `history`."""
        return typed.select_measurements(self.records("measurement", run), filters, history=history)

    def add_finding(self, finding: Finding) -> Finding:
        """Record a new finding, or that a known one (same id) was seen again; the finding as it stands."""
        with self._writing() as writer:
            return typed.add_finding(writer, finding)

    def update_finding(
        self,
        id: str,
        status: Status | None = None,
        *,
        evidence: str = "",
        reason: str = "",
        run: str = "",
        **changes: Any,
    ) -> Finding:
        """Record the next state of a finding: a status that TRANSITIONS allows, with a reason and the id of the record
        it rests on, and new values of its other fields (`cause`, `patches`, `severity` …)."""
        with self._writing() as writer:
            return typed.update_finding(
                writer, id, status=status, evidence=evidence, reason=reason, run=run, changes=changes
            )

    def findings(self, run: str | None = None, status: Status | None = None) -> list[Finding]:
        """Every finding in its present state; with `run`, those that it found, saw again or changed."""
        found = [typed.finding_of(r) for r in self.ledger.latest_by_key("finding")]
        if run is not None:
            touched = {r.body["id"] for r in self.records("finding", run)}
            touched |= {r.body["finding"] for r in self.records("sighting", run)}
            found = [f for f in found if f.id in touched]
        return [f for f in found if status is None or f.status == status]

    def add_version(self, version: ModelVersion) -> ModelVersion:
        """Record a model version, once; StoreError when its parent is not known."""
        known = {v.id for v in self.versions()}
        if version.parent and version.parent not in known:
            raise StoreError(
                f"the parent {version.parent[:12]} of {version.name} is not in the store",
                next_step="add the parent first",
            )
        self.append_once("version", typed.body_of(version), run=version.created_by)
        return version

    def versions(self) -> list[ModelVersion]:
        """Every model version in its latest description, in the order in which they were first added."""
        return [typed.version_of(r) for r in self.ledger.latest_by_key("version")]

    # Anchors and keys

    def _sign(self, writer: Writer, record: Record) -> None:
        envelope = sign_statement(_subjects(record), RECORD_PREDICATE, record_to_json(record), self.signer)
        body = {"record": record.hash, "keyid": self.signer.keyid, "envelope": envelope}
        writer.append("signature", body, record.run)

    def _introduce_key(self) -> None:
        body = {"keyid": self.signer.keyid, "public_key": public_pem(self.signer.public_key), "algorithm": "ed25519"}
        if not self.ledger.has_key("key", self.signer.keyid):
            self.append_once("key", body)

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        """A write transaction whose records are anchored once they are in."""
        with self.ledger.writing() as writer:
            yield writer
        if writer.appended:
            self.heads.anchor(writer.appended, self.signer)


def _subjects(record: Record) -> dict[str, str]:
    """What a signed record is about: itself and, where it names one, the model version by its fingerprint."""
    subjects = {f"{record.kind}/{record.seq}": record.hash}
    model = str(record.body.get("subject", ""))
    if len(model) == 64:
        subjects[f"model/{record.body.get('subject_name', '')}"] = model
    return subjects
