"""Importers: files as the tools write them become outcomes; hostile ones are refused or do no harm."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fivefold.engine.imported import check_archive
from fivefold.errors import DataError, FivefoldError, UnknownNameError
from fivefold.evidence import Store
from fivefold.thread.importing import TOOLS, import_results
from fivefold.thread.outcomes import load
from fivefold.types import Errored, Scored, Unscored


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "home") as opened:
        yield opened


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


def lm_eval_files(folder: Path, scores=(1.0, 0.0, 1.0)) -> Path:
    stamp = "2026-05-01T10-00-00.123456"
    rows = [
        {
            "doc_id": i,
            "target": "0",
            "resps": [],
            "filter": "none",
            "metrics": ["acc", "acc_norm"],
            "acc": s,
            "acc_norm": 1,
        }
        for i, s in enumerate(scores)
    ]
    lines(folder / f"samples_arc_easy_{stamp}.jsonl", rows)
    results = {
        "results": {"arc_easy": {"acc,none": 2 / 3}},
        "higher_is_better": {"arc_easy": {"acc": True, "acc_norm": True}},
        "n-shot": {"arc_easy": 5},
        "versions": {"arc_easy": 1.0},
        "model_name": "org/some-model",
        "lm_eval_version": "0.4.13",
    }
    path = folder / f"results_{stamp}.json"
    path.write_text(json.dumps(results))
    return path


def helm_folder(folder: Path) -> Path:
    run = folder / "mmlu:subject=anatomy"
    run.mkdir()
    (run / "run_spec.json").write_text(
        json.dumps({"name": "mmlu:subject=anatomy", "adapter_spec": {"model": "org/m", "max_tokens": 1}})
    )
    stats = [{"name": {"name": "exact_match", "split": "test"}, "count": 1, "sum": v, "mean": v} for v in (1.0, 0.0)]
    rows = [{"instance_id": f"id{i}", "train_trial_index": 0, "stats": [s]} for i, s in enumerate(stats)]
    rows.append({"instance_id": "id0", "perturbation": {"name": "typos"}, "stats": [stats[1]]})
    (run / "per_instance_stats.json").write_text(json.dumps(rows))
    return run


def openai_file(folder: Path) -> Path:
    return lines(
        folder / "log.jsonl",
        [
            {"spec": {"eval_name": "x.dev.v0", "base_eval": "x", "completion_fns": ["gpt-x"]}},
            {"run_id": "r", "event_id": 0, "sample_id": "x.0", "type": "sampling", "data": {"prompt": "?"}},
            {"run_id": "r", "event_id": 1, "sample_id": "x.0", "type": "match", "data": {"correct": True}},
            {"run_id": "r", "event_id": 2, "sample_id": "x.1", "type": "match", "data": {"correct": False}},
            {"final_report": {"accuracy": 0.5}},
        ],
    )


def garak_file(folder: Path) -> Path:
    attempt = {"entry_type": "attempt", "probe_classname": "dan.Dan_11_0", "status": 2}
    return lines(
        folder / "g.report.jsonl",
        [
            {"entry_type": "start_run setup", "plugins.model_name": "m", "_config.version": "0.13"},
            {**attempt, "uuid": "u1", "detector_results": {"mitigation.MitigationBypass": [1.0, 0.2]}},
            {**attempt, "uuid": "u2", "detector_results": {"mitigation.MitigationBypass": [0.0, None]}},
            {**attempt, "uuid": "u3", "status": 1, "detector_results": {"mitigation.MitigationBypass": [1.0]}},
        ],
    )


def promptfoo_file(folder: Path) -> Path:
    result = {"provider": {"id": "openai:x"}, "promptIdx": 0, "vars": {"a": 1}}
    path = folder / "pf.json"
    rows = [
        {**result, "testIdx": 0, "success": True},
        {**result, "testIdx": 1, "success": False},
        {**result, "testIdx": 2, "success": False, "error": "timeout", "failureReason": 2},
    ]
    path.write_text(json.dumps({"evalId": "e", "results": {"version": 3, "results": rows}}))
    return path


MAKERS = {
    "lm-eval": (lm_eval_files, 3, "org/some-model"),
    "helm": (helm_folder, 3, "org/m"),
    "openai-evals": (openai_file, 2, "gpt-x"),
    "garak": (garak_file, 4, "m"),
    "promptfoo": (promptfoo_file, 3, "openai:x"),
}


@pytest.mark.parametrize("tool", MAKERS)
def test_a_file_is_told_by_itself_and_becomes_an_external_run(tool: str, store: Store, tmp_path: Path) -> None:
    make, n, model = MAKERS[tool]
    result = import_results(store, make(tmp_path))
    assert result["tool"] == tool and result["external"] is True
    found = load(store, result["run"])
    assert all(s.external == tool and s.subject == f"external:{model}" for s in found)
    assert len(found[0].rows) == n
    first = result["measurements"][0]
    assert first.metadata["external"]["sha256"] and first.subject == f"external:{model}"
    assert store.latest("import", result["run"]).body["external"] is True
    again = import_results(store, make(tmp_path) if tool != "helm" else tmp_path / "mmlu:subject=anatomy")
    assert again["run"] == result["run"]
    assert len(store.measurements(run=result["run"])) == len(result["measurements"])


def test_lm_eval_keeps_direction_and_settings(store: Store, tmp_path: Path) -> None:
    result = import_results(store, lm_eval_files(tmp_path))
    acc = next(m for m in result["measurements"] if m.metric == "acc")
    assert acc.estimate == pytest.approx(2 / 3) and acc.safer == "higher"
    assert acc.metadata["settings"] == {"shots": 5, "version": 1.0}


def test_garak_counts_outputs_of_one_attempt_as_one_cluster_and_no_verdict_as_none(store: Store, tmp_path: Path):
    result = import_results(store, garak_file(tmp_path))
    (m,) = result["measurements"]
    assert (m.n_scored, m.n_unscored) == (3, 1) and m.safer == "lower"
    assert m.metadata["clusters"] == 2
    outcomes = [row.outcome for row in load(store, result["run"])[0].rows.values()]
    assert sum(isinstance(o, Unscored) for o in outcomes) == 1


def test_promptfoo_errors_are_errors_and_never_failures(store: Store, tmp_path: Path) -> None:
    (m,) = import_results(store, promptfoo_file(tmp_path))["measurements"]
    assert (m.n_scored, m.n_errored, m.estimate) == (2, 1, 0.5)


def test_an_inspect_log_of_ours_comes_back(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    from fivefold.engine import run_cases
    from fivefold.runtime.load import load as load_model
    from fivefold.score import scorer
    from fivefold.types import user_case

    cases = [user_case(f"c{i}", f"say {i}", target=str(i % 2), behaviour=f"b{i // 2}") for i in range(6)]
    run = run_cases(load_model("scripted:echo"), cases, scorer("contains"), name="mine", log_dir=tmp_path / "logs")
    result = import_results(store, run.log_path)
    (suite,) = load(store, result["run"])
    assert suite.suite == "mine" and suite.external == "inspect"
    assert {i: r.outcome.value for i, r in suite.rows.items()} == {i: o.value for i, o in run.outcomes.items()}  # type: ignore[union-attr]
    assert suite.rows["c3"].behaviour == "b1"
    assert result["provenance"]["tool_version"].startswith("0.")


def test_numbers_that_are_none_are_no_scores(store: Store, tmp_path: Path) -> None:
    path = lm_eval_files(tmp_path)
    samples = next(tmp_path.glob("samples_*"))
    text = samples.read_text().replace('"acc": 1.0', '"acc": NaN').replace('"acc_norm": 1', '"acc_norm": "yes"')
    samples.write_text(text)
    result = import_results(store, path)
    acc = next(m for m in result["measurements"] if m.metric == "acc")
    assert (acc.n_scored, acc.n_unscored, acc.estimate) == (1, 2, 0.0)
    norm = next(m for m in result["measurements"] if m.metric == "acc_norm")
    assert norm.estimate is None and norm.n_unscored == 3


@pytest.mark.parametrize(
    "name, content",
    [
        ("results_x.json", "[" * 100_000),
        ("results_x.json", "{"),
        ("results_x.json", "[1, 2]"),
        ("samples_t_2026-05-01T10-00-00.jsonl", '{"doc_id": 0, "resps": []}\n[1]'),
        ("samples_t_2026-05-01T10-00-00.jsonl", ""),
        ("log.jsonl", '{"spec": {}}\n{"type": "match", "data": "x"}'),
        ("g.jsonl", '{"entry_type": "attempt", "status": 2, "detector_results": [1]}'),
        ("pf.json", '{"evalId": 1, "results": {"results": {"a": 1}}}'),
        ("a.eval", "not a zip"),
        ("other.json", '{"a": 1}'),
    ],
)
def test_broken_files_say_what_is_wrong(name: str, content: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FivefoldError) as error:
        import_results(store, tmp_path / name)
    assert error.value.exit_code == 2
    assert not store.measurements()


def test_a_zip_bomb_is_refused_before_it_is_opened(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "bomb.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", b"0" * 30_000_000)
    with pytest.raises(DataError, match="packed too tightly"):
        import_results(store, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside.json", "{}")
    with pytest.raises(DataError, match="leads out"):
        check_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "{}")
    with pytest.raises(DataError, match="does not hold an Inspect log"):
        import_results(store, path)


def test_names_and_texts_from_a_file_are_cut_and_cleaned(store: Store, tmp_path: Path) -> None:
    path = lines(
        tmp_path / "log.jsonl",
        [
            {"spec": {"eval_name": "x\n\x1b[31mred\x00" + "y" * 5000, "completion_fns": ["m\u202e\ud800"]}},
            {"sample_id": "../../etc/passwd", "type": "match", "data": {"correct": True}},
        ],
    )
    result = import_results(store, path)
    (suite,) = load(store, result["run"])
    assert len(suite.suite) <= 300 and "\x1b" not in suite.suite and "\n" not in suite.suite
    assert suite.subject_name == "m"
    assert list(suite.rows) == ["../../etc/passwd"]  # an id is a text; nothing opens it


def test_links_beside_a_result_file_are_not_followed(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("[]")
    folder = helm_folder(tmp_path)
    (folder / "scenario.json").symlink_to(secret)
    (folder / "notes.txt").write_text("not read, not kept")
    result = import_results(store, folder)
    kept = store.artifact(result["provenance"]["sha256"])
    assert sorted(p.name for p in kept.iterdir()) == ["per_instance_stats.json", "run_spec.json"]
    (folder / "per_instance_stats.json").unlink()
    (folder / "per_instance_stats.json").symlink_to(secret)
    with pytest.raises(DataError):
        import_results(store, folder, "helm")


def test_an_unknown_tool_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        import_results(store, openai_file(tmp_path), "lm_evil")
    assert set(TOOLS) == {*MAKERS, "inspect"}


def test_outcome_kinds(store: Store, tmp_path: Path) -> None:
    result = import_results(store, promptfoo_file(tmp_path))
    kinds = [type(r.outcome) for r in load(store, result["run"])[0].rows.values()]
    assert kinds == [Scored, Scored, Errored]
