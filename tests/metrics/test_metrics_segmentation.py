"""Intersection over union, against counts by hand."""

import pytest
import torch

from hyperkit.data.parts import Parts
from hyperkit.metrics.aggregate import aggregate
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.segmentation import PartMetrics, confusion, iou, mean_iou

PARTS = Parts({"cars": {"body": 1, "wheels": 2}, "lamps": {"shade": 3, "stem": 4}})


def test_confusion_and_iou_by_hand() -> None:
    truth = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    found = torch.tensor([0, 1, 1, 1, 2, 2, 0, 0])
    counts = confusion(found, truth, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    values = iou(counts)
    # 2 of {0, 1, 6, 7}; 2 of {1, 2, 3, 4}; 1 of {4, 5, 6}; nothing of nothing
    assert values[:3].tolist() == [2 / 4, 2 / 4, 1 / 3]
    assert bool(values[3].isnan())
    assert mean_iou(counts, [1, 2, 3]) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert mean_iou(counts, [3]) is None


def test_confusion_of_several_is_each_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, found = torch.randint(0, 5, (2, 3, 50), generator=generator)
    expected = torch.zeros(3, 5, 5, dtype=torch.int64)
    for item in range(3):
        for t, p in zip(truth[item].tolist(), found[item].tolist(), strict=True):
            expected[item, t, p] += 1
    assert torch.equal(confusion(found, truth, 5), expected)
    with pytest.raises(ValueError, match="differ"):
        confusion(found[:, 1:], truth, 5)


def collect(constants: dict[str, torch.Tensor] | None = None) -> PartMetrics:
    metrics = PartMetrics(ImageMetrics(names=("psnr",)), PARTS, constants)
    pictures = torch.zeros(2, 3, 2, 2)
    # a car: body 1 of 2, wheels 0 of 1, and a lamp's shade where its wheels are; a lamp, all right
    metrics.update(
        pictures,
        pictures,
        torch.tensor([[1, 1, 3, 0], [3, 3, 4, 0]]),
        torch.tensor([[1, 0, 2, 0], [3, 3, 4, 0]]),
        ("cars/a", "lamps/b"),
        ("cars", "lamps"),
    )
    # another car, all right
    metrics.update(
        pictures[:1],
        pictures[:1],
        torch.tensor([[1, 2, 2, 0]]),
        torch.tensor([[1, 2, 2, 0]]),
        ("cars/c",),
        ("cars",),
    )
    return metrics


def test_sets_are_measured_over_all_their_pixels() -> None:
    metrics = collect()
    found = metrics.distribution()["miou"]
    body, wheels = 2 / 3, 2 / 3
    assert found["cars"] == pytest.approx((body + wheels) / 2)
    assert found["lamps"] == 1.0
    shade = 2 / 3  # the car's pixel that was taken for a shade
    assert found["all"] == pytest.approx((body + wheels + shade + 1) / 4)
    by_part = metrics.by_part()
    assert by_part["cars"]["wheels"] == {"iou": pytest.approx(wheels), "pixels": 3}
    assert list(by_part) == ["cars", "lamps"]
    assert "wheels 0.667" in metrics.notes["miou"]


def test_views_are_measured_by_themselves() -> None:
    scores = collect().scores()
    assert scores.values["object_miou"] == [(1 / 2 + 0) / 2, 1.0, 1.0]
    table = aggregate([scores], collect().distribution())
    assert table["all"]["object_miou"] == pytest.approx(0.75)
    assert table["class_mean"]["miou"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_part_that_nobody_has_or_predicts_does_not_count() -> None:
    metrics = PartMetrics(ImageMetrics(names=("psnr",)), PARTS)
    pictures, labels = torch.zeros(1, 3, 2, 2), torch.tensor([[1, 1, 0, 0]])
    metrics.update(pictures, pictures, labels, labels, ("cars/a",), ("cars",))
    assert metrics.distribution()["miou"] == {"all": 1.0, "cars": 1.0}
    assert metrics.by_part()["cars"]["wheels"] == {"iou": None, "pixels": 0}
    nothing = torch.zeros(1, 4, dtype=torch.int64)
    scores = metrics.update(pictures, pictures, nothing, nothing, ("cars/b",), ("cars",))
    assert scores.values["object_miou"] == [1.0]


def test_a_constant_map_is_measured_over_the_same_views() -> None:
    metrics = collect({"cars": torch.tensor([[1, 0], [2, 0]]), "lamps": torch.zeros(2, 2)})
    found = metrics.distribution()["miou_of_mean"]
    body, wheels = 1.0, 2 / 3  # of the second car it has one wheel of two
    assert found["cars"] == pytest.approx((body + wheels) / 2)
    assert found["lamps"] == 0.0
    assert metrics.by_part()["cars"]["wheels"]["iou_of_mean"] == pytest.approx(wheels)
