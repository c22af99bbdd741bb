"""Part segmentation as a task: what it is given, what its gradients reach, and that it learns."""

from pathlib import Path

import pytest
import torch

from hyperkit.contracts import Rendered
from hyperkit.data.procedural.objects import PARTS
from hyperkit.errors import HyperkitError
from hyperkit.objectives import mse, part_nll
from hyperkit.randomness import StepRandom
from hyperkit.tasks.nvs import NVSTask
from hyperkit.tasks.segment import SegmentTask
from hyperkit.workflows.configure import from_recipe, from_stored


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module-cache")


@pytest.fixture(autouse=True)
def _same_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


def build(task: str = "segment", **overrides: object) -> NVSTask:
    task_cls, config = from_recipe(task, "debug", overrides, "train")
    made = task_cls(config, 0)
    assert isinstance(made, NVSTask)
    return made


def test_the_loss_is_the_colours_and_the_labels_likelihood() -> None:
    task = build(objective={"labels": 0.3, "label_noise": 0.02}, renderer={"jitter": False})
    torch.manual_seed(0)
    model = task.build_model()
    batch = task.data().train_batch(0, 4)
    loss, logs = task.loss(model, batch, StepRandom(0, 0))
    output = model(batch.context, batch.query)
    assert isinstance(output, Rendered)
    assert output.features is not None
    assert batch.labels is not None
    nll = part_nll(output.features, output.opacity, batch.labels, 0.02).mean()
    expected = mse(output.rgb, batch.truth).mean() + 0.3 * nll
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert logs["labels"].item() == pytest.approx(nll.item(), rel=1e-5)
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(("algorithm", "beta"), [("trans-inr", 0.0), ("ponp", 1.0)])
def test_parts_can_be_learned_by_heart(algorithm: str, beta: float) -> None:
    data = {"rays_per_item": 64, "foreground_epochs": 1000}
    task = build(algorithm=algorithm, data=data, objective={"beta": beta})
    torch.manual_seed(0)
    model = task.build_model()
    batch = task.data().train_batch(0, 3)
    assert batch.labels is not None
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(50):
        loss, logs = task.loss(model, batch, StepRandom(0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # the likelihood of somebody who knows how frequent the labels are, but not where
    shares = batch.labels.flatten().bincount() / batch.labels.numel()
    entropy = -(shares * shares.clamp_min(1e-9).log()).sum()
    assert logs["labels"].item() < 0.75 * entropy.item()


def test_what_is_generated_gives_a_probability_for_each_part() -> None:
    task = build()
    assert isinstance(task, SegmentTask)
    assert task.config.data.parts == PARTS
    model = task.build_model()
    batch = task.data().pairs("test").batch(range(2))
    output, params = task.predict(model, batch)
    assert isinstance(output, Rendered)
    assert output.features is not None
    assert output.features.shape == (2, 32 * 32, 9)
    assert torch.allclose(output.features.sum(-1), output.opacity, atol=1e-5)
    assert params.spec.options["extra"] == 9
    made = task.predictor(model, torch.float32, task.samples())
    assert made.parts == ("body", "wheels", "windows", "seat", "back", "legs", "shade", "stem", "base")


def test_parts_are_those_of_the_checkpoint_not_of_other_data(tmp_path: Path) -> None:
    _, config = from_recipe("segment", "debug", {}, "train")
    stored = config.model_dump(mode="json")
    # the folder is not read for its parts: they are known
    _, again = from_stored(stored, {"data": {"root": str(tmp_path)}}, "evaluate")
    assert again.data.parts == PARTS
    with pytest.raises(HyperkitError, match="No object with a transforms.json"):
        from_recipe("segment", "debug", {"data": {"root": str(tmp_path)}}, "train")


def test_outputs_that_nobody_asked_for_are_refused() -> None:
    for task in ("nvs", "segment"):
        with pytest.raises(HyperkitError, match="target.extra is set by the task"):
            build(task, target={"extra": 3})
    with pytest.raises(HyperkitError, match="Allowed: radiance_field"):
        build(target_kind="hash_grid")


def test_novel_view_synthesis_has_no_labels() -> None:
    task = build("nvs")
    assert task.data().train_batch(0, 2).labels is None
    assert task.data().pairs("test").batch([0]).labels is None
    assert task.build_target().spec.options["extra"] == 0
