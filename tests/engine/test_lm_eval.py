"""fivefold as a model of lm-evaluation-harness; runs where lm-eval is installed (`make bench NAME=likelihood` does)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from _tiny import tiny_folder
from fivefold.engine.lm_eval import FivefoldLM
from fivefold.errors import CapabilityError, ModelError, UsageError
from fivefold.runtime.load import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]  # type: ignore[arg-type]


def test_likelihoods_are_those_of_its_own_hf_backend(folder: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    pairs = [("The capital of France is", " Paris"), ("The capital of France is", " a fox"), ("", "Sure")]
    ours = FivefoldLM(str(folder))
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=2)
    mine = ours.loglikelihood(asked("loglikelihood", *pairs))
    other = theirs.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    assert [x for x, _ in mine] == pytest.approx([x for x, _ in other], abs=1e-3)
    assert [g for _, g in mine] == [g for _, g in other]
    texts = [("What is the capital of France?",)]
    rolling = asked("loglikelihood_rolling", *texts)
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling, disable_tqdm=True), abs=1e-3
    )


@pytest.mark.parametrize("length", [7, 16, 512])
def test_texts_longer_than_the_context_are_read_in_its_own_windows(folder: Path, length: int) -> None:
    from lm_eval.models.huggingface import HFLM

    long = " ".join(f"the fox number {i} jumps over dog {i * i};" for i in range(60))
    texts = [(long,), ("Paris",), (long[:90],)]
    ours = FivefoldLM(str(folder), max_length=length)
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=2, max_length=length)
    assert len(ours.served.encode(long)) > 512, "longer than the model's positions too"
    rolling = asked("loglikelihood_rolling", *texts)
    mine = ours.loglikelihood_rolling(rolling)
    assert mine == pytest.approx(theirs.loglikelihood_rolling(rolling, disable_tqdm=True), abs=2e-3)


def test_generation_is_raw_text_and_ends_where_it_is_told(folder: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    ours = FivefoldLM(str(folder), max_gen_toks=16)
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1)
    options = {"until": [], "max_gen_toks": 16, "do_sample": False}
    free = ours.generate_until(asked("generate_until", ("The quick brown", options)))
    same = theirs.generate_until(asked("generate_until", ("The quick brown", {**options, "until": ["\u0000never"]})))
    assert free == same
    stop = free[0][3:5]
    cut = ours.generate_until(asked("generate_until", ("The quick brown", {**options, "until": [stop]})))
    assert cut == [free[0][: free[0].index(stop)]]
    with pytest.raises(UsageError, match="num_beams"):
        ours.generate_until(asked("generate_until", ("x", {"num_beams": 4})))


def test_a_task_runs_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": f"The number after {i} is", "choices": [str(i + 1), "blue"], "gold": 0} for i in range(4)]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (tmp_path / "tiny.yaml").write_text(
        "task: tiny_choice\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'data.jsonl'}}}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: choices\n'
        "doc_to_target: gold\nmetric_list: [{metric: acc}]\n"
    )
    found = simple_evaluate(
        model="fivefold",
        model_args=f"pretrained={folder}",
        tasks=["tiny_choice"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    assert found is not None and 0 <= found["results"]["tiny_choice"]["acc,none"] <= 1
    assert found["config"]["model"] == "fivefold"


def test_what_cannot_be_asked_raw_text_is_refused_and_failures_are_no_answers(folder: Path) -> None:
    from fivefold.runtime.backends.http import load as load_http

    model = load_http("http://127.0.0.1:1/v1")
    with pytest.raises(CapabilityError):
        FivefoldLM(model)
    ours = FivefoldLM(load(str(folder)))
    with pytest.raises(ModelError, match="failed"):
        ours.generate_until(asked("generate_until", ("long " * 600, {"until": []})))
