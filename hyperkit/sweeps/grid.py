"""From axes to cells: every combination of their values, for every seed; those that make no sense say why."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from hyperkit.backbones.catalog import NAMED, find_entry, resolve_strategy
from hyperkit.backbones.config import BackboneConfig
from hyperkit.config import choose_variants, load_recipe, merge, read_value
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.sweeps.cell import Cell, Label

AXES: Mapping[str, str] = {
    "backbone": "backbone.name",
    "strategy": "backbone.strategy",
    "algorithm": "algorithm",
    "data_fraction": "data.train_fraction",
    "views": "data.views",
    "precision": "training.precision",
    "steps": "training.steps",
    "learning_rate": "training.learning_rate",
    "target_kind": "target_kind",
}
"""Name of an axis -> the field that it sets. ``size`` sets the backbone too, and any ``section.field`` is an axis."""

SIZES = ("nano", "tiny", "small", "base", "large")

FAMILIES: Mapping[str, Mapping[str, str]] = {
    "random": {
        "nano": "nano",
        "tiny": "timm:vit_tiny_patch16_224",
        "small": "timm:vit_small_patch16_224",
        "base": "random",
        "large": "timm:vit_large_patch16_224",
    },
    "nano-dino": {"nano": "nano-dino"},
    "nano-mae": {"nano": "nano-mae"},
    "mae": {"base": "mae", "large": "mae-large"},
    "supervised": {
        "tiny": "supervised-tiny",
        "small": "supervised-small",
        "base": "supervised",
        "large": "supervised-large",
    },
    "deit": {"tiny": "deit-tiny", "small": "deit-small", "base": "deit"},
    "dino": {"small": "dino-small", "base": "dino"},
    "dinov2": {"small": "dinov2-small", "base": "dinov2", "large": "dinov2-large"},
    "dinov3": {"small": "dinov3-small", "base": "dinov3"},
    "clip": {"base": "clip", "large": "clip-large"},
    "whisper": {
        "tiny": "whisper-tiny",
        "base": "whisper-base",
        "small": "whisper-small",
        "large": "whisper-large",
    },
}
"""Family -> size -> backbone. "random" is the plain ViT of that size with fresh weights. nano-dino and nano-mae are
families of their own: they share a method with dino and mae, but neither the pictures nor the length of training."""

_OF_WEIGHTS = ("frozen", "lora", "finetune")
"""Strategies that start from pretrained weights."""

Resolver = Callable[[Cell], Mapping[str, Any]]


@dataclass(frozen=True)
class Axis:
    """What varies over a sweep.

    Attributes:
        name: "size", one of ``AXES``, or a field as "section.field".
        values: at least one, no two alike.
    """

    name: str
    values: tuple[Label, ...]

    def __post_init__(self) -> None:
        if self.name != "size" and self.name not in AXES and "." not in self.name:
            fields = "Or any field, as section.field: --axis hypernet.groups=4,8."
            raise unknown_name("axis", self.name, (*AXES, "size"), fields)
        if not self.values:
            raise HyperkitError(f"The axis {self.name} has no values.", f"Example: --axis {self.name}=A,B")
        if len(set(map(str, self.values))) < len(self.values):
            raise HyperkitError(f"The axis {self.name} names a value twice: {', '.join(map(str, self.values))}.")
        if self.name == "size" and (wrong := [v for v in self.values if v not in SIZES]):
            raise unknown_name("size", str(wrong[0]), SIZES)


def parse_axis(text: str) -> Axis:
    """Read "name=value,value"; values are read as YAML, so that 0.1 is a number and true a truth value.

    Raises:
        HyperkitError: it has another form, or the axis is unknown.
    """
    name, equals, values = text.partition("=")
    if not equals or not name.strip():
        raise HyperkitError(f"--axis takes name=value,value, found {text!r}.", "Example: --axis backbone=random,dino")
    return Axis(name.strip(), tuple(_scalar(value.strip()) for value in values.split(",") if value.strip()))


def _scalar(text: str) -> Label:
    try:
        value = read_value(text)
    except yaml.YAMLError as error:
        raise HyperkitError(f"The value {text!r} of an axis cannot be read: {error}") from error
    if isinstance(value, (str, int, float, bool)):
        return value
    raise HyperkitError(f"The value {text!r} of an axis is neither a number nor a name.")


def expand(
    task: str,
    axes: Sequence[Axis],
    *,
    recipe: str = "quickstart",
    overrides: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 1,
    threads: int = 1,
    resolve: Resolver | None = None,
) -> list[Cell]:
    """Return a cell for every combination, the first axis slowest and the seed fastest.

    Args:
        task: "nvs", "image", ...
        axes: what varies; none gives one cell per seed.
        recipe: what is the same for all.
        overrides: likewise; an axis wins over them.
        seeds: their number, from 0; or the seeds themselves.
        threads: CPU threads of each run. They belong to the cell, because sums depend on them in their last bits.
        resolve: gives the whole configuration of a cell.

    Raises:
        HyperkitError: an axis is given twice, a backbone does not exist, or ``resolve`` refuses a cell.
    """
    names = [axis.name for axis in axes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise HyperkitError(f"The axis {', '.join(sorted(twice))} is given twice.", "Give all its values in one.")
    listed = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not listed:
        raise HyperkitError("The sweep has no seeds.", "Give --seeds 1 or more.")
    common = merge({"training": {"threads": threads}}, overrides or {})
    content = _content_of(recipe, task)
    cells = []
    for values in itertools.product(*(axis.values for axis in axes)):
        cell = make_cell(task, recipe, common, dict(zip(names, values, strict=True)), content)
        cells += [resolved(cell.with_seed(seed), resolve) for seed in listed]
    return cells


def _content_of(recipe: str, task: str) -> Mapping[str, Any]:
    try:
        return load_recipe(recipe, task)
    except HyperkitError:  # what resolves the cells says what is wrong with the task or the recipe
        return {}


def make_cell(
    task: str, recipe: str, common: Mapping[str, Any], labels: Mapping[str, Label], content: Mapping[str, Any]
) -> Cell:
    """Return the cell of one combination, without a seed.

    Args:
        task, recipe: of the cell.
        common: overrides that all cells share.
        labels: axis -> value.
        content: of the recipe, whose backbone counts where the overrides have none.

    Raises:
        HyperkitError: a backbone does not exist.
    """
    overrides = dict(common)
    for name, value in labels.items():
        if name != "size":
            overrides = merge(overrides, _nested(AXES.get(name, name), value))
    reason = None
    if "size" in labels:
        overrides, reason = _at_size(overrides, str(labels["size"]))
    backbone = choose_variants(merge(content, overrides), {}).get("backbone")
    reason = reason or why_not_applicable(task, backbone if isinstance(backbone, Mapping) else {})
    return Cell(task, recipe, overrides, dict(labels), not_applicable=reason)


def _at_size(overrides: Mapping[str, Any], size: str) -> tuple[dict[str, Any], str | None]:
    """Return overrides with the backbone of a size, and why there is none or it does not go with the strategy.

    Of the family "random" it never gets pretrained weights, though timm has some for most of these networks.
    """
    asked = overrides.get("backbone") or {}
    family, strategy = str(asked.get("name") or "random"), asked.get("strategy", "auto")
    name, reason = sized(family, size)
    backbone = {} if name is None else {"name": name}
    if family == "random" and strategy == "auto":
        backbone["strategy"] = "random"
    elif family == "random" and strategy in _OF_WEIGHTS:
        reason = _without_weights(family, strategy)
    return merge(overrides, {"backbone": backbone}), reason


def resolved(cell: Cell, resolve: Resolver | None) -> Cell:
    """Return a cell with its whole configuration; one that is not applicable has none."""
    if resolve is None or cell.not_applicable is not None:
        return cell
    return replace(cell, parameters=dict(resolve(cell)))


def sized(family: str, size: str) -> tuple[str | None, str | None]:
    """Return the backbone of a family at a size and None, or None and why there is none.

    Raises:
        HyperkitError: no such family.
    """
    if family not in FAMILIES:
        raise unknown_name("family of backbones", family, FAMILIES, "The axis size goes with these.")
    table = FAMILIES[family]
    if size in table:
        return table[size], None
    return None, f"{family} has no {size} size; it has {', '.join(s for s in SIZES if s in table)}"


def why_not_applicable(task: str, backbone: Mapping[str, Any]) -> str | None:
    """Return why a task and a backbone's settings do not go together, or None where they do.

    Only the settings that a grid combines are looked at; a misspelt name is an error, not a cell that makes no sense.

    Raises:
        HyperkitError: no such backbone.
    """
    name = backbone.get("name")
    if name is None:
        return None
    entry = NAMED.get(name) or find_entry(name)
    if (task == "audio") != (entry.modality == "sound"):
        return f"{name} reads {entry.modality}s, the task {task} does not"
    known = {key: backbone[key] for key in ("name", "strategy", "weights") if key in backbone}
    if known.get("strategy", "auto") not in _OF_WEIGHTS:
        return None
    try:
        resolve_strategy(BackboneConfig(**known), entry)
    except HyperkitError:
        return _without_weights(name, known["strategy"])
    return None


def _without_weights(name: str, strategy: str) -> str:
    return f"{name} has no pretrained weights for the strategy {strategy}"


def _nested(dotted: str, value: Label) -> dict[str, Any]:
    nested: Any = value
    for part in reversed(dotted.split(".")):
        nested = {part: nested}
    result: dict[str, Any] = nested
    return result
