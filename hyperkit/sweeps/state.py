"""The folder of one cell: what became of it, and the lock of the process that works on it.

``cell.json`` says what is to be run, ``state.json`` how far it is, ``result.json`` is there once it is done, and
``history.jsonl`` has a line for every start and end. Standard library only: every cell's process imports this first.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hyperkit.files import write_text

try:
    import fcntl
except ImportError:  # Windows has no flock; there the heartbeat alone tells whether a cell is being worked on
    fcntl = None  # type: ignore[assignment]

Status = Literal["pending", "running", "done", "failed", "not applicable"]

BEAT_SECONDS = 5.0
STALE_SECONDS = 90.0
"""A cell of another machine that has not written for so long is free again; clocks may differ by a minute."""

_LOCK_TRIES, _LOCK_WAIT = 20, 0.05


class CellFolder:
    """Reads one cell's folder, and takes the cell to work on it.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def run(self) -> Path:
        """The run directory of its training."""
        return self.path / "run"

    @property
    def identity(self) -> str:
        """The identity of the cell, which ends the folder's name."""
        return self.path.name.rsplit("-", 1)[-1]

    def definition(self) -> dict[str, Any]:
        """Return the content of ``cell.json``."""
        content: dict[str, Any] = json.loads((self.path / "cell.json").read_text(encoding="utf-8"))
        return content

    def state(self) -> dict[str, Any]:
        """Return what ``state.json`` says; {"state": "pending"} before anything was written."""
        return _read(self.path / "state.json") or {"state": "pending"}

    def result(self) -> dict[str, Any] | None:
        """Return what the run printed at its end, or None where it is not done."""
        return _read(self.path / "result.json")

    def history(self) -> list[dict[str, Any]]:
        """Return every start and end of the cell, in order."""
        path = self.path / "history.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def status(self) -> Status:
        """Return where the cell stands. One whose process has died is pending again."""
        if (self.path / "result.json").is_file():
            return "done"
        state = self.state()
        if state["state"] == "running":
            return "running" if self._is_held() or _beats_elsewhere(state) else "pending"
        if state["state"] == "done":  # whoever wrote that was killed before the result, which is what counts
            return "pending"
        status: Status = state["state"]
        return status

    def claim(self) -> Claim | None:
        """Take the cell for this process, or return None where another one works on it."""
        lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        for _ in range(_LOCK_TRIES):  # a reader that looks whether the lock is held holds it for a moment
            if _try_lock(lock, shared=False):
                if _beats_elsewhere(self.state()):  # a shared folder whose locks do not reach other machines
                    break
                return Claim(self, lock)
            time.sleep(_LOCK_WAIT)
        os.close(lock)
        return None

    def _is_held(self) -> bool:
        try:
            lock = os.open(self.path / ".lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return fcntl is not None and not _try_lock(lock, shared=True)
        finally:
            os.close(lock)


class Claim:
    """The right to work on a cell, held as long as ``lock`` is open in this process or in one that inherited it.

    A training that outlives its killed parent thus keeps its cell, and nobody starts it a second time beside it.

    Attributes:
        folder: the cell's folder.
        lock: file descriptor to hand on to the training.
    """

    def __init__(self, folder: CellFolder, lock: int) -> None:
        self.folder, self.lock = folder, lock
        self._state = folder.state()

    def start(self, **more: Any) -> int:
        """Record that the cell is being run, and return which attempt this is, from 1."""
        attempt = int(self._state.get("attempt", 0)) + 1
        self._state = {"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        self._state |= more
        self.beat()
        self._note("started")
        return attempt

    def beat(self) -> None:
        """Record that the process lives."""
        self._write("running", heartbeat=time.time())

    def finish(self, result: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
        """Record that the cell is done. ``result.json`` is what counts: it is written first, at once or not at all."""
        write_text(self.folder.path / "result.json", json.dumps({**result, "cost": dict(cost)}, indent=2) + "\n")
        self._note("done")
        self._write("done", ended=time.time())

    def fail(self, reason: str) -> None:
        """Record that the cell failed, and why."""
        self._note("failed", reason=reason)
        self._write("failed", ended=time.time(), reason=reason)

    def put_back(self, why: str) -> None:
        """Record that the cell waits to be run, or to be gone on with."""
        self._note("put back", reason=why)
        self._state.pop("reason", None)
        self._write("pending")

    def release(self) -> None:
        """Give the cell back."""
        os.close(self.lock)

    def _write(self, state: Status, **more: Any) -> None:
        self._state |= {"state": state, **more}
        write_text(self.folder.path / "state.json", json.dumps(self._state, indent=2) + "\n")

    def _note(self, event: str, **more: Any) -> None:
        line = {"event": event, "time": time.time(), "attempt": self._state.get("attempt", 0), **more}
        with open(self.folder.path / "history.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def _beats_elsewhere(state: Mapping[str, Any]) -> bool:
    if state["state"] != "running" or (fcntl is not None and state["host"] == socket.gethostname()):
        return False
    return time.time() - float(state["heartbeat"]) < STALE_SECONDS


def _try_lock(descriptor: int, shared: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
