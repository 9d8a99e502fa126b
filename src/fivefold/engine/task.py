"""Cases and a scorer as an Inspect task. Only imported when a run starts: it imports Inspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Score, Target, mean
from inspect_ai.scorer import Scorer as InspectScorer
from inspect_ai.scorer import scorer as inspect_scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from fivefold.engine.choice import choice_pairs
from fivefold.engine.provider import FivefoldAPI, details
from fivefold.errors import BudgetError, JudgeError
from fivefold.score.protocol import Scorer
from fivefold.score.scorers.choice import LETTERS, picks
from fivefold.types import Case, Completion, Errored, Likelihood, Outcome, Scored, Unscored, Usage, plain

BUDGET = "budget"
KEY = "fivefold"
"""Where this engine keeps its own data in a sample's metadata, an output's metadata and a score's metadata."""


def task_of(cases: Sequence[Case], scorer: Scorer, *, name: str) -> Task:
    """An Inspect task whose samples are the cases and whose scores carry our outcomes."""
    by_id = {case.id: case for case in cases}
    return Task(
        dataset=MemoryDataset([_sample(case) for case in cases], name=name),
        solver=answer_case(by_id),
        scorer=_scorer(by_id, scorer),
        name=name,
        display_name=name,
    )


def _sample(case: Case) -> Sample:
    fields = ("suite", "behaviour", "category", "language", "tags")
    target = case.target
    if isinstance(target, int):
        target = LETTERS[target] if target < len(LETTERS) else str(target)
    return Sample(
        id=case.id,
        input=[_chat(m.role, m.content) for m in case.messages],
        choices=list(case.choices) or None,
        target=target if target is not None else "",
        metadata={f: plain(getattr(case, f)) for f in fields if getattr(case, f)},
    )


def _chat(role: str, text: str) -> ChatMessage:
    if role == "system":
        return ChatMessageSystem(content=text)
    if role == "assistant":
        return ChatMessageAssistant(content=text)
    return ChatMessageUser(content=text)


@solver(name="fivefold_answer")
def answer_case(cases: Mapping[str, Case]) -> Solver:
    """Generate an answer, or compare the likelihoods of the options; what the budget cut off is marked, not failed."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        case = cases[str(state.sample_id)]
        try:
            if case.choices and isinstance(case.target, int):
                return await _choose(state, case)
            return await generate(state)
        except BudgetError:
            state.metadata[KEY] = {"unscored": BUDGET}
            return state

    return solve


async def _choose(state: TaskState, case: Case) -> TaskState:
    api = cast(FivefoldAPI, get_model().api)
    likelihoods = await api.loglikelihood(choice_pairs(case))
    completion = _chosen(api, case, likelihoods)
    state.output = ModelOutput.from_content(api.model_name, completion.text)
    state.output.metadata = {KEY: details(completion)}
    state.messages.append(state.output.message)
    return state


def _chosen(api: FivefoldAPI, case: Case, likelihoods: Sequence[Likelihood]) -> Completion:
    values = [cast(dict[str, Any], plain(x)) for x in likelihoods]
    _, per_byte = picks(values)
    return Completion(
        text=f"{LETTERS[per_byte]}) {case.choices[per_byte]}",
        model=api.served.model.fingerprint,
        usage=Usage(prompt=sum(x.n_tokens for x in likelihoods)),
        metadata={"likelihoods": values},
    )


def _scorer(cases: Mapping[str, Case], judge: Scorer) -> InspectScorer:
    @inspect_scorer(metrics=[mean()], name=judge.name)
    def outcome() -> InspectScorer:
        async def score(state: TaskState, target: Target) -> Score:
            if (state.metadata.get(KEY) or {}).get("unscored"):
                return score_of(Unscored(reason=BUDGET, judge=judge.digest))
            return score_of(await _judged(judge, cases[str(state.sample_id)], completion_of(state.output)))

        return score

    made: InspectScorer = outcome()
    return made


async def _judged(judge: Scorer, case: Case, completion: Completion) -> Outcome:
    """The outcome; a judge that asks a model runs on a thread, so that its requests meet in batches."""
    if not getattr(judge, "slow", False):
        return judge(case, completion)
    from anyio import CapacityLimiter, to_thread

    return await to_thread.run_sync(judge, case, completion, limiter=_limiter(CapacityLimiter))


_limits: list[Any] = []


def _limiter(kind: Any) -> Any:
    if not _limits:
        _limits.append(kind(256))
    return _limits[0]


def score_of(outcome: Outcome) -> Score:
    """An outcome as Inspect's score, which carries it whole. Errored raises: the sample becomes an error."""
    if isinstance(outcome, Errored):
        raise JudgeError(outcome.error)
    metadata = {KEY: plain(outcome)}
    if isinstance(outcome, Scored):
        return Score(value=outcome.value, answer=outcome.label, explanation=outcome.explanation, metadata=metadata)
    return Score.unscored(reason=outcome.reason, metadata=metadata)


def completion_of(output: ModelOutput) -> Completion:
    """The completion that an output carries."""
    kept = dict((output.metadata or {})[KEY])
    usage = Usage(**kept.pop("usage"))
    return Completion(text=output.completion, usage=usage, tokens=tuple(kept.pop("tokens")), **kept)
