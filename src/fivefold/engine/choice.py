"""Multiple choice as likelihood: which texts are compared, after which context."""

from __future__ import annotations

from fivefold.errors import DataError
from fivefold.runtime.protocol import Context
from fivefold.types import Case

STYLES = ("cloze", "chat", "raw")


def choice_pairs(case: Case) -> tuple[tuple[Context, str], ...]:
    """One (context, continuation) per option.

    `cloze` (the default) is the usual form for base models, "Question: …\\nAnswer:" as raw text followed by the option
    (Brown et al. 2020, section 2.4); `chat` gives the case's messages to the chat template and the option as the
    answer; `raw` takes the prompt as it stands, for benchmarks that bring their own form and worked examples.
    `metadata["style"]` chooses.
    """
    style = case.metadata.get("style", "cloze")
    if style == "chat":
        return tuple((case.messages, option) for option in case.choices)
    if style == "cloze":
        return tuple((f"Question: {case.prompt}\nAnswer:", f" {option}") for option in case.choices)
    if style == "raw":
        return tuple((case.prompt, f" {option}") for option in case.choices)
    raise DataError(f"case {case.id}: unknown style", expected=" or ".join(STYLES), got=style)
