"""Volume rendering of generated radiance fields: positions, encoding, layers and compositing as one operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperkit.kernels.render_field import chunked, reference
from hyperkit.kernels.render_field.reference import FieldShape, Sampling


def render_field(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    shape: FieldShape,
    samples: int,
    sampling: Sampling,
    jitter: Tensor | None = None,
    limit: Tensor | float = 6.0,
    background: Tensor | float = 1.0,
    precision: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render B fields, each with its own weights, along their rays, by the fastest form that fits the tensors.

    Arguments and results are those of ``reference.render_field``, which is the definition. Differentiable with respect
    to weights and biases; whether it is with respect to rays, range and jitter depends on the form.
    """
    form = chunked if origins.device.type == "cpu" else reference
    return form.render_field(
        weights,
        biases,
        origins,
        directions,
        near,
        far,
        shape,
        samples,
        sampling,
        jitter=jitter,
        limit=limit,
        background=background,
        precision=precision,
    )


__all__ = ["FieldShape", "render_field"]
