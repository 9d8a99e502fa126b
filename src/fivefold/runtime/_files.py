"""From the name of a local model to a folder of safetensors that has been scanned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivefold.errors import MissingExtraError, ModelError, ModelFileError
from fivefold.runtime import embedded
from fivefold.runtime._cache import file_digest
from fivefold.runtime._gguf import Conversion
from fivefold.runtime.scan import ScanReport, scan_model

WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A local folder that transformers can read, and the files whose bytes are the weights."""

    folder: Path
    weights: tuple[Path, ...]


def resolve(spec: str, *, revision: str | None = None, trust: bool = False) -> Source:
    """The folder behind `smollm2`, `hf:org/name[@revision]`, a folder or a GGUF file; refuses what the scan blocks."""
    if spec == embedded.NAME:
        return _embedded(trust)
    if spec.startswith("hf:"):
        repository, _, pinned = spec.removeprefix("hf:").partition("@")
        return _folder(download(repository, pinned or revision), trust)
    path = Path(spec).expanduser()
    if path.suffix == ".gguf":
        refuse(scan_model(path), trust)
        return _converted(path, file_digest(path))
    return _folder(path, trust)


def refuse(report: ScanReport, trust: bool) -> None:
    """Raise ModelFileError unless the scan is clean, or inconclusive and trusted."""
    if report.verdict == "clean" or (report.verdict == "inconclusive" and trust):
        return
    worst = [i for i in report.issues if i.level == report.verdict]
    raise ModelFileError(
        f"{report.path} is {report.verdict} by the scan and was not loaded",
        expected="safetensors or GGUF without executable content",
        got="; ".join(f"{i.file}: {i.what}" for i in worst[:3]) or "nothing that could be scanned",
        next_step="trust=True loads it after you have looked"
        if report.verdict == "inconclusive"
        else "fivefold models scan shows every file",
    )


def _embedded(trust: bool) -> Source:
    path = embedded.find()
    if path is None:
        try:
            return _folder(download(embedded.HUB, None), trust)
        except ModelError as error:
            raise embedded.missing() from error
    sha256 = file_digest(path)
    embedded.check(path, sha256)
    return _converted(path, sha256)


def _converted(path: Path, sha256: str) -> Source:
    folder = Conversion(path, sha256).ensure()
    return Source(folder=folder, weights=(path,))


def _folder(path: Path, trust: bool) -> Source:
    if not (path / "config.json").is_file():
        raise ModelFileError(
            f"{path} is not a model folder", expected="config.json, *.safetensors and a tokenizer", got=_listing(path)
        )
    refuse(scan_model(path), trust)
    weights = tuple(sorted(path.glob("*.safetensors")))
    if not weights:
        raise ModelFileError(
            f"{path} holds no safetensors", got=_listing(path), next_step="convert the weights to safetensors first"
        )
    return Source(folder=path, weights=weights)


def _listing(path: Path) -> str:
    try:
        names = sorted(p.name for p in path.iterdir())
    except OSError as error:
        return error.strerror or str(error)
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "") if names else "an empty folder"


def download(repository: str, revision: str | None) -> Path:
    """Snapshot of a hub repository: from the local cache when it is complete, else downloaded."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "local") from error
    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(WANTED)}
    try:
        return Path(snapshot_download(repository, local_files_only=True, **wanted))
    except Exception:
        pass
    try:
        return Path(snapshot_download(repository, **wanted))
    except Exception as error:
        raise ModelError(
            f"hub model {repository!r} could not be fetched",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step="check the name and the connection, log in for gated models, or give a local folder",
        ) from error
