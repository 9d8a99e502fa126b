"""One thread computes, and leaving the process ends it."""

from __future__ import annotations

import subprocess
import sys

LEAVING = """
import threading, time, torch
from fivefold.runtime.compute import compute

a, w = torch.randn(1, 4, 64, 64, requires_grad=True), torch.randn(64, 64, requires_grad=True)
begun = threading.Event()

def work():
    while True:
        seen = torch.nn.functional.scaled_dot_product_attention(a, a, a)
        (seen @ w).sum().backward()
        begun.set()

def late():
    compute(lambda: print("begun after the end"))

threading.Thread(target=lambda: compute(work), daemon=True).start()
begun.wait()
threading.Thread(target=late, daemon=True).start()
time.sleep(0.2)
print("left")
"""


def test_leaving_breaks_off_what_is_still_computed() -> None:
    """It used to end the process as crashed, with everything done and stored."""
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
