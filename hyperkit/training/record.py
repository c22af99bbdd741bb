"""Where the numbers of a run go: ``metrics.jsonl``, TensorBoard and the progress line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from hyperkit.training.progress import ProgressSink
from hyperkit.training.run_directory import RunDirectory


class Record:
    """Writes metrics in the first process; in the others it does nothing.

    Args:
        run: the run's folder.
        tensorboard: write TensorBoard files too, from ``step`` on.
        progress: what a person sees, or None.
    """

    def __init__(self, run: RunDirectory, tensorboard: bool, step: int, progress: ProgressSink | None) -> None:
        self._run = run
        self._silent = run.follower
        self._progress = None if self._silent else progress
        self._writer: Any = None
        if tensorboard and not self._silent:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    @property
    def pictures(self) -> bool:
        """Whether pictures are wanted."""
        return self._writer is not None

    def start(self, total: int, step: int, counts: Mapping[str, Any], seconds_left: float) -> None:
        """Begin to show progress."""
        if self._progress is not None:
            self._progress.start(total, step, counts, seconds_left)

    def step(self, step: int) -> None:
        """Show that a step is done."""
        if self._progress is not None:
            self._progress.update(step, {})

    def write(self, step: int, split: str, values: Mapping[str, float], show: Mapping[str, float]) -> None:
        """Write a line of metrics; ``show`` goes to the progress line alone. JSON has no NaN: null stands for it."""
        if self._silent:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._run.append_metrics({"step": step, "split": split, **finite})
        if self._writer is not None:
            for name, value in values.items():
                if name != "seconds":
                    self._writer.add_scalar(f"{split}/{name}", value, step)
        if self._progress is not None:
            self._progress.update(step, show)

    def write_pictures(self, step: int, pictures: Mapping[str, Any]) -> None:
        """Write pictures (H, W, 3) uint8 for TensorBoard."""
        if self._writer is not None:
            for name, picture in pictures.items():
                self._writer.add_image(name, torch.as_tensor(picture), step, dataformats="HWC")

    def close(self) -> None:
        """End the files and the progress line."""
        if self._writer is not None:
            self._writer.close()
        if self._progress is not None:
            self._progress.close()
