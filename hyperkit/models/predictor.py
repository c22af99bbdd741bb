"""A trained hypernetwork as users hold it: a picture in, a ``Field`` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperkit.contracts import TargetParams
from hyperkit.data.picture import frame_picture, read_picture
from hyperkit.models.field import Field, Framing
from hyperkit.models.inr_hypernet import INRHypernet


@dataclass(frozen=True)
class Predictor:
    """A model with all that is needed to use it on a picture.

    Attributes:
        model: the trained hypernetwork, in eval mode.
        framing: the cameras of its training data.
        fill: share of the picture's side that training objects take, for framing a user's picture.
        precision: dtype of the matrix products.
        samples: the inputs that the checkpoint carries.
    """

    model: INRHypernet
    framing: Framing = field(default_factory=Framing)
    fill: float = 0.8
    precision: torch.dtype = torch.float32
    samples: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, image: str | Path | np.ndarray | Tensor | Any) -> Field:
        """Write the field of the object in a picture.

        Args:
            image: a path, a Pillow picture or an array (H, W, 3 or 4) uint8, which are cropped and padded to the
                training framing; or a float tensor (3, H, W) in [0, 1], which is taken as it is.
        """
        return self.field(self.generate(self.prepare(image)[None]))

    def prepare(self, image: str | Path | np.ndarray | Tensor | Any) -> Tensor:
        """Bring a picture to the framing of the training data, (3, H, W) in [0, 1]."""
        if isinstance(image, Tensor):
            return image.float()
        if isinstance(image, str | Path):
            image = read_picture(image)
        background = 1.0 if self.model.renderer.background == "white" else 0.0
        return frame_picture(image, self.framing.size, self.fill, background)

    @torch.no_grad()
    def generate(self, pictures: Tensor) -> TargetParams:
        """Write the parameters of B fields from pictures (B, 3, H, W)."""
        self.model.eval()
        with autocast(self.model.device, self.precision):
            params = self.model.generate(pictures[:, None].to(self.model.device))
        return params.map(lambda t: t.float())

    def field(self, params: TargetParams, index: int = 0) -> Field:
        """Wrap item ``index`` of generated parameters."""
        one = params.select(index)
        return Field(self.model.target, one, self.model.renderer, self.framing, self.precision)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return the autocast context of a precision; float32 turns it off."""
    enabled = precision != torch.float32
    return torch.autocast(device.type, dtype=precision if enabled else torch.bfloat16, enabled=enabled)
