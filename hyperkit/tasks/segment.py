"""Part segmentation: one picture of an object in, a radiance field out that also knows its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field as ConfigField
from torch import Tensor, nn

from hyperkit.contracts import Batch, Rendered, Scores
from hyperkit.data.parts import Parts
from hyperkit.data.segment import SegmentData, SegmentDataConfig, parts_of
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.segmentation import PartMetrics
from hyperkit.models.field import part_labels
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import FieldPredictor
from hyperkit.objectives import part_nll
from hyperkit.targets import Target
from hyperkit.tasks.inr import Example, Meter, ObjectiveConfig, Output, current_precision
from hyperkit.tasks.nvs import NVSConfig, NVSTask
from hyperkit.tasks.pictures import QUICK, pictures


class SegmentObjectiveConfig(ObjectiveConfig):
    """What training minimises: the error of the colours, and the negative log-likelihood of the parts' labels.

    Attributes:
        labels: weight of the labels' negative log-likelihood; see ``objectives.part_nll``.
        label_noise: share of the labels that is taken to be arbitrary.
        loss: of the colours: ``auto``, ``mse``, ``psnr`` or ``nll``; see ``ObjectiveConfig``.
        beta: with ``nll``: weighs each value by deviation^(2 beta).
        fog: weight of a penalty on half-transparent rays.
        opacity: weight of the mean squared error of the rays' opacity, where the data has alpha.
    """

    labels: float = ConfigField(default=0.3, ge=0)
    label_noise: float = ConfigField(default=0.01, gt=0, lt=1)


class SegmentConfig(NVSConfig):
    """The sections of the task; training has its own."""

    data: SegmentDataConfig = SegmentDataConfig()
    objective: SegmentObjectiveConfig = SegmentObjectiveConfig()


class SegmentTask(NVSTask):
    """Novel view synthesis of colours and of part labels, from one view or a few.

    The generated field gives the probability of each part at every point beside colour and density. The probabilities
    are composited along rays with the colours' weights; what passes through is background.
    """

    name = "segment"
    config_model = SegmentConfig
    verbs = frozenset({"train", "finetune", "evaluate", "render"})
    target_kinds = ("radiance_field",)
    selection = "object_miou"

    config: SegmentConfig

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in which parts there are, as the data says, where the configuration does not."""
        result = super().complete(values)
        data = result.setdefault("data", {})
        if isinstance(data, dict) and data.get("parts") is None:
            data["parts"] = parts_of(data.get("root"))
        return result

    @property
    def parts(self) -> Parts:
        """The parts that the model knows."""
        assert self.config.data.parts is not None
        return Parts(self.config.data.parts)

    def open_data(self) -> SegmentData:
        """Open the views and their label maps; see ``SegmentData``."""
        return SegmentData(self.config.data, self.seed, self.data_progress)

    def build_target(self) -> Target:
        """Build the field that is generated, with a probability for each part."""
        target = super().build_target()
        changes = {"extra": len(self.parts), "extra_activation": "softmax"}
        config = target.config.model_copy(update=changes)  # type: ignore[attr-defined]
        return type(target)(config)  # type: ignore[call-arg]

    def objective(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the colours' objective with the labels' likelihood, and what is logged."""
        loss, logs = super().objective(output, batch)
        assert isinstance(output, Rendered)
        assert output.features is not None
        assert batch.labels is not None
        settings = self.config.objective
        nll = part_nll(output.features, output.opacity, batch.labels, settings.label_noise).mean()
        return loss + settings.labels * nll, {**logs, "labels": nll.detach()}

    def meter(self, device: torch.device | str) -> PartMeter:
        """Return the metrics of pictures and of label maps, with those of each class's mean label map."""
        return PartMeter(PartMetrics(ImageMetrics(device), self.parts, self._data.mean_labels()))

    def quick_meter(self, device: torch.device | str) -> PartMeter:
        """Return PSNR, SSIM and the mIoU of each view."""
        return PartMeter(PartMetrics(ImageMetrics(device, QUICK), self.parts))

    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, np.ndarray]:
        """Return one picture: inputs, truth and prediction of the first items, in colours and in parts."""
        from hyperkit.reports.parts import parts_sheet

        assert isinstance(model, INRHypernet)
        output, _ = self.predict(model, batch, precision=current_precision(model.device))
        rows = [comparison(batch, output, index) for index in range(min(6, len(batch.ids)))]
        return {"validation": parts_sheet(rows, COLUMNS, batch.ids[:6], self.parts.names)}

    def write_examples(self, path: Path, batch: Batch, output: Output, examples: Sequence[Example]) -> Path:
        """Write input, truth and prediction of a few items, in colours and in parts."""
        from hyperkit.reports.parts import parts_sheet
        from hyperkit.reports.video import write_png

        scores = self.quick_meter("cpu").update(output.to("cpu"), batch.to("cpu"))
        rows = [comparison(batch, output, one.index) for one in examples]
        captions = [
            ["", "", f"{one.psnr:.2f} dB PSNR", "", f"mIoU {scores.values['object_miou'][one.index]:.2f}"]
            for one in examples
        ]
        titles = [f"{one.title}\n{batch.ids[one.index]}" for one in examples]
        scale = max(1, round(192 / batch.context.shape[-1]))
        write_png(path, parts_sheet(rows, COLUMNS, titles, self.parts.names, captions, scale))
        return path

    def predictor(self, model: INRHypernet, precision: torch.dtype, samples: Mapping[str, Any]) -> FieldPredictor:
        """Wrap a trained model for use on pictures of objects."""
        return replace(super().predictor(model, precision, samples), parts=self.parts.names)


COLUMNS = ("input", "truth", "prediction", "parts", "predicted parts")


class PartMeter(Meter[PartMetrics]):
    """``PartMetrics`` of whole pictures."""

    def update(self, output: Output, batch: Batch) -> Scores:
        """Take in one batch and return its scores."""
        assert isinstance(output, Rendered)
        assert output.features is not None
        assert batch.labels is not None
        prediction, truth = pictures(output.values, batch), pictures(batch.truth, batch)
        found = part_labels(output.features.float(), output.opacity.float())
        return self.metrics.update(prediction.float(), truth, found, batch.labels, batch.ids, batch.classes)

    def results(self) -> dict[str, Any]:
        """Return the IoU of every part, with that of the mean label map."""
        return {"parts": self.metrics.by_part()}


def comparison(batch: Batch, output: Output, index: int) -> list[np.ndarray]:
    """Return the pictures of one row of ``COLUMNS``."""
    from hyperkit.reports.parts import label_picture
    from hyperkit.reports.pictures import to_uint8

    assert isinstance(output, Rendered)
    assert output.features is not None
    assert batch.labels is not None
    assert batch.query_size is not None
    predicted = part_labels(output.features[index].float(), output.opacity[index].float())
    colours = (batch.context[index, 0], pictures(batch.truth, batch)[index], pictures(output.values, batch)[index])
    maps = (batch.labels[index].reshape(batch.query_size), predicted.reshape(batch.query_size))
    return [*(to_uint8(picture) for picture in colours), *(label_picture(labels) for labels in maps)]
