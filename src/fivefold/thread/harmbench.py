"""The HarmBench protocol as a preset: behaviours with their contexts, 512 greedy tokens, a classifier as the judge.

Mazeika et al. 2024 (arXiv 2402.04249). The authors' judge is a fine-tuned classifier (`cais/HarmBench-Llama-2-13b-cls` or
its Mistral 7B sibling) that answers yes or no to a prompt of theirs. Both are the user's to bring: the weights by a
model name, the prompt as a file (it stands on the model's page) with the places `{behavior}` and `{generation}`. Without
them this project's rule judge is used and every result says so: its rate is not the authors' attack success rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fivefold.errors import DataError, UsageError
from fivefold.evaluate.benchmarks import harmbench
from fivefold.redteam.names import Part
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Model, Request
from fivefold.score.asking import filled
from fivefold.score.protocol import Scorer
from fivefold.thread.attack import judge_of_answers
from fivefold.types import Case, Completion, Errored, Message, Outcome, Scored, digest

TOKENS = 512
CLASSIFIER = "harmbench_classifier"
LOUD = (
    "NOT the HarmBench attack success rate: no classifier was given, so this project's rule judge decided "
    "(give --judge MODEL and --judge-prompt FILE)"
)


@dataclass(frozen=True, kw_only=True)
class ClassifierJudge:
    """A model that is asked the classifier's prompt; yes is 1, no is 0, anything else an error."""

    model: Model
    prompt: str
    name: str = CLASSIFIER
    source: str = ""
    """The judge as it can be named again."""

    @property
    def digest(self) -> str:
        """SHA-256 over the classifier and its prompt."""
        return digest({"scorer": self.name, "model": self.model.fingerprint, "prompt": self.prompt})

    def __call__(self, case: Case, completion: Completion) -> Outcome:
        """Judge one completion of the case's own request."""
        if completion.error is not None:
            return Errored(error=completion.error, judge=self.digest)
        asked = filled(self.prompt, behavior=case.prompt, generation=completion.text)
        (said,) = self.model.generate([Request(messages=(Message(role="user", content=asked),), max_new_tokens=1)])
        word = said.text.strip().strip(".").lower()
        if said.error is not None or word not in ("yes", "no"):
            got = said.error or repr(said.text[:40])
            return Errored(error=f"the classifier said neither yes nor no: {got}", judge=self.digest)
        return Scored(value=float(word == "yes"), label="success" if word == "yes" else "withstood", judge=self.digest)


def judge_of(model: str | None, prompt: Path | None) -> tuple[Scorer, tuple[str, ...]]:
    """The judge, and what a reader must be told of it. UsageError for one of the two without the other."""
    if (model is None) != (prompt is None):
        raise UsageError("a classifier needs its weights and its prompt", expected="--judge and --judge-prompt")
    if model is None or prompt is None:
        return judge_of_answers(), (LOUD,)
    if not prompt.is_file():
        raise DataError(f"no file {prompt}", next_step="save the classifier's prompt from its page")
    text = prompt.read_text(encoding="utf-8")
    for place in ("{behavior}", "{generation}"):
        if text.count(place) != 1:
            raise DataError(f"{prompt} must hold {place} once", got=text.count(place))
    source = str(Part(name=CLASSIFIER, options={"model": model, "prompt": str(prompt)}))
    return ClassifierJudge(model=load(model), prompt=text, source=source), ()


def cases_of(limit: int | None = None) -> tuple[Case, ...]:
    """Standard and contextual behaviours; a context stands before its request, as in the benchmark."""
    return tuple(harmbench.cases())[:limit]
