"""Proof that the evidence is whole, or the list of what was done to it.

What is checked, and what each check can show
- chain: every record's hash is that of its content, and names the hash of the one before. Shows edited and deleted
  records.
- heads: every signed anchor beside the database agrees with the chain. Shows a cut tail and a rewritten history.
- triggers: the database still refuses updates and deletes. Shows preparation for the above.
- signatures: every DSSE envelope in the ledger matches its record and a key of the store.
- steps: every step's result has the digest that was recorded with it.
- artifacts: every recorded file and folder is there with its content. Shows changed and missing ones.
- completions: every remembered answer has its digest.

Who holds the private key and the whole folder can forge all of it; against that, keep a head (`store.head()`) and the
public key elsewhere and pass them in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fivefold.errors import StoreError, TamperedError
from fivefold.evidence.chain import GENESIS, Record, natural_key, parse_body, record_from_json, rehash
from fivefold.evidence.heads import HEAD, Head
from fivefold.evidence.schema import TRIGGERS, completions, records
from fivefold.evidence.signing import IN_TOTO, parse_payload, read_public_keys, verify_envelope
from fivefold.evidence.store import Store
from fivefold.types import digest, digest_bytes

MOST_NAMED = 20
"""How many missing records in a row are listed one by one."""

ProblemKind: TypeAlias = Literal[
    "edited record",
    "deleted record",
    "rewritten history",
    "cut tail",
    "missing trigger",
    "bad signature",
    "unknown key",
    "changed artifact",
    "missing artifact",
    "changed result",
    "changed answer",
    "bad bundle",
]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong. `seq`, `id` and `record_kind` name the record it concerns, where there is one."""

    kind: ProblemKind
    message: str
    seq: int | None = None
    id: str = ""
    record_kind: str = ""

    def __str__(self) -> str:
        where = (
            f"record {self.seq} ({self.record_kind or 'gone'}, {self.id[:12] or 'id unknown'}): " if self.seq else ""
        )
        return f"{self.kind}: {where}{self.message}"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was checked and what was found. `counts` says how many of each thing were checked, `checked` their sum;
    `notes` hold what is not wrong but worth knowing."""

    ok: bool
    checked: int
    problems: tuple[Problem, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Findings:
    """Problems and counts as they are collected."""

    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: ProblemKind, message: str, record: Record | Stored | None = None) -> None:
        """Note a problem, with the record it concerns."""
        seq, id, of = (record.seq, record.hash, record.kind) if record else (None, "", "")
        self.problems.append(Problem(kind=kind, message=message, seq=seq, id=id, record_kind=of))

    def add_gone(self, kind: ProblemKind, message: str, first: int, last: int, known: Mapping[int, Head]) -> None:
        """Note records that are not there any more, named by their anchors where there are any."""
        for seq in range(first, min(last, first + MOST_NAMED - 1) + 1):
            head = known.get(seq)
            id, of = (head.hash, head.kind) if head else ("", "")
            self.problems.append(Problem(kind=kind, message=message, seq=seq, id=id, record_kind=of))
        if last - first >= MOST_NAMED:
            self.problems.append(Problem(kind=kind, message=f"and so are all up to record {last}: {message}"))

    def report(self) -> VerifyReport:
        """All of it, frozen."""
        return VerifyReport(
            ok=not self.problems,
            checked=sum(self.counts.values()),
            problems=tuple(self.problems),
            counts=dict(self.counts),
            notes=tuple(self.notes),
        )


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A row of the ledger as it lies there, its body unread."""

    seq: int
    kind: str
    run: str
    key: str
    body: str
    created_at: str
    prev: str
    hash: str

    def read(self) -> Record:
        """The record; ValueError when the body is not canonical JSON."""
        return Record(
            seq=self.seq,
            kind=self.kind,
            run=self.run,
            body=parse_body(self.body),
            created_at=self.created_at,
            prev=self.prev,
            hash=self.hash,
        )


def verify(store: Store, *, head: Head | None = None, public_key: str | None = None) -> VerifyReport:
    """Check everything in a store. `head` and `public_key` (PEM), kept elsewhere, make forgery by the holder of the
    folder visible too."""
    found = Findings()
    # The anchors are read before the ledger, so that records appended meanwhile do not look cut off.
    lines = list(store.heads.lines())
    rows = list(_rows(store))
    intact = [record for row in rows if (record := _check_content(row, found)) is not None]
    keys = _keys(store, intact, public_key, found)
    heads = _signed_heads(lines, keys, found)
    if head is not None:
        heads["the head kept elsewhere"] = head
    anchors = {h.seq: h for h in heads.values()}
    _check_chain(rows, anchors, found)
    _check_heads(rows, heads, found)
    _check_triggers(store, found)
    there = {row.hash for row in rows}
    for record in intact:
        check_signature(record, there, keys, found)
        check_result(record, found)
    _check_artifacts(store, intact, found)
    _check_completions(store, found)
    return found.report()


def _check_content(row: Stored, found: Findings) -> Record | None:
    """The record in a row, if it is what it claims to be."""
    found.counts["records"] += 1
    try:
        record = row.read()
    except ValueError:
        found.add("edited record", "its body is not the JSON that was written", row)
        return None
    if rehash(record) != row.hash:
        found.add("edited record", "its content does not have its hash", row)
        return None
    if natural_key(record.kind, record.body) != row.key:
        found.add("edited record", "its look-up key is not that of its body", row)
        return None
    return record


def _check_chain(rows: Sequence[Stored], anchors: Mapping[int, Head], found: Findings) -> None:
    """Whether every record follows the one before."""
    before: Stored | None = None
    for row in rows:
        expected, follows = (before.seq + 1, before.hash) if before else (1, GENESIS)
        if row.seq != expected:
            found.add_gone("deleted record", "it is not in the ledger any more", expected, row.seq - 1, anchors)
        elif row.prev != follows:
            message = f"its hash is {follows[:12]}, but the record after it follows {row.prev[:12]}"
            found.add("edited record", message, before or row)
        before = row


def _keys(store: Store, intact: Sequence[Record], given: str | None, found: Findings) -> list[Ed25519PublicKey]:
    """The key given, or else the store's own and those that the ledger introduced."""
    if given is not None:
        return read_public_keys([given])
    keys = [store.signer.public_key]
    for record in intact:
        if record.kind == "key":
            try:
                keys += read_public_keys([str(record.body.get("public_key"))])
            except StoreError:
                found.add("unknown key", "it holds no usable public key", record)
    return keys


def _signed_heads(
    lines: Sequence[tuple[int, Mapping[str, Any]]], keys: Sequence[Ed25519PublicKey], found: Findings
) -> dict[str, Head]:
    """The anchors that a known key signed, by where they are."""
    heads = {}
    for number, envelope in lines:
        found.counts["heads"] += 1
        try:
            payload = parse_payload(verify_envelope(envelope, *keys, payload_type=HEAD))
            heads[f"line {number} of heads.jsonl"] = Head(**payload)
        except (TamperedError, TypeError, ValueError) as error:
            what = error.what if isinstance(error, TamperedError) else "it does not hold a head"
            found.add("bad signature", f"line {number} of heads.jsonl: {what}")
    return heads


def _check_heads(rows: Sequence[Stored], heads: Mapping[str, Head], found: Findings) -> None:
    """Whether the ledger still reaches every anchor, and is there what it was."""
    by_seq = {row.seq: row for row in rows}
    last, top = max(by_seq, default=0), max((h.seq for h in heads.values()), default=0)
    if last > top:
        found.notes.append(f"{last - top} record(s) after the last anchor: a run was killed, or the anchors were cut")
    if last < top:
        where, head = next((w, h) for w, h in heads.items() if h.seq == top)
        message = f"the end was cut off: {where} says that on {head.at} the ledger reached {top}, now it ends at {last}"
        found.add_gone("cut tail", message, last + 1, top, {h.seq: h for h in heads.values()})
    for where, head in sorted(heads.items(), key=lambda item: item[1].seq):
        row = by_seq.get(head.seq)
        if row is not None and row.hash != head.hash:
            message = f"{where} says that on {head.at} it was {head.hash[:12]}: the ledger was rewritten here or before"
            found.add("rewritten history", message, row)
            return


def _check_triggers(store: Store, found: Findings) -> None:
    query = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'records'",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE tgrelid = 'records'::regclass AND tgenabled <> 'D'",
    }
    with store.database.read() as conn:
        there = set(conn.execute(sa.text(query[conn.dialect.name])).scalars())
    for trigger in TRIGGERS:
        found.counts["triggers"] += 1
        if trigger not in there:
            found.add("missing trigger", f"{trigger} is gone: the ledger no longer refuses changes")


def check_signature(record: Record, there: Collection[str], keys: Sequence[Ed25519PublicKey], found: Findings) -> None:
    """Whether a `signature` record holds an envelope, by a known key, on the record that it names, and that record is
    among those that are there (by hash)."""
    if record.kind != "signature":
        return
    found.counts["signatures"] += 1
    try:
        statement = parse_payload(verify_envelope(record.body["envelope"], *keys, payload_type=IN_TOTO))
        signed = record_from_json(statement["predicate"])
        digests = [s["digest"]["sha256"] for s in statement["subject"]]
    except TamperedError as error:
        found.add("bad signature", error.what, record)
        return
    except (StoreError, KeyError, TypeError, ValueError):
        found.add("bad signature", "it does not hold a statement about a record", record)
        return
    if signed.hash != record.body.get("record") or digests[:1] != [signed.hash] or rehash(signed) != signed.hash:
        found.add("bad signature", f"it signs another record than {str(record.body.get('record'))[:12]}", record)
    elif signed.hash not in there:
        found.add("bad signature", f"the record that it signs, {signed.hash[:12]}, is not in the ledger", record)


def check_result(record: Record, found: Findings) -> None:
    """Whether a step's result has the digest recorded with it."""
    if record.kind != "step":
        return
    found.counts["steps"] += 1
    if digest(record.body.get("result")) != record.body.get("outcomes"):
        found.add("changed result", f"the result of step {record.body.get('name')} does not have its digest", record)


def _check_artifacts(store: Store, intact: list[Record], found: Findings) -> None:
    wanted = {str(r.body["digest"]): r for r in intact if r.kind == "artifact"}
    for digest_, record in wanted.items():
        found.counts["artifacts"] += 1
        name = record.body.get("name")
        path = store.folder.locate(digest_)
        if path is None:
            found.add("missing artifact", f"{name} ({digest_[:12]}) is not in {store.folder.root}", record)
            continue
        try:
            now = store.folder.digest_of(path)
        except StoreError as error:
            found.add("changed artifact", f"{name} ({digest_[:12]}): {error.what}", record)
            continue
        if now != digest_:
            found.add("changed artifact", f"{name} ({digest_[:12]}) now has the content {now[:12]}", record)


def _check_completions(store: Store, found: Findings) -> None:
    query = sa.select(completions.c.key, completions.c.value, completions.c.digest)
    with store.database.read() as conn:
        for row in conn.execution_options(yield_per=1000).execute(query):
            found.counts["completions"] += 1
            if digest_bytes(row.value.encode()) != row.digest:
                found.add("changed answer", f"the remembered answer {row.key[:12]} does not have its digest")


def _rows(store: Store) -> Iterator[Stored]:
    """Every row in order, as one consistent state, without reading bodies."""
    with store.database.read() as conn:
        query = sa.select(records).order_by(records.c.seq)
        for row in conn.execution_options(yield_per=1000).execute(query):
            yield Stored(**row._mapping)
