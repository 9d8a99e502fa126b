"""Two processes that each keep half of the optimiser's state (DeepSpeed's ZeRO on gloo) give the losses and weights of one."""

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
from fivefold.align._adapter import Lora
from fivefold.align._deepspeed import Settings, Zero, config_of, settings
from fivefold.align._processes import processes
from fivefold.align.train import estimate, train
from fivefold.errors import MissingExtraError, UsageError

ROOT = Path(__file__).parents[2]
LORA = Lora(r=3, alpha=8, dropout=0.1)
"""Three rows over two processes: one has two of them."""
MISSING = "deepspeed is not installed (the extra `deepspeed`)"
GIVEN = {"epochs": 2, "batch_items": 6, "row_tokens": 24, "checkpoint_steps": 1}

SCRIPT = """
import json, os, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from fivefold.align import _checkpoint, train as trainer, _scalar
from fivefold.align._deepspeed import Zero
from fivefold.align._processes import checksum
from fivefold.errors import TrainingError
from test_deepspeed import RUNS, diverging, killed, models_of
out, rank = Path({out!r}), os.environ["RANK"]
if rank != "0":
    def refuse(*args, **kwargs):
        raise AssertionError("only the first process writes")
    _checkpoint.write_atomic = trainer.save_trained = _scalar.save_trained = refuse

step, last = Zero.step, []
def weighed(self, optimizer, masters, limit):
    last[:] = [self, optimizer, masters, limit]
    gradients = sum(t.numel() for of in self.engine.run.optimizer.all_grad_tensors.values() for t in of or ())
    norm = step(*last)
    kept = self.engine.kept
    moments = [t.numel() for t in optimizer.state[kept].values() if t.shape == kept.shape]
    whole = sum(piece.shape.numel() for piece in self.engine.pieces.values())
    found = {{"own": kept.numel(), "moments": sum(moments), "gradients": gradients, "whole": whole}}
    (out / f"held{{rank}}-{{self.stage}}.json").write_text(json.dumps(found))
    return norm

Zero.step = weighed
models = models_of({folder!r}, {tied!r})
sums = [checksum(m.module) for m in models.values()]
for name, run in RUNS.items():
    run(models.get(name, models[""]), out / name)
assert sums == [checksum(m.module) for m in models.values()], "the models were changed"
killed(models[""], out / "killed", at=int(sys.argv[1]))
killed(models[""], out / "crossed", at=0)
for what in (lambda: diverging(models[""], out / "diverged"), lambda: last[0].engine.arrived.append(rank) or step(*last)):
    try:
        what()
    except TrainingError as error:
        print(error.what, rank, flush=True)
"""


def _with(run: Any, **environment: str) -> Any:
    """A run with settings of accelerate's in the environment, which one process does not look at."""

    def changed(model: Any, out: Path) -> None:
        with _environment(**environment):
            run(model, out)

    return changed


@contextmanager
def _environment(**settings: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def killed(model: Any, out: Path, at: int) -> Any:
    """A run whose first process dies after step `at` (0: it does not)."""

    def watch(progress: Any) -> None:
        if progress.step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    config = small(loss="dpo", adapter=LORA, ema=0.9, **GIVEN)
    return train(model, random_items(13, 2), config, out, on_step=watch)


class Stopped(Exception):
    """Ends a run in the process that compares."""


def begun(model: Any, out: Path) -> None:
    """What a single process leaves of the run of `killed` after three steps."""

    def watch(progress: Any) -> None:
        if progress.step == 3:
            raise Stopped

    config = small(loss="dpo", adapter=LORA, ema=0.9, **GIVEN)
    with pytest.raises(Stopped):
        train(model, random_items(13, 2), config, out, on_step=watch)


def diverging(model: Any, out: Path) -> None:
    """A run whose weights leave the range of their numbers."""
    train(model, random_items(13, 1), small(loss="sft", adapter=None, lr=1e30, warmup=0.0), out)


STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
ONE, TWO, BF16 = {STAGE: "1"}, {STAGE: "2"}, {"ACCELERATE_MIXED_PRECISION": "bf16"}
RUNS = {
    "sft": _with(several("sft", ema=0.9, check_steps=2, adapter=Lora(r=4, from_layer=2, dropout=0.1)), **TWO),
    "tdpo": _with(several("tdpo", adapter=Lora(r=4, dora=True), gradient_checkpointing=True), **ONE),
    "kto": _with(several("kto"), **TWO),
    "full": _with(several("dpo", adapter=None, lr=1e-4, grad_clip=5.0, gradient_checkpointing=True), **TWO),
    "tied": _with(several("dpo", adapter=None, lr=1e-4, ema=0.9, check_steps=2), **ONE),
    "reward": _with(train_rewards, **TWO),
    "process": _with(train_process, **ONE),
    "bf16": _with(several("dpo", adapter=LORA, lr=1e-3), **TWO, **BF16),
    "cast": _with(several("dpo", adapter=None, lr=1e-5), **TWO, **BF16),
    "half": _with(several("dpo", adapter=LORA, lr=1e-3), **ONE),
}
ALL = (*RUNS, "killed", "crossed")
ROUGH = ("bf16", "cast", "half")
"""Computed in bfloat16: what is stepped is cast to it, or the base was loaded in it."""


def models_of(folder: str, tied: str) -> dict[str, Any]:
    """The models of the runs that have one of their own, by the run's name, and that of all others."""
    from fivefold.runtime.load import load

    return {"": load(folder), "tied": load(tied), "half": load(folder, dtype="bfloat16")}


@pytest.fixture(scope="module")
def both(folder: Path, model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the same runs by one process and by two (torchrun, gloo, ZeRO). The last run of the two is killed and
    started again; what it had left lies in `left`."""
    pytest.importorskip("deepspeed", reason=MISSING)
    out = tmp_path_factory.mktemp("deepspeed")
    tied = str(tiny_folder(out / "tied", tie_word_embeddings=True))
    paths = [str(ROOT / "tests" / "align"), str(ROOT / "tests"), str(ROOT / "src")]
    script = out / "script.py"
    script.write_text(SCRIPT.format(paths=paths, folder=str(folder), tied=tied, out=str(out / "two")))
    (out / "two").mkdir()
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu", **TWO}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    begun(model, out / "two" / "crossed")
    died = subprocess.run([*launch, "3"], env=env, capture_output=True, text=True, check=False)
    assert died.returncode != 0 and "SIGKILL" in died.stderr, died.stderr[-4000:]
    shutil.copytree(out / "two" / "killed", out / "left")
    done = subprocess.run([*launch, "0"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (out / "printed").write_text(done.stdout)
    models = models_of(str(folder), tied)
    for name, run in RUNS.items():
        run(models.get(name, model), out / "one" / name)
    for name in ("killed", "crossed"):
        killed(model, out / "one" / name, at=0)
    return out / "one", out / "two"


@pytest.mark.parametrize("name", [n for n in ALL if n != "cast"])
def test_zero_gives_the_losses_of_one_process(both: tuple[Path, Path], name: str) -> None:
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
    if "zero" in two:
        assert (one["zero"], two["zero"]) == (None, 1 if name in ("tdpo", "tied", "half") else 2)
        assert two["computed_in"] == ("bfloat16" if name == "bf16" else None)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ROUGH])
def test_zero_ends_in_the_weights_of_one_process(both: tuple[Path, Path], name: str) -> None:
    """To 1e-3 of the largest weight's size; the files hold the same names, undivided."""
    for kind in ("*/*model.safetensors", "head.safetensors"):
        one, two = ({k: v for f in (folder / name).glob(kind) for k, v in load_file(f).items()} for folder in both)
        assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in two.items()}
        assert one or kind == "head.safetensors"
        most = max((float(v.abs().max()) for v in one.values()), default=0.0)
        assert all(float((one[k] - two[k]).abs().max()) < 1e-3 * most for k in one)


def test_weights_computed_in_bfloat16_are_stepped_in_float32(both: tuple[Path, Path]) -> None:
    """All weights end near those of float32: rounded at the start they are some 4e-3 away, at the largest."""
    one, two = (load_file(folder / "cast" / "model" / "model.safetensors") for folder in both)
    assert {v.dtype for v in two.values()} == {torch.float32}
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-3


def test_settings_of_the_files_are_those_of_one_process(both: tuple[Path, Path]) -> None:
    for name in ("sft/adapter/adapter_config.json", "tied/model/config.json"):
        one, two = (json.loads((folder / name).read_text()) for folder in both)
        assert one == two


@pytest.mark.parametrize("stage", [1, 2])
def test_each_process_keeps_half_of_the_state(both: tuple[Path, Path], stage: int) -> None:
    """Float32 weights and both moments; in stage 2 the gradients that wait for a step, but for a weight on the border."""
    for rank in (0, 1):
        held = json.loads((both[1] / f"held{rank}-{stage}.json").read_text())
        assert held["whole"] / 2 <= held["own"] < held["whole"] / 2 + 4
        assert held["moments"] == 2 * held["own"]
        if stage == 2:
            assert held["whole"] / 2 <= held["gradients"] < 0.75 * held["whole"]


def test_what_two_processes_left_goes_on_in_one(both: tuple[Path, Path], model: Any) -> None:
    left = both[0].parent / "left"
    kept = torch.load(left / "checkpoint.pt", weights_only=True)
    assert len(kept["history"]) == 3 and kept["leaving"]["average"] is not None
    again = killed(model, left, at=0)
    assert again.losses == pytest.approx([h["loss"] for h in record_of(both[0] / "killed")["history"]], rel=1e-4)


def test_both_processes_say_that_a_run_diverged(both: tuple[Path, Path]) -> None:
    assert (both[0].parent / "printed").read_text().count("training diverged at step") == 2


def test_gradients_in_another_order_are_not_added_up(both: tuple[Path, Path]) -> None:
    assert (both[0].parent / "printed").read_text().count("do not agree on the order of the gradients") == 2


def _zero(stage: int) -> Zero:
    settings = Settings(stage=stage, half=False, clipping=None, tuned={})
    return Zero(rank=0, size=2, on=torch.device("cpu"), settings=settings)


@pytest.mark.parametrize(("stage", "numbers"), [(1, 4 / 2 + 2), (2, 4 / 2 + 1)])
def test_the_estimate_is_of_one_part(stage: int, numbers: float) -> None:
    module, items, config = tiny_model(), random_items(4), small(adapter=None)
    whole, part = estimate(module, items, config), estimate(module, items, config, _zero(stage))
    assert (part.weights, part.activations) == (whole.weights, whole.activations)
    assert part.state == whole.state * numbers / 3  # of which the value is counted among the weights in one process


def _asked(monkeypatch: pytest.MonkeyPatch, **given: str) -> Any:
    """The processes that accelerate's settings in the environment ask for."""
    pytest.importorskip("deepspeed", reason=MISSING)
    for key, setting in {"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true", **given}.items():
        monkeypatch.setenv(key, setting)
    return processes(torch.device("cpu"), shards=True)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (STAGE, "0", "zero_optimization.stage"),
        (STAGE, "3", "zero_optimization.stage"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", "offload_optimizer.device"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", "offload_param.device"),
        ("ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES", "MixtralSparseMoeBlock", "moe_layer_cls_names"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2", "gradient_accumulation_steps"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "computed with"),
    ],
)
def test_settings_of_accelerate_that_would_have_to_be_ignored_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        _asked(monkeypatch, **{name: value})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}, "optimizer.type of"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler.type of"),
        ({"fp16": {"enabled": True}}, "fp16.enabled of"),
        ({"train_batch_size": 16}, "train_batch_size of"),
        ({"zero_optimization": {"stage": 2, "round_robin_gradients": True}}, "round_robin_gradients of"),
        ({"zero_optimization": {}}, "zero_optimization.stage of"),
        ({"zero_optimization": None}, "cannot read"),
    ],
)
def test_settings_of_deepspeeds_file_that_would_have_to_be_ignored_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    config = {"zero_optimization": {"stage": 2}, **changes}
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(UsageError, match=says):
        _asked(monkeypatch, ACCELERATE_DEEPSPEED_CONFIG_FILE=str(path))


def test_settings_that_change_no_result_are_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason=MISSING)
    path = tmp_path / "zero.json"
    given = {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": False, "allgather_bucket_size": "auto"}
    path.write_text(json.dumps({"zero_optimization": given, "gradient_clipping": 0.5, "bf16": {"enabled": "auto"}}))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    found = settings()
    assert found == Settings(1, False, 0.5, {"reduce_bucket_size": 1000, "overlap_comm": False})
    assert config_of(found)["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": False}
    with pytest.raises(UsageError, match="gradient_clipping"):
        Zero(rank=0, size=2, on=torch.device("cpu"), settings=found).prepared({}, small(grad_clip=1.0))


def test_an_older_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed = pytest.importorskip("deepspeed", reason=MISSING)
    monkeypatch.setattr(deepspeed, "__version_patch__", 7)
    with pytest.raises(UsageError, match="too old"):
        settings()


def test_without_deepspeed_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MissingExtraError, match="deepspeed"):
        settings()
