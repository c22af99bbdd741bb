"""Runs that are killed, stopped by a signal, or shared by two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toy import train

from hyperkit.errors import HyperkitError
from hyperkit.training.checkpoints import Checkpoint, load_checkpoint

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("forks")
    output = run(str(HERE / "training_forks.py"), str(folder), "3", cwd=folder).stdout
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    return report


def test_a_run_repeats_bit_for_bit(forks: dict[str, Any]) -> None:
    assert (forks["straight"], forks["again"]) == (0, 0)
    assert all(forks["repeats"].values()), forks["repeats"]


def test_a_run_that_was_killed_ends_with_the_same_bits(forks: dict[str, Any]) -> None:
    assert -9 in forks["kills"]
    assert set(forks["kills"]) <= {-9, 0}
    assert any(0 < step < 300 for step in forks["killed at"]), forks["killed at"]
    assert forks["killed end"] == 0
    assert all(forks["killed"].values()), forks["killed"]


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_run_stopped_by_a_signal_saves_and_goes_on(forks: dict[str, Any], name: str, code: int) -> None:
    report = forks[name]
    assert report.pop("code") == code
    assert 0 < report.pop("step") < 300
    assert report.pop("end") == 0
    assert all(report.values()), report


SHARED = {"steps": 15, "noise": 0.3, "ema": 0.9, "log_every": 5, "validate_every": 5}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    train(out, **SHARED)
    return out


def assert_same_training(out: Path, alone: Path) -> None:
    a, b = (load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (out, alone))
    for name in b.model:
        torch.testing.assert_close(a.model[name], b.model[name], rtol=0, atol=2e-6)  # worst seen 4e-7
    moments = [_moments(c) for c in (a, b)]
    for name in moments[1]:  # Adam's first moment is a running mean of the gradients
        torch.testing.assert_close(moments[0][name], moments[1][name], rtol=1e-5, atol=2e-5)
    lines = [[json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (out, alone)]
    assert [(x["step"], x["split"]) for x in lines[0]] == [(x["step"], x["split"]) for x in lines[1]]
    for x, y in zip(*lines, strict=True):
        for name in ("loss",) if x["split"] == "train" else ("psnr", "n"):
            assert x[name] == pytest.approx(y[name], rel=1e-5)


def _moments(checkpoint: Checkpoint) -> dict[int, torch.Tensor]:
    assert checkpoint.optimizer is not None
    return {number: state["exp_avg"] for number, state in checkpoint.optimizer["state"].items()}


ARGUMENTS = [f"{name}={value}" for name, value in SHARED.items()]


def test_devices_2_starts_a_second_process_with_the_same_result(tmp_path: Path, alone: Path) -> None:
    run(str(HERE / "training_toy.py"), "-", *ARGUMENTS, "devices=2", cwd=tmp_path)
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 1  # both processes agree on the folder
    assert_same_training(runs[0], alone)


def test_torchrun_gives_the_same_result(tmp_path: Path, alone: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run(*torchrun, str(HERE / "training_toy.py"), "run", *ARGUMENTS, cwd=tmp_path)
    assert_same_training(tmp_path / "run", alone)


def test_a_batch_that_two_processes_cannot_share_is_refused() -> None:
    from types import SimpleNamespace

    from training_toy import ToyConfig, ToyData, ToyModel, ToyTask, resolve

    from hyperkit.training.loop import _Training

    config = resolve({"training": {"steps": 1, "batch_size": 7}}).training
    fabric: Any = SimpleNamespace(world_size=2)
    toy = (ToyData(0, ToyConfig()), ToyModel(ToyConfig()))
    none: Any = None
    with pytest.raises(HyperkitError, match=r"batch_size=7 cannot be shared evenly by 2(.|\n)*multiple of 2"):
        _Training(ToyTask(ToyConfig()), config, none, fabric, *toy, none, {}, None)
