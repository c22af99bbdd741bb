"""Averages over items and classes, with counts and standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hyperkit.contracts import Scores
from hyperkit.errors import HyperkitError

ALL, CLASS_MEAN = "all", "class_mean"
_NOT_METRICS = frozenset({"n", "n_of", "standard_error"})


def aggregate(
    scores: Sequence[Scores], distribution: Mapping[str, Mapping[str, float | None]] | None = None
) -> dict[str, dict[str, Any]]:
    """Average per-item values over all items, over the items of each class, and over classes.

    Args:
        scores: one or more batches. A metric that any of them reports as unavailable becomes None everywhere. An item
            whose value is None (the metric has no meaning for it) is left out of that metric's averages.
        distribution: metric of a whole set, such as FID -> group ("all" or a class) -> value.

    Returns:
        ``{"all": group, <class>: group, ..., "class_mean": group}``. A group holds means, ``n`` (items) and
        ``standard_error`` (metric -> deviation of the mean over items, None for a single item); where items are left
        out of some metrics also ``n_of`` (metric -> items that it was taken on). ``class_mean`` is the unweighted mean
        over classes, None where a class has no value; its ``n`` counts items, ``classes`` counts classes, and its
        standard error takes the classes as given. It is left out where there are no classes.

    Raises:
        HyperkitError: a class has a name that is reserved for the averages.
    """
    names = list(dict.fromkeys(name for part in scores for name in (*part.values, *part.unavailable)))
    missing = {name for part in scores for name in part.unavailable}
    classes = [label for part in scores for label in _classes_of(part)]
    groups: dict[str, list[int]] = {ALL: list(range(len(classes)))}
    for index, label in enumerate(classes):
        if label is not None:
            groups.setdefault(_checked(label), []).append(index)
    columns = {
        n: [None if v is None else float(v) for part in scores for v in part.values[n]]
        for n in names
        if n not in missing
    }
    result = {label: _group(names, columns, indices) for label, indices in groups.items()}
    for name, by_group in (distribution or {}).items():
        for label, group in result.items():
            group[name] = by_group.get(label)
    if len(result) > 1:
        result[CLASS_MEAN] = _class_mean([g for label, g in result.items() if label != ALL])
    return result


def better_constant(constants: Mapping[str, Mapping[str, float]], counts: Mapping[str, int]) -> dict[str, float]:
    """Return the PSNR of the better constant picture, chosen for each class by itself.

    Args:
        constants: constant ("white", "mean") -> class -> mean PSNR over the same items.
        counts: class -> number of items.

    Returns:
        Class -> PSNR of its better constant; "all" is their mean over items, "class_mean" their mean over classes.
    """
    best = {label: max(values[label] for values in constants.values()) for label in counts}
    total = sum(counts.values())
    result = {ALL: sum(best[c] * counts[c] for c in best) / total if total else math.nan, **best}
    result[CLASS_MEAN] = mean(best.values())
    return result


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean, summed exactly; nan of nothing."""
    listed = list(values)
    if not listed:
        return math.nan
    # fsum refuses inf - inf; the plain sum gives nan there, which is the honest answer
    total = math.fsum(listed) if all(map(math.isfinite, listed)) else sum(listed)
    return total / len(listed)


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))


def _classes_of(part: Scores) -> Sequence[str | None]:
    return part.classes or [None] * len(part.ids)


def _checked(label: str) -> str:
    if label in (ALL, CLASS_MEAN):
        raise HyperkitError(f"A class is called {label!r}, which is the name of an average.", "Rename its folder.")
    return label


def _group(
    names: Sequence[str], columns: Mapping[str, Sequence[float | None]], indices: Sequence[int]
) -> dict[str, Any]:
    group: dict[str, Any] = {}
    errors: dict[str, float | None] = {}
    counts: dict[str, int] = {}
    for name in names:
        all_values = [columns[name][i] for i in indices] if name in columns else []
        picked = [value for value in all_values if value is not None]
        group[name] = mean(picked) if picked else None
        if picked:
            errors[name] = _standard_error(picked)
        if len(picked) < len(all_values):
            counts[name] = len(picked)
    return {**group, "n": len(indices), "standard_error": errors, **({"n_of": counts} if counts else {})}


def _class_mean(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    errors: dict[str, float | None] = {}
    for name in (key for key in groups[0] if key not in _NOT_METRICS):
        values = [group[name] for group in groups]
        result[name] = None if None in values else mean(values)
        parts = [group["standard_error"].get(name) for group in groups]
        if any(name in group["standard_error"] for group in groups):
            errors[name] = None if None in parts else math.sqrt(math.fsum(e**2 for e in parts)) / len(parts)
    result |= {"n": sum(g["n"] for g in groups), "classes": len(groups), "standard_error": errors}
    partial = {name for group in groups for name in group.get("n_of", {})}
    if partial:
        result["n_of"] = {n: sum(g.get("n_of", {}).get(n, g["n"]) for g in groups) for n in result if n in partial}
    return result
