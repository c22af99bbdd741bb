"""Pretraining: what a step does to student, teacher and centre, that it learns, resumes, and is judged rightly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hyperkit.backbones.nano import DistilledNano
from hyperkit.config import merge, validate
from hyperkit.contracts import Batch
from hyperkit.errors import HyperkitError
from hyperkit.objectives.self_distillation import dino_loss, teacher_momentum
from hyperkit.randomness import StepRandom
from hyperkit.tasks.pretrain import PretrainTask, attention_map
from hyperkit.training.config import fill_defaults, run_config_model
from hyperkit.training.loop import FitResult, fit
from hyperkit.training.run_directory import RunDirectory

TINY: dict[str, Any] = {
    "data": {"objects": 1, "held_out": 2, "views": 2, "pictures": 4, "stored": 20, "size": 16, "local_size": 8},
    "nano": {"size": 16, "patch": 4, "width": 24, "depth": 2, "heads": 2},
    "dino": {"outputs": 32, "hidden": 32, "bottleneck": 16},
    "mae": {"width": 24, "depth": 1, "heads": 2},
    "training": {"tensorboard": False, "device": "cpu", "precision": "32", "threads": 1, "batch_size": 8},
}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture(autouse=True)
def _kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


def resolve(**values: Any) -> Any:
    plain = PretrainTask.complete(merge(merge(TINY, {"data": {"workers": 1}}), values))
    config = validate(run_config_model(PretrainTask, plain), plain)
    filled = fill_defaults(config.training, **PretrainTask.training_defaults(config, False))
    return config.model_copy(update={"training": filled})


def train(out: Path, **values: Any) -> FitResult:
    config = resolve(**values)
    PretrainTask.check(config)
    stored = config.model_dump(mode="json")
    with RunDirectory.create(out, "pretrain", stored) as run:
        return fit(PretrainTask(config, config.training.seed), config.training, run, stored_config=stored)


def losses(out: Path, name: str = "loss") -> list[float]:
    with RunDirectory.open(out) as run:
        return [line[name] for line in run.read_metrics() if line["split"] == "train"]


def test_a_step_of_distillation_by_hand() -> None:
    config = resolve(over=100, dino={"momentum": 0.9, "temperatures": [0.05, 0.05], "still": 0.0})
    task = PretrainTask(config, 0)
    torch.manual_seed(0)
    model = task.build_model()
    assert isinstance(model, DistilledNano)
    batches = [task.data().train_batch(step, 8) for step in range(2)]
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.5)
    before = {name: p.detach().clone() for name, p in model.teacher.named_parameters()}

    student, teacher = model(batches[0].context, batches[0].query)
    expected = dino_loss(student, teacher, torch.zeros(32), 0.1, 0.05).mean()
    loss, logs = task.loss(model, batches[0], StepRandom(0, 0))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.centre, 0.1 * teacher.mean((0, 1)))
    assert 0 <= float(logs["entropy"]) <= float(logs["entropy_of_mean"]) <= np.log(32)
    loss.backward()
    optimizer.step()
    moved = {name: p.detach().clone() for name, p in model.student.named_parameters()}
    assert any(not torch.equal(moved[name], before[name]) for name in before)

    task.loss(model, batches[1], StepRandom(0, 1))  # first the teacher takes up the step, by the schedule's momentum
    momentum = teacher_momentum(0.01, 0.9)
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value, momentum * before[name] + (1 - momentum) * moved[name])


@pytest.mark.parametrize("normalise", [True, False])
def test_a_masked_loss_by_hand(normalise: bool) -> None:
    task = PretrainTask(resolve(method="mae", mae={"normalise": normalise, "ratio": 0.5}), 0)
    torch.manual_seed(0)
    model, batch = task.build_model().eval(), task.data().train_batch(0, 3)
    with torch.no_grad():
        loss, _ = task.loss(model, batch, StepRandom(4, 2))
        order = StepRandom(4, 2).uniform((3, 16), "mask").argsort(1)
        seen = order[:, :8].sort(1).values
        guess = model(batch.context[:, 0], seen).double()
    total = 0.0
    for item in range(3):
        for patch in order[item, 8:].tolist():
            row, column = 4 * (patch // 4), 4 * (patch % 4)
            truth = batch.context[item, 0, :, row : row + 4, column : column + 4].flatten().double()
            if normalise:
                truth = (truth - truth.mean()) / (truth.var() + 1e-6).sqrt()
            total += float((guess[item, patch] - truth).square().mean()) / 24
    assert float(loss) == pytest.approx(total, rel=1e-4)  # variances of patches of one colour are small


def test_a_student_learns_what_a_teacher_that_stands_still_says() -> None:
    task = PretrainTask(resolve(dino={"temperatures": [0.07, 0.07], "still": 0.0}), 0)
    torch.manual_seed(0)
    model, batch = task.build_model(), task.data().train_batch(0, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    found = []
    for _ in range(50):
        model.centre.zero_()  # type: ignore[union-attr, operator]
        loss, logs = task.loss(model, batch, StepRandom(0, 0))
        found.append(float(loss.detach() - logs["entropy"]))  # at least 0: a mean of Kullback-Leibler divergences
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0 < found[-1] < 0.65 * found[0]  # what global crops show and local ones do not stays


def test_the_last_layer_of_the_head_stays_at_first() -> None:
    task = PretrainTask(resolve(over=100, dino={"still": 0.05}), 0)
    for step, trained in ((4, False), (5, True)):
        model = task.build_model()
        task.loss(model, task.data().train_batch(step, 4), StepRandom(0, step))[0].backward()
        assert (model.student["head"].directions.grad is not None) is trained  # type: ignore[union-attr, operator, index]


@pytest.mark.parametrize("method", ["dino", "mae"])
def test_a_run_learns_and_one_that_was_interrupted_ends_alike(method: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": method, "over": 40, "training": {"log_every": 5, "schedule": "constant"}}
    whole = train(tmp_path / "whole", **merge(settings, {"training": {"steps": 40}}))
    if method == "mae":  # the other loss is against a target that moves
        found = losses(tmp_path / "whole")
        assert found[-1] < 0.9 * found[0]
    assert set(whole.best) == {"step", "metric", "value"}
    assert whole.best["metric"] == "knn"
    train(tmp_path / "parts", **merge(settings, {"training": {"steps": 15}}))
    parts = train(tmp_path / "parts", **merge(settings, {"training": {"steps": 40}}))
    assert parts.resumed_from == 15
    state = whole.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in parts.model.state_dict().items())


class Colours(nn.Module):
    """Features that are a picture's mean colour."""

    def features(self, pictures: Tensor) -> Tensor:
        return pictures.mean((2, 3))


def painted(colours: Mapping[str, tuple[float, float, float]], names: list[str], query: Any = None) -> Batch:
    pictures = torch.tensor([colours[name] for name in names])[:, None, :, None, None].expand(-1, -1, -1, 16, 16)
    return Batch(pictures, query, pictures, tuple(f"{name}/{k}" for k, name in enumerate(names)), tuple(names))


def test_a_picture_is_judged_by_the_class_of_its_neighbours() -> None:
    task = PretrainTask(resolve(neighbours=2, batch_size=2), 0)
    colours = {"fish": (1.0, 0.1, 0.1), "beds": (0.1, 1.0, 0.1), "mugs": (0.1, 0.1, 1.0)}
    bank = painted(colours, ["mugs", "fish", "beds", "mugs", "fish", "beds", "beds"])
    scores = task.evaluate(Colours(), painted(colours, ["fish", "mugs", "beds"], bank))
    assert scores.values == {"knn": [1.0, 1.0, 1.0]}
    wrong = {**colours, "fish": colours["mugs"]}
    assert task.evaluate(Colours(), painted(wrong, ["fish", "mugs"], bank)).values == {"knn": [0.0, 1.0]}


def test_attention_is_that_of_the_class_token_in_the_last_block() -> None:
    torch.manual_seed(0)
    model = PretrainTask(resolve(), 0).build_model().eval()
    assert isinstance(model, DistilledNano)
    pictures = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        found = attention_map(model, pictures)
        x = model.encoder.tokenize(pictures[:, None])
        first, last = model.encoder.trunk.blocks
        normed = last.norm1(first(x))
        q, k, _ = last.attn.qkv(normed).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.mT / 12**0.5, -1).mean(1)[:, 0, 1:].unflatten(1, (4, 4))
    torch.testing.assert_close(found[:, 1, ::4, ::4], weights / weights.amax((1, 2), keepdim=True), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["dino", "mae"])
def test_pictures_for_the_log_show_what_is_known(method: str) -> None:
    task = PretrainTask(resolve(method=method), 0)
    model = task.build_model().eval()
    (batch,) = task.validation()
    sheet = task.media(model, batch)["validation"]
    assert sheet.dtype == np.uint8
    assert len(task.samples()["classes"]) == len(task.samples()["pictures"]) == 5


def test_what_is_set_for_the_run_and_what_is_refused() -> None:
    run = resolve(training={"steps": 123})
    assert (run.over, run.training.optimizer, run.training.clip_grad) == (123, "adamw", 3.0)
    assert resolve(method="mae", training={"steps": 5}).training.betas == (0.9, 0.95)
    assert resolve(over=7, training={"steps": 5, "optimizer": "adam"}).training.optimizer == "adam"
    for wrong, match in (
        ({"data": {"size": 18}}, "whole patches"),
        ({"nano": {"size": 32}}, "differ"),
        ({"training": {"accumulate": 2}}, "one step at a time"),
    ):
        with pytest.raises(HyperkitError, match=match):
            PretrainTask.check(resolve(**wrong))
    PretrainTask.check(resolve(method="mae", training={"accumulate": 2}))
