"""One small run, used in every way: train, evaluate, render, finetune, resume, load, in Python and in the shell."""

import csv
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hyperkit
from hyperkit.errors import HyperkitError
from hyperkit.models import Field, Predictor
from hyperkit.training.checkpoints import load_checkpoint
from hyperkit.workflows.evaluate import RunResult, evaluate
from hyperkit.workflows.finetune import finetune
from hyperkit.workflows.load import find_checkpoint
from hyperkit.workflows.render import RenderOptions, render
from hyperkit.workflows.train import train


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module-cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERKIT_CACHE", str(cache))
        return train("nvs", recipe="debug", out=tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture(autouse=True)
def _same_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


def test_the_run_directory_is_complete(run: RunResult) -> None:
    folder = run.run
    for name in (
        "config.yaml",
        "env.json",
        "log.txt",
        "metrics.jsonl",
        "results.json",
        "results.csv",
        "results.md",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "media/examples.png",
        "media/contact_sheet.png",
        "media/turntable.gif",
        "media/turntable.mp4",
        "media/curves.png",
    ):
        assert (folder / name).is_file(), name
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["all"]["n"] == sum(results["test"][c]["n"] for c in ("cars", "chairs", "lamps"))
    assert set(results["constants"]) == {"white", "mean"}
    assert results["test"]["all"]["lpips"] is None
    assert "hyperkit prepare metrics" in results["unavailable"]["lpips"]
    assert len(results["pairs"]) == 64
    assert results["steps"] == 12


def test_evaluate_gives_the_runs_own_numbers(run: RunResult, tmp_path: Path) -> None:
    again = evaluate(run.run, out=tmp_path)
    assert again.results["test"]["all"]["psnr"] == pytest.approx(run.results["test"]["all"]["psnr"], abs=1e-4)
    assert again.results["pairs"] == run.results["pairs"]
    assert (tmp_path / "examples.png").is_file()
    with (tmp_path / "items.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == again.results["test"]["all"]["n"]
    cars = [float(row["psnr"]) for row in rows if row["class"] == "cars"]
    assert sum(cars) / len(cars) == pytest.approx(again.results["test"]["cars"]["psnr"], abs=1e-9)


def test_evaluate_options_take_effect(run: RunResult, tmp_path: Path) -> None:
    exact = {"training": {"precision": "32"}}  # products in bf16 depend on what else is in a batch
    cars = evaluate(run.run, classes=["cars"], overrides=exact, out=tmp_path / "cars").results
    assert set(cars["test"]) == {"all", "cars", "class_mean"}
    every = evaluate(run.run, overrides=exact, out=tmp_path / "every").results
    assert cars["test"]["all"]["psnr"] == pytest.approx(every["test"]["cars"]["psnr"], abs=1e-5)
    validation = evaluate(run.run, split="val", out=tmp_path / "val").results
    assert validation["val"]["all"]["n"] < run.results["test"]["all"]["n"]
    few = evaluate(run.run, limit=2, out=tmp_path / "few").results
    assert few["test"]["all"]["n"] == 2
    with pytest.raises(HyperkitError, match="no class 'boats'"):
        evaluate(run.run, classes=["boats"], out=tmp_path / "no")
    with pytest.raises(HyperkitError, match="no split 'tset'"):
        evaluate(run.run, split="tset", out=tmp_path / "no")


def test_test_time_optimisation_fits_the_input(run: RunResult, tmp_path: Path) -> None:
    options = {"evaluation": {"tto": {"learning_rate": 0.01, "rays": 256}}}
    before = evaluate(run.run, limit=2, out=tmp_path / "a").results["test"]["all"]["psnr"]
    after = evaluate(run.run, limit=2, tto=30, overrides=options, out=tmp_path / "b").results
    assert after["tto_steps"] == 30
    assert after["test"]["all"]["psnr"] != before


def test_shuffled_contexts_are_other_objects(run: RunResult, tmp_path: Path) -> None:
    shuffled = evaluate(run.run, shuffle_context="class", out=tmp_path).results
    assert shuffled["shuffle_context"] == "class"
    assert shuffled["test"]["all"]["n"] == run.results["test"]["all"]["n"]
    with pytest.raises(HyperkitError, match="Allowed: class, all"):
        evaluate(run.run, shuffle_context="objects", out=tmp_path)  # type: ignore[arg-type]


def test_render_works_from_the_checkpoint_alone(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone.pt"
    shutil.copy(run.run / "checkpoints" / "best.pt", alone)
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "empty"))
    result = render(alone, RenderOptions(views=3), out=tmp_path / "out", weights_out=tmp_path / "net.safetensors")
    frames = sorted((tmp_path / "out" / "frames").glob("*.png"))
    assert len(frames) == 3
    assert len(list((tmp_path / "out" / "depth").glob("*.png"))) == 3
    for name in ("turntable.gif", "turntable.mp4", "contact_sheet.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    # the exported network renders the same frame
    field = Field.load(tmp_path / "net.safetensors")
    field = dataclasses.replace(field, precision=hyperkit.load(alone).precision)
    stored = np.asarray(Image.open(frames[1])).astype(int)
    assert np.abs(field.render(3).frames()[1].astype(int) - stored).max() <= 1
    assert not (tmp_path / "empty").exists()
    assert result.to_json()["files"]["weights"].endswith("net.safetensors")


def test_render_from_an_object_and_from_a_picture(run: RunResult, tmp_path: Path) -> None:
    found = render(
        run.run, RenderOptions(views=1), object_id="chairs/" + object_of(run, "chairs"), out=tmp_path / "o", tto=2
    )
    assert found.source.startswith("chairs/")
    picture = np.full((60, 90, 3), 255, np.uint8)
    picture[20:50, 30:70] = (10, 120, 200)
    Image.fromarray(picture).save(tmp_path / "mine.png")
    assert render(run.run, RenderOptions(views=1), image=tmp_path / "mine.png", out=tmp_path / "p").source == "mine"
    with pytest.raises(HyperkitError, match="camera of the input"):
        render(run.run, image=tmp_path / "mine.png", tto=3)
    with pytest.raises(HyperkitError, match="no object 'chairs/none'"):
        render(run.run, object_id="chairs/none")
    with pytest.raises(HyperkitError, match="carries 6 inputs"):
        render(run.run, sample=99)
    with pytest.raises(HyperkitError, match="no mesh format"):
        render(run.run, RenderOptions(mesh=tmp_path / "a.stp"))


def object_of(run: RunResult, class_name: str) -> str:
    ids = load_checkpoint(run.run / "checkpoints" / "best.pt").samples["ids"]
    return next(name for name in ids if name.startswith(class_name)).split("/")[1]


def test_mesh_is_written_whole(run: RunResult, tmp_path: Path) -> None:
    import trimesh

    model = hyperkit.load(run.run)
    field = model(torch.rand(3, 32, 32))
    density = float(field.density_grid(16).median())
    path = tmp_path / "m.glb"
    surface = RenderOptions(views=1, mesh=path, mesh_threshold=density, mesh_resolution=16)
    render(run.run, surface, out=tmp_path / "o")
    assert len(trimesh.load(path, force="mesh").faces) > 0


def test_three_lines_in_a_notebook(run: RunResult) -> None:
    model = hyperkit.load(run.run / "checkpoints" / "best.pt")
    assert isinstance(model, Predictor)
    field = model(np.dstack([np.full((40, 40, 3), 90, np.uint8), np.pad(np.full((20, 20), 255, np.uint8), 10)]))
    assert field.render(views=2).rgb.shape == (2, 32, 32, 3)


def test_a_picture_changes_its_own_field_only(run: RunResult) -> None:
    model = hyperkit.load(run.run, precision="32")
    pictures = torch.rand(3, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    together = model.generate(pictures)
    alone = model.generate(pictures[1:2])
    torch.testing.assert_close(together.select(1).pack(), alone.pack(), atol=1e-5, rtol=1e-4)
    assert (together.select(0).pack() - together.select(1).pack()).abs().max() > 1e-4


def test_finetune_starts_from_the_checkpoint(run: RunResult, tmp_path: Path) -> None:
    changes = {"training": {"steps": 1, "learning_rate": 1e-12}, "data": {"classes": ["lamps"]}}
    tuned = finetune(run.run, overrides=changes, out=tmp_path / "b")
    assert set(tuned.results["test"]) == {"all", "lamps", "class_mean"}
    assert tuned.results["test"]["lamps"]["psnr"] == pytest.approx(run.results["test"]["lamps"]["psnr"], abs=1e-2)
    start = load_checkpoint(find_checkpoint(run.run)).weights()
    end = load_checkpoint(tmp_path / "b" / "checkpoints" / "last.pt").weights()
    assert all(torch.allclose(start[name].float(), end[name].float(), atol=1e-6) for name in start)


@pytest.mark.parametrize("strategy", ["frozen", "lora"])
def test_finetune_with_another_strategy(run: RunResult, tmp_path: Path, strategy: str) -> None:
    # the backbone has no weights of its own: they come from the checkpoint, and must not change
    changes = {"training": {"steps": 2}, "backbone": {"strategy": strategy, "lora_rank": 2}}
    tuned = finetune(run.run, overrides=changes, out=tmp_path / "b")
    start = load_checkpoint(find_checkpoint(run.run)).weights()
    end = load_checkpoint(tmp_path / "b" / "checkpoints" / "last.pt").weights()
    for name, tensor in start.items():
        if name.startswith("backbone."):
            same = end.get(name, end.get(name.replace("qkv.", "qkv.base_layer.")))
            assert torch.equal(tensor, same), name
    assert any(".lora_" in name for name in end) == (strategy == "lora")
    assert not torch.equal(start["hypernet.weight_tokens"], end["hypernet.weight_tokens"])
    assert tuned.results["steps"] == 2
    assert evaluate(tmp_path / "b", limit=1, out=tmp_path / "e").results["steps"] == 2


def test_a_finished_run_is_not_trained_again(run: RunResult, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.run, copy)
    before = (copy / "checkpoints" / "last.pt").read_bytes()
    again = train("nvs", resume=copy)
    assert (copy / "checkpoints" / "last.pt").read_bytes() == before
    assert again.results["test"]["all"]["psnr"] == pytest.approx(run.results["test"]["all"]["psnr"], abs=1e-4)
    with pytest.raises(HyperkitError, match="started with another configuration"):
        train("nvs", recipe="debug", overrides={"training": {"learning_rate": 0.5}}, out=copy)
    longer = train("nvs", recipe="debug", overrides={"training": {"steps": 14}}, out=copy)
    assert longer.results["steps"] == 14


def test_command_line_prints_json_on_stdout(run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hyperkit.cli import main

    arguments = ["render", str(run.run), "--views", "1", "--out", str(tmp_path), "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hyperkit", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    assert caught.value.code == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["folder"] == str(tmp_path)
    assert "turntable" in shown.err


def test_bad_data_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match="does not exist"):
        train("nvs", recipe="debug", overrides={"data": {"root": str(tmp_path / "none")}}, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
