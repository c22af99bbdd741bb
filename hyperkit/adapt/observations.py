"""Points of the input for test-time optimisation: rays of views, pixels of a picture, samples of a sound.

Each ``observed_...`` returns a function of the step that gives a query and the truth there. All items of a batch get
the same points, a function of the step alone, so that an item's result does not depend on its place in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperkit.adapt.tto import Observations, TTOConfig
from hyperkit.contracts import Cameras, Rays
from hyperkit.geometry import picture_coordinates, pixel_rays, time_coordinates
from hyperkit.randomness import torch_rng


def observed_views(context: Tensor, cameras: Cameras, config: TTOConfig) -> Observations:
    """Observe the pixels of the context views, each with its ray; those of all views are equally likely.

    Args:
        context: (B, V, 3, H, W).
        cameras: of the context views, (B, V), on the same device.
        config: its ``rays`` are N.
    """
    items, views, _, height, width = context.shape
    if tuple(cameras.focal.shape) != (items, views):
        raise ValueError(f"cameras have shape {tuple(cameras.focal.shape)}, expected {(items, views)}")
    if (cameras.height, cameras.width) != (height, width):
        raise ValueError(f"cameras are of {cameras.width} x {cameras.height} pictures, found {width} x {height}")
    values = context.movedim(2, -1).reshape(items, views * height * width, 3)

    def observe(step: int) -> tuple[Rays, Tensor]:
        chosen = _draw(step, values, config)
        view, pixel = torch.div(chosen, height * width, rounding_mode="floor"), chosen % (height * width)
        # every ray has a camera of its own, as they come from different views
        own = Cameras(cameras.poses[:, view].flatten(0, 1), cameras.focal[:, view].flatten(), width, height)
        # the model may run under autocast; rays in bf16 would miss their pixels
        with torch.autocast(context.device.type, enabled=False):
            rays = pixel_rays(own, pixel.expand(items, -1).reshape(-1, 1))
        origins, directions = (t.reshape(items, config.rays, 3) for t in (rays.origins, rays.directions))
        return Rays(origins, directions, cameras.near, cameras.far), values[:, chosen]

    return observe


def observed_picture(context: Tensor, config: TTOConfig) -> Observations:
    """Observe the pixels of the context picture at their coordinates.

    Args:
        context: (B, 1, 3, H, W).
        config: its ``rays`` are N, pixels here.
    """
    items, views, channels, height, width = context.shape
    if views != 1:
        raise ValueError(f"coordinates belong to one picture, found {views}")
    values = context[:, 0].movedim(1, -1).reshape(items, height * width, channels)
    return _signal(picture_coordinates(height, width), values, config)


def observed_sound(waveform: Tensor, config: TTOConfig) -> Observations:
    """Observe the samples of the waveform at their coordinates.

    Args:
        waveform: (B, T).
        config: its ``rays`` are N, samples here.
    """
    return _signal(time_coordinates(waveform.shape[1]), waveform[..., None], config)


def _signal(coordinates: Tensor, values: Tensor, config: TTOConfig) -> Observations:
    coordinates = coordinates.to(values.device)

    def observe(step: int) -> tuple[Tensor, Tensor]:
        chosen = _draw(step, values, config)
        return coordinates[chosen].expand(values.shape[0], -1, -1), values[:, chosen]

    return observe


def _draw(step: int, values: Tensor, config: TTOConfig) -> Tensor:
    # drawn on the CPU, so that every device sees the same points
    return torch.randint(values.shape[1], (config.rays,), generator=torch_rng("tto", step)).to(values.device)
