"""The rows of rendering: one view of a trained field, several fields at once, and memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hyperkit.bench import arithmetic
from hyperkit.bench.measure import Candidate
from hyperkit.bench.memory import peak_memory
from hyperkit.bench.plain import RAYS_AT_ONCE, PlainField, PlainSettings, plain_view
from hyperkit.bench.report import Row, timed_row
from hyperkit.bench.settings import Bench
from hyperkit.bench.trained_field import psnr
from hyperkit.bench.training import Setting, layer_shapes
from hyperkit.contracts import TargetParams
from hyperkit.geometry import picture_rays, turntable
from hyperkit.models.field import Field, Views
from hyperkit.models.predictor import autocast


class RenderedView:
    """The view of the trained field that is rendered, by the package and by the baseline.

    Args:
        bench: the run.
    """

    def __init__(self, bench: Bench) -> None:
        self.known, self.size, self.samples = bench.field, bench.sizes.view, bench.sizes.samples
        self.field = self.known.field
        framing = self.field.framing
        renderer = self.field.renderer.model_copy(update={"samples": self.samples})
        self.settings = PlainSettings.of(self.field.target, renderer, framing.near, framing.far, bench.device)
        self.plain_field = PlainField.of(self.field.params)
        self.pose = self.known.pose.to(bench.device)
        self.focal = float(framing.cameras(self.known.pose[None], self.size).focal[0])

    def fresh(self) -> Field:
        """Return the field with weights that nothing is known of yet, as a hypernetwork has just written them."""
        return replace(self.field, params=self.field.params.map(torch.clone))

    def fast(self, poses: Tensor | None = None) -> Views:
        """Render poses, by default the one view, of a fresh field."""
        poses = self.known.pose[None] if poses is None else poses
        return self.fresh().render(poses=poses, size=self.size, samples=self.samples, quality="fast")

    def exact(self) -> Tensor:
        """Render the view with the package's exact path in float32, (S, S, 3)."""
        field = replace(self.field, precision=torch.float32)
        found = field.render(poses=self.known.pose[None], size=self.size, samples=self.samples, quality="exact")
        return found.rgb[0]

    def plain(self, rays: int | None = None) -> Tensor:
        """Render the view, or its first rays, with the baseline, (S, S, 3)."""
        return plain_view(self.plain_field, self.pose, self.focal, self.size, self.settings, rays).cpu()


def render_128(bench: Bench) -> Row:
    """Time one view of the trained field, what is built for a fresh field included, against the dense baseline."""
    view = RenderedView(bench)
    turn = turntable(bench.sizes.turntable, radius=view.field.framing.radius)
    times = bench.compare(
        Candidate(view.fast),
        Candidate(view.plain, lambda: view.plain(RAYS_AT_ONCE), calls=1),
        turn=Candidate(lambda: view.fast(turn), view.fast, calls=1),
    )
    found, dense, exact = view.fast(), view.plain(), view.exact()
    fast = found.rgb[0]
    points = view.size**2 * view.samples
    work = points * arithmetic.mlp(layer_shapes(view.field.target))
    seconds = times.median("fast")
    quality: dict[str, Any] = {
        "psnr": psnr(fast, dense),
        "psnr_truth": view.known.psnr(fast),
        "psnr_truth_baseline": view.known.psnr(dense),
        "exact_error": (exact - dense).abs().max().item(),
        "culled": found.culled,
    }
    rates: dict[str, Any] = {
        "rays_per_s": view.size**2 / seconds,
        "points_per_s": points / seconds,
        "turntable_ms": 1e3 * times.median("turn") / len(turn),
        "dense_share_of_matmul": times.share("fast", work, "product", bench.product.flops),
    }
    evaluated = work * (1 - found.culled)  # only what is computed counts, whatever the picture would have cost
    return timed_row(bench, "render_128", times, evaluated, **quality, **rates, note=view.known.note)


def render_batch_8(bench: Bench) -> Row:
    """Time dense views of several fields at once, each with weights of its own, as evaluation renders them."""
    view, sizes = RenderedView(bench), bench.sizes
    count = sizes.batch_items
    setting = Setting.open(bench, count, sizes.rays, backbone="nano")
    model = setting.model
    model.target, model.renderer = view.field.target, view.settings.renderer
    params = TargetParams(
        {name: tensor.repeat(count, 1, 1) for name, tensor in view.field.params.tensors.items()}, view.field.params.spec
    )
    poses = turntable(count, radius=view.field.framing.radius).to(bench.device)
    rays = picture_rays(view.field.framing.cameras(poses, view.size).to(bench.device))

    @torch.no_grad()
    def fast() -> Any:
        with autocast(bench.device, bench.precision):
            return model.render(params, rays)

    def plain() -> None:
        for pose in poses:
            plain_view(view.plain_field, pose, view.focal, view.size, view.settings)

    times = bench.compare(Candidate(fast), Candidate(plain, view.plain, calls=1))
    points = count * view.size**2 * view.samples
    work = points * arithmetic.mlp(layer_shapes(view.field.target))
    rate = count / times.median("fast")
    rates: dict[str, Any] = {
        "items_per_s": rate,
        "rays_per_s": rate * view.size**2,
        "points_per_s": points / times.median("fast"),
    }
    return timed_row(bench, "render_batch_8", times, work, **rates, note=f"{count} fields, all samples")


def render_memory_1024(bench: Bench) -> Row:
    """Compare the peak memory of processes that render a large picture with that of others that render a small one.

    The baseline renders its first four parts of 1,024 rays: the others need no more.
    """
    view = RenderedView(bench)
    small, large = bench.sizes.pictures
    rounds = bench.repeats if bench.device.type == "cuda" else 1  # on CPUs it takes the time of eight dense views
    view.fast()  # what is measured once per machine is measured here, not in one of the processes
    own = [_above(bench, view, small, large, plain=False) for _ in range(rounds)]
    base = [_above(bench, view, small, large, plain=True) for _ in range(rounds)]
    middle = sorted(range(rounds), key=lambda index: own[index][0])[rounds // 2]
    more = {"small_mb": own[middle][1], "large_mb": own[middle][2]}
    note = f"above {small}x{small}, for {large}x{large} at {view.samples} samples"
    return Row(
        "render_memory_1024", own[middle][0], "MB", sorted(b[0] for b in base)[rounds // 2], more=more | {"note": note}
    )


def _above(bench: Bench, view: RenderedView, small: int, large: int, plain: bool) -> tuple[float, float, float]:
    low, high = (
        peak_memory(view.field, view.known.pose, size, view.samples, bench.device, plain) for size in (small, large)
    )
    return high - low, low, high
