"""Averages worked out by hand."""

from __future__ import annotations

import math

import pytest

from hyperkit.contracts import Scores
from hyperkit.errors import HyperkitError
from hyperkit.metrics.aggregate import aggregate, better_constant


def batch(psnr: list[float], classes: tuple[str, ...], unavailable: dict[str, str] | None = None) -> Scores:
    ids = tuple(f"{c}/{i}" for i, c in enumerate(classes or psnr))
    return Scores({"psnr": psnr}, ids, classes, unavailable=unavailable or {})


def test_means_counts_and_errors_by_hand() -> None:
    """cars 10, 20, 30 over two batches; lamps 40: all (10+20+30+40)/4, classes (20+40)/2."""
    result = aggregate([batch([10.0, 40.0], ("cars", "lamps")), batch([20.0, 30.0], ("cars", "cars"))])
    assert list(result) == ["all", "cars", "lamps", "class_mean"]
    assert [result[k]["psnr"] for k in result] == [25.0, 20.0, 40.0, 30.0]
    assert [result[k]["n"] for k in result] == [4, 3, 1, 4]
    assert result["class_mean"]["classes"] == 2
    assert result["cars"]["standard_error"]["psnr"] == pytest.approx(10 / math.sqrt(3))
    assert result["all"]["standard_error"]["psnr"] == pytest.approx(math.sqrt(500 / 3) / 2)
    assert result["lamps"]["standard_error"]["psnr"] is None
    assert result["class_mean"]["standard_error"]["psnr"] is None


def test_standard_error_of_the_class_mean() -> None:
    """Independent class means: sqrt(1^2 + 2^2) / 2 with standard errors 1 and 2."""
    result = aggregate([batch([1.0, 3.0, 1.0, 5.0], ("a", "a", "b", "b"))])
    assert result["class_mean"]["standard_error"]["psnr"] == pytest.approx(math.sqrt(5) / 2)


def test_a_metric_that_is_missing_once_is_missing_everywhere() -> None:
    part = batch([1.0], ("a",))
    result = aggregate([part, batch([2.0], ("b",), {"lpips": "no weights"})])
    assert all(result[k]["lpips"] is None for k in result)
    assert "lpips" not in result["all"]["standard_error"]


def test_distribution_metrics_are_merged_by_group() -> None:
    fid = {"fid_64": {"all": 0.5, "a": 0.25, "b": 0.75}, "fid_2048": {"all": 9.0, "a": None, "b": 3.0}}
    result = aggregate([batch([1.0, 2.0], ("a", "b"))], fid)
    assert [result[k]["fid_64"] for k in result] == [0.5, 0.25, 0.75, 0.5]
    assert [result[k]["fid_2048"] for k in result] == [9.0, None, 3.0, None]


def test_items_without_classes_and_no_items() -> None:
    assert list(aggregate([batch([1.0, 2.0], ())])) == ["all"]
    assert aggregate([batch([], ())])["all"] == {"psnr": None, "n": 0, "standard_error": {}}
    assert aggregate([])["all"]["n"] == 0


def test_an_infinite_item_makes_its_mean_infinite() -> None:
    result = aggregate([batch([math.inf, 20.0, 20.0], ("a", "a", "b"))])
    assert result["a"]["psnr"] == math.inf
    assert result["a"]["standard_error"]["psnr"] is None
    assert result["b"]["psnr"] == 20.0


def test_reserved_class_names_are_refused() -> None:
    with pytest.raises(HyperkitError, match="class_mean"):
        aggregate([batch([1.0], ("class_mean",))])


def test_better_constant_is_chosen_for_each_class() -> None:
    """a: white 10 < mean 12; b: white 16 > mean 14; all by items (3*12 + 1*16) / 4 = 13."""
    constants = {"white": {"a": 10.0, "b": 16.0}, "mean": {"a": 12.0, "b": 14.0}}
    assert better_constant(constants, {"a": 3, "b": 1}) == {"all": 13.0, "a": 12.0, "b": 16.0, "class_mean": 14.0}


def test_items_without_a_value_are_left_out_with_a_count_of_their_own() -> None:
    """a: 10 and none, b: 20 and 40; c: none at all. None is not nan, which makes a mean nan."""
    ids, classes = tuple("abcde"), ("a", "a", "b", "b", "c")
    values = {"si_sdr": [10.0, None, 20.0, 40.0, None], "psnr": [1.0, 2.0, 3.0, 4.0, 5.0]}
    two = aggregate([Scores(values, ids, classes)])  # type: ignore[arg-type]
    assert two["all"]["si_sdr"] == pytest.approx(70 / 3)
    assert two["all"]["psnr"] == 3.0
    assert (two["a"]["si_sdr"], two["b"]["si_sdr"], two["c"]["si_sdr"]) == (10.0, 30.0, None)
    assert [two[k]["n"] for k in two] == [5, 2, 2, 1, 5]
    assert [two[k].get("n_of") for k in two] == [{"si_sdr": 3}, {"si_sdr": 1}, None, {"si_sdr": 0}, {"si_sdr": 3}]
    assert two["a"]["standard_error"]["si_sdr"] is None
    assert two["b"]["standard_error"]["si_sdr"] == pytest.approx(10.0)
    assert two["class_mean"]["si_sdr"] is None  # class c has no value
    assert two["class_mean"]["psnr"] == pytest.approx((1.5 + 3.5 + 5.0) / 3)
    some = aggregate([Scores({"si_sdr": [10.0, None, 20.0]}, tuple("abc"), ("a", "a", "b"))])  # type: ignore[list-item]
    assert some["class_mean"]["si_sdr"] == 15.0
    assert math.isnan(aggregate([batch([math.nan, 1.0], ())])["all"]["psnr"])
