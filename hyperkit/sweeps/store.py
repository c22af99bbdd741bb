"""The folder of a sweep: its list of cells, and one folder for each run.

sweep.json            the cells in order: labels, and which folder holds the run
cells/NAME/           cell.json, state.json, result.json, history.jsonl, stdout.txt, stderr.txt
cells/NAME/run/       the run directory of the training
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperkit.errors import HyperkitError
from hyperkit.files import write_text
from hyperkit.sweeps.cell import Cell, Label, train_command
from hyperkit.sweeps.state import CellFolder, Status

VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A line of the sweep's list.

    Attributes:
        labels: axis -> value.
        folder: of the run; several entries may share one.
        not_applicable: why there is no run; None where there is one.
    """

    labels: Mapping[str, Label]
    folder: CellFolder
    not_applicable: str | None = None

    def status(self) -> Status:
        """Return where its run stands."""
        return "not applicable" if self.not_applicable is not None else self.folder.status()


class SweepDirectory:
    """The folder of a sweep. Use ``create`` or ``open``.

    Args:
        path: the folder.
        content: what ``sweep.json`` holds.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.content = content

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        cells: Sequence[Cell],
        about: Mapping[str, Any] | None = None,
        command: Callable[[Cell], list[str]] = train_command,
    ) -> SweepDirectory:
        """Make the folder of a sweep, or add cells to one that is there; nothing that exists is changed or run again.

        Args:
            path: the folder.
            cells: cells of the same settings share a run.
            about: name of the study, scale, notes, and the like; kept with the list.
            command: gives the words of the command that runs a cell; "{python}" and "{run}" are filled in where it
                runs. Its last line of output is a JSON object, as that of ``hyperkit train --json``.

        Raises:
            HyperkitError: the folder holds something else.
        """
        root = Path(path)
        if root.exists() and not (root / "sweep.json").is_file() and (not root.is_dir() or any(_others(root))):
            raise HyperkitError(
                f"{root} exists and is not the folder of a sweep (there is no sweep.json in it).",
                "Choose a new or an empty folder with --out.",
            )
        before: dict[str, Any] = {"about": {}, "cells": []}
        if (root / "sweep.json").is_file():
            before = _read_list(root)
        places = {line["folder"].rsplit("-", 1)[-1]: line["folder"] for line in before["cells"]}
        lines = list(before["cells"])
        for cell in cells:
            name = places.setdefault(cell.identity, cell.folder_name)
            folder = root / "cells" / name
            if not (folder / "cell.json").is_file():
                write_text(folder / "cell.json", json.dumps(_definition(cell, command), indent=2, default=str) + "\n")
            line = {"labels": dict(cell.labels), "folder": name, "not_applicable": cell.not_applicable}
            if line not in lines:
                lines.append(line)
        content = {"version": VERSION, "about": {**before["about"], **(about or {})}, "cells": lines}
        write_text(root / "sweep.json", json.dumps(content, indent=2, default=str) + "\n")
        return cls(root, _read_list(root))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SweepDirectory:
        """Open the folder of a sweep that is there.

        Raises:
            HyperkitError: it is none, or a newer hyperkit wrote it.
        """
        root = Path(path)
        if not (root / "sweep.json").is_file():
            raise HyperkitError(f"{root} is not the folder of a sweep: there is no sweep.json in it.")
        return cls(root, _read_list(root))

    def entries(self) -> list[Entry]:
        """Return the cells in order."""
        return [
            Entry(line["labels"], CellFolder(self.path / "cells" / line["folder"]), line["not_applicable"])
            for line in self.content["cells"]
        ]

    def folders(self) -> list[CellFolder]:
        """Return the folders of the runs, each once, without the cells that are not applicable."""
        runs = {entry.folder.path: entry.folder for entry in self.entries() if entry.not_applicable is None}
        return list(runs.values())

    def counts(self) -> Counter[Status]:
        """Return how many runs stand where; cells that share a run count once."""
        seen = {entry.folder.path: entry for entry in self.entries()}
        return Counter(entry.status() for entry in seen.values())

    def retry_failed(self) -> int:
        """Let failed cells be run again, and return how many there are."""
        count = 0
        for folder in self.folders():
            if folder.status() == "failed" and (claim := folder.claim()) is not None:
                claim.put_back("to be tried again")
                claim.release()
                count += 1
        return count


def _definition(cell: Cell, command: Callable[[Cell], list[str]]) -> dict[str, Any]:
    return {
        "identity": cell.identity,
        "task": cell.task,
        "recipe": cell.recipe,
        "overrides": dict(cell.overrides),
        "parameters": cell.parameters,
        "threads": cell.threads,
        "command": command(cell),
        "not_applicable": cell.not_applicable,
    }


def _others(root: Path) -> Iterable[Path]:
    # a driver that was killed before it wrote the list leaves folders of cells, which are as good as new
    return (path for path in root.iterdir() if path.name != "cells" and not path.name.startswith(".sweep"))


def _read_list(root: Path) -> dict[str, Any]:
    path = root / "sweep.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise HyperkitError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        found = content.get("version") if isinstance(content, dict) else type(content).__name__
        raise HyperkitError(f"{path} has the format {found}; this hyperkit reads {VERSION}.")
    return content
