"""From a recipe and overrides to the resolved configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperkit.config import PartConfig, choose_variants, load_recipe, merge, validate
from hyperkit.errors import HyperkitError
from hyperkit.tasks import TASKS, Task
from hyperkit.training.config import fill_defaults, run_config_model


def find_task(name: str, verb: str) -> type[Task]:
    """Return the task called ``name``, if it supports ``verb``."""
    task_cls: type[Task] = TASKS.load(name)
    if verb not in task_cls.verbs:
        raise HyperkitError(f"The task {name!r} has no {verb}.", f"It has: {', '.join(sorted(task_cls.verbs))}.")
    return task_cls


def resolve(
    task_cls: type[Task],
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    from_checkpoint: bool = False,
) -> PartConfig:
    """Lay overrides over a recipe, validate all of it, and fill in the settings of the task's paper.

    Args:
        task_cls: the task.
        recipe, overrides: nested plain values.
        from_checkpoint: the weights come from a checkpoint, so that the backbone needs none of its own.

    Raises:
        HyperkitError: a key is unknown or a value is not allowed.
    """
    values = task_cls.complete(merge(choose_variants(recipe, overrides or {}), overrides or {}))
    values.setdefault("task", task_cls.name)
    config: Any = validate(run_config_model(task_cls, values), values)
    task_cls.check(config)
    training = fill_defaults(config.training, **task_cls.training_defaults(config, from_checkpoint))
    resolved: PartConfig = config.model_copy(update={"training": training})
    return resolved


def from_recipe(task: str, recipe: str, overrides: Mapping[str, Any] | None, verb: str) -> tuple[type[Task], Any]:
    """Return a task and the resolved configuration of a recipe with overrides."""
    task_cls = find_task(task, verb)
    return task_cls, resolve(task_cls, load_recipe(recipe, task), overrides)


def from_stored(stored: Mapping[str, Any], overrides: Mapping[str, Any] | None, verb: str) -> tuple[type[Task], Any]:
    """Return a task and configuration from the plain values that a run or a checkpoint holds."""
    task_cls = find_task(str(stored.get("task")), verb)
    return task_cls, resolve(task_cls, stored, overrides, from_checkpoint=True)
