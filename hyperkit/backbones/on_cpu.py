"""What encoders compute on a CPU in bf16 in other ways than torch does by itself, because these are faster there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class cpu_patches(TorchFunctionMode):
    """While it is active, a ``conv2d`` whose kernels lie side by side is a product of patches, in autocast's type.

    On CPUs that takes a third of the time in bf16 (forward and backward of 16 pictures of 64 pixels in patches of 8:
    1.0 against 3.1 ms), and torch 2.14 leaves values of such convolutions uninitialised where the output is one
    column wide and five rows high or more.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Intercept the one function; everything else passes."""
        compute = _convolution if func is F.conv2d else func
        return compute(*args, **(kwargs or {}))


def _convolution(pictures: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    rows, columns = weight.shape[-2:]
    options = dict(zip(("stride", "padding", "dilation", "groups"), args, strict=False)) | kwargs
    if not (
        _is(options.pop("stride", 1), rows, columns)
        and _is(options.pop("padding", 0), 0, 0)
        and all(_is(value, 1, 1) for value in options.values())
        and pictures.ndim == 4
        and pictures.shape[-2] % rows == pictures.shape[-1] % columns == 0
    ):
        return F.conv2d(pictures, weight, bias, *args, **kwargs)
    grid = pictures.to(torch.get_autocast_dtype("cpu")).unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (N, rows of patches, columns of patches, C * rows * columns)
    return F.linear(patches, weight.flatten(1), bias).permute(0, 3, 1, 2)


def _is(value: Any, rows: int, columns: int) -> bool:
    return ((value, value) if isinstance(value, int) else tuple(value)) == (rows, columns)


LONGEST = 1024
"""Most keys for which the (N, M) weights are held: 2 MiB a head. Beyond, torch's kernel, which holds none, computes."""


class cpu_attention(TorchFunctionMode):
    """While it is active, ``scaled_dot_product_attention`` of bf16 tensors computes by batched matrix products.

    On CPUs torch's fused kernel is slow in a training step: forward and backward with 4 items, 12 heads of 64 and 361
    tokens take 69 ms in bf16 and 76 ms in float32, these products 37 ms (one core with AMX). What has a mask, dropout
    or more than ``LONGEST`` keys goes to torch's kernel in float32, which is faster than its bf16 with short sequences.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Intercept the one function; everything else passes."""
        compute = _attention if func is F.scaled_dot_product_attention else func
        return compute(*args, **(kwargs or {}))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, *args: Any, scale: float | None = None, **kwargs: Any
) -> Tensor:
    fused: Callable[..., Tensor] = F.scaled_dot_product_attention
    if query.dtype != torch.bfloat16:
        return fused(query, key, value, *args, scale=scale, **kwargs)
    options = (*args, *kwargs.values())  # mask, dropout, causal, fewer keys than heads
    plain = not any(isinstance(option, Tensor) or option for option in options)
    with torch.autocast("cpu", enabled=False):
        if plain and key.shape[-2] <= LONGEST:
            result: Tensor = _Attention.apply(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
            return result
        return fused(query.float(), key.float(), value.float(), *args, scale=scale, **kwargs).to(torch.bfloat16)


class _Attention(torch.autograd.Function):
    """softmax(scale q k^T) v of (..., N, D), (..., M, D) and (..., M, D), without a second derivative.

    A bf16 score s has an error in proportion to |s|, which the exponential makes one of the weight: 3 % at s = 16. So
    the product is taken twice: the second time each row's largest score of the first is subtracted within the product,
    whose sums are float32, and the scores that matter come out near 0, where bf16 is fine.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        power = 2.0 ** round(math.log2(scale))  # exact in bf16; with heads of 64, 16 or 256 it is the scale
        query, key, value = (query * power).contiguous(), key.contiguous(), value.contiguous()
        scores = query @ key.mT
        largest = scores.amax(-1, keepdim=True)
        one = key.new_ones(()).expand(*key.shape[:-1], 1)
        torch.matmul(torch.cat((query, -largest), -1), torch.cat((key, one), -1).mT, out=scores)
        if scale != power:
            scores.mul_(scale / power)
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scales = scale, scale / power
        return weights @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, weights = ctx.saved_tensors
        scores = torch.ops.aten._softmax_backward_data(grad @ value.mT, weights, -1, weights.dtype)
        return (scores @ key).mul_(ctx.scales[0]), (scores.mT @ query).mul_(ctx.scales[1]), weights.mT @ grad, None
