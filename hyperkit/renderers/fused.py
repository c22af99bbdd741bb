"""Generated radiance fields that are rendered as one operation, without their values at the samples being kept."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperkit.contracts import Rays, Rendered, TargetParams
from hyperkit.kernels.render_field import render_field
from hyperkit.kernels.render_field.points import FieldPoints
from hyperkit.renderers.volume import RendererConfig, background_value, ray_range
from hyperkit.targets import Target
from hyperkit.targets.radiance_field import RadianceField


def is_fusible(target: Target, config: RendererConfig) -> bool:
    """Return whether a target with this renderer is one: an MLP of the position alone, without a second pass.

    It gives nothing but colour and density.
    """
    if not isinstance(target, RadianceField) or config.fine_samples:
        return False
    return not (target.config.view_directions or target.config.deviation or target.config.extra)


def render_fused(
    target: RadianceField,
    params: TargetParams,
    rays: Rays,
    config: RendererConfig,
    jitter: Tensor | None = None,
    precision: torch.dtype | None = None,
) -> Rendered:
    """Render B fields along their rays (B, R, 3), as ``render_rays`` does.

    Args:
        target, config: for which ``is_fusible``.
        params: of the B fields; differentiable.
        rays: R may be 0. Nothing is differentiable with respect to them.
        jitter: (B, R, S) in [0, 1), or None.
        precision: of the factors of the matrix products; None: that of the surrounding autocast, or of the weights.

    Raises:
        ValueError: ``jitter`` has another shape.
    """
    kind = rays.origins.device.type
    if precision is None and torch.is_autocast_enabled(kind):
        precision = torch.get_autocast_dtype(kind)
    items, count = rays.origins.shape[:2]
    if jitter is not None and jitter.shape != (items, count, config.samples):
        raise ValueError(f"jitter has shape {tuple(jitter.shape)}, expected {(items, count, config.samples)}")
    near, far = ray_range(rays, config)
    rgb, depth, opacity = render_field(
        *_layers(target, params),
        rays.origins,
        rays.directions,
        near,
        far,
        target.fused_shape,
        config.samples,
        config.sampling,
        jitter,
        limit=float(rays.far),
        background=background_value(config),
        precision=precision,
    )
    return Rendered(rgb, depth, opacity)


def field_points(target: RadianceField, params: TargetParams, precision: torch.dtype) -> FieldPoints:
    """Return what evaluates the first of the fields, one that ``is_fusible``, at points without gradients."""
    weights, biases = _layers(target, params)
    return FieldPoints([w[0] for w in weights], [b[0, 0] for b in biases], target.fused_shape, precision)


def _layers(target: RadianceField, params: TargetParams) -> tuple[list[Tensor], list[Tensor]]:
    names = [f"layer{index}" for index in range(target.config.depth)]
    return [params[f"{name}.weight"] for name in names], [params[f"{name}.bias"] for name in names]
