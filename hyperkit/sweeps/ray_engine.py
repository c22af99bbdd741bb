"""Runs a sweep on a Ray cluster: a cell is a task, its folder lies on storage that all nodes share."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.sweeps.engine import Engine
from hyperkit.sweeps.ray_driver import STOP_SECONDS
from hyperkit.sweeps.state import CellFolder
from hyperkit.sweeps.store import SweepDirectory

_LOOK_SECONDS = 5.0
_LOST_SECONDS = 30.0
"""A cell that says it runs, but that nobody holds for so long, is lost even where Ray has not noticed yet."""

Message = dict[str, Any]


class RayEngine(Engine):
    """Runs the cells of a sweep that are not done as tasks of a Ray cluster.

    Each task has as many CPUs as the cell has threads. A cell whose node dies is run again on another one, where it
    goes on from its last checkpoint. Several engines, of this kind and others, may work on one folder. What Ray says
    goes to ``ray.log`` in the sweep's folder.

    Args:
        sweep: the sweep; its folder must have the same path on all nodes.
        address: of the cluster, HOST:PORT or "auto". None: what the variable RAY_ADDRESS says, and without it a
            cluster of this machine, that ends with the sweep.
        devices_per_cell: GPUs of each cell; None: one where the cluster has any.
        retries: how often a cell is tried again whose node died.
        watch: called now and then with the sweep, for a live table.
        poll: seconds between looks.

    Raises:
        HyperkitError: Ray is not installed, or the address is one of Ray's client.
        ValueError: ``devices_per_cell`` or ``retries`` is negative.
    """

    def __init__(
        self,
        sweep: SweepDirectory,
        *,
        address: str | None = None,
        devices_per_cell: int | None = None,
        retries: int = 3,
        watch: Callable[[SweepDirectory], None] | None = None,
        poll: float = 0.5,
    ) -> None:
        super().__init__(sweep, watch, poll, retries)
        if (devices_per_cell or 0) < 0 or retries < 0:
            raise ValueError(f"devices_per_cell and retries must not be negative: {devices_per_cell}, {retries}")
        if importlib.util.find_spec("ray") is None:
            raise HyperkitError("Ray is not installed.", "pip install 'hyperkit[ray]', or use --engine local.")
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        if self.address is not None and self.address.startswith("ray://"):
            raise HyperkitError(
                f"The sweep cannot be driven through Ray's client ({self.address}).",
                "Start it on a machine of the cluster, with --ray-address auto.",
            )
        self.devices_per_cell = devices_per_cell
        self.log = Path(os.path.abspath(sweep.path)) / "ray.log"
        self._driver: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._working: dict[str, tuple[CellFolder, int]] = {}
        self._unheld: dict[str, float] = {}
        self._next_look = 0.0

    def _in_hand(self) -> bool:
        return bool(self._working)

    def _start(self, folder: CellFolder) -> None:
        path = os.path.abspath(folder.path)
        self._working[path] = (folder, int(folder.state().get("attempt", 0)))
        self._order({"run": path, "threads": int(folder.definition()["threads"])})

    def _order(self, message: Message) -> None:
        if self._driver is None:
            self._driver = self._start_driver()
        stdin = self._driver.stdin
        if stdin is not None:
            with suppress(BrokenPipeError):  # it has ended, and its last answers say why
                stdin.write(json.dumps(message) + "\n")
                stdin.flush()

    def _start_driver(self) -> subprocess.Popen[str]:
        options = json.dumps({"address": self.address, "devices": self.devices_per_cell})
        with open(self.log, "ab") as log:
            driver = subprocess.Popen(
                [sys.executable, "-m", "hyperkit.sweeps.ray_driver", options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # the terminal's SIGINT comes to the engine alone
            )
        threading.Thread(target=_read_answers, args=(driver, self._answers), daemon=True).start()
        return driver

    def _ended(self) -> Iterator[tuple[CellFolder, int | str]]:
        while not self._answers.empty():
            answer = self._answers.get()
            if answer is None:
                raise RunFailed(
                    f"The connection with the Ray cluster was lost; {self.log} says more.",
                    "The same command goes on with the sweep.",
                )
            if "error" in answer:
                raise HyperkitError(answer["error"], answer["hint"])
            folder, _ = self._working.pop(answer.get("ended") or answer["lost"], (None, 0))
            if folder is not None:
                yield folder, answer["code"] if "ended" in answer else answer["why"]
        yield from self._vanished()

    def _vanished(self) -> Iterator[tuple[CellFolder, int | str]]:
        """Find cells that our tasks began and that nobody holds any more: Ray may take minutes to see it."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        for path, (folder, attempts_before) in list(self._working.items()):
            state = folder.state()
            begun = state["state"] == "running" and int(state["attempt"]) > attempts_before
            if not begun or folder.status() != "pending":
                self._unheld.pop(path, None)
            elif now - self._unheld.setdefault(path, now) >= _LOST_SECONDS:
                del self._unheld[path], self._working[path]
                self._order({"drop": path})
                yield folder, f"nothing was heard of {state['host']}"

    def _stop(self) -> None:
        if self._driver is None:
            return
        if self._driver.stdin is not None:
            with suppress(BrokenPipeError):
                self._driver.stdin.close()
        try:
            self._driver.wait(2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()
        self._driver, self._answers = None, queue.SimpleQueue()
        self._working.clear()
        self._unheld.clear()


def _read_answers(driver: subprocess.Popen[str], answers: queue.SimpleQueue[Message | None]) -> None:
    if driver.stdout is not None:
        with driver.stdout:
            for line in driver.stdout:
                answers.put(json.loads(line))
    answers.put(None)
