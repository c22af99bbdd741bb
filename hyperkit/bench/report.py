"""The result: rows, the device and the versions they hold for, as JSON and as lines for people."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hyperkit.bench.measure import Times
from hyperkit.bench.settings import Bench
from hyperkit.files import write_text
from hyperkit.kernels.hardware import device_name

_PACKAGES = ("hyperkit", "torch", "triton", "timm", "lightning-fabric", "numpy")


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        name: of the row.
        value: the median of what was measured; None where it could not be.
        unit: of value and baseline.
        baseline: the plain implementation's, in the same run.
        speedup: how many times faster than the baseline, the median of the rounds' own ratios.
        share_of_matmul: rate of useful arithmetic over that of the matrix product, in the same run.
        more: further values.
    """

    name: str
    value: float | None
    unit: str
    baseline: float | None = None
    speedup: float | None = None
    share_of_matmul: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; floats are rounded to six digits."""
        own = {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.baseline,
            "speedup": self.speedup,
            "share_of_matmul": self.share_of_matmul,
        }
        return {key: rounded(value) for key, value in {**own, **self.more}.items()}


def rounded(value: Any) -> Any:
    """Round floats to six significant digits; what is not finite becomes None."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def timed_row(
    bench: Bench, name: str, times: Times, work: float, scale: float = 1.0, unit: str = "ms", **more: Any
) -> Row:
    """Return the row of a comparison of times ("fast", "plain", "product").

    Args:
        bench: the run.
        name: of the row.
        times: what ``Bench.compare`` gave.
        work: useful arithmetic of "fast", in operations.
        scale: from measured seconds to the unit.
        unit: of the values, "ms" or "s".
        more: further values.
    """
    factor = scale * {"ms": 1e3, "s": 1.0}[unit]
    if times.peak_mb:
        more |= {"peak_memory_mb": times.peak_mb["fast"], "peak_memory_baseline_mb": times.peak_mb["plain"]}
    return Row(
        name,
        factor * times.median("fast"),
        unit,
        factor * times.median("plain"),
        times.ratio("plain", "fast"),
        times.share("fast", work, "product", bench.product.flops),
        {
            **{key: factor * value for key, value in times.quantiles("fast").items()},
            **more,
            "matmul_tflops": bench.product.flops / times.median("product") / 1e12,
        },
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide about speed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def describe_device(bench: Bench) -> dict[str, Any]:
    """Return the device's name and kind, its threads, and the dtypes of the package's products and of the reference."""
    return {
        "name": device_name(bench.device),
        "kind": bench.device.type,
        "capability": _capability(bench.device),
        "threads": torch.get_num_threads(),
        "precision": str(bench.precision).removeprefix("torch."),
        "product": f"{bench.product.size}^3 {str(bench.product.dtype).removeprefix('torch.')}",
    }


def _capability(device: torch.device) -> str:
    if device.type == "cuda":
        return ".".join(map(str, torch.cuda.get_device_capability(device)))
    return str(torch.backends.cpu.get_cpu_capability())


def slug(device: Mapping[str, Any]) -> str:
    """Return a file name for a device: "intel-xeon-processor-2-threads", "nvidia-h100-80gb-hbm3"."""
    text = str(device["name"]) + (f" {device['threads']} threads" if device["kind"] == "cpu" else "")
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", " ", text.lower())).strip("-")


def to_json(bench: Bench, rows: list[Row]) -> dict[str, Any]:
    """Return the whole result as plain values."""
    return {"device": describe_device(bench), "versions": versions(), "rows": [row.to_json() for row in rows]}


def save(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write a result with its date into ``folder``, as the file of its device; rows not measured this time stay.

    Returns:
        The file.
    """
    path = folder / f"{slug(result['device'])}.json"
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    fresh = {row["name"]: {**row, "date": date, "versions": result["versions"]} for row in result["rows"]}
    rows = {row["name"]: row for row in _stored(path)} | fresh
    content = {"device": result["device"], "date": date, "versions": result["versions"], "rows": list(rows.values())}
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _stored(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    except (OSError, ValueError, KeyError):  # none yet, or damaged: written anew
        return []
    return rows


HEADER = f"{'':20} {'value':>12} {'baseline':>12} {'speedup':>9} {'of matmul':>10}  more"


def line(row: Row) -> str:
    """Return one line of the table for people."""
    note = "; ".join(
        f"{key} {_short(row.more[key])}" for key in ("psnr", "culled", "with_encoding_share", "note") if key in row.more
    )
    value, baseline = (f"{_short(v)} {row.unit}" if v is not None else "-" for v in (row.value, row.baseline))
    speedup = "-" if row.speedup is None else f"{row.speedup:.2f}x"
    share = "-" if row.share_of_matmul is None else f"{row.share_of_matmul:.1%}"
    return f"{row.name:20} {value:>12} {baseline:>12} {speedup:>9} {share:>10}  {note}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
