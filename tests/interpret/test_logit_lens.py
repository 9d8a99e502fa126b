import pytest
import torch

from fivefold.errors import CapabilityError, ModelError
from fivefold.interpret.methods.logit_lens import final_norm, logit_lens, method


def test_the_last_layer_is_the_models_own_prediction(tiny, prompts) -> None:
    contexts = [c.messages for c in prompts[0][:3]]
    rows = logit_lens(tiny, contexts, top=3)
    assert len(rows) == 3 * tiny.n_layers
    for i, context in enumerate(contexts):
        with torch.no_grad():
            logits = tiny.module(input_ids=torch.tensor([tiny.encode(context)])).logits[0, -1]
        best = torch.softmax(logits.float(), -1).topk(3)
        last = rows[(i + 1) * tiny.n_layers - 1]
        assert last.probabilities == pytest.approx(best.values.tolist(), rel=1e-3)
        assert last.tokens == tuple(tiny.tokenizer.decode([int(t)]) for t in best.indices)
        assert last.kl_to_last == pytest.approx(0, abs=1e-6)
    assert max(r.kl_to_last for r in rows) > 0.01


def test_a_lens_that_disagrees_with_the_model_is_refused(tiny, prompts, monkeypatch) -> None:
    from fivefold.interpret.methods import logit_lens as lens

    monkeypatch.setattr(lens, "final_norm", lambda module: torch.nn.Identity())
    with pytest.raises(ModelError):
        lens.logit_lens(tiny, [prompts[0][0].messages])


def test_a_model_without_a_known_norm_is_refused() -> None:
    with pytest.raises(CapabilityError):
        final_norm(torch.nn.Linear(2, 2))


def test_the_registered_method_gives_a_table(tiny, prompts) -> None:
    table = method(top=2).run(tiny, prompts[0][:1], prompts[1][:1]).table
    assert {r["case"] for r in table} == {prompts[0][0].id, prompts[1][0].id}
    assert logit_lens(tiny, []) == []
