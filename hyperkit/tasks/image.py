"""Image regression: a picture in, the network that reproduces it at any resolution out (T, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import SerializeAsAny
from torch import Tensor, nn

from hyperkit.adapt import Observations, TTOConfig, observed_picture
from hyperkit.config import PartConfig
from hyperkit.contracts import Batch
from hyperkit.data.images import ImageData, ImageDataConfig
from hyperkit.hypernets import HypernetConfig, TransINRConfig
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import PicturePredictor
from hyperkit.renderers import PointsConfig
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.mlp import MLPConfig
from hyperkit.tasks.inr import Example, INRConfig, INRTask, Output, current_precision
from hyperkit.tasks.meters import PictureMeter
from hyperkit.tasks.sheets import QUICK, overview, write_picture_examples

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


class ImageTask(INRTask):
    """Image regression."""

    name = "image"
    config_model = ImageConfig
    verbs: ClassVar[frozenset[str]] = frozenset({"prepare", "train", "finetune", "evaluate", "render"})
    reads = "picture"
    target_kinds = ("mlp",)
    signal = (2, 3)

    config: ImageConfig

    def open_data(self) -> ImageData:
        """Open the pictures; see ``ImageData``."""
        return ImageData(self.config.data, self.seed, self.data_progress)

    def observations(self, context: Tensor, cameras: Any, config: TTOConfig) -> Observations:
        """Return pixels of the picture."""
        return observed_picture(context, config)

    def meter(self, device: torch.device | str) -> PictureMeter:
        """Return PSNR, SSIM, LPIPS and FID."""
        return PictureMeter(device)

    def quick_meter(self, device: torch.device | str) -> PictureMeter:
        """Return PSNR and SSIM."""
        return PictureMeter(device, QUICK)

    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, np.ndarray]:
        """Return one picture: truth and prediction of the first items."""
        assert isinstance(model, INRHypernet)
        output, _ = self.predict(model, batch, precision=current_precision(model.device))
        return {"validation": overview(output, batch)}

    def write_examples(self, path: Path, batch: Batch, output: Output, examples: Sequence[Example]) -> Path:
        """Write input, truth, prediction and difference of a few items."""
        return write_picture_examples(path, batch, output, examples)

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
