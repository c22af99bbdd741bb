"""A trained hypernetwork as users hold it: a picture or a sound in, an object with its generated network out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperkit.contracts import Cameras, TargetParams
from hyperkit.data.images import prepare_picture
from hyperkit.data.picture import frame_picture
from hyperkit.data.picture_files import Background, read_rgba
from hyperkit.data.sounds import prepare_sound
from hyperkit.errors import HyperkitError
from hyperkit.models.field import Field, Framing
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.signals import PictureINR, SoundINR
from hyperkit.renderers import RendererConfig


@dataclass(frozen=True)
class Predictor(ABC):
    """A model with all that is needed to use it.

    Attributes:
        model: the trained hypernetwork, in eval mode.
        precision: dtype of the matrix products.
        samples: the inputs that the checkpoint carries.
    """

    model: INRHypernet
    precision: torch.dtype = torch.float32
    samples: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, source: Any) -> Any:
        """Write the network of what ``source`` shows or sounds like; see ``prepare``."""
        return self.wrap(self.generate(self.prepare(source)))

    @abstractmethod
    def prepare(self, source: Any) -> Tensor:
        """Bring a source to what the model reads: its context, with B = 1."""

    @abstractmethod
    def wrap(self, params: TargetParams, index: int = 0) -> Any:
        """Return item ``index`` of generated parameters as an object."""

    @torch.no_grad()
    def generate(self, context: Tensor, cameras: Cameras | None = None) -> TargetParams:
        """Write the parameters of B networks from their context."""
        self.model.eval()
        device = self.model.device
        with autocast(device, self.precision):
            params = self.model.generate(context.to(device), None if cameras is None else cameras.to(device))
        return params.map(lambda t: t.float())


@dataclass(frozen=True)
class FieldPredictor(Predictor):
    """Pictures of an object in, a ``Field`` out.

    Attributes:
        framing: the cameras of the training data.
        fill: share of the picture's side that training objects take, for framing a user's picture.
        parts: names of the parts that the fields know.
    """

    framing: Framing = field(default_factory=Framing)
    fill: float = 0.8
    parts: tuple[str, ...] = ()

    def __call__(self, source: Any) -> Field:
        """Write the field of the object that ``source`` shows; see ``prepare``.

        Raises:
            HyperkitError: the model reads its input's camera; ``generate`` takes one.
        """
        self._refuse_unknown_camera()
        made: Field = super().__call__(source)
        return made

    def prepare(self, source: Any) -> Tensor:
        """Bring a picture, or several of one object, to the framing of the training data: (1, V, 3, H, W) in [0, 1].

        Args:
            source: a path, a Pillow picture or an array (H, W, 3 or 4) uint8, which are cropped and padded to the
                training framing; or a float tensor (3, H, W) or (V, 3, H, W) in [0, 1], which is taken as it is; or a
                list of these.

        Raises:
            HyperkitError: a picture cannot be read or framed, or the model reads its camera, which framing changes.
        """
        sources: list[Any] = [source]
        if (isinstance(source, Sequence) and not isinstance(source, str)) or getattr(source, "ndim", 0) == 4:
            sources = list(source)
        return torch.stack([self._one(one) for one in sources])[None]

    def _one(self, source: Any) -> Tensor:
        if isinstance(source, Tensor):
            return source.float()
        self._refuse_unknown_camera()
        if isinstance(source, str | Path):
            source = read_rgba(source)
        renderer = self.model.renderer
        background = 1.0 if isinstance(renderer, RendererConfig) and renderer.background == "white" else 0.0
        return frame_picture(source, self.framing.size, self.fill, background)

    def _refuse_unknown_camera(self) -> None:
        if self.model.context.pose_projection is not None:
            raise HyperkitError(
                "This model reads its input's camera (pose tokens), and that of a picture of your own is not known.",
                "Use --object or the checkpoint's own samples, or a model without pose tokens; in Python, "
                "generate(pictures, cameras).",
            )

    def wrap(self, params: TargetParams, index: int = 0) -> Field:
        """Return item ``index`` as a field that can be rendered from any side."""
        assert isinstance(self.model.renderer, RendererConfig)
        own = params.select(index)
        return Field(self.model.target, own, self.model.renderer, self.framing, self.precision, self.parts)


@dataclass(frozen=True)
class PicturePredictor(Predictor):
    """A picture in, a ``PictureINR`` out.

    Attributes:
        size: side of the square that the model reads, pixels.
        resize: the picture's shorter side before the middle square is cut out; None: ``size``.
        background: what transparent pixels are laid on.
    """

    size: int = 64
    resize: int | None = None
    background: Background = "white"

    def prepare(self, source: str | Path | np.ndarray | Tensor | Any) -> Tensor:
        """Bring a picture to the size that the model reads: (1, 1, 3, S, S) in [0, 1]."""
        picture = (
            source.float()
            if isinstance(source, Tensor)
            else prepare_picture(source, self.size, self.resize, self.background)
        )
        return picture[None, None]

    def wrap(self, params: TargetParams, index: int = 0) -> PictureINR:
        """Return item ``index`` as a picture of any resolution."""
        return PictureINR(self.model.target, params.select(index), self.precision, self.size)


@dataclass(frozen=True)
class SoundPredictor(Predictor):
    """A sound in, a ``SoundINR`` out.

    Attributes:
        rate: samples per second that the model reads.
        count: T, samples of a clip.
        start: the sample of a sound that its clip begins with.
    """

    rate: int = 16000
    count: int = 16000
    start: int = 0

    def prepare(self, source: str | Path | np.ndarray | Tensor) -> Tensor:
        """Bring a sound to the model's rate and take its clip, (1, T) in [-1, 1].

        Args:
            source: a path, of whose sound the clip of evaluation is taken; or a waveform (T',) that has the model's
                rate and begins with the clip.

        Raises:
            HyperkitError: it is too short.
        """
        if isinstance(source, str | Path):
            waveform = prepare_sound(source, self.rate)[self.start :]
        else:
            waveform = torch.as_tensor(source).float()
        if waveform.shape[-1] < self.count:
            after = f" after its first {self.start / self.rate:g} s" if self.start else ""
            raise HyperkitError(
                f"The sound lasts {waveform.shape[-1] / self.rate:.3f} s{after}; "
                f"the model reads {self.count / self.rate:g} s.",
                "Give a longer one, or pad it with silence.",
            )
        return waveform[None, : self.count]

    def wrap(self, params: TargetParams, index: int = 0) -> SoundINR:
        """Return item ``index`` as a waveform of any rate."""
        return SoundINR(self.model.target, params.select(index), self.precision, self.rate, self.count)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return the autocast context of a precision; float32 turns it off."""
    enabled = precision != torch.float32
    return torch.autocast(device.type, dtype=precision if enabled else torch.bfloat16, enabled=enabled)
