"""Likelihood and activations against naive forwards of the same module, one sequence at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fivefold.errors import ModelError, UsageError
from fivefold.runtime.load import load
from fivefold.types import Message

HEADER = "The quick brown fox jumps over the lazy dog. " * 12
PAIRS = [
    *((f"{HEADER}What is {x}?", f" {y}") for x in ("France", "Paris", "the lazy dog") for y in ("Paris", "a fox", "x")),
    ("The quick brown", " fox jumps over the lazy dog"),
    ("The quick brown fox jumps", " over"),
    ("x", "y"),
    ("trailing spaces   ", "here"),
    ("", "nothing before"),
    ("The quick brown", " fox jumps over the lazy dog"),
]


def naive(model: Any, context: Any, continuation: str) -> tuple[float, bool]:
    pair = model.codec.encode_pair(context, continuation)
    with torch.no_grad():
        logits = model.module(torch.tensor([pair.inputs])).logits[0].log_softmax(-1)
    rows = logits[-len(pair.continuation) :]
    return sum(float(r[t]) for r, t in zip(rows, pair.continuation, strict=True)), all(
        int(r.argmax()) == t for r, t in zip(rows, pair.continuation, strict=True)
    )


def test_likelihood_is_the_naive_one(model: Any) -> None:
    for pair, got in zip(PAIRS, model.log_likelihood(PAIRS), strict=True):
        total, greedy = naive(model, *pair)
        assert got.total == pytest.approx(total, abs=1e-4)
        assert got.greedy == greedy
        assert got.n_bytes == len(pair[1].encode())


@pytest.mark.parametrize("pack", [8, 64, 4096])
def test_likelihood_does_not_depend_on_packing(folder: Any, model: Any, pack: int) -> None:
    other = load(str(folder), pack_tokens=pack)
    for a, b in zip(other.log_likelihood(PAIRS), model.log_likelihood(PAIRS), strict=True):
        assert a.total == pytest.approx(b.total, abs=1e-4)


@pytest.mark.parametrize("block", [1, 16, 10_000])
def test_likelihood_does_not_depend_on_what_is_stored(model: Any, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    import fivefold.runtime._packing as packing

    expected = [x.total for x in model.log_likelihood(PAIRS)]
    monkeypatch.setattr(packing.Packer, "block_tokens", block)
    assert [x.total for x in model.log_likelihood(PAIRS)] == pytest.approx(expected, abs=1e-4)


def test_one_by_one_equals_together(model: Any) -> None:
    together = [x.total for x in model.log_likelihood(PAIRS)]
    assert [model.log_likelihood([p])[0].total for p in PAIRS] == pytest.approx(together, abs=1e-4)


def test_shared_tokens_are_computed_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = 0
    logits = type(model.engine)._logits

    def counting(self: Any, ids: Any, *rest: Any) -> Any:
        nonlocal computed
        computed += len(ids)
        return logits(self, ids, *rest)

    monkeypatch.setattr(type(model.engine), "_logits", counting)
    model.log_likelihood(PAIRS)
    inputs = [model.codec.encode_pair(*p).inputs for p in PAIRS]
    assert computed == len({row[:n] for row in inputs for n in range(1, len(row) + 1)})


LONG = [(f"{HEADER}What is {x}? {HEADER[:90]}", y) for x in ("France", "Paris", "x") for y in (" a fox", " x")]


def paths(model: Any, pairs: Any, *, read: bool = False) -> int:
    """Distinct beginnings of the pairs: tokens to compute; with `read`, those that predict a continuation."""
    made = [model.codec.encode_pair(*pair) for pair in pairs]
    return len({p.inputs[:n] for p in made for n in range(len(p.context) if read else 1, len(p.inputs) + 1)})


def test_the_last_layer_runs_for_what_is_read(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[int, list[int]] = {0: [], -1: []}
    for layer, seen in rows.items():
        mlp = model.engine.layers[layer].mlp
        monkeypatch.setattr(mlp, "forward", lambda x, f=mlp.forward, seen=seen: seen.append(x.shape[1]) or f(x))
    got = [x.total for x in model.log_likelihood(LONG)]
    assert (sum(rows[0]), sum(rows[-1])) == (paths(model, LONG), paths(model, LONG, read=True))
    assert got == pytest.approx([naive(model, *pair)[0] for pair in LONG], abs=1e-4)


def test_a_hook_in_the_last_layer_sees_every_row(model: Any) -> None:
    seen: list[int] = []
    expected = [x.total for x in model.log_likelihood(LONG)]
    with model.engine.layers[-1].mlp.register_forward_hook(lambda m, a, o: seen.append(o.shape[1])):
        assert [x.total for x in model.log_likelihood(LONG)] == pytest.approx(expected, abs=1e-4)
    assert sum(seen) == paths(model, LONG)


def test_a_shared_context_is_tokenised_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    ids = type(model.codec)._ids

    def counting(self: Any, text: str, *, special: bool) -> list[int]:
        texts.append(text)
        return ids(self, text, special=special)

    monkeypatch.setattr(type(model.codec), "_ids", counting)
    talk = (Message(role="user", content="What is the capital of France?"),)
    pairs = [(context, word) for context in (HEADER, talk) for word in (" Paris", " x")]
    together = model.codec.encode_pairs(pairs)
    assert len(texts) == len(set(texts)) == 6
    assert together == [model.codec.encode_pair(*pair) for pair in pairs]


@pytest.mark.parametrize("forward", [0.0, 1.0])
def test_likelihood_does_not_depend_on_what_is_computed_again(
    model: Any, monkeypatch: pytest.MonkeyPatch, forward: float
) -> None:
    import fivefold.runtime._packing as packing

    expected = [naive(model, *pair)[0] for pair in PAIRS]
    monkeypatch.setattr(packing, "FORWARD", forward)
    monkeypatch.setattr(packing.Packer, "block_tokens", 4)
    monkeypatch.setattr(packing.Packer, "join_tokens", 4)
    assert [x.total for x in model.log_likelihood(PAIRS)] == pytest.approx(expected, abs=1e-4)


def test_a_conversation_is_a_context(model: Any) -> None:
    talk = (Message(role="user", content="What is the capital of France?"),)
    got = model.log_likelihood([(talk, "Paris"), (talk, "I cannot help with that.")])
    assert got[0].total == pytest.approx(naive(model, talk, "Paris")[0], abs=1e-4)
    ids = model.codec.encode_pair(talk, "Paris")
    assert list(ids.context) == model.encode(talk)


def test_trailing_spaces_move_to_the_continuation(model: Any) -> None:
    moved, plain = model.codec.encode_pair("a fox ", "jumps"), model.codec.encode_pair("a fox", " jumps")
    assert moved == plain


def test_an_empty_continuation_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match="no tokens of its own"):
        model.log_likelihood([("The quick", "")])


def test_a_context_that_does_not_fit_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match="512"):
        model.log_likelihood([("fox " * 600, "x")])


def test_plain_likelihood_is_the_same(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [x.total for x in model.log_likelihood(PAIRS)]
    monkeypatch.setattr(model.engine, "packed", False)
    assert [x.total for x in model.log_likelihood(PAIRS)] == pytest.approx(expected, abs=1e-4)


CONTEXTS = ["The quick brown fox", "The quick brown fox jumps over", "The", HEADER, "What is", "The quick brown fox"]


def naive_stream(model: Any, context: Any, layers: list[int]) -> torch.Tensor:
    """[L, T, D]; the last layer's stream is caught before the final norm, which `hidden_states` applies."""
    caught: dict[int, torch.Tensor] = {}
    hooks = [
        model.engine.layers[i].register_forward_hook(lambda m, a, o, i=i: caught.__setitem__(i, o[0])) for i in layers
    ]
    with torch.no_grad():
        model.module(torch.tensor([model.encode(context)]))
    for hook in hooks:
        hook.remove()
    return torch.stack([caught[i] for i in layers])


@pytest.mark.parametrize("position", ["last", "mean", 0, -1])
@pytest.mark.parametrize("packed", [True, False])
def test_activations_are_the_naive_ones(
    model: Any, monkeypatch: pytest.MonkeyPatch, position: Any, packed: bool
) -> None:
    monkeypatch.setattr(model.engine, "packed", packed)
    layers = [2, 0, 3]
    got = model.activations(CONTEXTS, layers=layers, position=position)
    assert got.shape == (len(CONTEXTS), 3, model.d_model) and got.dtype == torch.float32
    for row, context in zip(got, CONTEXTS, strict=True):
        stream = naive_stream(model, context, layers)
        if position == "mean":
            expected = stream[:, 1:].mean(1) if stream.shape[1] > 1 else stream[:, 0]
        else:
            expected = stream[:, -1 if position == "last" else position]
        assert torch.allclose(row, expected, atol=1e-4)


def test_activations_equal_output_hidden_states(model: Any) -> None:
    got = model.activations(CONTEXTS[:2], layers=[0, 1, 2], position="last")
    for row, context in zip(got, CONTEXTS[:2], strict=True):
        with torch.no_grad():
            states = model.module(torch.tensor([model.encode(context)]), output_hidden_states=True).hidden_states
        assert torch.allclose(row, torch.stack([states[i + 1][0, -1] for i in (0, 1, 2)]), atol=1e-4)


def test_the_forward_stops_at_the_deepest_layer(model: Any) -> None:
    ran: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda m, a, i=i: ran.append(i)) for i, layer in enumerate(model.engine.layers)
    ]
    try:
        model.activations(["The quick"], layers=[1])
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == [0, 1]


def test_no_hook_stays_behind(model: Any) -> None:
    before = [list(layer._forward_hooks) for layer in model.engine.layers]
    model.activations(CONTEXTS, layers=[0, 2])
    assert [list(layer._forward_hooks) for layer in model.engine.layers] == before


def test_wrong_layers_and_positions_are_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="layer"):
        model.activations(["x"], layers=[4])
    with pytest.raises(UsageError, match="position"):
        model.activations(["x"], layers=[0], position=99)
    assert model.activations([], layers=[0]).shape == (0, 1, 32)


@pytest.mark.parametrize("n, length", [(1, 4), (4, 4), (5, 4), (8, 4), (11, 4), (3, 1)])
def test_windows_predict_every_token_once_and_fit(n: int, length: int) -> None:
    from fivefold.runtime._likelihood import windows

    tokens = list(range(100, 100 + n))
    made = windows(tokens, 7, length)
    assert [t for w in made for t in w.continuation] == tokens
    assert made[0].context == (7,) and all(len(w.inputs) <= length for w in made)
    assert all(len(w.inputs) == length for w in made[1:]), "the last window is filled up with context"
    whole = [7, *tokens]
    for w in made:
        at = whole.index(w.context[0])
        assert tuple(whole[at : at + len(w.inputs) + 1]) == (*w.context, *w.continuation)


def test_a_text_longer_than_the_positions_is_the_sum_of_its_windows(folder: Any, model: Any) -> None:
    text = " ".join(f"number {i};" for i in range(300))
    (got,) = model.log_likelihood_rolling([text])
    ids = model.tokenizer(text)["input_ids"]
    assert got.n_tokens == len(ids) > 512 and got.n_bytes == len(text)
    total, done, prefix = 0.0, 0, [model.tokenizer.bos_token_id]
    with torch.no_grad():
        while done < len(ids):
            stop = min(done + 512, len(ids))
            read = ([*prefix, *ids])[stop - 512 if stop > 512 else 0 : stop]
            logits = model.module(torch.tensor([read])).logits[0].log_softmax(-1)
            total += sum(float(logits[i - stop][ids[i]]) for i in range(done, stop))
            done = stop
    assert got.total == pytest.approx(total, abs=2e-3)
    short = "What is the capital of France?"
    assert model.log_likelihood_rolling([short])[0].total == pytest.approx(
        model.log_likelihood([("", short)])[0].total, abs=1e-4
    )


@pytest.mark.parametrize("n", [1, 4, 5, 11, 15, 16, 17])
def test_as_many_rows_come_back_as_were_asked(model: Any, n: int) -> None:
    ids, read = list(range(1, 21)), list(range(19, 19 - n, -1))
    with torch.no_grad():
        whole = model.module(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(model.engine.plain(ids, read), whole[read], atol=1e-4, rtol=0)
