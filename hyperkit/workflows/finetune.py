"""Going on from a checkpoint on other data, other classes or with another strategy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperkit.backbones import resolve_strategy
from hyperkit.config import merge
from hyperkit.errors import HyperkitError
from hyperkit.training.checkpoints import Checkpoint, load_checkpoint, restore_slim
from hyperkit.training.progress import ProgressSink
from hyperkit.training.run_directory import read_config
from hyperkit.workflows.configure import find_task, from_stored
from hyperkit.workflows.evaluate import RunResult
from hyperkit.workflows.finetune_prompt import finetune_prompt, prompt_settings
from hyperkit.workflows.load import find_checkpoint
from hyperkit.workflows.train import run_training, train


def finetune(
    checkpoint: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: ProgressSink | None = None,
    data_progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Train on from a checkpoint, with the same loop as ``train``.

    The checkpoint's configuration holds but for the overrides; its (averaged) weights are the start, its optimizer
    state is not used. Novel view synthesis leaves the start from the foreground, which is for untrained fields, out
    unless it is set.

    Args:
        checkpoint: a file, or the folder of a run (its best checkpoint).
        overrides: nested values laid over the checkpoint's configuration.
        out: folder of the new run.
        resume: an interrupted finetuning run to go on with.
        progress, data_progress: as for ``train``.
    """
    if resume is not None:
        stored_run = read_config(resume)
        if stored_run.get("task") == "distill":
            if out is not None:
                raise HyperkitError("Both --out and --resume were given.", "--resume RUN goes on in RUN itself.")
            task_cls, config = from_stored(stored_run, overrides, "finetune")
            return finetune_prompt(task_cls, config, None, resume, True, progress, data_progress)
        return train(resume=resume, overrides=overrides, out=out, progress=progress, data_progress=data_progress)
    file = find_checkpoint(checkpoint)
    stored = load_checkpoint(file)
    if stored.config.get("task") == "distill":
        return _to_prompt(file, stored, overrides or {}, out, progress, data_progress)
    if "novel" in (overrides or {}):
        raise HyperkitError(
            f"--prompt and --scene are for models of hyperkit distill, and {file} is one of the task "
            f"{stored.config.get('task')!r}.",
            "Give --data DIR.",
        )
    changes = merge(find_task(str(stored.config.get("task")), "finetune").finetuning_defaults(), overrides or {})
    _same_structure(file, stored.config, changes)
    task_cls, config = from_stored(stored.config, changes, "finetune")
    initial = _start(stored, config)
    return run_training(task_cls, config, out, False, progress, data_progress, initial)


def _to_prompt(
    file: Path,
    stored: Checkpoint,
    overrides: Mapping[str, Any],
    out: str | os.PathLike[str] | None,
    progress: ProgressSink | None,
    data_progress: Callable[[int, int], None] | None,
) -> RunResult:
    if not overrides.get("novel", {}).get("prompt"):
        raise HyperkitError(
            f"{file} is a text-to-field model, and nothing says what it should be finetuned to.",
            'Give --prompt TEXT with --scene DIR or --teacher sds: --prompt "a golden blender" --scene blender.',
        )
    task_cls, config = prompt_settings(stored, overrides)
    return finetune_prompt(task_cls, config, stored.weights(), out, False, progress, data_progress)


def _same_structure(file: Path, stored: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    kept = (
        (None, "algorithm"),
        (None, "target_kind"),
        ("backbone", "name"),
        ("features", "name"),
        ("features", "dims"),
    )
    for section, name in kept:
        before, after = ((v.get(section, {}) if section else v).get(name) for v in (stored, changes))
        if after is not None and after != before:
            key = f"{section}.{name}" if section else name
            raise HyperkitError(
                f"Finetuning keeps the {key} of its checkpoint: {file} has {before!r}, not {after!r}.",
                "Train a new model with hyperkit train.",
            )


def _start(stored: Checkpoint, config: Any) -> Mapping[str, Tensor]:
    """Return the checkpoint's weights under the names that they have with the new strategy."""
    task_cls, before = from_stored(stored.config, None, "finetune")
    old, new = (resolve_strategy(c.backbone, from_checkpoint=True) for c in (before, config))
    if stored.slim is None and old == new:
        return stored.weights()
    model = task_cls(before, before.training.seed).build_model(load_weights=stored.slim is not None)
    model.load_state_dict(restore_slim(stored, model.state_dict()).weights())
    if old != new:
        backbone: Any = model.backbone
        backbone.set_strategy(new, config.backbone)
    return model.state_dict()
