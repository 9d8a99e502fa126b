"""What is checked in each kind of file. A check returns problems; an empty list means that the file was understood."""

from __future__ import annotations

import ast
import json
import math
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fivefold.errors import ModelFileError
from fivefold.runtime import _gguf

Problem: TypeAlias = tuple[Literal["inconclusive", "blocked"], str]

MAX_HEADER = 100 << 20
MAX_TEXT = 64 << 20
WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

_PICKLE_NAMES = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".mar")
_TEXT_NAMES = (
    ".txt",
    ".md",
    ".model",
    ".tiktoken",
    ".csv",
    ".yaml",
    ".yml",
    ".license",
    ".gitattributes",
    ".gitignore",
)
_CODE_NAMES = (".py", ".so", ".dll", ".dylib", ".sh", ".exe", ".pyc", ".js", ".jar")
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd", b"x\x9c", b"x\xda", b"x\x01")


def format_of(path: Path) -> str:
    """The format that the first bytes show; the name decides only where bytes cannot."""
    with path.open("rb") as file:
        head = file.read(16)
    name = path.name.lower()
    if head[:4] == b"GGUF" or name.endswith(".gguf"):
        return "gguf"
    if name.endswith(".safetensors"):
        return "safetensors"
    if name.endswith(_CODE_NAMES) or head[:4] == b"\x7fELF":
        return "code"
    if _looks_pickled(head) or name.endswith(_PICKLE_NAMES):
        return "pickle"
    if head.startswith(_ARCHIVES):
        return "archive"
    if name.endswith(".json"):
        return "json"
    if name.endswith(".jinja"):
        return "template"
    return "text" if name.endswith(_TEXT_NAMES) or "." not in name.lstrip(".") else "unknown"


def _looks_pickled(head: bytes) -> bool:
    return head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def safetensors(path: Path) -> list[Problem]:
    """Header length, JSON, dtypes, shapes, and that tensors fill the file without overlap or hole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8:
            return [("blocked", "too small to be safetensors")]
        (length,) = struct.unpack("<Q", first)
        if length > MAX_HEADER or 8 + length > size:
            return [("blocked", f"a header of {length} bytes in a file of {size}")]
        try:
            header = json.loads(file.read(length), object_pairs_hook=_no_duplicates)
        except ValueError as error:
            return [("blocked", f"broken header: {error}")]
    return _extents(header, size - 8 - length)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _extents(header: Any, room: int) -> list[Problem]:
    if not isinstance(header, dict):
        return [("blocked", "the header is not an object")]
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            start, stop = entry["data_offsets"]
            need = WIDTHS[entry["dtype"]] * math.prod(entry["shape"])
        except (KeyError, TypeError, ValueError):
            return [("inconclusive", f"tensor {name!r} has an unknown dtype or a malformed entry")]
        if stop - start != need:
            return [("blocked", f"tensor {name!r} takes {stop - start} bytes where its shape needs {need}")]
        spans.append((start, stop, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            return [("blocked", f"tensor {name!r} {'overlaps another' if start < end else 'follows a hole'}")]
        end = stop
    return [] if end == room else [("blocked", f"tensors take {end} bytes of {room}: truncated or padded")]


def gguf(path: Path) -> list[Problem]:
    """The header, and the chat template inside it."""
    try:
        header = _gguf.read_header(path)
    except ModelFileError as error:
        return [("blocked", error.got or error.what)]
    texts = [v for k, v in header.metadata.items() if k.startswith("tokenizer.chat_template") and isinstance(v, str)]
    return [problem for text in texts for problem in template_problems(text)]


def pickled(path: Path) -> list[Problem]:
    """Both scanners; a hit blocks, and no hit is still not clean, because neither can prove a pickle harmless."""
    problems = [*_picklescan(path), *_fickling(path)]
    return problems or [("inconclusive", "a pickle: loading it can run code; use safetensors instead")]


def _picklescan(path: Path) -> list[Problem]:
    try:
        from picklescan.scanner import scan_file_path
    except ImportError:
        return [("inconclusive", "a pickle, and picklescan is not installed (fivefold[govern])")]
    try:
        result = scan_file_path(str(path))
    except Exception as error:
        return [("inconclusive", f"picklescan failed: {type(error).__name__}: {error}")]
    if result.issues_count:
        bad = sorted({f"{g.module}.{g.name}" for g in result.globals if g.safety.value == "dangerous"})
        return [("blocked", f"the pickle calls {', '.join(bad) or 'dangerous code'}")]
    if result.scan_err or not result.scanned_files:
        return [("inconclusive", "picklescan could not scan it")]
    return []


def _fickling(path: Path) -> list[Problem]:
    if zipfile.is_zipfile(path):
        return []
    try:
        from fickling.fickle import Pickled
    except ImportError:
        return [("inconclusive", "a pickle, and fickling is not installed (fivefold[govern])")]
    try:
        with path.open("rb") as file:
            tree = Pickled.load(file).ast
        names = sorted(_imported(tree) & _DANGEROUS)
    except Exception as error:
        return [("inconclusive", f"fickling failed: {type(error).__name__}: {error}")]
    return [("blocked", f"the pickle imports {', '.join(names)}")] if names else []


_DANGEROUS = {
    "os", "posix", "nt", "subprocess", "sys", "builtins", "__builtin__", "socket", "shutil", "runpy", "importlib",
    "pty", "ctypes", "code", "codeop", "webbrowser", "asyncio", "multiprocessing", "pickle", "marshal", "types",
    "operator", "functools", "commands", "timeit", "pdb", "bdb", "http", "urllib", "requests", "tempfile", "pip",
}  # fmt: skip


def _imported(tree: ast.AST) -> set[str]:
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def json_file(path: Path) -> list[Problem]:
    """Well-formed, no code of the model's own, and no suspicious template."""
    if path.stat().st_size > MAX_TEXT:
        return [("inconclusive", f"a JSON file of {path.stat().st_size} bytes")]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return [("inconclusive", f"not JSON: {error}")]
    if not isinstance(content, dict):
        return []
    problems: list[Problem] = []
    if content.get("auto_map"):
        problems.append(("blocked", "auto_map names code of the model's own; fivefold never runs remote code"))
    return [*problems, *(p for text in _templates(content) for p in template_problems(text))]


def _templates(content: dict[str, Any]) -> list[str]:
    found = content.get("chat_template")
    if isinstance(found, str):
        return [found]
    entries = found if isinstance(found, list) else []
    return [e["template"] for e in entries if isinstance(e, dict) and isinstance(e.get("template"), str)]


def template(path: Path) -> list[Problem]:
    """A chat template in a file of its own."""
    return template_problems(path.read_text(encoding="utf-8", errors="replace"))


_INSTRUCTION = re.compile(
    r"(?i)\b(ignore (all|any|previous)|do not (tell|mention|reveal)|secretly|without telling|"
    r"always (answer|reply|include))\b"
)
_HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]")


def template_problems(text: str) -> list[Problem]:
    """Suspicious Jinja: access to Python's inside, hidden instructions, characters that nobody sees.

    A template runs on every prompt, in a sandbox that has been escaped before, and it can put words into the prompt
    depending on what the user wrote.
    """
    problems: list[Problem] = []
    code = " ".join(re.findall(r"\{[%{].*?[%}]\}", text, flags=re.DOTALL))
    if re.search(r"__\w+__|\|\s*attr\b|\bself\._|\blipsum\b|\bcycler\b|\bjoiner\b", code):
        problems.append(("blocked", "the chat template reaches for Python's inside"))
    if re.search(r"\{%-?\s*(include|import|extends|from)\b", text):
        problems.append(("blocked", "the chat template includes other files"))
    if _HIDDEN.search(text):
        problems.append(("inconclusive", "the chat template holds invisible characters"))
    if _INSTRUCTION.search(text):
        problems.append(("inconclusive", "the chat template holds an instruction that users do not see"))
    return problems


def code(path: Path) -> list[Problem]:
    """Executable code has no place among weights; it is never run, and it keeps a scan from being clean."""
    return [("inconclusive", "executable code lies beside the weights; it is never run")]


def archive(path: Path) -> list[Problem]:
    """What is compressed is not looked into, so it is not clean."""
    return [("inconclusive", "compressed: its content was not scanned")]


def text(path: Path) -> list[Problem]:
    """Plain text has nothing to check."""
    return []


def unknown(path: Path) -> list[Problem]:
    """A kind of file that no check understands."""
    return [("inconclusive", "of an unknown kind")]


CHECKS: dict[str, Callable[[Path], list[Problem]]] = {
    "safetensors": safetensors,
    "gguf": gguf,
    "pickle": pickled,
    "json": json_file,
    "template": template,
    "code": code,
    "archive": archive,
    "text": text,
}
