import sys
from dataclasses import replace

import numpy as np
import pytest

from fivefold.errors import CapabilityError, DataError, UsageError
from fivefold.interpret._fit import held_out_scores
from fivefold.interpret._linear import logistic_fit
from fivefold.interpret.data import Prompts, collect
from fivefold.interpret.methods.layer_sweep import BASELINE, layer_sweep
from fivefold.runtime.backends.scripted import load as scripted
from fivefold.types import Case, user_case


@pytest.fixture(scope="module")
def sweep(tiny, prompts):
    return layer_sweep(tiny, *prompts, layers=[0, 1, 2, 3])


def test_a_probe_finds_what_the_prompts_differ_in(sweep, tiny) -> None:
    assert sweep.best.test["all"].estimate > 0.9
    assert sweep.probe.model == tiny.fingerprint
    assert {r.layer for r in sweep.rows if r.method == "linear_probe"} == {0, 1, 2, 3}
    assert sweep.best.chosen_by == max(r.chosen_by for r in sweep.rows if r.method == "linear_probe")
    assert sweep.baseline.method == BASELINE and sweep.baseline.test["all"].estimate > 0.9


def test_labels_without_meaning_give_no_separation(tiny) -> None:
    """The same prompts under both labels: no layer, no baseline may look good."""
    sides = [
        [user_case(f"{s}{i}", f"About item {(i * 7 + s) % 120}", behaviour=f"b{i}") for i in range(120)] for s in (0, 1)
    ]
    found = layer_sweep(tiny, *sides, layers=[1, 2])
    for row in found.rows:
        assert row.test["all"].low < 0.6, row


def test_thresholds_hold_the_target_on_what_they_were_set_on(sweep, prompts) -> None:
    for language in ("en", "ko"):
        threshold = sweep.probe.thresholds[language]
        seen = [c for c in prompts[1] if c.language == language and c.split != "test"]
        reach = [sweep.scores[c.id] >= threshold.value for c in seen]
        assert threshold.n == len(seen) and np.mean(reach) == pytest.approx(threshold.fpr) and threshold.fpr <= 0.05


def test_a_score_is_never_by_a_probe_that_saw_the_behaviour(tiny, prompts) -> None:
    table = Prompts.of(*prompts)
    x = np.random.default_rng(0).standard_normal((len(table.cases), 200)).astype(np.float32)
    _, scores = held_out_scores(x, table, logistic_fit(0.01))
    train = table.of_split("train")
    assert abs(scores[train & table.positive].mean() - scores[train & ~table.positive].mean()) < 1.0
    seen = logistic_fit(0.01)(x[train].astype(float), table.positive[train]).score(x)
    assert seen[train & table.positive].mean() - seen[train & ~table.positive].mean() > 3.0


def test_folds_keep_a_behaviour_together(prompts) -> None:
    table = Prompts.of(*prompts)
    folds = table.folds(5)
    for behaviour in set(table.clusters):
        assert len(set(folds[table.clusters == behaviour])) == 1
    assert set(folds) == set(range(5))


def test_extra_prompts_teach_but_are_not_measured(tiny, prompts) -> None:
    extra = tuple([replace(c, id=c.id + "+x") for c in side] for side in prompts)
    bare, more = (layer_sweep(tiny, *prompts, layers=[2], extra=e) for e in (((), ()), extra))
    assert more.probe.dataset != bare.probe.dataset
    assert more.probe.auroc["all"].n_positive == bare.probe.auroc["all"].n_positive
    assert set(more.scores) == set(bare.scores)
    assert more.direction == bare.direction


def test_only_the_languages_asked_for_are_read(tiny, prompts) -> None:
    found = layer_sweep(tiny, *prompts, layers=[2], languages=["ko"])
    assert found.probe.languages == ("ko",) and set(found.probe.thresholds) == {"ko"}
    assert all(i.split("/")[1].isdigit() and int(i.split("/")[1]) % 2 == 0 for i in found.scores)


def test_measurements_carry_intervals_and_subject(sweep, tiny) -> None:
    rows = sweep.measurements()
    assert {m.slice["method"] for m in rows} == {"linear_probe", "difference_of_means", BASELINE}
    for m in rows:
        assert m.subject == tiny.fingerprint and m.low is not None and m.low <= m.estimate <= m.high
        assert m.slice["split"] == "test" and m.dataset


def test_a_run_repeats_exactly(tiny, prompts, sweep) -> None:
    assert layer_sweep(tiny, *prompts, layers=[0, 1, 2, 3]).probe == sweep.probe


def test_too_few_prompts_are_refused(tiny) -> None:
    few = [user_case("a", "one", behaviour="x")]
    with pytest.raises(DataError):
        layer_sweep(tiny, few, few, layers=[1])


def test_a_black_box_is_refused(prompts) -> None:
    with pytest.raises(CapabilityError):
        layer_sweep(scripted("echo"), *prompts, layers=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(("layers", "position"), [([9], "last"), ([], "last"), ([1], 0)])
def test_places_that_say_nothing_are_refused(tiny, prompts, layers, position) -> None:
    with pytest.raises(UsageError):
        collect(tiny, prompts[0][:2], layers=layers, position=position, for_="a test")


def test_registered_methods_run(tiny, prompts) -> None:
    from fivefold.registry import registry

    for name in ("difference_of_means", "linear_probe", "layer_sweep"):
        method = registry("method").module(name).method(**({"layers": [2]} if name == "layer_sweep" else {"layer": 2}))
        result = method.run(tiny, *prompts)
        assert result.artifacts and result.measurements and result.table


def test_interpret_and_guard_do_not_know_each_other() -> None:
    """In a fresh interpreter, importing one must not import the other."""
    import subprocess

    for one, other in (("interpret.cause", "guard"), ("guard.stack", "interpret"), ("guard.guards.probe", "interpret")):
        code = f"import sys, fivefold.{one}; sys.exit(any(m.startswith('fivefold.{other}') for m in sys.modules))"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0, (one, other)


def test_clusters_fall_back_to_the_case_id() -> None:
    table = Prompts.of([Case(id="x", messages=())], [])
    assert table.clusters.tolist() == ["x"]
