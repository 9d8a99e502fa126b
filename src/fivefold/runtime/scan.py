"""Scan of model files before they are loaded: formats, headers, executable content, templates, remote code, hashes.

It fails closed: what cannot be read, parsed or classified is `inconclusive`, and only `clean` is loaded without an
explicit decision. Pickles are judged by two scanners that fail in different ways (picklescan, fickling); no scanner is
asked to prove that a pickle is safe, so a pickle is never better than inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fivefold.errors import ModelFileError
from fivefold.runtime import _scan_checks as checks
from fivefold.runtime._cache import file_digest

Level: TypeAlias = Literal["clean", "inconclusive", "blocked"]
_ORDER: tuple[Level, ...] = ("clean", "inconclusive", "blocked")
MAX_FILES = 10_000


@dataclass(frozen=True, kw_only=True)
class ScanIssue:
    """Something found in one file."""

    file: str
    level: Literal["inconclusive", "blocked"]
    what: str


@dataclass(frozen=True, kw_only=True)
class ScannedFile:
    """One file: its format as its content shows it, size in bytes and SHA-256."""

    file: str
    format: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """Everything that was looked at. `verdict` is the worst level of any issue."""

    path: str
    verdict: Level
    files: tuple[ScannedFile, ...]
    issues: tuple[ScanIssue, ...]

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats that were found, sorted."""
        return tuple(sorted({f.format for f in self.files}))


def scan_model(path: Path | str) -> ScanReport:
    """Scan a model file or folder, the embedded model (`smollm2`), or what would be loaded of `hf:org/name[@revision]`.

    Raises ModelFileError if nothing is there.
    """
    root = _locate(path)
    files: list[ScannedFile] = []
    issues: list[ScanIssue] = []
    for file in _walk(root):
        name = file.name if root.is_file() else str(file.relative_to(root))
        try:
            scanned, found = _scan_file(file, name)
            files.append(scanned)
            issues.extend(found)
        except OSError as error:
            issues.append(ScanIssue(file=name, level="inconclusive", what=f"cannot be read: {error.strerror}"))
    if not any(f.format in ("safetensors", "gguf", "pickle") for f in files):
        issues.append(ScanIssue(file=".", level="inconclusive", what="no weights were found"))
    levels: list[Level] = ["clean", *(i.level for i in issues)]
    verdict = max(levels, key=_ORDER.index)
    return ScanReport(path=str(root), verdict=verdict, files=tuple(files), issues=tuple(issues))


def _locate(path: Path | str) -> Path:
    from fivefold.runtime import embedded

    if str(path) == embedded.NAME:
        found = embedded.find()
        if found is None:
            raise embedded.missing()
        return found
    if str(path).startswith("hf:"):
        from fivefold.runtime._files import download

        repository, _, revision = str(path).removeprefix("hf:").partition("@")
        return download(repository, revision or None)
    root = Path(path).expanduser()
    if not root.exists():
        raise ModelFileError(f"there is no model at {root}", expected="a file or folder")
    return root


def _walk(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for count, file in enumerate(sorted(p for p in root.rglob("*") if p.is_file() or p.is_symlink())):
        if count >= MAX_FILES:
            raise ModelFileError(f"{root} holds more than {MAX_FILES} files", expected="one model")
        if ".git" not in file.parts:
            yield file


def _scan_file(file: Path, name: str) -> tuple[ScannedFile, list[ScanIssue]]:
    kind = checks.format_of(file)
    check: Callable[[Path], list[checks.Problem]] = checks.CHECKS.get(kind, checks.unknown)
    issues = [ScanIssue(file=name, level=level, what=what) for level, what in check(file)]
    return ScannedFile(file=name, format=kind, size=file.stat().st_size, sha256=file_digest(file)), issues
