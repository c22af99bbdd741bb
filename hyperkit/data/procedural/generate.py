"""Writing procedural objects to disk in the LearnIt layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hyperkit.data.layout import write_scene
from hyperkit.data.procedural.objects import CLASSES, PARTS, make_labelled_object
from hyperkit.data.raster import CAMERA_ANGLE_X, render_labels, render_mesh, sphere_poses
from hyperkit.data.splits import SINGULAR, SPLITS, write_splits
from hyperkit.data.workers import run_all
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.files import write_text
from hyperkit.randomness import numpy_rng

# Raised whenever the shapes, colours, light or cameras change: objects of another version are made anew.
VERSION = 2


@dataclass(frozen=True)
class Job:
    """All that the pictures of one object depend on, and where they go."""

    folder: str
    class_name: str
    index: int
    seed: int
    size: int
    views: int
    supersample: int
    labels: bool = False
    version: int = VERSION

    def label(self) -> dict[str, int | str]:
        """Return what is noted in the object's ``transforms.json``: everything but the place."""
        label = asdict(self)
        del label["folder"]
        if not self.labels:
            del label["labels"]
        return label


def generate(
    out: Path,
    counts: Mapping[str, tuple[int, int, int]],
    size: int = 128,
    views: int = 50,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    supersample: int = 3,
    labels: bool = False,
) -> None:
    """Make a procedural data set in the LearnIt layout, on transparent background, with its splits.

    Each object is a pure function of (class, seed, index, size, views, supersample): the number of workers and the
    order of work change nothing. An object is written at once or not at all; those that are there from an earlier,
    interrupted call with the same settings are kept, all others are made anew.

    Args:
        out: the root folder.
        counts: class name -> number of objects for (train, val, test); object k of a class is "car_000k".
        size: width and height in pixels.
        views: pictures per object.
        seed: changes shapes, colours and cameras.
        workers: processes; None: one per CPU.
        progress: called with (objects done, objects in all).
        supersample: samples per pixel along each axis.
        labels: also write which part each pixel shows, as an 8-bit PNG beside each picture (``label_path`` of its
            frame; see ``render_labels``), and ``parts.json``, class -> part -> label. Pictures stay the same.

    Raises:
        HyperkitError: an unknown class, a negative or empty count, or a folder in ``out`` that was not made here.
        RunFailed: the disk is full, or a worker died.
    """
    out = Path(out)
    splits = _plan(counts, size, views)
    jobs = [
        Job(str(out / class_name / name), class_name, index, seed, size, views, supersample, labels)
        for class_name, parts in splits.items()
        for index, name in enumerate(name for part in SPLITS for name in parts[part])
    ]
    missing = [job for job in jobs if not _complete(job)]
    done = len(jobs) - len(missing)
    if progress is not None:
        progress(done, len(jobs))
    for _ in run_all(_make, missing, workers):
        done += 1
        if progress is not None:
            progress(done, len(jobs))
    for class_name, parts in splits.items():
        write_splits(out, class_name, parts)
    if labels:
        write_text(out / "parts.json", json.dumps({name: PARTS[name] for name in splits}, indent=1))


def _plan(counts: Mapping[str, tuple[int, int, int]], size: int, views: int) -> dict[str, dict[str, list[str]]]:
    if size < 1 or views < 1:
        raise HyperkitError(f"size is {size} and views {views}.", "Both must be at least 1.")
    splits = {}
    for class_name, parts in counts.items():
        if class_name not in CLASSES:
            raise unknown_name("procedural class", class_name, CLASSES)
        if len(parts) != 3 or min(parts) < 0 or sum(parts) == 0:
            raise HyperkitError(
                f"The counts of {class_name} are {tuple(parts)}.",
                "Give three numbers for train, val and test, not all 0.",
            )
        names = iter(f"{SINGULAR[class_name]}_{index:04d}" for index in range(sum(parts)))
        splits[class_name] = {
            split: [next(names) for _ in range(count)] for split, count in zip(SPLITS, parts, strict=True)
        }
    return splits


def _complete(job: Job) -> bool:
    """Tell whether a job's object is there with the same settings; refuse to touch what was not made here."""
    folder = Path(job.folder)
    if not folder.exists():
        return False
    keys = ("file_path", "label_path") if job.labels else ("file_path",)
    try:
        content = json.loads((folder / "transforms.json").read_text())
        label = content.get("procedural")
        pictures = [folder / frame.get(key, "") for frame in content["frames"] for key in keys]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        label, pictures = None, []
    if label is None:
        raise HyperkitError(
            f"{folder} is there already and was not made by the procedural generator.",
            "Choose another folder with --out, or remove this one.",
        )
    return (
        label == job.label()
        and len(pictures) == job.views * len(keys)
        and all(picture.is_file() for picture in pictures)
    )


def _make(job: Job) -> None:
    mesh, labels = make_labelled_object(job.class_name, job.seed, job.index)
    poses = sphere_poses(numpy_rng(job.seed, "procedural cameras", job.class_name, job.index), job.views)
    # The objects are closed and wound outwards: faces seen from behind are hidden, and need not be drawn.
    pictures = render_mesh(mesh, poses, CAMERA_ANGLE_X, job.size, job.supersample, cull=True)
    maps = (
        render_labels(mesh, labels, poses, CAMERA_ANGLE_X, job.size, job.supersample, cull=True) if job.labels else None
    )
    write_scene(Path(job.folder), pictures, poses, CAMERA_ANGLE_X, {"procedural": job.label()}, maps)
