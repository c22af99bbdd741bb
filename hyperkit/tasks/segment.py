"""Part segmentation: one picture of an object in, a radiance field out that also knows its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field as ConfigField
from torch import Tensor, nn

from hyperkit.backbones.patch_features import FeaturesConfig, PatchEncoder
from hyperkit.contracts import Batch, Rendered, Scores
from hyperkit.data.feature_maps import FeatureBasis, FeatureStore
from hyperkit.data.parts import Parts
from hyperkit.data.segment import SegmentData, SegmentDataConfig, parts_of
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.features import FeatureMetrics
from hyperkit.metrics.segmentation import PartMetrics
from hyperkit.models.field import part_labels
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import FieldPredictor
from hyperkit.objectives import feature_error, part_nll
from hyperkit.targets import Target
from hyperkit.tasks.inr import Example, Meter, ObjectiveConfig, Output, current_precision
from hyperkit.tasks.nvs import NVSConfig, NVSTask
from hyperkit.tasks.pictures import QUICK, pictures


class SegmentObjectiveConfig(ObjectiveConfig):
    """What training minimises: the error of the colours, and the negative log-likelihood of the parts' labels.

    Attributes:
        labels: weight of the labels' negative log-likelihood; see ``objectives.part_nll``.
        features: weight of the distilled features' error, in units of their variance; see ``objectives.feature_error``.
        label_noise: share of the labels that is taken to be arbitrary.
        loss: of the colours: ``auto``, ``mse``, ``psnr`` or ``nll``; see ``ObjectiveConfig``.
        beta: with ``nll``: weighs each value by deviation^(2 beta).
        fog: weight of a penalty on half-transparent rays.
        opacity: weight of the mean squared error of the rays' opacity, where the data has alpha.
    """

    labels: float = ConfigField(default=0.3, ge=0)
    features: float = ConfigField(default=0.1, ge=0)
    label_noise: float = ConfigField(default=0.01, gt=0, lt=1)


class SegmentConfig(NVSConfig):
    """The sections of the task; training has its own.

    Attributes:
        features: whose patch features the field learns beside colours and parts.
    """

    data: SegmentDataConfig = SegmentDataConfig()
    features: FeaturesConfig = FeaturesConfig()
    objective: SegmentObjectiveConfig = SegmentObjectiveConfig()


class SegmentTask(NVSTask):
    """Novel view synthesis of colours and of part labels, from one view or a few.

    The generated field gives the probability of each part at every point beside colour and density. The probabilities
    are composited along rays with the colours' weights; what passes through is background. With ``config.features`` it
    also gives an encoder's features there, composited in the same way, which are learned from that encoder's features
    of the views (N3F, Tschernezki et al. 2022; DFF, Kobayashi et al. 2022). Nothing but training and evaluation needs
    the encoder.
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

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse what ``NVSTask.check`` refuses, and encoders whose features cannot be distilled."""
        super().check(config)
        PatchEncoder.check(config.features)

    @classmethod
    def require(cls, config: Any) -> None:
        """Find (or fetch) the weights of the backbone, and of the encoder whose features are distilled."""
        super().require(config)
        if config.features.wanted:
            PatchEncoder(config.features).require()

    @classmethod
    def finetuning_defaults(cls) -> dict[str, Any]:
        """Keep the share of rays from the foreground: parts are learned by it throughout."""
        return {}

    @property
    def parts(self) -> Parts:
        """The parts that the model knows."""
        assert self.config.data.parts is not None
        return Parts(self.config.data.parts)

    def open_data(self) -> SegmentData:
        """Open the views and their label maps; see ``SegmentData``."""
        store = None
        if self.config.features.wanted:
            # the run's own section says where it computes; the task's sections alone leave it open
            device = getattr(getattr(self.config, "training", None), "device", "auto")
            cuda = device != "cpu" and torch.cuda.is_available()
            encoder = PatchEncoder(self.config.features, "cuda" if cuda else "cpu")
            store = FeatureStore(encoder, self.config.features.dims, self._basis, self.data_progress)
        return SegmentData(self.config.data, self.seed, self.data_progress, store)

    @cached_property
    def _basis(self) -> FeatureBasis:
        return FeatureBasis()

    def build_model(self, load_weights: bool = True) -> INRHypernet:
        """Build backbone, hypernetwork and target; the components of distilled features belong to the model's state."""
        model = super().build_model(load_weights)
        if self.config.features.wanted:
            model.add_module("feature_basis", self._basis)
        return model

    def build_target(self) -> Target:
        """Build the field that is generated, with a probability for each part, and distilled features."""
        target = super().build_target()
        parts, features = len(self.parts), self.config.features
        changes = {"extra": parts, "extra_activation": "softmax"}
        if features.wanted:
            changes |= {"extra": parts + features.dims, "extra_classes": parts}
        config = target.config.model_copy(update=changes)  # type: ignore[attr-defined]
        return type(target)(config)  # type: ignore[call-arg]

    def objective(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the colours' objective with the labels' likelihood and the features' error, and what is logged."""
        loss, logs = super().objective(output, batch)
        assert isinstance(output, Rendered)
        assert batch.labels is not None
        settings = self.config.objective
        probabilities, features = split_features(output, len(self.parts))
        nll = part_nll(probabilities, output.opacity, batch.labels, settings.label_noise).mean()
        loss, logs = loss + settings.labels * nll, {**logs, "labels": nll.detach()}
        if self.config.features.wanted:
            assert batch.features is not None
            error = feature_error(features, batch.features).mean()
            loss, logs = loss + settings.features * error, {**logs, "features": error.detach()}
        return loss, logs

    def meter(self, device: torch.device | str) -> PartMeter:
        """Return the metrics of pictures and of label maps, with those of each class's mean label map."""
        return self._meter(PartMetrics(ImageMetrics(device), self.parts, self._data.mean_labels()))

    def quick_meter(self, device: torch.device | str) -> PartMeter:
        """Return PSNR, SSIM, the mIoU of each view, and the error of its features where some are distilled."""
        return self._meter(PartMetrics(ImageMetrics(device, QUICK), self.parts))

    def _meter(self, metrics: PartMetrics) -> PartMeter:
        if not self.config.features.wanted:
            return PartMeter(metrics)
        return FeatureMeter(FeatureMetrics(metrics), lambda: self._data.without_features)

    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, np.ndarray]:
        """Return one picture: inputs, truth and prediction of the first items, in colours and in parts."""
        from hyperkit.reports.parts import parts_sheet

        assert isinstance(model, INRHypernet)
        output, _ = self.predict(model, batch, precision=current_precision(model.device))
        rows, columns = comparisons(batch, output, range(min(6, len(batch.ids))), len(self.parts))
        return {"validation": parts_sheet(rows, columns, batch.ids[:6], self.parts.names)}

    def write_examples(self, path: Path, batch: Batch, output: Output, examples: Sequence[Example]) -> Path:
        """Write input, truth and prediction of a few items, in colours and in parts."""
        from hyperkit.reports.parts import parts_sheet
        from hyperkit.reports.video import write_png

        scores = self.quick_meter("cpu").update(output.to("cpu"), batch.to("cpu"))
        rows, columns = comparisons(batch, output, [one.index for one in examples], len(self.parts))
        errors = scores.values.get("feature_error")
        captions = [
            [
                *("", "", f"{one.psnr:.2f} dB PSNR", "", f"mIoU {scores.values['object_miou'][one.index]:.2f}"),
                *([] if errors is None else ["", _error(errors[one.index])]),
            ]
            for one in examples
        ]
        titles = [f"{one.title}\n{batch.ids[one.index]}" for one in examples]
        scale = max(1, round(192 / batch.context.shape[-1]))
        write_png(path, parts_sheet(rows, columns, titles, self.parts.names, captions, scale))
        return path

    def predictor(self, model: INRHypernet, precision: torch.dtype, samples: Mapping[str, Any]) -> FieldPredictor:
        """Wrap a trained model for use on pictures of objects."""
        return replace(super().predictor(model, precision, samples), parts=self.parts.names)


COLUMNS = ("input", "truth", "prediction", "parts", "predicted parts")


class PartMeter(Meter[Any]):
    """``PartMetrics`` of whole pictures."""

    def update(self, output: Output, batch: Batch) -> Scores:
        """Take in one batch and return its scores."""
        assert isinstance(output, Rendered)
        assert batch.labels is not None
        metrics = self.part_metrics
        prediction, truth = pictures(output.values, batch), pictures(batch.truth, batch)
        probabilities, _ = split_features(output, len(metrics.parts))
        found = part_labels(probabilities.float(), output.opacity.float())
        return metrics.update(prediction.float(), truth, found, batch.labels, batch.ids, batch.classes)

    @property
    def part_metrics(self) -> PartMetrics:
        """What collects the metrics of pictures and label maps."""
        found: PartMetrics = self.metrics
        return found

    def results(self) -> dict[str, Any]:
        """Return the IoU of every part, with that of the mean label map."""
        return {"parts": self.part_metrics.by_part()}


class FeatureMeter(PartMeter):
    """``FeatureMetrics`` of whole pictures.

    Args:
        metrics: what they are collected in.
        reason: says why batches have no features, where they have none.
    """

    def __init__(self, metrics: FeatureMetrics, reason: Callable[[], str]) -> None:
        super().__init__(metrics)
        self._reason = reason

    @property
    def part_metrics(self) -> PartMetrics:
        """What collects the metrics of pictures and label maps."""
        found: FeatureMetrics = self.metrics
        return found.parts

    def update(self, output: Output, batch: Batch) -> Scores:
        """Take in one batch and return its scores."""
        scores = super().update(output, batch)
        assert isinstance(output, Rendered)
        assert batch.labels is not None
        _, found = split_features(output, len(self.part_metrics.parts))
        return self.metrics.update(scores, found, batch.features, batch.labels > 0, batch.classes, self._reason())


def _error(value: float | None) -> str:
    return "error n/a" if value is None else f"error {value:.2f}"


def split_features(output: Rendered, parts: int) -> tuple[Tensor, Tensor]:
    """Return the composited probabilities of the parts, (B, R, K), and the distilled features, (B, R, F)."""
    assert output.features is not None
    return output.features[..., :parts], output.features[..., parts:]


def comparisons(
    batch: Batch, output: Output, indices: Sequence[int], parts: int
) -> tuple[list[list[np.ndarray]], tuple[str, ...]]:
    """Return a row of pictures for each of some items, and what the columns show."""
    from hyperkit.reports.features import feature_limits, feature_picture

    assert isinstance(output, Rendered)
    assert batch.query_size is not None
    rows = [_comparison(batch, output, index, parts) for index in indices]
    _, found = split_features(output, parts)
    if batch.features is None or not found.shape[-1]:
        return rows, COLUMNS
    assert batch.labels is not None
    shown = (batch.labels > 0).float()
    limits = feature_limits(batch.features, shown)
    for row, index in zip(rows, indices, strict=True):
        for features, opacity in ((batch.features, shown), (found, output.opacity)):
            maps = features[index].unflatten(0, batch.query_size), opacity[index].unflatten(0, batch.query_size)
            row.append(feature_picture(*maps, limits))
    return rows, (*COLUMNS, "features", "predicted features")


def _comparison(batch: Batch, output: Rendered, index: int, parts: int) -> list[np.ndarray]:
    from hyperkit.reports.parts import label_picture
    from hyperkit.reports.pictures import to_uint8

    assert batch.labels is not None
    assert batch.query_size is not None
    probabilities, _ = split_features(output, parts)
    predicted = part_labels(probabilities[index].float(), output.opacity[index].float())
    colours = (batch.context[index, 0], pictures(batch.truth, batch)[index], pictures(output.values, batch)[index])
    maps = (batch.labels[index].reshape(batch.query_size), predicted.reshape(batch.query_size))
    return [*(to_uint8(picture) for picture in colours), *(label_picture(labels) for labels in maps)]
