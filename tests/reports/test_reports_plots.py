"""Curves from metrics.jsonl, whatever state a killed run left it in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hyperkit.reports.plots import _constant_lines, _panel, read_metrics, series, smooth, training_curves


def write_lines(path: Path, records: list[dict[str, object]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    return path


def test_a_truncated_last_line_is_skipped(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [{"step": 1, "split": "train", "loss": 0.5}], '{"step": 2, "split": "tr')
    assert [r["step"] for r in read_metrics(path)] == [1]


def test_a_resumed_run_replaces_the_steps_it_wrote_again(tmp_path: Path) -> None:
    first = [{"step": s, "split": "train", "loss": 1.0} for s in (10, 20, 30)]
    again = [{"step": s, "split": "train", "loss": 2.0} for s in (20, 30, 40)]
    validation = [{"step": 20, "split": "val", "loss": 3.0}]
    path = write_lines(tmp_path / "m.jsonl", first + validation + again)
    steps, values = series(read_metrics(path), "train", "loss")
    assert steps.tolist() == [10, 20, 30, 40]
    assert values.tolist() == [1, 2, 2, 2]
    assert series(read_metrics(path), "val", "loss")[1].tolist() == [3]


def test_records_without_the_number_are_left_out() -> None:
    records = [{"step": 1, "psnr": None}, {"step": 2, "psnr": float("nan")}, {"step": 3, "psnr": 4}, {"step": 4}]
    assert [a.tolist() for a in series(records, "train", "psnr")] == [[3], [4]]


def test_smoothing_keeps_constants_and_the_middle_of_lines() -> None:
    assert smooth(np.full(7, 3.0), 4) == pytest.approx(np.full(7, 3.0))
    line = np.arange(30.0)
    assert smooth(line, 5)[4:-4] == pytest.approx(line[4:-4])
    assert smooth(line, 1).tolist() == line.tolist()
    # triangular weights 1 2 1
    assert smooth(np.array([0.0, 4.0, 0.0]), 2) == pytest.approx([4 / 3, 2.0, 4 / 3])
    assert smooth(np.array([5.0, 7.0]), 40).shape == (2,)


def test_curves_are_drawn_without_pyplot(tmp_path: Path) -> None:
    import sys

    from PIL import Image

    records: list[dict[str, object]] = []
    for step in range(0, 300, 10):
        records.append({"step": step, "split": "train", "loss": 0.1 / (1 + step), "psnr": 10 + step / 30})
        if step % 100 == 0:
            records.append({"step": step, "split": "val", "psnr": 9 + step / 30})
    path = write_lines(tmp_path / "m.jsonl", records, '{"st')
    before = "matplotlib.pyplot" in sys.modules
    assert training_curves(path, tmp_path / "plain.png")
    assert training_curves(path, tmp_path / "c.png", constants={"white": 12.0, "mean picture": 14.0}, title="run")
    assert ("matplotlib.pyplot" in sys.modules) == before
    with Image.open(tmp_path / "c.png") as picture, Image.open(tmp_path / "plain.png") as plain:
        assert picture.size == plain.size
        assert picture.width > 1000
        assert (np.asarray(picture) != np.asarray(plain)).any()


def test_nothing_to_draw_writes_nothing(tmp_path: Path) -> None:
    assert not training_curves(tmp_path / "absent.jsonl", tmp_path / "c.png")
    empty = write_lines(tmp_path / "m.jsonl", [{"step": 1, "split": "train", "seconds": 3.0}])
    assert not training_curves(empty, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(("losses", "scale"), [((3.0, 1.0, 0.1), "log"), ((3.0, 0.1, -2.0), "linear")])
def test_losses_below_zero_are_drawn(losses: tuple[float, ...], scale: str) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    records = [{"step": step, "split": "train", "loss": loss} for step, loss in enumerate(losses, 1)]
    _panel(axes, records, ["train"], "loss")
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low < min(losses) < max(losses) < high


@pytest.mark.parametrize(
    ("metric", "label", "line"),
    [("psnr", "PSNR (dB)", "white: 0.25 dB"), ("knn", "k-NN accuracy", "white: 0.250")],
)
def test_an_axis_and_its_constants_have_the_unit_of_the_metric(metric: str, label: str, line: str) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    _panel(axes, [{"step": 1, "split": "val", metric: 0.5}], ["train", "val"], metric)
    _constant_lines(axes, {"white": 0.25}, metric)
    assert axes.get_ylabel() == label
    assert [drawn.get_label() for drawn in axes.lines] == ["validation", line]
    assert list(axes.lines[1].get_ydata()) == [0.25, 0.25]
