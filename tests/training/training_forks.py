"""Kills toy runs at random moments and resumes them: ``python training_forks.py FOLDER [KILLS]``; prints JSON.

Everything is imported once and each run is a fork, so that ten kills take seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning_fabric  # noqa: F401  # imported once, before the forks
import torch
import training_toy

from hyperkit.training.checkpoints import load_checkpoint

VALUES = {
    "steps": 300,
    "schedule": "cos",
    "ema": 0.95,
    "dropout": 0.1,
    "noise": 0.1,
    "accumulate": 2,
    "clip_grad": 1.0,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "save_every": 7,
    "log_every": 3,
    "validate_every": 20,
    "seconds_per_batch": 0.002,
}


def forked(out: Path, stop: Callable[[int], None] | None = None) -> int:
    """Train in a fork and return its exit code, negative for a signal that killed it."""
    if (child := os.fork()) == 0:
        code = 70
        try:
            code = training_toy.main([str(out), *(f"{k}={v}" for k, v in VALUES.items())])
        finally:
            os._exit(code)
    if stop is not None:
        stop(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def after_lines(out: Path, number: int) -> Callable[[int], None]:
    """Return what sends the signal once the run has written metrics."""

    def stop(child: int) -> None:
        limit = time.monotonic() + 20
        while not (out / "metrics.jsonl").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(child, number)

    return stop


def lines(out: Path) -> list[dict[str, Any]]:
    """Return the metrics without their times."""
    read = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read]


def same(a: Any, b: Any) -> bool:
    """Compare nested values, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return bool(torch.equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def compare(out: Path, straight: Path) -> dict[str, bool]:
    """Compare all that two runs ended with, their times aside."""
    result = {"metrics": lines(out) == lines(straight)}
    for kind in ("last", "best"):
        a, b = (load_checkpoint(folder / "checkpoints" / f"{kind}.pt") for folder in (out, straight))
        for name in ("model", "averages", "average_updates", "optimizer", "step", "best", "validated", "meter", "rng"):
            result[f"{kind}.{name}"] = same(getattr(a, name), getattr(b, name))
    return result


def main(folder: Path, kills: int) -> dict[str, Any]:
    """Run it all."""
    report: dict[str, Any] = {}
    start = time.monotonic()
    report["straight"] = forked(folder / "straight")
    length = time.monotonic() - start
    report["again"] = forked(folder / "again")
    report["repeats"] = compare(folder / "again", folder / "straight")
    draw, codes = random.Random(kills), []
    killed, at = folder / "killed", []
    while len(codes) < kills:
        # the moments lie anywhere in a part: before the first step, in a save, in a validation
        moment = draw.uniform(0.02, 1.6 * length / kills)
        codes.append(forked(killed, lambda child, s=moment: (time.sleep(s), os.kill(child, signal.SIGKILL))[1]))  # type: ignore[misc]
        last = killed / "checkpoints" / "last.pt"
        at.append(load_checkpoint(last).step if last.exists() else 0)
    report["kills"], report["killed at"], report["killed end"] = codes, at, forked(killed)
    report["killed"] = compare(killed, folder / "straight")
    for name, number in (("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM)):
        out = folder / name
        code = forked(out, after_lines(out, number))
        step = load_checkpoint(out / "checkpoints" / "last.pt").step
        report[name] = {"code": code, "step": step, "end": forked(out), **compare(out, folder / "straight")}
    return report


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)))
