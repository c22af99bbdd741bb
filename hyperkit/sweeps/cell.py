"""One cell of a sweep: a training command with all its settings, and a name that follows from them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperkit.config import merge

Label = str | int | float | bool | None

BOOKKEEPING = frozenset({"save_every", "save_minutes", "log_every", "keep_checkpoints", "tensorboard"})
"""Fields of the ``training`` section that change no number of a run, and so do not make another cell."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        task: what ``hyperkit train`` is given.
        recipe: likewise.
        overrides: nested values laid over the recipe; the seed and the threads are among them.
        labels: axis -> value, for tables; two cells may differ in their labels alone, and then share one run.
        parameters: the whole configuration that recipe and overrides resolve to, where it is known.
        not_applicable: why this cell makes no sense and is not run; None where it does.
    """

    task: str
    recipe: str
    overrides: Mapping[str, Any]
    labels: Mapping[str, Label] = field(default_factory=dict)
    parameters: Mapping[str, Any] | None = None
    not_applicable: str | None = None

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of what decides the run's numbers.

        That is the resolved configuration where it is known, so that a setting counts alike whether a flag, a recipe
        or a default made it; otherwise recipe and overrides. ``BOOKKEEPING`` is left out.
        """
        if self.parameters is not None:
            content: dict[str, Any] = {"task": self.task, "parameters": _numbers_only(self.parameters)}
        else:
            content = {"task": self.task, "recipe": self.recipe, "overrides": _numbers_only(self.overrides)}
        if self.not_applicable is not None:  # such cells may have the same settings, for want of better ones
            content["labels"] = dict(self.labels)
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def folder_name(self) -> str:
        """Readable and unique: the values of the labels, then the identity."""
        parts = [f"seed{v}" if k == "seed" else str(v) for k, v in self.labels.items() if v is not None]
        slug = re.sub(r"[^A-Za-z0-9.+_]+", "-", "_".join(parts)).strip("-.")[:80]
        return f"{slug}-{self.identity}" if slug else self.identity

    @property
    def threads(self) -> int:
        """CPU threads of the run, 1 where nothing else is set: only one thread gives the same bits everywhere."""
        return int((self.overrides.get("training") or {}).get("threads") or 1)

    def with_seed(self, seed: int) -> Cell:
        """Return the same cell with another seed, which becomes its last label."""
        return Cell(
            self.task,
            self.recipe,
            merge(self.overrides, {"training": {"seed": seed}}),
            {**self.labels, "seed": seed},
            None,
            self.not_applicable,
        )


def _numbers_only(values: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(values)
    if isinstance(training := result.get("training"), Mapping):
        result["training"] = {k: v for k, v in training.items() if k not in BOOKKEEPING}
    return result


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values as ``{"section.field": value}``; an empty mapping stays a value."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flatten(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def train_command(cell: Cell) -> list[str]:
    """Return the command that runs a cell. ``{python}`` and ``{run}`` stand for what each machine puts in."""
    command = ["{python}", "-m", "hyperkit", "train", cell.task, "--recipe", cell.recipe, "--out", "{run}", "--json"]
    overrides = merge(cell.overrides, {"training": {"threads": cell.threads}})
    for name, value in flatten(overrides).items():
        command += ["--set", f"{name}={json.dumps(value)}"]  # JSON is read as YAML there
    return command
