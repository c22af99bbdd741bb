"""Runs one cell on a node of a Ray cluster, and stops it when the node or the task dies.

The chain is: Ray's worker process -> a guard (this file as a program) -> ``hyperkit.sweeps.worker`` -> the training. A
Ray worker that exits kills its children without a word, so that the guard is put between: whether the guard dies or
the Ray worker does, the cell's worker sees the end of its standard input, has the training save its state, and frees
the cell for another node.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from hyperkit._version import __version__

_POLL_SECONDS = 0.1


def run_on_node(path: str, version: str, directory: str, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a cell to its end, as a task of Ray; cancelling the task stops the cell, which saves its state.

    Args:
        path: the cell's folder, absolute and on storage that all nodes share.
        version: hyperkit's, where the sweep was started.
        directory: working directory there, used where the node has it, so that relative paths mean the same.
        environment: variables to add.

    Returns:
        The worker's exit code and nothing; or -1 and why this node cannot run cells.
    """
    if version != __version__:
        return -1, f"The node {socket.gethostname()} has hyperkit {__version__}, not {version}."
    if not (Path(path) / "cell.json").is_file():
        return -1, f"The node {socket.gethostname()} does not see {path}."
    guard = subprocess.Popen(
        [sys.executable, "-m", "hyperkit.sweeps.ray_cell", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
        cwd=directory if Path(directory).is_dir() else None,
        start_new_session=True,
    )
    with guard:
        while guard.poll() is None:
            try:
                time.sleep(_POLL_SECONDS)  # Ray cancels a task by a KeyboardInterrupt that ends no blocking call
            except KeyboardInterrupt:
                if guard.stdin is not None:
                    guard.stdin.close()
    return guard.returncode, ""


def main(arguments: list[str]) -> int:
    """Guard the worker of the cell whose folder is named; the end of the standard input stops it."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "hyperkit.sweeps.worker", arguments[0], "--stop-with-parent"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    if worker.stdin is not None:
        threading.Thread(target=_pass_end_on, args=(sys.stdin.fileno(), worker.stdin), daemon=True).start()
    code = worker.wait()
    return code if code >= 0 else 128 - code


def _pass_end_on(source: int, target: IO[bytes]) -> None:
    while os.read(source, 1024):
        pass
    target.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
