"""The safety evaluations as Inspect tasks, for any model that Inspect reaches, with tool calls of its own or not.

`inspect eval src/fivefold/evaluate/tasks.py@scheming --model openai/gpt-4o-mini` plays the same episodes with the same
judge as `fivefold evaluate scheming`; the outcomes by metric stand in each score's metadata under `fivefold`. Inspect's
own figure is the mean of each episode's first metric: for intervals, conditions and effects, run it through fivefold.
"""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.model import GenerateConfig

from fivefold.engine._play import task_of_episodes
from fivefold.evaluate.catalogue import evaluation


def _task(name: str) -> Task:
    made = evaluation(name)
    config = GenerateConfig(max_tokens=made.max_new_tokens, temperature=0.0)
    return task_of_episodes(made.episodes(), made.judge, name=name, max_steps=made.max_steps, config=config)


@task
def scheming() -> Task:
    """In-context scheming."""
    return _task("scheming")


@task
def evaluation_awareness() -> Task:
    """Evaluation awareness."""
    return _task("evaluation_awareness")


@task
def sabotage() -> Task:
    """Sabotage of a user's task, with the rule monitor."""
    return _task("sabotage")


@task
def epistemic_capture() -> Task:
    """Sycophancy and epistemic capture over many turns."""
    return _task("epistemic_capture")


@task
def good_citizen() -> Task:
    """Good assistant, good citizen."""
    return _task("good_citizen")


@task
def reward_hacking() -> Task:
    """Reward hacking in a coding environment."""
    return _task("reward_hacking")


@task
def self_replication() -> Task:
    """Self-replication steps on dummies."""
    return _task("self_replication")


@task
def teen_safety() -> Task:
    """Teen safety by a policy prompt."""
    return _task("teen_safety")
