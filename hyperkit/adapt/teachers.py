"""Teachers: one field fitted to each scene, kept in a folder, and the pictures of it that a student learns from."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field as Setting
from torch import Tensor

from hyperkit.adapt.fit import FieldFit, FitConfig, Loss, ViewsLoss
from hyperkit.config import PartConfig
from hyperkit.contracts import Cameras
from hyperkit.data.places import folder_lock
from hyperkit.data.scenes import SceneSet, SceneViews
from hyperkit.data.workers import run_all
from hyperkit.errors import HyperkitError
from hyperkit.files import atomic_path, cache_dir
from hyperkit.geometry import look_at, picture_rays
from hyperkit.models.field import Field, Framing
from hyperkit.renderers.culled import render_culled
from hyperkit.renderers.occupancy import build_occupancy
from hyperkit.targets import Target
from hyperkit.targets.hash_grid import HashGridConfig, HashGridField

log = logging.getLogger("hyperkit")

SAVE_EVERY = 5.0
"""Seconds after which the state of a fit is saved: so much of it is lost at most."""

PICTURES = "pictures.safetensors"

VERSION = 1
"""Of what a teacher is, beside its settings: a new one leaves those in the cache alone and fits anew."""


class TeacherGridConfig(HashGridConfig):
    """A small hash grid with vectors of four, for objects that 64 pixels show: fewer and wider reads are faster.

    Attributes:
        depth: number of linear layers of the MLP.
        width: width of its hidden layers.
        encoding: encoding of the position, joined to the grid features; 0 frequencies: none.
        levels: L, number of grids.
        features: F, values at each vertex.
        coarsest, finest: cells along each side of the first and of the last grid; those between grow geometrically.
        log2_table: a level has at most ``2 ** log2_table`` vectors; see ``GridConfig`` for the memory.
        density: activation that makes the density non-negative.
        density_scale: factor on the density.
        density_shift: added before the activation, so that a field starts as fog.
        deviation: the field also gives a deviation of each colour channel (see ``base.deviation_of``).
        deviation_floor: lower limit of the deviation.
    """

    depth: int = Setting(default=2, ge=2)
    width: int = Setting(default=32, ge=1)
    levels: int = Setting(default=4, ge=1)
    features: int = Setting(default=4, ge=1)
    coarsest: int = Setting(default=8, ge=1)
    finest: int = Setting(default=64, ge=1, le=65536)
    log2_table: int = Setting(default=15, ge=3, le=30)
    density: Literal["relu", "softplus"] = "softplus"
    density_scale: float = Setting(default=10.0, gt=0)


class TeacherConfig(PartConfig):
    """The field that each scene gets, how it is fitted, and what the student sees of it.

    Attributes:
        target: the field.
        fit: how it is fitted. The defaults take a quarter of a minute per scene of 64x64 pixels on one core.
        views: cameras at which it is rendered for the student.
        size: width and height of these pictures in pixels.
        jobs: processes that fit teachers at the same time, one thread each; 1: one after another in this process; None:
            as many as there are CPUs. A script of one's own then needs ``if __name__ == "__main__":``.
    """

    target: TeacherGridConfig = TeacherGridConfig()
    fit: FitConfig = FitConfig()
    views: int = Setting(default=64, ge=1)
    size: int = Setting(default=64, ge=1, le=4096)
    jobs: int | None = Setting(default=1, ge=1)


@dataclass(frozen=True)
class TeacherPictures:
    """What a student sees of a teacher.

    Attributes:
        rgba: (K, 4, S, S) uint8, straight alpha.
        cameras: (K,).
    """

    rgba: Tensor
    cameras: Cameras


def teacher_key(config: TeacherConfig, subject: str) -> str:
    """Return the name of a teacher's folder: a hash of all that its bits depend on.

    Args:
        config: of it, what says how the field is fitted.
        subject: a hash of what it is fitted to, such as ``SceneSet.hash``.
    """
    settings = config.model_dump(mode="json", include={"target", "fit"})
    text = json.dumps([VERSION, settings, subject], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def fit_teacher(
    config: TeacherConfig,
    loss: Callable[[Target], Loss],
    framing: Framing,
    place: Path,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | str = "cpu",
) -> Field:
    """Fit a teacher, or read it where it has been fitted before.

    Its state is saved every few seconds: a fit that was killed goes on from there and ends with the same bits. On a
    CPU it takes one thread, with which several can run at once and have the bits that each has alone.

    Args:
        config: ``target`` and ``fit`` are used.
        loss: makes what is minimised; it is called only where there is something to fit.
        framing: the cameras that suit the field.
        place: folder of this teacher alone, named by ``teacher_key``; ``field.safetensors`` is written there.
        progress: called with (steps done, steps in all).
        device: where to compute.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    final, state = place / "field.safetensors", place / "state.safetensors"
    with folder_lock(place), _one_thread():
        if (found := _read_field(final)) is not None:
            return found
        target = HashGridField(config.target)
        fit = FieldFit(target.spec, loss(target), config.fit, device=device)
        if (saved := _read_tensors(state)) is not None:
            fit.resume(saved[0])
            log.info("going on with the teacher in %s from step %d", place, fit.step)
        last = time.monotonic()
        while fit.step < config.fit.steps:
            fit.advance()
            if progress is not None:
                progress(fit.step, config.fit.steps)
            if time.monotonic() - last >= SAVE_EVERY:
                _write_tensors(state, fit.state(), {})
                last = time.monotonic()
        field = Field(target, fit.params.map(lambda t: t.cpu()), config.fit.renderer, framing)
        field.save(final)
        state.unlink(missing_ok=True)
        return field


def fit_to_views(
    config: TeacherConfig,
    views: SceneViews,
    place: Path,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | str = "cpu",
) -> Field:
    """Fit a teacher to posed pictures of its scene; see ``fit_teacher``."""

    def loss(target: Target) -> Loss:
        return ViewsLoss(target, views.rgba.to(device), views.cameras.to(device), config.fit)

    return fit_teacher(config, loss, framing_of(views.cameras), place, progress, device)


def framing_of(cameras: Cameras) -> Framing:
    """Return the framing of cameras (V,) that look at the origin: their angle, mean distance, size and range."""
    angle = 2 * math.atan(0.5 * cameras.width / float(cameras.focal.mean()))
    radius = float(cameras.poses[:, :3, 3].norm(dim=-1).mean())
    return Framing(angle, radius, cameras.width, cameras.near, cameras.far)


def spread_cameras(cameras: Cameras, count: int, size: int) -> Cameras:
    """Return cameras (count,) spread evenly over the band in which given ones (V,) are, all looking at the origin.

    Camera k has azimuth k times the golden angle; the sines of the elevations go in equal steps from the lowest of the
    given ones to the highest. Nothing is drawn: scenes whose cameras have the same band share these.
    """
    framing, eyes = framing_of(cameras), cameras.poses[:, :3, 3].double()
    sines = eyes[:, 2] / eyes.norm(dim=-1)
    number = torch.arange(count, dtype=torch.float64)
    sine = sines.min() + (number + 0.5) / count * (sines.max() - sines.min())
    azimuth, flat = number * (math.pi * (3 - math.sqrt(5))), (1 - sine**2).sqrt()
    places = framing.radius * torch.stack((flat * azimuth.cos(), flat * azimuth.sin(), sine), dim=-1)
    return framing.cameras(look_at(places), size)


def teacher_pictures(field: Field, cameras: Cameras, place: Path) -> TeacherPictures:
    """Render a teacher, and keep the pictures.

    Args:
        field: of ``fit_teacher``.
        cameras: (K,), square pictures.
        place: folder of this teacher; ``pictures.safetensors`` is written there.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    with _one_thread():
        rgba = straight_pictures(field, cameras)
    _write_tensors(place / PICTURES, {"rgba": rgba}, _cameras_key(cameras))
    return TeacherPictures(rgba, cameras)


def read_pictures(cameras: Cameras, place: Path) -> TeacherPictures | None:
    """Return what ``teacher_pictures`` wrote, or None where there are no pictures from these cameras."""
    found = _read_tensors(place / PICTURES)
    return TeacherPictures(found[0]["rgba"], cameras) if found and found[1] == _cameras_key(cameras) else None


@torch.no_grad()
def straight_pictures(field: Field, cameras: Cameras) -> Tensor:
    """Render pictures (K, 4, H, W) uint8 with straight alpha: colours are as if what is there were opaque.

    All samples are evaluated in float32 that the field itself does not show to be empty or hidden, in pieces of one
    size: the same bits whatever else the machine does.
    """
    config = field.renderer.model_copy(update={"background": "black"})

    def evaluate(points: Tensor) -> Tensor:
        parts = points[0, :, :3].split(config.chunk_points)
        return torch.cat([field.query(part) for part in parts])[None]

    occupancy = build_occupancy(evaluate, cameras, config)
    pictures = torch.empty(len(cameras.poses), 4, cameras.height, cameras.width, dtype=torch.uint8)
    for index in range(len(pictures)):
        one = replace(cameras, poses=cameras.poses[index, None], focal=cameras.focal[index, None])
        found = render_culled(evaluate, picture_rays(one), config, occupancy)
        opacity = found.opacity[0, :, None]
        colour = torch.where(opacity > 0, found.rgb[0] / opacity, 0.0)
        rgba = (torch.cat((colour, opacity), dim=-1).clamp(0, 1) * 255).round().to(torch.uint8)
        pictures[index] = rgba.T.unflatten(1, pictures.shape[2:])
    return pictures


def teachers(
    config: TeacherConfig,
    scenes: SceneSet,
    ids: Sequence[str],
    folder: Path | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, TeacherPictures]:
    """Fit a teacher to the pictures of each scene and render it, one after another or several at once.

    What is in ``folder`` already is read; what is made has the same bits whatever ``jobs`` is.

    Args:
        config: see ``TeacherConfig``.
        scenes: where the pictures come from.
        ids: of the scenes.
        folder: holds one folder for each teacher; None: ``teachers`` in the cache.
        jobs: instead of ``config.jobs``.
        progress: called with (teachers ready, teachers in all).

    Raises:
        HyperkitError: there is no such scene.
        RunFailed: the disk is full, a place cannot be written, or a process died.
    """
    folder = cache_dir() / "teachers" if folder is None else Path(folder)
    places = {name: folder / teacher_key(config, scenes.hash(name)) for name in ids}
    cameras = {name: spread_cameras(scenes.views(name).cameras, config.views, config.size) for name in ids}
    ready = {name: found for name in ids if (found := read_pictures(cameras[name], places[name])) is not None}
    missing = [name for name in places if name not in ready]
    if progress is not None:
        progress(len(ready), len(places))
    # as bytes: tensors would go to another process through shared memory, of which a container has little
    work = [(config, places[name], pickle.dumps((scenes.views(name), cameras[name]))) for name in missing]
    for index, rgba in run_all(_make, work, jobs or config.jobs, method="spawn"):
        ready[missing[index]] = TeacherPictures(torch.from_numpy(rgba), cameras[missing[index]])
        if progress is not None:
            progress(len(ready), len(places))
    return {name: ready[name] for name in places}


def _make(work: tuple[TeacherConfig, Path, bytes]) -> np.ndarray:
    config, place, scene = work
    views, cameras = pickle.loads(scene)
    field = fit_to_views(config, views, place)
    return teacher_pictures(field, cameras, place).rgba.numpy()


def views_psnr(field: Field, views: SceneViews, background: Literal["white", "black"] = "white") -> float:
    """Return the PSNR, dB, of a field over all pixels of posed pictures, both laid on ``background``."""
    cameras = views.cameras
    framed = replace(field, framing=framing_of(cameras))
    got = framed.render(poses=cameras.poses, size=cameras.width, background=background).rgb.movedim(-1, 1)
    error = float((got - views.pictures(background)).square().mean())
    return -10 * math.log10(error) if error else math.inf


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _read_field(path: Path) -> Field | None:
    if not path.is_file():
        return None
    try:
        return Field.load(path)
    except HyperkitError as error:
        log.warning("%s is damaged and will be made anew: %s", path, error.what)
        return None


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
            return tensors, handle.metadata() or {}
    except SafetensorError as error:
        log.warning("%s is damaged and will be made anew: %s", path, error)
        return None


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, str(temporary), metadata)


def _cameras_key(cameras: Cameras) -> dict[str, str]:
    sizes = (cameras.width, cameras.height, cameras.near, cameras.far)
    digest = hashlib.sha256(repr(sizes).encode())
    for tensor in (cameras.poses, cameras.focal):
        digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return {"cameras": digest.hexdigest()}
