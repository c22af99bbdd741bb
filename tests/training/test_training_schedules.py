"""Schedules against their closed forms."""

from __future__ import annotations

import math

import pytest

from hyperkit.training.config import TrainingConfig
from hyperkit.training.schedules import cosine, multiplier, step_decay


def rates(steps: int, **values: object) -> list[float]:
    config = TrainingConfig(steps=steps, **values)  # type: ignore[arg-type]
    return [multiplier(config, (i + 0.5) / steps) for i in range(steps)]


def test_step_divides_by_ten_after_eighty_percent() -> None:
    assert rates(10, schedule="step") == [1.0] * 8 + [0.1] * 2
    assert rates(1000, schedule="step").index(0.1) == 800
    assert step_decay(0.5, at=0.5, factor=0.3) == 0.3


def test_cosine_rises_linearly_and_falls_along_half_a_cosine() -> None:
    assert [cosine(p) for p in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-12)
    assert cosine(0.1 + 0.9 / 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
    values = rates(1000, schedule="cos")
    assert values.index(max(values)) == 100
    assert values[:100] == pytest.approx([(i + 0.5) / 100 for i in range(100)])
    assert sum(values) / 1000 == pytest.approx(0.1 * 0.5 + 0.9 * 0.5, abs=1e-4)  # both parts have mean 1/2
    assert values[0] > 0
    assert 0 < values[-1] < 1e-5


def test_cosine_without_warmup_starts_at_one() -> None:
    assert cosine(0.0, warmup=0.0) == 1.0


def test_constant_is_one() -> None:
    assert rates(5, schedule="constant") == [1.0] * 5
