"""Attention of a training step in bf16 on a CPU, where torch's own backward pass is slow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

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
