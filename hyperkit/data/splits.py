"""Which objects of a class train, validate and test: made by a hash of their names, written and read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hyperkit import randomness
from hyperkit.errors import HyperkitError
from hyperkit.files import write_text

SPLITS = ("train", "val", "test")
SINGULAR = {"cars": "car", "chairs": "chair", "lamps": "lamp"}


def splits_path(root: Path, class_name: str) -> Path:
    """Return where a class's splits are written: ``car_splits.json`` for cars, ``<class>_splits.json`` for others."""
    return Path(root) / f"{SINGULAR.get(class_name, class_name)}_splits.json"


def write_splits(root: Path, class_name: str, splits: Mapping[str, Sequence[str]]) -> None:
    """Write a class's splits: ``train``, ``val`` and ``test``, each a list of object folder names."""
    unknown = set(splits) - set(SPLITS)
    if unknown:
        raise ValueError(f"splits are {SPLITS}, got {sorted(unknown)}")
    content = {name: list(splits.get(name, ())) for name in SPLITS}
    write_text(splits_path(root, class_name), json.dumps(content, indent=1))


def make_splits(
    ids: Sequence[str],
    seed: int,
    fractions: tuple[float, float, float] = (0.8, 0.05, 0.15),
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Divide objects into ``train``, ``val`` and ``test`` by a hash of their names; a group is never divided.

    Groups (an object without one is a group by itself) are lined up by hash; the test set takes the first part of the
    line, then val, then train; a group goes where its middle falls. Every set with a positive fraction gets at least
    one group while there are enough groups for all of them.

    Args:
        ids: object names; the order does not matter.
        seed: seed of the hash.
        fractions: (train, val, test), parts of the number of objects; they are normalised to sum 1.
        groups: object name -> group name.
    """
    total = float(sum(fractions))
    if len(fractions) != 3 or min(fractions) < 0 or total <= 0:
        raise HyperkitError(f"The fractions of train, val and test must be positive, found {tuple(fractions)}.")
    units: dict[str, list[str]] = {}
    for name in sorted(set(ids)):
        group = (groups or {}).get(name)
        units.setdefault(f"object {name}" if group is None else f"group {group}", []).append(name)
    order = sorted(units, key=lambda unit: randomness.key("split", seed, unit))
    count, position = len(set(ids)), 0
    test_end, val_end = fractions[2] / total, (fractions[2] + fractions[1]) / total
    placed: dict[str, list[str]] = {name: [] for name in SPLITS}
    for unit in order:
        middle = (position + 0.5 * len(units[unit])) / count
        placed["test" if middle < test_end else "val" if middle < val_end else "train"].append(unit)
        position += len(units[unit])
    wanted = [name for name, part in zip(SPLITS, fractions, strict=True) if part > 0]
    if len(order) >= len(wanted):
        _fill_empty(placed, wanted)
    return {name: sorted(member for unit in placed[name] for member in units[unit]) for name in SPLITS}


def _fill_empty(placed: dict[str, list[str]], wanted: Sequence[str]) -> None:
    for name in wanted:
        if not placed[name]:
            richest = max(SPLITS, key=lambda other: len(placed[other]))
            placed[name].append(placed[richest].pop())


@dataclass(frozen=True)
class Splits:
    """Which objects belong to train, val and test.

    Attributes:
        ids: split -> ids in order.
        missing: ids that a splits file lists and that are not there.
        unlisted: ids that are there and in no split.
        notes: sentences for the user: splits that were made, counts of the above.
    """

    ids: dict[str, tuple[str, ...]]
    missing: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def find_splits_file(root: Path, class_name: str) -> Path | None:
    """Return a class's splits file, under its published name or ``<class>_splits.json``, or None."""
    for path in (splits_path(root, class_name), Path(root) / f"{class_name}_splits.json"):
        if path.is_file():
            return path
    return None


def read_splits(root: Path, ids: Iterable[str], validation: bool = True) -> Splits:
    """Read the splits of every class; a class without a splits file is divided by a hash of the objects' names.

    When no class has validation objects, a few are taken out of train (never out of test).

    Args:
        root: the data set's root.
        ids: the objects that are there, as "<class>/<object>".
        validation: False: take none out of train for validation.

    Raises:
        HyperkitError: a splits file cannot be read, or an object is in two splits.
    """
    by_class: dict[str, list[str]] = {}
    for name in ids:
        by_class.setdefault(name.split("/", 1)[0], []).append(name)
    placed: dict[str, list[str]] = {name: [] for name in SPLITS}
    missing: list[str] = []
    made: list[str] = []
    for class_name, present in sorted(by_class.items()):
        path = find_splits_file(root, class_name)
        if path is None:
            made.append(class_name)
            part = make_splits(present, seed=0)
        else:
            part, absent = _read_splits_file(path, class_name, present)
            missing += absent
        for name in SPLITS:
            placed[name] += part[name]
    notes = []
    if made:
        notes.append(f"no splits file for {', '.join(made)}: divided by a hash of the objects' names")
    if missing:
        notes.append(f"{len(missing)} objects are listed in splits files but not there: {_some(missing)}")
    listed = set().union(*map(set, placed.values()))
    unlisted = sorted(name for names in by_class.values() for name in names if name not in listed)
    if unlisted:
        notes.append(f"{len(unlisted)} objects are in no split and not used: {_some(unlisted)}")
    if validation and not placed["val"] and (taken := _carve(placed["train"])):
        placed["val"] = taken
        placed["train"] = [name for name in placed["train"] if name not in set(taken)]
        notes.append(f"no validation objects: {len(taken)} were taken out of train for it")
    return Splits({k: tuple(sorted(v)) for k, v in placed.items()}, tuple(missing), tuple(unlisted), tuple(notes))


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _carve(train: Sequence[str]) -> list[str]:
    by_class: dict[str, list[str]] = {}
    for name in train:
        by_class.setdefault(name.split("/", 1)[0], []).append(name)
    taken = []
    for names in by_class.values():
        order = sorted(names, key=lambda name: randomness.key("val", name))
        taken += order[: min(16, max(1, len(order) // 20))] if len(order) > 1 else []
    return sorted(taken)


def _read_splits_file(path: Path, class_name: str, present: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    shape = 'Expected: {"train": [...], "val": [...], "test": [...]}, lists of object folders.'
    try:
        content = json.loads(path.read_text())
        lists = {name: [str(entry) for entry in content.get(name, [])] for name in SPLITS}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise HyperkitError(f"The splits file {path} cannot be read: {error}", shape) from error
    there = set(present)
    seen: dict[str, str] = {}
    result: dict[str, list[str]] = {name: [] for name in SPLITS}
    missing: list[str] = []
    twice: list[str] = []
    for name, entries in lists.items():
        for entry in entries:
            parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".")]
            full = f"{class_name}/{parts[-1] if parts else entry}"
            if full not in there and len(parts) > 1 and f"{class_name}/{'-'.join(parts[-2:])}" in there:
                full = f"{class_name}/{'-'.join(parts[-2:])}"
            if full in seen:
                if seen[full] != name:
                    twice.append(f"{full} ({seen[full]} and {name})")
                continue
            seen[full] = name
            (result[name] if full in there else missing).append(full)
    if twice:
        raise HyperkitError(f"{path} puts {len(twice)} objects into two splits: {_some(twice, 20)}", shape)
    return result, missing
