"""What a sweep will cost: from one short run per kind of cell to the time of the whole grid."""

from __future__ import annotations

import itertools

import pytest

from hyperkit.sweeps.estimate import Probe, kind_of, time_of_all

PROBE = Probe(
    start_up=2.0,
    step=0.5,
    validation=3.0,
    evaluation=7.0,
    closing=1.0,
    steps_per_epoch=19,
    encoder_parameters=10,
    parameters=12,
    peak_memory_bytes=5,
)


def training(**changes: object) -> dict[str, object]:
    return {"training": {"steps": 100, "batch_size": 4, **changes}}


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        (training(), 2 + 50 + 10 * 3 + 7 + 1),  # ten validations by default
        (training(steps=101), 2 + 50.5 + 11 * 3 + 7 + 1),  # one more at the end
        (training(validate_every=40), 2 + 50 + 3 * 3 + 7 + 1),
        (training(max_time="30s"), 2 + 30 + 7 + 1),  # the limit is on the training alone
        (training(steps=None, epochs=2), 2 + 19 + 13 * 3 + 7 + 1),  # 38 steps, a validation every 3
        (training(steps=None, epochs=2, accumulate=2), 2 + 9.5 + 19 * 3 + 7 + 1),
    ],
)
def test_the_time_of_a_cell_is_that_of_its_parts(settings: dict[str, object], seconds: float) -> None:
    assert PROBE.seconds(settings) == pytest.approx(seconds)


def test_a_kind_is_what_takes_equally_long() -> None:
    base = {"data": {"train_fraction": 1.0, "resolution": 64}, "training": {"steps": 10, "seed": 0, "batch_size": 4}}
    kind = kind_of("nvs", base)

    def changed(section: str, **values: object) -> str:
        return kind_of("nvs", {**base, section: {**base[section], **values}})

    for section, values in (("training", {"seed": 3}), ("training", {"steps": 99}), ("data", {"train_fraction": 0.1})):
        assert changed(section, **values) == kind
    for section, values in (("training", {"batch_size": 8}), ("data", {"resolution": 32})):
        assert changed(section, **values) != kind
    assert kind_of("image", base) != kind
    # an epoch's steps depend on how much data there is
    by_epochs = {**base, "training": {"epochs": 2, "batch_size": 4}}
    less = {**by_epochs, "data": {**base["data"], "train_fraction": 0.1}}
    assert kind_of("nvs", by_epochs) != kind_of("nvs", less)


def test_cells_take_the_first_free_place() -> None:
    assert time_of_all([3, 1, 1, 1], 2) == 3
    assert time_of_all([1, 1, 1, 3], 2) == 4  # in order: the long one begins at 1
    assert time_of_all([2, 5, 4], 1) == 11
    assert time_of_all([], 3) == 0


def test_the_time_of_all_lies_between_the_bounds_of_any_schedule() -> None:
    for lengths in itertools.permutations((1.0, 2.0, 3.5, 5.0)):
        for jobs in (1, 2, 3, 4):
            least = max(*lengths, sum(lengths) / jobs)
            assert least <= time_of_all(lengths, jobs) <= 2 * least
