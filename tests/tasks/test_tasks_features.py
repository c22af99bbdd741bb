"""Fields that carry an encoder's features: how they are learned, measured and shown, and what needs the encoder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import hyperkit.reports.parts as sheets
from hyperkit.config import merge
from hyperkit.contracts import Rays, Rendered, Scores, TargetParams
from hyperkit.data.feature_maps import Basis, FeatureBasis
from hyperkit.data.parts import Parts
from hyperkit.errors import HyperkitError
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.features import FeatureMetrics
from hyperkit.metrics.segmentation import PartMetrics
from hyperkit.models.field import Views
from hyperkit.objectives import mse, part_nll
from hyperkit.randomness import StepRandom
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.reports.features import feature_limits, feature_picture
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig
from hyperkit.tasks.inr import Example
from hyperkit.tasks.segment import SegmentTask
from hyperkit.training.checkpoints import load_checkpoint
from hyperkit.workflows.configure import from_recipe
from hyperkit.workflows.evaluate import RunResult, evaluate
from hyperkit.workflows.finetune import finetune
from hyperkit.workflows.render import RenderOptions, render
from hyperkit.workflows.train import train

DIMS = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small transformer, drawn by timm."""
    torch.manual_seed(0)
    options = {"img_size": 64, "patch_size": 8, "depth": 3, "num_heads": 3, "num_classes": 0}
    path = tmp_path_factory.mktemp("weights") / "nano.pt"
    torch.save(timm.create_model("vit_tiny_patch16_224", **options).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path_factory.getbasetemp() / "features-cache"))


def settings(weights: Path, **more: object) -> dict[str, object]:
    features = {"name": "nano", "weights": str(weights), "image_size": 32, "dims": DIMS}
    return {"features": features, **more}


def build(weights: Path, **more: object) -> SegmentTask:
    task_cls, config = from_recipe("segment", "debug", settings(weights, **more), "train")
    made = task_cls(config, 0)
    assert isinstance(made, SegmentTask)
    return made


def rays(count: int = 5) -> Rays:
    generator = torch.Generator().manual_seed(1)
    origins = torch.tensor([0.0, 0.0, 4.0]).expand(1, count, 3)
    return Rays(origins, (0.3 * torch.randn(1, count, 3, generator=generator) - origins) / 4)


def test_features_of_a_constant_field_are_the_constant() -> None:
    constant = torch.tensor([3.0, -2.0, 0.5, 40.0])
    logits = torch.tensor([0.0, 1.0])
    target = RadianceField(RadianceFieldConfig(depth=2, width=4, extra=6, extra_activation="softmax", extra_classes=2))
    tensors = {name: torch.zeros(1, *spec.shape) for name, spec in target.spec.tensors.items()}
    tensors["layer1.bias"] = torch.cat((torch.zeros(3), torch.tensor([50.0]), logits, constant))[None, None]
    params = TargetParams(tensors, target.spec)
    config = RendererConfig(samples=16, sampling="bins", bounds="sphere")
    found = render_rays(lambda points: target(params, points[..., :3]), rays(), config, extra=6)
    assert found.features is not None
    assert torch.allclose(found.opacity, torch.ones(1, 5), atol=1e-6)
    assert torch.allclose(found.features[..., 2:], constant.expand(1, 5, 4), rtol=1e-5)
    assert torch.allclose(found.features[..., :2], logits.softmax(0).expand(1, 5, 2), rtol=1e-5)
    with pytest.raises(ValueError, match="at most extra, which is 1"):
        RadianceFieldConfig(extra=1, extra_classes=2)


def test_the_loss_is_the_colours_the_labels_and_the_features(weights: Path) -> None:
    task = build(weights, objective={"labels": 0.3, "features": 0.7}, renderer={"jitter": False})
    torch.manual_seed(0)
    model = task.build_model()
    batch = task.data().train_batch(0, 4)
    loss, logs = task.loss(model, batch, StepRandom(0, 0))
    output = model(batch.context, batch.query)
    assert isinstance(output, Rendered)
    assert output.features is not None
    assert batch.labels is not None
    assert batch.features is not None
    assert batch.features.shape == (4, 16, DIMS)
    nll = part_nll(output.features[..., :9], output.opacity, batch.labels, 0.01).mean()
    error = (output.features[..., 9:].double() - batch.features.double()).square().mean()
    expected = mse(output.rgb, batch.truth).mean() + 0.3 * nll + 0.7 * error
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert logs["features"].item() == pytest.approx(error.item(), rel=1e-5)
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_features_can_be_learned_by_heart(weights: Path) -> None:
    data = {"rays_per_item": 64, "foreground_epochs": 1000}
    task = build(weights, data=data, objective={"features": 1.0})
    torch.manual_seed(0)
    model = task.build_model()
    batch = task.data().train_batch(0, 3)
    assert batch.features is not None
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(80):
        loss, logs = task.loss(model, batch, StepRandom(0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # who always says their mean, 0, has their mean square: 0.36 of it was left
    assert logs["features"].item() < 0.6 * batch.features.square().mean().item()


def test_the_share_that_is_explained_is_about_the_mean_of_all_pixels() -> None:
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(2, 1, (4, 9, 3)), 0.3 * rng.normal(size=(4, 9, 3))
    shown = rng.random((4, 9)) < 0.6
    classes = ("cars", "cars", "lamps", "lamps")
    metrics = FeatureMetrics(PartMetrics(ImageMetrics("cpu", ("psnr",)), Parts({"cars": {"body": 1}})))
    plain = Scores({"psnr": [1.0, 2.0]}, ("a", "b"), ("cars", "lamps"))
    for part in (slice(0, 2), slice(2, 4)):
        given = torch.tensor(truth[part])
        found = metrics.update(
            plain, given + torch.tensor(noise[part]), given, torch.tensor(shown[part]), classes[part], ""
        )
        each = [(noise[i][shown[i]] ** 2).mean() for i in range(part.start, part.stop)]
        assert found.values["feature_error"] == pytest.approx(each)
        assert found.values["psnr"] == [1.0, 2.0]
    values = metrics.distribution()["feature_explained"]
    for name, own in (("all", slice(0, 4)), ("cars", slice(0, 2)), ("lamps", slice(2, 4))):
        aim = truth[own][shown[own]]
        expected = 1 - (noise[own][shown[own]] ** 2).sum() / ((aim - aim.mean(0)) ** 2).sum()
        assert values[name] == pytest.approx(expected, abs=1e-9)
    missing = metrics.update(plain, torch.tensor(truth[:2]), None, torch.tensor(shown[:2]), classes[:2], "gone")
    assert "feature_error" not in missing.values
    assert missing.unavailable["feature_error"] == metrics.unavailable["feature_explained"] == "gone"
    assert metrics.distribution()["feature_explained"] == {}


def test_an_example_that_shows_no_object_has_no_error(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build(weights)
    batch = next(iter(task.validation()))
    assert batch.labels is not None
    batch = replace(batch, labels=batch.labels * (torch.arange(len(batch.ids)) > 0)[:, None])
    output, _ = task.predict(task.build_model().eval(), batch)
    captions: list[list[str]] = []
    draw = sheets.parts_sheet

    def noted(*given: Any) -> Any:
        captions.extend(given[4])
        return draw(*given)

    monkeypatch.setattr(sheets, "parts_sheet", noted)
    task.write_examples(tmp_path / "examples.png", batch, output, [Example("empty", 0, 1.0), Example("full", 1, 1.0)])
    empty, full = (row[-1] for row in captions)
    assert empty == "error n/a"
    assert re.fullmatch(r"error \d+\.\d\d", full)


def test_colours_of_features_are_composited_on_white() -> None:
    opacity = torch.tensor([[0.0, 1.0], [0.6, 1.0]])
    values = torch.tensor([[[9.0, 9, 9], [0, 0, 0]], [[4, -4, 0], [1, -2, 8]]])
    features = torch.cat((values * opacity.unsqueeze(-1), torch.full((2, 2, 1), 99.0)), -1)
    limits = torch.tensor([4.0, 4.0, 4.0])
    picture = feature_picture(features, opacity, limits)
    # nothing: white; 0: grey; ends are black and full colour, under 0.6 of the light; beyond the ends: the ends
    assert picture[0].tolist() == [[255, 255, 255], [128, 128, 128]]
    assert np.abs(picture[1].astype(int) - [[255, 102, 178.5], [159, 64, 255]]).max() <= 0.5
    assert feature_limits(features, opacity).tolist() == [1.0, 2.0, pytest.approx(1e-6)]
    assert feature_limits(features, torch.zeros(2, 2)).tolist() == [1, 1, 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERKIT_CACHE", str(tmp_path_factory.getbasetemp() / "features-cache"))
        chosen = settings(weights, training={"ema": 0.9, "steps": 6})
        return train("segment", recipe="debug", overrides=chosen, out=tmp_path_factory.mktemp("run") / "run")


def basis_of(run: RunResult) -> Basis:
    holder = FeatureBasis()
    holder.set_extra_state(load_checkpoint(run.files["checkpoint"]).weights()["feature_basis._extra_state"])
    assert holder.value is not None
    return holder.value


def test_a_run_says_how_much_is_explained(run: RunResult) -> None:
    group = run.results["test"]["all"]
    assert group["feature_error"] > 0
    assert group["feature_explained"] < 1
    assert {"features turntable", "features sheet"} <= set(run.files)
    assert all(path.exists() for path in run.files.values())


def test_evaluation_elsewhere_measures_along_the_checkpoints_components(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "another"))
    # of fewer training objects the components would be others
    again = evaluate(run.run, overrides={"data": {"train_fraction": 0.3}}, out=tmp_path / "e")
    for name in ("feature_error", "feature_explained"):
        assert again.results["test"]["all"][name] == pytest.approx(run.results["test"]["all"][name], abs=1e-9)
    assert not list((tmp_path / "another" / "features").glob("*/basis.npy"))


def test_without_the_encoder_all_but_the_features_is_measured_and_shown(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "another"))
    gone = {"features": {"weights": str(tmp_path / "gone.pt")}}
    found = evaluate(run.run, overrides=gone, limit=3, out=tmp_path / "e")
    assert found.results["test"]["all"]["feature_error"] is None
    assert found.results["test"]["all"]["feature_explained"] is None
    assert found.results["test"]["all"]["object_miou"] is not None
    assert "gone.pt does not exist" in found.results["unavailable"]["feature_explained"]
    shown = render(run.run, RenderOptions(views=3, size=16), sample=1, overrides=gone, out=tmp_path / "r")
    assert {"parts", "features", "features turntable", "features sheet"} <= set(shown.files)
    assert len(list((tmp_path / "r" / "features").glob("*.png"))) == 3


def test_finetuning_keeps_the_components_and_the_share_of_the_foreground(run: RunResult, tmp_path: Path) -> None:
    own = {"data": {"classes": ["lamps"]}, "training": {"steps": 2}}
    result = finetune(run.run, overrides=own, out=tmp_path / "f")
    assert result.results["config"]["data"]["foreground_epochs"] == 1  # the recipe's
    assert torch.equal(basis_of(result).components, basis_of(run).components)
    with pytest.raises(HyperkitError, match=r"keeps the features\.name"):
        finetune(run.run, overrides={"features": {"name": "dino"}}, out=tmp_path / "g")


def test_a_missing_encoder_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(HyperkitError, match=r"--features nano: .*gone\.pt does not exist"):
        train("segment", recipe="debug", overrides=settings(tmp_path / "gone.pt"), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_finetuning_leaves_the_start_from_the_foreground_out_where_it_is_a_start() -> None:
    for task, kept in (("segment", 1000), ("nvs", 0)):
        task_cls, config = from_recipe(task, "quickstart", {"data": {"foreground_epochs": 1000}}, "train")
        stored = config.model_dump(mode="json")
        assert merge(stored, task_cls.finetuning_defaults())["data"]["foreground_epochs"] == kept


def test_other_tasks_distil_nothing() -> None:
    with pytest.raises(HyperkitError, match="by the task 'segment', and this is 'nvs'"):
        from_recipe("nvs", "debug", {"features": {"name": "dino"}}, "train")


def test_views_without_distilled_features_have_none() -> None:
    features = torch.rand(1, 2, 2, 3)
    shape = {"rgb": torch.rand(1, 2, 2, 3), "depth": torch.rand(1, 2, 2), "opacity": torch.ones(1, 2, 2)}
    views = Views(**shape, cameras=None, features=features, parts=("a", "b"))  # type: ignore[arg-type]
    assert views.distilled is not None
    assert torch.equal(views.distilled, features[..., 2:])
    # a feature larger than the probabilities is no part
    assert torch.equal(views.labels().long(), features[..., :2].argmax(-1) + 1)
    assert Views(**shape, cameras=None, features=features, parts=("a", "b", "c")).distilled is None  # type: ignore[arg-type]
