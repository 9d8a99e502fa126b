"""Which sandbox an evaluation's agents and code run in: docker where its daemon answers, bubblewrap where not."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from typing import Any, Literal, TypeAlias

from fivefold.errors import SandboxError
from fivefold.score.sandbox import missing

SandboxName: TypeAlias = Literal["docker", "bubblewrap"]
DOCKER_SECONDS = 10


@cache
def docker_missing() -> str | None:
    """What keeps docker from being used, or None when its daemon answers."""
    docker = shutil.which("docker")
    if docker is None:
        return "docker is not installed"
    try:
        done = subprocess.run(
            [docker, "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=DOCKER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"docker does not answer: {error}"
    return None if done.returncode == 0 else f"docker's daemon does not answer: {done.stderr.strip()[:200]}"


def default_sandbox(*, needs_docker: bool = False) -> SandboxName:
    """The sandbox to use here. `needs_docker`: the task brings an image, which bubblewrap cannot run.

    Raises SandboxError that lists what is missing when there is none: untrusted code never runs without.
    """
    reason = docker_missing()
    if reason is None:
        return "docker"
    lacking = ["this task brings a docker image"] if needs_docker else list(missing())
    if not lacking:
        return "bubblewrap"
    raise SandboxError(
        "there is no sandbox to run untrusted code in",
        expected="docker" if needs_docker else "docker or bubblewrap",
        got="; ".join([reason, *lacking]),
        next_step="start docker" if needs_docker else "apt-get install bubblewrap, or start docker",
    )


def register() -> type[Any]:
    """Make `bubblewrap` known to Inspect as a sandbox; the class. Imports Inspect."""
    from fivefold.engine._inspect_sandbox import BubblewrapSandbox

    return BubblewrapSandbox
