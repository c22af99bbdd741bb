"""The baseline: radiance fields as the papers describe them (T, P), in plain float32 PyTorch.

It is written for comparison and shares no arithmetic with the package: one matrix product per layer over all points of
1,024 rays, every sample evaluated, every intermediate result in memory. Its pictures and gradients are those of the
package's own exact path, which the tests check; so a ratio of times compares equals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hyperkit.contracts import TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.renderers import RendererConfig
from hyperkit.targets import Target
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

RAYS_AT_ONCE = 1024


@dataclass(frozen=True)
class PlainSettings:
    """What fields of one kind have in common.

    Attributes:
        field: the network's configuration: encoding and density are read.
        bands: frequencies of the encoding, on the device.
        renderer: samples, sampling, bounds, background.
        near, far: range of the ray parameter.
    """

    field: RadianceFieldConfig
    bands: Tensor
    renderer: RendererConfig
    near: float = 2.0
    far: float = 6.0

    @classmethod
    def of(
        cls,
        target: Target,
        renderer: RendererConfig,
        near: float = 2.0,
        far: float = 6.0,
        device: torch.device | str = "cpu",
    ) -> PlainSettings:
        """Return the settings of a target and a renderer.

        Raises:
            HyperkitError: the baseline has no such field or renderer.
        """
        plain = isinstance(target, RadianceField) and not (target.config.view_directions or target.config.deviation)
        if not plain or renderer.fine_samples:
            raise HyperkitError(
                "The baseline knows radiance fields that are an MLP of the position, rendered in one pass.",
                "Choose a checkpoint with target_kind=radiance_field, without view directions, deviations (ponp) and "
                "renderer.fine_samples.",
            )
        assert isinstance(target, RadianceField)
        return cls(target.config, target.encoding.bands.to(device), renderer, near, far)


@dataclass(frozen=True)
class PlainField:
    """B networks: weights (B, I, O) and biases (B or 1, 1, O), one of each per layer."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]

    @classmethod
    def of(cls, params: TargetParams, items: int | None = None) -> PlainField:
        """Return the layers of generated parameters; weights that items share are repeated for each of ``items``."""
        layers = range(len(params.tensors) // 2)
        count = items or params.items
        weights = [params[f"layer{i}.weight"] for i in layers]
        return cls([w.expand(count, -1, -1) for w in weights], [params[f"layer{i}.bias"] for i in layers])


def plain_rays(poses: Tensor, focal: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return origins and directions (B, H * W, 3) of all pixels; directions are not normalised.

    Args:
        poses: (B, 4, 4), camera to world, looking down -z.
        focal: (B,), pixels.
    """
    row, column = torch.meshgrid(
        torch.arange(height, device=poses.device), torch.arange(width, device=poses.device), indexing="ij"
    )
    x = (column.float() + 0.5 - width / 2) / focal[:, None, None]
    y = -(row.float() + 0.5 - height / 2) / focal[:, None, None]
    local = torch.stack((x, y, -torch.ones_like(x)), dim=-1)
    directions = (poses[:, None, None, :3, :3] @ local[..., None])[..., 0].reshape(len(poses), -1, 3)
    return poses[:, None, :3, 3].expand_as(directions), directions


def plain_encoding(points: Tensor, settings: PlainSettings) -> Tensor:
    """Return [cos(f x) | sin(f x)] of every coordinate x and frequency f, (..., 3) -> (..., E)."""
    angles = (points[..., None] * settings.bands.to(points.dtype)).flatten(-2)
    parts = [angles.cos(), angles.sin()]
    return torch.cat([points, *parts] if settings.field.encoding.include_input else parts, dim=-1)


def plain_network(field: PlainField, points: Tensor, settings: PlainSettings) -> tuple[Tensor, Tensor]:
    """Evaluate B fields at points (B, N, 3): colours (B, N, 3) and densities (B, N)."""
    h = plain_encoding(points, settings)
    last = len(field.weights) - 1
    for index, (weight, bias) in enumerate(zip(field.weights, field.biases, strict=True)):
        h = torch.bmm(h, weight) + bias
        if index < last:
            h = F.relu(h)
    config = settings.field
    activation = F.relu if config.density == "relu" else F.softplus
    density = config.density_scale * activation(h[..., 3] + config.density_shift)
    return torch.sigmoid(h[..., :3]), density


def plain_render(
    field: PlainField, origins: Tensor, directions: Tensor, settings: PlainSettings, jitter: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Render rays (B, R, 3) of B fields: colours (B, R, 3), depths (B, R) and opacities (B, R).

    Args:
        jitter: (B, R, S) in [0, 1), which moves the samples within their intervals.
    """
    t, lengths = _samples(origins, directions, settings, jitter)
    points = origins[:, :, None] + t[..., None] * directions[:, :, None]
    colour, density = plain_network(field, points.flatten(1, 2), settings)
    colour, density = colour.unflatten(1, t.shape[1:]), density.unflatten(1, t.shape[1:])
    alpha = 1 - torch.exp(-density * lengths)
    through = torch.cumprod(1 - alpha + 1e-10, dim=-1)  # the small number keeps the gradient finite, as in NeRF's code
    before = torch.cat((torch.ones_like(through[..., :1]), through[..., :-1]), dim=-1)
    weights = alpha * before
    opacity = weights.sum(-1)
    white = 1.0 if settings.renderer.background == "white" else 0.0
    rgb = (weights[..., None] * colour).sum(-2) + (1 - opacity[..., None]) * white
    return rgb, (weights * t).sum(-1) + (1 - opacity) * settings.far, opacity


def _samples(
    origins: Tensor, directions: Tensor, settings: PlainSettings, jitter: Tensor | None
) -> tuple[Tensor, Tensor]:
    near, far = _range(origins, directions, settings)
    count = settings.renderer.samples
    step = torch.arange(count, device=origins.device, dtype=origins.dtype)
    if settings.renderer.sampling == "bins":
        width = (far - near)[..., None] / count
        return near[..., None] + (step + (0.5 if jitter is None else jitter)) * width, width.expand(*near.shape, count)
    step = step if jitter is None else step + jitter
    t = near[..., None] + step * ((far - near)[..., None] / max(count - 1, 1))
    last = torch.where(far > near, 1e-3, 0.0)[..., None]
    return t, torch.cat((t[..., 1:] - t[..., :-1], last), dim=-1)


def _range(origins: Tensor, directions: Tensor, settings: PlainSettings) -> tuple[Tensor, Tensor]:
    near = torch.full_like(origins[..., 0], settings.near)
    far = torch.full_like(near, settings.far)
    if settings.renderer.bounds == "range":
        return near, far
    a, b = (directions**2).sum(-1), (origins * directions).sum(-1)
    root = b**2 - a * ((origins**2).sum(-1) - settings.renderer.radius**2)
    enter = torch.maximum(near, (-b - root.clamp_min(0).sqrt()) / a)
    leave = torch.minimum(far, (-b + root.clamp_min(0).sqrt()) / a)
    hit = (root > 0) & (leave > enter)
    return torch.where(hit, enter, far), torch.where(hit, leave, far)


@torch.no_grad()
def plain_view(
    field: PlainField, pose: Tensor, focal: float, size: int, settings: PlainSettings, rays: int | None = None
) -> Tensor:
    """Render one view (H, W, 3) of one field, 1,024 rays at a time.

    Args:
        pose: (4, 4).
        rays: render only so many of the first rays; the rest stays white.
    """
    origins, directions = plain_rays(pose[None], torch.tensor([focal], device=pose.device), size, size)
    picture = torch.ones_like(directions)
    count = size * size if rays is None else min(rays, size * size)
    for start in range(0, count, RAYS_AT_ONCE):
        part = slice(start, min(start + RAYS_AT_ONCE, count))
        picture[:, part] = plain_render(field, origins[:, part], directions[:, part], settings)[0]
    return picture.reshape(size, size, 3)


def plain_adaptation(
    params: TargetParams,
    observe: Callable[[int, int], tuple[Tensor, Tensor, Tensor]],
    settings: PlainSettings,
    steps: int,
    learning_rate: float,
) -> list[PlainField]:
    """Run test-time optimisation of B fields, one after the other, by plain Adam (T, section 4.3).

    Args:
        params: where to start.
        observe: item, step -> origins and directions (1, R, 3), and the colours (1, R, 3) there.
        steps, learning_rate: of Adam.
    """
    fitted = []
    for item in range(params.items):
        start = PlainField.of(params.select(item))
        weights = [w.detach().clone().requires_grad_(True) for w in start.weights]
        biases = [b.detach().clone().requires_grad_(True) for b in start.biases]
        optimizer = torch.optim.Adam([*weights, *biases], lr=learning_rate)
        for step in range(steps):
            origins, directions, truth = observe(item, step)
            rgb, _, _ = plain_render(PlainField(weights, biases), origins, directions, settings)
            optimizer.zero_grad()
            ((rgb - truth) ** 2).mean().backward()
            optimizer.step()
        fitted.append(PlainField([w.detach() for w in weights], [b.detach() for b in biases]))
    return fitted
