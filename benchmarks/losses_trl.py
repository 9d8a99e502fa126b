"""Our pure losses against TRL's own loss methods on the same random log-probabilities: value and gradient.

TRL's losses are methods of its trainers, which read the log-probabilities off a model. Here the method runs unbound, on an
object that holds its settings and with a model that answers with the given log-probabilities, so that what is compared is
TRL's code and not a copy. Prints a table on standard error and one JSON line; exits with 1 when a line differs by more than
1e-5 relative. No model is loaded: it takes seconds.

Where the two do not agree by definition, the settings at which they do are given, and the line says so.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

from fivefold.align.losses._base import Answers, Distributions, Scores, config_of, load
from fivefold.align.losses._rollout import Rollout, group_advantages, leave_one_out

N, T, BETA = 8, 12, 0.3
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Line:
    """One comparison: ours and theirs, each a function of the same leaves."""

    loss: str
    peer: str
    leaves: tuple[Tensor, ...]
    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]
    note: str = ""


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(seed: int, n: int, equal: bool = False) -> Tensor:
    """Answers of 3 to T tokens, or all of T."""
    lengths = torch.randint(3, T + 1, (n,), generator=torch.Generator().manual_seed(seed))
    return torch.arange(T) < (torch.full((n,), T) if equal else lengths)[:, None]


def logps(seed: int, mask: Tensor) -> Tensor:
    """Log-probabilities of tokens, about -1.5 each; zero at padding."""
    return (-drawn(seed, *mask.shape).abs() * 1.5 - 0.1) * mask


class Settings(MagicMock):
    """A trainer without a model: settings as given, everything that only serves logging a mock."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        identity = lambda x, **_: x  # noqa: E731
        accelerator = SimpleNamespace(
            device=torch.device("cpu"),
            gather_for_metrics=identity,
            gather=identity,
            reduce=identity,
            num_processes=1,
            sync_gradients=True,
        )
        common: dict[str, Any] = {
            "accelerator": accelerator,
            "model": SimpleNamespace(training=True),
            "aux_loss_enabled": False,
            "_metrics": {"train": defaultdict(list)},
            "_total_train_tokens": 0,
            "_tp_size": 1,
        }
        for name, value in {**common, **given}.items():
            setattr(self, name, value)

    def _get_child_mock(self, **given: Any) -> MagicMock:
        return MagicMock(**given)


def answering(values: Tensor) -> Callable[..., Any]:
    """A model whose fused head gives these log-probabilities: zero, without a gradient, where there is no answer."""
    zero = torch.zeros_like(values)
    outputs = SimpleNamespace(log_probs=values, entropy=zero, mean_logits=zero, is_top1=zero.bool())
    return lambda *args, **kwargs: outputs


# Pairs with a reference


def dpo_method(kind: list[str], weights: list[float], **given: Any) -> Callable[..., Tensor]:
    from trl import DPOTrainer

    def theirs(chosen: Tensor, rejected: Tensor, known: tuple[Tensor, Tensor], mask: tuple[Tensor, Tensor]) -> Tensor:
        both = torch.cat(mask)
        completion = torch.cat([torch.zeros(len(both), 1, dtype=torch.long), both.long()], 1)
        inputs = {
            "input_ids": completion,
            "attention_mask": torch.ones_like(completion),
            "completion_mask": completion,
            "ref_chosen_logps": known[0].sum(1),
            "ref_rejected_logps": known[1].sum(1),
        }
        settings = Settings(
            ld_alpha=None,
            precompute_ref_logps=True,
            f_divergence_type="reverse_kl",
            loss_types=kind,
            loss_weights=weights,
            beta=BETA,
            use_weighting=False,
            **{"label_smoothing": 0.0, **given},
        )
        return DPOTrainer._compute_loss(settings, answering(torch.cat([chosen, rejected])), inputs, False)

    return theirs


def pair_line(
    loss: str,
    options: dict[str, Any],
    peer: str,
    kind: list[str],
    weights: list[float],
    *,
    equal: bool = False,
    **given: Any,
) -> Line:
    mask = masks(1, N, equal), masks(2, N, equal)
    chosen, rejected = (logps(s, m).requires_grad_() for s, m in zip((3, 4), mask, strict=True))
    known = logps(5, mask[0]), logps(6, mask[1])
    module = load(loss)
    config = config_of(module, options)
    method = dpo_method(kind, weights, **given)

    def ours(a: Tensor, b: Tensor) -> Tensor:
        sides = Answers(a, mask[0], known[0]), Answers(b, mask[1], known[1])
        value: Tensor = module.loss(*sides, config).loss
        return value

    note = "answers of equal length: TRL weighs the likelihood by token, ours by answer" if equal else ""
    return Line(loss, peer, (chosen, rejected), ours, lambda a, b: method(a * mask[0], b * mask[1], known, mask), note)


# Pairs without a reference


def reference_free(loss: str, options: dict[str, Any]) -> Line:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    module = load(loss)
    config = config_of(module, options)
    mask = masks(1, N, loss != "simpo"), masks(2, N, loss != "simpo")
    chosen, rejected = (logps(s, m).requires_grad_() for s, m in zip((3, 4), mask, strict=True))

    def ours(a: Tensor, b: Tensor) -> Tensor:
        value: Tensor = module.loss(Answers(a, mask[0]), Answers(b, mask[1]), config).loss
        return value

    def batch_metrics(trainer: Any, a: Tensor, b: Tensor, average: bool, **given: Any) -> Tensor:
        """The whole of TRL's `get_batch_loss_metrics`, with log-probabilities in place of the forward pass."""
        a, b = a * mask[0], b * mask[1]
        sums = [x.sum(1) / m.sum(1) if average else x.sum(1) for x, m in zip((a, b), mask, strict=True)]
        nll = -a.sum() / mask[0].sum()
        settings = Settings(**given)
        settings.concatenated_forward = lambda model, batch: (*sums, torch.zeros(1), torch.zeros(1), nll)
        for name in ("cpo_loss", "odds_ratio_loss"):
            if hasattr(trainer, name):
                setattr(settings, name, getattr(trainer, name).__get__(settings))
        value, _ = trainer.get_batch_loss_metrics(settings, None, {})
        return value

    plain = {"alpha": 0.0, "label_smoothing": 0.0}
    theirs: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "cpo": lambda a, b: batch_metrics(
            CPOTrainer, a, b, False, loss_type="sigmoid", beta=BETA, cpo_alpha=0.7, **plain
        ),
        "simpo": lambda a, b: batch_metrics(
            CPOTrainer, a, b, True, loss_type="simpo", beta=2.0, simpo_gamma=0.5, cpo_alpha=0.0, **plain
        ),
        "orpo": lambda a, b: batch_metrics(ORPOTrainer, a, b, True, beta=0.4),
    }
    note = "" if loss == "simpo" else "answers of equal length: TRL weighs the likelihood by token, ours by answer"
    peer = "ORPOTrainer" if loss == "orpo" else "CPOTrainer"
    return Line(loss, f"{peer}.get_batch_loss_metrics", (chosen, rejected), ours, theirs[loss], note)


# Answers with a label


def kto_line() -> Line:
    from trl import KTOTrainer

    module, mask = load("kto"), masks(1, N)
    other = masks(2, N)
    own, known, mismatch, known_mismatch = logps(3, mask), logps(5, mask), logps(4, other), logps(6, other)
    own.requires_grad_()
    label = torch.tensor([i % 3 != 0 for i in range(N)])
    config = config_of(module, {"beta": BETA, "desirable": 1.3, "undesirable": 0.7})

    def ours(a: Tensor) -> Tensor:
        value: Tensor = module.loss(
            Answers(a, mask, known, label), Answers(mismatch, other, known_mismatch), config
        ).loss
        return value

    def theirs(a: Tensor) -> Tensor:
        completion = torch.cat([torch.zeros(N, 1, dtype=torch.long), mask.long()], 1)
        settings = Settings(
            precompute_ref_logps=True,
            calculate_KL=True,
            loss_type="kto",
            beta=BETA,
            desirable_weight=1.3,
            undesirable_weight=0.7,
            _compute_kl_logps=lambda model, batch: mismatch.sum(1),
        )
        inputs = {
            "input_ids": completion,
            "attention_mask": torch.ones_like(completion),
            "completion_mask": completion,
            "label": label,
            "ref_logps": known.sum(1),
            "ref_KL_logps": known_mismatch.sum(1),
        }
        return KTOTrainer._compute_loss(settings, answering(a * mask), inputs, False)

    return Line("kto", "KTOTrainer._compute_loss", (own,), ours, theirs)


# Scores of a head


def reward_line(margin: bool) -> Line:
    from trl import RewardTrainer

    module = load("reward")
    values = drawn(3, 2 * N).requires_grad_()
    by = drawn(4, N).abs() if margin else None
    config = config_of(module, {"centre": 0.01})

    def ours(v: Tensor) -> Tensor:
        value: Tensor = module.loss(Scores(v[:N, None], by), Scores(v[N:, None]), config).loss
        return value

    def theirs(v: Tensor) -> Tensor:
        settings = Settings(args=SimpleNamespace(center_rewards_coefficient=0.01))
        inputs: dict[str, Any] = {"attention_mask": torch.ones(2 * N, 1)} | ({} if by is None else {"margin": by})
        model = lambda margin=None, **_: SimpleNamespace(logits=v[:, None])  # noqa: E731
        return RewardTrainer.compute_loss(settings, model, inputs)

    return Line("reward" + (" with margins" if margin else ""), "RewardTrainer.compute_loss", (values,), ours, theirs)


# Sampled answers


def rollout_line(loss: str, options: dict[str, Any], **given: Any) -> Line:
    from trl import GRPOTrainer, RLOOTrainer

    module, mask, groups = load(loss), masks(1, N), 2
    config = config_of(module, options)
    old, reference = logps(4, mask), logps(5, mask)
    now = ((old + 0.15 * drawn(3, N, T)) * mask).detach().requires_grad_()
    rewards, scored = drawn(7, groups, N // groups), torch.ones(groups, N // groups, dtype=torch.bool)
    scaled = (
        leave_one_out(rewards, scored) if loss == "rloo" else group_advantages(rewards, scored, scale=loss != "dr_grpo")
    )
    advantages = scaled.flatten()

    def ours(a: Tensor) -> Tensor:
        group = torch.arange(N) // (N // groups)
        rollout = Rollout(a, old, mask, advantages[:, None] * mask, group, T, reference)
        value: Tensor = module.loss(rollout, config).loss
        return value

    def theirs(a: Tensor) -> Tensor:
        zero = torch.zeros_like(a)
        clip = {"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0, "importance_sampling_level": "token"}
        settings = Settings(
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            use_vllm=False,
            _entropy_bonus_enabled=False,
            current_gradient_accumulation_steps=1,
            max_completion_length=T,
            args=SimpleNamespace(
                use_bias_correction_kl=options.get("unbiased_kl", False), delta=None, steps_per_generation=1
            ),
            _get_per_token_logps_and_entropies=lambda *args, **kwargs: (a, zero, None),
            **{**clip, **given},
        )
        ids = torch.zeros(N, T, dtype=torch.long)
        inputs = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1] + 1,
            "completion_ids": ids,
            "completion_mask": mask.long(),
            "advantages": advantages,
            "old_per_token_logps": old,
            "old_logps": old.sum(1),
            "ref_per_token_logps": reference,
            "num_items_in_batch": mask.sum(),
        }
        trainer = RLOOTrainer if loss == "rloo" else GRPOTrainer
        return trainer._compute_loss(settings, None, inputs)

    peer = "RLOOTrainer._compute_loss" if loss == "rloo" else f"GRPOTrainer._compute_loss ({given['loss_type']})"
    return Line(loss, peer, (now,), ours, theirs)


# Distributions


def distillation_line(kind: str, beta: float, temperature: float) -> Line:
    from trl.experimental.gkd import GKDTrainer

    module, mask = load("distillation"), masks(1, N)
    student, teacher = drawn(3, N, T, 7).requires_grad_(), drawn(4, N, T, 7)
    config = config_of(module, {"divergence": kind, "mix": beta or 0.5, "temperature": temperature})

    def ours(s: Tensor) -> Tensor:
        value: Tensor = module.loss(Distributions(s, teacher, mask), config).loss
        return value

    def theirs(s: Tensor) -> Tensor:
        labels = torch.where(mask, 0, -100)
        return GKDTrainer.generalized_jsd_loss(s, teacher, labels=labels, beta=beta, temperature=temperature)

    return Line(f"distillation ({kind})", "GKDTrainer.generalized_jsd_loss", (student,), ours, theirs)


def lines() -> list[Line]:
    method = "DPOTrainer._compute_loss"
    return [
        pair_line("dpo", {"beta": BETA}, f"{method} (sigmoid)", ["sigmoid"], [1.0]),
        pair_line("dpo_norm", {"beta": BETA}, f"{method} (sigmoid_norm)", ["sigmoid_norm"], [1.0]),
        pair_line("ipo", {"beta": BETA, "per_token": True}, f"{method} (ipo)", ["ipo"], [1.0]),
        pair_line("hinge", {"beta": BETA}, f"{method} (hinge)", ["hinge"], [1.0]),
        pair_line(
            "robust_dpo", {"beta": BETA, "eps": 0.2}, f"{method} (robust)", ["robust"], [1.0], label_smoothing=0.2
        ),
        pair_line(
            "rpo", {"beta": BETA, "alpha": 0.6}, f"{method} (sigmoid, sft)", ["sigmoid", "sft"], [1.0, 0.6], equal=True
        ),
        reference_free("cpo", {"beta": BETA, "alpha": 0.7}),
        reference_free("simpo", {"beta": 2.0, "gamma": 0.5}),
        reference_free("orpo", {"weight": 0.4}),
        kto_line(),
        reward_line(margin=False),
        reward_line(margin=True),
        rollout_line("grpo", {"clip": 0.2, "beta": 0.04}, loss_type="grpo", beta=0.04),
        rollout_line("grpo", {"clip": 0.2, "beta": 0.04, "unbiased_kl": True}, loss_type="grpo", beta=0.04),
        rollout_line("dr_grpo", {"clip": 0.2}, loss_type="dr_grpo"),
        rollout_line("dapo", {"clip_low": 0.2, "clip_high": 0.28}, loss_type="dapo", epsilon_high=0.28),
        rollout_line(
            "gspo",
            {"clip_low": 0.02, "clip_high": 0.03},
            loss_type="grpo",
            importance_sampling_level="sequence",
            epsilon_low=0.02,
            epsilon_high=0.03,
        ),
        rollout_line("rloo", {"clip": 0.2}),
        distillation_line("forward", 0.0, 1.0),
        distillation_line("reverse", 1.0, 2.0),
        distillation_line("jsd", 0.3, 1.0),
    ]


def compared(line: Line) -> dict[str, Any]:
    """Loss and gradient of both, and how far apart they are, relative."""
    found = []
    for side in (line.ours, line.theirs):
        value = side(*line.leaves)
        gradient = torch.autograd.grad(value, line.leaves)
        found.append((value.item(), torch.cat([g.flatten() for g in gradient])))
    (ours, mine), (theirs, other) = found
    return {
        "loss": line.loss,
        "peer": line.peer,
        "ours": ours,
        "theirs": theirs,
        "off": abs(ours - theirs) / max(abs(theirs), 1e-12),
        "gradient_off": float((mine - other).norm() / other.norm()),
        "note": line.note,
    }


def main() -> int:
    rows = [compared(line) for line in lines()]
    width = max(len(r["loss"]) for r in rows)
    print(f"{'loss':{width}}  {'ours':>12}  {'theirs':>12}  {'off':>8}  {'gradient':>8}  peer", file=sys.stderr)
    for r in rows:
        note = f"  [{r['note']}]" if r["note"] else ""
        print(
            f"{r['loss']:{width}}  {r['ours']:12.8f}  {r['theirs']:12.8f}  {r['off']:8.1e}  {r['gradient_off']:8.1e}  "
            f"{r['peer']}{note}",
            file=sys.stderr,
        )
    worst = max(max(r["off"], r["gradient_off"]) for r in rows)
    report = {"name": "losses_trl", "peer": "trl", "peer_version": version("trl"), "losses": len(rows), "worst": worst}
    print(json.dumps({**report, "agrees": worst < TOLERANCE, "rows": rows}), flush=True)
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
