"""One field at many points on a CPU, without gradients.

In bf16 a layer is one call of oneDNN, bias and ReLU within: as three operations it takes twice the time (width 256:
50 % of the rate of a 4096-cubed product against 107 %; width 64: 18 % against 32 %). Elsewhere the layers write into
buffers that are allocated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from hyperkit.kernels.hardware import cpu_has_bf16
from hyperkit.kernels.render_field.reference import FieldShape, activate

USUAL = 8192
"""Points for which the weights' layout is chosen; any other number works with it."""

STEP = 1024
"""Numbers of points are rounded up to its multiples, and small ones to powers of two: oneDNN compiles code for every
number that it meets, which takes longer than the layer, and keeps it for the last 1,024 only."""


class FieldPoints:
    """Colour and density of one field, (N, 3) -> (N, 4) float32, as ``reference`` gives them, to rounding.

    Args:
        weights: for each of the L >= 2 layers (I, O).
        biases: for each layer (O,).
        shape: the field's encoding and activations.
        precision: dtype of the factors of the matrix products.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], shape: FieldShape, precision: torch.dtype
    ) -> None:
        self.shape = shape
        self.weights = [weight.detach().to(precision).contiguous() for weight in weights]
        self.biases = [bias.detach().to(precision) for bias in biases]
        self.bands = torch.tensor(shape.bands, dtype=torch.float32, device=self.weights[0].device)
        self._packed = self._pack() if self.bands.device.type == "cpu" and precision == torch.bfloat16 else None
        self._reserve(0)

    def _pack(self) -> list[Tensor] | None:
        """Lay out the hidden layers' weights for the fused layers, those that torch.compile calls; None without."""
        if not (cpu_has_bf16() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
            return None
        reorder = torch.ops.mkldnn._reorder_linear_weight
        return [reorder(weight.t().contiguous(), USUAL) for weight in self.weights[:-1]]

    def _reserve(self, count: int) -> None:
        """Make the buffers large enough for so many points."""
        empty = partial(torch.empty, dtype=self.weights[0].dtype, device=self.bands.device)
        widest = max(weight.shape[1] for weight in self.weights)
        self._reserved = count
        self._angles = torch.empty(count, 3, len(self.bands), device=self.bands.device)
        self._cosines = torch.empty(count, 3 * len(self.bands), device=self.bands.device)
        self._encoded = empty(count, len(self.weights[0])).zero_()  # rows beyond the points are computed as well
        self._hidden = [empty(0 if self._packed else count * widest) for _ in range(2)]

    @torch.no_grad()
    def __call__(self, points: Tensor) -> Tensor:
        """Evaluate at points (N, 3)."""
        count = len(points)
        rows = round_up(count) if self.bands.device.type == "cpu" else count
        if rows > self._reserved:
            self._reserve(rows)
        self.encode(points)
        raw = self.last(self.hidden_layers(self._encoded[:rows]))[:count]
        colour, density = activate(raw, self.shape.density, self.shape.density_scale, self.shape.density_shift)
        return torch.cat((colour, density.unsqueeze(-1)), dim=-1)

    def encode(self, points: Tensor) -> Tensor:
        """Return the positional encoding (N, I) of points (N, 3), in a buffer."""
        count, first = len(points), 3 if self.shape.include_input else 0
        angles, encoded = self._angles[:count], self._encoded[:count]
        torch.mul(points.unsqueeze(-1), self.bands, out=angles)
        flat, cosines = angles.flatten(1), self._cosines[:count]
        torch.cos(flat, out=cosines)
        if first:
            encoded[:, :first] = points
        encoded[:, first : first + flat.shape[1]] = cosines
        encoded[:, first + flat.shape[1] :] = flat.sin_()
        return encoded

    def hidden_layers(self, x: Tensor) -> Tensor:
        """Apply all layers but the last, each with its ReLU, to x (N, I), and return (N, O), which may be a buffer."""
        if self._packed is not None:
            for packed, bias in zip(self._packed, self.biases, strict=False):
                x = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "relu", [], "")
            return x
        for index, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases, strict=False)):
            width = weight.shape[1]
            out = self._hidden[index % 2][: len(x) * width].view(len(x), width)
            x = torch.addmm(bias, x, weight, out=out).relu_()
        return x

    def last(self, x: Tensor) -> Tensor:
        """Apply the last layer to x (N, I) and return the raw values (N, 4)."""
        return torch.addmm(self.biases[-1], x, self.weights[-1])


def round_up(count: int) -> int:
    """Return the number of rows that is computed for so many points."""
    if count > STEP:
        return -(-count // STEP) * STEP
    return 1 << (count - 1).bit_length() if count else 0
