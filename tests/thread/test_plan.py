"""Plans: typos are refused with the nearest key, budgets shrink them, and the same content has the same digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from fivefold.errors import PlanError
from fivefold.runtime.protocol import Cost
from fivefold.thread.plan import Plan, parse_minutes, plan_from, quick, read_plan, scaled
from fivefold.thread.run import fit, total_cost
from fivefold.thread.steps import Rates, Step

ROOT = Path(__file__).parents[2]
MINIMAL = {"fivefold": 1, "name": "p", "model": "scripted:refuse", "evaluate": [{"suite": "core-harms"}]}


@pytest.mark.parametrize("path", sorted((ROOT / "plans").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_plans_are_valid(path: Path) -> None:
    assert read_plan(path).fivefold == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evalute": []}, ["unknown key 'evalute'", "did you mean 'evaluate'"]),
        ({"evaluate": [{"suite": "core-harms", "limt": 3}]}, ["limt", "did you mean 'limit'"]),
        ({"redteam": {"attacks": [{"name": "direct", "behavours": 3}]}}, ["did you mean 'behaviours'"]),
        ({"evaluate": [{"suite": "core-harms", "limit": 0}]}, ["greater than 0"]),
        ({"fivefold": 2}, ["fivefold"]),
        ({"budget": "soon"}, ["not a budget", "5m"]),
        ({"guard": {}}, ["guard needs interpret"]),
        ({"guard": {"guards": ["text"], "languages": {"probe": ["en"]}}}, ["guard.languages names probe", "text"]),
        ({"patch": {}}, ["patch needs redteam"]),
    ],
)
def test_typos_and_nonsense_are_refused(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        plan_from({**MINIMAL, **change})
    assert all(word in caught.value.render() for word in words)


def test_a_misspelt_key_is_named_before_the_key_that_is_missing_for_it() -> None:
    with pytest.raises(PlanError, match="unknown key 'evalute'"):
        plan_from({"fivefold": 1, "name": "p", "model": "scripted:refuse", "evalute": [{"suite": "core-harms"}]})


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no plan at"):
        read_plan(tmp_path / "missing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2\nb: }")
    with pytest.raises(PlanError, match="not valid YAML"):
        read_plan(broken)
    broken.write_text("- just\n- a list\n")
    with pytest.raises(PlanError, match="not a plan"):
        read_plan(broken)


def test_the_digest_is_of_the_content() -> None:
    one, two = plan_from(dict(MINIMAL)), plan_from(dict(reversed(MINIMAL.items())))
    assert one.digest == two.digest
    assert plan_from({**MINIMAL, "seed": 1}).digest != one.digest


@pytest.mark.parametrize(("text", "minutes"), [("5m", 5), ("90s", 1.5), ("1.5h", 90), ("7", 7)])
def test_budgets(text: str, minutes: float) -> None:
    assert parse_minutes(text) == pytest.approx(minutes)


def test_quick_and_scaled_plans_keep_every_step() -> None:
    plan = read_plan(ROOT / "plans" / "smollm2.yaml")
    small = quick(plan)
    assert small.quick and small.patch and small.guard and small.reattack
    assert [s.suite for s in small.evaluate] == [s.suite for s in plan.evaluate]
    whole, half = plan.evaluate[1].limit, scaled(plan, 0.5).evaluate[1].limit
    assert isinstance(whole, dict) and isinstance(half, dict) and half["en"] == round(whole["en"] / 2)


def test_a_plan_is_fitted_to_its_budget() -> None:
    def cost(plan: Plan) -> Cost:
        limit = plan.evaluate[0].limit
        assert limit is None or isinstance(limit, int)
        return Cost(completion_tokens=(limit or 80) * 100)

    step = Step(name="s", title="s", cost=cost, run=lambda ctx: {})
    rates = Rates(completion=10.0)
    plan = plan_from({**MINIMAL, "evaluate": [{"suite": "core-harms", "limit": 60}], "budget": "2m"})
    assert total_cost(plan, [step], rates).minutes == pytest.approx(10)
    fitted = fit(plan, [step], rates)
    assert total_cost(fitted, [step], rates).minutes <= 2
    roomy = plan.model_copy(update={"budget": "1h"})
    assert fit(roomy, [step], rates) == roomy
