"""Where a model's weights come from when training begins, and which checkpoints stay."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperkit.errors import HyperkitError
from hyperkit.randomness import key
from hyperkit.tasks.base import Task
from hyperkit.training.checkpoints import Checkpoint

_LOG = logging.getLogger("hyperkit")


def build_model(
    task: Task, seed: int, checkpoint: Checkpoint | None, initial: Mapping[str, Tensor] | None
) -> nn.Module:
    """Build the task's model from the run's seed; pretrained weights only where no others replace them."""
    torch.manual_seed(key(seed, "model"))
    if checkpoint is None:
        return task.build_model(load_weights=initial is None)
    return task.build_model(load_weights=checkpoint.slim is not None)


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load all of a model's weights from the checkpoint ``source``.

    Raises:
        HyperkitError: they do not fit.
    """
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise HyperkitError(
            f"{source} does not fit the model that its configuration builds: {error}",
            "It was written by another version of hyperkit or of a library: see env.json in the run's folder.",
        ) from error


def load_initial(model: nn.Module, initial: Mapping[str, Tensor]) -> None:
    """Load the weights to start from; parameters that they lack keep their fresh values, which is logged.

    Raises:
        HyperkitError: a shape differs, or the model has no place for one of them.
    """
    try:
        missing, unexpected = model.load_state_dict(dict(initial), strict=False)
    except RuntimeError as error:
        raise HyperkitError(
            f"The weights to start from do not fit the model: {error}",
            "Keep the model's structure (backbone, algorithm, target, views) as in the checkpoint.",
        ) from error
    if unexpected:
        raise HyperkitError(
            f"The weights to start from hold {len(unexpected)} tensors that the model has no place for: "
            f"{', '.join(unexpected[:5])}{', ...' if len(unexpected) > 5 else ''}.",
            "Keep the model's structure (backbone, algorithm, target) as in the checkpoint.",
        )
    if missing:
        _LOG.info("Not among the weights to start from, and fresh: %s", ", ".join(missing))


def keep_newest(last: Path, step: int, count: int) -> None:
    """Keep the newest ``count`` checkpoints as ``step-000100.pt`` beside ``last``, which is the newest of them."""
    if count == 1:
        return
    numbered = last.with_name(f"step-{step:06d}.pt")
    numbered.unlink(missing_ok=True)
    try:
        os.link(last, numbered)
    except OSError:  # the file system has no hard links
        shutil.copyfile(last, numbered)
    kept = sorted(last.parent.glob("step-*.pt"), key=lambda p: int(p.stem.partition("-")[2]))
    for old in kept[:-count]:
        with suppress(OSError):
            old.unlink()
