"""What a person sees while a run trains."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import IO, Any, Protocol


class ProgressSink(Protocol):
    """Takes the progress of a run."""

    def start(self, total: int, step: int, counts: Mapping[str, Any], seconds_left: float) -> None:
        """Begin: ``step`` of ``total`` steps are done, and the run ends after ``seconds_left`` at the latest."""
        ...

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of a finished step; ``metrics`` are those that are new, "wait" the share of time spent on data."""
        ...

    def close(self) -> None:
        """End."""
        ...


class Rate:
    """Steps per second over the last half minute, validation and saving included, and what is left by it."""

    def __init__(self, total: int, step: int, seconds_left: float) -> None:
        self._total = total
        self._start = time.monotonic()
        self._limit = seconds_left
        self._marks: deque[tuple[float, int]] = deque([(self._start, step)])

    def mark(self, step: int) -> None:
        """Take note of a finished step."""
        now = time.monotonic()
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[0][0] > 30:
            self._marks.popleft()

    @property
    def elapsed(self) -> float:
        """Seconds since the start of this part of the run."""
        return time.monotonic() - self._start

    @property
    def per_second(self) -> float:
        """Steps per second; 0 while it is not known."""
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 else 0.0

    @property
    def remaining(self) -> float:
        """Seconds until the run ends: by its steps, or by its time limit where that comes first."""
        by_time = max(0.0, self._limit - self.elapsed)
        if not self.per_second:
            return by_time
        return min(by_time, (self._total - self._marks[-1][1]) / self.per_second)


def clock(seconds: float) -> str:
    """Return seconds as "1:02:03" or "2:03"; "?" where they are not known."""
    if seconds == float("inf"):
        return "?"
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class _Line:
    """The words of the progress line."""

    def __init__(self) -> None:
        self.rate: Rate | None = None
        self.metrics: dict[str, float] = {}
        self.total = 0

    def start(self, total: int, step: int, seconds_left: float) -> None:
        self.total = total
        self.rate = Rate(total, step, seconds_left)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self.rate is not None
        self.rate.mark(step)
        self.metrics.update(metrics)

    def words(self) -> str:
        assert self.rate is not None
        parts = [f"loss {self.metrics['loss']:.4g}"] if "loss" in self.metrics else []
        parts += [f"PSNR {self.metrics['psnr']:.2f}"] if "psnr" in self.metrics else []
        parts += [f"best {self.metrics['best']:.2f}"] if "best" in self.metrics else []
        parts.append(f"{self.rate.per_second:.3g} steps/s")
        parts += [f"waiting for data {self.metrics['wait']:.0%}"] if "wait" in self.metrics else []
        return ", ".join([*parts, f"{clock(self.rate.elapsed)} gone", f"{clock(self.rate.remaining)} left"])


class PlainProgress:
    """One line of text every ten seconds or so, for a log or a pipe."""

    def __init__(self, stream: IO[str] | None = None, seconds: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._seconds = seconds
        self._line = _Line()
        self._shown = (0.0, 0)

    def start(self, total: int, step: int, counts: Mapping[str, Any], seconds_left: float) -> None:
        """Begin."""
        self._line.start(total, step, seconds_left)
        self._shown = (0.0, step)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print a line after ten seconds, or at the end."""
        self._line.update(step, metrics)
        assert self._line.rate is not None
        now = self._line.rate.elapsed
        if now - self._shown[0] >= self._seconds or (step == self._line.total and step > self._shown[1]):
            self._shown = (now, step)
            self._stream.write(f"step {step} of {self._line.total}: {self._line.words()}\n")
            self._stream.flush()

    def close(self) -> None:
        """End; nothing is left to do."""


class RichProgress:
    """A bar on the terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._line = _Line()
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:.0f}%"),
            TextColumn("{task.fields[words]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task: Any = None
        self._next = 0.0

    def start(self, total: int, step: int, counts: Mapping[str, Any], seconds_left: float) -> None:
        """Show the bar."""
        self._line.start(total, step, seconds_left)
        self._task = self._progress.add_task("train", total=total, completed=step, words="")
        self._progress.start()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, at most ten times a second."""
        self._line.update(step, metrics)
        if (now := time.monotonic()) >= self._next or metrics:
            self._next = now + 0.1
            self._progress.update(self._task, completed=step, words=self._line.words())

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._progress.stop()


def make_progress() -> ProgressSink:
    """Return a bar where stderr is a terminal, and plain lines where it is not."""
    return RichProgress() if sys.stderr.isatty() else PlainProgress()
