"""Contamination: overlap on texts that were planted, twins that keep the meaning, familiarity of what was learnt."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from _tiny import tiny_folder, tiny_model, tiny_tokenizer
from fivefold.errors import CapabilityError, DataError, UnknownNameError, UsageError
from fivefold.evaluate.familiarity import familiarity, min_k_plus_plus
from fivefold.evaluate.overlap import read_corpus, scan, tokens
from fivefold.evaluate.variants import FORMS, form, forms_for, twin
from fivefold.types import Case, user_case

WORDS = [
    "river",
    "stone",
    "lamp",
    "garden",
    "window",
    "bread",
    "horse",
    "silver",
    "paper",
    "cloud",
    "engine",
    "market",
    "letter",
    "winter",
    "bridge",
    "candle",
    "mirror",
    "forest",
    "kettle",
    "ladder",
    "marble",
    "needle",
    "orange",
    "pencil",
    "rabbit",
    "saddle",
    "tunnel",
    "violin",
    "walnut",
    "yellow",
]


def sentence(seed: int, n: int = 24) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def question(i: int, **fields: object) -> Case:
    return user_case(f"q/{i}", sentence(i), **fields)  # type: ignore[arg-type]


def test_planted_cases_are_found_and_others_are_not() -> None:
    cases = [question(i) for i in range(30)]
    planted = {3, 11, 27}
    texts = [sentence(1000 + k, 200) for k in range(20)]
    for k, i in enumerate(planted):
        texts[5 * k] += ", " + sentence(i).upper().replace(" ", ",  ") + "! " + sentence(2000 + k)
    report = scan(cases, [(f"t{k}", t) for k, t in enumerate(texts)])
    assert set(report.dirty) == {f"q/{i}" for i in planted}
    by_id = {c.id: c for c in report.cases}
    assert by_id["q/3"].covered == 1.0 and by_id["q/3"].where.startswith("t")
    assert all(by_id[f"q/{i}"].covered == 0 for i in range(30) if i not in planted)


def test_half_a_case_is_half_covered_and_the_threshold_decides() -> None:
    half = " ".join(sentence(1, 40).split()[:20])
    report = scan([user_case("a", sentence(1, 40))], [("t", half)])
    assert report.cases[0].covered == pytest.approx(0.5)
    assert report.dirty == ("a",)
    assert scan([user_case("a", sentence(1, 40))], [("t", half)], threshold=0.6).dirty == ()


def test_korean_and_japanese_are_read_by_character() -> None:
    korean = "오늘 아침에 산책을 하다가 오래된 다리 위에서 친구를 만났습니다"
    japanese = "昨日の午後に図書館で古い地図を見つけて友達に見せました"
    cases = [user_case("ko", korean), user_case("ja", japanese)]
    report = scan(cases, [("t", f"서문. {korean.replace(' ', '')} 끝. {japanese[:6]}")])
    assert report.dirty == ("ko",)
    assert tokens("Ab-c 한글x") == ["ab", "c", "한", "글", "x"]


def test_what_is_too_short_is_not_called_clean() -> None:
    report = scan([user_case("short", "two plus two")], [("t", "two plus two is four")])
    assert report.unread == ("short",) and report.cases == ()


def test_canaries_give_a_corpus_away() -> None:
    guid = "0a1b2c3d-1111-2222-3333-444455556666"
    corpus = [("a", f"DATA. canary GUID {guid} here"), ("b", "my-own-canary"), ("c", "nothing")]
    report = scan([question(1)], corpus, canaries=["my-own-canary"])
    assert report.canaries == (f"{guid} in a", "my-own-canary in b")


def test_a_corpus_is_read_from_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(sentence(1))
    (tmp_path / "b.jsonl").write_text(json.dumps({"deep": [{"text": sentence(2)}]}) + "\nnot json " + sentence(3))
    with gzip.open(tmp_path / "c.txt.gz", "wt") as stream:
        stream.write(sentence(4))
    outside = tmp_path.parent / f"{tmp_path.name}-outside.txt"
    outside.write_text(sentence(5))
    (tmp_path / "link.txt").symlink_to(outside)
    report = scan([question(i) for i in range(1, 6)], read_corpus([tmp_path]))
    assert set(report.dirty) == {"q/1", "q/2", "q/3", "q/4"}
    with pytest.raises(DataError, match="no corpus"):
        list(read_corpus([tmp_path / "nowhere"]))
    (tmp_path / "bad.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_corpus([tmp_path / "bad.gz"]))


LETTERED = user_case(
    "m/1",
    "Which is a fruit?\nA. iron\nB. plum\nC. glass\nD. rope\nAnswer:",
    choices=("A", "B", "C", "D"),
    target=1,
    metadata={"style": "raw"},
)


def test_permuted_options_keep_the_right_answer_right() -> None:
    for seed in range(10):
        other = twin(LETTERED, "options", seed=seed)
        assert other is not None and other.prompt != LETTERED.prompt
        lines = dict(line.split(". ") for line in other.prompt.split("\n")[1:5])
        assert lines["ABCD"[int(other.target)]] == "plum"  # type: ignore[arg-type]
        assert sorted(lines.values()) == sorted(["iron", "plum", "glass", "rope"])
        assert other.choices == LETTERED.choices and other.id == LETTERED.id


def test_options_that_are_indented_are_options_too() -> None:
    case = user_case("p", "Would you?\n\nChoices:\n (A) Yes\n (B) No", choices=("(A)", "(B)"), target=0)
    other = twin(case, "options")
    assert other is not None and other.prompt.endswith(" (A) No\n (B) Yes")
    assert other.choices == case.choices and other.target == 1


def test_worked_examples_before_the_question_stay_as_they_are() -> None:
    shot = "Which is a metal?\nA. iron\nB. plum\nAnswer: A\n\n"
    case = user_case("m/2", shot + LETTERED.prompt, choices=("A", "B", "C", "D"), target=1)
    other = twin(case, "options")
    assert other is not None and other.prompt.startswith(shot)


def test_people_are_renamed_throughout_and_the_key_with_them() -> None:
    case = user_case("g", "Mary has 3 apples. John gives Mary 2. Who has more?", target="Mary")
    other = twin(case, "names")
    assert other is not None and "Mary" not in other.prompt and "John" not in other.prompt
    assert isinstance(other.target, str) and other.prompt.count(other.target) == 2
    assert "3 apples" in other.prompt
    assert twin(case, "names") == other


def test_where_there_is_nothing_to_change_there_is_no_twin() -> None:
    assert twin(user_case("x", "What is 2 + 2?"), "names") is None
    assert twin(user_case("x", "Pick", choices=("yes", "no"), target=0), "options") is None
    assert twin(LETTERED, "wording") is None
    with pytest.raises(UnknownNameError):
        twin(LETTERED, "option")


def test_forms_change_the_template_alone() -> None:
    case = user_case("x", "What is the tallest mountain?")
    names = forms_for([case])
    assert names[0] == "as given" and {"Q and A", "system prompt"} <= set(names)
    assert "chat template" not in names
    for name in names:
        other = form(case, name)
        assert "What is the tallest mountain?" in other.prompt and other.id == "x"
    assert set(forms_for([LETTERED])) == {"as given", "wide spacing"}
    cloze = user_case("y", "Water is", choices=("wet", "dry"), target=0)
    assert form(cloze, "chat template").metadata["style"] == "chat"
    assert set(FORMS) >= set(names)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has seen half of the sentences many times."""
    import torch

    folder = tiny_folder(tmp_path_factory.mktemp("learnt") / "model", initializer_range=0.05)
    model, tokenizer = tiny_model(initializer_range=0.05), tiny_tokenizer()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = tokenizer([sentence(i, 10) for i in range(12)], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(150):
            model(**batch, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.save_pretrained(folder)
    return folder


def test_learnt_texts_are_more_familiar_than_new_ones_of_the_same_kind(learnt: Path) -> None:
    from fivefold.runtime.load import load

    model = load(str(learnt))
    found = familiarity(model, [sentence(i, 10) for i in range(12)], [sentence(500 + i, 10) for i in range(12)])
    assert found.more_familiar.low > 0.5 and found.auroc.estimate > 0.9
    none = familiarity(model, [sentence(700 + i, 10) for i in range(12)], [sentence(900 + i, 10) for i in range(12)])
    assert none.more_familiar.low < 0.5 < none.more_familiar.high


def test_min_k_is_the_paper_formula(learnt: Path) -> None:
    import torch

    from fivefold.runtime.load import load

    model = load(str(learnt))
    ids = model.encode(sentence(3, 6))
    with torch.no_grad():
        logits = model.module(torch.tensor([ids])).logits[0]
    z = []
    for t in range(1, len(ids)):
        log_p = torch.log_softmax(logits[t - 1].double(), -1)
        mean = float((log_p.exp() * log_p).sum())
        sd = float((log_p.exp() * (log_p - mean) ** 2).sum()) ** 0.5
        z.append((float(log_p[ids[t]]) - mean) / sd)
    lowest = sorted(z)[: max(1, int(len(z) * 0.2))]
    assert min_k_plus_plus(model, [sentence(3, 6)]) == [pytest.approx(sum(lowest) / len(lowest), abs=1e-3)]


def test_a_model_that_shows_no_logits_is_refused() -> None:
    from fivefold.runtime.load import load

    with pytest.raises(CapabilityError):
        familiarity(load("scripted:echo"), ["a"], ["b"])  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        familiarity(load("scripted:echo"), ["a"], [])  # type: ignore[arg-type]
