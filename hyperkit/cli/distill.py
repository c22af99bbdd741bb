"""``hyperkit distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperkit.cli import options as o


def distill(
    recipe: o.RecipeOption = "quickstart",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Captioned scenes: LearnIt ShapeNet layout with captions.json; built-in by default.",
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="A sentence in place of scenes, with --teacher sds; repeatable."),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="Such sentences from a file, one in each line.")
    ] = None,
    teacher: o.TeacherOption = None,
    diffusion_model: o.DiffusionModelOption = None,
    text_encoder: Annotated[
        str | None,
        typer.Option("--text-encoder", metavar="NAME", help="minilm, bert, t5, clip, or a local folder."),
    ] = None,
    static: Annotated[
        bool | None, typer.Option("--static", help="Write all layers from the sentence alone: the ablation.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="N", min=1, help="Teachers that are fitted at the same time.")
    ] = None,
    out: o.OutOption = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")] = None,
    device: o.DeviceOption = None,
    devices: o.DevicesOption = None,
    precision: o.PrecisionOption = None,
    seed: o.SeedOption = None,
    steps: o.StepsOption = None,
    max_time: o.MaxTimeOption = None,
    assignments: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Teach a hypernetwork to write a radiance field for a sentence.

    A field is fitted to every captioned scene (a teacher, kept in the cache), then one network learns to write them
    all. It is measured on captions that it was taught and on combinations that it has never seen.

    With no options: 12 built-in scenes, without network or GPU.

    \b
    hyperkit distill --recipe hyperfields --out runs/hyperfields
    hyperkit distill --data my-scenes --text-encoder clip
    hyperkit distill --prompt "a red chair" --prompt "a blue mug" --teacher sds --diffusion-model models/sd15
    """
    from hyperkit.cli.bars import CountedProgress
    from hyperkit.training.progress import make_progress
    from hyperkit.workflows.distill import distill as work

    changes = o.overrides(
        assignments,
        data=data,
        prompts=o.sentences(prompts, prompts_file),
        teacher=teacher,
        diffusion_model=diffusion_model,
        text_encoder=text_encoder,
        static=static,
        jobs=jobs,
        device=device,
        devices=devices,
        precision=precision,
        seed=seed,
        steps=steps,
        max_time=max_time,
    )
    result = work(
        recipe=recipe,
        overrides=changes,
        out=out,
        resume=resume,
        progress=make_progress(),
        data_progress=CountedProgress("scenes and teachers"),
    )
    result.show()
    o.emit(result.run, result.to_json(), as_json)
