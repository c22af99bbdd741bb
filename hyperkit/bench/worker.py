"""Training steps in processes of their own, so that what one does to its process's memory is not a gift to the other.

Training on a CPU tells the allocator to keep what is freed (``training.memory``), which lasts as long as the process.
The baseline is to run as any other program would.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import torch

from hyperkit.bench.settings import Bench, Sizes
from hyperkit.bench.training import opened_steps
from hyperkit.errors import RunFailed
from hyperkit.training.memory import keep_freed_memory

Side = Literal["fast", "plain"]


class Worker:
    """A process that makes one training step at every call. A context manager: leaving it ends the process.

    Args:
        bench: the run.
        side: "fast" for the package's steps, "plain" for the baseline's.

    Raises:
        RunFailed: by a call, if the process has ended.
    """

    def __init__(self, bench: Bench, side: Side) -> None:
        sizes = {name: getattr(bench.sizes, name) for name in ("view", "recipe", "overrides", "batch", "rays")}
        job = {
            "side": side,
            "device": bench.device.type,
            "precision": str(bench.precision).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "sizes": sizes,
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        command = [sys.executable, "-m", __name__, json.dumps(job)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def __call__(self) -> None:
        """Make one step and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
            done = self._process.stdout.readline()
        except BrokenPipeError:
            done = ""
        if not done:
            self._process.wait()
            self._errors.seek(0)
            raise RunFailed(f"The process that trains has ended: {self._errors.read().strip()[-2000:]}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        try:
            self._process.communicate()  # closes its input, which ends it
        finally:
            self._errors.close()


def serve(job: dict[str, Any]) -> None:
    """Make one step for every line that comes in, and answer each with a line."""
    torch.set_num_threads(job["threads"])
    device, precision = torch.device(job["device"]), getattr(torch, job["precision"])
    if job["side"] == "fast" and device.type == "cpu":
        keep_freed_memory()  # as the training loop does
    bench = Bench(device, precision, 1, Sizes(**job["sizes"]))
    with opened_steps(bench, job["side"]) as step:
        answer(step)


def answer(step: Callable[[], None]) -> None:
    """Call ``step`` for every line of the standard input."""
    for _ in sys.stdin:
        step()
        print("done", flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
