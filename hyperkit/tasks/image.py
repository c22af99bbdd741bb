"""Image regression: a picture in, the network that reproduces it at any resolution out (T, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import SerializeAsAny
from torch import Tensor

from hyperkit.adapt import Observations, TTOConfig, observed_picture
from hyperkit.config import PartConfig
from hyperkit.data.images import ImageData, ImageDataConfig
from hyperkit.hypernets import HypernetConfig, TransINRConfig
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import PicturePredictor
from hyperkit.renderers import PointsConfig
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.mlp import MLPConfig
from hyperkit.tasks.inr import INRConfig
from hyperkit.tasks.pictures import PictureTask

NETWORK = MLPConfig(
    coordinates=2,
    outputs=3,
    depth=5,
    width=256,
    encoding=EncodingConfig(frequencies=64, max_log2=10.0, scale="pi"),
    output_bias=0.5,
)
"""T's network for pictures: five layers of 256, frequencies exp(linspace(0, ln 1024, 64)) pi."""


class ImageConfig(INRConfig):
    """The sections of the task; training has its own."""

    data: ImageDataConfig = ImageDataConfig()
    hypernet: SerializeAsAny[HypernetConfig] = TransINRConfig(groups=64)
    target_kind: str = "mlp"
    target: SerializeAsAny[PartConfig] = NETWORK
    renderer: PointsConfig = PointsConfig()


class ImageTask(PictureTask):
    """Image regression."""

    name = "image"
    config_model = ImageConfig
    verbs: ClassVar[frozenset[str]] = frozenset({"prepare", "train", "finetune", "evaluate", "render"})
    target_kinds = ("mlp",)
    signal = (2, 3)

    config: ImageConfig

    def open_data(self) -> ImageData:
        """Open the pictures; see ``ImageData``."""
        return ImageData(self.config.data, self.seed, self.data_progress)

    def observations(self, context: Tensor, cameras: Any, config: TTOConfig) -> Observations:
        """Return pixels of the picture."""
        return observed_picture(context, config)

    def predictor(self, model: INRHypernet, precision: torch.dtype, samples: Mapping[str, Any]) -> PicturePredictor:
        """Wrap a trained model for use on pictures."""
        data = self.config.data
        return PicturePredictor(model, precision, samples, data.size, data.resize, data.background)

    def samples(self) -> dict[str, Any]:
        """Return a few held-out pictures, so that a checkpoint works alone."""
        found = self._data.samples(6)
        return {
            "ids": [sample["id"] for sample in found],
            "classes": [sample["class"] for sample in found],
            "pictures": torch.stack([sample["picture"] for sample in found]),
        }
