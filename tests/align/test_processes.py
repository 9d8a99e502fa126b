"""Two processes give the losses and weights of one; only the first writes; what does not fit is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from _items import Stop, random_items, small
from _several import distilled, record_of, reinforced, restated, several, train_process, train_rewards
from fivefold.align._adapter import Lora
from fivefold.align._divided import divided
from fivefold.align._pack import Item
from fivefold.align._processes import ALONE, Processes, processes, shares
from fivefold.align.kl import KLControl
from fivefold.align.monitor import MonitorConfig
from fivefold.align.train import train
from fivefold.errors import UsageError

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from fivefold.align import _checkpoint, distil, rl, states, train as trainer, _scalar
from fivefold.align._processes import processes
from fivefold.errors import TrainingError
import torch
import torch.distributed.device_mesh
if os.environ["RANK"] != "0":
    def refuse(*args, **kwargs):
        raise AssertionError("only the first process writes")
    _checkpoint.write_atomic = trainer.save_trained = _scalar.save_trained = refuse
    distil.save_trained = rl.save_trained = states.save_trained = refuse
from test_processes import RUNS, models_of
models = models_of({folder!r})
for name, run in RUNS.items():
    run(models.get(name, models[""]), Path({out!r}) / name)
try:
    processes(torch.device("cpu")).agree("their number", os.environ["RANK"])
except TrainingError as error:
    print("disagreed", os.environ["RANK"], flush=True)

class Slow(torch.Tensor):
    def __del__(self):
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            pass

mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
last = torch.zeros(1_000_000).as_subclass(Slow)
work = torch.distributed.all_reduce(last, async_op=True)
del last, work
time.sleep(0.2)
"""
"""Ends while gloo's thread is busy with dropping a tensor, in a group that a mesh still refers to."""


REINFORCED = {
    "grpo": reinforced("grpo", {"loss_options": {"beta": 0.1}}),
    "dapo": reinforced("dapo", {"batch_items": 2, "epochs": 2, "row_tokens": 200}, resample=2),
    "ppo": reinforced("ppo", {"batch_items": 3, "adapter": Lora(r=4, from_layer=2)}, critic=Lora(r=4, from_layer=1)),
    "safe_rlhf": reinforced("safe_rlhf", monitor=MonitorConfig(action="rollback", most_kl=1e-6), keep_every=1),
    "resumed": reinforced("rloo", {"batch_items": 2}, kl=KLControl(weight=0.05, target=0.5, horizon=50)),
}
"""With and without samples used once, further draws, a critic, frozen layers below all, a cost, and an end by an alarm;
one that a single process has begun."""
RUNS = {
    "rpo": several("rpo"),
    "sft": several("rpo", ema=0.9, check_steps=2, adapter=Lora(r=4, from_layer=2, dropout=0.1)),
    "kto": several("kto"),
    "full": several("dpo", adapter=None, lr=1e-4),
    "half": several("dpo", adapter=None, lr=1e-4, ema=0.9),
    "reward": train_rewards,
    "process": train_process,
    "distillation": distilled,
    "circuit_breaker": restated("circuit_breaker"),
    "rmu": restated("rmu"),
    **{f"rl/{name}": run for name, run in REINFORCED.items()},
}


def ended_after_two(done: int, total: int, health: Any) -> None:
    """Ends in one process a run that two are to go on with."""
    if done == 2:
        raise Stop


def models_of(folder: str) -> dict[str, Any]:
    """The models of the runs that have one of their own, by the run's name, and that of all others."""
    from fivefold.runtime.load import load

    return {"": load(folder), "half": load(folder, dtype="bfloat16")}


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Folders of the same runs by one process and by two (started by torchrun, on gloo), and what the two printed."""
    out = tmp_path_factory.mktemp("processes")
    paths = [str(ROOT / "tests" / "align"), str(ROOT / "tests"), str(ROOT / "src")]
    script = out / "script.py"
    script.write_text(SCRIPT.format(paths=paths, folder=str(folder), out=str(out / "two")))
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    with pytest.raises(Stop):
        REINFORCED["resumed"](models_of(str(folder))[""], out / "two" / "rl" / "resumed", on_round=ended_after_two)
    done = subprocess.run(launch, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    models = models_of(str(folder))
    for name, run in RUNS.items():
        run(models.get(name, models[""]), out / "one" / name)
    return out / "one", out / "two", done.stdout


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_losses_of_one(both: tuple[Path, Path, str], name: str) -> None:
    """To 1e-4 of the loss: sums are taken in another order, and Adam carries the last digit on."""
    one, two = (record_of(folder / name) for folder in both[:2])
    assert len(one["history"]) == len(two["history"]) >= 2
    for a, b in zip(one["history"], two["history"], strict=True):
        assert set(a) == set(b)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4, abs=1e-6)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
        assert b.get("held_out", 0.0) == pytest.approx(a.get("held_out", 0.0), rel=1e-4)
    assert one["tokens"] == two["tokens"]
    assert two.get("processes", 2) == 2 and one.get("processes", 1) == 1


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_in_the_weights_of_one(both: tuple[Path, Path, str], name: str) -> None:
    """To 1e-3 of the largest weight's size, where a step moves weights by about the learning rate of 1e-2; in bfloat16 to
    the distance of neighbouring numbers, as one that lies between two may be rounded either way."""
    files = [next((folder / name).glob("*/*model.safetensors")) for folder in both[:2]]
    one, two = (load_file(f) for f in files)
    assert set(one) == set(two)
    most = max(float(v.abs().max()) for v in one.values())
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < (2**-7 if name == "half" else 1e-3) * most


def test_processes_that_disagree_say_so(both: tuple[Path, Path, str]) -> None:
    assert both[2].count("disagreed") == 2, "each process says so; their lines may run into one another"


@pytest.mark.parametrize("name", REINFORCED)
def test_two_processes_draw_and_score_what_one_does(both: tuple[Path, Path, str], name: str) -> None:
    """Every round's samples are the same, each with the reward of its own case, and so are the round's numbers."""
    one, two = (folder / "rl" / name for folder in both[:2])
    rounds = [[(f / "rounds" / p.name).read_text() for p in sorted((one / "rounds").iterdir())] for f in (one, two)]
    assert rounds[0] == rounds[1] and len(rounds[0]) >= 2
    first, second = record_of(one), record_of(two)
    for a, b in zip(first["history"], second["history"], strict=True):
        assert set(a) == set(b) >= {"reward", "gold", "kl", "entropy"}
        for key in set(a) - {"seconds"}:
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key
    assert (first["ended"], first["weights_of"]) == (second["ended"], second["weights_of"])
    assert first["ended"] == ("rolled back" if name == "safe_rlhf" else "finished")


@pytest.mark.parametrize(("n", "parts"), [(5, 2), (1, 3), (8, 3), (3, 3), (0, 2)])
def test_things_are_shared_out_once_each(n: int, parts: int) -> None:
    found = shares(n, parts)
    assert [i for share in found for i in share] == list(range(n)) and len(found) == parts
    assert max(map(len, found)) - min(map(len, found)) <= 1


class _Echo:
    """A model that doubles its questions, and remembers them."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def generate(self, requests: list[int]) -> list[int]:
        self.asked.append(requests)
        return [2 * r for r in requests]

    def with_adapter(self, path: str, *, name: str) -> _Echo:
        return self


class _First(Processes):
    """The first of two processes; the other one gives -1."""

    def gathered(self, part: Any) -> list[Any]:
        return [part[0], [-1]]


def test_a_model_is_asked_the_share_of_a_process_and_gives_all_answers() -> None:
    echo: Any = _Echo()
    assert divided(echo, ALONE) is echo
    shared = divided(echo, _First(rank=0, size=2))
    assert shared.generate([1, 2, 3]) == shared.with_adapter("x", name="y").generate([1, 2, 3]) == [2, -1]
    assert echo.asked == [[1], [1]]


def test_work_is_shared_by_its_cost_and_all_of_it_is_done() -> None:
    costs = [5, 30, 7, 7, 22, 1, 9]
    shares = [Processes(rank=r, size=3).mine(costs) for r in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(7))
    assert max(sum(costs[i] for i in share) for share in shares) <= 31
    assert ALONE.mine(costs) == list(range(7))
    assert [Processes(rank=r, size=3).mine([4]) for r in range(3)] == [[0], [], []]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "computed with"),
    ],
)
def test_settings_that_would_have_to_be_ignored_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    assert processes(torch.device("cpu")) == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=says):
        processes(torch.device("cpu"))


def test_a_run_of_two_processes_goes_on_in_one(both: tuple[Path, Path, str], model: Any, tmp_path: Path) -> None:
    """A checkpoint knows nothing of how many processes made it: the key is the same."""
    items = random_items(13, 2)
    given = {"epochs": 2, "batch_items": 6, "row_tokens": 24, "checkpoint_steps": 1}
    again = train(model, items, small(loss="rpo", **given), both[1] / "rpo")
    assert again.losses == tuple(h["loss"] for h in record_of(both[1] / "rpo")["history"])


def test_items_are_plain_data() -> None:
    """Processes make the same rows only because items compare by what they hold."""
    assert Item(prompt=(1,), answers=((2,),)) == replace(Item(prompt=(1,), answers=((2,),)))
