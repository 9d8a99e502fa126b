"""Play a safety evaluation and turn its outcomes into measurements: by condition, by category, and as effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fivefold.engine.episodes import EpisodesResult, run_episodes
from fivefold.engine.run import OnProgress
from fivefold.engine.serving import Budget
from fivefold.engine.world import Episode
from fivefold.errors import UsageError
from fivefold.evaluate.run import EvaluationResult, Ledger, code_digest
from fivefold.evaluate.safety._base import Effect, Evaluation, Metric
from fivefold.runtime.cached import Memory
from fivefold.runtime.precision import dtype_of
from fivefold.runtime.protocol import Model
from fivefold.stats import measure_change, measure_mean, measure_rate
from fivefold.types import Measurement, Outcome, digest


def evaluate_safety(
    model: Model,
    evaluation: Evaluation,
    *,
    log_dir: Path,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] | None = None,
    subject_name: str | None = None,
    level: float = 0.95,
    run: str = "",
    store: Ledger | None = None,
    cache: Memory | None = None,
    seconds: float | None = None,
    on_progress: OnProgress | None = None,
    budget: Budget | None = None,
) -> EvaluationResult:
    """Measure `model`; `limit` counts scenarios, each of which is played under all its conditions.

    Every metric is measured under every condition (slice `condition`), the main condition by category too, and each
    effect is the paired difference between two conditions over the scenarios that were scored under both. UsageError
    that lists what is missing here.
    """
    if lines := evaluation.missing():
        raise UsageError(f"{evaluation.name} cannot run here", got="; ".join(lines))
    episodes = evaluation.chosen(limit)
    settings: dict[str, Any] = {"temperature": temperature, "seed": seed, "max_steps": evaluation.max_steps}
    settings["max_new_tokens"] = max_new_tokens or evaluation.max_new_tokens
    settings |= {"stop": list(stop)} if stop else {}
    settings |= {"dtype": dtype} if (dtype := dtype_of(model)) else {}
    result = run_episodes(
        model,
        episodes,
        evaluation.judge,
        metrics={m.name: evaluation.judge_digest for m in evaluation.metrics},
        name=evaluation.name,
        log_dir=log_dir,
        max_new_tokens=max_new_tokens or evaluation.max_new_tokens,
        max_steps=evaluation.max_steps,
        temperature=temperature,
        seed=seed,
        stop=tuple(stop or ()),
        on_progress=on_progress,
        cache=cache,
        seconds=seconds,
        budget=budget,
    )
    common = {
        "subject": model.fingerprint,
        "subject_name": subject_name or model.name,
        "level": level,
        "code": code_digest(),
        "judge": evaluation.judge_digest,
        "run": run,
        "metadata": {"suite": evaluation.name, "settings": settings, "log": result.log_path.name},
    }
    played = Played(evaluation=evaluation, episodes=episodes, result=result, common=common)
    return played.summary(store)


@dataclass(frozen=True, kw_only=True)
class Played:
    """An evaluation that was played, to be measured."""

    evaluation: Evaluation
    episodes: tuple[Episode, ...]
    result: EpisodesResult
    common: Mapping[str, Any]

    def summary(self, store: Ledger | None) -> EvaluationResult:
        """All measurements, recorded where there is a store."""
        made = [m for metric in self.evaluation.metrics for m in self._metric(metric)]
        made += [self._effect(effect) for effect in self.evaluation.effects]
        kept = [store.add_measurement(m) if store else replace(m, id=f"m-{digest(m)[:16]}") for m in made]
        return EvaluationResult(
            name=self.evaluation.name,
            measurements=tuple(kept),
            corrected=(),
            cases=(),
            outcomes={f"{e}/{m}": o for e, found in self.result.outcomes.items() for m, o in found.items()},
            completions={},
            log_path=self.result.log_path,
            seconds=self.result.seconds,
            stopped_early=self.result.stopped_early,
        )

    def _metric(self, metric: Metric) -> list[Measurement]:
        """Under each condition, then within the main condition by category."""
        made = []
        for condition in dict.fromkeys(e.condition for e in self.episodes):
            group = [e for e in self.episodes if e.condition == condition]
            made += self._rate(metric, group, {"condition": condition})
            categories = sorted({e.category for e in group if e.category})
            if condition == self.evaluation.main and len(categories) > 1:
                for category in categories:
                    inside = [e for e in group if e.category == category]
                    made += self._rate(metric, inside, {"condition": condition, "category": category})
        return made

    def _rate(self, metric: Metric, group: Sequence[Episode], slice: dict[str, str]) -> list[Measurement]:
        """One measurement, or none where no episode of the group says anything of the metric."""
        found = [
            (e, self.result.outcomes[e.id][metric.name]) for e in group if metric.name in self.result.outcomes[e.id]
        ]
        if not found:
            return []
        fields: dict[str, Any] = {
            "metric": metric.name,
            "safer": metric.safer,
            "clusters": [e.scenario for e, _ in found],
            "slice": slice,
            "dataset": self._dataset([e for e, _ in found]),
            **self.common,
        }
        outcomes = [outcome for _, outcome in found]
        if metric.unit == "proportion":
            return [measure_rate(outcomes, **fields)]
        return [measure_mean(outcomes, unit=metric.unit, **fields)]

    def _effect(self, effect: Effect) -> Measurement:
        sides = [self._by_scenario(effect.metric, c) for c in (effect.control, effect.condition)]
        chosen = [e for e in self.episodes if e.condition in (effect.condition, effect.control)]
        return measure_change(
            *sides,
            metric=f"{effect.metric}_effect",
            safer=effect.safer,
            slice={"condition": effect.condition, "against": effect.control},
            dataset=self._dataset(chosen),
            **self.common,
        )

    def _by_scenario(self, metric: str, condition: str) -> dict[str, Outcome]:
        return {
            e.scenario: self.result.outcomes[e.id][metric]
            for e in self.episodes
            if e.condition == condition and metric in self.result.outcomes[e.id]
        }

    def _dataset(self, episodes: Sequence[Episode]) -> str:
        return digest({"data": self.evaluation.data_digest, "episodes": sorted(e.id for e in episodes)})
