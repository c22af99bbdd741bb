"""``prepare``: make, check and pack what training needs ahead of time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperkit.config import merge
from hyperkit.data.builtin import BUILTIN, builtin_root, make_procedural
from hyperkit.data.groups import group_of, read_groups, split_with_groups, straddling
from hyperkit.data.learnit import prepare_learnit
from hyperkit.data.librispeech import download_librispeech
from hyperkit.data.pack import open_pack
from hyperkit.data.pairs import frozen_pairs
from hyperkit.data.places import new_folder
from hyperkit.data.prepare_signals import SignalReport, prepare_signals
from hyperkit.data.splits import SPLITS, find_splits_file, read_splits, write_splits
from hyperkit.errors import HyperkitError
from hyperkit.files import cache_dir
from hyperkit.workflows.configure import from_recipe

log = logging.getLogger("hyperkit")
Progress = Callable[[int, int], None]
TEST_FRACTION, VAL_FRACTION = 0.15, 0.05


@dataclass(frozen=True)
class PrepareReport:
    """What was prepared.

    Attributes:
        root: the data set's folder; give it to ``train nvs --data``.
        kind: "procedural", "meshes", "learnit" or "data".
        size: pixels of the packed pictures, and ``packed``: where they lie.
        views: pictures of all objects together.
        counts: split -> class -> objects.
        left_out: (path, reason) of everything that could not be used.
        without_transforms: objects that have no ``transforms.json``.
        pairs: split -> {"sha256", "items", "path"} of the frozen evaluation pairs.
        sha256: hash of the LearnIt archive, where one was given.
        notes: sentences for the user.
    """

    root: str
    kind: str
    size: int
    packed: str
    views: int
    counts: dict[str, dict[str, int]]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    without_transforms: list[str] = field(default_factory=list)
    pairs: dict[str, dict[str, Any]] = field(default_factory=dict)
    sha256: str | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        values = dict(vars(self))
        values["left_out"] = [{"path": path, "reason": reason} for path, reason in self.left_out]
        return values


@dataclass
class _Source:
    root: Path
    kind: str
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sha256: str | None = None
    packed: int | None = None


def prepare_nvs(
    out: Path | None = None,
    *,
    meshes: Path | None = None,
    learnit: Path | None = None,
    data: Path | None = None,
    groups: Path | None = None,
    size: int = 128,
    views: int = 50,
    seed: int = 0,
    objects: tuple[int, int, int] | None = None,
    test_fraction: float = TEST_FRACTION,
    val_fraction: float = VAL_FRACTION,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    resolution: int | None = None,
    up: str = "y",
    progress: Progress | None = None,
) -> PrepareReport:
    """Prepare a data set for novel view synthesis: make or check it, pack its pictures, freeze its evaluation pairs.

    Without ``meshes``, ``learnit`` and ``data``: the procedural set, the built-in one unless ``out`` is given.

    Args:
        out: folder to make. Needed for meshes and archives.
        meshes: folder of meshes, sub-folders are classes; rendered into ``out``.
        learnit: the LearnIt ShapeNet archive, or its folder.
        data: a folder that has the layout already.
        groups: table of (object, group); objects of one group stay in one split.
        size, views, seed: pixels, pictures of each object, and seed, of what is made here.
        objects: procedural objects of each class in (train, val, test).
        test_fraction, val_fraction: parts of the objects, where splits are made here.
        classes: classes of the procedural set.
        skip_bad: leave broken objects out and list them, instead of refusing the data set.
        resolution: pack the pictures at this size; None: as stored (the built-in set: as its recipes read it).
        up: axis of the meshes that points up, "y" or "z".
        progress: called with (done, in all) for each stage of the work.

    Raises:
        HyperkitError: the input is wrong; everything that is broken is listed.
        RunFailed: the disk is full.
    """
    given = [name for name, value in (("--meshes", meshes), ("--learnit", learnit), ("--data", data)) if value]
    if len(given) > 1:
        raise HyperkitError(f"{' and '.join(given)} were given together.", "Give one of --meshes, --learnit, --data.")
    if given and (classes or objects):
        raise HyperkitError("--classes and --objects belong to the procedural set.", f"Drop them, or drop {given[0]}.")
    fractions = _fractions(test_fraction, val_fraction)
    table = read_groups(groups) if groups else None
    if meshes:
        source = _from_meshes(meshes, out, size, views, seed, table, fractions, up, progress)
    elif learnit:
        source = _from_learnit(learnit, out, progress)
    elif data:
        if out is not None:
            raise HyperkitError("--data is checked and packed where it is; --out is not used with it.", "Drop --out.")
        source = _Source(Path(data), "data")
    else:
        source = _procedural(out, size, views, seed, objects, classes, table, progress)
    return _finish(source, table, seed, fractions, skip_bad, resolution or source.packed, progress)


def _fractions(test: float, val: float) -> tuple[float, float, float]:
    if not (0 <= test < 1 and 0 <= val < 1 and test + val < 1):
        raise HyperkitError(
            f"Nothing is left to train on: test fraction {test}, validation fraction {val}.",
            "Both lie between 0 and 1, and so does their sum.",
        )
    return 1.0 - test - val, val, test


def _procedural(
    out: Path | None,
    size: int,
    views: int,
    seed: int,
    objects: tuple[int, int, int] | None,
    classes: Sequence[str] | None,
    groups: Mapping[str, str] | None,
    progress: Progress | None,
) -> _Source:
    if groups:
        raise HyperkitError("--groups has no use for procedural objects.", "Give --meshes or --data with it.")
    default = BUILTIN["quickstart"]
    counts = tuple(objects or default.counts)
    if len(counts) != 3 or min(counts) < 0 or counts[0] < 1:
        raise HyperkitError(f"Objects are counted as train, val, test, found {counts}.", "Example: --objects 100,8,20")
    plain = (counts, size, views, seed) == (default.counts, default.size, default.views, 0) and not classes
    if out is None and plain:
        return _Source(builtin_root("quickstart", progress), "procedural", packed=default.packed)
    if out is None:
        raise HyperkitError("A procedural set other than the built-in one needs a folder.", "Name a new one: --out DIR")
    make_procedural(out, (counts[0], counts[1], counts[2]), size, views, seed, _classes(classes), progress)
    return _Source(Path(out), "procedural")


def _classes(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    from hyperkit.data import procedural
    from hyperkit.errors import unknown_name

    for name in classes or ():
        if name not in procedural.CLASSES:
            raise unknown_name("procedural class", name, procedural.CLASSES)
    return tuple(classes) if classes else None


def _from_learnit(learnit: Path, out: Path | None, progress: Progress | None) -> _Source:
    report = prepare_learnit(learnit, out, progress)
    missing = len(report.missing)
    notes = [f"{missing} objects of the splits files are not in the archive"] if missing else []
    return _Source(Path(report.root), "learnit", notes=notes, sha256=report.sha256)


def _from_meshes(
    meshes: Path,
    out: Path | None,
    size: int,
    views: int,
    seed: int,
    groups: Mapping[str, str] | None,
    fractions: tuple[float, float, float],
    up: str,
    progress: Progress | None,
) -> _Source:
    from hyperkit.data.meshes import render_folder

    if out is None:
        raise HyperkitError("--meshes needs a folder for the pictures.", "Name a new one: --out DIR")
    if not Path(meshes).is_dir():
        raise HyperkitError(f"The folder of meshes {meshes} does not exist.", "Its sub-folders are the classes.")
    with new_folder(Path(out)) as part:
        report = render_folder(
            Path(meshes),
            part / "data",
            size=size,
            views=views,
            seed=seed,
            groups=groups,
            fractions=fractions,
            progress=progress,
            up=up,
        )
        (part / "data").rename(out)
    left_out = [(str(path), reason) for path, reason in report.left_out]
    notes = [f"{len(left_out)} meshes could not be read and were left out"] if left_out else []
    return _Source(Path(out), "meshes", left_out, notes)


def _finish(
    source: _Source,
    groups: Mapping[str, str] | None,
    seed: int,
    fractions: tuple[float, float, float],
    skip_bad: bool,
    resolution: int | None,
    progress: Progress | None,
) -> PrepareReport:
    root = source.root
    pack = open_pack(root, resolution, skip_bad, progress)
    notes = list(source.notes)
    if groups:
        notes += _apply_groups(root, pack.ids, groups, seed, fractions)
    splits = read_splits(root, pack.ids)
    notes += splits.notes
    if groups and (divided := straddling(groups, splits.ids)):
        raise HyperkitError(
            f"{len(divided)} groups are divided among the splits of {root}: {', '.join(divided[:20])}.",
            "Remove its splits files to have new ones made, or correct them or the groups file.",
        )
    views = {name: int(count) for name, count in zip(pack.ids, pack.views, strict=True)}
    pairs: dict[str, dict[str, Any]] = {}
    for split in ("val", "test"):
        if splits.ids[split]:
            frozen = frozen_pairs(root, split, {name: views[name] for name in splits.ids[split]})
            pairs[split] = {"sha256": frozen.sha256, "items": len(frozen.pairs), "path": str(frozen.path)}
    counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        for name in splits.ids[split]:
            part = name.split("/", 1)[0]
            counts[split][part] = counts[split].get(part, 0) + 1
    return PrepareReport(
        root=str(root),
        kind=source.kind,
        size=pack.size,
        packed=str(pack.folder),
        views=int(pack.views.sum()),
        counts=counts,
        left_out=source.left_out + [(problem.path, problem.reason) for problem in pack.left_out],
        without_transforms=list(pack.without_transforms),
        pairs=pairs,
        sha256=source.sha256,
        notes=notes,
    )


def _apply_groups(
    root: Path, ids: Sequence[str], groups: Mapping[str, str], seed: int, fractions: tuple[float, float, float]
) -> list[str]:
    """Write splits by group for classes that have none; return notes about how the table fits the objects."""
    classes = sorted({name.split("/", 1)[0] for name in ids})
    if not any(find_splits_file(root, name) for name in classes):
        for class_name, splits in split_with_groups(ids, seed, fractions, groups).items():
            write_splits(root, class_name, splits)
    notes = []
    alone = [name for name in ids if group_of(groups, name) is None]
    if alone:
        notes.append(f"{len(alone)} objects are in no group and stand alone, such as {alone[0]}")
    known = set(ids) | {name.split("/", 1)[-1] for name in ids}
    absent = [name for name in groups if name not in known]
    if absent:
        notes.append(f"{len(absent)} objects of the groups file are not in the data, such as {absent[0]}")
    return notes


def prepare_task_signals(
    task: str,
    data: Path | None = None,
    librispeech: Sequence[str] | None = None,
    out: Path | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    recipe: str = "quickstart",
    overrides: Mapping[str, Any] | None = None,
) -> SignalReport:
    """Prepare pictures or sounds as a recipe reads them: check and decode a folder, the built-in set, or LibriSpeech.

    Args:
        task: "image" or "audio".
        data: a folder of files; None: the one that the recipe names, or the built-in set.
        librispeech: subsets of LibriSpeech to download into ``out`` first ("train-clean-100"); for audio.
        out: where to.
        skip_bad: leave files out that cannot be used, and list them, instead of refusing the data set.
        progress: called with (done, in all).
        recipe: the recipe that will be trained; its ``data`` section says at which size or rate files are decoded.
        overrides: nested values laid over the recipe, as ``{"data": {"size": 32}}``; the same are given to training.

    Raises:
        HyperkitError: bad arguments or recipe, no network, or files that cannot be used.
        RunFailed: the disk is full.
    """
    if librispeech is not None and (task != "audio" or data is not None):
        raise HyperkitError("--librispeech downloads sounds; it goes with audio, without --data.", "Name --out DIR.")
    if librispeech is not None and out is None:
        raise HyperkitError("--librispeech needs a folder for the download.", "Name one: --out DIR")
    if librispeech is None and out is not None:
        raise HyperkitError("Files are checked and decoded where they are; --out is not used.", "Drop --out.")
    changes = dict(overrides or {})
    others = sorted(set(changes) - {"data"})
    if others or not isinstance(changes.get("data", {}), Mapping):
        raise HyperkitError(
            f"Preparing reads the data section alone; found {', '.join(others) or 'data'}.",
            "Example: --set data.size=32. Give the rest to hyperkit train.",
        )
    config = from_recipe(task, recipe, merge(changes, {"data": {"skip_bad": True}} if skip_bad else {}), "train")[
        1
    ].data
    if librispeech is not None and out is not None:
        data = download_librispeech(librispeech, out, progress)
    return prepare_signals(task, data, config, progress)


def list_cache() -> list[tuple[str, Path, int]]:
    """List what hyperkit keeps in its cache folder: (name, path, bytes), the largest first."""
    cache = cache_dir()
    if not cache.is_dir():
        return []
    entries = [path for path in cache.iterdir() if not path.name.startswith(".")]
    rows = [(path.name, path, _bytes(path)) for path in entries]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _bytes(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(_bytes(child) for child in path.iterdir())
