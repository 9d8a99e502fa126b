"""A tiny model for all tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _tiny import tiny_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def model(folder: Path) -> Any:
    from fivefold.runtime.load import load

    return load(str(folder))
