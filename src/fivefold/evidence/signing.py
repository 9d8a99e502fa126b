"""DSSE envelopes and in-toto statements, signed with Ed25519.

Formats: DSSE v1.0 (secure-systems-lab/dsse, envelope.md and protocol.md) and in-toto Statement v1. The
pre-authentication encoding is computed here byte by byte; tests check it against the specification's own vector and the
statement against the reference package.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fivefold.errors import StoreError, TamperedError
from fivefold.types import canonical

IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"

Envelope = dict[str, Any]
"""`{payload: base64, payloadType, signatures: [{keyid, sig: base64}]}`"""


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding: what is really signed, so that type and payload cannot be mixed up."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True)
class Signer:
    """A private key that signs. `keyid` is the SHA-256 of the public key's DER form."""

    key: Ed25519PrivateKey

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What others verify with."""
        return self.key.public_key()

    @property
    def keyid(self) -> str:
        """The key's name in envelopes."""
        return keyid_of(self.public_key)

    def sign(self, payload_type: str, payload: bytes) -> Envelope:
        """A DSSE envelope around `payload`."""
        return {
            "payload": _b64(payload),
            "payloadType": payload_type,
            "signatures": [{"keyid": self.keyid, "sig": _b64(self.key.sign(pae(payload_type, payload)))}],
        }


def sign(payload_type: str, payload: bytes, signer: Signer) -> Envelope:
    """A DSSE envelope around `payload`."""
    return signer.sign(payload_type, payload)


def verify_envelope(envelope: Mapping[str, Any], *keys: Ed25519PublicKey, payload_type: str | None = None) -> bytes:
    """The payload, once one of `keys` is found to have signed it; TamperedError otherwise, or when it is of another
    type than asked. The `keyid` is a hint that the signer wrote and is not trusted: every key is tried on every
    signature."""
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        kind = str(envelope["payloadType"])
        message = pae(kind, payload)
        signatures = [base64.b64decode(s["sig"], validate=True) for s in envelope["signatures"]]
    except (KeyError, TypeError, binascii.Error, ValueError) as error:
        raise TamperedError("not a DSSE envelope", expected="payload, payloadType, signatures", got=error) from error
    if payload_type is not None and kind != payload_type:
        raise TamperedError("the envelope holds something else", expected=payload_type, got=kind)
    for key in keys:
        for signature in signatures:
            if _signed(key, signature, message):
                return payload
    named = ", ".join(str(s.get("keyid"))[:12] for s in envelope["signatures"])
    raise TamperedError(
        "the signature does not match",
        expected=f"signed by {', '.join(keyid_of(k)[:12] for k in keys) or 'a known key'}",
        got=f"{len(signatures)} signature(s) naming {named}",
        next_step="do not rely on this document; ask its owner for the original and the public key",
    )


def parse_payload(payload: bytes) -> dict[str, Any]:
    """The payload as an object; ValueError when it is none."""
    value = json.loads(payload)
    if not isinstance(value, dict):
        raise ValueError("the payload is not an object")
    return value


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """An in-toto Statement v1 as canonical JSON. `subjects` maps names to SHA-256 digests; at least one is needed."""
    if not subjects or not predicate_type or not predicate:
        raise StoreError("an in-toto statement needs a subject, a predicate type and a predicate")
    return canonical(
        {
            "_type": STATEMENT,
            "subject": [{"name": n, "digest": {"sha256": d}} for n, d in subjects.items()],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def sign_statement(
    subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any], signer: Signer
) -> Envelope:
    """An in-toto Statement v1 in a DSSE envelope."""
    return signer.sign(IN_TOTO, statement(subjects, predicate_type, predicate))


def keyid_of(key: Ed25519PublicKey) -> str:
    """SHA-256 of the key's DER form (SubjectPublicKeyInfo), as hex."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def public_pem(key: Ed25519PublicKey) -> str:
    """The public key as PEM text."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_public_keys(pems: Sequence[str | bytes]) -> list[Ed25519PublicKey]:
    """Ed25519 public keys from PEM texts; StoreError for anything else."""
    keys = []
    for pem in pems:
        try:
            key = load_pem_public_key(pem.encode() if isinstance(pem, str) else pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise StoreError("not a public key in PEM form", got=error) from error
        if not isinstance(key, Ed25519PublicKey):
            raise StoreError("this kind of key is not supported", expected="Ed25519", got=type(key).__name__)
        keys.append(key)
    return keys


def _signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
