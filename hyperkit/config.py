"""Typed configuration: each part owns a model; recipes are YAML files that may extend one another."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hyperkit.errors import HyperkitError, unknown_name

RECIPES = Path(__file__).parent / "recipes"


class PartConfig(BaseModel):
    """Base of every part's configuration: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=BaseModel)


def recipe_names(task: str) -> list[str]:
    """List the recipes of a task: ``RECIPES/<task>/NAME.yaml`` as NAME, and ``RECIPES/paper/<task>-*.yaml``."""
    own = [path.stem for path in (RECIPES / task).glob("*.yaml")]
    paper = [f"paper/{path.stem}" for path in (RECIPES / "paper").glob(f"{task}-*.yaml")]
    return sorted(own) + sorted(paper)


def recipe_path(name: str, task: str) -> Path:
    """Find a recipe: the name of a built-in one, or the path of a YAML file.

    Raises:
        HyperkitError: neither exists, or it is another task's, or a base that only other recipes extend; the built-in
            names are listed.
    """
    path = _find_recipe(name, task)
    if name.endswith((".yaml", ".yml")) or name.removeprefix(f"{task}/") in recipe_names(task):
        return path
    if path.stem.startswith("_"):
        raise unknown_name(f"{task} recipe", name, recipe_names(task), f"{name} is a base that recipes extend.")
    owner = next((other for other in _recipe_tasks() if name in (f"{other}/{path.stem}", *recipe_names(other))), None)
    hint = f"{name} belongs to the task {owner}." if owner else "Or the path of a .yaml file."
    raise unknown_name(f"{task} recipe", name, recipe_names(task), hint)


def _recipe_tasks() -> list[str]:
    return sorted(path.name for path in RECIPES.iterdir() if path.is_dir() and path.name != "paper")


def _find_recipe(name: str, task: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise HyperkitError(f"The recipe file {name} does not exist.", f"Built-in: {', '.join(recipe_names(task))}.")
    for candidate in (RECIPES / task / f"{name}.yaml", RECIPES / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    raise unknown_name(f"{task} recipe", name, recipe_names(task), "Or the path of a .yaml file.")


def load_recipe(name: str, task: str) -> dict[str, Any]:
    """Read a recipe, with what it ``extends`` merged underneath.

    Raises:
        HyperkitError: the file is missing, is not a YAML mapping, or extends itself.
    """
    return _load(recipe_path(name, task), task, ())


def _load(path: Path, task: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise HyperkitError(f"The recipe {path} extends itself, through {' -> '.join(p.name for p in seen)}.")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HyperkitError(f"The recipe {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise HyperkitError(f"The recipe {path} must be a mapping of sections, but holds {type(content).__name__}.")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    beside = path.parent / f"{parent}.yaml"
    base = beside if beside.is_file() else _find_recipe(parent, task)
    return merge(_load(base, task, (*seen, path)), content)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on top; mappings are merged key by key, anything else is replaced."""
    result = copy.deepcopy(dict(base))
    for name, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            result[name] = merge(result[name], value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def choose_variants(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with the parts laid under it that belong to the choices made in it or in ``overrides``.

    ``variants: {algorithm: {ipc: {hypernet: {rank: 32}}}}`` adds its innermost mapping where ``algorithm`` is ``ipc``,
    so that one recipe serves choices whose settings differ. What the recipe sets itself, outside ``variants``, wins.

    Raises:
        HyperkitError: ``variants`` is not two levels of names above sections.
    """
    result = dict(recipe)
    variants = result.pop("variants", None) or {}
    tables = variants.values() if isinstance(variants, Mapping) else [None]
    if not all(isinstance(table, Mapping) and all(isinstance(v, Mapping) for v in table.values()) for table in tables):
        raise HyperkitError("A recipe's variants must be a mapping: key -> value -> sections.")
    chosen = merge(result, overrides)
    under: dict[str, Any] = {}
    for key, table in variants.items():
        under = merge(under, table.get(chosen.get(key), {}))
    return merge(under, result)


def parse_sets(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``["training.steps=10"]`` into ``{"training": {"steps": 10}}``; values are read as YAML.

    Raises:
        HyperkitError: an assignment lacks its ``=`` or its value is not YAML.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted.strip():
            raise HyperkitError(
                f"--set takes section.field=value, found {assignment!r}.", "Example: --set training.batch_size=16"
            )
        try:
            value = read_value(text)
        except yaml.YAMLError as error:
            raise HyperkitError(f"The value of --set {assignment!r} cannot be read: {error}") from error
        nested: Any = value
        for part in reversed(dotted.strip().split(".")):
            nested = {part: nested}
        result = merge(result, nested)
    return result


def read_value(text: str) -> Any:
    """Read a value as YAML; 1e-4, a string by YAML 1.1, is a number too. What stands in quotes stays a string.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    value = yaml.safe_load(text)
    if not isinstance(value, str) or text.lstrip().startswith(("'", '"')):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def validate(model: type[C], values: Mapping[str, Any]) -> C:
    """Build ``model`` from plain values; every problem is listed, and a misspelt key names the nearest valid one.

    Raises:
        HyperkitError: a key is unknown or a value is not allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [_problem(model, dict(item)) for item in error.errors()]
        raise HyperkitError(
            "The configuration is not valid:\n" + "\n".join(f"  {line}" for line in lines),
            "Set a value with --set section.field=value, or in the recipe's YAML file.",
        ) from error


def _problem(model: type[BaseModel], item: dict[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    dotted = ".".join(path)
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
        guess = f" did you mean {near[0]!r}?" if near else ""
        place = f"{'.'.join(path[:-1])}: " if path[:-1] else ""
        return f"{place}unknown key {path[-1]!r};{guess} allowed: {', '.join(known)}"
    return f"{dotted}: {item['msg']} (found {item['input']!r})"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    current: type[BaseModel] | None = model
    for part in path:
        field = current.model_fields.get(part) if current else None
        current = _model_in(field.annotation) if field else None
    return sorted(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for option in typing.get_args(annotation):
            if (found := _model_in(option)) is not None:
                return found
    return None


def to_yaml(config: BaseModel) -> str:
    """Return the resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
