"""Append-only records, artifacts by hash, signatures, bundles."""

from fivefold.evidence.artifacts import Artifact
from fivefold.evidence.bundle import export_bundle, verify_bundle
from fivefold.evidence.chain import Record
from fivefold.evidence.heads import Head
from fivefold.evidence.signing import Signer, sign, sign_statement, verify_envelope
from fivefold.evidence.store import Store
from fivefold.evidence.verify import Problem, VerifyReport, verify

__all__ = [
    "Artifact",
    "Head",
    "Problem",
    "Record",
    "Signer",
    "Store",
    "VerifyReport",
    "export_bundle",
    "sign",
    "sign_statement",
    "verify",
    "verify_bundle",
    "verify_envelope",
]
