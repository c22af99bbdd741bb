"""Evaluation on the frozen items of a split: tables and examples."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperkit.adapt import TTOConfig
from hyperkit.errors import HyperkitError
from hyperkit.metrics.aggregate import aggregate
from hyperkit.metrics.calibration import Calibration
from hyperkit.models import Predictor
from hyperkit.reports.pictures import pick_examples
from hyperkit.reports.signals import calibration_figure
from hyperkit.reports.tables import (
    plain_results,
    render_rich_table,
    retrieval_rich_table,
    split_names,
    write_items,
    write_results,
)
from hyperkit.tasks.inr import EvaluationItems, Example, INRTask
from hyperkit.workflows.load import home_of, open_checkpoint, refuse_options


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
        for split in split_names(self.results):
            console.print(render_rich_table(self.results, split))
        retrieved = retrieval_rich_table(self.results)
        if retrieved is not None:
            console.print(retrieved)
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
    views: int | None = None,
    tto: int = 0,
    shuffle_context: str = "none",
    limit: int | None = None,
    out: str | os.PathLike[str] | None = None,
) -> RunResult:
    """Measure a checkpoint on the frozen items of a split.

    Args:
        checkpoint: a file, or the folder of a run (its best checkpoint).
        overrides: nested values laid over the checkpoint's configuration, as ``{"data": {"root": "scenes"}}``.
        split: "train", "val" or "test"; of captions "seen", "unseen" or "test", which is both.
        classes: only these; None: all that the configuration names for the split.
        views: context views; None: as many as in training. Targets stay the same.
        tto: steps of test-time optimisation.
        shuffle_context: give each item the context of another: of its "class", or of "all".
        limit: at most so many items.
        out: folder of the results; by default ``evaluate-...`` in the run's folder, or beside the checkpoint.

    Returns:
        The results, which are also written as CSV, JSON and Markdown, and the picture of examples.

    Raises:
        HyperkitError: bad checkpoint, data or arguments.
    """
    if shuffle_context not in ("none", "class", "all"):
        raise HyperkitError(f"Contexts cannot be shuffled over {shuffle_context!r}.", "Allowed: class, all.")
    loaded = open_checkpoint(checkpoint, overrides, verb="evaluate")
    if loaded.task.name == "distill":
        from hyperkit.workflows.evaluate_text import evaluate_captions

        asked = {"--classes": classes, "--views": views, "--tto": tto, "--shuffle-context": shuffle_context != "none"}
        refuse_options([name for name, value in asked.items() if value])
        return evaluate_captions(loaded, split, limit, out)
    options = loaded.config.evaluation.tto.model_copy(update={"steps": tto} if tto else {})
    folder = _folder(loaded.path, out, split, views, options.steps, shuffle_context)
    items = loaded.task.data().pairs(
        split,
        classes=classes,
        shuffle_context=shuffle_context,
        limit=limit,
        batch_size=loaded.config.evaluation.batch_size,
        views=views,
    )
    measured = measure(loaded.task, loaded.predictor, items, split, options, limit)
    results = measured.results | {
        "checkpoint": str(loaded.path),
        "steps": loaded.checkpoint.step,
        "shuffle_context": shuffle_context,
        "views": views,
        "tto_steps": options.steps,
        "config": loaded.config.model_dump(mode="json"),
    }
    return RunResult(folder, results, {**write_results(folder, results), **measured.write(folder)})


def _folder(
    checkpoint: Path, out: str | os.PathLike[str] | None, split: str, views: int | None, tto: int, shuffle_context: str
) -> Path:
    if out is not None:
        if Path(out).is_file():
            raise HyperkitError(f"--out {out} is a file.", "Choose a folder.")
        return Path(out)
    name = f"evaluate-{split}" + (f"-views{views}" if views else "") + (f"-tto{tto}" if tto else "")
    name += {"none": "", "class": "-shuffled", "all": "-shuffled-all"}[shuffle_context]
    return home_of(checkpoint) / name


@dataclass(frozen=True)
class Measured:
    """What a measurement gives.

    Attributes:
        results: the content of ``results.json`` but for what only the caller knows.
        write: writes the pictures that belong to it into a folder, and returns name -> path.
    """

    results: dict[str, Any]
    write: Callable[[Path], dict[str, Path]]


def measure(
    task: INRTask,
    predictor: Predictor,
    items: EvaluationItems,
    split: str,
    tto: TTOConfig | None = None,
    limit: int | None = None,
) -> Measured:
    """Predict every item and collect all metrics.

    Args:
        task, predictor: what is measured.
        items: ``split`` and ``limit`` are those that they were taken with.
        tto: test-time optimisation.
    """
    started = time.monotonic()
    model, precision = predictor.model, predictor.precision
    meter = task.meter(model.device)
    calibration = Calibration() if task.gives_deviation(task.config) else None
    was_training = model.training
    model.eval()
    for batch in items:
        output, _ = task.predict(model, batch, tto, precision)
        meter.update(output, batch.to(model.device))
        if calibration is not None and output.deviation is not None:
            calibration.update(output.values, output.deviation, batch.truth)
    scores = meter.metrics.scores()
    if calibration is not None:
        scores = calibration.join(scores)
    chosen = pick_examples(scores.values[task.selection])
    shown = items.batch(list(chosen.values()))
    output, _ = task.predict(model, shown, tto, precision)
    examples = [Example(title, i, scores.values["psnr"][j]) for i, (title, j) in enumerate(chosen.items())]
    model.train(was_training)

    def write(folder: Path) -> dict[str, Path]:
        files = {
            "items": write_items(folder / "items.csv", scores),
            "examples": task.write_examples(folder / "examples.png", shown, output, examples),
        }
        if calibration is not None:
            files["calibration"] = calibration_figure(folder / "calibration.png", calibration)
        return files

    results = {
        split: aggregate([scores], meter.metrics.distribution()),
        "constants": task.data().constants(split, tuple(items.counts), limit=limit),
        "unavailable": meter.metrics.unavailable,
        "notes": meter.metrics.notes,
        "weights": meter.metrics.weights,
        "pairs": items.hash,
        "seconds": time.monotonic() - started,
        **meter.results(),
    }
    return Measured(results, write)
