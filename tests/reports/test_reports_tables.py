"""results.json, .csv and .md say the same, and none of them hides what is missing."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperkit.contracts import Scores
from hyperkit.errors import RunFailed
from hyperkit.metrics import aggregate
from hyperkit.reports.tables import CSV_COLUMNS, render_rich_table, write_results

HEADINGS = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓ ¹", "fid_64": "FID-64 ↓ ²"}
REASON = "the weights are not in the cache; run: hyperkit prepare metrics"


def made_up_results() -> dict[str, Any]:
    scores = Scores(
        {"psnr": [20.0, 22.0, 17.5], "ssim": [0.8, 0.9, 0.75]},
        ("cars/0", "cars/1", "lamps/0"),
        ("cars", "cars", "lamps"),
        unavailable={"lpips": REASON},
    )
    return {
        "test": aggregate([scores], {"fid_64": {"all": 0.5, "cars": 0.25, "lamps": None}}),
        "constants": {
            "white": {"all": 13.0, "cars": 12.0, "lamps": 15.0},
            "mean": {"all": 14.0, "cars": 14.5, "lamps": 13.0},
        },
        "unavailable": {"lpips": REASON},
        "notes": {"fid_64": "taken on few items"},
        "weights": {"fid": {"file": "inception.pth", "sha256": "ab" * 32, "licence": "Apache-2.0"}},
        "pairs": "c0ffee" * 8,
        "seconds": 12.34,
        "steps": 3000,
        "config": {"path": Path("data"), "size": np.int64(64), "worst": np.float32(np.nan)},
    }


def markdown_table(text: str) -> dict[str, dict[str, str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


def test_the_three_files_agree(tmp_path: Path) -> None:
    results = made_up_results()
    paths = write_results(tmp_path, results)
    stored = json.loads(paths["json"].read_text())
    rows = list(csv.DictReader(paths["csv"].read_text().splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    tidy = {(r["class"], r["metric"]): r for r in rows}
    table = markdown_table(paths["md"].read_text())
    assert list(stored["test"]) == ["all", "cars", "lamps", "class_mean"]
    for label, group in stored["test"].items():
        shown = table["class mean" if label == "class_mean" else label]
        for metric, heading in {
            "psnr": "PSNR (dB) ↑",
            "ssim": "SSIM ↑",
            "lpips": "LPIPS ↓ ¹",
            "fid_64": "FID-64 ↓ ²",
        }.items():
            value, row, cell = group[metric], tidy[label, metric], shown[heading]
            assert row["n"] == shown["n"] == str(group["n"])
            if value is None:
                assert (row["value"], cell) == ("", "n/a")
            else:
                assert float(row["value"]) == value  # all digits are kept
                assert float(cell.split(" ")[0]) == pytest.approx(value, abs=6e-4)
    assert stored["test"]["all"]["psnr"] == pytest.approx(59.5 / 3)
    assert {r["split"] for r in rows} == {"test"}


def test_results_json_has_the_documented_layout(tmp_path: Path) -> None:
    stored = json.loads(write_results(tmp_path, made_up_results())["json"].read_text())
    assert set(stored) >= {"test", "constants", "unavailable", "pairs", "seconds", "steps", "config"}
    assert stored["unavailable"] == {"lpips": REASON}
    assert stored["config"] == {"path": "data", "size": 64, "worst": None}


def test_markdown_has_constants_gain_footnotes_and_provenance(tmp_path: Path) -> None:
    """Gain over the better constant per class: cars 21 - 14.5, lamps 17.5 - 15, all 19.8333 - (2*14.5 + 15) / 3."""
    text = write_results(tmp_path, made_up_results())["md"].read_text()
    table = markdown_table(text)
    assert {k: row["gain (dB) ↑"] for k, row in table.items()} == {
        "all": "+5.167",
        "cars": "+6.500",
        "lamps": "+2.500",
        "class mean": "+4.500",
    }
    assert table["cars"]["PSNR of white (dB)"] == "12.000"
    assert table["class mean"]["PSNR of mean picture (dB)"] == "13.750"
    assert f"¹ LPIPS n/a: {REASON}" in text
    assert "² FID-64: taken on few items" in text
    assert f"`{'c0ffee' * 8}`" in text
    assert f"`{'ab' * 32}`" in text
    assert "training steps: 3000" in text


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_null_with_a_reason(tmp_path: Path, value: float) -> None:
    results = {"test": {"all": {"psnr": value, "n": 2, "standard_error": {"psnr": math.nan}}}}
    text = write_results(tmp_path, results)["json"].read_text()

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    stored = json.loads(text, parse_constant=refuse)
    assert stored["test"]["all"]["psnr"] is None
    assert stored["test"]["all"]["standard_error"]["psnr"] is None
    assert str(value) in stored["unavailable"]["psnr (test, all)"]
    assert markdown_table((tmp_path / "results.md").read_text())["all"]["PSNR (dB) ↑ ¹"] == "n/a"


def test_without_classes_or_constants_and_with_several_splits(tmp_path: Path) -> None:
    group = {"psnr": 20.0, "n": 4, "standard_error": {"psnr": None}}
    paths = write_results(tmp_path, {"test": {"all": group}, "val": {"all": {**group, "psnr": 21.0}}, "steps": None})
    rows = list(csv.DictReader(paths["csv"].read_text().splitlines()))
    assert [(r["split"], r["value"]) for r in rows] == [("test", "20.0"), ("val", "21.0")]
    text = paths["md"].read_text()
    assert "## test" in text
    assert "## val" in text
    assert "gain" not in text


def test_a_constant_known_over_all_items_only_still_gives_a_gain(tmp_path: Path) -> None:
    results = {"test": {"all": {"psnr": 20.0, "n": 4}}, "constants": {"white": {"all": 12.0}, "mean": {"all": 15.0}}}
    assert markdown_table(write_results(tmp_path, results)["md"].read_text())["all"]["gain (dB) ↑"] == "+5.000"


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, made_up_results())
    before = (tmp_path / "results.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hyperkit.files.os.replace", full)
    with pytest.raises(RunFailed, match="disk is full"):
        write_results(tmp_path, {"test": {"all": {"psnr": 1.0, "n": 1}}})
    assert (tmp_path / "results.json").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"results.json", "results.csv", "results.md"}


@pytest.mark.parametrize("width", [80, 140])
def test_terminal_table_holds_every_value(width: int) -> None:
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_rich_table(made_up_results()))
    text = console.export_text()
    for expected in ("19.833", "0.8167", "n/a", "+5.167", "hyperkit prepare"):
        assert expected in text
    assert max(map(len, text.splitlines())) <= width
    with pytest.raises(KeyError, match="no split 'val'"):
        render_rich_table(made_up_results(), "val")
