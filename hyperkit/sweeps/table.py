"""What a sweep has measured: one tidy table, means and deviations over seeds, and differences seed by seed."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperkit.files import atomic_path, write_text
from hyperkit.reports.tables import results_csv
from hyperkit.sweeps.cell import Label
from hyperkit.sweeps.store import Entry, SweepDirectory

SEED = "seed"
_FRONT = ("cell",)
_BACK = ("status", "reason", "split", "class", "metric", "value", "n", "standard_error")
_OPEN = ("failed", "pending", "running")
_COST = ("seconds", "cpu_seconds", "peak_memory_bytes", "gpu_peak_memory_bytes", "gpu_energy_joules")

Row = dict[str, Any]


def tidy_rows(sweep: SweepDirectory) -> list[Row]:
    """Return a row per cell, split, class and metric; a cell without results has one row, which says why.

    Columns: ``cell`` (folder of the run), every axis, ``status``, ``reason``, ``split``, ``class``, ``metric``,
    ``value`` (None where it is not available), ``n`` (items), ``standard_error`` (over items). Rows without a split are
    about the run: ``steps``, ``encoder_parameters``, ``seconds`` and ``cpu_seconds`` of the whole process,
    ``peak_memory_bytes`` of its main memory, and ``gpu_peak_memory_bytes`` and ``gpu_energy_joules`` where its devices
    tell them.
    """
    entries = sweep.entries()
    axes = list(dict.fromkeys(name for entry in entries for name in entry.labels))
    return [row for entry in entries for row in _rows_of(entry, axes)]


def _rows_of(entry: Entry, axes: Sequence[str]) -> list[Row]:
    status = entry.status()
    reason = entry.not_applicable or (entry.folder.state().get("reason", "") if status == "failed" else "")
    front: Row = {"cell": entry.folder.path.name, **{name: entry.labels.get(name) for name in axes}}
    front |= {"status": status, "reason": reason}
    result = entry.folder.result() if status == "done" else None
    if result is None:
        return [front | dict.fromkeys(_BACK[2:], None)]
    rows = []
    for line in csv.DictReader(io.StringIO(results_csv(result))):
        numbers = {name: _number(line[name]) for name in ("value", "n", "standard_error")}
        rows.append(front | {name: line[name] for name in ("split", "class", "metric")} | numbers)
    about = {"steps": result.get("steps"), "encoder_parameters": (result.get("backbone") or {}).get("parameters")}
    about |= {name: (result.get("cost") or {}).get(name) for name in _COST}
    empty = {"split": None, "class": None, "n": None, "standard_error": None}
    rows += [front | empty | {"metric": name, "value": value} for name, value in about.items() if value is not None]
    return rows


def _number(text: str) -> float | None:
    return float(text) if text else None


def write_table(sweep: SweepDirectory) -> dict[str, Path]:
    """Write ``table.csv`` and ``table.parquet`` into the sweep's folder.

    Returns:
        "csv" and "parquet" -> path.

    Raises:
        RunFailed: the disk is full or the folder cannot be written.
    """
    rows = tidy_rows(sweep)
    columns = list(rows[0]) if rows else [*_FRONT, *_BACK]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: "" if v is None else v for k, v in row.items()} for row in rows])
    paths = {"csv": sweep.path / "table.csv", "parquet": sweep.path / "table.parquet"}
    write_text(paths["csv"], buffer.getvalue())
    _write_parquet(rows, columns, paths["parquet"])
    return paths


def _write_parquet(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet  # type: ignore[import-untyped]

    numbers = {"value", "n", "standard_error"}
    content = {}
    for name in columns:
        values = [row[name] for row in rows]
        kinds = {type(v) for v in values if v is not None}
        if name in numbers or kinds <= {int, float}:  # a column has one type: of the axis "1, 0.1" too
            content[name] = pyarrow.array([None if v is None else float(v) for v in values], pyarrow.float64())
        else:
            content[name] = pyarrow.array([None if v is None else str(v) for v in values], pyarrow.string())
    with atomic_path(path) as temporary:
        parquet.write_table(pyarrow.table(content), temporary)


@dataclass(frozen=True)
class Summary:
    """One metric of the cells that differ in their seed alone.

    Attributes:
        labels: axis -> value, the seed left out.
        values: seed -> value; those that are not available are left out.
        expected: number of seeds that were asked for.
        reasons: why seeds are missing, each reason once.
        statuses: where the seeds' runs stand, each status once.
    """

    labels: Mapping[str, Label]
    values: Mapping[Label, float]
    expected: int
    reasons: tuple[str, ...] = field(default=())
    statuses: tuple[str, ...] = field(default=())

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that are there; None without any."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def absence(self) -> str:
        """What is shown where there is no value: "failed", "pending", "running", or "n/a" of a metric without one."""
        return ", ".join(dict.fromkeys(s if s in _OPEN else "n/a" for s in self.statuses)) or "n/a"

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds, with n - 1; None for fewer than two, which have none."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return the confidence interval of the mean, mean ± t(n - 1) * deviation / sqrt(n); None for fewer than two.

        It is exact where the values of the seeds scatter normally.
        """
        if self.mean is None or self.deviation is None:
            return None
        from scipy.stats import t

        count = len(self.values)
        half = float(t.ppf(0.5 + confidence / 2, count - 1)) * self.deviation / math.sqrt(count)
        return self.mean - half, self.mean + half


def over_seeds(
    rows: Sequence[Row], metric: str, split: str | None = "test", group: str | None = "all"
) -> list[Summary]:
    """Return a metric's mean and deviation for every combination of the axes, in the table's order.

    Args:
        rows: of ``tidy_rows``.
        metric: "psnr", ...
        split, group: where it was taken; None for what belongs to the run, as "seconds".
    """
    fixed = {*_FRONT, *_BACK, SEED}
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        labels = {name: value for name, value in row.items() if name not in fixed}
        new: dict[str, Any] = {"labels": labels, "values": {}, "seeds": {}, "reasons": {}, "statuses": {}}
        entry = found.setdefault(tuple(labels.items()), new)
        entry["seeds"][row.get(SEED)] = entry["statuses"][row["status"]] = None
        if row["metric"] is None:
            entry["reasons"][row["reason"] or row["status"]] = None
        elif (row["metric"], row["split"], row["class"]) == (metric, split, group):
            if row["value"] is not None and math.isfinite(row["value"]):
                entry["values"][row.get(SEED)] = row["value"]
            else:
                entry["reasons"][f"{metric} is not available"] = None
    return [
        Summary(e["labels"], e["values"], len(e["seeds"]), tuple(e["reasons"]), tuple(e["statuses"]))
        for e in found.values()
    ]


def difference(one: Summary, other: Summary) -> Summary:
    """Return ``one - other`` seed by seed, over the seeds that both have.

    Runs of one seed see the same data in the same order, so that their difference scatters less than either.
    """
    common = {seed: one.values[seed] - other.values[seed] for seed in one.values if seed in other.values}
    labels = {name: value for name, value in one.labels.items() if other.labels.get(name) == value}
    return Summary(labels, common, max(one.expected, other.expected), (*one.reasons, *other.reasons))
