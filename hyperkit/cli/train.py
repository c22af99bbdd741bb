"""``hyperkit train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperkit.cli import options as o

TASKS = "nvs (novel views of an object), segment (with its parts), image or audio (reconstruction)."


def train(
    task: Annotated[str, typer.Argument(help=TASKS)],
    recipe: o.RecipeOption = "quickstart",
    data: o.DataOption = None,
    train_classes: o.TrainClassesOption = None,
    test_classes: o.TestClassesOption = None,
    data_fraction: o.DataFractionOption = None,
    views: o.ViewsOption = None,
    pose_tokens: o.PoseTokensOption = None,
    out: o.OutOption = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")] = None,
    backbone: o.BackboneOption = None,
    weights: o.WeightsOption = None,
    strategy: o.StrategyOption = None,
    algorithm: o.AlgorithmOption = None,
    features: o.FeaturesOption = None,
    device: o.DeviceOption = None,
    devices: o.DevicesOption = None,
    precision: o.PrecisionOption = None,
    seed: o.SeedOption = None,
    steps: o.StepsOption = None,
    max_time: o.MaxTimeOption = None,
    slim: o.SlimOption = None,
    assignments: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Train a hypernetwork and report it on held-out items.

    With no options: the quickstart, on built-in data, without network or GPU.

    \b
    hyperkit train nvs --backbone clip --data shapenet --out runs/clip
    hyperkit train segment --features dino
    hyperkit train image --data photographs
    hyperkit train audio --recipe paper/audio-table5-base --data LibriSpeech
    """
    from hyperkit.cli.bars import CountedProgress
    from hyperkit.training.progress import make_progress
    from hyperkit.workflows.train import train as work

    changes = o.overrides(
        assignments,
        train_classes,
        test_classes,
        data=data,
        data_fraction=data_fraction,
        views=views,
        pose_tokens=pose_tokens,
        backbone=backbone,
        weights=weights,
        strategy=strategy,
        algorithm=algorithm,
        features=features,
        device=device,
        devices=devices,
        precision=precision,
        seed=seed,
        steps=steps,
        max_time=max_time,
        slim=slim,
    )
    result = work(
        task,
        recipe=recipe,
        overrides=changes,
        out=out,
        resume=resume,
        progress=make_progress(),
        data_progress=CountedProgress("preparing data"),
    )
    result.show()
    o.emit(result.run, result.to_json(), as_json)
