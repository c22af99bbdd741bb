"""Devices, precision and processes, through Lightning Fabric.

How several processes come to be:

- ``torchrun --nproc-per-node 2 -m hyperkit train ...``: torchrun starts all of them, on one machine or several; its
  numbers hold and ``training.devices`` is not read. SLURM's ``srun`` works in the same way.
- ``hyperkit train ... --devices 2`` (the console script, ``python -m hyperkit``, or a Python script): the first process
  opens data and model, locks the run, and Fabric then starts the others with the same command line and their own
  ``LOCAL_RANK``. They find the run's folder by a broadcast, so ``--out`` need not be given. A script that does this
  needs ``if __name__ == "__main__":`` no more than any other, but it is run once per process.
- In a notebook or under ``python -c`` there is no command to start again: several devices are refused with this advice.

Fabric launches, wraps the model for gradient averaging (DDP) and gives collectives and autocast. Its own wrapper around
``forward`` is not used: it would cast coordinates to bf16 before the model sees them, and refuses frozen dataclasses.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hyperkit.errors import HyperkitError
from hyperkit.kernels.hardware import cpu_has_bf16, cuda_has_bf16
from hyperkit.training.config import TrainingConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Return "cuda" or "cpu"; "auto" takes a GPU where there is one.

    Raises:
        HyperkitError: "cuda" was asked for and there is no usable GPU.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        built = f"torch {torch.__version__} was built for CUDA {torch.version.cuda}"
        raise HyperkitError(
            f"--device cuda: no usable GPU was found ({built}).",
            "Use --device cpu, or --device auto, which takes what is there.",
        )
    return device


def resolve_precision(precision: Literal["auto", "32", "bf16"], device: str) -> Literal["32-true", "bf16-mixed"]:
    """Return Fabric's name for the precision; "auto" is bf16 autocast where the hardware computes in bf16."""
    if precision == "auto":
        precision = "bf16" if (cuda_has_bf16() if device == "cuda" else cpu_has_bf16()) else "32"
    return "bf16-mixed" if precision == "bf16" else "32-true"


def build_fabric(config: TrainingConfig) -> Fabric:
    """Return Fabric for the configured devices and precision, not yet launched.

    Raises:
        HyperkitError: there are not so many GPUs, or several processes cannot be started from here.
    """
    device = resolve_device(config.device)
    devices, nodes = config.devices, config.nodes
    if started_outside := torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if device == "cuda" and devices > torch.cuda.device_count():
        raise HyperkitError(
            f"{devices} GPUs were asked for and {torch.cuda.device_count()} found.", "Choose fewer with --devices."
        )
    if devices * nodes > 1 and not started_outside:
        _check_restartable()
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    return Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=resolve_precision(config.precision, device),
    )


def _check_restartable() -> None:
    main: Any = sys.modules.get("__main__")
    if getattr(main, "__spec__", None) is None and not Path(sys.argv[0]).is_file():
        raise HyperkitError(
            "Several devices need a command that can be started again for each of them, and this process has none "
            f"(it was started as {sys.argv[0]!r}).",
            "Use the command line, a script, or torchrun; in a notebook train on one device.",
        )


def all_reduce(fabric: Fabric, operation: Literal["max", "mean"], *values: float) -> list[float]:
    """Return each value's maximum or mean over all processes; in one process the values themselves."""
    if fabric.world_size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    result: list[float] = fabric.all_reduce(tensor, reduce_op=operation).tolist()  # type: ignore[union-attr]
    return result


def close_processes(fabric: Fabric, failed: bool) -> None:
    """End a training over several processes; after a failure here, the others that this one started are ended too."""
    if fabric.world_size == 1:
        return
    for process in getattr(fabric.strategy.launcher, "procs", []) if failed else []:
        process.kill()  # they wait for a collective that will not come
    if torch.distributed.is_initialized() and not failed:
        torch.distributed.destroy_process_group()
