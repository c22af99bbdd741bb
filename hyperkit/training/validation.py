"""Validation during training, shared among the processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from hyperkit.tasks.base import Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def validate(task: Task, model: nn.Module, fabric: Fabric, stopped: Callable[[], bool]) -> dict[str, float] | None:
    """Return the mean over all items of each metric that the task gives, and their number as "n".

    Process r takes the batches r, r + world, ... Items whose value is not finite make the mean not finite; those whose
    value is None are left out of it, and a metric that has no meaning for any item altogether.

    Returns:
        The means, the same in all processes; None when ``stopped`` became true on the way.
    """
    sums: dict[str, float] = {}
    counts: Counter[str] = Counter()
    items, cut_off = 0, False
    was_training = model.training
    model.eval()
    with torch.no_grad(), fabric.autocast():
        for index, batch in enumerate(task.validation()):
            if index % fabric.world_size != fabric.global_rank:
                continue
            if stopped():
                cut_off = True
                break
            scores = task.evaluate(model, batch.to(fabric.device))
            for name in scores:
                values = [value for value in scores.values[name] if value is not None]
                sums[name] = sums.get(name, 0.0) + math.fsum(values)
                counts[name] += len(values)
            items += len(scores.ids)
    model.train(was_training)
    if fabric.world_size > 1:
        names = fabric.broadcast(sorted(sums))  # the first process has a batch if any has
        own = [*(sums.get(name, 0.0) for name in names), *(float(counts[name]) for name in names)]
        numbers = [float(cut_off), float(items), *own]
        total = fabric.all_reduce(torch.tensor(numbers, dtype=torch.float64, device=fabric.device), reduce_op="sum")
        flag, count, *found = total.tolist()
        cut_off, items = flag > 0, int(count)
        sums = dict(zip(names, found[: len(names)], strict=True))
        counts = Counter(dict(zip(names, map(int, found[len(names) :]), strict=True)))
    if cut_off:
        return None
    if not items:
        return {"n": 0}
    return {**{name: total / counts[name] for name, total in sums.items() if counts[name]}, "n": items}
