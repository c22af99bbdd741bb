"""Pretraining of the small backbone: ``hyperkit prepare backbone nano --pretrain dino`` or ``mae``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from hyperkit.backbones.nano import build_nano, save_nano
from hyperkit.backbones.nano.architecture import LARGEST, stored_bytes
from hyperkit.config import load_recipe, merge
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.files import atomic_path, sha256_of, write_text
from hyperkit.metrics.aggregate import aggregate
from hyperkit.reports.plots import training_curves
from hyperkit.reports.tables import write_results
from hyperkit.training.loop import FitResult, fit
from hyperkit.training.progress import ProgressSink
from hyperkit.training.run_directory import RunDirectory, read_config
from hyperkit.training.starting import build_model
from hyperkit.workflows.configure import find_task, from_stored, resolve
from hyperkit.workflows.evaluate import RunResult
from hyperkit.workflows.train import how_it_ended, open_run

_LOG = logging.getLogger("hyperkit")

METHODS = ("dino", "mae")
FRESH, PRETRAINED = "fresh", "pretrained"
_SUFFIX = ".safetensors"
_PLACE = "weights_beside.txt"
"""In the folder of a run whose weights go into a file beside it: the name of that file."""


def pretrain_nano(
    method: str | None = None,
    *,
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: ProgressSink | None = None,
    data_progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Pretrain the small backbone, judge its features on classes that it never saw, and store its weights as float16.

    Args:
        method: "dino" or "mae"; None with ``resume``, whose run has one.
        recipe: name or path, not with ``resume``; None: that of the weights that come with the package.
        overrides: nested values laid over the recipe, as ``{"training": {"steps": 100}}``.
        out: folder of the run, ``runs/pretrain-<time>`` by default; an interrupted run there is gone on with. Or the
            file of the weights, ``NAME.safetensors``: the run is then in the folder NAME beside it.
        resume: a run to go on with; its own configuration holds, ``overrides`` may change how far and where. The
            weights go where they were to go when it was started.
        progress: is told of every step.
        data_progress: is told (done, in all) while the pictures are made on first use.

    Returns:
        The results: the accuracy of nearest neighbours ("knn") of fresh and of pretrained weights, with "chance";
        among the files "weights", the backbone's.

    Raises:
        HyperkitError: a bad method or configuration, ``out`` or ``recipe`` with ``resume``, or the network would be
            larger than ``LARGEST``.
        RunFailed: the loss is not a number, memory or disk are full.
        RunInterrupted: SIGINT or SIGTERM; the state is saved.
    """
    clash = [name for name, value in (("--out", out), ("--recipe", recipe)) if value is not None]
    if resume is not None and clash:
        raise HyperkitError(
            f"Both {clash[0]} and --resume were given.", "--resume RUN goes on in RUN itself, by its configuration."
        )
    task_cls, config = _configure(method, recipe, overrides, resume)
    folder = _folder(out) if resume is None else Path(resume)
    _check_size(config)
    plain = config.model_dump(mode="json")
    with open_run(task_cls, plain, folder, resume is not None) as run:
        if resume is None and not run.follower:
            _keep_place(run, out)
        task: Any = task_cls(config, config.training.seed)
        task.data_progress = data_progress
        fitted = fit(task, config.training, run, stored_config=plain, progress=progress)
        if run.follower:
            return RunResult(run.path, {})
        return report(run, task, fitted, _file(run, config.method))


def _configure(
    method: str | None, recipe: str | None, overrides: Mapping[str, Any] | None, resume: str | os.PathLike[str] | None
) -> tuple[type[Any], Any]:
    """Return the task and the resolved configuration, of a recipe or of the run to go on with."""
    if method is not None and method not in METHODS:
        raise unknown_name("way to pretrain", method, METHODS)
    if resume is not None:
        source = f"The run {resume}"
        task_cls, config = from_stored(read_config(resume), overrides, "prepare")
    elif method is None:
        raise ValueError("a method, or a run to go on with")
    else:
        source = f"The recipe {recipe or method}"
        task_cls, values = find_task("pretrain", "prepare"), load_recipe(recipe or method, "pretrain")
        config = resolve(task_cls, merge({"method": method}, values), overrides)
    if method not in (None, config.method):
        raise HyperkitError(
            f"{source} pretrains by {config.method}, and --pretrain {method} was given.",
            f"Give --pretrain {config.method}, or leave {'--recipe' if resume is None else '--resume'} out.",
        )
    return task_cls, config


def _is_file(out: str | os.PathLike[str] | None) -> bool:
    return out is not None and Path(out).suffix == _SUFFIX


def _folder(out: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of the run, as far as ``out`` says: that beside a file of weights has its name."""
    return None if out is None else Path(out).with_suffix("") if _is_file(out) else Path(out)


def _keep_place(run: RunDirectory, out: str | os.PathLike[str] | None) -> None:
    """Note in the run where its weights are to go, for when it is gone on with by ``--resume``."""
    if out is not None and _is_file(out):
        write_text(run.path / _PLACE, Path(out).name)
    else:
        (run.path / _PLACE).unlink(missing_ok=True)


def _file(run: RunDirectory, method: str) -> Path:
    """Return the file of a run's weights: the one beside it that was asked for, or one in it."""
    place = run.path / _PLACE
    if place.is_file():
        return run.path.absolute().parent / place.read_text(encoding="utf-8")
    return run.path / f"nano-{method}{_SUFFIX}"


def _check_size(config: Any) -> None:
    """Refuse a network that could not be stored, before it is trained."""
    if (size := stored_bytes(build_nano(config.nano))) > LARGEST:
        raise HyperkitError(
            f"A network of nano.width={config.nano.width} and nano.depth={config.nano.depth} takes {size / 1e6:.1f} MB "
            f"as float16, more than the {LARGEST / 1e6:.0f} MB of one that comes with a package.",
            "Lower nano.depth or nano.width.",
        )


def report(run: RunDirectory, task: Any, fitted: FitResult, file: Path) -> RunResult:
    """Judge fresh and pretrained weights, store the latter, and write tables, curves and pictures.

    Args:
        run: the run's open folder.
        task, fitted: what was trained; its weights are rounded to float16 first, so that what is stored is judged.
        file: of the weights.
    """
    config, model = task.config, fitted.model
    encoder: Any = model.encoder
    encoder.half().float()
    held_out = task.data().held_out
    device = next(model.parameters()).device
    _LOG.info("judging the features on %d pictures of classes that were not trained on", len(held_out.ids))
    fresh = build_model(task, config.training.seed, None, None).to(device).eval()
    scores = {
        name: aggregate([task.evaluate(judged, held_out.to(device))])
        for name, judged in ((FRESH, fresh), (PRETRAINED, model))
    }
    chance = 1 / len(set(held_out.classes))
    accuracy = {name: groups["all"]["knn"] for name, groups in scores.items()}
    about = {"method": config.method, "knn": f"{accuracy[PRETRAINED]:.4f}", "steps": str(fitted.steps)}
    save_nano(file, encoder, about)
    results = {
        **scores,
        "chance": chance,
        "notes": {"knn": _note(config.neighbours, sorted(set(held_out.classes)), chance)},
        "weights": {file.stem: {"file": str(file), "sha256": sha256_of(file), "licence": "apache-2.0"}},
        "seconds": fitted.seconds,
        "steps": fitted.steps,
        "best": dict(fitted.best),
        "config": config.model_dump(mode="json"),
    }
    files = {"weights": file, "results": write_results(run.path, results)["md"]}
    files["examples"] = _write_examples(run.media / "examples.png", task, model, held_out.to(device))
    curves, levels = run.media / "curves.png", {"fresh weights": accuracy[FRESH], "chance": chance}
    if training_curves(run.path / "metrics.jsonl", curves, levels, metric="knn"):
        files["curves"] = curves
    shown = f"{accuracy[PRETRAINED]:.3f} (fresh weights {accuracy[FRESH]:.3f}, chance {chance:.3f})"
    note = f"{how_it_ended(fitted)}\nk-NN accuracy on held-out classes: {shown}."
    return RunResult(run.path, results, files, note)


def _note(neighbours: int, classes: list[str], chance: float) -> str:
    return (
        f"share of pictures of {', '.join(classes)}, which were not trained on, whose class their {neighbours} nearest "
        f"neighbours vote for; chance {chance:.3f}. Errors count pictures, though those of one object are alike."
    )


def _write_examples(path: Path, task: Any, model: Any, held_out: Any) -> Path:
    with atomic_path(path) as temporary:
        Image.fromarray(task.media(model, held_out)["validation"]).save(temporary, format="PNG")
    return path
