"""Options that several commands share, and how they become overrides of a recipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

TRAINING = "Training"
MODEL = "Model"
OUTPUT = "Output"

RecipeOption = Annotated[
    str, typer.Option("--recipe", help="Name of a recipe (quickstart, debug, paper/...) or FILE.yaml.")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder of the data: LearnIt ShapeNet layout, pictures, or sounds; built-in by default.",
    ),
]
ClassesOption = Annotated[str | None, typer.Option("--classes", metavar="A,B", help="Only these classes.")]
TrainClassesOption = Annotated[
    str | None, typer.Option("--train-classes", metavar="A,B", help="Train on these classes; all by default.")
]
TestClassesOption = Annotated[
    str | None,
    typer.Option("--test-classes", metavar="A,B", help="Test on these classes; those trained on by default."),
]
DataFractionOption = Annotated[
    float | None,
    typer.Option("--data-fraction", metavar="F", help="Part of the training items, 0 to 1; 0.01 is inside 0.1."),
]
ViewsOption = Annotated[
    int | None, typer.Option("--views", metavar="N", min=1, help="Context views of each object, 1 to 8.")
]
PoseTokensOption = Annotated[
    bool | None, typer.Option("--pose-tokens", help="Add the rays of the input's camera to its tokens.")
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of the results.")]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="mae, supervised, deit, dino, dinov2, clip, random, whisper-base, timm:NAME, ...",
    ),
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", metavar="FILE", help="Pretrained weights of the backbone from a file.")
]
StrategyOption = Annotated[
    str | None, typer.Option("--strategy", metavar="NAME", help="auto, random, finetune, frozen or lora.")
]
AlgorithmOption = Annotated[str | None, typer.Option("--algorithm", metavar="NAME", help="trans-inr, ipc or ponp.")]
FeaturesOption = Annotated[
    str | None,
    typer.Option("--features", metavar="NAME", help="segment: distil this backbone's patch features; none."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]
DevicesOption = Annotated[int | None, typer.Option("--devices", metavar="N", help="Processes (GPUs) on this machine.")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", metavar="NAME", help="auto, 32 or bf16.")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything that is drawn.")]
StepsOption = Annotated[int | None, typer.Option("--steps", metavar="N", help="Optimizer steps.")]
MaxTimeOption = Annotated[
    str | None, typer.Option("--max-time", metavar="TIME", help="Stop cleanly after this time: 90s, 10m, 1h30m.")
]
SlimOption = Annotated[
    bool | None, typer.Option("--slim", help="Leave a frozen backbone's weights out of the checkpoints.")
]
TeacherOption = Annotated[
    str | None,
    typer.Option("--teacher", metavar="NAME", help="Fitted to images of the scenes, or sds: by score distillation."),
]
DiffusionModelOption = Annotated[
    str | None,
    typer.Option("--diffusion-model", metavar="ID|DIR", help="Of --teacher sds: a pipeline of diffusers."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Set anything else; may be given several times."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout instead of the result's path.")
]

PLACES = {
    "data": "data.root",
    "backbone": "backbone.name",
    "weights": "backbone.weights",
    "strategy": "backbone.strategy",
    "algorithm": "algorithm",
    "features": "features.name",
    "device": "training.device",
    "devices": "training.devices",
    "precision": "training.precision",
    "seed": "training.seed",
    "steps": "training.steps",
    "max_time": "training.max_time",
    "slim": "training.slim",
    "views": "data.views",
    "pose_tokens": "context.pose_tokens",
    "data_fraction": "data.train_fraction",
    "text_encoder": "text.name",
    "static": "hypernet.static",
    "jobs": "teacher.jobs",
    "teacher": "source",
    "diffusion_model": "score.model",
    "prompts": "prompts",
    "prompt": "novel.prompt",
    "scene": "novel.scene",
}
"""Everyday flag -> the field of the configuration that it sets."""


def overrides(
    assignments: list[str] | None, train_classes: str | None = None, test_classes: str | None = None, **flags: Any
) -> dict[str, Any]:
    """Collect ``--set`` and the everyday flags that were given as one nested mapping; flags win."""
    from hyperkit.config import merge, parse_sets

    result = parse_sets(assignments or [])
    for flag, value in flags.items():
        if value is None:
            continue
        nested: Any = value
        for part in reversed(PLACES[flag].split(".")):
            nested = {part: nested}
        result = merge(result, nested)
    if flags.get("steps") is not None:
        result = merge(result, {"training": {"epochs": None}})
    for field, classes in (("classes", train_classes), ("test_classes", test_classes)):
        if classes is not None:
            result = merge(result, {"data": {field: split_names(classes)}})
    return result


def sentences(given: list[str] | None, file: Path | None) -> list[str] | None:
    """Return the sentences that were given one by one, and those in the lines of a file; None for none at all."""
    from hyperkit.errors import HyperkitError

    found = list(given or [])
    if file is not None:
        try:
            found += [line.strip() for line in file.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise HyperkitError(
                f"--prompts {file} cannot be read: {error}", "It holds one sentence per line."
            ) from error
        if not found:
            raise HyperkitError(f"--prompts {file} holds no sentences.", "It holds one sentence per line.")
    return found or None


def split_names(text: str | None) -> list[str] | None:
    """Split "a, b" into its names; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def emit(path: Path | str | None, content: Mapping[str, Any], as_json: bool) -> None:
    """Write the result to stdout: its path, or with ``--json`` one object. Followers write nothing."""
    if is_follower():
        return
    if as_json:
        sys.stdout.write(json.dumps(content, default=str) + "\n")
    elif path is not None:
        sys.stdout.write(f"{path}\n")
    sys.stdout.flush()


def is_follower() -> bool:
    """Return whether this is a further process of a training over several."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) != 0


def say(renderable: Any) -> None:
    """Print for people, on stderr."""
    from rich.console import Console

    Console(stderr=True).print(renderable)
