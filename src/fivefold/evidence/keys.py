"""The Ed25519 key that a store signs with: made on first use, or brought by FIVEFOLD_SIGNING_KEY."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fivefold.errors import StoreError
from fivefold.evidence.signing import Signer, public_pem

ENVIRONMENT = "FIVEFOLD_SIGNING_KEY"


def signer_for(home: Path) -> Signer:
    """The key named by FIVEFOLD_SIGNING_KEY (a path, or the PEM itself), else that of `home/keys`, made if absent."""
    given = os.environ.get(ENVIRONMENT, "")
    if given.lstrip().startswith("-----BEGIN"):
        return Signer(_parse(given.encode(), ENVIRONMENT))
    path = Path(given) if given else home / "keys" / "signing.pem"
    if not given and not path.exists():
        _create(path)
    return Signer(_read(path))


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"the signing key {path} cannot be read", got=error.strerror, next_step=f"check the file, or {ENVIRONMENT}"
        ) from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreError(
            f"the signing key {path} can be read by others",
            expected="mode 0600",
            got=f"mode {stat.S_IMODE(mode):04o}",
            next_step=f"chmod 600 {path}",
        )
    return _parse(data, str(path))


def _parse(data: bytes, where: str) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StoreError(
            f"{where} holds no usable private key", expected="an unencrypted Ed25519 key in PEM form", got=error
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StoreError(f"{where} holds another kind of key", expected="Ed25519", got=type(key).__name__)
    return key


def _create(path: Path) -> None:
    """Write a new key beside its place and link it there, so that of two processes one wins and both read the same."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
            path.with_suffix(".pub.pem").write_text(public_pem(key.public_key()))
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    except OSError as error:
        raise StoreError(f"no signing key can be made at {path}", got=error.strerror) from error
