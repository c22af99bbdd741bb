"""Training a run and reporting it on held-out objects."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyperkit.errors import HyperkitError
from hyperkit.metrics.catalogue import CATALOGUE
from hyperkit.reports.plots import training_curves
from hyperkit.reports.tables import write_results
from hyperkit.training.loop import FitResult, fit
from hyperkit.training.progress import ProgressSink
from hyperkit.training.run_directory import RunDirectory, read_config
from hyperkit.workflows.configure import from_recipe, from_stored
from hyperkit.workflows.evaluate import RunResult, measure
from hyperkit.workflows.load import open_checkpoint
from hyperkit.workflows.presenters import presenter_of

_LOG = logging.getLogger("hyperkit")


def train(
    task: str = "nvs",
    *,
    recipe: str = "quickstart",
    overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: ProgressSink | None = None,
    data_progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Train a task by a recipe, evaluate the best checkpoint on the test split, and write pictures.

    Args:
        task: "nvs", "segment", "image" or "audio".
        recipe: a built-in recipe's name, or the path of a YAML file.
        overrides: nested values laid over the recipe, as ``{"backbone": {"name": "clip"}}``.
        out: folder of the run; ``runs/<task>-<time>`` by default. An interrupted run there is gone on with.
        resume: a run to go on with; its own configuration holds, ``overrides`` may change how far and where.
        progress: is told of every step.
        data_progress: is told (done, in all) while data is made or packed on first use.

    Raises:
        HyperkitError: bad configuration, data or weights.
        RunFailed: the loss is not a number, memory or disk are full.
        RunInterrupted: SIGINT or SIGTERM; the state is saved.
    """
    if resume is not None:
        if out is not None:
            raise HyperkitError("Both --out and --resume were given.", "--resume RUN goes on in RUN itself.")
        task_cls, config = from_stored(read_config(resume), overrides, "train")
        out = resume
    else:
        task_cls, config = from_recipe(task, recipe, overrides, "train")
    return run_training(task_cls, config, out, resume is not None, progress, data_progress)


def run_training(
    task_cls: type[Any],
    config: Any,
    out: str | os.PathLike[str] | None,
    must_exist: bool,
    progress: ProgressSink | None,
    data_progress: Callable[[int, int], None] | None = None,
    initial: Mapping[str, Any] | None = None,
) -> RunResult:
    """Train, evaluate and report one run; ``train`` and ``finetune`` share it.

    Args:
        task_cls: the task.
        config: the resolved configuration.
        out: folder of the run, or None for a new one.
        must_exist: the run must be there already.
        progress, data_progress: as for ``train``.
        initial: state dict to start from.
    """
    if initial is None and not (out is not None and (Path(out) / "checkpoints" / "last.pt").is_file()):
        task_cls.require(config)  # what is missing is said at once, before data is made
    plain = config.model_dump(mode="json")
    with open_run(task_cls, plain, out, must_exist) as run:
        task = task_cls(config, config.training.seed)
        task.data_progress = data_progress
        slim_name = config.backbone.name if config.training.slim else None
        fitted = fit(
            task,
            config.training,
            run,
            stored_config=plain,
            initial=initial,
            progress=progress,
            slim_name=slim_name,
        )
        if run.follower:
            return RunResult(run.path, {})
        return report(run, fitted)


def open_run(
    task_cls: type[Any], plain: Mapping[str, Any], out: str | os.PathLike[str] | None, must_exist: bool
) -> RunDirectory:
    """Open the folder of a run with this plain configuration: one that is there already, or a new one."""
    return RunDirectory.open(out or "", plain) if must_exist else RunDirectory.create(out, task_cls.name, plain)


def report(run: RunDirectory, fitted: FitResult, limit: int | None = None) -> RunResult:
    """Evaluate the best checkpoint of a finished run on the test split, and write tables and pictures.

    Args:
        run, fitted: the run.
        limit: evaluate at most so many items.
    """
    loaded = open_checkpoint(run.best if run.best.is_file() else run.last, verb="evaluate")
    task, predictor = loaded.task, loaded.predictor
    _LOG.info("evaluating %s on the test split", loaded.path.name)
    items = task.data().pairs("test", batch_size=loaded.config.evaluation.batch_size, limit=limit)
    measured = measure(task, predictor, items, "test", limit=limit)
    results = measured.results
    results |= {
        "evaluation_seconds": results["seconds"],
        "seconds": fitted.seconds,
        "steps": fitted.steps,
        "best": dict(fitted.best),
        "backbone": describe_backbone(predictor.model.backbone),
        "config": loaded.config.model_dump(mode="json"),
    }
    paths = write_results(run.path, results)
    files = {"results": paths["md"], "checkpoint": loaded.path, **measured.write(run.media)}
    files |= presenter_of(task).overview(loaded, run.media)
    curves = run.media / "curves.png"
    constants = {name: values["all"] for name, values in results["constants"].items()}
    if training_curves(run.path / "metrics.jsonl", curves, constants):
        files["curves"] = curves
    return RunResult(run.path, results, files, how_it_ended(fitted))


def how_it_ended(fitted: FitResult) -> str:
    """Return one line on what ended the training."""
    reason = "its time limit" if fitted.stopped_by == "max_time" else "its last step"
    best = ""
    if fitted.best:
        metric, value = CATALOGUE[fitted.best["metric"]], fitted.best["value"]
        shown = f"{value:.2f} dB" if metric.unit == "dB" else f"{metric.name} {value:.3f}"
        best = f"; best validation {shown} at step {fitted.best['step']}"
    return f"Training ended by {reason}: {fitted.steps} steps in {fitted.seconds:.0f} s{best}."


def describe_backbone(backbone: Any) -> dict[str, Any]:
    """Return what a backbone says about itself, licence and weights' hash among it, as plain values."""
    from dataclasses import asdict

    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(backbone.info).items()}
