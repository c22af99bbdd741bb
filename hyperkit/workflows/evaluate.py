"""Evaluation on the frozen pairs: tables and examples."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from hyperkit.adapt import TTOConfig
from hyperkit.data.evaluation import EvalSet
from hyperkit.errors import HyperkitError
from hyperkit.metrics.aggregate import aggregate
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.image import as_pictures
from hyperkit.models import INRHypernet
from hyperkit.reports.pictures import Example, comparison_sheet, pick_examples, to_uint8
from hyperkit.reports.tables import plain_results, render_rich_table, write_results
from hyperkit.reports.video import write_png
from hyperkit.tasks.nvs import NVSTask
from hyperkit.workflows.load import home_of, open_checkpoint

_LOG = logging.getLogger("hyperkit")

Shuffle = Literal["none", "class", "all"]


@dataclass(frozen=True)
class RunResult:
    """What a run has produced.

    Attributes:
        run: its folder.
        results: the content of ``results.json``.
        files: what was written, by name.
        note: one line on how the run ended, if there is something to say.
    """

    run: Path
    results: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)
    note: str = ""

    def show(self) -> None:
        """Print the table of results and the files, for people, on stderr."""
        from rich.console import Console

        console = Console(stderr=True)
        if not self.results:  # in a further process of several
            return
        console.print(render_rich_table(self.results))
        for name, path in self.files.items():
            console.print(f"{name}: {path}", highlight=False, soft_wrap=True)
        if self.note:
            console.print(self.note, highlight=False)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        files = {name: str(path) for name, path in self.files.items()}
        return {"run": str(self.run), "files": files, "note": self.note, **plain_results(self.results)}


def evaluate(
    checkpoint: str | os.PathLike[str],
    *,
    overrides: dict[str, Any] | None = None,
    split: str = "test",
    classes: Sequence[str] | None = None,
    tto: int = 0,
    shuffle_context: str = "none",
    limit: int | None = None,
    out: str | os.PathLike[str] | None = None,
) -> RunResult:
    """Measure a checkpoint on the frozen pairs of a split.

    Args:
        checkpoint: a file, or the folder of a run (its best checkpoint).
        overrides: nested values laid over the checkpoint's configuration, as ``{"data": {"root": "scenes"}}``.
        split: "train", "val" or "test".
        classes: only these; None: all that the data has.
        tto: steps of test-time optimisation.
        shuffle_context: give each object the context of another: of its "class", or of "all".
        limit: at most so many pairs.
        out: folder of the results; by default ``evaluate-...`` in the run's folder, or beside the checkpoint.

    Returns:
        The results, which are also written as CSV, JSON and Markdown, and the picture of examples.

    Raises:
        HyperkitError: bad checkpoint, data or arguments.
    """
    if shuffle_context not in ("none", "class", "all"):
        raise HyperkitError(f"Contexts cannot be shuffled over {shuffle_context!r}.", "Allowed: class, all.")
    loaded = open_checkpoint(checkpoint, overrides, verb="evaluate")
    task = loaded.task
    assert isinstance(task, NVSTask)
    options = loaded.config.evaluation.tto.model_copy(update={"steps": tto} if tto else {})
    folder = _folder(loaded.path, out, split, options.steps, shuffle_context)
    pairs = task.data().pairs(
        split,
        classes=classes,
        shuffle_context=cast(Shuffle, shuffle_context),
        limit=limit,
        batch_size=loaded.config.evaluation.batch_size,
    )
    results = measure(task, loaded.predictor.model, pairs, split, loaded.predictor.precision, options, limit)
    results |= {
        "checkpoint": str(loaded.path),
        "steps": loaded.checkpoint.step,
        "shuffle_context": shuffle_context,
        "tto_steps": options.steps,
        "config": loaded.config.model_dump(mode="json"),
    }
    files = write_results(folder, results)
    files["examples"] = write_examples(folder / "examples.png", results.pop("_examples"))
    return RunResult(folder, results, files)


def _folder(checkpoint: Path, out: str | os.PathLike[str] | None, split: str, tto: int, shuffle_context: str) -> Path:
    if out is not None:
        if Path(out).is_file():
            raise HyperkitError(f"--out {out} is a file.", "Choose a folder.")
        return Path(out)
    name = f"evaluate-{split}" + (f"-tto{tto}" if tto else "")
    name += {"none": "", "class": "-shuffled", "all": "-shuffled-all"}[shuffle_context]
    return home_of(checkpoint) / name


def measure(
    task: NVSTask,
    model: INRHypernet,
    pairs: EvalSet,
    split: str,
    precision: torch.dtype,
    tto: TTOConfig | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Predict the target view of every pair and collect all metrics.

    Args:
        task, model: what is measured.
        pairs: the items; ``split`` and ``limit`` are those that they were taken with.
        precision: dtype of the matrix products.
        tto: test-time optimisation.

    Returns:
        The content of ``results.json`` but for what only the caller knows, and under ``_examples`` the worst, the
        median and the best prediction.
    """
    started = time.monotonic()
    metrics = ImageMetrics(model.device)
    was_training = model.training
    model.eval()
    for batch in pairs:
        rendered, _ = task.predict(model, batch, tto, precision)
        assert batch.query_size is not None
        prediction = as_pictures(rendered.rgb, batch.query_size)
        metrics.update(prediction, as_pictures(batch.truth, batch.query_size), batch.ids, batch.classes)
    scores = metrics.scores()
    distribution = metrics.distribution()
    examples = _examples(task, model, pairs, scores.values["psnr"], precision, tto)
    model.train(was_training)
    return {
        split: aggregate([scores], distribution),
        "constants": task.data().constants(split, tuple(pairs.counts), limit=limit),
        "unavailable": metrics.unavailable,
        "notes": metrics.notes,
        "weights": metrics.weights,
        "pairs": pairs.hash,
        "seconds": time.monotonic() - started,
        "_examples": examples,
    }


def _examples(
    task: NVSTask,
    model: INRHypernet,
    pairs: EvalSet,
    values: Sequence[float],
    precision: torch.dtype,
    tto: TTOConfig | None,
) -> list[Example]:
    chosen = pick_examples(values)
    batch = pairs.batch(list(chosen.values()))
    rendered, _ = task.predict(model, batch, tto, precision)
    assert batch.query_size is not None
    prediction, truth = (as_pictures(v, batch.query_size) for v in (rendered.rgb, batch.truth))
    return [
        Example(
            title, to_uint8(batch.context[i, 0]), to_uint8(truth[i]), to_uint8(prediction[i]), values[j], batch.ids[i]
        )
        for i, (title, j) in enumerate(chosen.items())
    ]


def write_examples(path: Path, examples: Sequence[Example]) -> Path:
    """Write the picture of examples: input, truth, prediction, difference."""
    write_png(path, np.asarray(comparison_sheet(examples)))
    return path
