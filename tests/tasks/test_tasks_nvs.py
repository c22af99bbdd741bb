"""The task as a whole: what its strategies train, what its gradients reach, and that it learns."""

import copy
from pathlib import Path

import pytest
import torch

from hyperkit.contracts import Batch
from hyperkit.randomness import StepRandom
from hyperkit.tasks.nvs import NVSTask, typical_fill
from hyperkit.training.checkpoints import tensors_sha256
from hyperkit.training.optimizers import build_optimizer
from hyperkit.workflows.configure import from_recipe


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module-cache")


@pytest.fixture(autouse=True)
def _same_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small timm transformer's weights, as a user would have them in a file."""
    import timm

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "test_vit.pth"
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return path


def build(**overrides: object) -> tuple[NVSTask, object]:
    task_cls, config = from_recipe("nvs", "debug", overrides, "train")
    return task_cls(config, 0), config.training


def steps(task: NVSTask, training: object, model: torch.nn.Module, count: int) -> list[float]:
    optimizer = build_optimizer(model, training)
    losses = []
    data = task.data()
    model.train()
    for step in range(count):
        loss, _ = task.loss(model, data.train_batch(step, 4), StepRandom(0, step))
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("strategy", ["frozen", "lora", "finetune"])
def test_strategies_change_what_they_say(strategy: str, weights: Path) -> None:
    backbone = {"name": "timm:test_vit", "weights": str(weights), "strategy": strategy, "lora_rank": 4}
    task, training = build(backbone=backbone)
    torch.manual_seed(0)
    model = task.build_model()
    roles = model.parameter_roles()
    own = {id(p) for p in model.backbone.backbone_parameters()}
    base = {n: p for n, p in model.named_parameters() if id(p) in own}
    buffers = dict(model.backbone.named_buffers())
    before, before_buffers = tensors_sha256(base), copy.deepcopy(buffers)
    steps(task, training, model, 3)
    for role in ("tokens", "heads", "base"):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in roles[role]), role
    assert (tensors_sha256(base) == before) == (strategy in ("frozen", "lora"))
    if strategy != "finetune":
        assert all(torch.equal(buffers[n], before_buffers[n]) for n in buffers)
        assert not model.backbone.training
    assert bool(roles["adapters"]) == (strategy == "lora")
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in roles["adapters"])


def test_no_parameter_is_unused() -> None:
    task, training = build()
    model = task.build_model()
    steps(task, training, model, 1)
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize("density", ["relu", "softplus"])
def test_a_field_can_be_learned_by_heart(density: str) -> None:
    # two objects, one batch: the loss must fall far below that of a white picture, and never collapse to it
    task, _ = build(data={"builtin": "debug", "rays_per_item": 64, "foreground_epochs": 0}, target={"density": density})
    torch.manual_seed(0)
    model = task.build_model()
    data = task.data()
    batch = data.train_batch(0, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(60):
        loss, _ = task.loss(model, batch, StepRandom(0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    white = (batch.truth - 1).square().mean()
    assert loss.item() < 0.35 * white.item()


def test_the_loss_is_the_mean_over_items() -> None:
    task, _ = build(renderer={"jitter": False})
    torch.manual_seed(0)
    model = task.build_model().eval()
    batch = task.data().train_batch(0, 4)

    def part(index: int) -> Batch:
        rays = batch.query
        single = type(rays)(rays.origins[index : index + 1], rays.directions[index : index + 1], rays.near, rays.far)
        one = slice(index, index + 1)
        return Batch(batch.context[one], single, batch.truth[one], batch.ids[one], batch.classes[one])

    with torch.no_grad():
        whole, logs = task.loss(model, batch, StepRandom(0, 0))
        parts = [task.loss(model, part(i), StepRandom(0, 0)) for i in range(4)]
    assert whole.item() == pytest.approx(sum(p[0].item() for p in parts) / 4, rel=1e-5)
    assert logs["psnr"].item() == pytest.approx(sum(p[1]["psnr"].item() for p in parts) / 4, abs=1e-4)


def test_samples_hold_what_a_checkpoint_needs() -> None:
    task, _ = build()
    samples = task.samples()
    assert {name.split("/")[0] for name in samples["ids"]} == {"cars", "chairs", "lamps"}
    framing = samples["framing"]
    assert framing["camera_angle_x"] == pytest.approx(2 * torch.atan(torch.tensor(0.27)).item(), rel=1e-4)
    assert framing["radius"] == pytest.approx(4.0, abs=1e-4)
    objects = [task.data().object(name) for name in samples["ids"]]
    assert samples["focal"].tolist() == [float(found.cameras.focal[0]) for found in objects]
    assert 0.5 < samples["fill"] <= 1.0


def test_typical_fill_is_the_longer_extent() -> None:
    context = torch.ones(3, 1, 3, 20, 20)
    context[0, 0, :, 5:9, 2:14] = 0.3  # 12 of 20 wide
    context[1, 0, :, 0:16, 4:6] = 0.3  # 16 of 20 high; the third is empty
    assert typical_fill([context], "white") == pytest.approx(0.7)
