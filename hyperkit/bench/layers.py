"""The rows of a field's layers alone: what the processor makes of the network's own arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hyperkit.bench import arithmetic
from hyperkit.bench.measure import Candidate, quantiles
from hyperkit.bench.report import Row
from hyperkit.bench.settings import Bench
from hyperkit.bench.training import layer_shapes
from hyperkit.contracts import TargetParams
from hyperkit.kernels.tuning import CHUNKS, fastest
from hyperkit.randomness import torch_rng
from hyperkit.renderers.fused import field_points
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig


def field_mlp_256(bench: Bench) -> Row:
    """Measure the hidden layers of the papers' field."""
    return field_mlp(bench, "field_mlp_256", bench.sizes.width)


def field_mlp_64(bench: Bench) -> Row:
    """Measure those of a narrow one, such as the quickstart's."""
    return field_mlp(bench, "field_mlp_64", bench.sizes.narrow)


@torch.no_grad()
def field_mlp(bench: Bench, name: str, width: int) -> Row:
    """Compare the rate of linear layers with bias and ReLU, in the best chunk, with the baseline's and the product's.

    The package's layers run in the precision that rendering takes; the baseline's in float32, over all points at once.
    """
    target = RadianceField(RadianceFieldConfig(depth=bench.sizes.depth, width=width))
    params, points = random_params(target, bench.device), random_points(bench.sizes.points, bench.device)
    hidden = target.config.depth - 1
    encoded = target.encoding(points)
    low = encoded[0].to(bench.product.dtype)
    own = field_points(target, params, bench.product.dtype)
    own(points[0])  # makes its buffers as large as any chunk
    shapes = layer_shapes(target)

    def layers(chunk: int) -> None:
        for part in low.split(chunk):
            own.hidden_layers(part)

    def whole(chunk: int) -> None:
        for part in points[0].split(chunk):
            own(part)

    def plain() -> None:
        h = encoded
        for index in range(hidden):
            h = F.relu(torch.bmm(h, params[f"layer{index}.weight"]) + params[f"layer{index}.bias"])

    sizes = [size for size in CHUNKS if size < bench.sizes.points] + [bench.sizes.points]
    best, best_whole = fastest(sizes, layers, bench.device), fastest(sizes, whole, bench.device)
    times = bench.compare(
        Candidate(lambda: layers(best)), Candidate(plain), encoded=Candidate(lambda: whole(best_whole))
    )
    work = bench.sizes.points * arithmetic.mlp(shapes[:hidden])
    rates = [work / seconds / 1e12 for seconds in times.seconds["fast"]]
    all_work = bench.sizes.points * arithmetic.mlp(shapes)
    more = {
        **quantiles(rates),
        "points_per_s": bench.sizes.points / times.median("fast"),
        "chunk": best,
        "with_encoding_share": times.share("encoded", all_work, "product", bench.product.flops),
        "with_encoding_chunk": best_whole,
        "matmul_tflops": bench.product.flops / times.median("product") / 1e12,
        "note": f"{hidden} layers of {width}, {best} points at once",
    }
    return Row(
        name,
        work / times.median("fast") / 1e12,
        "TFLOP/s",
        work / times.median("plain") / 1e12,
        times.ratio("plain", "fast"),
        times.share("fast", work, "product", bench.product.flops),
        more,
    )


def random_params(target: RadianceField, device: torch.device) -> TargetParams:
    """Draw one field whose activations keep their variance through the layers."""
    generator = torch_rng("bench", "field")
    tensors = {}
    for name, spec in target.spec.tensors.items():
        scale = math.sqrt(2 / spec.shape[0]) if name.endswith(".weight") else 0.0
        tensors[name] = (torch.randn(1, *spec.shape, generator=generator) * scale).to(device)
    return TargetParams(tensors, target.spec)


def random_points(count: int, device: torch.device) -> Tensor:
    """Draw positions (1, count, 3) in the cube [-1, 1]^3."""
    return (2 * torch.rand(1, count, 3, generator=torch_rng("bench", "points")) - 1).to(device)
