"""The field that rendering is measured on: fitted once to one built-in object, then kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hyperkit.contracts import Rays, TargetParams
from hyperkit.data.builtin import made_once
from hyperkit.data.places import new_folder
from hyperkit.data.procedural.objects import make_object
from hyperkit.data.raster import CAMERA_ANGLE_X, FAR, NEAR, RADIUS, render_mesh, sphere_poses
from hyperkit.errors import HyperkitError
from hyperkit.files import write_text
from hyperkit.geometry import picture_rays
from hyperkit.models.field import Field, Framing
from hyperkit.models.predictor import FieldPredictor, autocast
from hyperkit.randomness import numpy_rng, torch_rng
from hyperkit.renderers import RendererConfig
from hyperkit.renderers.fused import render_fused
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig
from hyperkit.training.optimizers import set_learning_rate
from hyperkit.training.progress import ProgressSink
from hyperkit.workflows.load import open_checkpoint


@dataclass(frozen=True)
class FitSettings:
    """Which object is fitted, and how; a change makes a new field.

    Attributes:
        size, views: pixels and number of the object's pictures, on a transparent background; the last is held out.
        depth, width, frequencies: of the field; all else is the default radiance field.
        class_name, index: the object of the procedural generator, seed 0.
        steps: optimizer steps at most.
        rays, samples: of a step.
        learning_rate: at the start; it falls to a tenth, exponentially.
        target: PSNR of the held-out view, dB, at which fitting ends.
        check_every: steps between renderings of the held-out view.
        version: raised when the way of fitting changes.
    """

    size: int = 128
    views: int = 50
    depth: int = 6
    width: int = 256
    frequencies: int = 20
    class_name: str = "chairs"
    index: int = 3
    steps: int = 900
    rays: int = 512
    samples: int = 40
    learning_rate: float = 1e-3
    target: float = 27.0
    check_every: int = 100
    version: int = 1

    @property
    def key(self) -> str:
        """Return a name for these settings."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class TrainedField:
    """A field, and a view that is known of what it shows.

    Attributes:
        field: the field, sampled in the unit sphere, where the objects are, unless its checkpoint says otherwise.
        pose: (4, 4), of the view.
        truth: (S, S, 3) in [0, 1], what is seen there.
        note: where it comes from, in a sentence.
    """

    field: Field
    pose: Tensor
    truth: Tensor
    note: str

    def psnr(self, picture: Tensor) -> float:
        """Return the PSNR (dB) of a picture (H, W, 3) against the truth, at the truth's size where that is smaller."""
        if picture.shape != self.truth.shape:
            size = self.truth.shape[0]
            picture = torch.nn.functional.interpolate(picture.movedim(-1, 0)[None], (size, size), mode="area")
            picture = picture[0].movedim(0, -1)
        return psnr(picture, self.truth)


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Return 10 log10(1 / mean squared error), dB; infinite for equal pictures."""
    error = (picture.double() - truth.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def trained_field(
    settings: FitSettings, device: torch.device, precision: torch.dtype, progress: ProgressSink | None = None
) -> TrainedField:
    """Return the fitted field, made on first use.

    Args:
        settings: see ``FitSettings``.
        device: where it is fitted, and put.
        precision: of the matrix products, while fitting and of the field.
        progress: is told of every step.
    """
    root = made_once(f"bench-field-{settings.key}", lambda out: _make(out, settings, device, precision, progress))
    field = Field.load(root / "field.safetensors")
    record = json.loads((root / "fit.json").read_text())
    pictures, poses = object_views(settings)
    params = field.params.map(lambda t: t.to(device))
    found = f"held-out view at {record['psnr']:.2f} dB after {record['steps']} steps"
    note = f"{settings.class_name} {settings.index}, {found}"
    return TrainedField(
        replace(field, params=params, precision=precision), poses[-1], _on(pictures[-1], torch.ones(3)), note
    )


def checkpoint_field(path: Path, device: str, precision: str) -> TrainedField:
    """Return the field that a checkpoint writes for its first carried sample, with the view that it read.

    Raises:
        HyperkitError: the file cannot be used, or is no model of objects.
    """
    loaded = open_checkpoint(path, {"training": {"device": device, "precision": precision}})
    predictor = loaded.predictor
    if not isinstance(predictor, FieldPredictor):
        raise HyperkitError(f"{path} writes no radiance fields.", "Give a checkpoint of the task nvs.")
    samples = predictor.samples
    pictures, poses = samples["pictures"][:1].float() / 255, samples["poses"][:1]
    cameras = replace(predictor.framing.cameras(poses), focal=samples["focal"][:1, None].expand(poses.shape[:2]))
    field = predictor.wrap(predictor.generate(pictures, cameras))
    note = f"{samples['ids'][0]} of {path.name}, the view that it read"
    return TrainedField(field, poses[0, 0], pictures[0, 0].movedim(0, -1), note)


def object_views(settings: FitSettings) -> tuple[Tensor, Tensor]:
    """Return the object's pictures (V, S, S, 4), float32 in [0, 1], and the poses (V, 4, 4) of their cameras."""
    mesh = make_object(settings.class_name, 0, settings.index)
    rng = numpy_rng(0, "procedural cameras", settings.class_name, settings.index)
    poses = sphere_poses(rng, settings.views)
    rendered = render_mesh(mesh, poses, CAMERA_ANGLE_X, settings.size, supersample=3, cull=True)
    return torch.from_numpy(rendered).float() / 255, torch.from_numpy(poses)


def _on(rgba: Tensor, background: Tensor) -> Tensor:
    return rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:])


def _make(
    out: Path, settings: FitSettings, device: torch.device, precision: torch.dtype, progress: ProgressSink | None
) -> None:
    field, steps, reached = fit_field(settings, device, precision, progress)
    with new_folder(out) as part:
        content = part / "content"
        content.mkdir()
        field.save(content / "field.safetensors")
        record = {"settings": asdict(settings), "steps": steps, "psnr": reached}
        write_text(content / "fit.json", json.dumps(record, indent=1) + "\n")
        content.rename(out)


def fit_field(
    settings: FitSettings, device: torch.device, precision: torch.dtype, progress: ProgressSink | None = None
) -> tuple[Field, int, float]:
    """Fit one field to an object's views by Adam: colours on random backgrounds, so that empty space becomes empty.

    Returns:
        The field, the steps that were taken, and the PSNR of the held-out view, dB.
    """
    pictures, poses = object_views(settings)
    renderer = RendererConfig(bounds="sphere")
    framing = Framing(CAMERA_ANGLE_X, RADIUS, settings.size, NEAR, FAR)
    encoding = EncodingConfig(frequencies=settings.frequencies)
    target = RadianceField(RadianceFieldConfig(depth=settings.depth, width=settings.width, encoding=encoding))
    params = _start(target).map(lambda t: t.to(device).requires_grad_(True))
    rays = picture_rays(framing.cameras(poses[:-1]))
    origins, directions, seen = (
        t.flatten(0, -2).to(device) for t in (rays.origins, rays.directions, pictures[:-1].flatten(1, 2))
    )
    foreground = seen[..., 3].cpu().nonzero()[:, 0]
    optimizer = torch.optim.Adam(list(params.tensors.values()), lr=settings.learning_rate, fused=True)
    for group in optimizer.param_groups:
        group["lr_scale"] = 1.0
    held_out = TrainedField(Field(target, params, framing=framing), poses[-1], _on(pictures[-1], torch.ones(3)), "")
    reached = -math.inf
    if progress is not None:
        progress.start(settings.steps, 0, {}, math.inf)
    for step in range(settings.steps):
        set_learning_rate(optimizer, settings.learning_rate * 0.1 ** (step / settings.steps))
        generator = torch_rng("bench", "fit", step)
        chosen = torch.randint(len(origins), (settings.rays,), generator=generator)
        half = settings.rays // 2
        chosen[:half] = foreground[torch.randint(len(foreground), (half,), generator=generator)]
        chosen = chosen.to(device)
        batch = Rays(origins[chosen][None], directions[chosen][None], NEAR, FAR)
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            _fit_loss(target, params, batch, seen[chosen][None], settings, generator).backward()
        optimizer.step()
        if progress is not None:
            progress.update(step + 1, {"best": reached} if math.isfinite(reached) else {})
        if (step + 1) % settings.check_every == 0 or step + 1 == settings.steps:
            field = Field(target, params.map(lambda t: t.detach().clone()), renderer, framing, precision)
            picture = field.render(poses=poses[-1:], size=settings.size).rgb[0]
            reached = held_out.psnr(picture)
            if reached >= settings.target:
                break
    if progress is not None:
        progress.close()
    return field, step + 1, reached


def _start(target: RadianceField) -> TargetParams:
    generator = torch_rng("bench", "fit", "start")
    tensors = {}
    for name, spec in target.spec.tensors.items():
        bound = math.sqrt(6 / spec.shape[0]) if name.endswith(".weight") else 0.0  # keeps the variance through ReLU
        tensors[name] = (2 * torch.rand(1, *spec.shape, generator=generator) - 1) * bound
    return TargetParams(tensors, target.spec)


def _fit_loss(
    target: RadianceField,
    params: TargetParams,
    rays: Rays,
    seen: Tensor,
    settings: FitSettings,
    generator: torch.Generator,
) -> Tensor:
    device, count = seen.device, settings.rays
    renderer = RendererConfig(samples=settings.samples, sampling="bins", bounds="sphere", background="black")
    jitter = torch.rand(1, count, settings.samples, generator=generator).to(device)
    found = render_fused(target, params, rays, renderer, jitter)
    background = torch.rand(1, count, 3, generator=generator).to(device)
    error = found.rgb + background * (1 - found.opacity[..., None]) - _on(seen, background)
    opaque = found.opacity - seen[..., 3]
    loss: Tensor = error.square().mean() + 0.5 * opaque.square().mean()
    return loss
