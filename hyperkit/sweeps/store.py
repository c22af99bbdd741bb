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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperkit.errors import HyperkitError
from hyperkit.files import write_text
from hyperkit.sweeps.cell import BOOKKEEPING, Cell, Label, train_command
from hyperkit.sweeps.state import CellFolder, Status
from hyperkit.training.run_directory import differences

VERSION = 1

_LINKED = ("checkpoints", "media")
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
        asked: names of the runs' folders that engines are to run; None for all.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], asked: Collection[str] | None = None) -> None:
        self.path = path
        self.content = content
        self.asked = asked

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

        Returns:
            The sweep, whose engines run these cells alone.

        Raises:
            HyperkitError: the folder holds something else, another study, or one of the cells with other settings.
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
        _refuse_another_study(root, before["about"], about or {})
        places = {CellFolder(line["folder"]).identity: line["folder"] for line in before["cells"]}
        lines = list(before["cells"])
        asked = []
        for cell in cells:
            name = places.setdefault(cell.identity, cell.folder_name)
            asked.append(name)
            line = {"labels": dict(cell.labels), "folder": name, "not_applicable": cell.not_applicable}
            lines = [other for other in lines if not _gives_way(root, other, line)]
            if line not in lines:
                _refuse_other_settings(root, cell, lines)
                lines.append(line)
            folder = root / "cells" / name
            if not (folder / "cell.json").is_file():
                write_text(folder / "cell.json", json.dumps(_definition(cell, command), indent=2, default=str) + "\n")
        content = {"version": VERSION, "about": {**before["about"], **(about or {})}, "cells": lines}
        write_text(root / "sweep.json", json.dumps(content, indent=2, default=str) + "\n")
        return cls(root, _read_list(root), asked)

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

    def to_run(self) -> list[CellFolder]:
        """Return the folders of the runs that engines look after: those that ``create`` was asked for."""
        return [folder for folder in self.folders() if self.asked is None or folder.path.name in self.asked]

    def adopt(self, other: SweepDirectory) -> int:
        """Take over the finished runs of another sweep whose settings are those of cells that are not done here.

        Checkpoints and pictures, which do not change, are linked where the disk allows it; the rest is copied.

        Returns:
            How many cells that made done.
        """
        done = {folder.identity: folder for folder in other.folders() if folder.status() == "done"}
        count = 0
        for folder in self.to_run():
            source = done.get(folder.identity)
            if source is None or folder.status() != "pending" or (claim := folder.claim()) is None:
                continue
            if folder.status() == "pending":  # nobody has run it meanwhile
                _take_over(source.path, folder.path)
                count += 1
            claim.release()
        return count

    def retry_failed(self) -> int:
        """Let failed cells be run again, and return how many there are."""
        count = 0
        for folder in self.to_run():
            if folder.status() == "failed" and (claim := folder.claim()) is not None:
                claim.put_back("to be tried again")
                claim.release()
                count += 1
        return count


def _take_over(source: Path, target: Path) -> None:
    def place(file: str, copy: str) -> None:
        if Path(file).parent.name in _LINKED:
            with suppress(OSError):  # another disk, or one without links
                os.link(file, copy)
                return
        shutil.copy2(file, copy)

    shutil.rmtree(target / "run", ignore_errors=True)
    without_locks = shutil.ignore_patterns(".lock")
    shutil.copytree(source / "run", target / "run", copy_function=place, ignore=without_locks)
    # the result is what counts: a copy that is cut off before it is none
    for name in ("stdout.txt", "stderr.txt", "history.jsonl", "state.json", "result.json"):
        if (source / name).is_file():
            write_text(target / name, (source / name).read_text(encoding="utf-8"))


def _gives_way(root: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether a line makes room for one of the same labels: it was not applicable, or was never started."""
    if old["labels"] != new["labels"] or old == new:
        return False
    if old["not_applicable"] is not None:
        return True
    folder = CellFolder(root / "cells" / old["folder"])
    return folder.status() == "pending" and "attempt" not in folder.state()


def _refuse_another_study(root: Path, before: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise an error where a folder belongs to another study, or to another scale of it."""
    old_name, new_name = (" ".join(str(about.get(k) or "") for k in ("study", "scale")) for about in (before, new))
    if before and old_name != new_name:
        what = old_name.strip() or "a grid"
        raise HyperkitError(
            f"The sweep in {root} is {what}, not {new_name.strip() or 'a grid'}.",
            "Choose another folder with --out; --reuse takes over what fits.",
        )


def _refuse_other_settings(root: Path, cell: Cell, lines: Iterable[Mapping[str, Any]]) -> None:
    """Raise an error where the sweep has run a cell of the same name with other settings."""
    before = next((line for line in lines if line["labels"] == dict(cell.labels)), None)
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
