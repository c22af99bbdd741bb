"""A sweep's numbers as Markdown, in the layout of the paper's table, with the published value beside each of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hyperkit.metrics.catalogue import format_value, metric_label
from hyperkit.sweeps.cell import Label
from hyperkit.sweeps.published import Published, find_published
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.studies import STUDIES, Study
from hyperkit.sweeps.table import Row, Summary, over_seeds, tidy_rows

_PAPER = {"psnr": ("psnr", "PSNR, paper"), "ssim": ("ssim", "SSIM, paper"), "lpips": ("lpips", "LPIPS, paper")}
_PAPER |= {"fid_2048": ("fid", "FID, paper (layer not stated)")}
"""Metric of ours -> published metric, and the heading of its column, which stands to the right."""

_NONE = "–"


def sweep_markdown(sweep: SweepDirectory) -> str:
    """Return the tables of a sweep: its scores beside the published ones, what is missing and why, and the cost.

    Values are mean ± sample deviation over seeds; "2 of 3" says that a seed is missing.
    """
    about = sweep.content["about"]
    study = STUDIES.get(str(about.get("study")))
    rows = tidy_rows(sweep)
    metrics = list(study.metrics) if study is not None else _metrics_in(rows)
    parts = [f"# {about.get('title', 'Sweep')}"]
    if study is not None:
        parts.append(f"{study.source}, at the scale {about['scale']}.")
    if notes := about.get("notes"):
        parts.append("\n".join(f"- {note}" for note in notes))
    parts += ["## Scores", _scores(rows, metrics, study, about), *_missing(rows), "## Cost", _cost(rows)]
    return "\n\n".join(parts) + "\n"


def _metrics_in(rows: Sequence[Row]) -> list[str]:
    names = [row["metric"] for row in rows if row["split"] == "test" and row["class"] == "all"]
    return list(dict.fromkeys(name for name in names if not name.startswith("psnr_of_")))


def _scores(rows: Sequence[Row], metrics: Sequence[str], study: Study | None, about: Mapping[str, str]) -> str:
    published = study.rows if study is not None else ()
    by_metric = {metric: over_seeds(rows, metric) for metric in metrics}
    lines = next(iter(by_metric.values()), [])
    axes = list(dict.fromkeys(name for line in lines for name in line.labels))
    columns = [(metric, _PAPER.get(metric) if published else None) for metric in metrics]
    head = [*axes, *(text for metric, paper in columns for text in _headings(metric, paper))]
    if published:
        head.insert(len(axes), "beside the paper's")
    table = []
    besides = _besides(study, about)
    used = []
    for index, line in enumerate(lines):
        row = find_published(published, besides.get(_key(line.labels)))
        used.append(row)
        cells = [_text(line.labels.get(axis)) for axis in axes] + ([_name(row)] if published else [])
        for metric, paper in columns:
            cells.append(_value(by_metric[metric][index], metric))
            cells += [_published(row, paper[0])] if paper else []
        table.append(cells)
    for row in published:
        if row not in used:
            cells = [*("not run here" if i == 0 else "" for i in range(len(axes))), _name(row)]
            for _, paper in columns:
                cells += [_NONE, _published(row, paper[0])] if paper else [_NONE]
            table.append(cells)
    return _markdown(head, table)


def _headings(metric: str, paper: tuple[str, str] | None) -> list[str]:
    return [metric_label(metric)] + ([paper[1]] if paper else [])


def _besides(study: Study | None, about: Mapping[str, str]) -> dict[tuple[object, ...], Mapping[str, Label] | None]:
    if study is None:
        return {}
    return {_key(line.labels): line.beside for line in study.lines(about["scale"])}  # type: ignore[arg-type]


def _key(labels: Mapping[str, Label]) -> tuple[object, ...]:
    return tuple(sorted((name, str(value)) for name, value in labels.items() if value is not None))


def _value(line: Summary, metric: str) -> str:
    if line.mean is None:
        return "n/a"
    text = format_value(metric, line.mean)
    if line.deviation is not None:
        text += f" ± {format_value(metric, line.deviation)}"
    return text + (f" ({len(line.values)} of {line.expected})" if len(line.values) < line.expected else "")


def _published(row: Published | None, metric: str) -> str:
    return _NONE if row is None or metric not in row.values else format_value(metric, row.values[metric])


def _name(row: Published | None) -> str:
    return _NONE if row is None else ", ".join(str(value) for value in row.labels.values())


def _missing(rows: Sequence[Row]) -> list[str]:
    found = [f"- {row['cell']}: {row['status']}{_because(row['reason'])}" for row in rows if row["metric"] is None]
    return ["## Not there", "\n".join(found)] if found else []


def _because(reason: str) -> str:
    return f" ({' '.join(reason.split())})" if reason else ""


def _cost(rows: Sequence[Row]) -> str:
    names = {"encoder_parameters": "encoder parameters", "steps": "steps", "seconds": "time (s)"}
    names |= {"cpu_seconds": "CPU time (s)", "peak_memory_bytes": "peak memory (GB)"}
    by_name = {name: over_seeds(rows, name, None, None) for name in names}
    lines = by_name["seconds"]
    axes = list(dict.fromkeys(axis for line in lines for axis in line.labels))
    table = []
    for index, line in enumerate(lines):
        values = [by_name[name][index].mean for name in names]
        if any(value is not None for value in values):
            table.append([_text(line.labels.get(axis)) for axis in axes] + list(map(_amount, names, values)))
    return _markdown([*axes, *names.values()], table)


def _amount(name: str, value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value / 1e9:.2f}" if name == "peak_memory_bytes" else f"{value:,.0f}"


def _text(value: Label) -> str:
    return "" if value is None else str(value)


def _markdown(head: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    if not table or not head:
        return "Nothing is measured yet."
    lines = [head, ["---"] * len(head), *table]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
