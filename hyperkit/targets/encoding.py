"""Positional encoding of coordinates."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hyperkit.config import PartConfig
from hyperkit.kernels.render_field.reference import encode


class EncodingConfig(PartConfig):
    """Frequencies of the positional encoding.

    Attributes:
        frequencies: number per coordinate; each gives a cosine and a sine.
        max_log2: the highest frequency is ``2 ** max_log2``, the lowest is 1.
        spacing: ``log``: evenly in the exponent, as in the papers; ``linear``: evenly in the frequency. With
            2 ** max_log2 frequencies these are 1, 2, 3, ...: with scale pi, a Fourier series of period 2.
        scale: common factor: 1 as in Trans-INR's radiance fields, pi as in NeRF and Trans-INR's image regression.
        include_input: also pass the coordinates themselves.
    """

    frequencies: int = Field(default=20, ge=0)
    max_log2: float = 8.0
    spacing: Literal["log", "linear"] = "log"
    scale: float | Literal["pi"] = 1.0
    include_input: bool = False

    def width(self, coordinates: int) -> int:
        """Return the number of encoded values of ``coordinates`` input values."""
        return coordinates * (2 * self.frequencies + int(self.include_input))


class PositionalEncoding(nn.Module):
    """[cos(f x), sin(f x)] for every frequency f and coordinate x (Trans-INR's public implementation; NeRF, eq. 4).

    Maps (..., C) to (..., C * 2 * frequencies), ordered [cos | sin], each by coordinate, then frequency.
    """

    bands: Tensor

    def __init__(self, config: EncodingConfig) -> None:
        super().__init__()
        self.config = config
        scale = math.pi if config.scale == "pi" else float(config.scale)
        if config.spacing == "log":
            bands = torch.linspace(0.0, config.max_log2, config.frequencies, dtype=torch.float64).exp2()
        else:
            bands = torch.linspace(1.0, 2.0**config.max_log2, config.frequencies, dtype=torch.float64)
        self.register_buffer("bands", (scale * bands).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x (..., C). Angles are formed in float32 at least: in bfloat16 the high frequencies would be noise."""
        return encode(x, self.bands, self.config.include_input)
