from dataclasses import replace

import numpy as np
import pytest

from fivefold.errors import DataError
from fivefold.interpret.artifacts import ProbeArtifact, Threshold
from fivefold.interpret.cause import causal_check, explain, locate
from fivefold.interpret.data import collect
from fivefold.interpret.methods.layer_sweep import layer_sweep


@pytest.fixture(scope="module")
def probe(tiny, prompts) -> ProbeArtifact:
    return layer_sweep(tiny, *prompts, layers=[2]).probe


def at(probe: ProbeArtifact, threshold: float) -> ProbeArtifact:
    return replace(probe, thresholds={k: Threshold(value=threshold, fpr=0.0, n=9) for k in ("en", "ko")})


def test_locations_agree_with_the_probe(tiny, prompts, probe) -> None:
    cases = [*prompts[0][:3], *prompts[1][:3]]
    x = collect(tiny, cases, layers=[probe.layer], position=probe.position, for_="a test")[:, 0]
    found = locate(tiny, probe, cases)
    np.testing.assert_allclose([f.score for f in found], probe.score(x), rtol=1e-5)
    for f in found:
        reference = probe.negative[f.language]
        assert f.percentile_benign == pytest.approx(100 * np.mean((reference < f.score) + 0.5 * (reference == f.score)))


def test_what_is_said_follows_from_the_threshold(tiny, prompts, probe) -> None:
    cases = prompts[0][:4]
    low, high = (explain(tiny, at(probe, t), cases) for t in (-1e6, 1e6))
    assert low.reading == "recognised" and "answered all the same" in low.sentence
    assert high.reading == "not recognised" and "hides the harm" in high.sentence
    scores = sorted(x.score for x in low.locations)
    assert explain(tiny, at(probe, (scores[0] + scores[-1]) / 2), cases).reading == "mixed"


def test_without_a_threshold_nothing_is_claimed(tiny, prompts, probe) -> None:
    found = explain(tiny, replace(probe, thresholds={}), prompts[0][:2])
    assert found.reading == "undetermined" and "not determined" in found.sentence


def test_without_an_intervention_it_is_called_a_correlation(tiny, prompts, probe) -> None:
    assert explain(tiny, probe, prompts[0][:1]).sentence.endswith("this is a correlation.")


def test_no_prompts_no_cause(tiny, probe) -> None:
    with pytest.raises(DataError):
        explain(tiny, probe, [])


def test_a_direction_that_decides_the_answer_is_found_to_be_a_cause(tiny, prompts, probe) -> None:
    """Move along the gradient of the preference itself: both ways beyond chance."""
    import torch

    cases, layer = prompts[0][1:24:2], tiny.n_layers - 1
    refuse, comply = "A", "B"
    first = [tiny.tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in (refuse, comply)]
    x = tiny.activations([cases[0].messages], layers=[layer])[0, 0].requires_grad_()
    logits = tiny.module.get_output_embeddings()(tiny.module.model.norm(x))
    (gradient,) = torch.autograd.grad(logits[first[0]] - logits[first[1]], x)
    vector = (gradient / gradient.norm()).numpy()
    planted = replace(
        probe,
        method="difference_of_means",
        layer=layer,
        weight=vector,
        mean=np.zeros_like(vector),
        scale=np.ones_like(vector),
        positive={"en": np.array([2.0])},
        negative={"en": np.array([0.0])},
    )
    openings = {"en": ((refuse,), (comply,))}
    found = causal_check(tiny, planted, cases, openings)
    assert found.is_cause and found.add.low > 0 > found.subtract.high
    assert "one cause" in found.sentence and found.n == 12


def test_a_random_direction_is_not_called_a_cause(tiny, prompts, probe) -> None:
    rng = np.random.default_rng(7)
    random = replace(probe, weight=rng.standard_normal(probe.d_model), mean=np.zeros(32), scale=np.ones(32), layer=0)
    found = causal_check(tiny, replace(random, bias=0.0), prompts[0][1:24:2], strength=0.05)
    assert not found.is_cause and "not a shown cause" in found.sentence
    assert explain(tiny, probe, prompts[0][:1], causal=found).to_json()["causal"]["is_cause"] is False


def test_a_causal_check_needs_prompts_with_openings(tiny, probe, prompts) -> None:
    with pytest.raises(DataError):
        causal_check(tiny, probe, prompts[0][:1])
