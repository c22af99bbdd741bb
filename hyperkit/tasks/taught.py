"""Prompts whose scenes exist as teachers alone: what ``SceneSet`` says of scenes, said of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hyperkit.adapt.teachers import TeacherPictures
from hyperkit.data.distilled import pick
from hyperkit.data.pixels import Background
from hyperkit.data.scenes import SceneViews


class TaughtPrompts:
    """Prompts with their teachers; the pictures that are kept from training take the place of held-out views.

    Args:
        captions: id -> prompt.
        pictures: id -> what the teacher shows, from cameras that all share.
        kept: the last pictures of each, which are held out.
        background: what transparent pixels are laid on.
    """

    shared_cameras = True

    def __init__(
        self,
        captions: Mapping[str, str],
        pictures: Mapping[str, TeacherPictures],
        kept: int,
        background: Background,
    ) -> None:
        self.captions, self.background, self.root = dict(captions), background, Path("the prompts")
        self._pictures, self._kept = dict(pictures), kept
        cameras = next(iter(pictures.values())).cameras
        self.size, self.near, self.far = cameras.width, cameras.near, cameras.far

    def split(self, name: Literal["train", "unseen"]) -> tuple[str, ...]:
        """Return the ids of a split; all prompts are trained on."""
        return tuple(self.captions) if name == "train" else ()

    def test_views(self, scene: str) -> SceneViews:
        """Return the pictures of a teacher that are kept from training."""
        found = self._pictures[scene]
        last = torch.arange(len(found.rgba) - self._kept, len(found.rgba))
        return SceneViews(found.rgba[last].float() / 255, pick(found.cameras, last), False)

    def mean_pictures(self, scene: str) -> Tensor:
        """Return the mean over all teachers of each held-out view, (K, 3, S, S)."""
        return torch.stack([self.test_views(name).pictures(self.background) for name in self.captions]).mean(0)
