"""Folders of files, one per item: which files there are, which class each belongs to, and which split."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperkit import randomness
from hyperkit.data.layout import Problem
from hyperkit.data.splits import SPLITS
from hyperkit.errors import HyperkitError

SPLIT_FOLDERS = {
    "train": re.compile(r"train(ing)?([-_].*)?", re.IGNORECASE),
    "val": re.compile(r"(val|valid|validation|dev)([-_].*)?", re.IGNORECASE),
    "test": re.compile(r"test(ing)?([-_].*)?", re.IGNORECASE),
}
"""Names of folders that are splits; ``dev-clean`` and ``train-clean-100`` are LibriSpeech's."""

RESERVED = ("all", "class_mean")
"""Names of averages in results, which a class must not have."""


@dataclass(frozen=True)
class Kind:
    """A kind of files that items are read from.

    Attributes:
        name: what users call them ("pictures"); also the class of files that lie in no class folder.
        suffixes: endings of the files' names, in lower case.
        unread: endings of files of the same kind that cannot be read: they are mentioned.
        speaker: given the parts of a path below the split, returns who speaks (files of one speaker stay in one split)
            and the parts that remain to find the class by; None where files stand alone.
    """

    name: str
    suffixes: frozenset[str]
    unread: frozenset[str]
    speaker: Callable[[tuple[str, ...]], tuple[str, tuple[str, ...]] | None] = lambda parts: None


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set.

    Attributes:
        id: its path relative to the root, with "/".
        path: where it lies.
        split: the split that its folder names, or "".
        class_name: the first folder below the split, or the kind's name where there is none.
        group: files of one group are not divided among splits.
    """

    id: str
    path: Path
    split: str
    class_name: str
    group: str


@dataclass(frozen=True)
class Found:
    """The files of a data set.

    Attributes:
        root: the folder that ``id`` is relative to: the one given, or the only folder in it if that holds the splits.
        files: in order of id.
        problems: files whose names cannot be used.
        notes: sentences for the user.
    """

    root: Path
    files: tuple[SourceFile, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def split_named(folder: str) -> str | None:
    """Return the split that a folder's name stands for, or None."""
    return next((split for split, pattern in SPLIT_FOLDERS.items() if pattern.fullmatch(folder)), None)


def find_files(root: Path, kind: Kind) -> Found:
    """Find all files of a kind below a folder, at any depth; hidden files and folders are skipped.

    The folders at the top are splits if their names say so and either all files lie in such folders or two different
    splits are there; a single folder "train" beside others is a class like them. Where splits count, files outside of
    them are not used. A class is the first folder below that.

    Raises:
        HyperkitError: there is no such folder, no such file in it, or a class has a reserved name.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise HyperkitError(f"The data folder {root} {what}.", f"Give a folder of {kind.name} with --data.")
    names, others = _walk(root, kind)
    if not names:
        raise _nothing(root, kind, others)
    root, names = _descend(root, names)
    problems = tuple(Problem(ascii(name), "its name is not valid UTF-8") for name in names if not _encodable(name))
    names = [name for name in names if _encodable(name)]
    splits_count = _splits_count(names)
    files, strays = [], []
    for name in names:
        parts = tuple(name.split("/"))
        split = (split_named(parts[0]) or "") if splits_count and len(parts) > 1 else ""
        if splits_count and not split:
            strays.append(name)
            continue
        files.append(_source_file(root, name, split, parts[1:] if split else parts, kind))
    _check_classes(files)
    notes = []
    if strays:
        notes.append(f"{len(strays)} {kind.name} lie outside the split folders and are not used, such as {strays[0]}")
    unread = Counter({suffix: count for suffix, count in others.items() if suffix in kind.unread})
    if unread:
        notes.append(f"{unread.total()} files of kinds that are not read are left aside ({', '.join(sorted(unread))})")
    return Found(root, tuple(files), problems, tuple(notes))


def _walk(root: Path, kind: Kind) -> tuple[list[str], Counter[str]]:
    """List the kind's files below ``root`` in order, and count the other files by their endings."""
    names: list[str] = []
    others: Counter[str] = Counter()

    def visit(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that it lies in
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    visit(entry.path, f"{prefix}{entry.name}/", (*above, here))
                    continue
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in kind.suffixes:
                    names.append(prefix + entry.name)
                else:
                    others[suffix] += 1

    try:
        visit(str(root), "", ())
    except OSError as error:
        raise HyperkitError(f"The data folder cannot be read: {error}.", "Change its permissions.") from error
    return sorted(names), others


def _nothing(root: Path, kind: Kind, others: Counter[str]) -> HyperkitError:
    there = ", ".join(f"{count} {suffix or '(no ending)'}" for suffix, count in others.most_common(5))
    return HyperkitError(
        f"There are no {kind.name} in {root}; " + (f"it holds other files: {there}." if there else "it is empty."),
        f"Files that are read: {' '.join(sorted(kind.suffixes))}. They may lie in folders of classes, and these in "
        "train, val and test.",
    )


def _descend(root: Path, names: list[str]) -> tuple[Path, list[str]]:
    """Enter folders that hold nothing but one folder, if that leads to the splits."""
    folder, inside = root, names
    while not _splits_count(inside):
        tops = {name.split("/", 1)[0] if "/" in name else "" for name in inside}
        if len(tops) != 1 or "" in tops:
            return root, names
        folder, inside = folder / tops.pop(), [name.split("/", 1)[1] for name in inside]
    return folder, inside


def _splits_count(names: Iterable[str]) -> bool:
    tops = {name.split("/", 1)[0] if "/" in name else "" for name in names}
    named = {top: split_named(top) for top in tops}
    return bool(named) and (None not in named.values() or len(set(named.values()) - {None}) >= 2)


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _source_file(root: Path, name: str, split: str, parts: tuple[str, ...], kind: Kind) -> SourceFile:
    spoken = kind.speaker(parts)
    group, rest = (f"speaker {spoken[0]}", spoken[1]) if spoken else (name, parts)
    return SourceFile(name, root / name, split, rest[0] if len(rest) > 1 else kind.name, group)


def _check_classes(files: Sequence[SourceFile]) -> None:
    for file in files:
        if file.class_name in RESERVED:
            raise HyperkitError(
                f"A class is called {file.class_name!r}, which is the name of an average ({file.path}).",
                "Rename its folder.",
            )


@dataclass(frozen=True)
class Division:
    """Which files train, validate and test.

    Attributes:
        ids: split -> ids in order.
        notes: sentences for the user.
    """

    ids: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def divide(
    files: Sequence[SourceFile], hashes: Mapping[str, str], test_fraction: float, val_fraction: float
) -> Division:
    """Put every file into train, val or test.

    Splits that folders give are kept, except that what is in test is taken out of val and train, and what is in val out
    of train, by content. A split that no folder gives is carved out of train by thresholds: a group goes to test if
    the hash u in [0, 1) of its name is below ``test_fraction``, to val if it is in the ``val_fraction`` after that.
    So it does not matter to a file which others are there, with two exceptions: files of equal content go together
    (the group whose name sorts first decides), and a split that would be empty gets the nearest group.

    Args:
        files: the files that can be used.
        hashes: id -> SHA-256 of the file's bytes.
        test_fraction, val_fraction: parts of the groups; 0: none.
    """
    given: dict[str, list[SourceFile]] = {split: [] for split in SPLITS}
    for file in files:
        given[file.split or "train"].append(file)
    notes = _take_out_copies(given, hashes)
    wanted = {
        split: bounds
        for split, bounds in (
            ("test", (0.0, test_fraction)),
            ("val", (test_fraction, test_fraction + val_fraction)),
        )
        if not given[split] and bounds[1] > bounds[0]
    }
    placed = _carve(_units(given["train"], hashes), wanted)
    ids = {split: [file.id for file in given[split]] for split in SPLITS}
    total = len(ids["train"])
    ids["train"] = placed["train"]
    for split in wanted:
        ids[split] = placed[split]
    if wanted and total:
        parts = " and ".join(f"{len(ids[split])} to {split}" for split in wanted)
        notes.append(f"no folder for {' and '.join(wanted)}: of {total} files {parts}, by a hash of their names")
    digests = Counter(hashes[name] for names in ids.values() for name in names)
    if copies := sum(count - 1 for count in digests.values() if count > 1):
        notes.append(f"{copies} files are copies of others; copies are all in the same split")
    return Division({split: tuple(sorted(names)) for split, names in ids.items()}, tuple(notes))


def _take_out_copies(given: dict[str, list[SourceFile]], hashes: Mapping[str, str]) -> list[str]:
    notes = []
    for source, others in (("val", ("test",)), ("train", ("test", "val"))):
        held = {hashes[file.id] for other in others for file in given[other]}
        copies = [file.id for file in given[source] if hashes[file.id] in held]
        if copies:
            given[source] = [file for file in given[source] if hashes[file.id] not in held]
            notes.append(
                f"{len(copies)} files of {source} are copies of files of {' or '.join(others)} and are not used, "
                f"such as {copies[0]}"
            )
    return notes


def _units(files: Sequence[SourceFile], hashes: Mapping[str, str]) -> dict[str, list[str]]:
    """Join files of one group, and groups that share a content: name of the first group -> ids."""
    leader: dict[str, str] = {}

    def find(word: str) -> str:
        while leader.setdefault(word, word) != word:
            leader[word] = word = leader[leader[word]]
        return word

    for file in files:
        # "group ..." sorts before "sha ...", and the smaller word leads, so a unit is led by a group's name
        one, two = sorted((find(f"group {file.group}"), find(f"sha {hashes[file.id]}")))
        leader[two] = one
    units: dict[str, list[str]] = {}
    for file in files:
        units.setdefault(find(f"group {file.group}"), []).append(file.id)
    return units


def _carve(units: Mapping[str, list[str]], wanted: Mapping[str, tuple[float, float]]) -> dict[str, list[str]]:
    place = {unit: randomness.key("folder split", unit) / 2**63 for unit in units}
    placed: dict[str, list[str]] = {"train": [], **{split: [] for split in wanted}}
    for unit in units:
        split = next((s for s, (low, high) in wanted.items() if low <= place[unit] < high), "train")
        placed[split].append(unit)

    for split, (low, high) in {"train": (1.0, 1.0), **wanted}.items():
        fullest = max(placed, key=lambda other: len(placed[other]))
        if not placed[split] and len(placed[fullest]) > (split != "train"):
            nearest = min(placed[fullest], key=lambda unit: abs(place[unit] - (low + high) / 2))
            placed[fullest].remove(nearest)
            placed[split].append(nearest)
    return {split: [name for unit in held for name in units[unit]] for split, held in placed.items()}


def split_hash(framing: str, names: Iterable[str], hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 over how items are read, their ids and their contents; the same wherever the data lies."""
    digest = hashlib.sha256(f"hyperkit-split-1\n{framing}".encode())
    for name in sorted(names):
        digest.update(f"\n{name} {hashes[name]}".encode())
    return digest.hexdigest()
