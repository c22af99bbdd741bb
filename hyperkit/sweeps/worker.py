"""Runs one cell in a process of its own: ``python -m hyperkit.sweeps.worker FOLDER``; every engine goes through this.

The training is a child process. When the engine that asked for the cell dies, the training is told to stop, saves its
state, and whoever takes the cell next goes on from there.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

from hyperkit.sweeps.gpu_meter import GpuMeter
from hyperkit.sweeps.state import BEAT_SECONDS, CellFolder, Claim
from hyperkit.training.signals import StopSignals

Outcome = Literal["done", "failed", "put back", "busy"]

EXIT_CODES: dict[Outcome, int] = {"done": 0, "failed": 1, "put back": 130, "busy": 75}

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 60.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_COUNT_AS_NVIDIA_SMI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
_REASON_LENGTH = 2000


def run_cell(folder: CellFolder, parent: int | None = None, grace: float = _GRACE_SECONDS) -> Outcome:
    """Run a cell unless it is done, has failed, or is in other hands.

    Args:
        folder: the cell's folder.
        parent: file descriptor whose end of file says that the engine has died; None does not watch.
        grace: seconds that a training gets to save its state before it is killed.

    Returns:
        "done", "failed", "put back" (it was told to stop), or "busy" (another process works on it).
    """
    claim = folder.claim()
    if claim is None:
        return "busy"
    try:
        if folder.result() is not None:
            return "done"
        if folder.state()["state"] == "failed":
            return "failed"
        return _run(claim, parent, grace)
    finally:
        claim.release()


def _run(claim: Claim, parent: int | None, grace: float) -> Outcome:
    folder = claim.folder
    definition = folder.definition()
    if folder.run.is_dir() and not (folder.run / "config.yaml").is_file():
        shutil.rmtree(folder.run)  # killed while it made its folder, which a training would not take for a run
    fill = {"{python}": sys.executable, "{run}": str(folder.run)}
    command = [fill.get(word, word) for word in definition["command"]]
    threads = {name: str(definition["threads"]) for name in _THREAD_VARIABLES}
    claim.start(threads=definition["threads"], devices=os.environ.get("CUDA_VISIBLE_DEVICES"))
    begun = time.monotonic()
    meter = GpuMeter(_devices_of(definition))
    with (
        StopSignals() as stop,
        open(folder.path / "stdout.txt", "wb") as out,
        open(folder.path / "stderr.txt", "ab") as err,
    ):
        position = err.tell()
        meter.read()
        try:
            training = _start(command, {**_COUNT_AS_NVIDIA_SMI, **os.environ, **threads}, out, err, claim.lock)
        except OSError as error:
            claim.fail(f"{command[0]} could not be started: {error}")
            return "failed"
        told = _attend(training, claim, meter, stop, parent, grace)
        meter.read()  # while signals are held back: an end that was reached is to be recorded
    if told and training.returncode != 0:
        claim.put_back(told)
        return "put back"
    cost = {"seconds": time.monotonic() - begun, **used_resources(), **meter.totals()}
    reason = _why_failed(training.returncode, folder.path / "stderr.txt", position)
    result = None if reason else _last_object(folder.path / "stdout.txt")
    if result is None:
        claim.fail(reason or "The command ended well, but the last line that it printed is not a JSON object.")
        return "failed"
    claim.finish(result, cost)
    return "done"


def _start(command: list[str], environment: dict[str, str], out: IO[bytes], err: IO[bytes], lock: int) -> Any:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        env=environment,
        pass_fds=(lock,) if os.name == "posix" else (),
        start_new_session=True,  # a second SIGINT would end it at once, without saving
    )


def _attend(training: Any, claim: Claim, meter: GpuMeter, stop: StopSignals, parent: int | None, grace: float) -> str:
    """Wait for the training; return why it was told to stop, or nothing."""
    told, deadline, beat = "", 0.0, time.monotonic()
    while training.poll() is None:
        if not told and (told := _must_stop(stop, parent)):
            training.terminate()
            deadline = time.monotonic() + grace
        if told:
            time.sleep(_POLL_SECONDS)
            if time.monotonic() > deadline:
                _kill_group(training)
        if time.monotonic() - beat > BEAT_SECONDS:
            claim.beat()
            meter.read()
            beat = time.monotonic()
    # whoever stops all processes at once may reach the training first
    return told or _must_stop(stop, parent)


def _devices_of(definition: Mapping[str, Any]) -> str | None:
    """Return the GPUs that the training uses, "" for none; None where all is left to it."""
    training = (definition.get("parameters") or definition.get("overrides") or {}).get("training") or {}
    if training.get("device") == "cpu":
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    several = int(training.get("devices") or 1)
    return ",".join(map(str, range(several))) if visible is None and several > 1 else visible


def _must_stop(stop: StopSignals, parent: int | None) -> str:
    if parent is None:
        time.sleep(_POLL_SECONDS)
    elif select.select([parent], [], [], _POLL_SECONDS)[0]:
        return "the engine ended"
    return f"signal {signal.Signals(stop.received).name}" if stop.received else ""


def _kill_group(training: Any) -> None:
    with suppress(ProcessLookupError):
        os.killpg(training.pid, signal.SIGKILL)  # it leads a session of its own, helpers of its data included


def _why_failed(code: int, errors: Path, position: int) -> str | None:
    if code == 0:
        return None
    with open(errors, "rb") as handle:
        handle.seek(position)
        lines = [line.rstrip() for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    said = [index for index, line in enumerate(lines) if line.startswith("Error:")]
    text = "\n".join(lines[said[-1] :]) if said else (lines[-1] if lines else "")
    text = text[:_REASON_LENGTH]
    if code < 0:
        name = signal.Signals(-code).name
        likely = " Memory may have run out." if name == "SIGKILL" else ""
        return f"The run was ended by {name}.{likely}" + (f" Its last words: {text}" if text else "")
    return text or f"The run ended with exit code {code} and said nothing."


def _last_object(path: Path) -> dict[str, Any] | None:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    try:
        content = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None


def used_resources(of_children: bool = True) -> dict[str, float]:
    """Return "cpu_seconds" and "peak_memory_bytes", each where the system tells it.

    Args:
        of_children: of the processes that were waited for, the memory of the largest of them; else of this process.
    """
    try:
        import resource
    except ImportError:  # Windows
        return {}
    used = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_memory_bytes": float(used.ru_maxrss * unit)}


def main(arguments: list[str]) -> int:
    """Run the cell whose folder is named; ``--stop-with-parent`` watches the standard input for its end."""
    paths = [word for word in arguments if not word.startswith("--")]
    parent = sys.stdin.fileno() if "--stop-with-parent" in arguments else None
    return EXIT_CODES[run_cell(CellFolder(paths[0]), parent)]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
