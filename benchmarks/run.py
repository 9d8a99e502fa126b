"""Compare fivefold with its peers: `python benchmarks/run.py [NAME …]`, one JSON line a comparison.

A benchmark is a script `NAME.py`; what its peers need beyond fivefold's own environment stands in
`requirements-NAME.txt` and is installed into `.bench/NAME`, an environment that reads the running one, so both sides
share one torch. `BENCH_LIMIT` sets the number of items.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def names() -> list[str]:
    """Every benchmark that exists."""
    return sorted(p.stem for p in HERE.glob("*.py") if not p.name.startswith("_") and p.name != "run.py")


def environment(name: str) -> Path:
    """Python of the environment that `name` runs in, made and filled when its requirements are new."""
    wanted = HERE / f"requirements-{name}.txt"
    if not wanted.is_file():
        return Path(sys.executable)
    folder = ROOT / ".bench" / name
    python = folder / "bin" / "python"
    done = folder / "installed.txt"
    if not done.is_file() or done.read_text() != wanted.read_text():
        print(f"setting up {folder.relative_to(ROOT)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        inside = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (inside / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(wanted)], check=True)
        done.write_text(wanted.read_text())
    return python


def run(name: str) -> int:
    """Run one benchmark; its lines go to standard output."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(HERE)])}
    return subprocess.run([str(environment(name)), str(HERE / f"{name}.py")], env=env, check=False).returncode


def main(asked: list[str]) -> int:
    """Exit status 0 when every benchmark ran, 2 for an unknown name."""
    known = names()
    unknown = [n for n in asked if n not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; one of: {', '.join(known)}", file=sys.stderr)
        return 2
    return max(run(name) for name in asked or known)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
