"""Novel view synthesis: one picture of an object in, its radiance field out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field as ConfigField
from torch import Tensor, nn

from hyperkit.adapt import TTOConfig, optimise_on_views
from hyperkit.backbones import BackboneConfig, build_backbone
from hyperkit.config import PartConfig
from hyperkit.contracts import Batch, Metric, Rendered, Scores, TargetParams
from hyperkit.data.nvs import NVSData, NVSDataConfig
from hyperkit.hypernets import ALGORITHMS, TransINRConfig
from hyperkit.metrics.image import as_pictures, psnr, ssim, ssim_obstacle
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import autocast
from hyperkit.objectives import foggy, mse
from hyperkit.randomness import StepRandom
from hyperkit.renderers import RendererConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig
from hyperkit.tasks.base import Task


class ObjectiveConfig(PartConfig):
    """What training minimises.

    Attributes:
        loss: ``mse``: the mean squared error, as in the papers. ``psnr``: the mean over items of 10 log10 of each one's
            error, which is what is reported; objects that are hard count no more than those that are easy.
        fog: weight of a penalty on half-transparent rays.
    """

    loss: Literal["mse", "psnr"] = "mse"
    fog: float = ConfigField(default=0.0, ge=0)


class EvaluationConfig(PartConfig):
    """How validation and evaluation run.

    Attributes:
        batch_size: items at once.
        validation_pairs: at most so many pairs are used in validation while training.
        tto: test-time optimisation; off while training.
    """

    batch_size: int = ConfigField(default=8, ge=1)
    validation_pairs: int = ConfigField(default=48, ge=1)
    tto: TTOConfig = TTOConfig()


class NVSConfig(PartConfig):
    """The sections of the task; training has its own."""

    data: NVSDataConfig = NVSDataConfig()
    backbone: BackboneConfig = BackboneConfig()
    algorithm: str = "trans-inr"
    hypernet: TransINRConfig = TransINRConfig()
    target: RadianceFieldConfig = RadianceFieldConfig()
    renderer: RendererConfig = RendererConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class NVSTask(Task):
    """Novel view synthesis from one view (P, section 3.2)."""

    name = "nvs"
    config_model = NVSConfig
    verbs: ClassVar[frozenset[str]] = frozenset({"prepare", "train", "finetune", "evaluate", "render"})

    config: NVSConfig

    @cached_property
    def _data(self) -> NVSData:
        return NVSData(self.config.data, self.seed, self.data_progress)

    def data(self) -> NVSData:
        """Open the views; see ``NVSData``."""
        return self._data

    def build_model(self, load_weights: bool = True) -> INRHypernet:
        """Build backbone, hypernetwork, field and renderer."""
        algorithm = ALGORITHMS.load(self.config.algorithm)
        backbone = build_backbone(self.config.backbone, load_weights=load_weights)
        target = RadianceField(self.config.target)
        hypernet = algorithm(self.config.hypernet, target.spec, backbone.width)
        return INRHypernet(backbone, hypernet, target, self.config.renderer)

    def loss(self, model: nn.Module, batch: Batch, rng: StepRandom) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the mean over items of the ray colours' error, with the PSNR that belongs to it."""
        jitter = None
        if self.config.renderer.jitter:
            shape = (*batch.truth.shape[:2], self.config.renderer.samples)
            jitter = rng.uniform(shape, "jitter", batch.truth.device)
        rendered: Rendered = model(batch.context, batch.query, jitter)
        error = mse(rendered.rgb, batch.truth)
        decibels = 10 * torch.log10(error + 1e-6)
        loss = error.mean() if self.config.objective.loss == "mse" else decibels.mean()
        logs = {"mse": error.detach().mean(), "psnr": -decibels.detach().mean()}
        if self.config.objective.fog:
            fog = foggy(rendered.opacity).mean()
            loss = loss + self.config.objective.fog * fog
            logs["fog"] = fog.detach()
        return loss, logs

    def validation(self) -> Iterable[Batch]:
        """Yield the frozen pairs of the validation split."""
        return self._data.pairs(
            "val", limit=self.config.evaluation.validation_pairs, batch_size=self.config.evaluation.batch_size
        )

    @torch.no_grad()
    def predict(
        self, model: INRHypernet, batch: Batch, tto: TTOConfig | None = None, precision: torch.dtype = torch.float32
    ) -> tuple[Rendered, TargetParams]:
        """Generate fields from the context and render the query, with test-time optimisation if asked for."""
        batch = batch.to(model.device)
        with autocast(model.device, precision):
            params = model.generate(batch.context)
            if tto is not None and tto.steps:
                assert batch.context_cameras is not None
                params = optimise_on_views(model, params, batch.context, batch.context_cameras, tto)
            return model.render(params, batch.query), params

    def evaluate(self, model: nn.Module, batch: Batch) -> Scores:
        """Return PSNR and SSIM of each item's target picture."""
        assert isinstance(model, INRHypernet)
        assert batch.query_size is not None
        rendered, _ = self.predict(model, batch, precision=current_precision(model.device))
        prediction, truth = _pictures(rendered.rgb, batch), _pictures(batch.truth, batch).to(model.device)
        values = {"psnr": psnr(prediction, truth).tolist()}
        if ssim_obstacle(*batch.query_size) is None:
            values["ssim"] = ssim(prediction, truth).tolist()
        metrics = {"psnr": Metric("psnr", "dB"), "ssim": Metric("ssim")}
        return Scores(values, batch.ids, batch.classes, metrics)

    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, np.ndarray]:
        """Return one picture: input, truth and prediction of the first items."""
        from hyperkit.reports.pictures import contact_sheet, to_uint8

        assert isinstance(model, INRHypernet)
        rendered, _ = self.predict(model, batch, precision=current_precision(model.device))
        prediction, truth = _pictures(rendered.rgb, batch), _pictures(batch.truth, batch)
        rows = [
            [to_uint8(p) for p in (batch.context[i, 0], truth[i], prediction[i])] for i in range(min(6, len(batch.ids)))
        ]
        sheet = contact_sheet(rows, column_titles=["input", "truth", "prediction"], row_titles=list(batch.ids[:6]))
        return {"validation": sheet}

    def samples(self) -> dict[str, Any]:
        """Return inputs of a few held-out objects, and the framing of the data, so that a checkpoint works alone."""
        found = self._data.samples(6)
        first = found[0]
        framing = {
            "camera_angle_x": 2 * math.atan(0.5 * first["width"] / first["focal"]),
            "radius": float(first["pose"][:3, 3].norm()),
            "size": first["width"],
            "near": first["near"],
            "far": first["far"],
        }
        return {
            "ids": [sample["id"] for sample in found],
            "classes": [sample["class"] for sample in found],
            "pictures": torch.stack([sample["picture"] for sample in found]),
            "poses": torch.stack([sample["pose"] for sample in found]),
            "framing": framing,
            "fill": typical_fill(self._data.pairs("train", limit=64).batches(64), self.config.data.background),
        }


def typical_fill(batches: Iterable[Batch], background: str) -> float:
    """Return the median share of the picture's side that the objects' longer extent takes, in [0.1, 1]."""
    empty = 1.0 if background == "white" else 0.0
    shares = []
    for batch in batches:
        for picture in batch.context[:, 0]:
            inside = (picture - empty).abs().amax(0) > 0.02
            rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
            if len(rows):
                longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
                shares.append(float(longer) / picture.shape[-1])
    return min(1.0, max(0.1, statistics.median(shares))) if shares else 0.8


def _pictures(values: Tensor, batch: Batch) -> Tensor:
    assert batch.query_size is not None
    return as_pictures(values, batch.query_size)


def current_precision(device: torch.device) -> torch.dtype:
    """Return the precision that surrounds the call: the training loop's autocast, or float32."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
