"""The rows of training: one step with a ViT-B, and test-time optimisation of several fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperkit.bench import arithmetic
from hyperkit.bench.measure import Candidate
from hyperkit.bench.plain import PlainSettings, plain_adaptation, plain_rays
from hyperkit.bench.plain_model import PlainModel
from hyperkit.bench.report import Row, timed_row
from hyperkit.bench.settings import Bench
from hyperkit.config import merge
from hyperkit.contracts import Cameras, Rays
from hyperkit.hypernets.trans_inr import TransINR
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import autocast
from hyperkit.randomness import StepRandom, torch_rng
from hyperkit.renderers import RendererConfig
from hyperkit.targets.radiance_field import RadianceField
from hyperkit.tasks.nvs import NVSTask
from hyperkit.training.generators import seed_step
from hyperkit.training.optimizers import build_optimizer
from hyperkit.training.prefetch import Prefetcher
from hyperkit.training.starting import build_model
from hyperkit.workflows.configure import from_recipe

ENDLESS = 1_000_000
"""More steps than are ever measured."""


@dataclass(frozen=True)
class Setting:
    """A task of the recipe that is measured, its configuration of training, and its model."""

    task: NVSTask
    training: Any
    model: INRHypernet
    renderer: RendererConfig

    @classmethod
    def open(cls, bench: Bench, batch: int, rays: int, backbone: str | None = None) -> Setting:
        """Build the task on the smallest built-in views, at 128 pixels as the papers have them."""
        own: dict[str, Any] = {
            "data": {"builtin": "debug", "resolution": bench.sizes.view, "rays_per_item": rays},
            "training": {"batch_size": batch, "steps": ENDLESS, "epochs": None},
        }
        if backbone is not None:
            own["backbone"] = {"name": backbone}
        overrides = merge(bench.sizes.overrides, own)
        _, config = from_recipe("nvs", bench.sizes.recipe, overrides, "train")
        task = NVSTask(config, config.training.seed)
        model = build_model(task, config.training.seed, None, None)
        assert isinstance(model, INRHypernet)
        return cls(task, config.training, model.to(bench.device), config.renderer)


@contextmanager
def opened_steps(bench: Bench, side: str) -> Iterator[Callable[[], None]]:
    """Give the training step of one side, "fast" or "plain"."""
    sizes = bench.sizes
    setting = Setting.open(bench, sizes.batch, sizes.rays)
    if side == "plain":
        yield PlainStep(setting, sizes.batch, sizes.rays, bench.device)
        return
    with Prefetcher(setting.task.data(), 0, ENDLESS, sizes.batch, 0, 1, bench.device) as feed:
        yield own_step(bench, setting, feed)


def own_step(bench: Bench, setting: Setting, feed: Prefetcher) -> Callable[[], None]:
    """Return one optimizer step as ``training.loop`` makes it."""
    optimizer = build_optimizer(setting.model, setting.training)
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    setting.model.train()
    done = 0

    def step() -> None:
        nonlocal done
        seed_step(setting.training.seed, done, 0, bench.device)
        batch = feed.next_batch()
        with autocast(bench.device, bench.precision):
            loss, _ = setting.task.loss(setting.model, batch, StepRandom(setting.training.seed, done))
        loss.backward()
        if setting.training.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(trainable, setting.training.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done += 1

    return step


class PlainStep:
    """A training step of the baseline: every ray of a whole target view is formed, then some are chosen.

    Its pictures are in memory, on the device, as floats.

    Args:
        setting: whose model is copied and whose objects are read.
        batch, rays: objects, and rays of each.
        device: where.
    """

    def __init__(self, setting: Setting, batch: int, rays: int, device: torch.device) -> None:
        data = setting.task.data()
        objects = [data.object(name) for name in data.train_ids]
        views = min(len(found.pictures) for found in objects)
        self.pictures = torch.stack([found.pictures[:views] for found in objects]).to(device).float() / 255
        self.poses = torch.stack([found.cameras.poses[:views] for found in objects]).to(device)
        self.focal = torch.stack([found.cameras.focal[:views] for found in objects]).to(device)
        self.model = PlainModel(setting.model).to(device).train()
        self.samples, self.range = setting.renderer.samples, (data.near, data.far)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=setting.training.learning_rate)
        self.batch, self.rays, self.steps = batch, rays, 0

    def __call__(self) -> None:
        """Make one step."""
        generator = torch_rng("bench", "plain step", self.steps)
        self.steps += 1

        def draw(limit: int, *shape: int) -> Tensor:
            return torch.randint(limit, shape, generator=generator).to(self.pictures.device)

        objects, views = self.pictures.shape[:2]
        chosen, context, target = draw(objects, self.batch), draw(views, self.batch), draw(views, self.batch)
        view = self.pictures[chosen, target]
        height, width = view.shape[-2:]
        origins, directions = plain_rays(self.poses[chosen, target], self.focal[chosen, target], height, width)
        pixel = draw(height * width, self.batch, self.rays, 1).expand(-1, -1, 3)
        truth = view.flatten(2).transpose(1, 2).gather(1, pixel)
        origins, directions = origins.gather(1, pixel), directions.gather(1, pixel)
        jitter = torch.rand(self.batch, self.rays, self.samples, device=truth.device)
        params = self.model.generate(self.pictures[chosen, context][:, None])
        query = Rays(origins, directions, *self.range)
        loss = ((self.model.render(params, query, jitter).rgb - truth) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def training_work(model: INRHypernet, points: int, size: int) -> float:
    """Return the useful arithmetic of a training step for one item: transformer, heads and generated network.

    Args:
        model: with a timm backbone and a Trans-INR hypernetwork.
        points: points per item at which its network is evaluated.
        size: of its pictures, pixels.
    """
    hypernet, trunk = model.hypernet, model.backbone.trunk
    assert isinstance(hypernet, TransINR)
    width, layout = model.backbone.width, model.backbone.token_layout(size, size)
    tokens = layout.tokens + len(hypernet.weight_tokens)
    hidden = trunk.blocks[0].mlp.fc1.weight.shape[0]
    patch = arithmetic.product(layout.rows * layout.columns, trunk.patch_embed.proj.weight[0].numel(), width)
    heads = sum(
        arithmetic.product(count, width, hypernet.spec.tensors[f"{layer}.weight"].shape[0])
        for layer, count in hypernet.token_groups.items()
    )
    blocks = arithmetic.transformer(tokens, width, len(trunk.blocks), hidden)
    return 2 * patch + 3 * (blocks + heads) + points * arithmetic.mlp_training(layer_shapes(model.target))


def layer_shapes(target: Any) -> list[tuple[int, int]]:
    """Return the shapes (I, O) of the linear layers of an MLP target, in order."""
    return [tuple(t.shape) for name, t in target.spec.tensors.items() if name.endswith(".weight")]


def tto_100(bench: Bench) -> Row:
    """Time test-time optimisation of several fields as evaluation runs it, against one after the other."""
    sizes = bench.sizes
    setting = Setting.open(bench, sizes.items, sizes.rays, backbone="nano")  # its part in the time is negligible
    task, model = setting.task, setting.model.eval().requires_grad_(False)
    batch = task.data().train_batch(0, sizes.items).to(bench.device)
    cameras = batch.context_cameras
    assert isinstance(cameras, Cameras)
    tto = task.config.evaluation.tto.model_copy(update={"steps": sizes.steps, "rays": sizes.tto_rays})

    @torch.no_grad()
    def fast() -> Any:
        with autocast(bench.device, bench.precision):
            return task.adapted(model, batch.context, cameras, tto)

    with torch.no_grad():
        start = model.generate(batch.context, cameras)
    settings = PlainSettings.of(model.target, setting.renderer, cameras.near, cameras.far, bench.device)
    observe = plain_observations(batch.context[:, 0], cameras, sizes.tto_rays)

    def plain(steps: int = sizes.steps) -> Any:
        return plain_adaptation(start, observe, settings, steps, tto.learning_rate)

    times = bench.compare(Candidate(fast, calls=1), Candidate(plain, lambda: plain(1), calls=1))
    assert isinstance(model.target, RadianceField)
    points = sizes.items * sizes.tto_rays * setting.renderer.samples
    work = sizes.steps * points * arithmetic.mlp_training(layer_shapes(model.target))
    note = f"{sizes.items} items, {sizes.tto_rays} rays, {setting.renderer.samples} samples"
    if sizes.steps != 100:
        note += f"; {sizes.steps} steps measured, times {100 / sizes.steps:g}"
    rate = sizes.steps / times.median("fast")
    more = {"rays_per_s": rate * sizes.items * sizes.tto_rays, "points_per_s": rate * points}
    scale = 100 / sizes.steps
    items = sizes.items / (scale * times.median("fast"))
    return timed_row(bench, "tto_100", times, work, scale, "s", items_per_s=items, **more, note=note)


def plain_observations(
    pictures: Tensor, cameras: Cameras, rays: int
) -> Callable[[int, int], tuple[Tensor, Tensor, Tensor]]:
    """Return what the baseline's test-time optimisation sees: rays chosen among all of an item's picture.

    Args:
        pictures: (B, 3, H, W), with their cameras (B, 1).
        rays: of a step.
    """
    height, width = pictures.shape[-2:]

    def observe(item: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        origins, directions = plain_rays(cameras.poses[item], cameras.focal[item], height, width)
        chosen = torch.randint(height * width, (rays,), generator=torch_rng("tto", step)).to(pictures.device)
        truth = pictures[item].flatten(1).T[None, chosen]
        return origins[:, chosen], directions[:, chosen], truth

    return observe
