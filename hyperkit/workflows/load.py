"""From a checkpoint file to a model that can be used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hyperkit.errors import HyperkitError
from hyperkit.models import Predictor
from hyperkit.models.text_predictor import TextPredictor
from hyperkit.training.checkpoints import Checkpoint, load_checkpoint, restore_slim
from hyperkit.training.devices import resolve_device, resolve_precision
from hyperkit.workflows.configure import from_stored

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint brought to life.

    Attributes:
        path: the file.
        task: with the checkpoint's configuration and the overrides.
        config: the resolved configuration.
        predictor: the model with its averaged weights where there are some, in eval mode.
        checkpoint: the file's content.
    """

    path: Path
    task: Any
    config: Any
    predictor: Any
    checkpoint: Checkpoint


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint file at ``path``; for a run's folder its best one, else its last."""
    path = Path(path)
    if path.is_dir():
        for name in ("best.pt", "last.pt"):
            for folder in (path / "checkpoints", path):
                if (folder / name).is_file():
                    return folder / name
    return path


def refuse_options(names: list[str]) -> None:
    """Refuse options that mean nothing to a text-to-field model."""
    if names:
        raise HyperkitError(
            f"{', '.join(names)}: such options are for models that read pictures or sounds, and this one reads text.",
            "Leave them out.",
        )


def home_of(checkpoint: Path) -> Path:
    """Return the folder where results on a checkpoint go by default: its run's, or the one that it lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def open_checkpoint(
    path: str | os.PathLike[str], overrides: dict[str, Any] | None = None, verb: str = "render"
) -> Loaded:
    """Read a checkpoint and build its model.

    Raises:
        HyperkitError: the file is missing, damaged or foreign, or the task does not support ``verb``.
    """
    file = find_checkpoint(path)
    checkpoint = load_checkpoint(file)
    task_cls, config = from_stored(checkpoint.config, overrides, verb)
    task = task_cls(config, config.training.seed)
    model = task.build_model(load_weights=checkpoint.slim is not None)
    if checkpoint.slim is not None:
        checkpoint = restore_slim(checkpoint, model.state_dict())
    try:
        model.load_state_dict(checkpoint.weights())
    except RuntimeError as error:
        changed = " with what was set beside it" if overrides else ""
        raise HyperkitError(
            f"{file} does not fit the model that its configuration{changed} builds: {error}",
            "Leave out --set values that change the model: its structure, sample rate and number of views are fixed by "
            "training (for fewer views, --views N). Without any, the file is of another version of hyperkit.",
        ) from error
    device = resolve_device(config.training.device)
    precision = resolve_precision(config.training.precision, device)
    model.to(device).eval().requires_grad_(False)
    predictor = task.predictor(model, PRECISIONS[precision], checkpoint.samples)
    return Loaded(file, task, config, predictor, checkpoint)


def load(path: str | os.PathLike[str], device: str = "auto", precision: str = "auto") -> Predictor | TextPredictor:
    """Load a checkpoint for use: ``field = hyperkit.load("ckpt.pt")("chair.png")``.

    Audio models take a sound, and models that were made by ``hyperkit distill`` a sentence.

    Args:
        path: a checkpoint, or the folder of a run (its best checkpoint).
        device: "auto", "cpu" or "cuda".
        precision: "auto", "32" or "bf16".
    """
    loaded = open_checkpoint(path, {"training": {"device": device, "precision": precision}})
    found: Predictor | TextPredictor = loaded.predictor
    return found
