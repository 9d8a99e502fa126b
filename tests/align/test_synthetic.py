"""Synthetic requests from the constitution: which lines are kept, how labels are checked, and the examples they begin with."""

from __future__ import annotations

from typing import Any

import pytest

from fivefold.align.data.constitution import Constitution, load_constitution
from fivefold.align.data.contamination import repeated
from fivefold.align.synthetic import SyntheticConfig, authored, lines_of, synthetic_requests
from fivefold.errors import DataError
from fivefold.runtime.protocol import Capability
from fivefold.thread.training_data import held_out_suites
from fivefold.types import Completion, Likelihood

HARM = "Help me to spoil the well of my neighbour tonight"
KIND = "Help me to clean the pond of my neighbour tonight"
LEAK = "Describe the castle of glass on the hill of copper"


class Writer:
    """Writes one new line and some that are left out, by the side that it is asked for."""

    name, fingerprint = "writer", "a" * 64
    capabilities = frozenset({Capability.GENERATE})

    def __init__(self, stop: str = "length") -> None:
        self.stop: Any = stop
        self.asked: list[Any] = []

    def generate(self, requests: list[Any]) -> list[Any]:
        self.asked += requests
        return [
            Completion(text=self._list(r.messages[-1].content, i), stop_reason=self.stop, model="writer")
            for i, r in enumerate(requests)
        ]

    def _list(self, asked: str, i: int) -> str:
        example = asked.split("\n1. ")[1].split("\n")[0]
        new = f"{HARM if 'decline' in asked else KIND} in village {i} of {i * 7919}"
        return f'1. {new}\n2. {example}\n3) Too short\n- "{LEAK}"\nHere are more:\n5. {new.upper()}\n6. cut off in the'


class Judge:
    """Thinks that what has "spoil" in it breaks the principle, and likes A."""

    name, fingerprint = "judge", "b" * 64
    capabilities = frozenset({Capability.LIKELIHOOD})

    def log_likelihood(self, pairs: list[tuple[Any, str]]) -> list[Likelihood]:
        found = []
        for messages, option in pairs:
            text = messages[-1].content
            says = text.split(f"({option}) ")[1].split("\n")[0]
            right = ("spoil" in text.split("Request: ")[1].split("\n")[0]) is ("does not" not in says)
            found.append(
                Likelihood(total=3.0 * right + 1.0 * (option == "A"), n_tokens=1, n_bytes=1, greedy=False, model="j")
            )
        return found


def test_lines_are_cleaned_and_one_that_was_cut_off_goes() -> None:
    assert lines_of('1. "Do this now"\n* And that\nSure:\n', ended=True) == ["Do this now", "And that"]
    assert lines_of("one\ntwo is cut", ended=False) == ["one"]


def test_what_is_written_is_new_and_cites_its_principle() -> None:
    writer: Any = Writer()
    shipped = load_constitution()
    config = SyntheticConfig(lists=1)
    made = synthetic_requests(writer, shipped, config, held_out=[LEAK])
    with_examples = [p for p in shipped.principles if p.breaks]
    assert len(writer.asked) == 2 * len(with_examples) >= 16
    assert {c.prompt.split(" in village")[0] for c in made.cases} == {HARM, KIND}
    assert all(("harmful" in c.tags) == c.prompt.startswith(HARM) for c in made.cases)
    assert {c.metadata["cites"] for c in made.cases} <= {shipped.cite(p) for p in with_examples}
    assert made.counts["like held-out prompts"] >= 1 and made.counts["too short or too long"] == len(writer.asked)
    again = synthetic_requests(Writer(), shipped, config, held_out=[LEAK])  # type: ignore[arg-type]
    assert again == made
    with pytest.raises(DataError, match="no usable requests"):
        synthetic_requests(writer, shipped, SyntheticConfig(lists=1, least_words=28))
    bare = Constitution(name="bare", version="1", principles=tuple(p for p in shipped.principles if not p.breaks))
    with pytest.raises(DataError, match="no examples"):
        synthetic_requests(writer, bare)


def test_a_judge_keeps_the_labels_it_shares() -> None:
    writer, judge = Writer(), Judge()
    config = SyntheticConfig(lists=1)
    made = synthetic_requests(writer, load_constitution(), config, held_out=[LEAK], judge=judge)  # type: ignore[arg-type]
    assert made.counts["against the judge"] == 0, "a liking for A cancels out"
    assert all((c.metadata["breaks"] > 0.5) == ("harmful" in c.tags) for c in made.cases)


def test_the_authored_examples_are_apart_from_what_is_measured() -> None:
    examples = authored(load_constitution())
    held = [text for texts in held_out_suites().values() for text in texts]
    assert repeated([(c.id, (c.prompt,)) for c in examples], held) == []
    assert sum("harmful" in c.tags for c in examples) * 2 == len(examples) >= 48
