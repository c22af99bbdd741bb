"""Pretraining of a small backbone without labels: by self-distillation (DINO), or by masked reconstruction (MAE)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from hyperkit.backbones.attention import WatchAttention
from hyperkit.backbones.nano import DistilledNano, MaskedNano, NanoConfig
from hyperkit.config import PartConfig, merge
from hyperkit.contracts import Batch, Scores
from hyperkit.data.pretraining import PretrainingData, PretrainingDataConfig
from hyperkit.errors import HyperkitError
from hyperkit.metrics.catalogue import FEATURE_METRICS
from hyperkit.metrics.knn import knn_correct
from hyperkit.objectives.masked_reconstruction import (
    masked_loss,
    normalise_patches,
    patchify,
    random_mask,
    unpatchify,
)
from hyperkit.objectives.self_distillation import (
    dino_loss,
    entropy,
    teacher_momentum,
    teacher_probabilities,
    teacher_temperature,
    update_centre,
    update_teacher,
)
from hyperkit.randomness import StepRandom
from hyperkit.tasks.base import Task

SHOWN = 8


class DinoConfig(PartConfig):
    """Self-distillation.

    Attributes:
        outputs: K; the paper has 65536 for a million pictures.
        hidden, bottleneck: widths of the heads.
        momentum: of the teacher, at the beginning; it rises to 1.
        centre_momentum: of the centre.
        student_temperature: how sharp the student's outputs are.
        temperatures: how sharp the teacher's are, at the beginning and from ``warmup`` on.
        warmup: part of the run over which the teacher's temperature changes.
        still: part of the run at whose beginning the last layer of the head is not trained.
    """

    outputs: int = Field(default=2048, ge=2)
    hidden: int = Field(default=512, ge=1)
    bottleneck: int = Field(default=128, ge=1)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    centre_momentum: float = Field(default=0.9, ge=0, lt=1)
    student_temperature: float = Field(default=0.1, gt=0)
    temperatures: tuple[float, float] = (0.04, 0.07)
    warmup: float = Field(default=0.3, ge=0, le=1)
    still: float = Field(default=0.02, ge=0, le=1)


class MaeConfig(PartConfig):
    """Masked reconstruction.

    Attributes:
        ratio: part of the patches that is hidden.
        width, depth, heads: of the decoder.
        normalise: the values to predict are those of each patch with mean 0 and variance 1.
    """

    ratio: float = Field(default=0.75, gt=0, lt=1)
    width: int = Field(default=96, ge=3)
    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=3, ge=1)
    normalise: bool = True


class PretrainConfig(PartConfig):
    """The sections of the task; training has its own.

    Attributes:
        method: "dino" or "mae".
        over: steps that the teacher's schedules run over: those of the run.
        neighbours: k, of the accuracy on held-out classes.
        batch_size: pictures at once, in the evaluation.
    """

    method: Literal["dino", "mae"] = "dino"
    over: int = Field(default=10000, ge=1)
    data: PretrainingDataConfig = PretrainingDataConfig()
    nano: NanoConfig = NanoConfig()
    dino: DinoConfig = DinoConfig()
    mae: MaeConfig = MaeConfig()
    neighbours: int = Field(default=20, ge=1)
    batch_size: int = Field(default=100, ge=1)


class PretrainTask(Task):
    """A small backbone that learns from pictures alone; judged by nearest neighbours among classes it never saw."""

    name = "pretrain"
    config_model = PretrainConfig
    verbs: ClassVar[frozenset[str]] = frozenset({"prepare"})
    selection = "knn"

    config: PretrainConfig

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Lay the optimizer of the two papers underneath, and the run's steps for the teacher's schedules."""
        dino = values.get("method", "dino") == "dino"
        training = {"optimizer": "adamw", "weight_decay": 0.05}
        training |= {"clip_grad": 3.0} if dino else {"betas": (0.9, 0.95)}
        steps = (values.get("training") or {}).get("steps")
        return merge({"training": training} | ({"over": steps} if steps else {}), values)

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse crops that are no whole patches, and distillation in parts or processes, which the teacher ignores."""
        for size in (config.data.size, config.data.local_size):
            if size % config.nano.patch:
                raise HyperkitError(
                    f"Crops of {size} pixels are no whole patches of {config.nano.patch}.",
                    "Choose data.size and data.local_size as multiples of nano.patch.",
                )
        if config.data.size != config.nano.size:
            raise HyperkitError(
                f"data.size={config.data.size} and nano.size={config.nano.size} differ.", "Give both the same value."
            )
        for part, sizes in (("nano", config.nano), ("mae", config.mae)):
            if sizes.width % sizes.heads:
                raise HyperkitError(
                    f"{part}.width={sizes.width} cannot be shared by {part}.heads={sizes.heads}.",
                    f"Choose {part}.width as a multiple of {part}.heads.",
                )
        training = config.training
        if config.method == "dino" and training.accumulate * training.devices * training.nodes > 1:
            raise HyperkitError(
                "Self-distillation takes one step at a time in one process: its teacher follows each step.",
                "Leave training.accumulate, devices and nodes at 1.",
            )

    @classmethod
    def training_defaults(cls, config: Any, from_checkpoint: bool) -> dict[str, Any]:
        """Return settings of ours, for a network of this size: Adam at 5e-4 with 64 items, warm-up and a cosine."""
        return {"learning_rate": 5e-4, "batch_size": 64, "schedule": "cos"}

    @cached_property
    def _data(self) -> PretrainingData:
        return PretrainingData(self.config.data, self.seed, self.config.method == "mae", self.data_progress)

    def data(self) -> PretrainingData:
        """Open the objects and pictures, made on first use."""
        return self._data

    def build_model(self, load_weights: bool = True) -> DistilledNano | MaskedNano:
        """Build the network with what pretrains it."""
        config, dino, mae = self.config, self.config.dino, self.config.mae
        if config.method == "dino":
            return DistilledNano(config.nano, dino.outputs, dino.hidden, dino.bottleneck)
        return MaskedNano(config.nano, mae.width, mae.depth, mae.heads)

    def loss(self, model: nn.Module, batch: Batch, rng: StepRandom) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the mean of ``dino_loss`` or ``masked_loss``, and scalars to log.

        With self-distillation the teacher first takes up the student's last step, and the centre moves afterwards.
        """
        if self.config.method == "dino":
            return self._distil(cast(DistilledNano, model), batch, rng.step)
        return self._reconstruct(cast(MaskedNano, model), batch, rng)

    def _distil(self, model: DistilledNano, batch: Batch, step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        dino, progress = self.config.dino, step / self.config.over
        if step:  # before the first one they are equal
            update_teacher(model.teacher, model.student, teacher_momentum(progress, dino.momentum))
        temperature = teacher_temperature(progress, *dino.temperatures, dino.warmup)
        student, teacher = model(batch.context, batch.query, progress >= dino.still)
        loss = dino_loss(student, teacher, model.centre, dino.student_temperature, temperature).mean()
        with torch.no_grad():
            targets = teacher_probabilities(teacher, model.centre, temperature)
            logs = {"entropy": entropy(targets).mean(), "entropy_of_mean": entropy(targets.mean((0, 1)))}
        update_centre(model.centre, teacher, dino.centre_momentum)
        return loss, logs

    def _reconstruct(self, model: MaskedNano, batch: Batch, rng: StepRandom) -> tuple[Tensor, Mapping[str, Tensor]]:
        pictures, patch = batch.context[:, 0], self.config.nano.patch
        target = patchify(pictures, patch)
        scores = rng.uniform((len(target), target.shape[1]), "mask", target.device)
        seen, hidden = random_mask(scores, self.config.mae.ratio)
        target = normalise_patches(target) if self.config.mae.normalise else target
        return masked_loss(model(pictures, seen), target, hidden).mean(), {}

    def validation(self) -> Iterable[Batch]:
        """Yield the held-out classes as one batch: queries, and in ``query`` the bank."""
        yield self.data().held_out

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch: Batch) -> Scores:
        """Return for each query whether its nearest neighbours in the bank are of its own class ("knn")."""
        names = sorted({*batch.classes, *batch.query.classes})
        truth, labels = (torch.tensor([names.index(name) for name in b.classes]) for b in (batch, batch.query))
        queries, bank = (self.features(model, b.context[:, 0]) for b in (batch, batch.query))
        right = knn_correct(bank, labels.to(bank.device), queries, truth.to(bank.device), self.config.neighbours)
        return Scores({"knn": right.tolist()}, batch.ids, batch.classes, FEATURE_METRICS)

    @torch.no_grad()
    def features(self, model: Any, pictures: Tensor) -> Tensor:
        """Return the features (N, D), in float32, of any number of pictures (N, 3, H, W)."""
        parts = pictures.split(self.config.batch_size)
        return torch.cat([model.features(part).float() for part in parts])

    @torch.no_grad()
    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, Any]:
        """Return one picture: held-out pictures, and where the class token looks, or what is made of a quarter."""
        from hyperkit.reports.pictures import contact_sheet, to_uint8

        chosen = torch.linspace(0, len(batch.ids) - 1, min(SHOWN, len(batch.ids))).long()
        pictures = batch.context[chosen, 0]
        if isinstance(model, DistilledNano):
            titles, columns = ["picture", "attention"], [pictures, attention_map(model, pictures)]
        else:
            titles = ["picture", "seen", "reconstruction"]
            columns = [pictures, *self._reconstructed(cast(MaskedNano, model), pictures)]
        rows = [[to_uint8(cell) for cell in row] for row in zip(*columns, strict=True)]
        names = [batch.classes[i] for i in chosen.tolist()]
        return {"validation": contact_sheet(rows, column_titles=titles, row_titles=names)}

    def _reconstructed(self, model: MaskedNano, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures with their hidden patches in grey, and with these filled in."""
        patch, rows = self.config.nano.patch, pictures.shape[-2] // self.config.nano.patch
        target = patchify(pictures, patch)
        scores = StepRandom(0, 0).uniform((len(target), target.shape[1]), "shown", target.device)
        seen, hidden = random_mask(scores, self.config.mae.ratio)
        found = model(pictures, seen).float()
        if self.config.mae.normalise:  # the picture's own mean and deviation of each patch are not predicted
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            found = found * variance.sqrt() + mean
        filled = torch.where(hidden[..., None], found, target)
        grey = torch.where(hidden[..., None], torch.full_like(target, 0.5), target)
        return unpatchify(grey, patch, rows), unpatchify(filled, patch, rows).clamp(0, 1)

    def samples(self) -> dict[str, Any]:
        """Return one held-out picture of each class."""
        held_out = self.data().held_out
        first = {name: index for index, name in reversed(list(enumerate(held_out.classes)))}
        pictures = held_out.context[sorted(first.values()), 0]
        return {"classes": [held_out.classes[i] for i in sorted(first.values())], "pictures": pictures.clone()}


def attention_map(model: DistilledNano, pictures: Tensor) -> Tensor:
    """Return how much the class token attends to each patch in the last block, as grey pictures (B, 3, H, W).

    It is the mean over the heads, divided by its largest value.
    """
    layout = model.encoder.token_layout(*pictures.shape[-2:])
    with WatchAttention(torch.zeros(1, dtype=torch.long, device=pictures.device), layout.tokens) as watch:
        model.encoder.features(pictures[:, None])
    assert watch.weights is not None
    grid = watch.weights[:, 0, layout.prefix :].unflatten(1, (layout.rows, layout.columns))
    grid = grid / grid.amax((1, 2), keepdim=True)
    rows, columns = pictures.shape[-2] // layout.rows, pictures.shape[-1] // layout.columns
    large = grid.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    return large[:, None].expand(-1, 3, -1, -1)
