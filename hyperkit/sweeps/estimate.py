"""What a sweep will cost, from one short run of each kind of cell."""

from __future__ import annotations

import copy
import hashlib
import heapq
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hyperkit.training.config import TrainingConfig, total_steps


@dataclass(frozen=True)
class Probe:
    """What one short run of a kind of cell took.

    Attributes:
        start_up: seconds from the start of its process to the first step, without ``first_use``.
        step: seconds of an optimizer step.
        validation: seconds of a validation, with its pictures.
        evaluation: seconds of the whole test split.
        closing: seconds of everything else: tables, pictures, checkpoints.
        steps_per_epoch: batches in an epoch.
        encoder_parameters, parameters: of the backbone, and of all.
        peak_memory_bytes: of the process's main memory.
        first_use: seconds that it took to open the data, which is made on first use; the other cells find it made.
    """

    start_up: float
    step: float
    validation: float
    evaluation: float
    closing: float
    steps_per_epoch: int
    encoder_parameters: int
    parameters: int
    peak_memory_bytes: int
    first_use: float = 0.0

    def steps(self, parameters: Mapping[str, Any]) -> int:
        """Return the optimizer steps of a cell of this kind with these settings."""
        return total_steps(TrainingConfig(**parameters["training"]), self.steps_per_epoch)

    def seconds(self, parameters: Mapping[str, Any]) -> float:
        """Return how long a cell of this kind with these settings takes, from start to end."""
        training = TrainingConfig(**parameters["training"])
        steps = self.steps(parameters)
        validations = math.ceil(steps / (training.validate_every or max(1, steps // 10)))
        trained = steps * self.step + validations * self.validation
        return self.start_up + min(trained, training.max_seconds) + self.evaluation + self.closing


def kind_of(task: str, parameters: Mapping[str, Any]) -> str:
    """Return a name that cells share which take equally long for a step and for everything around the steps.

    The seed, the learning rate and the length do not matter for that; nor does the part of the data, unless the length
    is counted in epochs.
    """
    shape = copy.deepcopy(dict(parameters))
    training = shape.get("training") or {}
    for name in ("seed", "learning_rate", "steps", "max_time"):
        training.pop(name, None)
    if training.get("epochs") is None and isinstance(shape.get("data"), dict):
        shape["data"].pop("train_fraction", None)
    return hashlib.sha256(json.dumps([task, shape], sort_keys=True, default=str).encode()).hexdigest()


def time_of_all(seconds: Iterable[float], jobs: int) -> float:
    """Return how long cells take together, each begun in order as soon as one of ``jobs`` places is free."""
    ends = [0.0] * jobs
    for length in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + length)
    return max(ends)
