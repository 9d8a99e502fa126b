"""Probe files on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _probes import probe_bytes


@pytest.fixture
def probe_file(tmp_path: Path) -> Callable[..., Path]:
    def write(**header: Any) -> Path:
        path = tmp_path / "probe.safetensors"
        path.write_bytes(probe_bytes(**header))
        return path

    return write
