"""Volume rendering of generated radiance fields: positions, encoding, layers and compositing as one operation.

``reference`` is the definition. ``triton`` computes it as one kernel on a GPU, ``chunked`` part by part anywhere.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperkit.kernels.render_field import chunked
from hyperkit.kernels.render_field.reference import FieldShape, Sampling

_LOG = logging.getLogger("hyperkit")


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
    form = form_for(weights, shape, precision or weights[0].dtype, origins.device)
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


def form_for(weights: Sequence[Tensor], shape: FieldShape, precision: torch.dtype, device: torch.device) -> Any:
    """Return the module that renders such fields: ``triton`` on a GPU, if it can, else ``chunked``."""
    if device.type == "cuda":
        fused = _triton()
        if fused is not None and fused.supports(weights, shape, precision, device):
            return fused
    elif not _SAID and not torch.compiler.is_compiling():
        _SAID.append(True)
        _LOG.info("Fields are rendered by plain PyTorch, part by part: the fused renderer needs a GPU.")
    return chunked


_SAID: list[bool] = []
"""Holds something once it was said which renderer a machine without a GPU has."""

_FUSED: list[Any] = []
"""What ``_triton`` found; no ``lru_cache``, which compiled code traces through with a warning."""


def _triton() -> Any:
    """Import the GPU kernels, or say once that there are none: Triton is not there on every platform."""
    if not _FUSED:
        try:
            _FUSED.append(importlib.import_module("hyperkit.kernels.render_field.triton"))
        except ImportError as error:
            _LOG.warning("no fused GPU renderer, plain PyTorch is used instead: %s", error)
            _FUSED.append(None)
    return _FUSED[0]


__all__ = ["FieldShape", "render_field"]
