"""Teaching a text-to-field model: teachers, student, and what it makes of captions that it has and has not seen."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from hyperkit.backbones.text import require_text_encoder
from hyperkit.errors import HyperkitError
from hyperkit.reports.plots import training_curves
from hyperkit.reports.tables import write_results
from hyperkit.training.loop import FitResult, fit
from hyperkit.training.progress import ProgressSink
from hyperkit.training.run_directory import RunDirectory, read_config
from hyperkit.workflows.configure import from_recipe, from_stored
from hyperkit.workflows.evaluate import RunResult
from hyperkit.workflows.evaluate_text import measure_captions
from hyperkit.workflows.load import open_checkpoint
from hyperkit.workflows.train import how_it_ended, open_run

_LOG = logging.getLogger("hyperkit")


def distill(
    *,
    recipe: str = "quickstart",
    overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: ProgressSink | None = None,
    data_progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Fit a teacher to every training scene, distil them into one hypernetwork, and report it on all captions.

    Args:
        recipe: a built-in recipe's name, or the path of a YAML file.
        overrides: nested values laid over the recipe, as ``{"data": {"root": "scenes"}}``.
        out: folder of the run; ``runs/distill-<time>`` by default. An interrupted run there is gone on with.
        resume: a run to go on with; its own configuration holds, ``overrides`` may change how far and where.
        progress: is told of every step of the student.
        data_progress: is told (done, in all) while scenes are made and teachers fitted.

    Raises:
        HyperkitError: bad configuration, captions, scenes or weights.
        RunFailed: the loss is not a number, memory or disk are full.
        RunInterrupted: SIGINT or SIGTERM; the state is saved.
    """
    if resume is not None:
        if out is not None:
            raise HyperkitError("Both --out and --resume were given.", "--resume RUN goes on in RUN itself.")
        task_cls, config = from_stored(read_config(resume), overrides, "distill")
        out = resume
    else:
        task_cls, config = from_recipe("distill", recipe, overrides, "distill")
    require_text_encoder(config.text)  # what is missing is said at once, before scenes are made
    plain = config.model_dump(mode="json")
    with open_run(task_cls, plain, out, resume is not None) as run:
        task = task_cls(config, config.training.seed)
        task.data_progress = data_progress
        fitted = fit(task, config.training, run, stored_config=plain, progress=progress)
        if run.follower:
            return RunResult(run.path, {})
        return report(run, fitted)


def report(run: RunDirectory, fitted: FitResult) -> RunResult:
    """Measure the best checkpoint of a finished run on seen and unseen captions, and write tables and pictures."""
    loaded = open_checkpoint(run.best if run.best.is_file() else run.last, verb="evaluate")
    _LOG.info("evaluating %s on the scenes' own views", loaded.path.name)
    measured = measure_captions(loaded)
    results = measured.results
    results |= {
        "evaluation_seconds": results["seconds"],
        "seconds": fitted.seconds,
        "steps": fitted.steps,
        "best": dict(fitted.best),
        "config": loaded.config.model_dump(mode="json"),
    }
    paths = write_results(run.path, results)
    files = {"results": paths["md"], "checkpoint": loaded.path, **measured.write(run.media)}
    curves = run.media / "curves.png"
    constants = {name: values["seen"]["all"] for name, values in results["constants"].items() if "seen" in values}
    if training_curves(run.path / "metrics.jsonl", curves, constants):
        files["curves"] = curves
    return RunResult(run.path, results, files, how_it_ended(fitted))
