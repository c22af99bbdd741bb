"""``hyperkit prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hyperkit.cli import options as o


def prepare(
    what: Annotated[str | None, typer.Argument(help="nvs, image, audio, backbone or metrics.")] = None,
    name: Annotated[str | None, typer.Argument(help="With backbone: its name, as in clip.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show what is in the cache, and its size.")] = False,
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
    size: Annotated[int, typer.Option("--size", metavar="PIXELS", min=8, max=1024, help="Size to render at.")] = 128,
    views: Annotated[int, typer.Option("--views", metavar="N", min=2, help="Views of each object.")] = 50,
    resolution: Annotated[
        int | None, typer.Option("--resolution", metavar="PIXELS", min=8, help="Size to pack at; as stored by default.")
    ] = None,
    test_fraction: Annotated[
        float, typer.Option("--test-fraction", min=0.0, max=0.9, help="Share of the meshes held out.")
    ] = 0.15,
    val_fraction: Annotated[
        float, typer.Option("--val-fraction", min=0.0, max=0.5, help="Share of the meshes for validation.")
    ] = 0.05,
    up: Annotated[str, typer.Option("--up", help="The meshes' up axis: y or z.")] = "y",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of objects, cameras and splits.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken objects out, and list them.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Make, convert, check or download what the other commands need.

    \b
    hyperkit prepare nvs                              the built-in data set, in the cache
    hyperkit prepare nvs --meshes DIR --out DIR       a data set from your own meshes
    hyperkit prepare nvs --learnit ZIP --out DIR      the LearnIt ShapeNet archive
    hyperkit prepare nvs --data DIR                   check and pack what is there
    hyperkit prepare image --data DIR                 check and decode a folder of pictures
    hyperkit prepare audio --librispeech dev-clean --out DIR   download LibriSpeech
    hyperkit prepare backbone clip                    download and verify pretrained weights
    hyperkit prepare metrics                          download and verify the metrics' weights
    hyperkit prepare --list                           what is in the cache
    """
    from hyperkit.errors import HyperkitError, unknown_name

    if show_list:
        _list(as_json)
    elif what == "nvs":
        if librispeech is not None:
            raise HyperkitError(
                "--librispeech belongs to audio.", "hyperkit prepare audio --librispeech test-clean --out DIR"
            )
        if name is not None:
            raise HyperkitError(
                f"prepare nvs takes no name, found {name!r}.", "Give a folder with --data, --meshes or --learnit."
            )
        _nvs(
            as_json,
            out=out,
            data=data,
            meshes=meshes,
            learnit=learnit,
            groups=groups,
            objects=_counts(objects),
            classes=o.split_names(classes),
            size=size,
            views=views,
            resolution=resolution,
            test_fraction=test_fraction,
            val_fraction=val_fraction,
            up=up,
            seed=seed,
            skip_bad=skip_bad,
        )
    elif what in ("image", "audio"):
        _refuse_views(what, name, meshes, learnit, groups, objects, classes)
        _signals(what, as_json, data, librispeech, out, skip_bad)
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
        raise unknown_name("thing to prepare", what, ("nvs", "image", "audio", "backbone", "metrics"))


def _counts(text: str | None) -> tuple[int, int, int] | None:
    from hyperkit.errors import HyperkitError

    if text is None:
        return None
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


def _nvs(as_json: bool, **arguments: object) -> None:
    from hyperkit.cli.bars import CountedProgress
    from hyperkit.workflows.prepare import prepare_nvs

    progress = CountedProgress("preparing")
    try:
        report = prepare_nvs(progress=progress, **arguments)  # type: ignore[arg-type]
    finally:
        progress.close()
    for line in _lines(report.as_dict()):
        o.say(line)
    o.emit(report.root, report.as_dict(), as_json)


def _refuse_views(what: str, *values: object) -> None:
    """Refuse what belongs to views of objects."""
    from hyperkit.errors import HyperkitError

    names = ("a name", "--meshes", "--learnit", "--groups", "--objects", "--classes")
    given = [name for name, value in zip(names, values, strict=True) if value is not None]
    if given:
        raise HyperkitError(
            f"prepare {what} does not take {', '.join(given)}.", "Allowed: --data, --out, --librispeech, --skip-bad."
        )


def _signals(
    task: str, as_json: bool, data: Path | None, librispeech: str | None, out: Path | None, skip_bad: bool
) -> None:
    from hyperkit.cli.bars import CountedProgress
    from hyperkit.workflows.prepare import prepare_task_signals

    progress = CountedProgress("preparing")
    try:
        report = prepare_task_signals(task, data, o.split_names(librispeech), out, skip_bad, progress)
    finally:
        progress.close()
    content = report.as_dict()
    o.say(f"{report.root}: {report.kind}, {report.bytes / 1e6:.1f} MB decoded in {report.packed}")
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
    o.emit(report.root, content, as_json)


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
