"""Test-time optimisation of radiance fields on their context views."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperkit.adapt.tto import TTOConfig, optimise
from hyperkit.contracts import Cameras, TargetParams
from hyperkit.geometry import pixel_rays
from hyperkit.models import INRHypernet
from hyperkit.objectives import mse
from hyperkit.randomness import torch_rng


def optimise_on_views(
    model: INRHypernet, params: TargetParams, context: Tensor, cameras: Cameras, config: TTOConfig
) -> TargetParams:
    """Run test-time optimisation on the context views; target views are never seen.

    Args:
        context: (B, V, 3, H, W).
        cameras: of the context views, (B, V).
    """
    device = model.device
    items, views, _, height, width = context.shape
    truth = context.permute(0, 1, 3, 4, 2).reshape(items, views, height * width, 3).to(device)
    cameras = cameras.to(device)

    def loss(current: TargetParams, step: int) -> Tensor:
        # the same pixels for every item, so that an item's result does not depend on its place in the batch
        rng = torch_rng("tto", step)
        view = int(torch.randint(views, (), generator=rng))
        pixels = torch.randint(height * width, (config.rays,), generator=rng).to(device)
        seen = Cameras(
            cameras.poses[:, view], cameras.focal[:, view], cameras.width, cameras.height, cameras.near, cameras.far
        )
        rays = pixel_rays(seen, pixels.expand(items, -1))
        return mse(model.render(current, rays).rgb, truth[:, view][:, pixels])

    return optimise(params, loss, config)
