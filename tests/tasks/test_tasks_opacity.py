"""The loss on the opacity of rays: its value beside the reconstruction's, and that it empties the space."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperkit.contracts import Batch, Rendered
from hyperkit.data.layout import write_scene
from hyperkit.errors import HyperkitError
from hyperkit.geometry import turntable
from hyperkit.randomness import StepRandom
from hyperkit.tasks.nvs import NVSTask
from hyperkit.workflows.configure import from_recipe

NAN = float("nan")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module-cache")


@pytest.fixture(autouse=True)
def _same_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


def build(**overrides: object) -> NVSTask:
    task_cls, config = from_recipe("nvs", "debug", overrides, "train")
    task = task_cls(config, 0)
    assert isinstance(task, NVSTask)
    return task


class WhiteFog(torch.nn.Module):
    """Renders half-transparent white whatever it is given."""

    def forward(self, context: torch.Tensor, *_: object) -> Rendered:
        shape = (len(context), 8)
        return Rendered(torch.ones(*shape, 3), torch.zeros(shape), torch.full(shape, 0.5))


def white(opacity: torch.Tensor | None) -> Batch:
    return Batch(torch.ones(2, 1, 3, 4, 4), None, torch.ones(2, 8, 3), ("a", "b"), opacity=opacity)


def test_white_fog_costs_its_squared_opacity_times_the_weight() -> None:
    empty, random = torch.zeros(2, 8), StepRandom(0, 0)
    without, logs = build().loss(WhiteFog(), white(empty), random)
    assert (without.item(), set(logs)) == (0.0, {"mse", "psnr"})  # the reconstruction does not see it
    weighed, logs = build(objective={"opacity": 0.5}).loss(WhiteFog(), white(empty), random)
    assert (weighed.item(), logs["opacity"].item()) == (0.125, 0.25)
    # as many items count as there are, so that parts of a batch average to the whole
    half = torch.stack((empty[0], torch.full((8,), NAN)))
    assert build(objective={"opacity": 0.5}).loss(WhiteFog(), white(half), random)[0].item() == 0.0625
    for unknown in (torch.full((2, 8), NAN), None):
        assert build(objective={"opacity": 0.5}).loss(WhiteFog(), white(unknown), random)[0].item() == 0.0


def test_items_without_alpha_are_trained_by_their_colours_alone() -> None:
    plain, weighed = build(), build(objective={"opacity": 1.0})
    torch.manual_seed(0)
    model = plain.build_model()
    batch = plain.data().train_batch(0, 4)
    assert batch.opacity is not None
    gradients = []
    for task, opacity in ((plain, batch.opacity), (weighed, torch.full_like(batch.opacity, NAN)), (weighed, None)):
        model.zero_grad()
        task.loss(model, replace(batch, opacity=opacity), StepRandom(0, 0))[0].backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))
    model.zero_grad()
    mixed = torch.cat((batch.opacity[:2], torch.full_like(batch.opacity[2:], NAN)))
    weighed.loss(model, replace(batch, opacity=mixed), StepRandom(0, 0))[0].backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in found)
    assert any(not torch.equal(a, b) for a, b in zip(gradients[0], found, strict=True))


def test_training_with_it_empties_the_space_around_the_object() -> None:
    fog = {}
    for weight in (0.0, 1.0):
        data = {"builtin": "debug", "rays_per_item": 64, "foreground_epochs": 0}
        target = {"density": "softplus", "density_scale": 10}
        task = build(data=data, target=target, objective={"opacity": weight})
        torch.manual_seed(0)
        model = task.build_model()
        batch = task.data().train_batch(0, 2)
        assert batch.opacity is not None
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for step in range(60):
            loss, _ = task.loss(model, batch, StepRandom(0, step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found = model(batch.context, batch.query).opacity
        fog[weight] = found[batch.opacity == 0].mean().item()
    # seen: a mean opacity of 0.152 where nothing is, and 0.046 with the term
    assert fog[1.0] < 0.09
    assert fog[0.0] > 2 * fog[1.0]


def test_objects_without_alpha_are_counted_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(10):
        pictures = np.full((4, 8, 8, 4), 255, np.uint8)
        pictures[0, 0, 0, 3] = 255 if index % 2 else 254  # one pixel that is not opaque is alpha enough
        write_scene(tmp_path / "cars" / f"{index}", pictures, turntable(4).numpy(), 0.5)
    caplog.set_level("INFO", logger="hyperkit")
    names = {}
    for weight in (0.0, 1.0):
        caplog.clear()
        data = build(data={"root": str(tmp_path), "resolution": 8}, objective={"opacity": weight}).data()
        names[weight] = data.opaque_ids
        said = [r.getMessage() for r in caplog.records if "have no alpha" in r.getMessage()]
        assert len(said) == (weight > 0)
    assert names[0.0] == names[1.0] == tuple(name for name in data.train_ids if int(name[-1]) % 2)
    assert f"of {len(names[1.0])} of {len(data.train_ids)} training objects" in said[0]


@pytest.mark.parametrize("task", ["image", "audio"])
def test_it_is_refused_where_there_are_no_rays(task: str) -> None:
    with pytest.raises(HyperkitError, match=rf"objective\.opacity is for radiance fields, and the task '{task}'"):
        from_recipe(task, "debug", {"objective": {"opacity": 0.5}}, "train")
