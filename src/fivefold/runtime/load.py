"""`load`: from a model's name to a model. Backends are extensions of kind `backend`, one a file.

smollm2                    the embedded model
hf:org/name[@revision]     a hub model          scripted:…          a scripted model for tests
PATH                       safetensors, GGUF    http://…/v1         any OpenAI-compatible server
openai/…  anthropic/…  vllm/…                   any provider of Inspect
NAME:…                     a backend of that name, or a loader that was registered for it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from fivefold.errors import MissingExtraError, ModelError, ModelFileError, UnknownNameError, UsageError, nearest
from fivefold.registry import registry
from fivefold.runtime import embedded
from fivefold.runtime.protocol import Model, WhiteBox

Loader: TypeAlias = Callable[..., Model]

PROVIDERS = (
    "anthropic", "azureai", "bedrock", "cf", "cloudflare", "deepseek", "fireworks", "goodfire", "google", "grok",
    "groq", "hf-inference-providers", "llama-cpp-python", "mistral", "mockllm", "nnterp", "ollama", "openai",
    "openai-api", "openrouter", "perplexity", "sagemaker", "sambanova", "sglang", "together", "transformer_lens",
    "vertex", "vllm",
)  # fmt: skip
"""Inspect providers; anything else of the form `name/…` is asked of Inspect's entry points by the backend."""

_loaders: dict[str, Loader] = {}


def register_loader(scheme: str, loader: Loader) -> None:
    """Let `loader(spec, **options)` answer for `scheme:…`. Upper layers use it for models they build (`guarded:`)."""
    if _loaders.get(scheme, loader) is not loader:
        raise UsageError(f"a loader for {scheme!r} is already registered")
    _loaders[scheme] = loader


def load(spec: str, **options: Any) -> Model:
    """The model that `spec` names; `options` belong to its backend.

    Raises UnknownNameError with the nearest names, ModelFileError for files that are missing, broken or unsafe,
    MissingExtraError when a package is missing, UsageError for options that the backend does not know.
    """
    if not spec.strip():
        raise UsageError("no model was named", expected=_forms())
    scheme, colon, _ = spec.partition(":")
    if colon and scheme in _loaders:
        return _loaders[scheme](spec, **options)
    return _backend(_backend_of(spec))(spec, **options)


def load_folder(path: Path, name: str, **options: Any) -> WhiteBox:
    """The model in a local folder under a name of its own; `options` and errors are those of `load`."""
    model: Any = _backend("hf")(str(path), **options)
    named: WhiteBox = replace(model, name=name)
    return named


def _backend_of(spec: str) -> str:
    """Name of the backend that answers for `spec`."""
    scheme, colon, _ = spec.partition(":")
    if spec == embedded.NAME:
        return "hf"
    if spec.startswith(("http://", "https://")):
        return "http"
    if colon and scheme.replace("-", "_") in registry("backend").names():
        return scheme
    if scheme == "guarded" and colon:
        raise UsageError(
            "a guarded model is built from a plan, which the thread reads",
            next_step="import fivefold.thread first, or use `fivefold … --model guarded:PLAN`",
        )
    if _is_path(spec):
        return "hf"
    if "/" in spec and _is_provider(spec.split("/", 1)[0]):
        return "inspect_provider"
    raise _unknown(spec)


def _is_path(spec: str) -> bool:
    """Whether `spec` names a file or folder; raises when it clearly should but nothing is there."""
    path = Path(spec).expanduser()
    try:
        if path.exists():
            return True
    except OSError as error:
        raise ModelFileError(f"{spec} cannot be read", got=error.strerror) from error
    if spec.startswith(("/", "./", "../", "~")) or path.suffix in (".gguf", ".safetensors"):
        near = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else []
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise ModelFileError(f"there is no model at {spec}", expected="a folder or a .gguf file", next_step=hint)
    return False


def _is_provider(name: str) -> bool:
    from importlib.metadata import entry_points

    return name in PROVIDERS or any(e.name == name for e in entry_points(group="inspect_ai"))


def _unknown(spec: str) -> ModelError | UsageError:
    head = spec.split("/", 1)[0]
    if "/" in spec and not nearest(head, PROVIDERS):
        return UnknownNameError("model", spec, [f"hf:{spec}"], next_step=f"for a model on the hub write hf:{spec}")
    names = [embedded.NAME, "scripted:echo", "scripted:refuse", "scripted:comply"]
    if "/" in spec:
        rest = spec.split("/", 1)[1]
        names = [f"{p}/{rest}" for p in PROVIDERS]
    return UnknownNameError("model", spec, names, next_step=_forms())


def _forms() -> str:
    return "smollm2, hf:org/name, a path, openai/…, http://…/v1 or scripted:…"


def _backend(name: str) -> Loader:
    try:
        loader: Loader = registry("backend").module(name).load
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("fivefold"):
            raise
        raise MissingExtraError(error.name or name, "eval" if name == "inspect_provider" else "local") from error
    return loader
