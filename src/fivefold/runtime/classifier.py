"""Text classifiers on this machine: Hugging Face sequence classification from a folder or the hub, safetensors only.

The files are scanned as those of any model, no code of the model's own is run, and a head that the files do not hold is
refused (transformers would draw it at random). Texts are tokenised so that a marker written inside them stays text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from fivefold.errors import ModelFileError, UsageError
from fivefold.runtime._files import Source, resolve
from fivefold.runtime._threads import pin_threads
from fivefold.runtime.compute import on_compute_thread
from fivefold.runtime.fingerprint import fingerprint_model

BATCH_TOKENS = 8192
"""Tokens of a batch, padding included."""

Pair: TypeAlias = tuple[str, str | None]
"""A text, and the second one of a pair."""


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Probability of each label, in the order of the classifier's labels (they sum to 1 unless several may hold at
    once), tokens that were read, and tokens that did not fit."""

    probabilities: tuple[float, ...]
    tokens: int
    cut: int


@dataclass(frozen=True, kw_only=True)
class TextClassifier:
    """A sequence-classification model with its tokenizer. `limit` is the most tokens of a text that it reads."""

    name: str
    labels: tuple[str, ...]
    several: bool
    """Whether several labels may hold at once (a sigmoid for each instead of one softmax)."""
    limit: int
    fingerprint: str
    """SHA-256 hex over weights, configuration (labels among it), tokenizer and dtype."""
    module: Any
    tokenizer: Any

    @on_compute_thread
    def classify(self, pairs: Sequence[Pair]) -> list[Classified]:
        """The labels' probabilities for each text or pair. What exceeds `limit` is cut at the end of the longer text."""
        read = [self._encode(pair) for pair in pairs]
        found: dict[int, Classified] = {}
        for places in self._batches([len(ids["input_ids"]) for ids, _ in read]):
            rows = self._probabilities([read[i][0] for i in places])
            for i, row in zip(places, rows, strict=True):
                ids, cut = read[i]
                found[i] = Classified(probabilities=tuple(row), tokens=len(ids["input_ids"]), cut=cut)
        return [found[i] for i in range(len(pairs))]

    def _encode(self, pair: Pair) -> tuple[dict[str, list[int]], int]:
        def ids(**options: Any) -> dict[str, list[int]]:
            found = self.tokenizer(*pair, split_special_tokens=True, verbose=False, **options)
            return {key: list(found[key]) for key in found}

        whole = ids()
        over = len(whole["input_ids"]) - self.limit
        if over <= 0:
            return whole, 0
        return ids(truncation="longest_first", max_length=self.limit), over

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places of texts of like length; one at a time for a model without a padding token."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if batch and (not self._pads or lengths[i] * (len(batch) + 1) > BATCH_TOKENS):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    @property
    def _pads(self) -> bool:
        padding = getattr(self.module.config.get_text_config(), "pad_token_id", None)
        return padding is not None and padding == self.tokenizer.pad_token_id

    @torch.no_grad()
    def _probabilities(self, encoded: Sequence[dict[str, list[int]]]) -> list[list[float]]:
        """Float32 [batch, labels] as lists."""
        device = next(self.module.parameters()).device
        if len(encoded) == 1:
            batch = {key: torch.tensor([ids]) for key, ids in encoded[0].items()}
        else:
            batch = self.tokenizer.pad({key: [e[key] for e in encoded] for key in encoded[0]}, return_tensors="pt")
        logits = self.module(**{key: ids.to(device) for key, ids in batch.items()}).logits.float()
        probabilities = logits.sigmoid() if self.several else logits.softmax(-1)
        rows: list[list[float]] = probabilities.cpu().tolist()
        return rows


@on_compute_thread
def load_classifier(
    spec: str, *, max_tokens: int | None = None, device: str | None = None, trust: bool = False
) -> TextClassifier:
    """The classifier in a folder, or `hf:org/name[@revision]`, in float32.

    `max_tokens` lowers the limit of the model's own context. ModelFileError for files that are missing, unsafe by the
    scan, or hold no head; UsageError for a limit that the model does not have.
    """
    if not spec.startswith("hf:") and not Path(spec).expanduser().is_dir():
        raise ModelFileError(
            f"there is no classifier at {spec}",
            expected="a folder with config.json, safetensors and a tokenizer, or hf:org/name@revision",
            next_step="check the path",
        )
    pin_threads()
    source = resolve(spec, trust=trust)
    module, tokenizer = _read(source)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    module.to(chosen).eval().requires_grad_(False)
    labels, several = _labels(module.config, source)
    return TextClassifier(
        name=spec,
        labels=labels,
        several=several,
        limit=_limit(module, tokenizer, max_tokens, spec),
        fingerprint=fingerprint_model(source, module.config, tokenizer, "float32").digest,
        module=module,
        tokenizer=tokenizer,
    )


def _read(source: Source) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True, **common}
    try:
        with _quietly():
            tokenizer = AutoTokenizer.from_pretrained(source.folder, **common)
            module, found = AutoModelForSequenceClassification.from_pretrained(source.folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelFileError(
            f"the classifier in {source.folder} cannot be read",
            expected="a sequence-classification model as safetensors with its tokenizer",
            got=f"{type(error).__name__}: {error}",
        ) from error
    if lacking := sorted([*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])]):
        raise ModelFileError(
            f"{source.folder} holds no trained classifier: some of its weights are not in the files",
            expected="the weights of a sequence-classification model, its head among them",
            got=f"without {', '.join(lacking[:3])}" + (" …" if len(lacking) > 3 else ""),
        )
    return module, tokenizer


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars and no table of missing weights: what is missing is refused below in words of our own."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _labels(config: Any, source: Source) -> tuple[tuple[str, ...], bool]:
    labels = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    several = config.problem_type == "multi_label_classification"
    if len(set(labels)) != len(labels) or (len(labels) < 2 and not several):
        raise ModelFileError(
            f"the model in {source.folder} does not tell labels apart",
            expected="two labels or more, each of its own name",
            got=", ".join(labels) or "no label",
        )
    return labels, several


def _limit(module: Any, tokenizer: Any, asked: int | None, name: str) -> int:
    """Tokens that fit: by the tokenizer, and by the table of positions (RoBERTa's begins after the padding token)."""
    table = next((m for n, m in module.named_modules() if n.endswith("position_embeddings")), None)
    places = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(table, torch.nn.Embedding):
        places = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    own = min(int(tokenizer.model_max_length), int(places) if places else 1 << 20, 1 << 20)
    if asked is not None and not 8 <= asked <= own:
        raise UsageError(f"{name} does not read {asked} tokens", expected=f"max_tokens from 8 to {own}")
    return asked or own
