"""`sandbox="bubblewrap"` for Inspect tasks: one isolated session a sample, no daemon, no image.

The working folder is `/tmp/work`; `/tmp` (also seen as `/var/tmp`) is the one writable place, a file system in memory.
Code runs as one unprivileged user, so `user="root"` is refused. Background processes live until the sample ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

import anyio.to_thread
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel, ConfigDict

from fivefold.errors import SandboxError
from fivefold.score.sandbox import MIB, SESSION_LIMITS, SandboxLimits, SandboxResult, Session, TooLargeError

T = TypeVar("T")
USERS = (None, "nobody", "65534")


class BubblewrapConfig(BaseModel):
    """Limits of a sample's sandbox, as `SandboxLimits` defines them; what is not given is the session's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = SESSION_LIMITS.seconds
    cpu_seconds: int = SESSION_LIMITS.cpu_seconds
    memory_mib: int = SESSION_LIMITS.memory_bytes // MIB
    processes: int = SESSION_LIMITS.processes
    disk_mib: int = SESSION_LIMITS.disk_bytes // MIB
    files: int = SESSION_LIMITS.files

    def limits(self) -> SandboxLimits:
        """The limits in bytes."""
        return SandboxLimits(
            seconds=self.seconds,
            cpu_seconds=self.cpu_seconds,
            memory_bytes=self.memory_mib * MIB,
            processes=self.processes,
            disk_bytes=self.disk_mib * MIB,
            files=self.files,
            output_bytes=SESSION_LIMITS.output_bytes,
        )


@sandboxenv(name="bubblewrap")
class BubblewrapSandbox(SandboxEnvironment):
    """One sample's isolated session behind Inspect's interface."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    @classmethod
    async def sample_init(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Start the sample's session. A configuration file (of docker) is refused, since no image can be run."""
        if config is not None and not isinstance(config, BubblewrapConfig):
            raise SandboxError(
                "the bubblewrap sandbox runs no image",
                expected="no configuration, or limits (seconds, memory_mib, processes, disk_mib, files)",
                got=config,
                next_step="run this task where docker is available",
            )
        limits = (config or BubblewrapConfig()).limits()
        return {"default": cls(await anyio.to_thread.run_sync(Session(limits=limits).start))}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Kill everything in the sample's sandboxes."""
        with anyio.CancelScope(shield=True):
            for environment in environments.values():
                await anyio.to_thread.run_sync(environment.as_type(BubblewrapSandbox).session.close)

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command; see `SandboxEnvironment.exec`. A command that times out is not tried again."""
        if user not in USERS:
            raise SandboxUserUnsupportedError(f"the bubblewrap sandbox has one user, 'nobody'; {user!r} is not there")
        limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
        result = await _in_thread(
            lambda: self.session.exec(
                cmd,
                stdin=input.encode() if isinstance(input, str) else input or b"",
                cwd=cwd or ".",
                env=env,
                seconds=timeout,
                output_bytes=limit,
            )
        )
        return _exec_result(result, cmd)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a file inside the sandbox."""
        data = contents.encode() if isinstance(contents, str) else contents
        await _in_thread(lambda: self.session.write(file, data))

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """Read a file inside the sandbox."""
        limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        try:
            data = await _in_thread(lambda: self.session.read(file, max_bytes=limit))
        except TooLargeError as error:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None) from error
        return data.decode() if text else data

    def default_polling_interval(self) -> float:
        """Seconds between looks at a remote command: the sandbox is on this machine."""
        return 0.2

    @classmethod
    def default_concurrency(cls) -> int | None:
        """Samples at once: as many as there are processors."""
        import os

        return os.cpu_count()

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """Limits from a log or a command line."""
        return BubblewrapConfig(**config)


def _exec_result(result: SandboxResult, cmd: list[str]) -> ExecResult[str]:
    stdout, stderr = (out.decode(errors="replace") for out in (result.stdout, result.stderr))
    if result.timed_out:
        raise TimeoutError(f"the command took too long: {' '.join(cmd)[:200]}")
    if result.truncated:
        raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, stdout or stderr)
    if result.returncode == 126 and "permission denied" in stderr.lower():
        raise PermissionError(f"permission denied: {' '.join(cmd)[:200]}")
    return ExecResult(success=result.returncode == 0, returncode=result.returncode, stdout=stdout, stderr=stderr)


async def _in_thread(work: Callable[[], T]) -> T:
    """A sandbox that is gone is Inspect's SandboxUnavailableError."""
    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except SandboxError as error:
        raise SandboxUnavailableError(str(error)) from error
