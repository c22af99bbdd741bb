"""The error of distilled features where a view shows no object."""

from __future__ import annotations

import pytest
import torch

from hyperkit.contracts import Scores
from hyperkit.data.parts import Parts
from hyperkit.metrics import ImageMetrics, aggregate
from hyperkit.metrics.features import FeatureMetrics
from hyperkit.metrics.segmentation import PartMetrics


def test_a_view_without_an_object_has_no_error_and_counts_in_no_mean() -> None:
    metrics = FeatureMetrics(PartMetrics(ImageMetrics("cpu", ("psnr",)), Parts({"cars": {"body": 1}})))
    plain = Scores({"psnr": [1.0, 3.0]}, ("a", "b"), ("cars", "lamps"))
    found, truth = torch.full((2, 5, 3), 2.0), torch.zeros(2, 5, 3)
    shown = torch.tensor([[True, True, False, False, True], [False] * 5])
    scores = metrics.update(plain, found, truth, shown, plain.classes, "")
    assert scores.values["feature_error"] == [4.0, None]
    table = aggregate([scores])
    assert table["all"]["feature_error"] == pytest.approx(4.0)
    assert (table["all"]["n_of"], table["all"]["psnr"]) == ({"feature_error": 1}, 2.0)
    assert table["lamps"]["feature_error"] is None
