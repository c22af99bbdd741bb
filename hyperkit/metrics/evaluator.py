"""All metrics of pictures at once: per item, and over sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from hyperkit.contracts import Scores
from hyperkit.errors import unknown_name
from hyperkit.metrics import weights
from hyperkit.metrics.aggregate import ALL
from hyperkit.metrics.catalogue import METRICS
from hyperkit.metrics.image import psnr, ssim, ssim_obstacle
from hyperkit.metrics.perceptual import LPIPS, InceptionFeatures, frechet_distance, lpips_obstacle
from hyperkit.metrics.weights import MetricUnavailableError

Part = TypeVar("Part")
_FID_LAYERS = {"fid_64": 64, "fid_2048": 2048}


class ImageMetrics:
    """Collects the metrics of predicted pictures, batch by batch.

    A metric that cannot be computed is listed in ``unavailable`` with the reason and the command that helps; nothing is
    downloaded and nothing waits for a network.

    Args:
        device: where the metrics' networks run.
        names: which metrics of ``METRICS``.

    Attributes:
        unavailable: metric -> reason.
        weights: "lpips", "fid" -> file name, SHA-256, licence and network of the weights in use.
        notes: metric -> what to keep in mind when reading its value (filled by ``distribution``).

    Raises:
        HyperkitError: an unknown name.
    """

    def __init__(self, device: torch.device | str = "cpu", names: Sequence[str] = tuple(METRICS)) -> None:
        for name in names:
            if name not in METRICS:
                raise unknown_name("metric", name, METRICS)
        self.names = tuple(names)
        self.unavailable: dict[str, str] = {}
        self.weights: dict[str, dict[str, str]] = {}
        self.notes: dict[str, str] = {}
        self._device = device
        self._values: dict[str, list[float]] = {n: [] for n in names if n not in _FID_LAYERS}
        self._ids: list[str] = []
        self._classes: list[str] = []
        self._real: list[dict[int, Tensor]] = []
        self._generated: list[dict[int, Tensor]] = []
        self._lpips = self._load("lpips", ["lpips"], lambda: LPIPS(device))
        layers = [_FID_LAYERS[n] for n in names if n in _FID_LAYERS]
        fids = [n for n in names if n in _FID_LAYERS]
        self._inception = self._load("fid", fids, lambda: InceptionFeatures(layers, device))

    def _load(self, kind: str, names: Sequence[str], build: Callable[[], Part]) -> Part | None:
        wanted = [n for n in names if n in self.names]
        if not wanted:
            return None
        try:
            part = build()
        except MetricUnavailableError as error:
            self.unavailable.update(dict.fromkeys(wanted, str(error)))
            return None
        self.weights[kind] = weights.record(kind)
        return part

    def update(self, prediction: Tensor, truth: Tensor, ids: Sequence[str], classes: Sequence[str] = ()) -> Scores:
        """Take in one batch and return its scores.

        Args:
            prediction, truth: (B, 3, H, W), truth in [0, 1]. PSNR and SSIM take the prediction as it is, LPIPS and FID
                clamp it to [0, 1].
            ids: B names.
            classes: B class names, or none at all.

        Raises:
            ValueError: counts or shapes do not match.
        """
        count = prediction.shape[0]
        if prediction.ndim != 4 or len(ids) != count or len(classes) not in (0, count):
            raise ValueError(
                f"expected pictures (B, 3, H, W), B ids and B or no classes; "
                f"got {tuple(prediction.shape)}, {len(ids)} ids, {len(classes)} classes"
            )
        if self._ids and bool(self._classes) != bool(classes) and count:
            raise ValueError("some batches have classes and others have none")
        prediction, truth = prediction.detach().to(self._device), truth.detach().to(self._device)
        batch = self._items(prediction, truth)
        for name, values in batch.items():
            self._values[name].extend(values)
        self._ids.extend(ids)
        self._classes.extend(classes)
        if self._inception is not None:
            self._real.append(self._inception(truth))
            self._generated.append(self._inception(prediction))
            if not torch.isfinite(prediction).all():
                self._generated[-1] = {k: torch.full_like(v, torch.nan) for k, v in self._generated[-1].items()}
        return self._scores(batch, ids, classes)

    def _items(self, prediction: Tensor, truth: Tensor) -> dict[str, list[float]]:
        height, width = prediction.shape[-2:]
        functions: dict[str, tuple[Callable[[Tensor, Tensor], Tensor] | None, str | None]] = {
            "psnr": (psnr, None),
            "ssim": (ssim, ssim_obstacle(height, width)),
            "lpips": (self._lpips, lpips_obstacle(height, width)),
        }
        result: dict[str, list[float]] = {}
        for name, (function, obstacle) in functions.items():
            if name not in self.names or name in self.unavailable:
                continue
            if obstacle:
                self.unavailable[name] = obstacle
            else:
                assert function is not None
                result[name] = function(prediction, truth).tolist()
        return result

    def _scores(self, values: Mapping[str, list[float]], ids: Sequence[str], classes: Sequence[str]) -> Scores:
        # a metric that failed for any batch has no mean over all items
        kept = {name: list(v) for name, v in values.items() if name not in self.unavailable}
        per_item = {n: r for n, r in self.unavailable.items() if n not in _FID_LAYERS}
        return Scores(kept, tuple(ids), tuple(classes), {n: METRICS[n] for n in self.names}, per_item)

    def scores(self) -> Scores:
        """Return the per-item values of all batches so far, in their order."""
        return self._scores(self._values, self._ids, self._classes)

    def distribution(self) -> dict[str, dict[str, float | None]]:
        """Return metric ("fid_64", "fid_2048") -> "all" or class -> value, over everything taken in so far.

        None stands for a group that has no value (fewer than two items, or predictions that are not finite).
        """
        groups = {ALL: list(range(len(self._ids)))}
        for index, label in enumerate(self._classes):
            groups.setdefault(label, []).append(index)
        result: dict[str, dict[str, float | None]] = {}
        for name, layer in _FID_LAYERS.items():
            if name not in self.names:
                continue
            if name in self.unavailable or not self._real:
                result[name] = dict.fromkeys(groups)
                continue
            real, generated = (torch.cat([b[layer] for b in side]) for side in (self._real, self._generated))
            result[name] = {label: self._frechet(name, real[i], generated[i]) for label, i in groups.items()}
            fewest = min(map(len, groups.values()))
            if fewest <= layer:
                self.notes[name] = (
                    f"taken on as few as {fewest} items per group, not more than the {layer} features: "
                    "biased upwards, compare only with values on the same items"
                )
        return result

    def _frechet(self, name: str, real: Tensor, generated: Tensor) -> float | None:
        try:
            return frechet_distance(real, generated)
        except ValueError as error:
            self.notes[f"{name}, missing"] = str(error)
            return None
