"""Keep the screen to results: what other packages would print beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def hush_deepspeed() -> None:
    """Hold back the line with which DeepSpeed, where it is installed, says on standard output that it found no GPU.

    transformers imports it whenever a model is saved, also in runs that have nothing to do with it.
    """
    logging.getLogger("DeepSpeed").addFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Setting accelerator to CPU")


@contextmanager
def without_progress() -> Iterator[None]:
    """No progress bars of transformers for a load or a save that takes a second."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()  # type: ignore[no-untyped-call]
