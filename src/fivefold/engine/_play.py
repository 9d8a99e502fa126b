"""Episodes as an Inspect task: the agent loop, and a scorer that carries our outcomes. Imports Inspect.

The loop is the plain one of ReAct (Yao et al. 2023) without a prompt of its own: answer, do the calls of the answer,
answer again, until an answer calls nothing; then the user's next turn. It works with any Inspect model, ours (calls in
text) or a provider with tool calls of its own. Inspect's `react` agent is not used, because its reminders to go on and
its submit tool would be part of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anyio import to_thread
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Score, Target, mean
from inspect_ai.scorer import Scorer as InspectScorer
from inspect_ai.scorer import scorer as inspect_scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolCall, ToolCallError, ToolInfo, ToolParams

from fivefold.engine.task import BUDGET, KEY
from fivefold.engine.world import (
    Episode,
    Judge,
    Probe,
    ToolProblem,
    ToolUse,
    Trace,
    World,
    argument_problem,
    trace_from_json,
)
from fivefold.errors import BudgetError
from fivefold.types import Message, Outcome, Scored, plain

T = TypeVar("T")

SCORER = "episode"
PROBE_TOKENS = 16


def task_of_episodes(
    episodes: Sequence[Episode], judge: Judge, *, name: str, max_steps: int, config: GenerateConfig | None = None
) -> Task:
    """An Inspect task whose samples are the episodes; `config` is its own where no run gives one."""
    by_id = {episode.id: episode for episode in episodes}
    return Task(
        dataset=MemoryDataset([_sample(e) for e in episodes], name=name),
        solver=play(by_id, max_steps),
        scorer=_scorer(by_id, judge),
        config=config or GenerateConfig(),
        name=name,
        display_name=name,
    )


def _sample(episode: Episode) -> Sample:
    opening: list[ChatMessage] = [ChatMessageSystem(content=episode.system)] if episode.system else []
    described = {"scenario": episode.scenario, "condition": episode.condition, "category": episode.category}
    return Sample(id=episode.id, input=[*opening, ChatMessageUser(content=episode.turns[0])], metadata=described)


@solver(name="fivefold_episode")
def play(episodes: Mapping[str, Episode], max_steps: int) -> Solver:
    """Play one episode; what the budget cut off is marked, not failed."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        episode = episodes[str(state.sample_id)]
        world = await to_thread.run_sync(episode.world)
        try:
            played = _Play(episode=episode, world=world, state=state, max_steps=max_steps)
            state.metadata[KEY] = {"trace": plain(await played.run())}
        except BudgetError:
            state.metadata[KEY] = {"unscored": BUDGET}
        finally:
            await to_thread.run_sync(world.close)
        return state

    return solve


@dataclass(kw_only=True)
class _Play:
    """One episode while it is played."""

    episode: Episode
    world: World
    state: TaskState
    max_steps: int
    uses: list[ToolUse] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    answered: int = 0
    interrupted: bool = False
    out_of_steps: bool = False

    async def run(self) -> Trace:
        system = [m for m in self.state.messages if m.role == "system"]
        await self._ask_aside(0, system)
        for number, text in enumerate(self.episode.turns, 1):
            if number > 1:
                self.state.messages.append(ChatMessageUser(content=text))
            await self._answer_turn()
            await self._ask_aside(number, self.state.messages)
        facts = await to_thread.run_sync(self.world.facts)
        return Trace(
            messages=tuple(map(_plain_message, self.state.messages)),
            uses=tuple(self.uses),
            probes=tuple(self.probes),
            facts={**facts, "interrupted": self.interrupted},
            out_of_steps=self.out_of_steps,
        )

    async def _answer_turn(self) -> None:
        """Answers and calls until an answer calls nothing. Steps are counted over the whole episode."""
        while self.answered < self.max_steps:
            output = await self._generate()
            self.state.output = output
            self.state.messages.append(output.message)
            self.answered += 1
            calls = output.message.tool_calls or []
            for call in calls:
                self.state.messages.append(await self._do(call))
            if self._interrupts():
                continue
            if not calls:
                return
        self.out_of_steps = True

    async def _generate(self) -> ModelOutput:
        tools = [_info(spec) for spec in self.world.tools]
        config = GenerateConfig(max_tokens=self.episode.max_new_tokens)
        return await get_model().generate(list(self.state.messages), tools=tools, config=config)

    async def _ask_aside(self, turn: int, messages: Sequence[ChatMessage]) -> None:
        if turn not in self.episode.probe_turns:
            return
        for template in self.episode.probes:
            question = template.replace("{turn}", str(turn))
            asked = [*messages, ChatMessageUser(content=question)]
            output = await get_model().generate(asked, config=GenerateConfig(max_tokens=PROBE_TOKENS))
            self.probes.append(Probe(turn=turn, question=question, answer=output.message.text))

    def _interrupts(self) -> bool:
        """Say the interrupt when its time has come; whether it was said now."""
        interrupt = self.episode.interrupt
        if interrupt is None or self.interrupted or len(self.uses) < interrupt.after_calls:
            return False
        self.state.messages.append(ChatMessageUser(content=interrupt.text))
        self.interrupted = True
        return True

    async def _do(self, call: ToolCall) -> ChatMessageTool:
        """Do one call, note it, and give what the model is told."""
        result, error = "", call.parse_error or self._problem(call)
        if error is None:
            try:
                result = await to_thread.run_sync(self.world.call, call.function, call.arguments)
            except ToolProblem as problem:
                error = str(problem)
        use = ToolUse(
            name=call.function,
            arguments=dict(call.arguments),
            result=result,
            error=error or "",
            answer=self.answered - 1,
            interrupted=self.interrupted,
        )
        self.uses.append(use)
        told = None if error is None else ToolCallError("parsing", error)
        return ChatMessageTool(content=result, tool_call_id=call.id, function=call.function, error=told)

    def _problem(self, call: ToolCall) -> str | None:
        spec = next((s for s in self.world.tools if s.name == call.function), None)
        return f"there is no tool {call.function}" if spec is None else argument_problem(spec, call.arguments)


def _info(spec: Any) -> ToolInfo:
    parameters = ToolParams.model_validate({"type": "object", "properties": {}, **spec.parameters})
    return ToolInfo(name=spec.name, description=spec.description, parameters=parameters)


def _plain_message(message: ChatMessage) -> Message:
    text = message.text
    if isinstance(message, ChatMessageTool) and message.error is not None:
        text = message.error.message
    if isinstance(message, ChatMessageAssistant | ChatMessageTool | ChatMessageSystem | ChatMessageUser):
        return Message(role=message.role, content=text)
    raise TypeError(f"not a message: {type(message).__name__}")


def _scorer(episodes: Mapping[str, Episode], judge: Judge) -> InspectScorer:
    @inspect_scorer(metrics=[mean()], name=SCORER)
    def outcomes() -> InspectScorer:
        async def score(state: TaskState, target: Target) -> Score:
            kept = state.metadata.get(KEY) or {}
            if reason := kept.get("unscored"):
                return Score.unscored(reason=reason, metadata={KEY: {"unscored": reason}})
            trace = trace_from_json(kept["trace"])
            found = await _judged(lambda: judge(episodes[str(state.sample_id)], trace))
            return _score_of(found)

        return score

    made: InspectScorer = outcomes()
    return made


def _score_of(found: Mapping[str, Outcome]) -> Score:
    """All outcomes in the metadata; Inspect's own value is the first that was scored."""
    metadata = {KEY: {metric: plain(outcome) for metric, outcome in found.items()}}
    first = next(((m, o) for m, o in found.items() if isinstance(o, Scored)), None)
    if first is None:
        return Score.unscored(reason="no metric was scored", metadata=metadata)
    metric, outcome = first
    return Score(value=outcome.value, answer=f"{metric}: {outcome.label}", metadata=metadata)


async def _judged(work: Callable[[], T]) -> T:
    """On a thread: a judge may run code or ask a model."""
    return await to_thread.run_sync(work)
