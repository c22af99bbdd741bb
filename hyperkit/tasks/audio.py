"""Audio reconstruction: a clip of sound in, the network that reproduces its waveform out (IPC; P, table 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import SerializeAsAny
from torch import Tensor, nn

from hyperkit.adapt import Observations, TTOConfig, observed_sound
from hyperkit.backbones import BackboneConfig
from hyperkit.config import PartConfig, merge
from hyperkit.contracts import Batch, Scores
from hyperkit.data.sounds import SoundData, SoundDataConfig
from hyperkit.errors import HyperkitError
from hyperkit.hypernets import HypernetConfig, TransINRConfig
from hyperkit.metrics.sound import SoundMetrics
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import SoundPredictor
from hyperkit.renderers import PointsConfig
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.mlp import MLPConfig
from hyperkit.tasks.inr import Example, INRConfig, INRTask, Meter, Output

NETWORK = MLPConfig(
    coordinates=1,
    outputs=1,
    depth=5,
    width=256,
    encoding=EncodingConfig(frequencies=2048, max_log2=10.0, scale="pi"),
)
"""IPC's network for sounds: five layers of 256, frequencies exp(linspace(0, ln 1024, 2048)) pi."""


class AudioConfig(INRConfig):
    """The sections of the task; training has its own."""

    data: SoundDataConfig = SoundDataConfig()
    backbone: BackboneConfig = BackboneConfig(name="patches-nano")
    hypernet: SerializeAsAny[HypernetConfig] = TransINRConfig()
    target_kind: str = "mlp"
    target: SerializeAsAny[PartConfig] = NETWORK
    renderer: PointsConfig = PointsConfig()


class AudioTask(INRTask):
    """Audio reconstruction."""

    name = "audio"
    config_model = AudioConfig
    verbs: ClassVar[frozenset[str]] = frozenset({"prepare", "train", "finetune", "evaluate", "render"})
    reads = "sound"
    target_kinds = ("mlp",)
    signal = (1, 1)

    config: AudioConfig

    def open_data(self) -> SoundData:
        """Open the sounds; see ``SoundData``."""
        return SoundData(self.config.data, self.seed, self.data_progress)

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Give the backbone the data's sample rate."""
        rate = values.get("data", {}).get("rate", cls.config_model.model_fields["data"].default.rate)
        return super().complete(merge({"backbone": {"sample_rate": rate}}, values))

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse a backbone that takes the sounds for ones of another rate."""
        super().check(config)
        if config.backbone.sample_rate != config.data.rate:
            raise HyperkitError(
                f"The backbone reads {config.backbone.sample_rate} samples per second, and data.rate is "
                f"{config.data.rate}.",
                "A model keeps the rate that it was trained at; to train at another one, set data.rate alone.",
            )

    def observations(self, context: Tensor, cameras: Any, config: TTOConfig) -> Observations:
        """Return samples of the clip."""
        return observed_sound(context, config)

    def meter(self, device: torch.device | str) -> SoundMeter:
        """Return PSNR, SI-SDR and log-spectral distance."""
        return SoundMeter(SoundMetrics(device), self.config.data.rate)

    def quick_meter(self, device: torch.device | str) -> SoundMeter:
        """Return PSNR."""
        return SoundMeter(SoundMetrics(device, ("psnr",)), self.config.data.rate)

    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, np.ndarray]:
        """Return nothing: curves are drawn from the metrics, and clips are written at the end."""
        return {}

    def write_examples(self, path: Path, batch: Batch, output: Output, examples: Sequence[Example]) -> Path:
        """Write waveforms and spectrograms of a few clips beside the originals."""
        from hyperkit.reports.sound import SoundExample, sound_examples

        prediction, truth = output.values[..., 0].float().cpu(), batch.truth[..., 0].cpu()
        rows = [
            SoundExample(
                one.title, truth[one.index].numpy(), prediction[one.index].numpy(), one.psnr, batch.ids[one.index]
            )
            for one in examples
        ]
        sound_examples(path, rows, self.config.data.rate)
        return path

    def predictor(self, model: INRHypernet, precision: torch.dtype, samples: Mapping[str, Any]) -> SoundPredictor:
        """Wrap a trained model for use on sounds."""
        data = self.config.data
        return SoundPredictor(model, precision, samples, data.rate, data.length, data.first)

    def samples(self) -> dict[str, Any]:
        """Return a few held-out clips, so that a checkpoint works alone."""
        found = self._data.samples(6)
        return {
            "ids": [sample["id"] for sample in found],
            "classes": [sample["class"] for sample in found],
            "waveforms": torch.stack([sample["waveform"] for sample in found]),
        }


class SoundMeter(Meter[SoundMetrics]):
    """``SoundMetrics`` of whole clips of a given rate (samples per second)."""

    def __init__(self, metrics: SoundMetrics, rate: int) -> None:
        super().__init__(metrics)
        self._rate = rate

    def update(self, output: Output, batch: Batch) -> Scores:
        """Take in one batch and return its scores."""
        prediction, truth = output.values[..., 0].float(), batch.truth[..., 0]
        return self.metrics.update(prediction, truth, batch.ids, batch.classes, self._rate)
