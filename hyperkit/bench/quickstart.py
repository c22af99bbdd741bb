"""The row of the quickstart: the time to a fixed held-out PSNR, with the package's operations and the baseline's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hyperkit.bench.plain_model import PlainModel
from hyperkit.bench.report import Row
from hyperkit.bench.settings import Bench
from hyperkit.errors import RunFailed
from hyperkit.tasks.nvs import NVSTask
from hyperkit.training.config import TrainingConfig
from hyperkit.training.loop import fit
from hyperkit.training.progress import ProgressSink, make_progress
from hyperkit.training.run_directory import RunDirectory
from hyperkit.workflows.configure import from_recipe


class PlainNVSTask(NVSTask):
    """The same task, whose model computes with the baseline's operations."""

    def build_model(self, load_weights: bool = True) -> PlainModel:
        """Build the model and put the baseline in its place."""
        return PlainModel(super().build_model(load_weights))


class _Reached(Exception):
    """Ends a run from within its progress."""


class Watch:
    """Shows a run's progress and ends it when a validation reaches the target.

    Attributes:
        step, seconds: when that was; None before. Making the data and the model is not counted, validation is.
        psnr: of the last validation.
    """

    def __init__(self, target: float, shown: ProgressSink) -> None:
        self.target, self.shown = target, shown
        self.step: int | None = None
        self.seconds: float | None = None
        self.psnr = float("nan")

    def start(self, total: int, step: int, counts: Mapping[str, Any], seconds_left: float) -> None:
        """Begin."""
        self.begun = time.perf_counter()
        self.shown.start(total, step, counts, seconds_left)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of a step; "best" comes with a validation."""
        self.shown.update(step, metrics)
        if "best" in metrics:
            self.psnr = metrics["best"]
            if self.psnr >= self.target:
                self.step, self.seconds = step, time.perf_counter() - self.begun
                raise _Reached

    def close(self) -> None:
        """End."""
        self.shown.close()


def quickstart_to_psnr(bench: Bench) -> Row:
    """Train the quickstart until its validation reaches a PSNR, twice in the same loop; once each, it takes minutes.

    Raises:
        RunFailed: the PSNR was not reached.
    """
    precision = "32" if bench.precision == torch.float32 else "bf16"
    bench.say("the quickstart with the package's operations")
    own = _time_to(bench, NVSTask, precision)
    bench.say("the quickstart with the baseline's operations")
    plain = _time_to(bench, PlainNVSTask, "32")
    assert own.seconds is not None
    assert plain.seconds is not None
    more = {
        "psnr": own.psnr,
        "psnr_baseline": plain.psnr,
        "steps": own.step,
        "steps_baseline": plain.step,
        "note": f"to {bench.sizes.quickstart_psnr:g} dB of held-out objects; one run each",
    }
    return Row("quickstart_to_psnr", own.seconds, "s", plain.seconds, plain.seconds / own.seconds, more=more)


def _time_to(bench: Bench, task_cls: type[NVSTask], precision: str) -> Watch:
    sizes = bench.sizes
    training = {
        "validate_every": sizes.quickstart_every,
        "device": bench.device.type,
        "precision": precision,
        "tensorboard": False,
    }
    # from scratch, as the baseline has been measured
    overrides = {"training": training, "backbone": {"name": "nano"}}
    _, config = from_recipe("nvs", sizes.quickstart, overrides, "train")
    settings: TrainingConfig = config.training
    task = task_cls(config, settings.seed)
    watch = Watch(sizes.quickstart_psnr, make_progress())
    with tempfile.TemporaryDirectory() as folder:
        plain = config.model_dump(mode="json")
        with RunDirectory.create(Path(folder) / "run", "nvs", plain) as run:
            try:
                fit(task, settings, run, stored_config=plain, progress=watch)
            except _Reached:
                return watch
    raise RunFailed(
        f"The quickstart ended at {watch.psnr:.2f} dB, below {sizes.quickstart_psnr:g} dB.",
        "The row needs a training that reaches it.",
    )
