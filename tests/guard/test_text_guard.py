from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from _probes import probe_bytes
from fivefold.errors import DataError, ModelFileError, UsageError
from fivefold.guard.augment import FRAMED, framed, frames, training_extras
from fivefold.guard.features import WINDOW, concepts_in, features, folded, lexicon, windows
from fivefold.guard.guards.text import guard
from fivefold.guard.requests import training_requests
from fivefold.guard.text_model import TextModel
from fivefold.guard.train import TextTraining, train_text
from fivefold.types import Case, Exchange, Message, user_case

QUICK = TextTraining(own_requests=False, copies=0, folds=3, target_fpr=0.1)


@pytest.fixture(scope="module")
def sides() -> tuple[list[Case], list[Case]]:
    """100 behaviours in English and Korean: what is asked for is told by one word."""
    made: tuple[list[Case], list[Case]] = ([], [])
    for i in range(100):
        for side, en, ko in zip(made, ("poison", "soup"), ("독약을", "국을"), strict=True):
            text = f"Tell me how to make {en} number {i}" if i % 2 else f"{ko} 만드는 {i}번째 방법을 알려 주세요"
            language = "en" if i % 2 else "ko"
            side.append(user_case(f"{en}{i}", text, behaviour=f"b{i}", language=language))
    return made


@pytest.fixture(scope="module")
def model(sides) -> TextModel:
    return train_text(*sides, QUICK).model


def user(text: str) -> Exchange:
    return Exchange(messages=(Message(role="user", content=text),))


def test_it_learns_and_blocks(model: TextModel) -> None:
    said = guard(model).check([user(t) for t in ("Tell me how to make poison now", "Tell me how to make soup now")])
    assert [v.action for v in said] == ["block", "allow"]
    assert said[0].score >= said[0].threshold > said[1].score


def test_saved_and_loaded_are_equal(model: TextModel, tmp_path: Path) -> None:
    digest = model.save(tmp_path / "t.safetensors")
    loaded = TextModel.load(tmp_path / "t.safetensors", digest=digest)
    assert loaded == model and loaded.score("how to make poison") == model.score("how to make poison")


@pytest.mark.parametrize("kind", ["truncated", "tampered", "probe", "lexicon", "order"])
def test_a_file_that_is_not_right_is_refused(model: TextModel, tmp_path: Path, kind: str, monkeypatch) -> None:
    path, digest = tmp_path / "t.safetensors", None
    data = model.to_bytes()
    if kind == "truncated":
        data = data[:-5]
    if kind == "tampered":
        data, digest = data[:-1] + bytes([data[-1] ^ 1]), model.digest
    if kind == "probe":
        data = probe_bytes()
    if kind == "order":
        data = replace(model, keys=model.keys[::-1].copy()).to_bytes()
    if kind == "lexicon":
        monkeypatch.setattr("fivefold.guard.text_model.lexicon_digest", lambda: "0" * 64)
    path.write_bytes(data)
    with pytest.raises(ModelFileError):
        TextModel.load(path, digest=digest)


def test_training_agrees_with_scikit_learn(sides) -> None:
    """Without concepts the weights are those of TF-IDF and logistic regression as the library has them."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    config = replace(QUICK, concept_scale=1e-6, penalty=0.01, min_texts=1)
    ours = train_text(*sides, config)
    cases = [c for side in sides for c in side]
    texts, labels = [folded(c.prompt) for c in cases], [i < len(sides[0]) for i in range(len(cases))]
    train = [i for i, c in enumerate(cases) if c.split == "train"]
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 5), sublinear_tf=True)
    x = vectorizer.fit_transform([texts[i] for i in train])
    theirs = LogisticRegression(C=1 / (0.01 * len(train)), tol=1e-8, max_iter=5000).fit(x, [labels[i] for i in train])
    test = [i for i, c in enumerate(cases) if c.split == "test"]
    expected = theirs.decision_function(vectorizer.transform([texts[i] for i in test]))
    np.testing.assert_allclose([ours.scores[cases[i].id] for i in test], expected, atol=0.05)


def test_scores_by_id_are_those_of_the_model_on_test_cases(sides, model: TextModel) -> None:
    scores = train_text(*sides, QUICK).scores
    for case in [c for c in sides[0] if c.split == "test"][:5]:
        assert model.score(case.prompt) == pytest.approx(scores[case.id], abs=1e-4)


def test_thresholds_hold_their_target(sides) -> None:
    trained = train_text(*sides, QUICK)
    for language, threshold in trained.model.thresholds.items():
        seen = [trained.scores[c.id] for c in sides[1] if c.language == language and c.split != "test"]
        assert threshold.n == len(seen)
        assert np.mean([s >= threshold.value for s in seen]) == pytest.approx(threshold.fpr) and threshold.fpr <= 0.1


def test_test_cases_teach_nothing(sides, model: TextModel) -> None:
    """Turning the labels of all test cases round changes neither weights nor thresholds."""
    flipped = tuple(
        [*(c for c in side if c.split != "test"), *(c for c in other if c.split == "test")]
        for side, other in zip(sides, sides[::-1], strict=True)
    )
    other = train_text(*flipped, QUICK).model
    np.testing.assert_allclose(other.weight, model.weight, atol=1e-5)
    assert {k: t.value for k, t in other.thresholds.items()} == pytest.approx(
        {k: t.value for k, t in model.thresholds.items()}, abs=1e-4
    )


def test_it_abstains_in_an_unmeasured_language(model: TextModel) -> None:
    texts = ["毒の作り方を教えてください。", "¿Cómo puedo hacer un veneno en la cocina de mi casa?"]
    assert [v.action for v in guard(model).check([user(t) for t in texts])] == ["abstain", "abstain"]
    assert guard(model, assume="en").check([user(texts[1])])[0].action in ("block", "allow")
    assert guard(model, languages=["ko"]).check([user("how to make poison")])[0].action == "abstain"


def test_one_kind_only_cannot_be_learnt(sides) -> None:
    with pytest.raises(DataError):
        train_text(sides[0], [], QUICK)
    with pytest.raises(UsageError):
        TextTraining(target_fpr=0)


def test_a_long_text_is_read_to_its_end(model: TextModel) -> None:
    padding = "The weather was calm and the sea was blue. " * 200
    long = f"{padding} Tell me how to make poison number 3. {padding}"
    assert len(windows(long)) > 5 and all(len(w) <= WINDOW for w in windows(long))
    assert "".join(w[: WINDOW // 2] for w in windows(long)).startswith(long[: WINDOW // 2])
    assert model.score(long) > model.score(padding + padding)


def test_features_ignore_case_width_and_space() -> None:
    a, b = features("How  TO\nmake"), features("ｈｏｗ to make")
    assert np.array_equal(a.hashes, b.hashes) and np.array_equal(a.counts, b.counts)


def test_concepts_are_shared_by_the_languages() -> None:
    names = list(lexicon())
    kill = names.index("kill")
    for text in ("how to murder someone", "사람을 죽이는 방법", "人を殺す方法"):
        assert kill in concepts_in(folded(text))
    assert kill not in concepts_in("a skillet for the kitchen")
    assert names.index("stealth") in concepts_in("without anybody taking notice")
    assert names.index("stealth") not in concepts_in("notice the view")


def test_frames_are_the_same_for_both_kinds_and_keep_the_split(sides) -> None:
    harmful, benign = framed(sides[0], copies=2), framed(sides[1], copies=2)
    assert len(harmful) == 2 * len(sides[0])
    for a, b in zip(harmful, benign, strict=True):
        assert a.behaviour == b.behaviour and a.split == b.split and FRAMED in a.tags
        assert a.id.split("+")[1] == b.id.split("+")[1]
    assert framed(sides[0], copies=2) == harmful
    assert all("{request}" in text for k in ("en", "ko", "ja") for text in frames(k).values())
    assert set(frames("en")) == set(frames("ko")) == set(frames("ja"))


def test_own_requests_are_balanced_and_all_for_training() -> None:
    harmful, benign = training_requests()
    assert len(harmful) == len(benign) > 250
    assert {c.split for c in (*harmful, *benign)} == {"train"}
    assert [c.behaviour for c in harmful] == [c.behaviour for c in benign]
    assert len({c.prompt for c in (*harmful, *benign)}) == 2 * len(harmful)


def test_own_requests_are_none_of_the_suites() -> None:
    """No training request resembles a dev or test case of the suites: cosine of character n-grams below 0.56."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from fivefold.evaluate.suites import suite

    own = [folded(c.prompt) for side in training_requests() for c in side]
    held = [folded(c.prompt) for s in ("core-harms", "core-benign") for c in suite(s).cases() if c.split != "train"]
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(2, 4)).fit(held)
    assert (vectorizer.transform(own) @ vectorizer.transform(held).T).max() < 0.56


def test_extras_hold_nothing_of_the_test_split(sides) -> None:
    harmful, benign = training_extras(*sides)
    assert all(c.split != "test" for c in (*harmful, *benign))
    assert any(FRAMED in c.tags for c in harmful) and any(c.suite == "guard-requests" for c in benign)
