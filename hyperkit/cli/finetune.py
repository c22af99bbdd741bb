"""``hyperkit finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperkit.cli import options as o


def finetune(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint to start from.")],
    data: o.DataOption = None,
    train_classes: o.TrainClassesOption = None,
    test_classes: o.TestClassesOption = None,
    data_fraction: o.DataFractionOption = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="A new sentence, for models of hyperkit distill.")
    ] = None,
    scene: Annotated[
        str | None,
        typer.Option("--scene", metavar="DIR", help="What --prompt describes: transforms.json and pictures."),
    ] = None,
    teacher: o.TeacherOption = None,
    diffusion_model: o.DiffusionModelOption = None,
    out: o.OutOption = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")] = None,
    strategy: o.StrategyOption = None,
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
    """Go on from a checkpoint on other data, other classes or with another strategy.

    The checkpoint's own configuration holds for everything that is not set here.

    A model of hyperkit distill learns one more prompt; a field from scratch is fitted beside it, to compare steps.

    \b
    hyperkit finetune runs/a/checkpoints/best.pt --data my-scenes --strategy lora --steps 500
    hyperkit finetune runs/distill --prompt "a golden blender" --scene builtin:blender/golden
    """
    from hyperkit.cli.bars import CountedProgress
    from hyperkit.training.progress import make_progress
    from hyperkit.workflows.finetune import finetune as work

    changes = o.overrides(
        assignments,
        train_classes,
        test_classes,
        data=data,
        data_fraction=data_fraction,
        prompt=prompt,
        scene=scene,
        teacher=teacher,
        diffusion_model=diffusion_model,
        strategy=strategy,
        device=device,
        devices=devices,
        precision=precision,
        seed=seed,
        steps=steps,
        max_time=max_time,
        slim=slim,
    )
    result = work(
        checkpoint,
        overrides=changes,
        out=out,
        resume=resume,
        progress=make_progress(),
        data_progress=CountedProgress("preparing data"),
    )
    result.show()
    o.emit(result.run, result.to_json(), as_json)
