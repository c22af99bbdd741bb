"""Novel view synthesis: one picture of an object in, its radiance field out."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import SerializeAsAny
from torch import Tensor

from hyperkit.adapt import Observations, TTOConfig, observed_views
from hyperkit.config import PartConfig
from hyperkit.contracts import Batch
from hyperkit.data.nvs import NVSData, NVSDataConfig
from hyperkit.errors import HyperkitError
from hyperkit.hypernets import HypernetConfig, TransINRConfig
from hyperkit.models.field import Framing
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import FieldPredictor
from hyperkit.randomness import StepRandom
from hyperkit.renderers import RendererConfig
from hyperkit.targets.radiance_field import RadianceFieldConfig
from hyperkit.tasks.inr import INRConfig
from hyperkit.tasks.pictures import PictureTask

log = logging.getLogger("hyperkit")


class NVSConfig(INRConfig):
    """The sections of the task; training has its own."""

    data: NVSDataConfig = NVSDataConfig()
    hypernet: SerializeAsAny[HypernetConfig] = TransINRConfig()
    target_kind: str = "radiance_field"
    target: SerializeAsAny[PartConfig] = RadianceFieldConfig()
    renderer: RendererConfig = RendererConfig()


class NVSTask(PictureTask):
    """Novel view synthesis from one view or a few (P, section 3.2)."""

    name = "nvs"
    config_model: ClassVar[type[PartConfig]] = NVSConfig
    verbs: ClassVar[frozenset[str]] = frozenset({"prepare", "train", "finetune", "evaluate", "render"})
    has_cameras = True
    target_kinds: ClassVar[tuple[str, ...]] = ("radiance_field", "hash_grid")

    config: NVSConfig

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse what ``INRTask.check`` refuses, and further outputs of the field, which are the task's to set."""
        super().check(config)
        if getattr(config.target, "extra", 0):
            raise HyperkitError(
                "target.extra is set by the task: a value for each part with `hyperkit train segment`, else none.",
                "Leave target.extra out.",
            )

    def open_data(self) -> NVSData:
        """Open the views; see ``NVSData``."""
        data = NVSData(self.config.data, self.seed, self.data_progress)
        opaque = len(data.opaque_ids)
        if self.config.objective.opacity and opaque:
            log.info(
                "%s: the pictures of %d of %d training objects have no alpha; objective.opacity leaves these out",
                data.root,
                opaque,
                len(data.train_ids),
            )
        return data

    @classmethod
    def finetuning_defaults(cls) -> dict[str, Any]:
        """Leave the start from the foreground out: it is for untrained fields."""
        return {"data": {"foreground_epochs": 0.0}}

    def jitter(self, batch: Batch, rng: StepRandom) -> Tensor | None:
        """Return U[0, 1) for every sample of every ray."""
        if not self.config.renderer.jitter:
            return None
        return rng.uniform((*batch.truth.shape[:2], self.config.renderer.draws), "jitter", batch.truth.device)

    def observations(self, context: Tensor, cameras: Any, config: TTOConfig) -> Observations:
        """Return rays of the context views, whose cameras must be known."""
        assert cameras is not None
        return observed_views(context, cameras, config)

    def predictor(self, model: INRHypernet, precision: torch.dtype, samples: Mapping[str, Any]) -> FieldPredictor:
        """Wrap a trained model for use on pictures of objects."""
        framing = Framing(**samples["framing"]) if "framing" in samples else Framing()
        return FieldPredictor(model, precision, samples, framing, float(samples.get("fill", 0.8)))

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
            "pictures": torch.stack([sample["pictures"] for sample in found]),
            "poses": torch.stack([sample["poses"] for sample in found]),
            "focal": torch.tensor([sample["focal"] for sample in found]),
            "framing": framing,
            "fill": typical_fill(
                self._data.pairs("train", limit=64, views=1).contexts(64), self.config.data.background
            ),
        }


def typical_fill(contexts: Iterable[Tensor], background: str) -> float:
    """Return the median share of the side of pictures (B, V, 3, H, W) that the objects take, in [0.1, 1]."""
    empty = 1.0 if background == "white" else 0.0
    shares = []
    for context in contexts:
        for picture in context[:, 0]:
            inside = (picture - empty).abs().amax(0) > 0.02
            rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
            if len(rows):
                longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
                shares.append(float(longer) / picture.shape[-1])
    return min(1.0, max(0.1, statistics.median(shares))) if shares else 0.8
