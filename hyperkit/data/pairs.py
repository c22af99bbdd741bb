"""Frozen evaluation pairs: which view of an object is given and which is asked for, in a file with a hash."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperkit import randomness
from hyperkit.data.places import folder_lock, side_folder
from hyperkit.errors import HyperkitError
from hyperkit.files import write_text

log = logging.getLogger("hyperkit")
FORMAT = 1
PER_OBJECT = 2


@dataclass(frozen=True)
class Pair:
    """One evaluation item: the context views of an object and the target view to compare with.

    Attributes:
        object: whose target view it is.
        context: the first context view, which is frozen.
        target: the target view, which is frozen.
        source: the object whose views are the context; another than ``object`` only where contexts are shuffled.
        further: more context views.
    """

    object: str
    context: int
    target: int
    source: str
    further: tuple[int, ...] = ()

    @property
    def contexts(self) -> tuple[int, ...]:
        """All context views."""
        return (self.context, *self.further)


@dataclass(frozen=True)
class PairSet:
    """The frozen pairs of a split.

    Attributes:
        pairs: those whose object is there.
        sha256: hash of the file's canonical content, all pairs included.
        path: the file.
        absent: objects in the file that are not in the data.
        unpaired: objects of the split that the file does not hold.
    """

    pairs: tuple[Pair, ...]
    sha256: str
    path: Path
    absent: tuple[str, ...]
    unpaired: tuple[str, ...]


def frozen_pairs(root: Path, split: str, views: Mapping[str, int], per_object: int = PER_OBJECT) -> PairSet:
    """Read the pairs of a split, or draw and write them if there are none yet.

    The file is ``<root>/.hyperkit/pairs-<split>.json``, or in the cache folder where the data cannot be written to.

    Args:
        root: the data set's folder.
        split: name of the split.
        views: object id -> number of its views.
        per_object: pairs drawn for each object; only used when the file is made.

    Raises:
        HyperkitError: the file was changed or is damaged, or asks for views that are not there.
    """
    name = f"pairs-{split}.json"
    path = Path(root) / ".hyperkit" / name
    if not path.is_file():
        path = side_folder(root) / name
    if not path.is_file():
        with folder_lock(path.parent):
            if not path.is_file():
                _write(path, split, draw_pairs(split, views, per_object), per_object)
    pairs, digest = _read(path)
    there = tuple(pair for pair in pairs if pair.object in views)
    for pair in there:
        if max(pair.context, pair.target) >= views[pair.object]:
            raise HyperkitError(
                f"{path} asks for views {pair.context} and {pair.target} of {pair.object}, "
                f"which has {views[pair.object]}.",
                "The data has changed since the pairs were frozen: restore it, or delete the file to freeze new pairs.",
            )
    paired = {pair.object for pair in pairs}
    absent = tuple(sorted(paired - set(views)))
    unpaired = tuple(sorted(set(views) - paired))
    if absent:
        log.warning("%d objects of %s are not in the data and not evaluated: %s", len(absent), path, absent[0])
    if unpaired:
        log.warning("%d objects have no pairs in %s and are not evaluated: %s", len(unpaired), path, unpaired[0])
    return PairSet(there, digest, path, absent, unpaired)


def draw_pairs(split: str, views: Mapping[str, int], per_object: int = PER_OBJECT) -> list[Pair]:
    """Draw pairs for every object: contexts from the first half of its views, targets from the second.

    What is drawn for an object depends on the split's name and the object's id, and on no other object. An object's
    pairs differ in context and in target as long as it has enough views.

    Raises:
        HyperkitError: objects have one view only.
    """
    if few := {name: count for name, count in views.items() if count < 2}:
        raise HyperkitError(
            f"{_named(few)} fewer than 2 views, and a pair needs a context and a target:\n{_listed(few)}",
            f"Leave them out of the {split} split.",
        )
    pairs = []
    for name in sorted(views):
        half = views[name] // 2
        rng = randomness.numpy_rng("pairs", split, name)
        contexts, targets = rng.permutation(half), half + rng.permutation(views[name] - half)
        for index in range(per_object):
            context, target = contexts[index % len(contexts)], targets[index % len(targets)]
            pairs.append(Pair(name, int(context), int(target), name))
    return pairs


def add_contexts(pairs: Sequence[Pair], split: str, views: Mapping[str, int], count: int) -> list[Pair]:
    """Give every pair ``count`` context views: the frozen one, then others from the first half of the object's views.

    The further views are a pure function of the split, the object, the pair's place among the object's pairs and the
    object's number of views. They need no file and no hash of their own: with the same data and the same frozen pairs
    they are the same everywhere. They are distinct, never the target, and those for a smaller ``count`` are the first
    of those for a larger one.

    Args:
        pairs: frozen pairs, with all that the file holds for each of their objects, in its order.
        split: name of the split.
        views: object id -> number of its views.
        count: context views of a pair, at least 1.

    Raises:
        HyperkitError: objects have too few views; all are named.
    """
    if count < 1:
        raise HyperkitError(f"A model needs at least one context view, found {count}.")
    result = []
    few: dict[str, int] = {}
    place: Counter[str] = Counter()
    for pair in pairs:
        name = pair.object
        order = randomness.numpy_rng("further contexts", split, name, place[name]).permutation(views[name] // 2)
        place[name] += 1
        others = [int(view) for view in order if view not in (pair.context, pair.target)]
        if len(others) < count - 1:
            few[name] = len(others) + 1
        result.append(replace(pair, further=tuple(others[: count - 1])))
    if few:
        raise too_few_views(few, f"evaluation ({split}) takes them from the first half of an object's views", count)
    return result


def too_few_views(few: Mapping[str, int], source: str, wanted: int) -> HyperkitError:
    """Build the error for objects that have fewer than ``wanted`` context views; it names them.

    Args:
        few: object id -> number of views that could be contexts.
        source: the sentence that says where contexts come from.
    """
    return HyperkitError(
        f"{_named(few)} too few views for {wanted} context views; {source}, which holds:\n{_listed(few)}",
        f"Use at most {max(min(few.values()), 1)} (--views).",
    )


def _named(objects: Mapping[str, int]) -> str:
    return "1 object has" if len(objects) == 1 else f"{len(objects)} objects have"


def _listed(objects: Mapping[str, int]) -> str:
    lines = [f"  {name}: {count}" for name, count in list(objects.items())[:20]]
    return "\n".join(lines + [f"  ... and {len(objects) - 20} more"] * (len(objects) > 20))


def shuffle_contexts(pairs: Sequence[Pair], within_class: bool) -> list[Pair]:
    """Give every object all context views of another object, by a fixed derangement: none keeps its own.

    Args:
        pairs: the pairs of a split.
        within_class: exchange contexts among objects of the same class only.

    Raises:
        HyperkitError: an object has no other to exchange with.
    """
    own: dict[str, list[Pair]] = {}
    for pair in pairs:
        own.setdefault(pair.object, []).append(pair)
    rings: dict[str, list[str]] = {}
    for name in own:
        rings.setdefault(name.split("/", 1)[0] if within_class else "all", []).append(name)
    donor: dict[str, str] = {}
    for ring, names in rings.items():
        if len(names) < 2:
            raise HyperkitError(
                f"Contexts cannot be shuffled in {ring!r}: it holds only {len(names)} object.",
                "Shuffle over all classes, or evaluate more objects.",
            )
        # One cycle through a random order moves every object.
        names.sort(key=lambda name: randomness.key("shuffle", name))
        donor.update(zip(names, names[1:] + names[:1], strict=True))
    shuffled = []
    for name, items in own.items():
        others = own[donor[name]]
        for index, pair in enumerate(items):
            given = others[index % len(others)]
            shuffled.append(replace(given, object=name, target=pair.target))
    return shuffled


def _canonical(content: Mapping[str, Any]) -> str:
    body = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _write(path: Path, split: str, pairs: Sequence[Pair], per_object: int) -> None:
    content: dict[str, Any] = {
        "format": FORMAT,
        "split": split,
        "per_object": per_object,
        "pairs": [[pair.object, pair.context, pair.target] for pair in pairs],
    }
    lines = ",\n  ".join(json.dumps(entry) for entry in content["pairs"])
    head = json.dumps({k: v for k, v in content.items() if k != "pairs"} | {"sha256": _canonical(content)})
    write_text(path, f'{head[:-1]}, "pairs": [\n  {lines}\n]}}\n')


def _read(path: Path) -> tuple[list[Pair], str]:
    hint = "Restore it from a copy, or delete it to freeze new pairs; figures then no longer compare with earlier ones."
    try:
        content = json.loads(path.read_text())
        digest = content["sha256"]
        pairs = [Pair(str(name), int(context), int(target), str(name)) for name, context, target in content["pairs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HyperkitError(f"The evaluation pairs {path} are damaged: {error}", hint) from error
    if _canonical(content) != digest or content.get("format") != FORMAT:
        raise HyperkitError(f"The evaluation pairs {path} have been changed: their hash does not match.", hint)
    if any(min(pair.context, pair.target) < 0 for pair in pairs):
        raise HyperkitError(f"The evaluation pairs {path} hold negative views.", hint)
    return pairs, digest
