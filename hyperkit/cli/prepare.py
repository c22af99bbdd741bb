"""``hyperkit prepare``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperkit.cli import options as o

FILES = ("--data", "--librispeech", "--out", "--recipe", "--set", "--test-fraction", "--val-fraction", "--skip-bad")
TAKEN: dict[str, tuple[str, ...]] = {
    "nvs": (
        *("--data", "--meshes", "--learnit", "--out", "--groups", "--objects", "--classes", "--size", "--views"),
        *("--resolution", "--test-fraction", "--val-fraction", "--up", "--seed", "--skip-bad"),
    ),
    "image": FILES,
    "audio": FILES,
    "backbone": ("a name", "--pretrain"),
    "metrics": (),
}
"""What each thing that can be prepared takes."""

PRETRAINING = (
    *("a name", "--pretrain", "--out", "--resume", "--recipe"),
    *("--steps", "--max-time", "--device", "--seed", "--set"),
)
"""What the pretraining of a backbone takes."""


def prepare(
    what: Annotated[str | None, typer.Argument(help="nvs, image, audio, backbone or metrics.")] = None,
    name: Annotated[str | None, typer.Argument(help="With backbone: its name, as in clip.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show what is in the cache, and its size.")] = False,
    pretrain: Annotated[
        str | None,
        typer.Option(
            "--pretrain", metavar="METHOD", help="backbone nano: pretrain it on procedural pictures: dino, mae."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="backbone nano: go on with this pretraining.")
    ] = None,
    out: o.OutOption = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Check and pack a data set that is there.")
    ] = None,
    meshes: Annotated[
        Path | None, typer.Option("--meshes", metavar="DIR", help="Render a folder of meshes; sub-folders are classes.")
    ] = None,
    learnit: Annotated[
        Path | None, typer.Option("--learnit", metavar="DIR|ZIP", help="Check and unpack a LearnIt ShapeNet archive.")
    ] = None,
    librispeech: Annotated[
        str | None, typer.Option("--librispeech", metavar="A,B", help="audio: download these subsets of LibriSpeech.")
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", metavar="FILE", help="Lines 'object, group': groups stay together in the splits."),
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option("--objects", metavar="A,B,C", help="Procedural objects of each class in train, val and test."),
    ] = None,
    classes: o.ClassesOption = None,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PIXELS", min=8, max=1024, help="nvs: size to render at; 128.")
    ] = None,
    views: Annotated[
        int | None, typer.Option("--views", metavar="N", min=2, help="nvs: views of each object; 50.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option("--resolution", metavar="PIXELS", min=8, help="nvs: size to pack at; as stored by default."),
    ] = None,
    test_fraction: Annotated[
        float | None,
        typer.Option(
            "--test-fraction", metavar="F", min=0.0, max=0.9, help="Share held out: of meshes 0.15, of files 0.1."
        ),
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option("--val-fraction", metavar="F", min=0.0, max=0.5, help="Share for validation; 0.05."),
    ] = None,
    up: Annotated[str | None, typer.Option("--up", metavar="AXIS", help="The meshes' up axis: y or z; y.")] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="nvs: seed of objects, cameras and splits; 0. Or of pretraining."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="image, audio: recipe that will be trained; quickstart. Or of --pretrain: dino, mae, debug.",
        ),
    ] = None,
    steps: o.StepsOption = None,
    max_time: o.MaxTimeOption = None,
    device: o.DeviceOption = None,
    assignments: o.SetOption = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken objects out, and list them.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Make, convert, check or download what the other commands need.

    \b
    hyperkit prepare nvs                              the built-in data set, in the cache
    hyperkit prepare nvs --meshes DIR --out DIR       a data set from your own meshes
    hyperkit prepare nvs --learnit ZIP --out DIR      the LearnIt ShapeNet archive
    hyperkit prepare nvs --data DIR                   check and pack what is there
    hyperkit prepare image --data DIR                 check and decode pictures as train image reads them
    hyperkit prepare image --data DIR --recipe NAME   ... as train image --recipe NAME reads them
    hyperkit prepare audio --librispeech dev-clean --out DIR   download LibriSpeech
    hyperkit prepare backbone clip                    download and verify pretrained weights
    hyperkit prepare backbone nano --pretrain dino    pretrain the small one, as the package's was
    hyperkit prepare backbone nano --resume RUN       go on with a pretraining that was stopped
    hyperkit prepare metrics                          download and verify the metrics' weights
    hyperkit prepare --list                           what is in the cache
    """
    from hyperkit.errors import HyperkitError, unknown_name

    given: dict[str, Any] = {
        "a name": name,
        "--pretrain": pretrain,
        "--resume": resume,
        "--out": out,
        "--data": data,
        "--meshes": meshes,
        "--learnit": learnit,
        "--librispeech": librispeech,
        "--groups": groups,
        "--objects": objects,
        "--classes": classes,
        "--size": size,
        "--views": views,
        "--resolution": resolution,
        "--test-fraction": test_fraction,
        "--val-fraction": val_fraction,
        "--up": up,
        "--seed": seed,
        "--recipe": recipe,
        "--steps": steps,
        "--max-time": max_time,
        "--device": device,
        "--set": assignments or None,
        "--skip-bad": skip_bad or None,
    }
    given = {option: value for option, value in given.items() if value is not None}
    if show_list:
        _refuse_others("--list", given, ())
        _list(as_json)
        return
    if what == "backbone" and (pretrain is not None or resume is not None):
        _refuse_others("backbone --pretrain", given, PRETRAINING)
        _pretrain(as_json, given)
        return
    if what in TAKEN:
        _refuse_others(what, given, TAKEN[what])
    if what == "nvs":
        _nvs(as_json, given)
    elif what in ("image", "audio"):
        _signals(what, as_json, given)
    elif what == "backbone":
        _backbone(name, as_json)
    elif what == "metrics":
        from hyperkit.metrics.prepare import prepare_metrics

        found = prepare_metrics()
        o.emit(", ".join(str(entry["path"]) for entry in found.values()), found, as_json)
    elif what is None:
        raise HyperkitError(
            "prepare what?",
            "Allowed: nvs, image, audio, backbone NAME, metrics, or --list. See hyperkit prepare --help.",
        )
    else:
        raise unknown_name("thing to prepare", what, TAKEN)


def _counts(text: str) -> tuple[int, int, int]:
    from hyperkit.errors import HyperkitError

    parts = o.split_names(text) or []
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise HyperkitError(f"--objects takes three numbers, found {text!r}.", "Example: --objects 100,8,20")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _list(as_json: bool) -> None:
    from hyperkit.files import cache_dir
    from hyperkit.workflows.prepare import list_cache

    entries = list_cache()
    o.say(f"The cache is {cache_dir()}." + ("" if entries else " It is empty."))
    for entry_name, path, size in entries:
        o.say(f"{size / 1e6:10.1f} MB  {entry_name}  {path}")
    content = {n: {"path": str(p), "bytes": s} for n, p, s in entries}
    o.emit(cache_dir(), {"cache": str(cache_dir()), "entries": content}, as_json)


def _nvs(as_json: bool, given: Mapping[str, Any]) -> None:
    from hyperkit.cli.bars import CountedProgress
    from hyperkit.workflows.prepare import prepare_nvs

    # what is not given keeps its default there
    arguments = {option.removeprefix("--").replace("-", "_"): value for option, value in given.items()}
    for name, read in (("objects", _counts), ("classes", o.split_names)):
        if name in arguments:
            arguments[name] = read(arguments[name])
    progress = CountedProgress("preparing")
    try:
        report = prepare_nvs(progress=progress, **arguments)
    finally:
        progress.close()
    for line in _lines(report.as_dict()):
        o.say(line)
    o.emit(report.root, report.as_dict(), as_json)


def _refuse_others(what: str, given: Mapping[str, Any], taken: Collection[str]) -> None:
    """Refuse what means nothing here."""
    from hyperkit.errors import HyperkitError

    others = [option for option in given if option not in taken]
    if not others:
        return
    hints = [f"Allowed: {', '.join(taken)}." if taken else "It takes no options but --json."]
    if what in ("image", "audio"):
        if {"--size", "--resolution"} & set(others):
            hints.append("Size and rate are the recipe's: --recipe NAME, or --set data.size=PIXELS, data.rate=HZ.")
        if "--seed" in others:
            hints.append("Splits of files follow their names, not a seed.")
    if "--librispeech" in others:
        hints.append("LibriSpeech is for hyperkit prepare audio.")
    raise HyperkitError(f"prepare {what} does not take {', '.join(others)}.", " ".join(hints))


def _signals(task: str, as_json: bool, given: Mapping[str, Any]) -> None:
    from rich.markup import escape

    from hyperkit.cli.bars import CountedProgress
    from hyperkit.config import parse_sets
    from hyperkit.workflows.prepare import prepare_task_signals

    recipe = given.get("--recipe", "quickstart")
    assignments = list(given.get("--set", ()))
    for split in ("test", "val"):
        if (fraction := given.get(f"--{split}-fraction")) is not None:
            assignments.append(f"data.{split}_fraction={fraction:g}")
    if "--skip-bad" in given:
        assignments.append("data.skip_bad=true")
    progress = CountedProgress("preparing")
    try:
        report = prepare_task_signals(
            task,
            given.get("--data"),
            o.split_names(given.get("--librispeech")),
            given.get("--out"),
            progress=progress,
            recipe=recipe,
            overrides=parse_sets(assignments),
        )
    finally:
        progress.close()
    content = report.as_dict()
    o.say(f"{report.root}: {report.kind}, {report.bytes / 1e6:.1f} MB decoded in {report.packed}")
    o.say(f"  as the recipe {recipe} reads them: {report.read_as}")
    if same := [f"--recipe {recipe}"] * ("--recipe" in given) + [f"--set {escape(one)}" for one in assignments]:
        o.say(f"  hyperkit train {task} is to be given the same: {' '.join(same)}")
    for split, classes in report.counts.items():
        if classes:
            o.say(f"  {split}: " + ", ".join(f"{count} {class_name}" for class_name, count in classes.items()))
    for note in report.notes:
        o.say(note)
    if report.left_out:
        o.say(f"{len(report.left_out)} left out:")
        for problem in report.left_out[:20]:
            o.say(f"  {problem.path}: {problem.reason}")
    for split, sha256 in report.hashes.items():
        o.say(f"{split}: SHA-256 {sha256}")
    o.emit(report.root, {**content, "recipe": recipe}, as_json)


def _lines(report: dict[str, Any]) -> list[str]:
    """Return the report in sentences."""
    counts = [
        f"  {split}: " + ", ".join(f"{n} {class_name}" for class_name, n in classes.items())
        for split, classes in report["counts"].items()
        if classes
    ]
    lines = [f"{report['root']}: {report['views']} views at {report['size']} pixels", *counts, *report["notes"]]
    if report["without_transforms"]:
        lines.append(f"{len(report['without_transforms'])} objects have no transforms.json and are left out.")
    if report["left_out"]:
        lines.append(f"{len(report['left_out'])} left out:")
        lines += [f"  {entry['path']}: {entry['reason']}" for entry in report["left_out"][:20]]
    if report["sha256"]:
        lines.append(f"SHA-256 of the archive: {report['sha256']}")
    lines += [f"{split} pairs: {pair['items']}, SHA-256 {pair['sha256']}" for split, pair in report["pairs"].items()]
    return lines


def _backbone(name: str | None, as_json: bool) -> None:
    from hyperkit.backbones import NAMED, list_prepared, prepare_backbone
    from hyperkit.errors import HyperkitError

    if name is None:
        raise HyperkitError(
            "prepare backbone: which one?", f"Named ones: {', '.join(NAMED)}; or timm:NAME, open_clip:NAME/TAG."
        )
    found = prepare_backbone(name)
    for key, value in found.items():
        o.say(f"{key}: {value}")
    o.emit(str(found.get("weights", name)), {**found, "prepared": list_prepared()}, as_json)


def _pretrain(as_json: bool, given: Mapping[str, Any]) -> None:
    from hyperkit.cli.bars import CountedProgress
    from hyperkit.errors import HyperkitError
    from hyperkit.training.progress import make_progress
    from hyperkit.workflows.prepare_nano import pretrain_nano

    if given.get("a name") != "nano":
        raise HyperkitError(
            f"--pretrain is for the small backbone nano, found {given.get('a name', 'no name')}.",
            "Example: hyperkit prepare backbone nano --pretrain dino",
        )
    flags = {name: given.get(f"--{name.replace('_', '-')}") for name in ("steps", "max_time", "device", "seed")}
    result = pretrain_nano(
        given.get("--pretrain"),
        recipe=given.get("--recipe"),
        overrides=o.overrides(given.get("--set"), **flags),
        out=given.get("--out"),
        resume=given.get("--resume"),
        progress=make_progress(),
        data_progress=CountedProgress("preparing data"),
    )
    result.show()
    o.emit(result.files.get("weights"), result.to_json(), as_json)
