"""The folder of a sweep: its list of cells, and one folder for each run.

sweep.json            the cells in order: labels, and which folder holds the run
cells/NAME/           cell.json, state.json, result.json, history.jsonl, stdout.txt, stderr.txt
cells/NAME/run/       the run directory of the training
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperkit.errors import HyperkitError
from hyperkit.files import write_text
from hyperkit.sweeps.cell import BOOKKEEPING, Cell, Label, train_command
from hyperkit.sweeps.state import CellFolder, Status
from hyperkit.training.run_directory import differences

VERSION = 1

_SHOWN = 8
"""Settings that differ, in an error."""


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
            HyperkitError: the folder holds something else, or one of the cells with other settings.
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
            line = {"labels": dict(cell.labels), "folder": name, "not_applicable": cell.not_applicable}
            lines = [other for other in lines if not _replaces(line, other)]
            if line not in lines:
                _refuse_other_settings(root, cell, line, lines)
                lines.append(line)
            folder = root / "cells" / name
            if not (folder / "cell.json").is_file():
                write_text(folder / "cell.json", json.dumps(_definition(cell, command), indent=2, default=str) + "\n")
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

    def adopt(self, other: SweepDirectory) -> int:
        """Take over the finished runs of another sweep whose settings are those of cells that are not done here.

        Files are linked where the disk allows it, else copied: a finished run does not change.

        Returns:
            How many cells that made done.
        """
        done = {_identity(folder): folder for folder in other.folders() if folder.status() == "done"}
        count = 0
        for folder in self.folders():
            source = done.get(_identity(folder))
            if source is None or folder.status() != "pending" or (claim := folder.claim()) is None:
                continue
            shutil.rmtree(folder.run, ignore_errors=True)
            # result.json is what counts, and comes last
            names = ("run", "stdout.txt", "stderr.txt", "history.jsonl", "state.json", "result.json")
            for path in (source.path / name for name in names):
                if path.is_dir():
                    shutil.copytree(path, folder.path / path.name, copy_function=_link)
                elif path.is_file():
                    write_text(folder.path / path.name, path.read_text(encoding="utf-8"))
            claim.release()
            count += 1
        return count

    def retry_failed(self) -> int:
        """Let failed cells be run again, and return how many there are."""
        count = 0
        for folder in self.folders():
            if folder.status() == "failed" and (claim := folder.claim()) is not None:
                claim.put_back("to be tried again")
                claim.release()
                count += 1
        return count


def _identity(folder: CellFolder) -> str:
    return folder.path.name.rsplit("-", 1)[-1]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _replaces(line: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether a cell takes the place of one that was not applicable, or made no sense, before."""
    return bool(line["labels"] == other["labels"] and line != other and other["not_applicable"] is not None)


def _refuse_other_settings(root: Path, cell: Cell, line: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> None:
    """Raise an error where the sweep has a cell of the same name whose settings are others."""
    before = next((other for other in lines if other["labels"] == line["labels"]), None)
    if before is None:
        return
    stored = CellFolder(root / "cells" / before["folder"]).definition()
    known = stored["parameters"] is not None and cell.parameters is not None
    kind, new = ("parameters", cell.parameters) if known else ("overrides", cell.overrides)
    changed = differences(stored[kind], new or {}, BOOKKEEPING)
    listed = "\n".join(f"  {text}" for text in changed[:_SHOWN])
    raise HyperkitError(
        f"The sweep in {root} has the cell {before['folder']} with other settings:\n{listed}",
        "Give the command that it was made with, or choose another folder with --out; --reuse takes over what fits.",
    )


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
