"""Two processes that each hold half of every weight (FSDP on gloo) give the losses and weights of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from _items import random_items, small
from _several import record_of, several, train_process, train_rewards
from _tiny import tiny_folder, tiny_model
from fivefold.align._adapter import Lora, aside
from fivefold.align._processes import checksum, processes
from fivefold.align._sharded import Shards
from fivefold.align.train import estimate, train
from fivefold.errors import UsageError

ROOT = Path(__file__).parents[2]
LORA = Lora(r=3, alpha=8, dropout=0.1)
"""Three rows over two processes: one has two of them."""
GIVEN = {"epochs": 2, "batch_items": 6, "row_tokens": 24, "checkpoint_steps": 1}

SCRIPT = """
import gc, json, os, sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
import torch
from fivefold.align import _checkpoint, train as trainer, _scalar
from fivefold.align._processes import checksum
from fivefold.align._sharded import Shards
from test_sharded import RUNS, killed, models_of
out, rank = Path({out!r}), os.environ["RANK"]
if rank != "0":
    def refuse(*args, **kwargs):
        raise AssertionError("only the first process writes")
    _checkpoint.write_atomic = trainer.save_trained = _scalar.save_trained = refuse

def alive():
    gc.collect()
    found = [o.untyped_storage() for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
    return sum({{s.data_ptr(): s.nbytes() for s in found}}.values())

def remaining(before, enough):
    # gloo's own thread lets go of what it has gathered when it gets to it: it had not yet on a busy machine
    until = time.monotonic() + 20
    while (more := alive() - before) >= enough and time.monotonic() < until:
        time.sleep(0.1)
    return more

split, held = Shards.split, {{}}
def weighed(self, trained, *beside):
    whole = sum(p.nbytes for p in trained.parameters())
    before = alive()
    split(self, trained, *beside)
    if not held:
        held.update(whole=whole, more=remaining(before, 0.55 * whole))
        own = sum(p.to_local().nbytes for p in trained.parameters())
        (out / f"held{{rank}}.json").write_text(json.dumps({{**held, "own": own}}))

Shards.split = weighed
models = models_of({folder!r}, {tied!r})
sums = [checksum(m.module) for m in models.values()]
for name, run in RUNS.items():
    run(models.get(name, models[""]), out / name)
assert sums == [checksum(m.module) for m in models.values()], "the models were changed"
killed(models[""], out / "killed", at=int(sys.argv[1]))
"""


def _several_in_bf16(model: Any, out: Path) -> None:
    with _environment("ACCELERATE_MIXED_PRECISION", "bf16"):
        several("dpo", adapter=LORA, lr=1e-3)(model, out)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def killed(model: Any, out: Path, at: int) -> Any:
    """A run whose first process dies after step `at` (0: it does not)."""

    def watch(progress: Any) -> None:
        if progress.step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    config = small(loss="dpo", adapter=LORA, ema=0.9, **GIVEN)
    return train(model, random_items(13, 2), config, out, on_step=watch)


RUNS = {
    "sft": several("sft", ema=0.9, check_steps=2, adapter=Lora(r=4, from_layer=2, dropout=0.1)),
    "tdpo": several("tdpo", adapter=Lora(r=4, dora=True), gradient_checkpointing=True),
    "kto": several("kto"),
    "full": several("dpo", adapter=None, lr=1e-4, gradient_checkpointing=True),
    "tied": several("dpo", adapter=None, lr=1e-4, ema=0.9, check_steps=2),
    "reward": train_rewards,
    "process": train_process,
    "bf16": _several_in_bf16,
    "half": several("dpo", adapter=LORA, lr=1e-3),
    "masters": several("dpo", adapter=None, lr=1e-4, ema=0.9),
}
ROUGH = ("bf16", "half", "masters")
"""Computed in bfloat16: what is gathered is cast to it, or the base was loaded in it."""


def models_of(folder: str, tied: str) -> dict[str, Any]:
    """The models of the runs that have one of their own, by the run's name, and that of all others."""
    from fivefold.runtime.load import load

    half = load(folder, dtype="bfloat16")
    return {"": load(folder), "tied": load(tied), "half": half, "masters": half}


@pytest.fixture(scope="module")
def both(folder: Path, model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the same runs by one process and by two (torchrun, gloo, FSDP). The last run of the two is killed and
    started again; what it had left lies in `left`."""
    out = tmp_path_factory.mktemp("sharded")
    tied = str(tiny_folder(out / "tied", tie_word_embeddings=True))
    paths = [str(ROOT / "tests" / "align"), str(ROOT / "tests"), str(ROOT / "src")]
    script = out / "script.py"
    script.write_text(SCRIPT.format(paths=paths, folder=str(folder), tied=tied, out=str(out / "two")))
    (out / "two").mkdir()
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    died = subprocess.run([*launch, "3"], env=env, capture_output=True, text=True, check=False)
    assert died.returncode != 0 and "SIGKILL" in died.stderr, died.stderr[-4000:]
    shutil.copytree(out / "two" / "killed", out / "left")
    done = subprocess.run([*launch, "0"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    models = models_of(str(folder), tied)
    for name, run in RUNS.items():
        run(models.get(name, model), out / "one" / name)
    killed(model, out / "one" / "killed", at=0)
    return out / "one", out / "two"


@pytest.mark.parametrize("name", [*RUNS, "killed"])
def test_split_weights_give_the_losses_of_whole_ones(both: tuple[Path, Path], name: str) -> None:
    """To 1e-4 of the loss (1e-2 computed in bfloat16), and the kill leaves no trace."""
    one, two = (record_of(folder / name) for folder in both)
    of_loss, of_norm = (1e-4, 1e-3) if name not in ROUGH else (1e-2, 5e-2)
    assert len(one["history"]) == len(two["history"]) > 2
    for a, b in zip(one["history"], two["history"], strict=True):
        assert set(a) == set(b)
        assert b["loss"] == pytest.approx(a["loss"], rel=of_loss, abs=1e-6)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=of_norm)
        assert b.get("held_out", 0.0) == pytest.approx(a.get("held_out", 0.0), rel=1e-4)
    assert one["tokens"] == two["tokens"]
    if "sharded" in two:
        assert (one["sharded"], two["sharded"]) == (False, True)
        assert two["computed_in"] == ("bfloat16" if name == "bf16" else None)


@pytest.mark.parametrize("name", [n for n in [*RUNS, "killed"] if n not in ROUGH])
def test_split_weights_end_as_whole_ones(both: tuple[Path, Path], name: str) -> None:
    """To 1e-3 of the largest weight's size; the files hold the same names, undivided."""
    for kind in ("*/*model.safetensors", "head.safetensors"):
        one, two = ({k: v for f in (folder / name).glob(kind) for k, v in load_file(f).items()} for folder in both)
        assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in two.items()}
        assert one or kind == "head.safetensors"
        most = max((float(v.abs().max()) for v in one.values()), default=0.0)
        assert all(float((one[k] - two[k]).abs().max()) < 1e-3 * most for k in one)


def test_all_weights_in_bfloat16_move_as_far_split_as_whole(both: tuple[Path, Path], folder: Path) -> None:
    """By masters in float32 in both cases: without them 7 % of the weights move, with them 18 %."""
    from fivefold.runtime.load import load

    start = load(str(folder), dtype="bfloat16").module.state_dict()
    one, two = (load_file(f / "masters" / "model" / "model.safetensors") for f in both)
    assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in two.items()}
    by = [torch.cat([(w[k].float() - start[k].float()).flatten() for k in start]) for w in (one, two)]
    assert all((b != 0).float().mean() > 0.12 for b in by)
    assert (by[0] - by[1]).norm() < 0.3 * by[0].norm(), float((by[0] - by[1]).norm() / by[0].norm())


def test_settings_of_the_files_are_those_of_one_process(both: tuple[Path, Path]) -> None:
    for name in ("sft/adapter/adapter_config.json", "tied/model/config.json"):
        one, two = (json.loads((folder / name).read_text()) for folder in both)
        assert one == two


def test_each_process_holds_about_half(both: tuple[Path, Path]) -> None:
    """Of the parameters' bytes, counted in the parameters and in all tensors that came to be when they were split."""
    for rank in (0, 1):
        held = json.loads((both[1] / f"held{rank}.json").read_text())
        assert 0.48 < held["own"] / held["whole"] < 0.52
        assert held["more"] < 0.55 * held["whole"]


def test_what_two_processes_left_goes_on_in_one(both: tuple[Path, Path], model: Any) -> None:
    left = both[0].parent / "left"
    kept = torch.load(left / "checkpoint.pt", weights_only=True)
    assert len(kept["history"]) == 3 and kept["leaving"]["average"] is not None
    again = killed(model, left, at=0)
    assert again.losses == pytest.approx([h["loss"] for h in record_of(both[0] / "killed")["history"]], rel=1e-4)


def _shards(rank: int, size: int = 2) -> Any:
    return Shards(rank=rank, size=size, mesh=None, on=torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("n", range(8))
def test_all_processes_compute_equally_many_rows_and_each_counts_once(n: int) -> None:
    costs = [5, 30, 7, 7, 22, 1, 9][:n]
    for size in (2, 3):
        everyone = [_shards(rank, size) for rank in range(size)]
        assert len({len(s.mine(costs)) + len(s.idle(costs)) for s in everyone}) == 1
        assert sorted(i for s in everyone for i in s.mine(costs)) == list(range(n))


def test_weights_that_differ_have_another_sum() -> None:
    module = tiny_model()
    before = checksum(module)
    assert before == checksum(tiny_model()) != checksum(tiny_model(seed=1))
    assert checksum(module.bfloat16()) != before


def test_a_copy_to_be_split_leaves_its_original_alone() -> None:
    module = tiny_model(tie_word_embeddings=True).requires_grad_(False)
    copied = aside(module).requires_grad_(True)
    assert copied.lm_head.weight is copied.model.embed_tokens.weight is not module.lm_head.weight
    assert copied.lm_head.weight.data_ptr() == module.lm_head.weight.data_ptr(), "nothing is copied yet"
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.data = tensor.double()  # as FSDP moves them to its device
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in (*module.parameters(), *module.buffers()))


def test_the_estimate_is_of_one_part() -> None:
    module, items, config = tiny_model(), random_items(4), small(adapter=None)
    whole, part = estimate(module, items, config), estimate(module, items, config, _shards(0))
    assert (part.weights, part.state) == (whole.weights // 4, whole.state // 2), "and the whole model is not copied"
    assert part.activations == whole.activations


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FSDP_VERSION", "1"),
        ("FSDP_OFFLOAD_PARAMS", "true"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP"),
        ("ACCELERATE_MIXED_PRECISION", "fp16"),
    ],
)
def test_settings_of_fsdp_that_would_have_to_be_ignored_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    given = {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", name: value}
    for key, setting in given.items():
        monkeypatch.setenv(key, setting)
    with pytest.raises(UsageError, match="computed with" if "MIXED" in name else name):
        processes(torch.device("cpu"), shards=True)


def test_a_model_on_an_accelerator_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, setting in {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(key, setting)
    with pytest.raises(UsageError, match="must not lie whole"):
        processes(torch.device("cuda:0"), shards=True)
