"""Fitting one field to a prompt by score distillation (DreamFusion, Poole et al. 2023): a teacher without pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyperkit.adapt.diffusion import Diffusion, Precision, load_diffusion
from hyperkit.adapt.fit import FieldFit, FitConfig
from hyperkit.config import PartConfig
from hyperkit.contracts import Cameras, Rays, TargetParams
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.geometry import focal_from_angle, look_at, picture_rays, spherical
from hyperkit.objectives.score_distillation import Weighting, add_noise, score_gradient, score_loss, timestep_weight
from hyperkit.randomness import torch_rng
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.renderers.volume import background_value
from hyperkit.targets import Target

VIEWS = ("front", "side", "back", "overhead")
"""The sides that a prompt can speak of."""

Range = tuple[float, float]


class ScoreConfig(PartConfig):
    """How a diffusion model judges a field. Angles are in degrees; each range is drawn from anew for each view.

    Attributes:
        model: the path of a folder with a pipeline of diffusers, or its name on the Hugging Face hub.
        precision: of the model's UNet and text encoder; ``auto``: float16 on a GPU, else float32.
        guidance: s of classifier-free guidance. Far more than for sampling: 100 in DreamFusion.
        timesteps: the range of the noise's steps, as shares of the schedule.
        weighting: w(t): ``sigma``: the noise's variance, as in DreamFusion; ``uniform``: 1.
        negative_prompt: of the estimate that the guidance leads away from.
        view_prompts: the prompt says from where the object is seen: ", front view", ", side view", ", back view",
            ", overhead view".
        elevation: range of the cameras' elevation above the ground plane, evenly over the sphere.
        azimuth: range of their azimuth, from x towards y.
        front: azimuth from which the front is seen. The sides begin 45 degrees from it, the back 135.
        overhead: elevation from which on the view is from overhead.
        radius: range of the distance from the origin, world units.
        view_angle: range of the horizontal field of view.
        size: pixels along each side of the pictures that are rendered.
        latents: height and width of what the noise is added to; by default those of the model's training. Pictures
            are enlarged to them, eight times where a VAE makes latents of them.
        batch: views per step.
        background: behind the object: ``random``: a colour for each view, so that the field cannot paint it;
            ``renderer``: that of the renderer.
        sparsity: weight of the mean of sqrt(opacity^2 + 0.01), against fog everywhere (DreamFusion).
        points: samples whose activations are kept for the backward pass at once. Where a step has more, they are
            evaluated a second time, which bounds the memory; a step then takes 1.7 times as long. By default one view
            of 64 x 64 pixels and 64 samples is kept whole.
    """

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    precision: Precision = "auto"
    guidance: float = Field(default=100.0, ge=0)
    timesteps: Range = (0.02, 0.98)
    weighting: Weighting = "sigma"
    negative_prompt: str = ""
    view_prompts: bool = True
    elevation: Range = (-10.0, 90.0)
    azimuth: Range = (0.0, 360.0)
    front: float = 90.0
    overhead: float = Field(default=60.0, ge=-90, le=90)
    radius: Range = (3.6, 4.4)
    view_angle: Range = (26.0, 36.0)
    size: int = Field(default=64, ge=1)
    latents: int | None = Field(default=None, ge=1)
    batch: int = Field(default=1, ge=1)
    background: Literal["random", "renderer"] = "random"
    sparsity: float = Field(default=1.0, ge=0)
    points: int = Field(default=262144, ge=1)

    @field_validator("timesteps", "elevation", "azimuth", "radius", "view_angle")
    @classmethod
    def _ordered(cls, limits: Range) -> Range:
        if limits[0] > limits[1]:
            raise ValueError("the lower end of the range comes first")
        return limits

    @model_validator(mode="after")
    def _limits(self) -> ScoreConfig:
        limits = {"timesteps": (0.0, 1.0), "elevation": (-90.0, 90.0), "radius": (1e-3, 1e6), "view_angle": (1, 170)}
        for name, (low, high) in limits.items():
            first, last = getattr(self, name)
            if first < low or last > high:
                raise ValueError(f"{name} must lie between {low:g} and {high:g}")
        return self


def view_of(azimuth: float, elevation: float, config: ScoreConfig) -> str:
    """Return which of ``VIEWS`` a camera at these angles, in degrees, has."""
    if elevation >= config.overhead:
        return "overhead"
    turned = abs((azimuth - config.front + 180) % 360 - 180)
    return "front" if turned < 45 else "side" if turned <= 135 else "back"


def view_prompt(prompt: str, view: str, config: ScoreConfig) -> str:
    """Return the prompt for one of ``VIEWS``: "a red chair, front view"."""
    return f"{prompt}, {view} view" if config.view_prompts else prompt


@dataclass(frozen=True)
class ScoreDraw:
    """What a step draws.

    Attributes:
        cameras: (B,).
        views: of ``VIEWS``, one for each camera.
        background: (B, 3), the colour behind each.
        jitter: (B, R, S) in [0, 1), of the samples along the rays, or None.
        timesteps: (B,).
        noise: (B, *shape), of the latents.
    """

    cameras: Cameras
    views: tuple[str, ...]
    background: Tensor
    jitter: Tensor | None
    timesteps: Tensor
    noise: Tensor


class ScoreLoss:
    """A loss of one field, for ``FieldFit``, whose gradient is that of score distillation.

    In each step the field is rendered from some sides, the pictures (or their latents) are noised, and w(t) (noise
    estimate - noise) goes back through VAE and renderer, as a mean over the views; the diffusion model is not
    differentiated. All draws follow from the seed and the step: a fit that is resumed goes on with the same ones.

    Args:
        target: any radiance field.
        prompt: what the field is to show.
        diffusion: the model, on the device of the parameters.
        config: see ``ScoreConfig``.
        renderer: how rays are rendered.
        seed: of all draws.

    Raises:
        HyperkitError: the prompt is empty or too long.
    """

    def __init__(
        self,
        target: Target,
        prompt: str,
        diffusion: Diffusion,
        config: ScoreConfig,
        renderer: RendererConfig,
        seed: int = 0,
    ) -> None:
        prompt = prompt.strip()
        if not prompt:
            raise HyperkitError("The prompt is empty.", 'A prompt is a few words, such as "a red chair".')
        self.target, self.diffusion, self.config, self.renderer, self.seed = target, diffusion, config, renderer, seed
        prompts = [view_prompt(prompt, view, config) for view in VIEWS]
        *views, self._negative = diffusion.encode([*prompts, config.negative_prompt]).unbind(0)
        self._embeddings = dict(zip(VIEWS, views, strict=True))

    def __call__(self, params: TargetParams, step: int) -> Tensor:
        """Return the loss of one field; see ``objectives.score_loss`` on its value.

        Raises:
            RunFailed: the model's noise estimate is not finite.
        """
        draw = self.draw(step)
        pictures, opacity = self.pictures(params, draw)
        latents = self.diffusion.latents(pictures)
        gradient = self.gradient(latents.detach(), draw)
        if not gradient.isfinite().all():
            raise RunFailed(
                f"The diffusion model's noise estimate is not finite at step {step}.",
                f"Compute in another precision than {self.diffusion.pipeline.unet.dtype}: precision float32.",
            )
        loss = score_loss(latents, gradient).mean()
        if self.config.sparsity:
            loss = loss + self.config.sparsity * (opacity.square() + 0.01).sqrt().mean()
        return loss

    def draw(self, step: int) -> ScoreDraw:
        """Draw what a step needs, on the CPU, so that every device sees the same."""
        config, renderer, device = self.config, self.renderer, self.diffusion.device
        count = config.batch

        def rng(name: str) -> torch.Generator:
            return torch_rng(self.seed, "score", name, step)

        cameras, views = self._cameras(rng("cameras"))
        fixed = torch.full((count, 3), background_value(renderer))
        colours = torch.rand(count, 3, generator=rng("background")) if config.background == "random" else fixed
        shape = (count, config.size**2, renderer.draws)
        jitter = torch.rand(shape, generator=rng("jitter")).to(device) if renderer.jitter else None
        steps = len(self.diffusion.alpha_bar)
        low, high = (min(int(share * steps), steps - 1) for share in config.timesteps)
        timesteps = torch.randint(low, high + 1, (count,), generator=rng("timesteps"))
        noise = torch.randn(count, *self.diffusion.shape, generator=rng("noise"))
        return ScoreDraw(cameras.to(device), views, colours.to(device), jitter, timesteps.to(device), noise.to(device))

    def _cameras(self, rng: torch.Generator) -> tuple[Cameras, tuple[str, ...]]:
        config = self.config
        uniform = torch.rand(4, config.batch, generator=rng, dtype=torch.float64)
        sines = (math.sin(math.radians(config.elevation[0])), math.sin(math.radians(config.elevation[1])))
        elevation = torch.asin(_between(sines, uniform[0]).clamp(-1, 1))
        azimuth = _between(config.azimuth, uniform[1]).deg2rad()
        radius, angle = _between(config.radius, uniform[2]), _between(config.view_angle, uniform[3]).deg2rad()
        poses = look_at(spherical(azimuth, elevation, 1.0) * radius[:, None])
        focal = torch.tensor([focal_from_angle(float(a), config.size) for a in angle])
        # what lies in the sphere is at these distances along the view, from the nearest camera and the farthest
        near, far = max(config.radius[0] - self.renderer.radius, 1e-2), config.radius[1] + self.renderer.radius
        views = tuple(
            view_of(math.degrees(a), math.degrees(e), config) for a, e in zip(azimuth, elevation, strict=True)
        )
        return Cameras(poses.float(), focal, config.size, config.size, near, far), views

    def pictures(self, params: TargetParams, draw: ScoreDraw) -> tuple[Tensor, Tensor]:
        """Render one field as a step sees it: pictures (B, 3, S, S) and opacities (B, S * S)."""
        count, size = self.config.batch, self.config.size
        rays = picture_rays(draw.cameras)
        with_directions = bool(params.spec.options.get("view_directions"))

        def field(points: Tensor) -> Tensor:
            flat = points.flatten(0, 1)[None]  # the views are of one field
            found = self.target(params, flat if with_directions else flat[..., :3])[..., :4]
            return found.reshape(*points.shape[:2], 4)

        def render(part: Rays, jitter: Tensor | None) -> tuple[Tensor, Tensor]:
            found = render_rays(field, part, self.renderer, jitter)
            return found.rgb, found.opacity

        at_once = max(1, self.config.points // (count * self.renderer.draws))
        parts = [slice(start, start + at_once) for start in range(0, size**2, at_once)]
        found = []
        for part in parts:
            inputs = (rays[part], None if draw.jitter is None else draw.jitter[:, part])
            if len(parts) == 1 or not torch.is_grad_enabled():
                found.append(render(*inputs))
            else:  # nothing is drawn within
                found.append(checkpoint(render, *inputs, use_reentrant=False, preserve_rng_state=False))
        rgb, opacity = (torch.cat(column, dim=1) for column in zip(*found, strict=True))
        rgb = rgb + (1 - opacity)[..., None] * (draw.background[:, None] - background_value(self.renderer))
        return rgb.mT.reshape(count, 3, size, size), opacity

    @torch.no_grad()
    def gradient(self, latents: Tensor, draw: ScoreDraw) -> Tensor:
        """Return w(t) (noise estimate - noise) for latents (B, *shape)."""
        diffusion, config = self.diffusion, self.config
        alpha_bar = diffusion.alpha_bar[draw.timesteps]
        noisy = add_noise(latents, draw.noise, alpha_bar)
        prompts = torch.stack([self._embeddings[view] for view in draw.views])
        embeddings = torch.stack((prompts, self._negative.expand_as(prompts)))
        conditional, unconditional = diffusion.noise_estimates(noisy, draw.timesteps, embeddings)
        weight = timestep_weight(alpha_bar, config.weighting)
        return score_gradient(conditional, unconditional, draw.noise, weight, config.guidance)


def _between(limits: Range, uniform: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniform


def fit_scored_teacher(
    target: Target,
    prompt: str,
    config: ScoreConfig,
    fit: FitConfig,
    progress: Callable[[int, int], None] | None = None,
    *,
    start: TargetParams | None = None,
    state: Mapping[str, Tensor] | None = None,
    after_step: Callable[[FieldFit], None] | None = None,
    diffusion: Diffusion | None = None,
    device: torch.device | str = "cpu",
) -> TargetParams:
    """Fit one field to a prompt by score distillation.

    Args:
        target: any radiance field.
        prompt: what the field is to show.
        config: of the diffusion model, and how it judges the field.
        fit: ``steps``, the learning rates, ``renderer`` and ``seed`` count; what concerns pictures does not.
            DreamFusion takes 15000 steps.
        progress: called with (steps done, steps in all).
        start: where to start, B = 1; by default at random.
        state: what ``FieldFit.state`` returned on the way: the fit goes on from there, to the same bits.
        after_step: called with the fit after each step, whose ``state`` it may save.
        diffusion: the model, where it is loaded already, for several prompts; by default ``config.model``.
        device: where to compute; that of ``diffusion`` if one is given.

    Returns:
        The parameters with B = 1, tables too, without gradients.

    Raises:
        HyperkitError: the model is not here, or of another kind; or the prompt is empty or too long.
        ValueError: ``state`` is that of another field.
    """
    if diffusion is None:
        diffusion = load_diffusion(config.model, device, config.precision, config.latents)
    loss = ScoreLoss(target, prompt, diffusion, config, fit.renderer, fit.seed)
    field = FieldFit(target.spec, loss, fit, start, diffusion.device)
    if state is not None:
        field.resume(state)
    while field.step < fit.steps:
        field.advance()
        if after_step is not None:
            after_step(field)
        if progress is not None:
            progress(field.step, fit.steps)
    return field.params
