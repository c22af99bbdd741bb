"""Part segmentation from end to end: train, evaluate, render, finetune."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hyperkit
from hyperkit.data.segment import SegmentData, SegmentDataConfig, parts_of
from hyperkit.reports.parts import part_colour
from hyperkit.workflows.evaluate import RunResult, evaluate
from hyperkit.workflows.finetune import finetune
from hyperkit.workflows.render import RenderOptions, render
from hyperkit.workflows.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERKIT_CACHE", str(tmp_path_factory.getbasetemp() / "segment-cache"))
        return train("segment", recipe="debug", out=tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(autouse=True)
def _same_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path_factory.getbasetemp() / "segment-cache"))


def test_a_run_reports_every_part(run: RunResult) -> None:
    results = json.loads((run.run / "results.json").read_text())
    assert set(results["test"]["all"]) >= {"psnr", "object_miou", "miou", "miou_of_mean"}
    found = {name: {p: e["iou"] for p, e in parts.items()} for name, parts in results["parts"].items()}
    assert found.keys() == parts_of(None).keys()
    assert found["chairs"].keys() == {"seat", "back", "legs"}
    data = SegmentData(SegmentDataConfig(builtin="debug", parts=parts_of(None)), 0)
    labels = np.concatenate([batch.labels.flatten() for batch in data.pairs("test")])  # type: ignore[union-attr]
    pixels = {part: entry["pixels"] for parts in results["parts"].values() for part, entry in parts.items()}
    assert list(pixels.values()) == [int((labels == number).sum()) for number in range(1, 10)]
    assert results["best"]["metric"] == "object_miou"
    assert "object mIoU" in run.note
    assert "mIoU: over all pixels" in (run.run / "results.md").read_text()
    assert all(path.exists() for path in run.files.values())


def test_evaluation_repeats_the_run(run: RunResult) -> None:
    again = evaluate(run.run)
    for name in ("psnr", "object_miou", "miou", "miou_of_mean"):
        assert again.results["test"]["all"][name] == pytest.approx(run.results["test"]["all"][name], abs=1e-9)
    assert again.results["parts"] == run.results["parts"]
    cars = evaluate(run.run, classes=["cars"])
    assert list(cars.results["parts"]) == ["cars"]


def test_rendering_writes_label_maps(run: RunResult, tmp_path: Path) -> None:
    result = render(run.run, RenderOptions(views=4, size=24), sample=1, out=tmp_path)
    assert {"frames", "depth", "parts", "parts sheet", "parts turntable", "contact sheet"} <= set(result.files)
    field = hyperkit.load(run.run)
    context = field.samples["pictures"][1].float()[None] / 255  # type: ignore[union-attr]
    made = field.wrap(field.generate(context))  # type: ignore[union-attr]
    labels = made.render(4, size=24).labels()
    maps = [np.asarray(Image.open(tmp_path / "parts" / f"{i:03d}.png")) for i in range(4)]
    for picture, truth in zip(maps, labels.tolist(), strict=True):
        assert picture.tolist() == [[list(part_colour(value)) for value in row] for row in truth]
    assert not (tmp_path / "uncertainty").exists()


def test_finetuning_keeps_the_parts(run: RunResult, tmp_path: Path) -> None:
    result = finetune(run.run, overrides={"training": {"steps": 2}, "data": {"classes": ["lamps"]}}, out=tmp_path / "f")
    assert result.results["config"]["data"]["parts"] == run.results["config"]["data"]["parts"]
    assert list(result.results["parts"]) == ["lamps"]
