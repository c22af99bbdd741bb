"""How a run can end badly, in words: what happened, and what to run next."""

from __future__ import annotations

from pathlib import Path

import torch

from hyperkit.errors import RunFailed, RunInterrupted
from hyperkit.training.config import TrainingConfig

_COMMANDS = {"distill": "distill", "pretrain": "prepare backbone nano"}


def _again(task: str, run: Path) -> str:
    """Return the command that goes on with a run."""
    return f"hyperkit {_COMMANDS.get(task, f'train {task}')} --resume {run}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("DefaultCPUAllocator", "not enough memory", "CUDA out of memory")
    )


def out_of_memory(config: TrainingConfig, error: BaseException) -> RunFailed:
    """Build the error that names the settings to change when memory ran out."""
    said = str(error).strip().splitlines()
    return RunFailed(
        f"Memory ran out: {said[0] if said else type(error).__name__}",
        f"Lower training.batch_size (now {config.batch_size}; training.accumulate, now {config.accumulate}, keeps the "
        "batch of one optimizer step), lower rays_per_item, or switch gradient_checkpointing on.",
    )


def not_finite(step: int, task: str, run: Path, last: Path, saved: int) -> RunFailed:
    """Build the error for a loss or weights that are NaN or infinite.

    Args:
        step: the step where it was seen first.
        task: name of the task.
        run: the run's folder.
        last: its last checkpoint, which is good.
        saved: step of that checkpoint; -1 where there is none yet.
    """
    what = f"The loss or the weights are not finite (NaN or infinite) at step {step}; the run was stopped."
    ways = "a lower training.learning_rate, training.clip_grad=1 or training.precision=32"
    if saved < 0 or task == "pretrain":  # what is pretrained cannot be finetuned by a command
        none_yet = " No checkpoint had been saved yet." if saved < 0 else ""
        return RunFailed(f"{what}{none_yet}", f"Start again with {ways}.")
    return RunFailed(
        f"{what} The last good checkpoint is {last} (step {saved}).",
        f"Go on from it with {ways}: hyperkit finetune {last} --set ...\nTo repeat it as it was: {_again(task, run)}",
    )


def interrupted(step: int, task: str, run: Path, last: Path, signal_number: int) -> RunInterrupted:
    """Build the error that ends a run after SIGINT or SIGTERM."""
    return RunInterrupted(
        f"The run was stopped by a signal at step {step}; its state is saved in {last}.",
        f"Go on with: {_again(task, run)}",
        signal_number=signal_number,
    )
