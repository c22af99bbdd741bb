"""The Triton kernel that renders generated fields, and what its backward pass shares with it.

A program works on a tile of ROWS points: RAYS rays of one item by SAMPLES places along each. The activations of a tile
stay in registers from layer to layer, while the item's weights stream through shared memory. Widths are padded with
zeros to WIDTH, a power of two. A layer is computed in PARTS parts of COLUMNS outputs, two of them at a time, so that
the weights of the next two arrive while these are multiplied.

Two traps that the interpreter does not show: where two names stand for one tensor before a loop that gives one the
other's value, the compiler sees no change and does not carry it; and an integer argument that happens to be 1 is not a
tensor, unless it is not specialised.
"""

# ruff: noqa: RET505, SIM300 - Triton compiles only the branch that is taken where there is an else
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]


@triton.jit
def cos_sin(angle):
    """Cosine and sine in float32, to 1e-7 for angles up to some ten thousand.

    The quadrant is found by rounding (1.5 * 2^23 leaves no bits behind the point), pi / 2 is taken off in three parts
    whose multiples are exact (Cody and Waite), and the rest in [-pi / 4, pi / 4] goes to two polynomials.
    """
    shifted = angle * 0.6366197723675814 + 12582912.0
    quadrant = shifted.to(tl.int32, bitcast=True)
    turns = shifted - 12582912.0
    r = angle - turns * 1.5703125
    r = r - turns * 4.837512969970703125e-4
    r = r - turns * 7.549789954891882e-8
    r2 = r * r
    sine = r + r * r2 * (-1.6666654611e-1 + r2 * (8.3321608736e-3 + r2 * -1.9515295891e-4))
    cosine = 1.0 + r2 * (-0.5 + r2 * (4.166664568298827e-2 + r2 * (-1.388731625493765e-3 + r2 * 2.443315711809948e-5)))
    odd = (quadrant & 1) != 0
    cos = tl.where(odd, sine, cosine).to(tl.int32, bitcast=True) ^ (((quadrant + 1) & 2) << 30)
    sin = tl.where(odd, cosine, sine).to(tl.int32, bitcast=True) ^ ((quadrant & 2) << 30)
    return cos.to(tl.float32, bitcast=True), sin.to(tl.float32, bitcast=True)


@triton.jit
def one_minus_exp(x):
    """1 - exp(-x) for x >= 0, without cancellation where x is small."""
    series = x * (1.0 - x * (0.5 - x * (1.0 / 6 - x * (1.0 / 24 - x * (1.0 / 120 - x * (1.0 / 720 - x / 5040))))))
    return tl.where(x < 0.5, series, 1.0 - tl.exp(-x))


@triton.jit
def log_one_plus(x):
    """log(1 + x) for x in [0, 1], without cancellation: what 1 + x rounds away is put back as a factor."""
    rounded = 1.0 + x
    kept = rounded - 1.0
    return tl.where(kept == 0.0, x, tl.log(rounded) * (x / tl.where(kept == 0.0, 1.0, kept)))


@triton.jit
def density_of(raw, scale, shift, SOFTPLUS: tl.constexpr):
    """Density and its derivative with respect to the raw output."""
    x = raw + shift
    if SOFTPLUS:
        density = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + log_one_plus(tl.exp(-tl.abs(x)))
        slope = tl.sigmoid(x)
    else:
        density = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        slope = tl.where(x > 0.0, 1.0, 0.0)
    return density * scale, slope * scale


@triton.jit
def place(near, step, jitter, ray, s, samples, BINS: tl.constexpr, JITTER: tl.constexpr):
    """Place t and length of the interval of samples ``s`` of rays ``ray``; see ``reference.place_samples``."""
    start = tl.load(near + ray)
    width = tl.load(step + ray)
    index = s.to(tl.float32)
    offset = 0.5 if BINS else 0.0
    after = 1.0
    if JITTER:
        offset = tl.load(jitter + ray * samples + s, mask=s < samples, other=0.0)
        after = 1.0 + tl.load(jitter + ray * samples + s + 1, mask=s + 1 < samples, other=0.0)
    t = start + (index + offset) * width
    if BINS:
        length = width + 0.0 * index
    else:
        last = tl.where(width > 0.0, 1e-3, 0.0)
        length = tl.where(s + 1 < samples, start + (index + after) * width - t, last)
    return t, length


@triton.jit
def encode(origins, directions, table, ray, t, HALF: tl.constexpr, KIND: tl.constexpr):
    """Encode points o + t d; gives two tiles (ROWS, HALF): cosines with the coordinates themselves, and sines."""
    columns = tl.arange(0, HALF)
    band = tl.load(table + columns)
    axis = tl.load(table + HALF + columns).to(tl.int32)
    plain = tl.load(table + 2 * HALF + columns) > 0.0
    at = ray[:, None] * 3 + axis[None, :]
    x = tl.load(origins + at) + t[:, None] * tl.load(directions + at)
    cos, sin = cos_sin(x * band[None, :])
    return tl.where(plain[None, :], x, cos).to(KIND), sin.to(KIND)


@triton.jit
def hold(a, b, RELU: tl.constexpr, KIND: tl.constexpr, ASM: tl.constexpr):
    """Hold two tiles, after a ReLU if asked for: as they are in float32, else two values of 16 bits in a word of 32.

    Through a loop, values of 16 bits that are carried apart would fill a register of 32 bits each. NaN stays NaN. With
    ASM one instruction does it; what the compiler finds by itself is four, the conversions at an eighth of the rate.
    """
    if RELU and (KIND == tl.float32 or not ASM):
        a = tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)
        b = tl.maximum(b, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if KIND == tl.float32:
        return (a, b)
    elif ASM:
        code: tl.constexpr = "cvt.rn" + (".relu" if RELU else "") + (".bf16x2" if KIND == tl.bfloat16 else ".f16x2")
        return (tl.inline_asm_elementwise(code + ".f32 $0, $2, $1;", "=r,r,r", [a, b], tl.uint32, True, 1),)
    else:
        low = a.to(KIND).to(tl.uint16, bitcast=True).to(tl.uint32)
        high = b.to(KIND).to(tl.uint16, bitcast=True).to(tl.uint32)
        return (low | (high << 16),)


@triton.jit
def nothing(ROWS: tl.constexpr, COLUMNS: tl.constexpr, KIND: tl.constexpr):
    """Two tiles of zeros as ``hold`` gives them."""
    return hold(tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32), False, KIND, False)


@triton.jit
def part(held, CHUNK: tl.constexpr, KIND: tl.constexpr):
    """Return tile ``CHUNK`` of those that were held by ``hold``."""
    if KIND == tl.float32:
        return held[CHUNK]
    else:
        bits = held[CHUNK // 2]
        bits = bits >> 16 if CHUNK % 2 else bits & 0xFFFF
        return bits.to(tl.uint16).to(KIND, bitcast=True)


@triton.jit
def two_products(held, weight, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr, KIND: tl.constexpr):
    """Multiply activations (ROWS, PARTS * COLUMNS) by two neighbouring blocks (PARTS * COLUMNS, COLUMNS) of weights."""
    offsets = tl.arange(0, COLUMNS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    a = tl.zeros((ROWS, COLUMNS), tl.float32)
    b = tl.zeros((ROWS, COLUMNS), tl.float32)
    for chunk in tl.static_range(PARTS):
        h = part(held, chunk, KIND)
        at = weight + chunk * (COLUMNS * COLUMNS) + offsets
        a = tl.dot(h, tl.load(at), a, input_precision="ieee")
        b = tl.dot(h, tl.load(at + PARTS * COLUMNS * COLUMNS), b, input_precision="ieee")
    return a, b


@triton.jit
def bias_of(bias, COLUMNS: tl.constexpr):
    """Load the biases of COLUMNS outputs, (1, COLUMNS)."""
    return tl.load(bias + tl.arange(0, COLUMNS))[None, :]


@triton.jit
def keep(at, held, COLUMNS: tl.constexpr, KIND: tl.constexpr):
    """Write two neighbouring tiles, as ``hold`` gives them, to rows ``at`` (ROWS, 1)."""
    columns = tl.arange(0, COLUMNS)[None, :]
    tl.store(at + columns, part(held, 0, KIND))
    tl.store(at + COLUMNS + columns, part(held, 1, KIND))


@triton.jit
def evaluate(
    cos, sin, w_in, w_hidden, w_out, bias, bias_out, hidden, inputs, total,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, HALF: tl.constexpr, KIND: tl.constexpr,
    STAGES: tl.constexpr, KEEP: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Apply all layers to encoded points; gives the raw outputs (ROWS, 16), four of them real.

    With KEEP the input of each layer but the first is written to ``inputs`` (layer, row, WIDTH), ``inputs`` pointing
    at the tile's rows (ROWS, 1) which has ``total`` rows for each layer.
    """
    PARTS: tl.constexpr = WIDTH // COLUMNS
    PAIRS: tl.constexpr = PARTS // 2
    columns = tl.arange(0, COLUMNS)
    block = tl.arange(0, HALF)[:, None] * COLUMNS + columns[None, :]
    first = nothing(ROWS, COLUMNS, KIND)
    h = nothing(ROWS, COLUMNS, KIND)
    for j in tl.range(0, PAIRS, num_stages=STAGES):
        w = w_in + j * (4 * HALF * COLUMNS) + block
        a = tl.dot(cos, tl.load(w), input_precision="ieee")
        a = tl.dot(sin, tl.load(w + HALF * COLUMNS), a, input_precision="ieee")
        b = tl.dot(cos, tl.load(w + 2 * HALF * COLUMNS), input_precision="ieee")
        b = tl.dot(sin, tl.load(w + 3 * HALF * COLUMNS), b, input_precision="ieee")
        at = bias + 2 * j * COLUMNS
        h = hold(a + bias_of(at, COLUMNS), b + bias_of(at + COLUMNS, COLUMNS), True, KIND, ASM)
        if KEEP:
            keep(inputs + 2 * j * COLUMNS, h, COLUMNS, KIND)
        if j == 0:
            first = h
    if PAIRS == 2:
        h = first + h
    for j in tl.range(0, hidden * PAIRS, num_stages=STAGES):
        a, b = two_products(h, w_hidden + j * (2 * WIDTH * COLUMNS), ROWS, COLUMNS, PARTS, KIND)
        at = bias + WIDTH + 2 * j * COLUMNS
        held = hold(a + bias_of(at, COLUMNS), b + bias_of(at + COLUMNS, COLUMNS), True, KIND, ASM)
        if KEEP:
            layer = inputs + (j // PAIRS + 1) * total * WIDTH
            keep(layer + j % PAIRS * (2 * COLUMNS), held, COLUMNS, KIND)
        if PAIRS == 1:
            h = held
        else:
            if j % 2 == 0:
                first = held
            else:
                h = first + held
    outputs = columns[:, None] * 16 + tl.arange(0, 16)[None, :]
    raw = tl.zeros((ROWS, 16), tl.float32)
    for chunk in tl.static_range(PARTS):
        w = tl.load(w_out + chunk * (COLUMNS * 16) + outputs)
        raw = tl.dot(part(h, chunk, KIND), w, raw, input_precision="ieee")
    return raw + bias_of(bias_out, 16)


@triton.jit
def output(raw, CHANNEL: tl.constexpr):
    """Return one column of the raw outputs (ROWS, 16)."""
    return tl.sum(tl.where((tl.arange(0, 16) == CHANNEL)[None, :], raw, 0.0), 1)


@triton.jit
def rays_of(item, first, rays, RAYS: tl.constexpr, SAMPLES: tl.constexpr):
    """Return the ray, counted over all items, of each row of a tile: one value where the tile holds one ray.

    Rays beyond the last of the item are its last.
    """
    local = tl.arange(0, RAYS * SAMPLES) // SAMPLES if RAYS > 1 else tl.arange(0, 1)
    return item * rays + tl.minimum(first + local, rays - 1)


@triton.jit(
    do_not_specialize=["rays", "samples", "hidden", "blocks", "weight_items", "bias_items", "scale", "shift", "plane"]
)
def render_forward(
    origins, directions, near, step, jitter, table, w_in, w_hidden, w_out, bias, bias_out, out,
    rays, samples, hidden, blocks, weight_items, bias_items, scale, shift, plane,
    RAYS: tl.constexpr, SAMPLES: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, HALF: tl.constexpr,
    KIND: tl.constexpr, STAGES: tl.constexpr, BINS: tl.constexpr, JITTER: tl.constexpr, SOFTPLUS: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Render RAYS rays of one item: red, green, blue and depth in front of nothing, and opacity, (5, B, R)."""
    ROWS: tl.constexpr = RAYS * SAMPLES
    item = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    ray = rays_of(item, block * RAYS, rays, RAYS, SAMPLES)
    local = tl.arange(0, ROWS) % SAMPLES
    own = item * weight_items
    own_bias = item * bias_items
    layers = hidden.to(tl.int64)
    red = tl.zeros((RAYS,), tl.float32)
    green = tl.zeros((RAYS,), tl.float32)
    blue = tl.zeros((RAYS,), tl.float32)
    depth = tl.zeros((RAYS,), tl.float32)
    passed = tl.zeros((RAYS,), tl.float32)
    for first in tl.range(0, samples, SAMPLES, disable_licm=True):  # moving loads out of it costs registers
        s = first + local
        t, length = place(near, step, jitter, ray, s, samples, BINS, JITTER)
        cos, sin = encode(origins, directions, table, ray, t, HALF, KIND)
        raw = evaluate(
            cos, sin, w_in + own * (2 * HALF * WIDTH), w_hidden + own * layers * (WIDTH * WIDTH),
            w_out + own * (WIDTH * 16), bias + own_bias * (layers + 1) * WIDTH, bias_out + own_bias * 16, hidden,
            out, 0, ROWS, WIDTH, COLUMNS, HALF, KIND, STAGES, False, ASM,
        )  # fmt: skip
        density, _ = density_of(output(raw, 3), scale, shift, SOFTPLUS)
        thickness = tl.reshape(tl.where(s < samples, density * length, 0.0), (RAYS, SAMPLES))
        before = passed[:, None] + (tl.cumsum(thickness, 1) - thickness)
        weight = tl.exp(-before) * one_minus_exp(thickness)
        red += tl.sum(weight * tl.reshape(tl.sigmoid(output(raw, 0)), (RAYS, SAMPLES)), 1)
        green += tl.sum(weight * tl.reshape(tl.sigmoid(output(raw, 1)), (RAYS, SAMPLES)), 1)
        blue += tl.sum(weight * tl.reshape(tl.sigmoid(output(raw, 2)), (RAYS, SAMPLES)), 1)
        depth += tl.sum(weight * tl.reshape(t, (RAYS, SAMPLES)), 1)
        passed += tl.sum(thickness, 1)
    index = block * RAYS + tl.arange(0, RAYS)
    live = index < rays
    target = out + item * rays + index
    size = plane.to(tl.int64)
    tl.store(target, red, mask=live)
    tl.store(target + size, green, mask=live)
    tl.store(target + 2 * size, blue, mask=live)
    tl.store(target + 3 * size, depth, mask=live)
    tl.store(target + 4 * size, one_minus_exp(passed), mask=live)
