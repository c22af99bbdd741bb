"""Timing, ratios and counts of arithmetic: against numbers worked out by hand and against torch's own counter."""

import itertools
import time
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hyperkit.bench import arithmetic, measure
from hyperkit.bench.measure import Candidate, Product, Times, quantiles, take_turns
from hyperkit.bench.plain_model import PlainModel
from hyperkit.bench.settings import Bench, sizes_for
from hyperkit.bench.training import Setting, layer_shapes, training_work
from hyperkit.randomness import StepRandom
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

CPU = torch.device("cpu")


def test_ratios_are_those_of_each_round() -> None:
    times = Times({"fast": [1.0, 2.0, 3.0], "plain": [9.0, 4.0, 30.0], "product": [2.0, 1.0, 1.5]})
    assert times.median("plain") == 9.0
    assert times.ratio("plain", "fast") == 9.0  # of 9, 2, 10; the medians' own ratio is 4.5
    # 6 operations in 1, 2, 3 s against 4 in 2, 1, 1.5 s: 6 / 2, 3 / 4, 2 / (8 / 3)
    assert times.share("fast", 6.0, "product", 4.0) == pytest.approx(0.75)


def test_quantiles_lie_between_neighbours() -> None:
    assert quantiles([5, 0, 3, 1, 4, 2]) == pytest.approx({"p20": 1.0, "p50": 2.5, "p80": 4.0})


def test_candidates_take_turns_after_warming_up() -> None:
    order: list[str] = []
    times = take_turns(
        {
            "a": Candidate(lambda: order.append("a"), lambda: order.append("warm"), calls=1),
            "b": Candidate(lambda: order.append("b"), calls=2),
        },
        3,
        CPU,
    )
    assert order == ["warm", "b", *["a", "b", "b"] * 3]
    assert {name: len(found) for name, found in times.seconds.items()} == {"a": 3, "b": 3}


def test_time_is_that_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += 0.005 if next(clock) else 0.5  # the first call is slow

    times = take_turns({"a": Candidate(work)}, 2, CPU)
    assert times.seconds["a"] == pytest.approx([0.005, 0.005])
    assert next(clock) == 2 + 2 * 6 == 2 + 2 * round(measure.SHORTEST / 0.005)


def test_the_papers_view_is_1_23_teraflop() -> None:
    shapes = layer_shapes(RadianceField(RadianceFieldConfig()))
    assert shapes == [(120, 256), *[(256, 256)] * 4, (256, 4)]
    by_hand = 2 * (120 * 256 + 4 * 256 * 256 + 256 * 4)
    assert arithmetic.mlp(shapes) == by_hand == 587_776
    assert 128**2 * 128 * arithmetic.mlp(shapes) == pytest.approx(1.2326e12, rel=1e-4)
    assert arithmetic.mlp_training(shapes) == 3 * by_hand - 2 * 120 * 256


def test_product_counts_2_n_cubed_and_multiplies() -> None:
    product = Product(8, torch.float32, CPU)
    assert product.flops == 1024
    found = product.candidate().run()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(8, 8, generator=generator).double() for _ in range(2))
    torch.testing.assert_close(found.double(), left @ right, atol=1e-6, rtol=0)


def test_a_training_steps_arithmetic_is_what_torch_counts() -> None:
    sizes = sizes_for(CPU, debug=True)
    setting = Setting.open(Bench(CPU, torch.float32, 1, sizes), sizes.batch, sizes.rays)
    model = PlainModel(setting.model)
    batch = setting.task.data().train_batch(0, sizes.batch)
    with FlopCounterMode(display=False) as counter:
        loss: Any = setting.task.loss(model, batch, StepRandom(0, 0))[0]
        loss.backward()
    points = sizes.rays * setting.renderer.samples
    assert counter.get_total_flops() == sizes.batch * training_work(setting.model, points, sizes.view)
