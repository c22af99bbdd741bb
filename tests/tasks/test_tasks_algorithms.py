"""Every algorithm on every task: what is trained, what gradients reach, and that each can learn by heart."""

import copy
import math
from pathlib import Path

import pytest
import torch

from hyperkit.contracts import Rendered
from hyperkit.errors import HyperkitError
from hyperkit.hypernets import ALGORITHMS
from hyperkit.randomness import StepRandom
from hyperkit.tasks import TASKS
from hyperkit.tasks.inr import INRTask
from hyperkit.training.checkpoints import tensors_sha256
from hyperkit.training.optimizers import build_optimizer, count_parameters
from hyperkit.workflows.configure import from_recipe

READING = [task for task in TASKS if "train" in TASKS.load(task).verbs]
"""The tasks whose models read something with weight tokens."""
EVERY = [(task, algorithm) for task in READING for algorithm in ALGORITHMS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module-cache")


@pytest.fixture(autouse=True)
def _same_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


@pytest.fixture(scope="module")
def picture_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "test_vit.pth"
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return path


def build(task: str, algorithm: str = "trans-inr", **overrides: object) -> tuple[INRTask, object]:
    task_cls, config = from_recipe(task, "debug", {"algorithm": algorithm, **overrides}, "train")
    made = task_cls(config, 0)
    assert isinstance(made, INRTask)
    return made, config.training


def one_step(task: INRTask, training: object, model: torch.nn.Module, steps: int = 1) -> None:
    optimizer = build_optimizer(model, training)  # type: ignore[arg-type]
    model.train()
    for step in range(steps):
        loss, _ = task.loss(model, task.data().train_batch(step, 4), StepRandom(0, step))
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        optimizer.step()


@pytest.mark.parametrize(("task", "algorithm"), EVERY)
def test_gradients_reach_every_parameter(task: str, algorithm: str) -> None:
    made, training = build(task, algorithm)
    torch.manual_seed(0)
    model = made.build_model()
    one_step(made, training, model)
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("strategy", ["frozen", "lora"])
@pytest.mark.parametrize(("task", "algorithm"), [pair for pair in EVERY if pair[0] != "audio"])
def test_a_frozen_backbone_keeps_its_bits(task: str, algorithm: str, strategy: str, picture_weights: Path) -> None:
    backbone = {"name": "timm:test_vit", "weights": str(picture_weights), "strategy": strategy, "lora_rank": 2}
    made, training = build(task, algorithm, backbone=backbone)
    torch.manual_seed(0)
    model = made.build_model()
    own = {id(p) for p in model.backbone.backbone_parameters()}
    base = {n: p for n, p in model.named_parameters() if id(p) in own}
    before, buffers = tensors_sha256(base), copy.deepcopy(dict(model.backbone.named_buffers()))
    one_step(made, training, model, 2)
    assert tensors_sha256(base) == before
    assert all(torch.equal(b, buffers[n]) for n, b in model.backbone.named_buffers())
    counts = count_parameters(model)
    assert (counts["backbone"].trainable, counts["backbone"].total) == (0, sum(p.numel() for p in base.values()))
    assert counts["all"].trainable == by_hand(made, algorithm, model.backbone.width) + adapters(model, strategy)


def adapters(model: torch.nn.Module, strategy: str) -> int:
    if strategy == "frozen":
        return 0
    width, depth, rank = model.backbone.width, len(list(model.backbone.blocks)), 2  # type: ignore[union-attr, arg-type]
    return depth * rank * (width + 3 * width)  # A (r, D) and B (3 D, r) of each block's qkv


def by_hand(task: INRTask, algorithm: str, width: int) -> int:
    """Count tokens, heads and base parameters from the layers' sizes."""
    spec = task.build_target().spec
    weights = {n: t.shape for n, t in spec.tensors.items() if n.endswith(".weight")}
    biases = sum(shape[1] for shape in weights.values())
    head = {name: 2 * width + (width + 1) * fan_in for name, (fan_in, _) in weights.items()}  # LayerNorm and Linear
    if algorithm == "ipc":
        fan_out = weights["layer1.weight"][1]
        rank = min(8, fan_out)
        shared = sum(i * o for name, (i, o) in weights.items() if name != "layer1.weight")
        return rank * width + head["layer1.weight"] + rank * fan_out + shared + biases
    tokens = sum(min(4, fan_out) for _, fan_out in weights.values())
    return tokens * width + sum(head.values()) + sum(i * o for i, o in weights.values()) + biases


@pytest.mark.parametrize(("task", "algorithm"), EVERY)
def test_each_can_learn_a_batch_by_heart(task: str, algorithm: str) -> None:
    overrides = {"nvs": {"data": {"foreground_epochs": 0}}}.get(task, {})
    made, _ = build(task, algorithm, **overrides)
    torch.manual_seed(0)
    model = made.build_model()
    batch = made.data().train_batch(0, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    errors = []
    for step in range(60):
        loss, logs = made.loss(model, batch, StepRandom(0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(logs["mse"].item())
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("task", READING)
def test_ponp_gives_a_positive_deviation_and_maximises_the_likelihood(task: str) -> None:
    made, _ = build(task, "ponp")
    torch.manual_seed(0)
    model = made.build_model().eval()
    batch = made.data().train_batch(0, 3)
    with torch.no_grad():
        jitter = made.jitter(batch, StepRandom(0, 0))
        output = model(batch.context, batch.query, jitter, batch.context_cameras)
        loss, logs = made.loss(model, batch, StepRandom(0, 0))
    assert output.deviation is not None
    assert output.deviation.shape == batch.truth.shape
    assert float(output.deviation.min()) >= 0.01 - 1e-6
    mean, deviation, truth = (t.double() for t in (output.values, output.deviation, batch.truth))
    z = (truth - mean) / deviation
    by_hand = (0.5 * math.log(2 * math.pi) + deviation.log() + 0.5 * z * z).mean()
    parts = getattr(made.config.objective, "labels", 0.0) * float(logs.get("labels", 0.0))  # of the task segment
    assert loss.item() - parts == pytest.approx(by_hand.item(), abs=1e-5)
    assert logs["nll"].item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_backbones_of_the_other_kind_are_refused_by_name() -> None:
    with pytest.raises(HyperkitError, match="'clip' reads pictures, and the task 'audio' gives sounds"):
        build("audio", backbone={"name": "clip"})
    with pytest.raises(HyperkitError, match="'whisper-base' reads sounds, and the task 'nvs' gives pictures"):
        build("nvs", backbone={"name": "whisper-base"})


def test_poses_where_there_are_no_cameras_are_refused() -> None:
    with pytest.raises(HyperkitError, match="the task 'audio' has none"):
        build("audio", context={"pose_tokens": True})
    with pytest.raises(HyperkitError, match="An item of the task 'image' has one context"):
        build("image", data={"views": 2})


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(HyperkitError, match=r"objective\.beta weighs a likelihood"):
        build("image", objective={"beta": 0.5})
    with pytest.raises(HyperkitError, match=r"objective\.fog is for radiance fields"):
        build("audio", objective={"fog": 0.5})


def test_sound_backbones_read_at_the_rate_of_the_data() -> None:
    made, _ = build("audio", data={"rate": 1000})
    assert made.config.backbone.sample_rate == 1000
    with pytest.raises(HyperkitError, match="reads 16000 samples per second, and data.rate is 2000"):
        build("audio", backbone={"sample_rate": 16000})


def test_a_likelihood_without_deviation_is_refused() -> None:
    with pytest.raises(HyperkitError, match="objective.loss=nll needs a deviation"):
        build("image", objective={"loss": "nll"})


def test_the_hash_grid_is_a_field_of_nvs_only() -> None:
    made, training = build("nvs", "trans-inr", target_kind="hash_grid")
    torch.manual_seed(0)
    model = made.build_model()
    one_step(made, training, model)
    output, _ = made.predict(model, next(iter(made.validation())))
    assert isinstance(output, Rendered)
    assert torch.isfinite(output.rgb).all()
    with pytest.raises(HyperkitError, match="cannot generate a 'hash_grid'"):
        build("image", target_kind="hash_grid")


def test_pose_tokens_start_without_effect_and_then_matter() -> None:
    plain, _ = build("nvs")
    posed, training = build("nvs", context={"pose_tokens": True})
    models = []
    for made in (plain, posed):
        torch.manual_seed(0)
        models.append(made.build_model().eval())
    batch = posed.data().train_batch(0, 2)
    with torch.no_grad():
        without, with_poses = (m.generate(batch.context, batch.context_cameras).pack() for m in models)
    assert torch.equal(without, with_poses)
    one_step(posed, training, models[1], 3)
    turned = batch.context_cameras.poses.flip(0)
    other = type(batch.context_cameras)(**{**vars(batch.context_cameras), "poses": turned})
    with torch.no_grad():
        first, second = (models[1].eval().generate(batch.context, c).pack() for c in (batch.context_cameras, other))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("task", READING)
def test_attention_is_given_per_layer(task: str) -> None:
    made, _ = build(task)
    torch.manual_seed(0)
    model = made.build_model().eval()
    batch = made.data().train_batch(0, 2)
    maps = model.attention(batch.context, batch.context_cameras)
    assert list(maps) == ["layer0", "layer1", "layer2"]
    tokens = model.tokens(batch.context, batch.context_cameras).shape[1]
    for attention in maps.values():
        assert attention.shape == (2, tokens)
        assert float(attention.min()) >= 0
        assert float(attention.sum(1).max()) <= 1 + 1e-5
