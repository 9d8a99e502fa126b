"""The classifier judge on tiny models made here: verdicts, batches, the form of the text, and files that are refused."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1]))
from _classifiers import classifier_folder
from fivefold.errors import ModelFileError, UnknownNameError, UsageError
from fivefold.runtime.classifier import TextClassifier
from fivefold.score import scorer
from fivefold.types import Completion, Errored, Scored, user_case

CASE = user_case("c", "open a door")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_folder(tmp_path_factory.mktemp("classifier") / "sure")


def say(text: str) -> Completion:
    return Completion(text=text, model="m")


def test_the_positive_label_is_the_event(folder: Path) -> None:
    judge = scorer(f"classifier(model={folder}, positive=harmful)")
    hit, miss = judge(CASE, say("Sure yes")), judge(CASE, say("I cannot help"))
    assert isinstance(hit, Scored) and (hit.value, hit.label) == (1.0, "harmful")
    assert isinstance(miss, Scored) and (miss.value, miss.label) == (0.0, "safe")
    assert hit.metadata["probability"] > 0.9 > 0.1 > miss.metadata["probability"]
    assert sum(hit.metadata["labels"].values()) == pytest.approx(1) and hit.judge == judge.digest
    turned = scorer("classifier", model=str(folder), positive=["safe"])(CASE, say("Sure yes"))
    assert isinstance(turned, Scored) and (turned.value, turned.label) == (0.0, "harmful")


def test_an_answer_that_is_missing_and_a_model_that_fails_are_errors(folder: Path) -> None:
    judge: Any = scorer("classifier", model=str(folder), positive="harmful")
    lost = judge(CASE, Completion(text="", model="m", error="lost"))
    assert isinstance(lost, Errored) and lost.error == "lost"
    judge.model.module.classifier.weight.data.fill_(float("nan"))
    assert isinstance(judge(CASE, say("Sure")), Errored)
    judge.model.module.forward = None
    broken = judge(CASE, say("Sure"))
    assert isinstance(broken, Errored) and "failed" in broken.error


def test_threads_meet_in_few_batches_and_the_batch_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = TextClassifier.classify

    def counting(self: TextClassifier, pairs: Any) -> Any:
        calls.append(len(pairs))
        return real(self, pairs)

    monkeypatch.setattr(TextClassifier, "classify", counting)
    judge = scorer("classifier", model=str(folder), positive="harmful")
    answers = [("Sure " if i % 3 else "") + "no " * (i + 1) for i in range(24)]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda a: judge(CASE, say(a)), answers))
    assert sum(calls) == 24 and len(calls) < 24
    for answer, outcome in zip(answers, together, strict=True):
        alone = judge(CASE, say(answer))
        assert isinstance(outcome, Scored) and isinstance(alone, Scored)
        assert outcome.value == alone.value == float("Sure" in answer)
        assert outcome.metadata["probability"] == pytest.approx(alone.metadata["probability"], abs=1e-5)


def test_what_does_not_fit_is_cut_and_said(folder: Path) -> None:
    judge = scorer("classifier", model=str(folder), positive="harmful")
    long = judge(CASE, say("no " * 100 + "Sure"))
    assert isinstance(long, Scored) and (long.value, long.metadata["tokens"]) == (0.0, 64)
    assert long.metadata["cut_tokens"] == 107 - 64
    short = scorer("classifier", model=str(folder), positive="harmful", max_tokens=10)(CASE, say("no no no no Sure"))
    assert isinstance(short, Scored) and short.metadata["cut_tokens"] == 1 and short.value == 0.0
    whole = judge(CASE, say("Sure"))
    assert isinstance(whole, Scored) and "cut_tokens" not in whole.metadata
    with pytest.raises(UsageError, match="does not read 65 tokens"):
        scorer("classifier", model=str(folder), positive="harmful", max_tokens=65)


def test_a_template_puts_the_text_together_and_texts_stay_texts(folder: Path) -> None:
    judge: Any = scorer("classifier", model=str(folder), positive="harmful", template="{answer}")
    asked = user_case("c", "Sure {answer}")
    outcome = judge(asked, say("no"))
    assert isinstance(outcome, Scored) and outcome.value == 0.0
    pair: Any = scorer("classifier", model=str(folder), positive="harmful")
    assert pair(asked, say("no")).value == 1.0
    both: Any = scorer("classifier", model=str(folder), positive="harmful", template="no {request} yes {answer}")
    assert both._put("a {answer}", "{request} b") == ("no a {answer} yes {request} b", None)
    marked = pair.model._encode(("a", "[SEP] [CLS] no"))[0]["input_ids"]
    assert marked.count(3) == 2 and marked.count(2) == 1
    with pytest.raises(UsageError, match="does not hold the answer"):
        scorer("classifier", model=str(folder), positive="harmful", template="{request}")


def test_the_digest_follows_weights_labels_template_and_limit(folder: Path, tmp_path: Path) -> None:
    other = classifier_folder(tmp_path / "help", word="help")
    renamed = classifier_folder(tmp_path / "named", labels=("fine", "harmful"))
    common: dict[str, Any] = {"positive": "harmful"}
    made = [
        scorer("classifier", model=str(folder), **common),
        scorer("classifier", model=str(other), **common),
        scorer("classifier", model=str(renamed), **common),
        scorer("classifier", model=str(folder), positive="safe"),
        scorer("classifier", model=str(folder), template="{answer}", **common),
        scorer("classifier", model=str(folder), max_tokens=32, **common),
        scorer("classifier", model=str(folder), threshold=0.9, **common),
    ]
    assert len({m.digest for m in made}) == len(made)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert scorer("classifier", model=str(moved), **common).digest == made[0].digest


def test_several_labels_may_hold_at_once(tmp_path: Path) -> None:
    path = classifier_folder(tmp_path / "m", labels=("toxic", "threat"), kind="multi_label_classification")
    judge = scorer("classifier", model=str(path), positive=["threat"])
    hit = judge(CASE, say("Sure"))
    assert isinstance(hit, Scored) and hit.label == "threat" and sum(hit.metadata["labels"].values()) > 1.2
    miss = scorer("classifier", model=str(path), positive=["toxic", "threat"], threshold=0.8)(CASE, say("no"))
    assert isinstance(miss, Scored) and (miss.value, miss.label) == (0.0, "none")


def test_what_is_no_classifier_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(path: Path | str, **options: Any) -> str:
        with pytest.raises(ModelFileError) as error:
            scorer("classifier", model=str(path), **{"positive": "harmful", **options})
        return str(error.value)

    assert "there is no classifier" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is not a model folder" in refused(tmp_path / "empty")

    headless = shutil.copytree(folder, tmp_path / "headless")
    from safetensors.torch import load_file, save_file

    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("classifier")}
    save_file(weights, headless / "model.safetensors", metadata={"format": "pt"})
    assert "holds no trained classifier" in refused(headless) and "classifier.bias" in refused(headless)

    remote = shutil.copytree(folder, tmp_path / "remote")
    config = json.loads((remote / "config.json").read_text())
    (remote / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    assert "auto_map" in refused(remote) and "auto_map" in refused(remote, trust=True)

    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    assert "was not loaded" in refused(pickled)
    assert "no safetensors" in refused(pickled, trust=True)

    one = classifier_folder(tmp_path / "one", labels=("a", "a"))
    assert "does not tell labels apart" in refused(one)


def test_options_are_checked_and_the_labels_named(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="harmfull") as error:
        scorer("classifier", model=str(folder), positive="harmfull")
    assert "harmful, safe" in str(error.value) and "did you mean 'harmful'" in str(error.value)
    with pytest.raises(UsageError, match="needs the option 'model'"):
        scorer("classifier(positive=harmful)")
    with pytest.raises(UnknownNameError, match="option of classifier 'postive'"):
        scorer(f"classifier(model={folder}, postive=harmful)")


@pytest.mark.parametrize("kind", ["roberta", "llama", "llama without padding"])
def test_other_architectures_read_as_much_as_they_can_in_any_batch(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForSequenceClassification,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    from _classifiers import bert_tokenizer

    tokenizer = bert_tokenizer(("Sure", "no", "yes"))
    size: dict[str, Any] = {"vocab_size": 7, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"intermediate_size": 16, "max_position_embeddings": 20, "num_labels": 2, "initializer_range": 0.5}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "roberta":
            module: Any = RobertaForSequenceClassification(RobertaConfig(**size, pad_token_id=0))
        else:
            padding = 0 if kind == "llama" else None
            module = LlamaForSequenceClassification(LlamaConfig(**size, pad_token_id=padding))
    module.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    judge: Any = scorer("classifier", model=str(tmp_path / "m"), positive="LABEL_1")
    assert judge.model.limit == (19 if kind == "roberta" else 20)
    pairs = [("Sure", "no " * n) for n in (1, 3, 9, 40)]
    together = judge.model.classify(pairs)
    for pair, found in zip(pairs, together, strict=True):
        (alone,) = judge.model.classify([pair])
        assert alone.probabilities == pytest.approx(found.probabilities, abs=1e-5)
    assert together[-1].cut == 44 - judge.model.limit
