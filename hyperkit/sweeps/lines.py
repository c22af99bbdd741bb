"""The lines of a sweep: what tells them apart, and which one each is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hyperkit.sweeps.cell import Label

FRESH = "random"
"""Value of an axis that says that the encoder was not pretrained."""

_ENCODER = ("strategy", "backbone.strategy", "family", "backbone", "backbone.name")
"""Axes that say which encoder it is; a line is compared with one that differs in them alone."""

Labels = Mapping[str, Label]


def text_of(value: Label) -> str:
    """Return a label as it is printed; nothing for one that a line does not have."""
    return "" if value is None else str(value)


def axes_of(lines: Sequence[Labels]) -> list[str]:
    """Return the axes of all lines, in order."""
    return list(dict.fromkeys(name for line in lines for name in line))


def names_of(lines: Sequence[Labels]) -> list[str]:
    """Return a name for each line: the values of as few axes as tell them apart, the earlier axes first.

    A line without labels has no name.

    >>> names_of([{"backbone": "dino", "strategy": "random"}, {"backbone": "dino", "strategy": "lora"}])
    ['random', 'lora']
    """
    chosen: list[str] = []
    most = len({_values(line, axes_of(lines)) for line in lines})
    for axis in axes_of(lines):
        before = len({_values(line, chosen) for line in lines})
        if before < most and len({_values(line, [*chosen, axis]) for line in lines}) > before:
            chosen.append(axis)
    chosen = chosen or axes_of(lines)  # one line alone is called by all that it is
    return [", ".join(_named(axis, line[axis]) for axis in chosen if line.get(axis) is not None) for line in lines]


def _named(axis: str, value: Label) -> str:
    """A name speaks for itself; a number or a truth value does not."""
    return value if isinstance(value, str) else f"{axis} {value}"


def _values(line: Labels, axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(text_of(line.get(axis)) for axis in axes)


def references(lines: Sequence[Labels]) -> list[int | None]:
    """Return for each line the index of the one that it is compared with, or None.

    That is the line without pretraining that agrees with it on every axis that is not about the encoder (data, size,
    algorithm, ...), and on most of the others; the first of these. Where no line is without pretraining, it is the
    first line of all.
    """
    fresh = [index for index, line in enumerate(lines) if _is_fresh(line)]
    if not fresh:
        return [None if index == 0 else 0 for index in range(len(lines))]
    others = [axis for axis in axes_of(lines) if axis not in _ENCODER]
    found: list[int | None] = []
    for index, line in enumerate(lines):
        same = [k for k in fresh if _values(lines[k], others) == _values(line, others)]
        found.append(None if index in fresh or not same else max(same, key=lambda k: _agreement(lines[k], line)))
    return found


def _is_fresh(line: Labels) -> bool:
    """Whether the strategy says so; of a line without one, whether the encoder is called so."""
    axis = next((axis for axis in _ENCODER if line.get(axis) is not None), None)
    return axis is not None and line[axis] == FRESH


def _agreement(one: Labels, other: Labels) -> int:
    return sum(one.get(axis) is not None and one.get(axis) == other.get(axis) for axis in _ENCODER)
