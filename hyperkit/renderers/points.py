"""Pictures and sounds: a target evaluated at coordinates, nothing composited."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from hyperkit.config import PartConfig
from hyperkit.contracts import Signal
from hyperkit.renderers.chunks import in_chunks


class PointsConfig(PartConfig):
    """How signals are evaluated at coordinates.

    Attributes:
        chunk_points: points evaluated at once, over all items, when no gradient is needed; bounds the memory.
    """

    chunk_points: int = Field(default=16384, ge=1)


def evaluate_points(
    field: Callable[[Tensor], Tensor],
    coordinates: Tensor,
    config: PointsConfig,
    outputs: int,
    deviation: bool = False,
) -> Signal:
    """Evaluate B signals at their coordinates.

    With gradients enabled all points are evaluated at once; without, ``config.chunk_points`` at a time, so that memory
    does not grow with their number.

    Args:
        field: maps (B, N, C) to (B, N, F), or with ``deviation`` to (B, N, 2 F) = [mean, deviation].
        coordinates: (B, N, C); N may be 0.
        outputs: F, values of the signal at one point.
        deviation: whether the field gives one.

    Returns:
        ``Signal``, float32 or wider.

    Raises:
        ValueError: the field gives another number of values.
    """
    width = outputs * (2 if deviation else 1)

    def evaluate(part: slice) -> Signal:
        values = field(coordinates[:, part])
        if values.shape[-1] != width:
            raise ValueError(f"the field gives {values.shape[-1]} values per point, expected {width}")
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return Signal(values[..., :outputs], values[..., outputs:] if deviation else None)

    items, count = coordinates.shape[:2]
    return in_chunks(evaluate, count, max(1, config.chunk_points // max(1, items)))
