"""Finetuning a text-to-field model to one more prompt, beside a field that is fitted from scratch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperkit.adapt.fit import FieldFit, FitConfig
from hyperkit.config import merge
from hyperkit.contracts import Batch, Scores, TargetParams
from hyperkit.metrics.aggregate import aggregate
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.image import as_pictures, psnr
from hyperkit.randomness import StepRandom
from hyperkit.reports.captions import views_sheet
from hyperkit.reports.plots import read_metrics, series, steps_figure
from hyperkit.reports.tables import write_results
from hyperkit.reports.video import write_png
from hyperkit.targets.skip_field import SkipField
from hyperkit.tasks.distill import DistillTask
from hyperkit.training.checkpoints import Checkpoint
from hyperkit.training.loop import fit
from hyperkit.training.progress import ProgressSink
from hyperkit.training.run_directory import RunDirectory
from hyperkit.workflows.configure import from_stored
from hyperkit.workflows.evaluate import RunResult
from hyperkit.workflows.load import Loaded, open_checkpoint
from hyperkit.workflows.train import open_run

REACHED = 0.9
"""Share of what a field from scratch gains over the untrained answer to the prompt, at which steps are compared."""

DEFAULTS: dict[str, Any] = {
    "evaluation": {"validation_pictures": 4},
    "training": {
        "steps": 200,
        "epochs": None,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "batch_size": 1,
        "validate_every": 5,
        "log_every": 5,
        "ema": None,
        "max_time": None,
    },
}
"""What holds for finetuning where nothing else is said; the rate was chosen among 3e-4, 1e-3 and 3e-3."""

CLOSE = 20
"""The field from scratch is measured as often as the hypernetwork so many times, then at every fifth of them."""

SHOWN = 4
"""Held-out views in the picture of the results."""


def prompt_settings(stored: Checkpoint, overrides: Mapping[str, Any]) -> tuple[type[Any], Any]:
    """Return the task and the configuration of finetuning a checkpoint to ``overrides["novel"]``."""
    return from_stored(stored.config, merge(DEFAULTS, overrides), "finetune")


def finetune_prompt(
    task_cls: type[Any],
    config: Any,
    initial: Mapping[str, Tensor] | None,
    out: str | os.PathLike[str] | None,
    must_exist: bool,
    progress: ProgressSink | None = None,
    data_progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Finetune a hypernetwork to a prompt, fit a field from scratch to the same rays, and compare their steps.

    Args:
        task_cls, config: the task distill, of ``prompt_settings``.
        initial: the checkpoint's weights; None for a run that goes on.
        out: folder of the run.
        must_exist: the run must be there already.
        progress, data_progress: as for ``distill``.
    """
    plain = config.model_dump(mode="json")
    with open_run(task_cls, plain, out, must_exist) as run:
        task = task_cls(config, config.training.seed)
        task.data_progress = data_progress
        zero_path = run.checkpoints / "zero_shot.pt"
        if initial is not None and not run.follower and not zero_path.is_file():
            torch.save({name: tensor.clone() for name, tensor in initial.items()}, zero_path)
        fitted = fit(task, config.training, run, stored_config=plain, initial=initial, progress=progress)
        if run.follower:
            return RunResult(run.path, {})
        loaded = open_checkpoint(run.best if run.best.is_file() else run.last, verb="finetune")
        start = torch.load(zero_path, weights_only=True)
        return _report(run, loaded, task, start, fitted.seconds)


def _report(
    run: RunDirectory, loaded: Loaded, task: DistillTask, start: Mapping[str, Tensor], seconds: float
) -> RunResult:
    began = time.monotonic()
    batches = list(task.validation())
    model = loaded.predictor.model
    tuned = [p.cpu() for batch in batches for p in _answer(task, model, batch)]
    final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(dict(start))
    zero = [p.cpu() for batch in batches for p in _answer(task, model, batch)]
    model.load_state_dict(final)
    truth = [picture for batch in batches for picture in as_pictures(batch.truth, _size(batch))]
    scratch = from_scratch(task, batches, truth, loaded.config.training.validate_every)
    pictures = {"zero-shot": zero, "finetuned": tuned, "from scratch": scratch.pictures}
    results: dict[str, Any] = {name: aggregate([_scores(found, truth)]) for name, found in pictures.items()}
    steps, values = series(read_metrics(run.path / "metrics.jsonl"), "val", "psnr")
    curves = {
        "finetuned": [(0, results["zero-shot"]["all"]["psnr"]), *zip(steps.tolist(), values.tolist(), strict=True)],
        "from scratch": scratch.curve,
    }
    compared = compare_steps(curves)
    results |= {
        "prompt": task.config.novel.prompt,
        "compared": compared,
        "curves": curves,
        "seconds": time.monotonic() - began + seconds,
        "config": loaded.config.model_dump(mode="json"),
    }
    files = {"results": write_results(run.path, results)["md"], "checkpoint": loaded.path}
    files["steps"] = steps_figure(run.media / "steps.png", curves, compared["threshold"])
    files["views"] = run.media / "views.png"
    write_png(
        files["views"], views_sheet({"ground truth": truth[:SHOWN], **{k: v[:SHOWN] for k, v in pictures.items()}})
    )
    return RunResult(run.path, results, files, _sentence(compared))


@torch.no_grad()
def _answer(task: DistillTask, model: Any, batch: Batch) -> Tensor:
    batch = batch.to(model.device)
    return task.pictures(model, batch)[0]


def _scores(found: Sequence[Tensor], truth: Sequence[Tensor]) -> Scores:
    names = [f"view {index}" for index in range(len(found))]
    return ImageMetrics("cpu", ("psnr", "ssim")).update(torch.stack(list(found)), torch.stack(list(truth)), names)


def _size(batch: Batch) -> tuple[int, int]:
    assert batch.query_size is not None
    return batch.query_size


class Scratch:
    """A field that was fitted from scratch.

    Attributes:
        curve: (step, mean PSNR of the held-out views).
        pictures: its held-out views at the end, (3, S, S) each.
    """

    def __init__(self) -> None:
        self.curve: list[tuple[float, float]] = []
        self.pictures: list[Tensor] = []


def from_scratch(task: DistillTask, batches: Sequence[Batch], truth: Sequence[Tensor], every: int) -> Scratch:
    """Fit a field of the same structure, with a table of its own, to the rays that the hypernetwork sees.

    Args:
        task: of the novel prompt.
        batches, truth: of its held-out views, and their pictures (3, S, S).
        every: steps between measurements; see ``CLOSE``.
    """
    novel, target, data, found = task.config.novel, SkipField(task.config.target), task.data(), Scratch()

    def loss(params: TargetParams, step: int) -> Tensor:
        batch = data.train_batch(step, 1)
        output = task.render(target, params, batch.query, task.jitter(batch, StepRandom(task.seed, step)))
        return task.objective(output, batch)[0]

    rate, table_rate = novel.scratch_rate, 2 * novel.scratch_rate
    config = FitConfig(steps=novel.scratch_steps, seed=task.seed, learning_rate=rate, table_learning_rate=table_rate)
    fitted = FieldFit(target.spec, loss, config)
    while True:
        if fitted.step % (every if fitted.step < CLOSE * every else 5 * every) == 0 or fitted.step == config.steps:
            found.pictures = _field_pictures(task, target, fitted.params, batches)
            decibels = psnr(torch.stack(found.pictures), torch.stack(list(truth)))
            found.curve.append((fitted.step, float(decibels.mean())))
        if fitted.step >= config.steps:
            return found
        fitted.advance()


@torch.no_grad()
def _field_pictures(
    task: DistillTask, target: SkipField, params: TargetParams, batches: Sequence[Batch]
) -> list[Tensor]:
    found: list[Tensor] = []
    for batch in batches:
        found += list(as_pictures(task.render(target, params, batch.query).rgb.float(), _size(batch)))
    return found


def compare_steps(curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """Return how many steps each way needs to the same PSNR.

    The PSNR is that at which ``REACHED`` of what the field from scratch gains over the answer before finetuning is
    gained. Where the field from scratch never gains anything, there is nothing to reach.

    Args:
        curves: "finetuned" and "from scratch" -> (step, PSNR), step 0 first.
    """
    zero, best = curves["finetuned"][0][1], max(value for _, value in curves["from scratch"])
    threshold = zero + REACHED * (best - zero)
    found: dict[str, Any] = {"zero_shot": zero, "scratch_best": best, "threshold": threshold}
    reached = {name: next((s for s, v in curve if v >= threshold), None) for name, curve in curves.items()}
    found |= {"finetuned_steps": reached["finetuned"], "scratch_steps": reached["from scratch"]}
    first, second = found["finetuned_steps"], found["scratch_steps"]
    found["times_fewer"] = second / first if first and second is not None else None
    return found


def _sentence(compared: Mapping[str, Any]) -> str:
    if compared["scratch_best"] <= compared["zero_shot"]:
        return (
            f"The answer before finetuning ({compared['zero_shot']:.2f} dB) is better than a field from scratch gets "
            f"({compared['scratch_best']:.2f} dB)."
        )
    finetuned, scratch = compared["finetuned_steps"], compared["scratch_steps"]
    head = f"{compared['threshold']:.2f} dB ({REACHED:.0%} of what a field from scratch gains): "
    if finetuned is None:
        return f"{head}not reached by finetuning, {scratch:.0f} steps from scratch."
    times = f", {compared['times_fewer']:.1f} times fewer" if compared["times_fewer"] else ""
    return f"{head}{finetuned:.0f} steps of finetuning, {scratch:.0f} from scratch{times}."
