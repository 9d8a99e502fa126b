"""Keep standard output to results: what another package would print there beside them."""

from __future__ import annotations

import logging


def hush_deepspeed() -> None:
    """Hold back the line with which DeepSpeed, where it is installed, says on standard output that it found no GPU.

    transformers imports it whenever a model is saved, also in runs that have nothing to do with it.
    """
    logging.getLogger("DeepSpeed").addFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Setting accelerator to CPU")
