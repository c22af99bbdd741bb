"""What a cell's GPUs draw and hold, as ``nvidia-smi`` tells it; nothing where there is no such tool."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping

_QUERY = ("--query-gpu=power.draw,memory.used", "--format=csv,noheader,nounits")
_TIMEOUT_SECONDS = 3.0


class GpuMeter:
    """Adds up the energy of some GPUs and keeps their highest memory, from readings that the owner asks for.

    Both are those of the whole devices, idle power and other processes included. Energy is the trapezoid sum over the
    readings, so that what happens between two of them is taken as their mean.

    Args:
        devices: names as in CUDA_VISIBLE_DEVICES ("0,1", "GPU-..."); "" for none; None for the first GPU, which is
            what a run takes that is told nothing.
        clock: seconds.
    """

    def __init__(self, devices: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        chosen = "0" if devices is None else devices
        self._command = ["nvidia-smi", *_QUERY, f"--id={chosen}"] if chosen.strip() else None
        self._clock = clock
        self._last: tuple[float, float] | None = None
        self._joules: float | None = None
        self._memory: float | None = None

    def read(self) -> None:
        """Take a reading. A tool that is not there or fails the first time is not asked again."""
        if self._command is None:
            return
        try:
            done = subprocess.run(self._command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            if self._last is None and self._memory is None:
                self._command = None
            return
        now = self._clock()
        lines = [line.split(",") for line in done.stdout.strip().splitlines()]
        power, memory = (_sum_of([line[k] if k < len(line) else "" for line in lines]) for k in range(2))
        if power is not None:
            if self._last is not None:
                before, watts = self._last
                self._joules = (self._joules or 0.0) + (now - before) * (watts + power) / 2
            self._last = (now, power)
        if memory is not None:
            self._memory = max(self._memory or 0.0, memory * 2**20)

    def totals(self) -> Mapping[str, float]:
        """Return ``gpu_energy_joules`` and ``gpu_peak_memory_bytes``, each where it is known."""
        found = {"gpu_energy_joules": self._joules, "gpu_peak_memory_bytes": self._memory}
        return {name: value for name, value in found.items() if value is not None}


def _sum_of(words: list[str]) -> float | None:
    """Sum over devices, or None where one of them does not tell ("[N/A]", "[Not Supported]")."""
    try:
        return sum(float(word) for word in words) if words else None
    except ValueError:
        return None
