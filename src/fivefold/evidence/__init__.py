"""Append-only records, artifacts by hash, signatures, bundles."""

from fivefold.evidence.artifacts import Artifact
from fivefold.evidence.chain import Record
from fivefold.evidence.heads import Head
from fivefold.evidence.signing import Signer, sign, sign_statement, verify_envelope
from fivefold.evidence.store import Store

__all__ = ["Artifact", "Head", "Record", "Signer", "Store", "sign", "sign_statement", "verify_envelope"]
