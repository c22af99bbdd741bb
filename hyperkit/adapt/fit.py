"""Fitting one field by itself: the teachers that a hypernetwork is distilled from, and what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from hyperkit.config import PartConfig
from hyperkit.contracts import Cameras, Rays, TargetParams, TargetSpec
from hyperkit.geometry import picture_rays, project
from hyperkit.objectives import mse, opacity_error
from hyperkit.randomness import torch_rng
from hyperkit.renderers import RendererConfig
from hyperkit.renderers.occupancy import Occupancy, view_extent
from hyperkit.renderers.volume import background_value, composite_samples, ray_range, sample_along, sample_points
from hyperkit.targets import Target

HULL_CELLS = 96
"""Cells of the visual hull along each side."""

WARM_UP = 20
"""Steps in which the learning rates rise: Adam's first steps, on moments of few gradients, are too long for a table."""

LAST_RATE = 0.02
"""Share of the learning rates that is left at the end."""

Loss = Callable[[TargetParams, int], Tensor]
"""Parameters of one field and step -> what is minimised, a scalar."""


class FitConfig(PartConfig):
    """How one field is fitted.

    Attributes:
        steps: Adam steps.
        rays: rays per step, drawn anew in each, among those that may meet the object.
        learning_rate: of the layers. It rises over the first steps and falls as a cosine after them.
        table_learning_rate: of tensors that are no layer's: tables of features.
        opacity: weight of the error of the rays' opacities, where pictures have alpha. Without it white fog costs
            nothing on a white background.
        empty: weight of the mean density at points where pictures with alpha show that there is nothing.
        renderer: how rays are rendered.
        seed: of the start and of all draws.
    """

    steps: int = Field(default=400, ge=0)
    rays: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    table_learning_rate: float = Field(default=4e-2, gt=0)
    opacity: float = Field(default=1.0, ge=0)
    empty: float = Field(default=0.01, ge=0)
    renderer: RendererConfig = RendererConfig(samples=48, sampling="bins", bounds="sphere")
    seed: int = 0

    @field_validator("renderer")
    @classmethod
    def _one_pass(cls, renderer: RendererConfig) -> RendererConfig:
        if renderer.fine_samples or not renderer.samples:
            raise ValueError("fields are fitted with samples >= 1 and fine_samples 0: the hull says where samples go")
        return renderer


def fit_field(
    target: Target,
    views: Tensor,
    cameras: Cameras,
    config: FitConfig,
    progress: Callable[[int, int], None] | None = None,
    start: TargetParams | None = None,
) -> TargetParams:
    """Fit one field to pictures of one scene.

    To save the state on the way, or to look at the field, run the steps of ``FieldFit(..., ViewsLoss(...))`` instead.

    Args:
        target: any radiance field of the position alone.
        views: (V, 4, H, W) in [0, 1], straight alpha. Where alpha is 1 in all of them, it says nothing and is not used.
        cameras: (V,), on the same device.
        config: see ``FitConfig``.
        progress: called with (steps done, steps in all).
        start: where to start; by default at random.

    Returns:
        The parameters with B = 1, tables too, without gradients.

    Raises:
        ValueError: views and cameras do not fit one another, or no ray meets the scene.
    """
    fit = FieldFit(target.spec, ViewsLoss(target, views, cameras, config), config, start, views.device)
    while fit.step < config.steps:
        fit.advance()
        if progress is not None:
            progress(fit.step, config.steps)
    return fit.params


class FieldFit:
    """One field on its way from a start to the minimum of a loss, step by step, by Adam.

    Args:
        spec: of the field.
        loss: draws by the step alone, so that a fit that is resumed goes on as if it had not been interrupted.
        config: its ``steps`` shape the learning rates, and ``seed`` is that of the start.
        start: where to start, B = 1; by default ``random_start``.
        device: where to compute.

    Attributes:
        step: number of steps done.
    """

    def __init__(
        self,
        spec: TargetSpec,
        loss: Loss,
        config: FitConfig,
        start: TargetParams | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        start = random_start(spec, config.seed) if start is None else start.select(0)
        self._leaves = start.map(lambda t: t.detach().float().to(device, copy=True).requires_grad_(True))
        self._loss = loss
        self.config = config
        self.step = 0
        groups: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, leaf in self._leaves.tensors.items():
            groups[name.endswith((".weight", ".bias"))].append(leaf)
        self._rates = [config.table_learning_rate, config.learning_rate]
        # of the rows of a table few are read in a step: a short memory, and no floor under small gradients
        self._optimizer = torch.optim.Adam([{"params": group} for group in groups], betas=(0.9, 0.99), eps=1e-15)

    @property
    def params(self) -> TargetParams:
        """The field as it is now, a copy without gradients."""
        return self._leaves.map(lambda t: t.detach().clone())

    @torch.enable_grad()
    def advance(self) -> float:
        """Do one step and return the loss before it."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * _schedule(self.step, self.config.steps)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self._leaves, self.step)
        loss.backward()
        self._optimizer.step()
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """Return all that the rest of the way depends on, beside the loss: copies of tensors, by name."""
        state = {"step": torch.tensor(self.step)}
        for name, leaf in self._leaves.tensors.items():
            state[name] = leaf.detach().clone()
            state |= {f"{name}/{key}": value.clone() for key, value in self._optimizer.state.get(leaf, {}).items()}
        return state

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            ValueError: it is that of another field.
        """
        names = [name for name in state if name != "step" and "/" not in name]
        if set(names) != set(self._leaves.tensors):
            raise ValueError(f"a state of {names} is not one of {list(self._leaves.tensors)}")
        self.step = int(state["step"])
        with torch.no_grad():
            for name, leaf in self._leaves.tensors.items():
                leaf.copy_(state[name])
                moments = {key: state[key] for key in state if key.startswith(f"{name}/")}
                self._optimizer.state[leaf] = {
                    key.removeprefix(f"{name}/"): value.to(
                        value.device if key.endswith("/step") else leaf.device
                    ).clone()
                    for key, value in moments.items()
                }


def _schedule(step: int, steps: int) -> float:
    fallen = 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
    return min(1.0, (step + 1) / WARM_UP) * (LAST_RATE + (1 - LAST_RATE) * fallen)


def random_start(spec: TargetSpec, seed: int) -> TargetParams:
    """Draw the parameters of one field: every tensor uniform within the bounds of its spec, B = 1, on the CPU."""
    tensors = {}
    for name, tensor in spec.tensors.items():
        weight = spec.tensors.get(name.removesuffix(".bias") + ".weight", tensor)
        bound = tensor.bound if tensor.bound is not None else 1 / math.sqrt(weight.shape[0])
        drawn = torch.rand(1, *tensor.shape, generator=torch_rng(seed, "field start", name))
        tensors[name] = (2 * drawn - 1) * bound
    return TargetParams(tensors, spec)


class ViewsLoss:
    """The error of one field along random rays of pictures: of their colours, and of their opacities.

    Only samples within the visual hull, where no picture shows that there is nothing, are evaluated. A field is not
    told by them to be empty elsewhere: ``config.empty`` weighs its density there.

    Args:
        target, views, cameras, config: see ``fit_field``.

    Attributes:
        hull: where the object may be.
    """

    def __init__(self, target: Target, views: Tensor, cameras: Cameras, config: FitConfig) -> None:
        count, channels, height, width = views.shape
        if (
            channels != 4
            or tuple(cameras.focal.shape) != (count,)
            or (cameras.height, cameras.width) != (height, width)
        ):
            raise ValueError(
                f"expected views (V, 4, {cameras.height}, {cameras.width}) for {tuple(cameras.focal.shape)} cameras, "
                f"got {tuple(views.shape)}"
            )
        self.target, self.config = target, config
        pixels = views.float().movedim(1, -1).reshape(1, -1, 4)
        self._alpha = pixels[..., 3]
        self._rgb = pixels[..., :3] * pixels[..., 3:] + (1 - pixels[..., 3:]) * background_value(config.renderer)
        self._has_alpha = bool((self._alpha < 1).any())
        rays = picture_rays(cameras)
        self._rays = replace(rays, origins=rays.origins.reshape(1, -1, 3), directions=rays.directions.reshape(1, -1, 3))
        self.hull = visual_hull(views[:, 3], cameras, view_extent(cameras, config.renderer))
        self._live = self._rays_that_meet()
        if not len(self._live):
            raise ValueError("no ray of these views meets the scene")

    def _rays_that_meet(self) -> Tensor:
        """Return the indices of the rays that have a sample, if it is not jittered, within the hull."""
        found = []
        count = self._rays.origins.shape[1]
        for part in torch.arange(count, device=self._alpha.device).split(16384):
            rays = _pick(self._rays, part)
            t, lengths = sample_along(*ray_range(rays, self.config.renderer), self.config.renderer)
            found.append(part[(self.hull.along(rays, t[0]) & (lengths[0] > 0)).any(-1)])
        return torch.cat(found)

    def __call__(self, params: TargetParams, step: int) -> Tensor:
        """Return the loss of one field on the rays of a step; differentiable with respect to its parameters."""
        config, device = self.config, self._alpha.device
        rng = torch_rng(config.seed, "fit", step)  # on the CPU, so that every device sees the same rays
        chosen = self._live[torch.randint(len(self._live), (config.rays,), generator=rng).to(device)]
        rays = _pick(self._rays, chosen)
        shape = (1, config.rays, config.renderer.samples)
        jitter = torch.rand(shape, generator=rng).to(device) if config.renderer.jitter else None
        t, lengths = sample_along(*ray_range(rays, config.renderer), config.renderer, jitter)
        kept = self.hull.along(rays, t[0]) & (lengths[0] > 0)
        outside = self._points_outside(rng)
        points = torch.cat((sample_points(rays, t)[0][kept], outside))
        found = self.target(params, points[None])[0, :, :4]
        inside = len(points) - len(outside)
        place = kept.flatten().nonzero()[:, 0]
        values = found.new_zeros(t.numel(), 4).index_copy(0, place, found[:inside]).reshape(*t.shape, 4)
        rendered = composite_samples(values, t, lengths, rays, config.renderer)
        loss = mse(rendered.rgb, self._rgb[:, chosen])
        if self._has_alpha:
            loss = loss + config.opacity * opacity_error(rendered.opacity, self._alpha[:, chosen])
        if len(outside):
            loss = loss + config.empty * found[inside:, 3].mean()
        return loss[0]

    def _points_outside(self, rng: torch.Generator) -> Tensor:
        """Draw points outside of the hull, as many as rays where it is small."""
        points = (2 * torch.rand(self.config.rays, 3, generator=rng) - 1) * self.hull.extent
        points = points.to(self._alpha.device)
        return points[~self.hull.holds(points)]


def _pick(rays: Rays, index: Tensor) -> Rays:
    return replace(rays, origins=rays.origins[:, index], directions=rays.directions[:, index])


@torch.no_grad()
def visual_hull(alpha: Tensor, cameras: Cameras, extent: float, cells: int = HULL_CELLS) -> Occupancy:
    """Find where an object may be: the cells that no picture shows to be empty.

    Args:
        alpha: (V, H, W), of the pictures; what is above 0 shows something.
        cameras: (V,).
        extent: half of the side of the cube that is looked at.
        cells: N, along each side.

    Returns:
        Cells (N, N, N). One is left out where a picture shows all of it, and every pixel that shows any of it is empty.
    """
    count, height, width = alpha.shape
    side = 2 * extent / cells
    axis = (torch.arange(cells, device=alpha.device) + 0.5) * side - extent
    centres = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    radius = side * math.sqrt(3) / 2
    kept = torch.ones(len(centres), dtype=torch.bool, device=alpha.device)
    for view in range(count):
        one = replace(cameras, poses=cameras.poses[view, None], focal=cameras.focal[view, None])
        left = kept.nonzero()[:, 0]
        x, y, distance = project(one, centres[left][None])[0].unbind(-1)
        # a cell's points are seen within this many pixels of its centre (more at a slant: the half pixel is room)
        nearest = float(distance.min()) - radius if len(left) else 0.0
        if nearest <= 0:  # the camera is among the cells
            continue
        # from the centre of a cell to its points: at most this many pixels in x and in y
        slant = math.hypot(1, max(width, height) / (2 * float(one.focal)))
        reach = math.ceil(float(one.focal) * radius * slant / nearest)
        shown = F.max_pool2d((alpha[view] > 0).float()[None], 2 * reach + 1, stride=1, padding=reach)[0] > 0
        whole = (x >= reach) & (y >= reach) & (x < width - reach) & (y < height - reach)
        column, row = x.long().clamp(0, width - 1), y.long().clamp(0, height - 1)
        kept[left[whole & ~shown[row, column]]] = False
    return Occupancy(kept.reshape(cells, cells, cells), extent, math.inf)
