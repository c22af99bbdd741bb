"""Measuring a text-to-field model: its pictures against the scenes' own, and whose scene they are taken for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperkit.contracts import Scores
from hyperkit.data.scenes import SceneSet
from hyperkit.errors import HyperkitError
from hyperkit.geometry import turntable
from hyperkit.metrics.aggregate import ALL, aggregate, mean
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.image import psnr
from hyperkit.metrics.retrieval import (
    ClipFeatures,
    embedding_similarity,
    kernel_distance,
    precision_recall,
    psnr_similarity,
    retrieval,
)
from hyperkit.metrics.weights import MetricUnavailableError
from hyperkit.models.text_predictor import TextPredictor
from hyperkit.reports.captions import caption_matrix, examples_sheet
from hyperkit.reports.pictures import enlarge
from hyperkit.reports.tables import write_items, write_results
from hyperkit.reports.video import write_png
from hyperkit.workflows.evaluate import Measured, RunResult
from hyperkit.workflows.load import Loaded, home_of

SPLITS = {"seen": "train", "unseen": "unseen"}
"""What a split is called in tables -> in ``SceneSet``."""
FRONT_ELEVATION, FRONT_AZIMUTH = 0.45, 1.1
"""Radians: from where all captions are shown, from the front (the y axis), a little to the side and above."""
TEXTS_TIMED = 5
"""Sentences whose generation is timed, after one that is not."""


def evaluate_captions(loaded: Loaded, split: str, limit: int | None, out: str | os.PathLike[str] | None) -> RunResult:
    """Measure a text-to-field model on the held-out views of captioned scenes.

    Args:
        loaded: the checkpoint.
        split: "seen" captions, "unseen" ones, or "test": both.
        limit: at most so many scenes of each.
        out: folder of the results; by default ``evaluate-<split>`` in the run's folder, or beside the checkpoint.

    Raises:
        HyperkitError: bad scenes or arguments.
    """
    chosen: dict[str, tuple[str, ...] | None] = {"test": None, "seen": ("seen",), "unseen": ("unseen",)}
    if split not in chosen:
        raise HyperkitError(
            f"A text-to-field model has no split {split!r}.", "Allowed: seen, unseen, or test, which is both."
        )
    if out is not None and Path(out).is_file():
        raise HyperkitError(f"--out {out} is a file.", "Choose a folder.")
    measured = measure_captions(loaded, chosen[split], limit)
    folder = Path(out) if out is not None else home_of(loaded.path) / f"evaluate-{split}"
    results = measured.results | {
        "checkpoint": str(loaded.path),
        "steps": loaded.checkpoint.step,
        "config": loaded.config.model_dump(mode="json"),
    }
    return RunResult(folder, results, {**write_results(folder, results), **measured.write(folder)})


@dataclass(frozen=True)
class Pictured:
    """The scenes of one split.

    Attributes:
        ids: N of them.
        found, truth, constant: the model's pictures, the scenes' own, and the mean image, for each scene (V, 3, S, S).
        views: for the overview, one picture (H, W, 3) uint8 of each.
    """

    ids: tuple[str, ...]
    found: list[Tensor]
    truth: list[Tensor]
    constant: list[Tensor]
    views: list[Any]


@torch.no_grad()
def measure_captions(loaded: Loaded, splits: Sequence[str] | None = None, limit: int | None = None) -> Measured:
    """Render every caption's field from its scene's held-out cameras, and collect all metrics.

    PSNR, SSIM and LPIPS are means over a scene's views; retrieval looks for a rendered scene among all scenes of the
    set. The mean image is that of the training scenes from the same camera.

    Args:
        loaded: the checkpoint.
        splits: "seen", "unseen"; None: those that have scenes.
        limit: at most so many scenes of each.
    """
    started = time.monotonic()
    scenes: SceneSet = loaded.task.scenes
    predictor: TextPredictor = loaded.predictor
    splits = [s for s, own in SPLITS.items() if scenes.split(own)] if splits is None else splits  # type: ignore[arg-type]
    shown = {split: _render(predictor, scenes, _ids(scenes, split, limit)) for split in splits}
    meters = {split: _scores(predictor, shown[split]) for split in splits}
    scores = {split: found for split, (found, _) in meters.items()}
    last = meters[splits[-1]][1]
    results: dict[str, Any] = {split: aggregate([found]) for split, found in scores.items()}
    found_by, unavailable = _retrieval(scenes, shown, predictor.model.device)
    results |= {
        "constants": {"mean image": {split: _constants(part) for split, part in shown.items()}},
        "retrieval": found_by,
        "generation_ms": generation_ms(predictor, list(scenes.captions.values())),
        "unavailable": {**last.unavailable, **unavailable},
        "notes": last.notes,
        "weights": last.weights,
        "seconds": time.monotonic() - started,
    }

    def write(folder: Path) -> dict[str, Path]:
        joined = _joined(list(scores.values()))
        files = {"items": write_items(folder / "items.csv", joined)}
        files["captions"] = folder / "captions.png"
        pictures = {name: view for part in shown.values() for name, view in zip(part.ids, part.views, strict=True)}
        write_png(files["captions"], caption_matrix(pictures, set(scenes.split("unseen"))))
        files["examples"] = folder / "examples.png"
        write_png(files["examples"], examples_sheet(_examples(scenes, shown, scores)))
        return files

    return Measured(results, write)


def _ids(scenes: SceneSet, split: str, limit: int | None) -> tuple[str, ...]:
    ids = scenes.split(SPLITS[split])  # type: ignore[arg-type]
    if not ids:
        raise HyperkitError(
            f"{scenes.root} has no {split} scenes.", "Choose another --split, or --data with such scenes."
        )
    return ids[:limit]


def _render(predictor: TextPredictor, scenes: SceneSet, ids: Sequence[str]) -> Pictured:
    pictured = Pictured(tuple(ids), [], [], [], [])
    front = turntable(1, FRONT_ELEVATION, predictor.framing.radius, FRONT_AZIMUTH)
    for name in ids:
        field = predictor(scenes.captions[name])
        held_out = scenes.test_views(name)
        poses = torch.cat((held_out.cameras.poses, front))  # in one go: what is empty is found once
        rendered = field.render(poses=poses, size=scenes.size, background=scenes.background)
        pictured.found.append(rendered.rgb[:-1].movedim(-1, 1))
        pictured.truth.append(held_out.pictures(scenes.background))
        pictured.constant.append(scenes.mean_pictures(name))
        pictured.views.append(enlarge(rendered.frames()[-1], max(1, round(128 / scenes.size))))
    return pictured


def _scores(predictor: TextPredictor, part: Pictured) -> tuple[Scores, ImageMetrics]:
    """Return each scene's metrics, the means over its views."""
    metrics = ImageMetrics(predictor.model.device, ("psnr", "ssim", "lpips"))
    columns: dict[str, list[float]] = {}
    last: Scores | None = None
    for name, found, truth in zip(part.ids, part.found, part.truth, strict=True):
        last = metrics.update(found, truth, [name] * len(found), [name.split("/", 1)[0]] * len(found))
        for metric, values in last.values.items():
            columns.setdefault(metric, []).append(mean(values))
    assert last is not None
    classes = tuple(name.split("/", 1)[0] for name in part.ids)
    return Scores(columns, part.ids, classes, last.metrics, last.unavailable), metrics


def _joined(parts: Sequence[Scores]) -> Scores:
    columns = {name: [v for part in parts for v in part.values[name]] for name in parts[0].values}
    ids = tuple(name for part in parts for name in part.ids)
    return Scores(columns, ids, tuple(label for part in parts for label in part.classes))


def _constants(part: Pictured) -> dict[str, float]:
    values = {name: float(psnr(c, t).mean()) for name, c, t in zip(part.ids, part.constant, part.truth, strict=True)}
    classes: dict[str, list[float]] = {}
    for name, value in values.items():
        classes.setdefault(name.split("/", 1)[0], []).append(value)
    return {ALL: mean(values.values()), **{label: mean(own) for label, own in classes.items()}}


def _retrieval(
    scenes: SceneSet, shown: Mapping[str, Pictured], device: torch.device
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return how often a rendered scene is nearest to its own among all scenes, by PSNR and by CLIP."""
    support = list(scenes.captions)
    if not scenes.shared_cameras:
        reason = "the scenes have cameras of their own, so that their pictures cannot be compared view by view"
        return {}, {"retrieval": reason}
    pictures = torch.stack([scenes.test_views(name).pictures(scenes.background) for name in support])
    result: dict[str, Any] = {"among": len(support), "by": {}}
    unavailable: dict[str, str] = {}
    try:
        clip = ClipFeatures(device)
        known = torch.stack([clip.pictures(p) for p in pictures])
    except MetricUnavailableError as error:
        clip, unavailable["clip retrieval, precision, recall, kid"] = None, str(error)
    for split, part in shown.items():
        own = torch.tensor([support.index(name) for name in part.ids])
        found = torch.stack(part.found)
        result["by"].setdefault("psnr", {})[split] = retrieval(psnr_similarity(found, pictures), own)
        if clip is None:
            continue
        features = torch.stack([clip.pictures(p) for p in found])
        similarity = embedding_similarity(features, known)
        result["by"].setdefault("clip", {})[split] = retrieval(similarity, own)
        relevant = own[:, None] == torch.arange(len(support))
        precision, recall = precision_recall(similarity.cpu(), relevant)
        distance = kernel_distance(known[own].flatten(0, 1), features.flatten(0, 1))
        result.setdefault("clip", {})[split] = {"precision": precision, "recall": recall, "kid": distance}
    return result, unavailable


def generation_ms(predictor: TextPredictor, sentences: Sequence[str]) -> float:
    """Return the median milliseconds from a sentence to its field's weights, text encoder included."""
    times = []
    for sentence in (sentences[0], *sentences[:TEXTS_TIMED]):
        start = time.perf_counter()
        params = predictor.generate(*predictor.encode([sentence]))
        next(iter(params.tensors.values())).sum().item()  # waits for a GPU
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times[1:])[len(times[1:]) // 2]


def _examples(
    scenes: SceneSet, shown: Mapping[str, Pictured], scores: Mapping[str, Scores]
) -> list[tuple[str, Tensor, Tensor]]:
    """Return worst, median and best scene of each split: title, truth and prediction (3, S, S) of its first view."""
    rows = []
    for split, part in shown.items():
        order = sorted(range(len(part.ids)), key=lambda i: scores[split].values["psnr"][i])
        for label, i in (("worst", order[0]), ("median", order[len(order) // 2]), ("best", order[-1])):
            value = scores[split].values["psnr"][i]
            title = f"{scenes.captions[part.ids[i]]}\n{split}, {label}, {value:.1f} dB"
            rows.append((title, part.truth[i][0], part.found[i][0]))
    return rows
