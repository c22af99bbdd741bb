"""The tidy table, statistics over seeds, and the power law, against independent computations."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats

from hyperkit.errors import HyperkitError
from hyperkit.sweeps.cell import Cell
from hyperkit.sweeps.power_law import fit_power_law, squared_error
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.table import difference, over_seeds, tidy_rows, write_table

PSNR = {("dino", 0): 21.0, ("dino", 1): 21.4, ("dino", 2): 22.0, ("random", 0): 20.5, ("random", 1): 20.8}


def finished(tmp_path: Path) -> SweepDirectory:
    """Two backbones and three seeds, of which one failed; and one backbone that is not applicable."""
    cells = [
        Cell("nvs", "debug", {"backbone": {"name": name}}, {"backbone": name}).with_seed(seed)
        for name in ("dino", "random")
        for seed in range(3)
    ]
    cells.append(Cell("nvs", "debug", {}, {"backbone": "clip", "seed": 0}, not_applicable="clip has no tiny size"))
    sweep = SweepDirectory.create(tmp_path / "sweep", cells)
    for entry in sweep.entries():
        if (key := (str(entry.labels["backbone"]), entry.labels["seed"])) in PSNR:
            (entry.folder.path / "result.json").write_text(json.dumps(result(PSNR[key])))  # type: ignore[index]
        elif entry.not_applicable is None:
            (entry.folder.path / "state.json").write_text(json.dumps({"state": "failed", "reason": "Error: NaN, at 3"}))
    return sweep


def result(psnr: float) -> dict[str, Any]:
    groups = {"all": {"psnr": psnr, "lpips": None, "n": 3, "standard_error": {"psnr": 0.1}}}
    groups["cars"] = {**groups["all"], "psnr": psnr + 1}
    return {
        "test": groups,
        "constants": {"white": {"all": 9.5, "cars": 9.5}},
        "steps": 7,
        "backbone": {"parameters": 1234},
        "cost": {"seconds": 5.0, "cpu_seconds": 4.5, "peak_memory_bytes": 1e9},
    }


def test_the_table_has_every_number_in_a_row_of_its_own(tmp_path: Path) -> None:
    sweep = finished(tmp_path)
    paths = write_table(sweep)
    with open(paths["csv"], newline="") as handle:
        rows = list(csv.DictReader(handle))
    of_dino = {
        (r["split"], r["class"], r["metric"]): r["value"] for r in rows if r["backbone"] == "dino" and r["seed"] == "1"
    }
    assert of_dino == {
        ("test", "all", "psnr"): "21.4",
        ("test", "all", "lpips"): "",
        ("test", "all", "psnr_of_white"): "9.5",
        ("test", "all", "psnr_of_better"): "9.5",
        ("test", "cars", "psnr"): "22.4",
        ("test", "cars", "lpips"): "",
        ("test", "cars", "psnr_of_white"): "9.5",
        ("test", "cars", "psnr_of_better"): "9.5",
        ("", "", "steps"): "7",
        ("", "", "encoder_parameters"): "1234",
        ("", "", "seconds"): "5.0",
        ("", "", "cpu_seconds"): "4.5",
        ("", "", "peak_memory_bytes"): "1000000000.0",
    }
    others = [(r["backbone"], r["seed"], r["status"], r["reason"]) for r in rows if r["status"] != "done"]
    assert others == [
        ("random", "2", "failed", "Error: NaN, at 3"),
        ("clip", "0", "not applicable", "clip has no tiny size"),
    ]


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    sweep = finished(tmp_path)
    read = parquet.read_table(write_table(sweep)["parquet"]).to_pylist()
    assert [{k: v for k, v in row.items() if k != "seed"} for row in read] == [
        {k: v for k, v in row.items() if k != "seed"} for row in tidy_rows(sweep)
    ]


def test_means_and_deviations_are_over_the_seeds_that_are_there(tmp_path: Path) -> None:
    rows = tidy_rows(finished(tmp_path))
    dino, random, clip = over_seeds(rows, "psnr")
    assert dino.labels == {"backbone": "dino"}
    assert dino.mean == pytest.approx((21.0 + 21.4 + 22.0) / 3)
    # by hand: deviations -7/15, -1/15, 8/15; squares add up to 114/225, over 2
    assert dino.deviation == pytest.approx(math.sqrt(114 / 225 / 2))
    assert (len(random.values), random.expected, random.reasons) == (2, 3, ("Error: NaN, at 3",))
    assert (clip.mean, clip.deviation, clip.reasons) == (None, None, ("clip has no tiny size",))
    assert over_seeds(rows, "psnr", group="cars")[0].mean == pytest.approx((22.0 + 22.4 + 23.0) / 3)
    assert over_seeds(rows, "seconds", None, None)[0].values == {0: 5.0, 1: 5.0, 2: 5.0}
    lpips = over_seeds(rows, "lpips")[0]
    assert (lpips.mean, lpips.reasons) == (None, ("lpips is not available",))
    gain = difference(dino, random)
    assert gain.values == pytest.approx({0: 0.5, 1: 0.6})
    assert gain.deviation == pytest.approx(0.1 / math.sqrt(2))
    assert gain.labels == {}


def test_an_exact_power_law_is_found_exactly() -> None:
    x = np.array([0.01, 0.1, 0.2, 0.5, 1.0])
    law = fit_power_law(x, 0.03 * x**-0.4)
    assert law.exponent == pytest.approx(-0.4, abs=1e-12)
    assert law.factor == pytest.approx(0.03, rel=1e-12)
    low, high = law.interval() or (0, 0)
    assert high - low < 1e-12
    assert law([0.05]) == pytest.approx(0.03 * 0.05**-0.4)


def test_interval_and_band_are_those_of_linear_regression() -> None:
    draw = np.random.default_rng(0)
    x = np.repeat([1.3e6, 5.7e6, 22e6, 86e6], 3)
    y = 4 * x**-0.2 * np.exp(0.1 * draw.standard_normal(x.size))
    law = fit_power_law(x, y)
    line = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.975, x.size - 2) * line.stderr
    assert law.interval() == pytest.approx((line.slope - half, line.slope + half), rel=1e-9)
    # where ln x = 0 the band is the interval of the intercept
    low, high = law.band([1.0]) or ([0], [0])
    half = stats.t.ppf(0.975, x.size - 2) * line.intercept_stderr
    assert np.log([low[0], high[0]]) == pytest.approx([line.intercept - half, line.intercept + half], rel=1e-9)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    x = np.array([0.01, 0.1, 0.2, 0.5, 1.0])
    inside = 0
    for _ in range(400):
        low, high = fit_power_law(x, x**-0.3 * np.exp(0.2 * draw.standard_normal(5))).interval(0.8) or (0, 0)
        inside += low <= -0.3 <= high
    assert 0.74 < inside / 400 < 0.86  # three deviations of a share of 0.8 among 400


def test_what_no_power_law_goes_through_is_refused() -> None:
    assert fit_power_law([1, 2], [1, 2]).interval() is None
    assert fit_power_law([1, 2], [1, 2]).band([1.0]) is None
    with pytest.raises(HyperkitError, match="two different x"):
        fit_power_law([1, 1, 1], [1, 2, 3])
    with pytest.raises(HyperkitError, match="positive"):
        fit_power_law([0, 1], [1, 2])
    with pytest.raises(ValueError, match="one length"):
        fit_power_law([1, 2], [1])
    assert squared_error([20.0, 30.0]) == pytest.approx([0.01, 0.001])


def test_a_trend_is_shown_where_the_interval_leaves_zero_out() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    assert fit_power_law(x, [1.0, 0.71, 0.5, 0.35]).shows_trend
    assert not fit_power_law(x, [1.0, 2.0, 0.5, 1.0]).shows_trend
    assert not fit_power_law(x[:2], [1.0, 0.5]).shows_trend  # two points leave no interval
