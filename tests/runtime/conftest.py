"""One tiny model for all tests of the engine room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _tiny import tiny_adapter, tiny_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("tiny") / "adapter", folder)


@pytest.fixture(scope="session")
def model(folder: Path) -> Any:
    from fivefold.runtime.load import load

    return load(str(folder))
