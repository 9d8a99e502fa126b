"""Distillation: a student learns a teacher's next-token distributions on given answers.

Both read the same packed row; logits of either exist for a chunk of answer tokens at a time, and again in the backward
pass. The teacher may be another model with the same tokens, or the student's own base with interventions or another
adapter. Source: Agarwal et al. 2023 (arXiv:2306.13649); on-policy distillation is this on answers that the student has
sampled.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fivefold.align._adapter import causal_lm, packed_copy, save_trained, trainable, trainable_copy
from fivefold.align._loop import OnStep, Part, TrainConfig, check_settings, descend, over_rows, seeded
from fivefold.align._pack import Item, pack, rows_of
from fivefold.align._policy import CHUNK, answer_states, check_packing
from fivefold.align._processes import Processes, processes
from fivefold.align.losses import distillation
from fivefold.align.losses._base import config_of, load
from fivefold.align.train import TrainResult, batches_of, check_items, finish, finished, run_key
from fivefold.errors import UsageError
from fivefold.runtime.protocol import Capability, WhiteBox, require
from fivefold.types import digest


def distil(
    student: WhiteBox,
    teacher: WhiteBox,
    items: Sequence[Item],
    config: TrainConfig,
    out: Path,
    *,
    on_step: OnStep | None = None,
) -> TrainResult:
    """Train `student` towards `teacher` on the answers of `items`; `config.loss` is `distillation`.

    UsageError when the two do not have the same vocabulary. Resumes and raises as `train` does.
    """
    for model in (student, teacher):
        require(model, Capability.GRADIENTS, for_="distillation")
    if config.loss != "distillation":
        raise UsageError("distillation has one loss", expected="distillation", got=config.loss)
    if student.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise UsageError(
            f"{student.name} and {teacher.name} do not have the same tokens",
            next_step="train on the teacher's answers as text instead (SFT)",
        )
    together = processes(next(student.module.parameters()).device)
    check_settings(config, held_out=False)
    check_items(items, load("sft"))
    options = config_of(distillation, config.loss_options)
    data = digest([teacher.fingerprint, list(items)])
    key = run_key(student, data, config, None)
    if (done := finished(out, key)) is not None:
        return done
    began, batches = time.monotonic(), batches_of(items, config)
    with seeded(config.seed):
        trained = trainable_copy(student.module, config.adapter, checkpointing=config.gradient_checkpointing)
        fixed = packed_copy(teacher.module)
        check_packing(fixed, items[:2], teacher.module)
        trained.train()

        def backward(step: int) -> tuple[float, dict[str, float], int]:
            batch, seed = [items[i] for i in batches[step]], f"{config.seed}/{step}"
            return _backward(causal_lm(trained), fixed, batch, config.row_tokens, options, together, seed)

        spent, params = time.monotonic() - began, trainable(trained)
        ended = descend(
            len(batches), params, backward, config, out, key, spent=spent, on_step=on_step, together=together
        )
        path = together.told(lambda: save_trained(trained, out, tokenizer=student.tokenizer))
    return finish(out, path, key, data, student, config, items, ended, together=together)


def _backward(
    module: Any,
    teacher: Any,
    batch: Sequence[Item],
    row_tokens: int,
    options: distillation.Config,
    together: Processes,
    seed: str,
) -> tuple[float, dict[str, float], int]:
    """One batch's gradient of the mean divergence per answer token, row by row."""
    n, rows = sum(item.n_learnt for item in batch), list(rows_of(batch, row_tokens))

    def one_row(r: int) -> Part:
        row = pack([batch[i] for i in rows[r]])
        states = answer_states(module, row)
        with torch.no_grad():
            known = answer_states(teacher, row)
        return Part(sum_of_divergences(module, teacher, states, known, options) / n, {}, len(row.tokens))

    costs = [sum(batch[i].n_tokens for i in row) for row in rows]
    total, _, tokens = over_rows(costs, one_row, together, seed)
    return total, {"divergence": total}, tokens


def sum_of_divergences(
    module: Any, teacher: Any, states: Tensor, known: Tensor, options: distillation.Config
) -> Tensor:
    """The divergences at final hidden states [R, D] of student and teacher, added up."""
    heads = module.get_output_embeddings(), teacher.get_output_embeddings()
    parts = []
    for start in range(0, len(states), CHUNK):
        part = slice(start, start + CHUNK)
        parts.append(checkpoint(_chunk, *heads, states[part], known[part], options, use_reentrant=False))
    return torch.stack(parts).sum()


def _chunk(head: Any, of_teacher: Any, states: Tensor, known: Tensor, options: distillation.Config) -> Tensor:
    q, p = (h(x).float() / options.temperature for h, x in ((head, states), (of_teacher, known)))
    return distillation.divergence(p.log_softmax(-1), q.log_softmax(-1), options).sum()
