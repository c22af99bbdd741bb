"""Objects that belong together (variants of one shape): read from a file, kept in one split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hyperkit.data.splits import SPLITS, make_splits
from hyperkit.errors import HyperkitError

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".fbx", ".stl")


def read_groups(path: Path) -> dict[str, str]:
    """Read a table of (object, group): comma, tab or blank between the two, with or without a header line.

    Objects may be written with their class ("cars/0001") or without, and as the mesh's file name. Empty lines and lines
    that start with ``#`` are ignored.

    Returns:
        Object as written, without a mesh file's suffix -> group.

    Raises:
        HyperkitError: the file is missing, or has lines that are not (object, group); all are listed.
    """
    hint = "Each line holds an object and its group, such as: cars/0001,sedan"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise HyperkitError(f"The groups file {path} cannot be read: {error}", hint) from error
    groups: dict[str, str] = {}
    bad = []
    first = True
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = _fields(line)
        header, first = first and len(fields) >= 2 and fields[1].lower() in ("group", "groups", "shape"), False
        if header:
            continue
        if len(fields) != 2 or not all(fields):
            bad.append(f"  line {number}: {line.strip()!r} has {len(fields)} fields, expected 2")
            continue
        name = _plain(fields[0])
        if groups.setdefault(name, fields[1]) != fields[1]:
            bad.append(f"  line {number}: {name} is in {groups[name]!r} already, found {fields[1]!r}")
    if bad or not groups:
        what = "\n".join(bad[:20]) or "  it is empty"
        raise HyperkitError(f"The groups file {path} has {max(len(bad), 1)} bad lines:\n{what}", hint)
    return groups


def _fields(line: str) -> list[str]:
    for separator in (",", "\t", ";"):
        if separator in line:
            row = next(csv.reader(io.StringIO(line), delimiter=separator, skipinitialspace=True))
            return [field.strip() for field in row]
    return line.split()


def _plain(name: str) -> str:
    name = name.replace("\\", "/").removeprefix("./").strip("/")
    for suffix in MESH_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def group_of(groups: Mapping[str, str], object_id: str) -> str | None:
    """Return the group of "<class>/<object>", looked up with and without its class; None if it has none."""
    return groups.get(object_id, groups.get(object_id.split("/", 1)[-1]))


def split_with_groups(
    ids: Sequence[str], seed: int, fractions: tuple[float, float, float], groups: Mapping[str, str]
) -> dict[str, dict[str, list[str]]]:
    """Divide the objects of all classes so that no group is divided, even one that spans classes.

    Classes are divided one by one, except those that share a group, which are divided together.

    Args:
        ids: "<class>/<object>".
        seed, fractions: as for ``make_splits``.
        groups: as from ``read_groups``.

    Returns:
        Class -> split -> object names without the class.
    """
    own = {name: group for name in ids if (group := group_of(groups, name)) is not None}
    parts: list[set[str]] = []  # classes that are divided together
    links = [{name.split("/", 1)[0]} for name in ids]
    spread: dict[str, set[str]] = {}
    for name, group in own.items():
        spread.setdefault(group, set()).add(name.split("/", 1)[0])
    for link in links + list(spread.values()):
        touching = [part for part in parts if part & link]
        parts = [part for part in parts if not part & link] + [link.union(*touching)]
    result: dict[str, dict[str, list[str]]] = {}
    for part in parts:
        splits = make_splits([name for name in ids if name.split("/", 1)[0] in part], seed, fractions, own)
        for split in SPLITS:
            for name in splits[split]:
                class_name, _, tail = name.partition("/")
                result.setdefault(class_name, {key: [] for key in SPLITS})[split].append(tail)
    return result


def straddling(groups: Mapping[str, str], splits: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the groups that have objects in more than one split."""
    where: dict[str, set[str]] = {}
    for split, names in splits.items():
        for name in names:
            if (group := group_of(groups, name)) is not None:
                where.setdefault(group, set()).add(split)
    return sorted(group for group, found in where.items() if len(found) > 1)
