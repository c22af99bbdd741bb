"""Teachers that a diffusion model judges, in place of pictures: one field per prompt, kept as the others are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from hyperkit.adapt.diffusion import Diffusion, diffusion_hash, find_diffusion, load_diffusion
from hyperkit.adapt.fit import Loss
from hyperkit.adapt.score_teacher import ScoreConfig, ScoreLoss
from hyperkit.adapt.teachers import (
    TeacherConfig,
    TeacherPictures,
    fit_teacher,
    read_pictures,
    spread_cameras,
    teacher_key,
    teacher_pictures,
)
from hyperkit.contracts import Cameras
from hyperkit.files import cache_dir
from hyperkit.geometry import look_at, spherical
from hyperkit.models.field import Framing
from hyperkit.targets import Target

ELEVATIONS = (0.0, 60.0)
"""Degrees between which the cameras lie that a teacher is shown from."""


def scored_teachers(
    config: TeacherConfig,
    score: ScoreConfig,
    prompts: Mapping[str, str],
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, TeacherPictures]:
    """Fit a field to each prompt by score distillation, one after another, and render it.

    What is in ``folder`` already is read, and a fit that was interrupted goes on; the diffusion model is loaded only
    where something is left to fit.

    Args:
        config: the fields and their pictures; DreamFusion takes 15000 steps.
        score: the diffusion model, and how it judges.
        prompts: id -> sentence.
        folder: holds one folder for each teacher; None: ``teachers`` in the cache.
        progress: called with (teachers ready, teachers in all).
        device: where to compute.

    Raises:
        HyperkitError: the diffusion model is not to be had, or cannot be used.
        RunFailed: the disk is full or a place cannot be written.
    """
    folder = cache_dir() / "teachers" if folder is None else Path(folder)
    cameras = shown_from(config)
    ready: dict[str, TeacherPictures] = {}
    diffusion: Diffusion | None = None
    for name, prompt in prompts.items():
        if progress is not None:
            progress(len(ready), len(prompts))
        place = folder / teacher_key(config, _subject(score, prompt))
        found = read_pictures(cameras, place)
        if found is None:
            diffusion = diffusion or load_diffusion(score.model, device, score.precision, score.latents)
            judge = diffusion

            def loss(target: Target, prompt: str = prompt, judge: Diffusion = judge) -> Loss:
                return ScoreLoss(target, prompt, judge, score, config.fit.renderer, config.fit.seed)

            field = fit_teacher(config, loss, Framing(size=config.size), place, device=diffusion.device)
            found = teacher_pictures(field, cameras, place)
        ready[name] = found
    if progress is not None:
        progress(len(ready), len(prompts))
    return ready


def shown_from(config: TeacherConfig) -> Cameras:
    """Return the cameras (K,) that teachers without pictures are shown from: all around, between ``ELEVATIONS``."""
    framing = Framing(size=config.size)
    ends = torch.deg2rad(torch.tensor(ELEVATIONS))
    eyes = torch.stack([spherical(torch.zeros(()), elevation, framing.radius) for elevation in ends])
    return spread_cameras(framing.cameras(look_at(eyes)), config.views, config.size)


def _subject(score: ScoreConfig, prompt: str) -> str:
    # a folder's weights may be exchanged under the same name
    model = diffusion_hash(find_diffusion(score.model)) if Path(score.model).is_dir() else score.model
    text = json.dumps([score.model_dump(mode="json") | {"model": model}, prompt], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
