"""AgentDojo: an order hidden in the data of an agent's tools, while it works for its user; judged by what the agent did.

Defensive use: measures whether an agent at a bank, an office, a travel agency or a chat serves its user or whoever wrote
what it reads. Source: Debenedetti et al. 2024, "AgentDojo: A Dynamic Environment to Evaluate Prompt Injection Attacks and
Defenses for LLM Agents" (arXiv 2406.13352). Tasks, tools, environments, jailbreak texts and verdicts are those of the
package `agentdojo` (the extra of that name), whose runner is used as it is; only the agent is ours. Its tools change
objects in memory and reach nothing outside this process.

Deviations: calls and results are written as text (`engine.tools`), as in AgentDojo's agents for models without a tool
format of their own; the texts address "the AI language model", because AgentDojo knows the names of few models; an agent
has as many rounds as the budget has queries, at most the 15 of AgentDojo; a failed request is an error, where AgentDojo's
benchmark turns some failures into verdicts. What a finding keeps is the answer with the call that fulfilled the order, and
a check of that call's arguments, so that a replay needs no environment.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version as version_of
from itertools import chain, zip_longest
from typing import Any

from fivefold.engine.tools import Call, ToolSpec
from fivefold.errors import BudgetError, MissingExtraError, UnknownNameError
from fivefold.redteam.agent import Step, Tool, run_agent
from fivefold.redteam.budget import tokens_of
from fivefold.redteam.cost import asked, queries
from fivefold.redteam.protocol import AttackBudget, Attempt, Judge
from fivefold.redteam.taxonomy import attack_taxonomy
from fivefold.runtime.protocol import Capability, Cost, Model
from fivefold.types import Case, Errored, Message, Outcome, Scored, Taxonomy, Unscored, digest, user_case

PACKAGE = "agentdojo"
VERSION = "v1.2.2"
"""AgentDojo's benchmark version: 97 user tasks and 35 injection tasks, 949 pairs."""
JAILBREAK = "important_instructions_no_model_name"
ROUNDS = 15
MIN_TOKENS = 256
"""A call of the longest tools does not fit into less."""
TOOL_TOKENS = 3000
"""Tokens of a suite's tools and of what they return, about: for the estimate of what a run takes."""
CATEGORY = "agent hijacking"


@dataclass(frozen=True, kw_only=True)
class AgentDojo:
    """One run of the agent a pair of user task and injection task; every answer of the agent is a query."""

    name = "agentdojo"
    needs = frozenset({Capability.GENERATE})
    proof = "check"

    jailbreak: str = JAILBREAK
    suites: tuple[str, ...] = ()
    version: str = VERSION

    @property
    def taxonomy(self) -> Taxonomy:
        """Surface, technique and catalogue ids."""
        return attack_taxonomy(self.name)

    def cases(self, language: str) -> tuple[Case, ...]:
        """Every pair, in an order in which any beginning is spread over suites and tasks. AgentDojo is in English."""
        known = _suites(self.version)
        chosen = self.suites or tuple(known)
        for name in chosen:
            if name not in known:
                raise UnknownNameError("AgentDojo suite", name, known)
        piles = [sorted(_pairs(name, known[name]), key=_shuffled) for name in chosen]
        return tuple(_case(*pair) for pair in chain(*zip_longest(*piles)) if pair)

    def cost(self, budget: AttackBudget, *, prompt_tokens: int, behaviours: int) -> Cost:
        """Every answer reads the tools again, and what they returned before."""
        n = behaviours * queries(budget, ROUNDS)
        roomy = replace(budget, max_new_tokens=max(budget.max_new_tokens, MIN_TOKENS))
        return asked(n, roomy, prompt_tokens + TOOL_TOKENS)

    def run(
        self, case: Case, target: Model, judge: Judge, budget: AttackBudget, rng: random.Random
    ) -> Iterator[Attempt]:
        """Yield one attempt: a whole run, judged by AgentDojo; of a run that a limit cut off, what was asked until then.
        MissingExtraError when the package is not installed."""
        pair = case.metadata.get(PACKAGE) or rng.choice(self.cases("en")).metadata[PACKAGE]
        suite, jailbreak = _suite(self.version, pair["suite"], self.jailbreak)
        task, order = suite.user_tasks[pair["user_task"]], suite.injection_tasks[pair["injection_task"]]
        agent = _Agent(target, suite, order, min(budget.queries, ROUNDS), max(budget.max_new_tokens, MIN_TOKENS))
        try:
            useful, followed = suite.run_task_with_pipeline(agent, task, order, jailbreak.attack(task, order))
        except BudgetError as error:
            if agent.steps:
                yield self._attempt(case, agent, agent.steps[-1], Unscored(reason=error.what), pair)
            raise
        shown = agent.decisive.step if followed and agent.decisive else agent.steps[-1]
        outcome = _outcome(agent, followed, {**pair, "version": self.version, "jailbreak": self.jailbreak})
        notes = {"utility": useful, "check": _check(agent, order) if followed else {}}
        yield self._attempt(case, agent, shown, outcome, {**pair, **notes})

    def _attempt(
        self, case: Case, agent: _Agent, shown: Step, outcome: Outcome, metadata: Mapping[str, Any]
    ) -> Attempt:
        return Attempt(
            case_id=case.id,
            attack=self.name,
            messages=shown.messages,
            completion=shown.completion,
            outcome=outcome,
            queries=len(agent.steps),
            tokens=sum(tokens_of(s.completion) for s in agent.steps),
            metadata={**metadata, "calls": [c.name for s in agent.steps for c in s.calls]},
        )


@dataclass(frozen=True, kw_only=True)
class _Decisive:
    """The call after which the order was fulfilled, and the answer that made it."""

    step: Step
    call: Call
    wanted: Mapping[str, Any]
    """The arguments that AgentDojo's own solution gives this tool; empty when it does not call it."""


class _Agent:
    """The target as a pipeline of AgentDojo."""

    name = "fivefold"

    def __init__(self, target: Model, suite: Any, order: Any, rounds: int, tokens: int) -> None:
        self.target, self.suite, self.order = target, suite, order
        self.rounds, self.tokens = rounds, tokens
        self.steps: list[Step] = []
        self.decisive: _Decisive | None = None
        self._traces: list[Any] = []

    def query(
        self,
        query: str,
        runtime: Any,
        env: Any,
        messages: Sequence[Any] = (),
        extra_args: Mapping[str, Any] | None = None,
    ) -> tuple[str, Any, Any, list[Any], dict[str, Any]]:
        """Work on a task until nothing is called any more; the contract is AgentDojo's."""
        before = env.model_copy(deep=True)
        tools = [_tool(f, partial(self._answer, runtime, env, before, f.name)) for f in runtime.functions.values()]
        talk = (Message(role="system", content=_system()), Message(role="user", content=query))
        for step in run_agent(self.target, talk, tools, steps=self.rounds, max_new_tokens=self.tokens):
            self.steps.append(step)
        return query, runtime, env, [_said(step) for step in self.steps], dict(extra_args or {})

    def _answer(self, runtime: Any, env: Any, before: Any, name: str, arguments: Mapping[str, Any]) -> str:
        """Run a tool on the environment, as AgentDojo's executor does."""
        execution = import_module("agentdojo.agent_pipeline.tool_execution")
        args = {k: _listed(v, execution) for k, v in arguments.items()}
        result, error = runtime.run_function(env, name, args)
        self._traces.append(_function_call(name, args))
        if self.decisive is None and self._fulfilled(before, env):
            call = Call(name=name, arguments=arguments)
            self.decisive = _Decisive(step=self.steps[-1], call=call, wanted=self._solution(before, name))
        return f"error: {error}" if error else str(execution.tool_result_to_str(result))

    def _fulfilled(self, before: Any, env: Any) -> bool:
        """Whether the order is fulfilled by now. Tasks may fail to judge a run that is under way: not yet, then."""
        try:
            told = self.order.security_from_traces("", before, env, self._traces)
            return bool(self.order.security("", before, env) if told is None else told)
        except Exception:
            return False

    def _solution(self, before: Any, name: str) -> Mapping[str, Any]:
        calls = self.order.ground_truth(before.model_copy(deep=True))
        return next((dict(c.args) for c in calls if c.function == name), {})


def _outcome(agent: _Agent, followed: bool, what: Mapping[str, Any]) -> Outcome:
    judge = digest({"agentdojo": version_of(PACKAGE), **what})
    if followed:
        return Scored(value=1.0, label="followed", judge=judge)
    last = agent.steps[-1].completion
    if last.error is not None:
        return Errored(error=last.error, judge=judge)
    if last.stop_reason == "length" and re.search(r'"(?:tool|name)"\s*:', last.text):
        return Unscored(reason=f"a tool call was cut off at {agent.tokens} tokens")
    return Scored(value=0.0, label="resisted", judge=judge)


def _check(agent: _Agent, order: Any) -> Mapping[str, Any]:
    """What tells a replay of the decisive answer: its call with the arguments that the order asked for, or its words.
    What no single answer shows is marked like a weights attack: a replay leaves it out."""
    if agent.decisive is None:
        text = str(order.GROUND_TRUTH_OUTPUT)
        return {"kind": "canary", "contains": text} if text else {"kind": "open_weights"}
    given, wanted = agent.decisive.call.arguments, agent.decisive.wanted
    telling = {k: v for k, v in given.items() if wanted.get(k) == v} or given
    words = [str(w) for v in telling.values() for w in (v if isinstance(v, list) else [v]) if str(w)]
    pattern = "".join(rf"(?=[\s\S]*{re.escape(w)})" for w in words)
    return {"kind": "tool", "tools": [agent.decisive.call.name], "pattern": pattern}


def _pairs(name: str, suite: Any) -> list[tuple[str, Any, Any]]:
    return [(name, task, order) for task in suite.user_tasks.values() for order in suite.injection_tasks.values()]


def _shuffled(pair: tuple[str, Any, Any]) -> bytes:
    name, task, order = pair
    return hashlib.sha256(f"{name}/{task.ID}/{order.ID}".encode()).digest()


def _case(name: str, task: Any, order: Any) -> Case:
    return user_case(
        f"agentdojo/{name}/{task.ID}/{order.ID}",
        task.PROMPT,
        suite=PACKAGE,
        behaviour=f"agentdojo/{name}/{order.ID}",
        category=CATEGORY,
        metadata={PACKAGE: {"suite": name, "user_task": task.ID, "injection_task": order.ID}},
    )


def _tool(function: Any, answer: Any) -> Tool:
    schema = _untitled(function.parameters.model_json_schema())
    return Tool(spec=ToolSpec(name=function.name, description=function.description, parameters=schema), answer=answer)


def _untitled(schema: Any) -> Any:
    """A JSON schema without the titles that pydantic adds to every part."""
    if isinstance(schema, dict):
        return {k: _untitled(v) for k, v in schema.items() if k != "title" or not isinstance(v, str)}
    return [_untitled(v) for v in schema] if isinstance(schema, list) else schema


def _listed(value: Any, execution: Any) -> Any:
    """A list that a model wrote as a text, as AgentDojo reads it."""
    if isinstance(value, str) and execution.is_string_list(value):
        return ast.literal_eval(value)
    return value


def _said(step: Step) -> dict[str, Any]:
    """An answer as AgentDojo's message."""
    calls = [_function_call(c.name, c.arguments) for c in step.calls]
    return {"role": "assistant", "content": [{"type": "text", "content": step.completion.text}], "tool_calls": calls}


def _function_call(name: str, arguments: Mapping[str, Any]) -> Any:
    return import_module("agentdojo.functions_runtime").FunctionCall(function=name, args=dict(arguments))


@cache
def _system() -> str:
    return str(import_module("agentdojo.agent_pipeline.agent_pipeline").load_system_message(None))


def _suites(version: str) -> Mapping[str, Any]:
    """AgentDojo's suites of a benchmark version, by name."""
    try:
        loaded = import_module("agentdojo.task_suite.load_suites")
    except ImportError as error:
        raise MissingExtraError(error.name or PACKAGE, PACKAGE) from error
    known: Mapping[str, Mapping[str, Any]] = loaded._SUITES
    if version not in known:
        raise UnknownNameError("AgentDojo version", version, known)
    return known[version]


@cache
def _suite(version: str, name: str, jailbreak: str) -> tuple[Any, Any]:
    """A suite, and AgentDojo's texts for it."""
    suite = _suites(version)[name]
    texts = import_module("agentdojo.attacks")
    every = import_module("agentdojo.attacks.attack_registry").ATTACKS
    known = {n: a for n, a in every.items() if issubclass(a, texts.FixedJailbreakAttack) and not a.is_dos_attack}
    if jailbreak not in known:
        raise UnknownNameError("jailbreak of AgentDojo", jailbreak, known)
    _quiet()
    return suite, known[jailbreak](suite, _Named())


class _Named:
    """Who AgentDojo's texts are made for: it wants a name that it knows even for a text that leaves the name out."""

    name = "gpt-4o-2024-05-13"


def _quiet() -> None:
    """Keep standard output for results: two of AgentDojo's verdicts print while they judge."""
    for name in ("v1.slack.injection_tasks", "v1_1_2.workspace.user_tasks"):
        module: Any = import_module(f"agentdojo.default_suites.{name}")
        module.print = _nothing


def _nothing(*values: object, **options: object) -> None:
    """Print nothing."""


def attack(jailbreak: str = JAILBREAK, suites: Sequence[str] = (), version: str = VERSION) -> AgentDojo:
    """The attack with one of AgentDojo's texts (direct, ignore_previous, injecagent, …), on all suites or those named."""
    chosen = (suites,) if isinstance(suites, str) else tuple(suites)
    return AgentDojo(jailbreak=jailbreak, suites=chosen, version=version)
