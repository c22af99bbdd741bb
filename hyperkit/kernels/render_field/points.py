"""One field at many points on a CPU, without gradients: all layers in buffers that are allocated once.

Fresh memory for the result of every layer costs page faults, which take longer than the products themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from hyperkit.kernels.render_field.reference import FieldShape, activate


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
        self._reserve(0)

    def _reserve(self, count: int) -> None:
        """Make the buffers large enough for so many points."""
        empty = partial(torch.empty, dtype=self.weights[0].dtype, device=self.bands.device)
        widest = max(weight.shape[1] for weight in self.weights)
        self._reserved = count
        self._angles = torch.empty(count, 3, len(self.bands), device=self.bands.device)
        self._cosines = torch.empty(count, 3 * len(self.bands), device=self.bands.device)
        self._encoded = empty(count, len(self.weights[0]))
        self._hidden = [empty(count * widest) for _ in range(2)]

    @torch.no_grad()
    def __call__(self, points: Tensor) -> Tensor:
        """Evaluate at points (N, 3)."""
        if len(points) > self._reserved:
            self._reserve(len(points))
        raw = self.last(self.hidden_layers(self.encode(points)))
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
        """Apply all layers but the last, each with its ReLU, to x (N, I), and return a buffer (N, O)."""
        for index, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases, strict=False)):
            width = weight.shape[1]
            out = self._hidden[index % 2][: len(x) * width].view(len(x), width)
            x = torch.addmm(bias, x, weight, out=out).relu_()
        return x

    def last(self, x: Tensor) -> Tensor:
        """Apply the last layer to x (N, I) and return the raw values (N, 4)."""
        return torch.addmm(self.biases[-1], x, self.weights[-1])
