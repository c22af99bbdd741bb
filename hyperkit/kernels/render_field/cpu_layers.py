"""The layers of generated fields on a CPU in bf16, forward and backward, with less beside the products.

In plain PyTorch the products take half of the time: the encoding is concatenated in float32 and then converted, and
ReLU and its derivative convert each value to float32 and back. Here the encoding is written where the first product
reads it. A bf16 number that is read as a 16-bit integer keeps its sign: ReLU and its derivative work on integers, which
takes a half to a fifth of the time. The last layer writes its few outputs one after the other, not point by point,
which suits what follows. oneDNN's layers with bias and ReLU within take one item at a time and were slower here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyperkit.kernels.hardware import cpu_has_bf16
from hyperkit.kernels.render_field import reference
from hyperkit.kernels.render_field.reference import FieldShape, Sampling


def supports(weights: Sequence[Tensor], precision: torch.dtype, device: torch.device) -> bool:
    """Return whether this form is made for such fields; compiled code has the plain form, which the compiler fuses."""
    if device.type != "cpu" or precision != torch.bfloat16 or torch.compiler.is_compiling():
        return False
    return all(weight.dtype in (torch.float32, torch.bfloat16) for weight in weights) and cpu_has_bf16()


def render_field(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    shape: FieldShape,
    samples: int,
    sampling: Sampling,
    jitter: Tensor | None = None,
    limit: Tensor | float = 6.0,
    background: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render B fields along their rays; arguments and results are those of ``reference.render_field``, in bf16.

    Not differentiable twice with respect to weights, biases and rays.
    """
    t, lengths = reference.place_samples(near, far, samples, sampling, jitter)
    points = torch.addcmul(origins.unsqueeze(-2), t.unsqueeze(-1), directions.unsqueeze(-2))
    raw = layers(encode(points.flatten(1, 2), shape), weights, biases).unflatten(1, t.shape[1:])
    colour, density = reference.activate(raw, shape.density, shape.density_scale, shape.density_shift)
    return reference.composite(density, colour, t, lengths, limit, background)


def encode(points: Tensor, shape: FieldShape) -> Tensor:
    """Return ``reference.encode`` of points (B, N, 3) in bf16, (B, N, I)."""
    bands = torch.tensor(shape.bands, dtype=torch.promote_types(points.dtype, torch.float32))
    if points.requires_grad and torch.is_grad_enabled():
        return reference.encode(points, bands, shape.include_input).to(torch.bfloat16)
    first, each = 3 if shape.include_input else 0, 3 * len(bands)
    encoded = torch.empty(*points.shape[:2], first + 2 * each, dtype=torch.bfloat16)
    angles = (points.unsqueeze(-1) * bands).flatten(-2)
    encoded[..., :first] = points[..., :first]
    encoded[..., first : first + each] = torch.cos(angles)
    encoded[..., first + each :] = angles.sin_()
    return encoded


def layers(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Apply the layers of B networks, with ReLU between them, to their own points.

    Once differentiable with respect to everything. Sums are in float32; what is kept between operations is bf16.

    Args:
        x: (B, N, I) bf16.
        weights: for each of the L >= 1 layers (B, I, O), or (1, I, O) where items share it; float32 or bf16.
        biases: for each layer (B, 1, O) or (1, 1, O).

    Returns:
        (B, N, O) of the last layer, bf16.
    """
    lowered = [weight.detach().to(x.dtype) for weight in weights], [bias.detach().to(x.dtype) for bias in biases]
    lowered[1][-1] = lowered[1][-1] + _not_finite(weights[:-1], biases[:-1]).to(x.dtype)
    return _Layers.apply(x, *lowered, *weights, *biases)


@torch.no_grad()
def _not_finite(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return 0 for each item, (B, 1, 1) or (1, 1, 1), but NaN where one of its values is NaN or infinite.

    It is added to the result, because ReLU on integers makes 0 of a NaN whose sign bit is set.
    """
    total = torch.zeros(1, 1, 1)
    for tensor in (*weights, *biases):
        total = total + tensor.sum((1, 2), keepdim=True, dtype=torch.float32)
    return 0 * total


class _Layers(torch.autograd.Function):
    """The layers: x, their weights and biases in bf16, then those that the gradients belong to, one after the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: list[Tensor], biases: list[Tensor], *leaves: Tensor) -> Tensor:
        items = max(len(tensor) for tensor in (x, *weights, *biases))
        each_weight, each_bias = ([tensor.expand(items, -1, -1) for tensor in part] for part in (weights, biases))
        hidden = [x]
        for weight, bias in zip(each_weight[:-1], each_bias[:-1], strict=True):
            hidden.append(torch.baddbmm(bias, hidden[-1].expand(items, -1, -1), weight))
            hidden[-1].view(torch.int16).relu_()
        ctx.save_for_backward(*hidden, *weights)
        ctx.leaves = [(len(leaf), leaf.dtype) for leaf in leaves]
        return torch.baddbmm(each_bias[-1].mT, each_weight[-1].mT, hidden[-1].expand(items, -1, -1).mT).mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        depth, items = len(ctx.leaves) // 2, len(g)
        saved = ctx.saved_tensors  # read once: each reading is an unpacking, and checkpoints allow one
        hidden, weights = saved[:depth], saved[depth:]
        grads: list[Tensor | None] = [None] * (2 * depth)
        for index in reversed(range(depth)):
            h, weight = hidden[index], weights[index]
            for place, wanted in ((index, _weight_gradient), (depth + index, _bias_gradient)):
                if ctx.needs_input_grad[3 + place]:
                    count, kind = ctx.leaves[place]
                    grads[place] = wanted(h.expand(items, -1, -1), g, count).to(kind)
            if not index and not ctx.needs_input_grad[0]:
                return None, None, None, *grads
            g = torch.bmm(g, weight.mT.expand(items, -1, -1))
            if index:
                bits = g.view(torch.int16)
                torch.ops.aten.threshold_backward.grad_input(bits, h.view(torch.int16), 0, grad_input=bits)
        return g.sum(0, keepdim=True) if len(hidden[0]) < items else g, None, None, *grads


def _weight_gradient(h: Tensor, g: Tensor, count: int) -> Tensor:
    """Return h^T g (B, I, O) of the points of each item, or, where ``count`` is 1, of all items' points together."""
    if count == 1:
        h, g = h.reshape(1, -1, h.shape[-1]), g.reshape(1, -1, g.shape[-1])
    if g.shape[-1] < h.shape[-1]:
        return torch.bmm(g.mT, h).mT  # a result of few rows takes half the time of one of few columns
    return torch.bmm(h.mT, g)


def _bias_gradient(h: Tensor, g: Tensor, count: int) -> Tensor:
    """Return the sum of g over points, (B, 1, O), or, where ``count`` is 1, over all items too."""
    return g.sum((0, 1) if count == 1 else 1).view(count, 1, -1)
