"""The row of a training step with a ViT-B."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from hyperkit.bench.measure import Candidate
from hyperkit.bench.report import Row, timed_row
from hyperkit.bench.settings import Bench
from hyperkit.bench.training import Setting, opened_steps, training_work
from hyperkit.bench.worker import Side, Worker

SIDES: tuple[Side, Side] = ("fast", "plain")


def train_step_vit_b(bench: Bench) -> Row:
    """Time a training step as the loop makes it, its batch included, against the baseline with the same network.

    Each side runs in a process of its own where that makes a difference; see ``bench.worker``.
    """
    sizes = bench.sizes
    with ExitStack() as stack:
        fast, plain = (_step(stack, bench, side) for side in SIDES)
        times = bench.compare(Candidate(fast, calls=1), Candidate(plain, calls=1))
    setting = Setting.open(bench, sizes.batch, sizes.rays)
    samples = setting.renderer.samples
    work = sizes.batch * training_work(setting.model, samples * sizes.rays, sizes.view)
    shape = f"batch {sizes.batch}, {sizes.rays} rays, {samples} samples"
    rays = sizes.batch * sizes.rays / times.median("fast")
    rates: dict[str, Any] = {"items_per_s": sizes.batch / times.median("fast"), "rays_per_s": rays}
    rates |= {"points_per_s": rays * samples, "note": f"{shape}, {setting.task.config.backbone.name}"}
    return timed_row(bench, "train_step_vit_b", times, work, **rates)


def _step(stack: ExitStack, bench: Bench, side: Side) -> Callable[[], None]:
    return (
        stack.enter_context(Worker(bench, side)) if bench.isolated else stack.enter_context(opened_steps(bench, side))
    )
