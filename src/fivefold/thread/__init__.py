"""plan → steps → run → findings → decision. Read this package first: it is the whole product in one place.

`plan.py` what a run is · `steps.py` what a step is · `run.py` the loop · `house.py` the order of steps ·
`measure.py`, `attack.py`, `inside.py`, `mend.py`, `judge.py`, `papers.py` the steps · `findings.py` a finding's life.
"""

from fivefold.thread import guarded
from fivefold.thread.house import Ready, ThreadResult, prepare, run_thread

__all__ = ["Ready", "ThreadResult", "guarded", "prepare", "run_thread"]
