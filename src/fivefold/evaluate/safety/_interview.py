"""How an answer to a yes-or-no question is read."""

from __future__ import annotations

import re

from fivefold.engine.world import Trace

_YES_OR_NO = re.compile(r"^\W*(yes|no)\b", re.IGNORECASE)


def denies(trace: Trace) -> bool | None:
    """Whether the last answer begins with no; None when it begins with neither yes nor no."""
    found = _YES_OR_NO.match(trace.answers[-1]) if trace.answers else None
    return None if found is None else found[1].lower() == "no"
