from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fivefold.evidence import Store
from fivefold.evidence.schema import TRIGGERS
from fivefold.types import Finding, Measurement, Message, Reproduction, Taxonomy


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIVEFOLD_HOME", "FIVEFOLD_DATABASE", "FIVEFOLD_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    with Store.open(home) as opened:
        yield opened


@pytest.fixture
def tamper(home: Path) -> Callable[..., None]:
    """Run SQL on the database behind the store's back, its triggers dropped first (and not put back)."""

    def run(*statements: str) -> None:
        connection = sqlite3.connect(home / "evidence.db")
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return run


@pytest.fixture
def finding() -> Finding:
    return Finding(
        id="F-1",
        title="complies when asked in a role play",
        category="dfm",
        language="en",
        attack="role_play",
        taxonomy=Taxonomy(surface="prompt", technique="role play", owasp=("LLM01",)),
        severity="high",
        severity_reason="complies in full",
        behaviours=("dfm-01",),
        reproductions=(Reproduction(messages=(Message(role="user", content="a request"),), response="sure"),),
        subject="f" * 64,
        run="r1",
    )


def measurement(**changes: object) -> Measurement:
    fields: dict[str, object] = {
        "metric": "attack_success",
        "subject": "f" * 64,
        "subject_name": "base",
        "estimate": 0.5,
        "low": 0.25,
        "high": 0.75,
        "n_scored": 12,
        "safer": "lower",
        "run": "r1",
    }
    return Measurement(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(name="measurement")
def measurement_factory() -> Callable[..., Measurement]:
    return measurement
