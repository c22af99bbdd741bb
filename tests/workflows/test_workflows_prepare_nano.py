"""``prepare backbone nano --pretrain``: what is stored is what is judged, and goes on where it was stopped."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file

from hyperkit.backbones import BackboneConfig, build_backbone
from hyperkit.backbones.nano import build_nano
from hyperkit.config import load_recipe, merge
from hyperkit.contracts import Batch
from hyperkit.errors import HyperkitError, RunInterrupted
from hyperkit.randomness import key
from hyperkit.tasks.pretrain import PretrainTask
from hyperkit.workflows.configure import resolve
from hyperkit.workflows.evaluate import RunResult
from hyperkit.workflows.prepare_nano import METHODS, pretrain_nano

CHANGES: dict[str, Any] = {
    "data": {"workers": 1},
    "training": {"tensorboard": False, "device": "cpu", "precision": "32", "threads": 1},
}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture(autouse=True)
def _kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


def pretrain(method: str | None, out: Path | None = None, resume: Path | None = None, **changes: Any) -> RunResult:
    recipe = None if resume is not None else "debug"
    return pretrain_nano(method, recipe=recipe, overrides=merge(CHANGES, changes), out=out, resume=resume)


def timms_features(state: dict[str, torch.Tensor], method: str, batch: Batch) -> NDArray[np.float64]:
    """Class tokens, or means of patch tokens, of timm's own model with these weights."""
    sizes = {"img_size": 64, "patch_size": 8, "depth": 3, "num_heads": 3, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    model.load_state_dict({name: value.float() for name, value in state.items()})
    with torch.no_grad():
        tokens = model.forward_features((batch.context[:, 0] - 0.5) / 0.5).double().numpy()
    found: NDArray[np.float64] = tokens[:, 0] if method == "dino" else tokens[:, 1:].mean(1)
    return found


def accuracy_by_hand(queries: NDArray[np.float64], bank: NDArray[np.float64], held_out: Batch, k: int) -> float:
    right = 0
    for feature, truth in zip(queries, held_out.classes, strict=True):
        cosines = [float(feature @ f / np.linalg.norm(feature) / np.linalg.norm(f)) for f in bank]
        votes: dict[str, float] = {}
        for cosine, name in sorted(zip(cosines, held_out.query.classes, strict=True))[-k:]:
            votes[name] = votes.get(name, 0.0) + float(np.exp(cosine / 0.07))
        right += max(votes, key=lambda name: votes[name]) == truth
    return right / len(queries)


@pytest.mark.parametrize("method", METHODS)
def test_fresh_and_stored_weights_are_judged_by_their_neighbours(method: str, tmp_path: Path) -> None:
    # so that a few steps change much, and the teacher follows at once
    result = pretrain(method, tmp_path / "run", training={"learning_rate": 3e-3}, dino={"momentum": 0.0})
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    file = tmp_path / "run" / f"nano-{method}.safetensors"
    assert result.files["weights"] == file
    config = resolve(PretrainTask, written["config"])
    task = PretrainTask(config, 0)
    torch.manual_seed(key(0, "model"))
    fresh = task.build_model().encoder.trunk.state_dict()
    stored = load_file(file)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert (fresh["blocks.0.attn.qkv.weight"] - stored["blocks.0.attn.qkv.weight"]).abs().max() > 1e-3
    held_out = task.data().held_out
    for name, state in (("fresh", fresh), ("pretrained", stored)):
        queries, bank = (timms_features(state, method, batch) for batch in (held_out, held_out.query))
        expected = accuracy_by_hand(queries, bank, held_out, config.neighbours)  # type: ignore[attr-defined]
        assert written[name]["all"]["knn"] == pytest.approx(expected)
        assert written[name]["all"]["n"] == 20
    assert written["fresh"] != written["pretrained"]
    assert written["chance"] == pytest.approx(1 / 5)
    with safe_open(file, "pt") as content:
        about = json.loads(content.metadata()["hyperkit"])
    assert about["method"] == method
    assert (float(about["knn"]), int(about["steps"])) == (pytest.approx(written["pretrained"]["all"]["knn"]), 8)
    backbone = build_backbone(BackboneConfig(name="nano", weights=str(file), strategy="frozen"))
    assert backbone.info.weights_sha256 == written["weights"][file.stem]["sha256"]


def test_what_is_written_tells_what_was_found(tmp_path: Path) -> None:
    result = pretrain("mae", tmp_path / "weights" / "own.safetensors", training={"steps": 2})
    run = tmp_path / "weights" / "own"
    assert (result.run, result.files["weights"]) == (run, run.with_suffix(".safetensors"))
    assert {"results", "examples", "curves"} <= result.files.keys()
    assert all(path.is_file() for path in result.files.values())
    with open(run / "results.csv", newline="") as handle:
        rows = {(r["split"], r["class"]): float(r["value"]) for r in csv.DictReader(handle)}
    assert rows["pretrained", "all"] == result.results["pretrained"]["all"]["knn"]
    assert {name for _, name in rows} == {"all", "class_mean", "mugs", "beds", "teapots", "fish", "robots"}
    assert "chance 0.200" in (run / "results.md").read_text()
    found = [result.results[name]["all"]["knn"] for name in ("pretrained", "fresh")]
    assert f"{found[0]:.3f} (fresh weights {found[1]:.3f}, chance 0.200)" in result.note


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"over": 4, "training": {"steps": 4, "schedule": "constant"}}
    whole = pretrain("dino", tmp_path / "whole", **settings)
    pretrain("dino", tmp_path / "parts", **merge(settings, {"training": {"steps": 1}}))
    with pytest.raises(HyperkitError, match=r"parts pretrains by dino, and --pretrain mae was given"):
        pretrain("mae", resume=tmp_path / "parts")
    parts = pretrain(None, resume=tmp_path / "parts", training={"steps": 4})
    assert parts.results["steps"] == 4
    assert parts.files["weights"].read_bytes() == whole.files["weights"].read_bytes()
    before = (tmp_path / "parts" / "metrics.jsonl").read_bytes()
    again = pretrain("dino", tmp_path / "parts", **settings)  # it is finished: nothing is trained
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == before
    assert again.results["pretrained"] == whole.results["pretrained"]


def test_a_stopped_run_goes_on_to_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, run = tmp_path / "v1.own.safetensors", tmp_path / "v1.own"

    def stopped(*args: Any, **more: Any) -> None:
        raise RunInterrupted("The run was stopped by a signal.")

    with monkeypatch.context() as patch, pytest.raises(RunInterrupted):
        patch.setattr("hyperkit.workflows.prepare_nano.fit", stopped)
        pretrain("mae", file, training={"steps": 1})
    assert not file.exists()
    with pytest.raises(HyperkitError, match="Both --recipe and --resume were given"):
        pretrain_nano(recipe="debug", resume=run)
    monkeypatch.chdir(run)
    result = pretrain(None, resume=Path("."))
    assert (result.files["weights"], file.is_file()) == (file, True)
    # who asks for the folder gets the weights there
    inside = pretrain("mae", run, training={"steps": 1})
    assert inside.files["weights"] == run / "nano-mae.safetensors"
    assert pretrain(None, resume=run).files["weights"] == run / "nano-mae.safetensors"


@pytest.mark.parametrize("method", METHODS)
def test_the_recipe_of_the_packages_weights_builds_the_network_that_they_fit(method: str) -> None:
    config: Any = resolve(PretrainTask, load_recipe(method, "pretrain"))
    assert config.method == method
    assert config.over == config.training.steps >= 4000
    named = build_backbone(BackboneConfig(name="nano")).state_dict()
    built = build_nano(config.nano).state_dict()
    assert {name: value.shape for name, value in built.items()} == {name: v.shape for name, v in named.items()}
