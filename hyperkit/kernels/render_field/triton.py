"""Rendering of generated fields on a GPU: one Triton kernel from rays to colours, and a backward pass that recomputes.

Differentiable with respect to weights and biases, and to ``limit`` and ``background``; not with respect to rays, their
range, or jitter, and not twice. Memory: the results, the weights in the dtype of the products, and in the backward pass
the activations of ``CHUNK_POINTS`` points, whatever the number of rays. Runs repeat exactly: nothing is added up in an
order that varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hyperkit.kernels.render_field.reference import FieldShape, Sampling
from hyperkit.kernels.render_field.triton_backward import composite_backward, render_recompute, sweep_backward
from hyperkit.kernels.render_field.triton_forward import render_forward

CHUNK_POINTS = 1 << 17
"""Points whose activations the backward pass holds at once: 0.7 GB for six layers of 256 in bf16."""

OUTPUTS = 16
"""Columns that the last layer is padded to: the fewest that tensor cores take."""

_KINDS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}

_RAYS, _SAMPLES = 4, 64
"""Tile of the kernel that goes from rays to raw outputs."""

empty = torch.empty
"""Gives the memory that kernels fill; tests fill it with NaN first."""


@dataclass(frozen=True)
class Plan:
    """Sizes that the kernels are compiled for.

    Attributes:
        width, columns: of the hidden layers, padded; how many of its columns are computed at once, in pairs of blocks.
        half: half of the encoded values, padded: cosines (and the coordinates), or sines.
        rays, samples: of a tile; their product is its rows.
        stages: pairs of blocks whose weights are on chip at once in the forward and in the backward pass.
        registers: that a thread of the forward pass may have, so that two programs fit on a multiprocessor.
    """

    width: int
    columns: int
    half: int
    rays: int
    samples: int
    stages: tuple[int, int]
    registers: int | None


def plan_for(widest: int, encoded: int, samples: int, precision: torch.dtype, shared: int = 227 << 10) -> Plan:
    """Choose the sizes, as compiled and looked at for compute capabilities 8.0, 9.0, 10.0 and 12.0.

    Args:
        widest: outputs of the widest layer.
        encoded: number of cosines, the coordinates themselves among them.
        samples: per ray.
        precision: of the products.
        shared: bytes of shared memory that a program may have: 99, 163 or 227 KiB, according to the GPU.
    """
    width = max(32, triton.next_power_of_2(widest))
    half = max(16, triton.next_power_of_2(encoded))
    wide, small, registers = width == 256, shared < 160 << 10, None
    if precision == torch.float32:  # products on the ordinary cores: all factors pass through registers
        rows, stages = (16, (1, 1)) if wide else (32, (1, 1) if small else (2, 2))
    else:
        rows, stages = 128, (2 if wide and half > 64 else 3, 2 if width > 64 else 3)
        stages = (2, 1 if wide else 2) if small and width > 64 else stages
        registers = 128 if width <= 64 else None
    # the longest stretch of a ray that leaves little of its last tile empty: rays of one's own cost registers
    padded = {length: triton.cdiv(samples, length) * length for length in (128, 64, 32, 16) if length <= rows}
    length = max(length for length in padded if padded[length] <= 1.15 * min(padded.values()))
    return Plan(width, min(64, width // 2), half, rows // length, length, stages, registers)


def sizes_of(kernel: Any, plan: Plan, precision: torch.dtype, compiled: bool) -> dict[str, Any]:
    """Return the compile-time arguments of kernels that follow from the plan; ``compiled``, not interpreted."""
    return dict(
        RAYS=plan.rays, SAMPLES=plan.samples, ROWS=plan.rays * plan.samples, WIDTH=plan.width, COLUMNS=plan.columns,
        HALF=plan.half, KIND=_KINDS[precision], STAGES=plan.stages[kernel is not render_forward], ASM=compiled,
    )  # fmt: skip


def supports(weights: Sequence[Tensor], shape: FieldShape, precision: torch.dtype, device: torch.device) -> bool:
    """Return whether the kernels can render fields with these weights here; on a CPU they run in the interpreter."""
    if device.type == "cuda" and (torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0)):
        return False
    widest = max(weight.shape[-1] for weight in weights)
    return 2 <= len(weights) <= 8 and widest <= 256 and _encoded(shape) <= 128 and precision in _KINDS


def _encoded(shape: FieldShape) -> int:
    return 3 * (len(shape.bands) + int(shape.include_input))


@torch.compiler.disable  # compiled code calls it as it is: its parts are beyond tracing
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
    precision: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render B fields along their rays; arguments and results are those of ``reference.render_field``, in float32.

    Raises:
        ValueError: the kernels do not support the field (see ``supports``).
    """
    precision, device = precision or weights[0].dtype, origins.device
    if not supports(weights, shape, precision, device):
        raise ValueError("2 to 8 layers of at most 256, 128 encoded cosines, in bfloat16, float16 or float32, please")
    items = _items(origins, *weights, *biases)
    widest = max(weight.shape[-1] for weight in weights)
    plan = plan_for(widest, _encoded(shape), samples, precision, _shared_memory(device))
    steps = max(samples - (sampling == "endpoints"), 1)
    rays = [origins, directions, near, (far - near) / steps, origins if jitter is None else jitter]
    flags = {"BINS": sampling == "bins", "JITTER": jitter is not None, "SOFTPLUS": shape.density == "softplus"}
    scene = _Scene(
        tuple(x.detach().float().expand(items, *x.shape[1:]).contiguous() for x in rays),
        _table(shape, plan.half, device),
        samples,
        (shape.density_scale, shape.density_shift),
        plan,
        precision,
        flags,
    )
    red, green, blue, depth, opacity = _Render.apply(*_pack(weights, biases, shape, plan), scene)
    through = 1 - opacity
    rgb = torch.stack((red, green, blue), -1) + through.unsqueeze(-1) * background
    return rgb, depth + through * limit, opacity


def _items(*values: Tensor) -> int:
    """B, where each has a leading axis of B or 1."""
    return next((len(value) for value in values if len(value) != 1), 1)


def _shared_memory(device: torch.device) -> int:
    properties: Any = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return properties.shared_memory_per_block_optin if properties else 227 << 10


@lru_cache(maxsize=64)
def _table(shape: FieldShape, half: int, device: torch.device) -> Tensor:
    """Say for each of the ``half`` encoded cosines its frequency, its coordinate, and whether it is that itself."""
    count = len(shape.bands)
    table = torch.zeros(3, half)
    table[0, : 3 * count] = torch.tensor(shape.bands, dtype=torch.float64).float().repeat(3)
    table[1, : 3 * count] = torch.arange(3.0).repeat_interleave(count)
    if shape.include_input:
        own = slice(3 * count, 3 * count + 3)
        table[0, own], table[1, own], table[2, own] = 1.0, torch.arange(3.0), 1.0
    return table.to(device)


def _padded(values: Tensor, rows: int, columns: int) -> Tensor:
    return F.pad(values, (0, columns - values.shape[-1], 0, rows - values.shape[-2]))


def _pack(weights: Sequence[Tensor], biases: Sequence[Tensor], shape: FieldShape, plan: Plan) -> tuple[Tensor, ...]:
    """Pad and stack in float32: weights of the first, the hidden and the last layer, biases before and at the last.

    They have a leading axis of 1 where items share the weights, or the biases, of all layers.
    """

    def all_or_none(values: Sequence[Tensor]) -> list[Tensor]:
        return [value.float().expand(_items(*values), -1, -1) for value in values]

    first, *hidden, last = all_or_none(weights)
    count, width = 3 * len(shape.bands), plan.width
    plain, cos, sin = first.split([first.shape[1] - 2 * count, count, count], 1)
    top = _padded(torch.cat((cos, plain), 1), plan.half, width)
    w_in = torch.cat((top, _padded(sin, plan.half, width)), 1)
    if hidden:
        w_hidden = torch.stack([_padded(weight, width, width) for weight in hidden], 1)
    else:
        w_hidden = first.new_zeros(len(first), 0, width, width)
    *inner, outer = all_or_none(biases)
    bias = torch.cat([_padded(value, 1, width) for value in inner], 1)
    return w_in, w_hidden, _padded(last, width, OUTPUTS), bias, _padded(outer, 1, OUTPUTS)


def _blocked(weights: Tensor, columns: int, precision: torch.dtype) -> Tensor:
    """Cut weights (..., I, O) into blocks of ``columns`` outputs, (..., O / columns, I, columns)."""
    return weights.unflatten(-1, (-1, columns)).movedim(-2, -3).to(precision).contiguous()


def _joined(blocks: Tensor) -> Tensor:
    """Invert ``_blocked``."""
    return blocks.movedim(-3, -2).flatten(-2)


@dataclass(frozen=True)
class _Scene:
    """Everything but the weights: rays and settings, as the kernels take them."""

    rays: tuple[Tensor, ...]  # origins, directions, near, step from sample to sample, jitter
    table: Tensor
    samples: int
    density: tuple[float, float]  # scale and shift
    plan: Plan
    precision: torch.dtype
    flags: dict[str, bool]

    @property
    def size(self) -> tuple[int, int]:
        """B and R."""
        return self.rays[0].shape[0], self.rays[0].shape[1]

    def launch(self, kernel: Any, programs: int, *arguments: Any, **sizes: Any) -> None:
        """Run a kernel, with those of the sizes of the plan that it asks for and ``sizes``."""
        compiled = self.table.is_cuda
        options = sizes_of(kernel, self.plan, self.precision, compiled) | self.flags | sizes
        registers = self.plan.registers if compiled and kernel is render_forward else None
        options = {name: value for name, value in options.items() if name in kernel.arg_names}
        if programs:
            with torch.cuda.device(self.table.device) if compiled else nullcontext():
                kernel[(programs,)](*arguments, **options, num_warps=8, maxnreg=registers)


@dataclass(frozen=True)
class _Scratch:
    """What the backward pass keeps of one chunk: for each item, ray and sample a row, N in all; W is the padded width.

    Attributes:
        encoded, inputs, raw: (N, 2 * half), (L - 1, N, W), (N, 4): inputs of the first layer and the others, outputs.
        grads, grad_raw: (L - 1, N, W), (N, 16): gradients of what the layers give, before the ReLU.
        turned: the weights of the hidden layers, from the last, and of the last layer, transposed.
    """

    encoded: Tensor
    inputs: Tensor
    raw: Tensor
    grads: Tensor
    grad_raw: Tensor
    turned: tuple[Tensor, Tensor]

    @classmethod
    def take(cls, saved: Sequence[Tensor], rows: int, scene: _Scene) -> _Scratch:
        """Take the memory for N = ``rows``."""
        (_, w_hidden, w_out, bias, _), plan = saved, scene.plan
        shape = (bias.shape[1], rows, plan.width)
        low = partial(empty, dtype=scene.precision, device=bias.device)
        raw = empty((rows, 4), dtype=torch.float32, device=bias.device)
        grad_raw = torch.zeros((rows, OUTPUTS), dtype=scene.precision, device=bias.device)
        hidden = _joined(w_hidden).flip(1)
        turned = [_blocked(weight.mT, plan.columns, scene.precision) for weight in (hidden, w_out)]
        return cls(low((rows, 2 * plan.half)), low(shape), raw, low(shape), grad_raw, (turned[0], turned[1]))

    def fill(self, saved: Sequence[Tensor], scene: _Scene, grad: Tensor, first: int, chunk: int) -> None:
        """Compute everything for the rays from ``first`` on, ``chunk`` of each item."""
        (items, count), plan, rows = scene.size, scene.plan, len(self.raw)
        padded = rows // (items * chunk)
        hidden, own, own_bias = len(self.inputs) - 1, int(len(saved[0]) > 1), int(len(saved[3]) > 1)
        tiles = rows // (plan.rays * plan.samples)
        scene.launch(
            render_recompute, tiles, *scene.rays, scene.table, *saved, self.encoded, self.inputs, self.raw,
            count, scene.samples, hidden, padded // plan.samples, own, own_bias, first, chunk, rows,
        )  # fmt: skip
        blocks = triton.cdiv(chunk, _RAYS)
        scene.launch(
            composite_backward, items * blocks, *scene.rays[2:], self.raw, grad, self.grad_raw, count, scene.samples,
            blocks, first, chunk, padded, *scene.density, items * count, RAYS=_RAYS, SAMPLES=_SAMPLES,
        )  # fmt: skip
        scene.launch(
            sweep_backward, tiles, self.grad_raw, self.inputs, self.grads, *self.turned, hidden, tiles // items, own,
            rows,
        )  # fmt: skip

    def gradients(self, items: int, bias_items: int) -> tuple[Tensor, ...]:
        """Return those of the weights and biases as ``_pack`` gives them; 1 or B items."""
        encoded, outer = (x.unflatten(0, (items, -1)) for x in (self.encoded, self.grad_raw))
        inputs, layers = (x.unflatten(1, (items, -1)) for x in (self.inputs, self.grads))
        hidden = _products(inputs[:-1].flatten(0, 1), layers[1:].flatten(0, 1)).unflatten(0, (-1, items)).movedim(0, 1)
        bias = self.grads.unflatten(1, (bias_items, -1)).sum(2, dtype=torch.float32).movedim(0, 1)
        bias_out = self.grad_raw.unflatten(0, (bias_items, -1)).sum(1, keepdim=True, dtype=torch.float32)
        return _products(encoded, layers[0]), hidden, _products(inputs[-1], outer), bias, bias_out


def _products(inputs: Tensor, grads: Tensor) -> Tensor:
    """Return (K, I, O) = inputs (K, N, I) transposed times grads (K, N, O), in float32."""
    with torch.autocast(inputs.device.type, enabled=False):
        if inputs.is_cuda and inputs.dtype != torch.float32:
            return torch.bmm(inputs.mT, grads, out_dtype=torch.float32)
        return torch.bmm(inputs.mT.float(), grads.float())


class _Render(torch.autograd.Function):
    """(5, B, R): red, green, blue and depth in front of nothing, and opacity."""

    @staticmethod
    def forward(
        ctx: Any, w_in: Tensor, w_hidden: Tensor, w_out: Tensor, bias: Tensor, bias_out: Tensor, scene: _Scene
    ) -> Tensor:
        """Render, and keep no activations."""
        columns, kind = scene.plan.columns, scene.precision
        low = (_blocked(w_in, columns, kind), _blocked(w_hidden, columns, kind), w_out.to(kind).contiguous())
        saved = (*low, bias.contiguous(), bias_out.contiguous())
        ctx.scene = scene
        ctx.save_for_backward(*saved)
        items, count = scene.size
        out = empty((5, items, count), dtype=torch.float32, device=w_in.device)
        blocks = triton.cdiv(count, scene.plan.rays)
        scene.launch(
            render_forward, items * blocks, *scene.rays, scene.table, *saved, out, count, scene.samples,
            w_hidden.shape[1], blocks, int(len(w_in) > 1), int(len(bias) > 1), *scene.density, items * count,
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Go through the rays again, a chunk at a time, and add the gradients up in float32."""
        scene, saved, plan = ctx.scene, ctx.saved_tensors, ctx.scene.plan
        items, count = scene.size
        per_tile = items * triton.cdiv(scene.samples, plan.samples) * plan.samples * plan.rays
        if not per_tile * count:
            layers = (_joined(saved[0]), _joined(saved[1]), *saved[2:])
            return (*(torch.zeros_like(layer, dtype=torch.float32) for layer in layers), None)
        tiles = triton.cdiv(count, plan.rays)
        chunk = min(max(1, CHUNK_POINTS // per_tile), tiles)
        scratch = _Scratch.take(saved, per_tile * chunk, scene)
        sums: tuple[Tensor, ...] = ()
        for first in range(0, tiles, chunk):
            scratch.fill(saved, scene, grad.contiguous(), first * plan.rays, chunk * plan.rays)
            terms = scratch.gradients(len(saved[0]), len(saved[3]))
            sums = tuple(map(torch.add, sums, terms)) if sums else terms
        return (*sums, None)
