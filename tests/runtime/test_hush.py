"""Standard output holds results alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAVES = """
import sys
sys.path[:0] = {paths!r}
from _tiny import tiny_model
from fivefold.align._adapter import save_trained
from pathlib import Path
save_trained(tiny_model(), Path({out!r}))
assert "deepspeed" in sys.modules, "saving does not import it"
"""


def test_saving_a_model_prints_nothing_of_deepspeed(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed (the extra `deepspeed`)")
    root = Path(__file__).parents[2]
    env = {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"} | {"CUDA_VISIBLE_DEVICES": ""}
    script = SAVES.format(paths=[str(root / "tests"), str(root / "src")], out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]
