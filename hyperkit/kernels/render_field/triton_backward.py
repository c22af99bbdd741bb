"""The Triton kernels of the backward pass through rendered fields, which computes the forward pass again.

One keeps the inputs of all layers of a chunk of rays, one goes from the gradients of the rays to those of the raw
outputs, one carries these back through the layers. What is left, products of inputs and gradients, is ordinary.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

from hyperkit.kernels.render_field.triton_forward import (
    density_of,
    encode,
    evaluate,
    hold,
    keep,
    nothing,
    one_minus_exp,
    place,
    rays_of,
    two_products,
)


@triton.jit(
    do_not_specialize=[
        "rays", "samples", "hidden", "blocks", "weight_items", "bias_items", "first_ray", "chunk", "total"
    ]
)  # fmt: skip
def render_recompute(
    origins, directions, near, step, jitter, table, w_in, w_hidden, w_out, bias, bias_out, encoded, inputs, raw_out,
    rays, samples, hidden, blocks, weight_items, bias_items, first_ray, chunk, total,
    RAYS: tl.constexpr, SAMPLES: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, HALF: tl.constexpr,
    KIND: tl.constexpr, STAGES: tl.constexpr, BINS: tl.constexpr, JITTER: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Evaluate one tile of ``chunk`` rays of each item again, and keep the layers' inputs and the raw outputs.

    ``encoded`` (N, 2 * HALF), ``inputs`` (layer, N, WIDTH) and ``raw_out`` (N, 4) have a row for each item, ray of the
    chunk, and sample, the samples rounded up to whole tiles of which there are ``blocks``.
    """
    ROWS: tl.constexpr = RAYS * SAMPLES
    tile = tl.program_id(0)
    group = (tile // blocks).to(tl.int64)
    item = group // (chunk // RAYS)
    first = (group % (chunk // RAYS)).to(tl.int32) * RAYS
    ray = rays_of(item, first_ray + first, rays, RAYS, SAMPLES)
    local = tl.arange(0, ROWS)
    s = (tile % blocks) * SAMPLES + local % SAMPLES
    row = (item * chunk + first + local // SAMPLES) * (blocks * SAMPLES) + s
    t, _ = place(near, step, jitter, ray, s, samples, BINS, JITTER)
    cos, sin = encode(origins, directions, table, ray, t, HALF, KIND)
    columns = tl.arange(0, HALF)[None, :]
    tl.store(encoded + row[:, None] * (2 * HALF) + columns, cos)
    tl.store(encoded + row[:, None] * (2 * HALF) + HALF + columns, sin)
    own = item * weight_items
    own_bias = item * bias_items
    layers = hidden.to(tl.int64)
    raw = evaluate(
        cos, sin, w_in + own * (2 * HALF * WIDTH), w_hidden + own * layers * (WIDTH * WIDTH),
        w_out + own * (WIDTH * 16), bias + own_bias * (layers + 1) * WIDTH, bias_out + own_bias * 16, hidden,
        inputs + row[:, None] * WIDTH, total.to(tl.int64), ROWS, WIDTH, COLUMNS, HALF, KIND, STAGES, True, ASM,
    )  # fmt: skip
    outputs = tl.arange(0, 16)[None, :]
    tl.store(raw_out + row[:, None] * 4 + outputs, raw, mask=outputs < 4)


@triton.jit(do_not_specialize=["rays", "samples", "blocks", "first_ray", "chunk", "padded", "scale", "shift", "plane"])
def composite_backward(
    near, step, jitter, raw_in, grad_out, grad_raw,
    rays, samples, blocks, first_ray, chunk, padded, scale, shift, plane,
    RAYS: tl.constexpr, SAMPLES: tl.constexpr, KIND: tl.constexpr,
    BINS: tl.constexpr, JITTER: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Turn the gradient of the five sums of each ray into that of the raw outputs (N, 16) of its samples.

    With u_i the gradient's product with (colour, t, 1) of sample i, and x_i its optical thickness, the loss is
    sum_i w_i u_i, so that dL/dx_i = T_{i+1} u_i - sum_{j>i} w_j u_j. The rays are gone through twice, from the front:
    for the whole sum, and for what is left of it behind each sample; a difference, taken in float64.
    """
    item = (tl.program_id(0) // blocks).to(tl.int64)
    index = (tl.program_id(0) % blocks) * RAYS + tl.arange(0, RAYS)
    live = (index < chunk) & (first_ray + index < rays)
    ray = item * rays + tl.minimum(first_ray + index, rays - 1)
    size = plane.to(tl.int64)
    g_red = tl.load(grad_out + ray, mask=live, other=0.0)[:, None]
    g_green = tl.load(grad_out + size + ray, mask=live, other=0.0)[:, None]
    g_blue = tl.load(grad_out + 2 * size + ray, mask=live, other=0.0)[:, None]
    g_depth = tl.load(grad_out + 3 * size + ray, mask=live, other=0.0)[:, None]
    g_opacity = tl.load(grad_out + 4 * size + ray, mask=live, other=0.0)[:, None]
    row = ((item * chunk + tl.minimum(index, chunk - 1)) * padded)[:, None]
    total = tl.zeros((RAYS,), tl.float64)
    for again in range(2):
        passed = tl.zeros((RAYS,), tl.float32)
        seen = tl.zeros((RAYS,), tl.float64)
        for begin in range(0, padded, SAMPLES):
            s = begin + tl.arange(0, SAMPLES)[None, :]
            inside = (s < padded) & (index < chunk)[:, None]
            t, length = place(near, step, jitter, ray[:, None], s, samples, BINS, JITTER)
            at = raw_in + (row + s) * 4
            red = tl.sigmoid(tl.load(at, mask=inside, other=0.0))
            green = tl.sigmoid(tl.load(at + 1, mask=inside, other=0.0))
            blue = tl.sigmoid(tl.load(at + 2, mask=inside, other=0.0))
            density, slope = density_of(tl.load(at + 3, mask=inside, other=0.0), scale, shift, SOFTPLUS)
            length = tl.where(s < samples, length, 0.0)
            thickness = tl.where(s < samples, density * length, 0.0)
            before = passed[:, None] + (tl.cumsum(thickness, 1) - thickness)
            weight = tl.exp(-before) * one_minus_exp(thickness)
            value = g_red * red + g_green * green + g_blue * blue + g_depth * t + g_opacity
            share = (weight * value).to(tl.float64)
            behind = (total[:, None] - (seen[:, None] + tl.cumsum(share, 1))).to(tl.float32)
            if again == 1:
                target = grad_raw + (row + s) * 16
                slope = (tl.exp(-before - thickness) * value - behind) * length * slope
                tl.store(target, (g_red * weight * red * (1.0 - red)).to(KIND), mask=inside)
                tl.store(target + 1, (g_green * weight * green * (1.0 - green)).to(KIND), mask=inside)
                tl.store(target + 2, (g_blue * weight * blue * (1.0 - blue)).to(KIND), mask=inside)
                tl.store(target + 3, slope.to(KIND), mask=inside)
            passed += tl.sum(thickness, 1)
            seen += tl.sum(share, 1)
        total = seen


@triton.jit
def open_gate(a, b, at, COLUMNS: tl.constexpr, KIND: tl.constexpr, ASM: tl.constexpr):
    """Pass the gradients of two neighbouring tiles on where the activations at ``at`` (ROWS, 1) are positive."""
    columns = tl.arange(0, COLUMNS)[None, :]
    a = tl.where(tl.load(at + columns) > 0.0, a, 0.0)
    b = tl.where(tl.load(at + COLUMNS + columns) > 0.0, b, 0.0)
    return hold(a, b, False, KIND, ASM)


@triton.jit(do_not_specialize=["hidden", "blocks", "weight_items", "total"])
def sweep_backward(
    grad_raw, inputs, grads, w_hidden, w_out, hidden, blocks, weight_items, total,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, KIND: tl.constexpr, STAGES: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Carry the gradient of the raw outputs back through the layers, and write it (layer, N, WIDTH) before each ReLU.

    The weights are transposed, those of the hidden layers in the order in which they are met here, from the last.
    """
    PARTS: tl.constexpr = WIDTH // COLUMNS
    PAIRS: tl.constexpr = PARTS // 2
    tile = tl.program_id(0)
    own = (tile // blocks).to(tl.int64) * weight_items
    layers = hidden.to(tl.int64)
    w_out += own * (WIDTH * 16)
    w_hidden += own * layers * (WIDTH * WIDTH)
    row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    rows = total.to(tl.int64)
    g_raw = tl.load(grad_raw + row * 16 + tl.arange(0, 16)[None, :])
    outputs = tl.arange(0, 16)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    at = (hidden * rows + row) * WIDTH
    first = nothing(ROWS, COLUMNS, KIND)
    g = nothing(ROWS, COLUMNS, KIND)
    for j in tl.range(0, PAIRS, num_stages=STAGES):
        w = w_out + j * (32 * COLUMNS) + outputs
        a = tl.dot(g_raw, tl.load(w), input_precision="ieee")
        b = tl.dot(g_raw, tl.load(w + 16 * COLUMNS), input_precision="ieee")
        g = open_gate(a, b, inputs + at + 2 * j * COLUMNS, COLUMNS, KIND, ASM)
        keep(grads + at + 2 * j * COLUMNS, g, COLUMNS, KIND)
        if j == 0:
            first = g
    if PAIRS == 2:
        g = first + g
    for j in tl.range(0, hidden * PAIRS, num_stages=STAGES):
        a, b = two_products(g, w_hidden + j * (2 * WIDTH * COLUMNS), ROWS, COLUMNS, PARTS, KIND)
        at = ((hidden - 1 - j // PAIRS) * rows + row) * WIDTH + j % PAIRS * (2 * COLUMNS)
        held = open_gate(a, b, inputs + at, COLUMNS, KIND, ASM)
        keep(grads + at, held, COLUMNS, KIND)
        if PAIRS == 1:
            g = held
        else:
            if j % 2 == 0:
                first = held
            else:
                g = first + held
