"""Learning-rate schedules as pure functions of how far the run is."""

from __future__ import annotations

import math

from hyperkit.training.config import TrainingConfig


def step_decay(progress: float, at: float = 0.8, factor: float = 0.1) -> float:
    """Return 1 before the fraction ``at`` of the run, ``factor`` from there on (Table 6: divide by 10 after 80 %)."""
    return factor if progress >= at else 1.0


def cosine(progress: float, warmup: float = 0.1) -> float:
    """Rise linearly from 0 to 1 over the fraction ``warmup`` of the run, then fall to 0 along half a cosine.

    ``progress / warmup`` before, ``(1 + cos(pi * (progress - warmup) / (1 - warmup))) / 2`` after (Table 6).
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (min(progress, 1.0) - warmup) / (1.0 - warmup)))


def multiplier(config: TrainingConfig, progress: float) -> float:
    """Return what the learning rate is multiplied by at ``progress`` in [0, 1] of the run.

    A run by steps takes the middle of the step, ``(step + 0.5) / steps``, so that neither its first nor its last step
    is lost to a rate of 0.
    """
    if config.schedule == "step":
        return step_decay(progress, config.decay_at, config.decay_factor)
    if config.schedule == "cos":
        return cosine(progress, config.warmup)
    return 1.0
