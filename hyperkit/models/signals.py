"""Generated pictures and sounds as users get them: they can be read at any resolution and saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from hyperkit.contracts import Signal, TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.geometry import picture_coordinates, time_coordinates
from hyperkit.renderers import PointsConfig, evaluate_points
from hyperkit.targets import Target
from hyperkit.targets.export import load_target, save_target

T = TypeVar("T", bound="_SignalINR")


@dataclass(frozen=True)
class _SignalINR:
    """A generated network on coordinates.

    Attributes:
        target, params: the network, with B = 1.
        precision: dtype of the matrix products.
    """

    target: Target
    params: TargetParams
    precision: torch.dtype

    @torch.no_grad()
    def query(self, coordinates: Tensor) -> Signal:
        """Return the signal (N, F) at coordinates (N, C), float32, and its deviation where the network gives one."""
        device = next(iter(self.params.tensors.values())).device
        options = self.params.spec.options
        enabled = self.precision != torch.float32
        with torch.autocast(device.type, dtype=self.precision if enabled else torch.bfloat16, enabled=enabled):
            found = evaluate_points(
                lambda points: self.target(self.params, points),
                coordinates[None].to(device),
                PointsConfig(),
                int(options["outputs"]),
                bool(options.get("deviation", False)),
            )
        deviation = None if found.deviation is None else found.deviation[0].float()
        return Signal(found.values[0].float(), deviation)

    def to_module(self) -> torch.nn.Module:
        """Return the generated network as an ordinary torch module, (N, C) -> (N, F)."""
        return self.target.to_module(self.params)

    def save(self, path: str | Path) -> None:
        """Write the generated weights as safetensors (see ``targets.export``)."""
        extra = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        save_target(path, self.params, extra | {"signal": type(self).__name__})

    @classmethod
    def load(cls: type[T], path: str | Path) -> T:
        """Read what ``save`` wrote.

        Raises:
            HyperkitError: the file is missing, damaged, or holds another kind of network.
        """
        target, params, extra = load_target(path)
        kind = extra.pop("signal", "Field")
        if kind != cls.__name__:
            raise HyperkitError(f"{path} holds a {kind}, not a {cls.__name__}.", f"Load it with {kind}.load.")
        return cls(target, params, torch.float32, **extra)


@dataclass(frozen=True)
class PictureINR(_SignalINR):
    """One generated picture.

    Attributes:
        size: side of the square that it was made from, pixels.
    """

    size: int = 64

    def render(self, height: int | None = None, width: int | None = None) -> Tensor:
        """Return the picture (3, H, W) in [0, 1] at any size; by default the size that it was made from."""
        return self._picture(self._at(height, width).values, height, width).clamp(0, 1)

    def deviation(self, height: int | None = None, width: int | None = None) -> Tensor | None:
        """Return the deviation (3, H, W) of each value, where the network predicts it."""
        found = self._at(height, width).deviation
        return None if found is None else self._picture(found, height, width)

    def _at(self, height: int | None, width: int | None) -> Signal:
        return self.query(picture_coordinates(height or self.size, width or self.size))

    def _picture(self, values: Tensor, height: int | None, width: int | None) -> Tensor:
        return values.T.reshape(-1, height or self.size, width or self.size).cpu()


@dataclass(frozen=True)
class SoundINR(_SignalINR):
    """One generated sound.

    Attributes:
        rate: samples per second of the clip that it was made from.
        count: samples of that clip.
    """

    rate: int = 16000
    count: int = 16000

    def render(self, rate: int | None = None) -> Tensor:
        """Return the waveform (T,) at any rate (samples per second), over the clip's duration."""
        return self._at(rate).values[:, 0].cpu()

    def deviation(self, rate: int | None = None) -> Tensor | None:
        """Return the deviation (T,) of each sample, where the network predicts it."""
        found = self._at(rate).deviation
        return None if found is None else found[:, 0].cpu()

    def _at(self, rate: int | None) -> Signal:
        return self.query(time_coordinates(round(self.count * (rate or self.rate) / self.rate)))
