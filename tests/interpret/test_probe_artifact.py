import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fivefold.errors import ModelFileError
from fivefold.guard._files import read_probe
from fivefold.interpret.artifacts import FORMAT, ProbeArtifact, Separation, Threshold


def make(**changes: object) -> ProbeArtifact:
    rng = np.random.default_rng(0)
    fields = {
        "concept": "harmfulness",
        "method": "linear_probe",
        "layer": 2,
        "position": "last",
        "weight": rng.standard_normal(8),
        "bias": 0.25,
        "mean": rng.standard_normal(8),
        "scale": rng.uniform(0.5, 2, 8),
        "model": "f" * 64,
        "model_name": "tiny",
        "dataset": "d" * 64,
        "languages": ("en", "ko"),
        "target_fpr": 0.05,
        "thresholds": {"en": Threshold(value=1.5, fpr=0.04, n=50)},
        "auroc": {"en": Separation(estimate=0.9, low=0.8, high=0.95, level=0.95, n_positive=9, n_negative=8)},
        "positive": {"en": np.array([3.0, 1.0, 2.0])},
        "negative": {"en": np.array([-3.0, 0.0])},
    }
    return ProbeArtifact(**{**fields, **changes})  # type: ignore[arg-type]


def rewritten(data: bytes, change) -> bytes:
    """The file with its header changed."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    meta = json.loads(header["__metadata__"]["fivefold"])
    change(meta)
    header["__metadata__"]["fivefold"] = json.dumps(meta)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + data[8 + size :]


def test_saved_and_loaded_are_equal(tmp_path: Path) -> None:
    artifact = make()
    digest = artifact.save(tmp_path / "p.safetensors")
    loaded = ProbeArtifact.load(tmp_path / "p.safetensors", digest=digest)
    assert loaded == artifact and loaded.digest == digest == artifact.digest
    x = np.random.default_rng(1).standard_normal((5, 8))
    np.testing.assert_array_equal(loaded.score(x), artifact.score(x))
    assert loaded.header() == artifact.header()


def test_any_change_changes_the_digest() -> None:
    assert len({make().digest, make(bias=0.5).digest, make(layer=1).digest, make(target_fpr=0.1).digest}) == 4


def test_the_guards_reader_understands_the_file(tmp_path: Path) -> None:
    artifact = make()
    digest = artifact.save(tmp_path / "p.safetensors")
    probe = read_probe(tmp_path / "p.safetensors", digest=digest)
    x = np.random.default_rng(1).standard_normal((5, 8))
    np.testing.assert_allclose(probe.score(x), artifact.score(x), rtol=1e-12)
    assert (probe.layer, probe.position, probe.model, probe.digest) == (2, "last", "f" * 64, digest)
    assert probe.thresholds["en"].value == 1.5


@pytest.mark.parametrize("read", [ProbeArtifact.load, read_probe])
@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "flipped", "huge header", "missing"])
def test_a_broken_file_is_refused(tmp_path: Path, read, kind: str) -> None:
    data = make().to_bytes()
    broken = {
        "truncated": data[:-9],
        "empty": b"",
        "text": b"not a probe at all",
        "flipped": data[:9] + bytes([data[9] ^ 0xFF]) + data[10:],
        "huge header": (2**62).to_bytes(8, "little") + data[8:],
        "missing": None,
    }[kind]
    path = tmp_path / "p.safetensors"
    if broken is not None:
        path.write_bytes(broken)
    with pytest.raises(ModelFileError):
        read(path)


@pytest.mark.parametrize("read", [ProbeArtifact.load, read_probe])
def test_a_tampered_file_does_not_pass_for_the_one_asked_for(tmp_path: Path, read) -> None:
    path = tmp_path / "p.safetensors"
    digest = make().save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelFileError) as error:
        read(path, digest=digest)
    assert error.value.expected == digest


@pytest.mark.parametrize("read", [ProbeArtifact.load, read_probe])
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format="fivefold-probe/9"),
        lambda m: m.update(layer=-1),
        lambda m: m.update(layer="2"),
        lambda m: m.update(position="first"),
        lambda m: m.pop("thresholds"),
        lambda m: m["thresholds"]["en"].update(value="low"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, read, change) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(rewritten(make().to_bytes(), change))
    with pytest.raises(ModelFileError):
        read(path)


@pytest.mark.parametrize("read", [ProbeArtifact.load, read_probe])
@pytest.mark.parametrize("name", ["weight", "mean", "scale", "bias"])
@pytest.mark.parametrize("bad", ["nan", "shape", "dtype"])
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, read, name: str, bad: str) -> None:
    import safetensors.numpy as st

    data = make().to_bytes()
    tensors, size = st.load(data), int.from_bytes(data[:8], "little")
    value = tensors[name].copy()
    if bad == "nan":
        value[0] = np.nan
    tensors[name] = {"nan": value, "shape": np.tile(value, 2), "dtype": value.astype(np.float64)}[bad]
    path = tmp_path / "p.safetensors"
    path.write_bytes(st.save(tensors, metadata=json.loads(data[8 : 8 + size])["__metadata__"]))
    with pytest.raises(ModelFileError):
        read(path)


def test_direction_and_gap() -> None:
    artifact = make()
    gradient = artifact.weight / artifact.scale
    np.testing.assert_allclose(artifact.direction, gradient / np.linalg.norm(gradient), rtol=1e-6)
    x = np.zeros((1, 8), np.float32)
    moved = artifact.score(x + artifact.gap * artifact.direction) - artifact.score(x)
    assert moved[0] == pytest.approx(2.0 - -1.5, rel=1e-5)
    with pytest.raises(ModelFileError):
        _ = replace(artifact, positive={}).gap


def test_the_format_is_named_in_the_file() -> None:
    assert FORMAT.encode() in make().to_bytes()
