"""Every evaluation by name: suites and benchmarks that run here, and those that run outside, with what each needs.

`resolve(name)` gives something that can be evaluated or says exactly what is missing; `runnable(name)` lists it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fivefold.errors import DataError, UnknownNameError, UsageError, nearest
from fivefold.evaluate.benchmarks._base import Area, Benchmark
from fivefold.evaluate.safety._base import Evaluation
from fivefold.evaluate.suites import Suite, suite, suite_names
from fivefold.registry import registry
from fivefold.types import Safer

FILE = Path(__file__).with_name("catalogue.yaml")
PACKAGES = {"inspect-evals": "inspect_evals", "lm-eval": "lm_eval"}
Runner: TypeAlias = Literal["fivefold", "inspect-evals", "lm-eval", "nowhere"]

_NEED = re.compile(r"docker|hub|internet|gated|kaggle|gpu|vision|sandbox|mirror|key:[A-Z_]+|extra:[a-z0-9_]+")


class Entry(BaseModel):
    """One evaluation of the catalogue. Fields that were not checked against the source itself are in `unverified`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    title: str
    area: Area
    runs: Runner
    """Where it runs."""
    tasks: tuple[str, ...] = ()
    """Names of the runner's tasks."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of those tasks."""
    data: str
    """Where its data comes from."""
    revision: str = ""
    sha256: str = ""
    licence: str
    needs: tuple[str, ...] = ()
    samples: int | None = None
    cost: str
    safer: Safer
    """Safer direction of its score, where it has one score."""
    scores: dict[str, Safer] = Field(default_factory=dict)
    """Safer direction by name, where it has several (`scorer` or `scorer/part`)."""
    meaning: str
    citation: str
    note: str = ""
    unverified: tuple[str, ...] = ()


def names() -> list[str]:
    """Every benchmark, safety evaluation and outside evaluation, sorted; suites are listed by `suite_names`."""
    return sorted({*_ours(), *outside()})


def _ours() -> set[str]:
    return {*registry("benchmark").names(), *registry("evaluation").names()}


def entry(name: str) -> Entry:
    """The entry of a benchmark, a safety evaluation or an outside one; UnknownNameError suggests the nearest."""
    key = name.replace("-", "_")
    if key in registry("evaluation").names():
        return _of_evaluation(evaluation(key))
    if key in registry("benchmark").names():
        return _of_benchmark(key, benchmark(key))
    if key in outside():
        return outside()[key]
    raise UnknownNameError("benchmark", name, [*names(), *suite_names()], next_step="fivefold list benchmarks")


def benchmark(name: str) -> Benchmark:
    """A registered benchmark."""
    made: Benchmark = registry("benchmark").module(name).benchmark()
    return made


def evaluation(name: str) -> Evaluation:
    """A registered safety evaluation."""
    made: Evaluation = registry("evaluation").module(name).evaluation()
    return made


@cache
def outside() -> Mapping[str, Entry]:
    """What runs outside, from `catalogue.yaml`. DataError names the entry and the field that is wrong."""
    found = read(FILE.read_text(encoding="utf-8"))
    if clash := sorted({*found} & _ours()):
        raise DataError(f"catalogue.yaml: {clash[0]} is an evaluation of ours already", next_step="rename the entry")
    return found


def read(text: str) -> dict[str, Entry]:
    """Entries from the text of a catalogue, checked."""
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or content.get("version") != 1 or not isinstance(content.get("entries"), dict):
        raise DataError("not a catalogue", expected="version: 1 and entries: {name: …}")
    return {name: _checked(name, raw) for name, raw in content["entries"].items()}


def _checked(name: str, raw: Any) -> Entry:
    try:
        made = Entry.model_validate({**raw, "name": name})
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not an object"}
        field = ".".join(map(str, first["loc"]))
        near = nearest(field, Entry.model_fields, n=1) if field not in Entry.model_fields else []
        hint = f"did you mean {near[0]!r}?" if near else None
        raise DataError(f"catalogue: {name}: {field}", got=first["msg"], next_step=hint) from error
    problems = [f"unknown need {need!r}" for need in made.needs if not _NEED.fullmatch(need)]
    problems += [f"unverified names no field: {f!r}" for f in made.unverified if f not in Entry.model_fields]
    if made.runs in PACKAGES and not made.tasks:
        problems.append("no tasks")
    if made.runs == "nowhere" and not made.note:
        problems.append("runs nowhere without a note")
    if made.sha256 and not re.fullmatch(r"[0-9a-f]{64}", made.sha256):
        problems.append("sha256 is not one")
    if problems:
        raise DataError(f"catalogue: {name}: {problems[0]}")
    return made


def _of_benchmark(name: str, made: Benchmark) -> Entry:
    source = made.source
    return Entry(
        name=name,
        title=made.title,
        area=made.area,
        runs="fivefold",
        data=source.origin,
        revision=source.revision,
        sha256=source.digest,
        licence=source.licence,
        needs=("mirror", *made.needs),
        cost=made.cost,
        safer=made.safer,
        meaning=made.meaning,
        citation=made.citation,
    )


def _of_evaluation(made: Evaluation) -> Entry:
    return Entry(
        name=made.name,
        title=made.title,
        area="safety",
        runs="fivefold",
        data="scenarios of this project, which ship with it",
        revision="as hashed",
        sha256=made.data_digest,
        licence="Apache-2.0",
        needs=made.needs,
        samples=len(made.episodes()),
        cost=made.cost,
        safer=made.metrics[0].safer,
        scores={m.name: m.safer for m in made.metrics},
        meaning=made.meaning,
        citation=made.citation,
    )


def runnable(name: str, *, own_judge: bool = False) -> list[str]:
    """What is missing here to run it, one line each; empty when nothing is known to be missing.

    `own_judge`: the caller names the judge model, so the key of the default judge is not needed.
    """
    found = entry(name)
    if found.name in registry("evaluation").names():
        return evaluation(found.name).missing()
    if found.runs == "fivefold":
        return benchmark(found.name.replace("-", "_")).missing()
    if found.runs == "nowhere":
        return [f"no runner here: {found.note}"]
    lines = _package(found)
    if found.runs == "lm-eval":
        tasks = ",".join(found.tasks)
        start = f"python -m fivefold.engine.lm_eval run --model fivefold --model_args pretrained=MODEL --tasks {tasks}"
        lines.append(f"lm-eval runs it on this model by its own command: {start}")
    needs = [need for need in found.needs if not (own_judge and need.startswith("key:"))]
    return lines + [line for need in needs if (line := _lacking(need))]


def resolve(name: str, *, own_judge: bool = False, **options: Any) -> Suite | Evaluation | Entry:
    """What to evaluate: a suite (ours, or made from a benchmark with these options), a safety evaluation, or an outside
    entry to be run, which takes the options when it runs. `own_judge`: the caller names the judge.

    Raises UnknownNameError, or DataError / UsageError that lists exactly what is missing here.
    """
    ours = name.replace("_", "-") in suite_names() or name.replace("-", "_") in registry("evaluation").names()
    if ours and options:
        raise UsageError(f"{name} takes no arguments", got=", ".join(options))
    if name.replace("_", "-") in suite_names():
        return suite(name)
    found = entry(name)
    lines = runnable(name, own_judge=own_judge)
    if lines:
        kind = DataError if found.runs == "fivefold" else UsageError
        raise kind(
            f"{name} cannot run here", expected=f"needs: {', '.join(found.needs) or 'nothing'}", got="; ".join(lines)
        )
    if found.name in registry("evaluation").names():
        return evaluation(found.name)
    if found.runs == "fivefold":
        return benchmark(found.name).suite(found.name, **options)
    return found


def _package(found: Entry) -> list[str]:
    """The runner's package, with the extras that the entry needs."""
    package = found.runs
    extras = [need.partition(":")[2] for need in found.needs if need.startswith("extra:")]
    install = f"pip install '{package}[{','.join(extras)}]'" if extras else f"pip install 'fivefold[{package}]'"
    if importlib.util.find_spec(PACKAGES[package]) is None:
        return [f"the package {package} is not installed: {install}"]
    absent = [name for extra in extras for name in _requirements(package, extra) if not _installed(name)]
    return [f"{', '.join(absent)} not installed: {install}"] if absent else []


def _requirements(package: str, extra: str) -> list[str]:
    """Names of the distributions that an extra of an installed package brings."""
    wanted = extra.replace("_", "-")
    lines = [r for r in metadata.requires(package) or () if f'extra == "{wanted}"' in r.replace("'", '"')]
    return [m[0] for line in lines if (m := re.match(r"[A-Za-z0-9._-]+", line))]


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _lacking(need: str) -> str | None:
    """What is missing of one need, or None."""
    kind, _, argument = need.partition(":")
    if kind == "key":
        return None if os.environ.get(argument) else f"{argument} is not set (its judge is asked with this key)"
    check = _CHECKS.get(kind)
    return check() if check else None


def _docker() -> str | None:
    from fivefold.engine.sandbox import docker_missing

    return docker_missing()


def _hub() -> str | None:
    if os.environ.get("HF_HUB_OFFLINE", "") in ("1", "ON", "YES", "TRUE"):
        return "the Hugging Face hub is switched off by HF_HUB_OFFLINE"
    return None if _online() else "the Hugging Face hub cannot be reached from here"


def _internet() -> str | None:
    return None if _online() else "the internet cannot be reached from here"


def _gated() -> str | None:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    if os.environ.get("HF_TOKEN") or (home / "token").is_file():
        return None
    return "its data is given on request: accept its terms on the Hugging Face hub and set HF_TOKEN"


def _kaggle() -> str | None:
    if os.environ.get("KAGGLE_KEY") or (Path.home() / ".kaggle" / "kaggle.json").is_file():
        return None
    return "Kaggle credentials are not set, and each competition's rules must be accepted there"


def _gpu() -> str | None:
    return None if shutil.which("nvidia-smi") else "no GPU was found"


def _vision() -> str | None:
    return "fivefold's models take no images: run it in Inspect with a model that does"


@cache
def _online() -> bool:
    """Whether names can be looked up. Only asked for an entry that needs the network."""
    try:
        socket.getaddrinfo("example.org", 443)
    except OSError:
        return False
    return True


_CHECKS: Mapping[str, Callable[[], str | None]] = {
    "docker": _docker,
    "hub": _hub,
    "internet": _internet,
    "gated": _gated,
    "kaggle": _kaggle,
    "gpu": _gpu,
    "vision": _vision,
}
