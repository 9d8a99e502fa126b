"""GGUF files: a check of the header that trusts nothing, and the conversion to safetensors in the cache."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fivefold.errors import MissingExtraError, ModelFileError
from fivefold.runtime._cache import cache_folder, file_digest, new_folder
from fivefold.runtime._hush import hush_deepspeed

VERSION = 1
"""Of the conversion: raising it makes new cache entries."""

RECORD = "source.json"
"""Beside a converted model: what it was made of, and the digest of each of its files."""

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_ITEMS, _MAX_STRING = 1 << 24, 1 << 26

# (block size in weights, bytes a block) of ggml tensor types
_TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: name, shape, ggml type, and where its bytes lie after the header."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int | None:
        """Bytes, or None for a type that is not known here."""
        if self.kind not in _TYPES:
            return None
        block, width = _TYPES[self.kind]
        count = 1
        for n in self.shape:
            count *= n
        return -(-count // block) * width


@dataclass(frozen=True)
class Header:
    """What stands before the tensors."""

    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    data_start: int


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise ValueError("the file ends inside its header")
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return value

    def string(self) -> str:
        size = self.take("<Q")
        if size > _MAX_STRING or self.at + size > len(self.data):
            raise ValueError("the file ends inside a string of its header")
        value = bytes(self.data[self.at : self.at + size])
        self.at += size
        return value.decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(depth)
        if kind not in _SCALARS:
            raise ValueError(f"unknown metadata type {kind}")
        return self.take(_SCALARS[kind])

    def _array(self, depth: int) -> list[Any]:
        kind, count = self.take("<I"), self.take("<Q")
        if count > _MAX_ITEMS or depth > 3:
            raise ValueError(f"a metadata array of {count} items")
        return [self.value(kind, depth + 1) for _ in range(count)]


def read_header(path: Path) -> Header:
    """The checked header of a GGUF file; ModelFileError when it is truncated, overlapping or of another kind."""
    import mmap

    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                raise ValueError("the file is too small to be GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                return _parse(view, size)
    except (ValueError, struct.error) as error:
        raise ModelFileError(
            f"{path} is not a whole GGUF file",
            expected="GGUF version 2 or 3 with all of its tensors",
            got=str(error),
            next_step="download it again and compare its SHA-256 with the publisher's",
        ) from error
    except PermissionError as error:
        raise ModelFileError(f"no permission to read {path}", next_step=f"chmod u+r {path}") from error


def _parse(view: memoryview, size: int) -> Header:
    reader = _Reader(view)
    if bytes(view[:4]) != b"GGUF":
        raise ValueError(f"it starts with {bytes(view[:4])!r}")
    reader.at = 4
    version = reader.take("<I")
    if version not in (2, 3):
        raise ValueError(f"version {version}")
    n_tensors, n_fields = reader.take("<Q"), reader.take("<Q")
    if n_tensors > _MAX_ITEMS or n_fields > _MAX_ITEMS:
        raise ValueError(f"{n_tensors} tensors and {n_fields} fields")
    metadata: dict[str, Any] = {}
    for _ in range(n_fields):
        key = reader.string()
        metadata[key] = reader.value(reader.take("<I"))
    tensors = tuple(_tensor(reader) for _ in range(n_tensors))
    align = metadata.get("general.alignment", 32)
    if not isinstance(align, int) or not 0 < align <= 1 << 16:
        raise ValueError(f"alignment {align!r}")
    header = Header(metadata, tensors, -(-reader.at // align) * align)
    _check_extents(header, size)
    return header


def _tensor(reader: _Reader) -> Tensor:
    name, n = reader.string(), reader.take("<I")
    if n > 8:
        raise ValueError(f"tensor {name!r} has {n} dimensions")
    shape = tuple(reader.take("<Q") for _ in range(n))
    return Tensor(name, shape, reader.take("<I"), reader.take("<Q"))


def _check_extents(header: Header, size: int) -> None:
    end, before = 0, ""
    for tensor in sorted(header.tensors, key=lambda t: t.offset):
        if tensor.size is None:
            raise ValueError(f"tensor {tensor.name!r} has unknown type {tensor.kind}")
        if tensor.offset < end:
            raise ValueError(f"tensors {before!r} and {tensor.name!r} overlap")
        end, before = tensor.offset + tensor.size, tensor.name
        if header.data_start + end > size:
            raise ValueError(f"tensor {tensor.name!r} ends at byte {header.data_start + end} of {size}: truncated")


@dataclass(frozen=True)
class Conversion:
    """A GGUF file and the safetensors folder made of it, kept in the cache under the file's hash."""

    path: Path
    sha256: str

    @cached_property
    def folder(self) -> Path:
        """Where the converted model lies."""
        return cache_folder() / "models" / f"{self.sha256[:32]}-v{VERSION}"

    def ensure(self) -> Path:
        """The folder, converted now if it is not there yet or no longer holds what was converted."""
        if not self._whole():
            shutil.rmtree(self.folder, ignore_errors=True)
            header = read_header(self.path)
            with new_folder(self.folder) as work:
                _convert(self.path, header, self.sha256, work)
        return self.folder

    def _whole(self) -> bool:
        """Whether every file in the cache has the digest that it had when it was written."""
        try:
            known: dict[str, str] = json.loads((self.folder / RECORD).read_text())["files"]
            return all(file_digest(self.folder / name) == digest for name, digest in known.items())
        except (OSError, ValueError, KeyError):
            return False


def _convert(path: Path, header: Header, sha256: str, work: Path) -> None:
    try:
        import gguf  # noqa: F401 - transformers reads GGUF through it
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(error.name or "gguf", "local") from error
    common = {"gguf_file": path.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **common)
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **common)
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ModelFileError(
            f"{path} cannot be converted",
            expected="an architecture whose GGUF files transformers reads",
            got=f"{header.metadata.get('general.architecture')}: {error}",
        ) from error
    _mend_tokenizer(tokenizer, header)
    tokenizer.save_pretrained(work)
    _save(model, work)
    files = {p.name: file_digest(p) for p in sorted(work.iterdir())}
    record = {"gguf": path.name, "sha256": sha256, "conversion": VERSION, "files": files}
    (work / RECORD).write_text(json.dumps(record, indent=1))


def _save(model: Any, work: Path) -> None:
    """Save what has been dequantised as an ordinary float model."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    hush_deepspeed()
    model.save_pretrained(work, safe_serialization=True)


def _mend_tokenizer(tokenizer: Any, header: Header) -> None:
    """Split digits as the model's own tokenizer does.

    transformers gives every `gpt2` tokenizer of a GGUF file the plain byte-level split; `smollm` (llama.cpp's name of
    the pre-tokenizer) isolates digits first, which changes the tokens of spaces before numbers.
    """
    from tokenizers import pre_tokenizers

    if header.metadata.get("tokenizer.ggml.pre") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
