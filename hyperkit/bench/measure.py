"""Timing: candidates take turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

SHORTEST = 0.03
"""Seconds that one measurement takes at least: what is shorter is called several times in it."""


@dataclass(frozen=True)
class Candidate:
    """Something that is timed.

    Attributes:
        run: does it once.
        warm: does enough of it to bring caches and allocators to where they stay; None: ``run``.
        calls: times that it is called in one measurement; None: as many as take ``SHORTEST``.
    """

    run: Callable[[], Any]
    warm: Callable[[], Any] | None = None
    calls: int | None = None


@dataclass(frozen=True)
class Times:
    """What was measured of each candidate.

    Attributes:
        seconds: one for each round; the rounds of all candidates belong together.
        peak_mb: the most memory that torch held on a GPU during one call, MB; empty on CPUs.
    """

    seconds: Mapping[str, Sequence[float]]
    peak_mb: Mapping[str, float] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.seconds[name])

    def quantiles(self, name: str) -> dict[str, float]:
        """Return the quantiles p20, p50 and p80 over the rounds."""
        return quantiles(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """Return how many times longer ``slow`` takes than ``fast``: the median of the rounds' own ratios."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def share(self, name: str, work: float, reference: str, reference_work: float) -> float:
        """Return the rate of ``work`` done by ``name`` over that of ``reference``: the median of the rounds' shares."""
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return statistics.median((work / own) / (reference_work / other) for own, other in pairs)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return p20, p50 and p80 of a few values, interpolated between neighbours.

    Example:
        Of 0, 1, 2, 3, 4, 5 they are 1, 2.5 and 4.
    """
    ordered = torch.tensor(sorted(values), dtype=torch.float64)
    found = torch.quantile(ordered, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    return dict(zip(("p20", "p50", "p80"), found.tolist(), strict=True))


def take_turns(candidates: Mapping[str, Candidate], repeats: int, device: torch.device) -> Times:
    """Time all candidates in turn (A B C A B C ...), ``repeats`` rounds after warming each of them up.

    Args:
        candidates: name -> what is timed.
        repeats: rounds, at least 1.
        device: on CUDA the device is waited for, and its own events tell the time.
    """
    calls: dict[str, int] = {}
    peaks: dict[str, float] = {}
    for name, candidate in candidates.items():
        (candidate.warm or candidate.run)()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            candidate.run()
            peaks[name] = torch.cuda.max_memory_allocated(device) / 1e6
        calls[name] = candidate.calls or _enough(elapsed(candidate.run, 1, device))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(max(repeats, 1)):
        for name, candidate in candidates.items():
            seconds[name].append(elapsed(candidate.run, calls[name], device) / calls[name])
    return Times(seconds, peaks)


def _enough(seconds: float) -> int:
    return max(1, min(1000, round(SHORTEST / max(seconds, 1e-9))))


def elapsed(run: Callable[[], Any], calls: int, device: torch.device) -> float:
    """Return the seconds that ``calls`` calls take together, what they leave to the device included."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start
    torch.cuda.synchronize(device)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()  # type: ignore[no-untyped-call]
    for _ in range(calls):
        run()
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class Product:
    """The matrix product that every rate is compared with: N x N times N x N.

    Attributes:
        size: N.
        dtype: bfloat16 where the device multiplies it itself, else float32.
        device: where.
    """

    size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def flops(self) -> float:
        """Additions and multiplications of one product, 2 N^3."""
        return 2.0 * self.size**3

    def candidate(self) -> Candidate:
        """Return what is timed: products of the same two matrices into the same third."""
        generator = torch.Generator().manual_seed(0)
        left, right = (
            torch.randn(self.size, self.size, generator=generator).to(self.device, self.dtype) for _ in range(2)
        )
        out = torch.empty_like(left)
        return Candidate(lambda: torch.mm(left, right, out=out))
