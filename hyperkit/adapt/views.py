"""Test-time optimisation of radiance fields on their context views."""

from __future__ import annotations

from torch import Tensor

from hyperkit.adapt.observations import observed_views
from hyperkit.adapt.tto import TTOConfig, optimise_on
from hyperkit.contracts import Cameras, TargetParams
from hyperkit.models import INRHypernet


def optimise_on_views(
    model: INRHypernet, params: TargetParams, context: Tensor, cameras: Cameras, config: TTOConfig
) -> TargetParams:
    """Run test-time optimisation on the context views; target views are never seen.

    Args:
        context: (B, V, 3, H, W).
        cameras: of the context views, (B, V).
    """
    observed = observed_views(context.to(model.device), cameras.to(model.device), config)
    return optimise_on(params, lambda current, rays: model.render(current, rays).values, observed, config)
