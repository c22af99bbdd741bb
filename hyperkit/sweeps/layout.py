"""A sweep's numbers in the layout of the paper's table, with the published value beside each of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperkit.metrics.catalogue import format_value, metric_label, metric_name
from hyperkit.sweeps.cell import Label
from hyperkit.sweeps.document import Section, Table
from hyperkit.sweeps.lines import axes_of, names_of, references, text_of
from hyperkit.sweeps.published import Published, find_published
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.studies import STUDIES, Study
from hyperkit.sweeps.table import Row, Summary, difference, over_seeds

_PAPER = {"psnr": ("psnr", "PSNR, paper"), "ssim": ("ssim", "SSIM, paper"), "lpips": ("lpips", "LPIPS, paper")}
_PAPER |= {"fid_2048": ("fid", "FID, paper (layer not stated)")}
"""Metric of ours -> published metric, and the heading of its column, which stands to the right."""

_COST = {
    "encoder_parameters": "encoder parameters",
    "steps": "steps",
    "seconds": "time (s)",
    "cpu_seconds": "CPU time (s)",
    "peak_memory_bytes": "peak memory (GB)",
    "gpu_peak_memory_bytes": "GPU memory (GB)",
    "gpu_energy_joules": "GPU energy (Wh)",
}
_ADDED_UP = ("seconds", "cpu_seconds", "gpu_energy_joules")

NOT_RUN = "not run here"
"""First cell of a line of the published table that a study has no counterpart of."""

_NONE = "–"
_MISSING = "n/a"


def study_of(sweep: SweepDirectory) -> Study | None:
    """Return the study that a sweep is, or None for a grid of one's own."""
    return STUDIES.get(str(sweep.content["about"].get("study")))


def metrics_of(sweep: SweepDirectory, rows: Sequence[Row]) -> list[str]:
    """Return the metrics of a sweep's tables: those of its study, or all that were measured; the main one first."""
    study = study_of(sweep)
    if study is not None:
        return list(study.metrics)
    names = [row["metric"] for row in rows if row["split"] == "test" and row["class"] == "all"]
    return list(dict.fromkeys(name for name in names if not name.startswith(("psnr_of_", "retrieval_"))))


def title_of(sweep: SweepDirectory) -> str:
    """Return the heading of a report."""
    return str(sweep.content["about"].get("title", "Sweep"))


def lead_of(sweep: SweepDirectory) -> list[str]:
    """Return what the runs start from, how many of them stand where, and the command that asked for them."""
    about, study = sweep.content["about"], study_of(sweep)
    definitions = [entry.folder.definition() for entry in sweep.entries() if entry.not_applicable is None]
    kinds = list(dict.fromkeys((d["task"], d["recipe"]) for d in definitions))
    what = [f"{study.source}, at the scale {about['scale']}."] if study is not None else []
    if kinds:
        recipes = ", ".join(f"`{recipe}` ({task})" for task, recipe in kinds[:4])
        recipes += f" and {len(kinds) - 4} more" if len(kinds) > 4 else ""
        start = "the recipe" if len(kinds) == 1 else "one of the recipes"
        what.append(f"Each line starts from {start} {recipes}; a run's whole command is in its cell.json.")
    counts = ", ".join(f"{count} {status}" for status, count in sweep.counts().items())
    what.append(f"Runs: {counts or 'none'}.")
    lead = [" ".join(what)]
    return lead + ([f"Command: `{about['command']}`"] if about.get("command") else [])


def notes_of(sweep: SweepDirectory) -> list[str]:
    """Return the sentences on scale and data that a sweep keeps: what stands for what."""
    return [str(note) for note in sweep.content["about"].get("notes") or ()]


def scores(sweep: SweepDirectory, rows: Sequence[Row]) -> Section:
    """Return the table of scores; where the study has a published table, its values stand beside ours.

    Values are mean ± sample deviation over seeds; "2 of 3" says that a seed is missing.
    """
    study, metrics = study_of(sweep), metrics_of(sweep, rows)
    published = study.rows if study is not None else ()
    by_metric = {metric: over_seeds(rows, metric) for metric in metrics}
    lines = next(iter(by_metric.values()), [])
    axes = axes_of([line.labels for line in lines])
    columns = [(metric, _PAPER.get(metric) if published else None) for metric in metrics]
    head = [*axes, *(["beside the paper's"] if published else [])]
    head += [text for metric, paper in columns for text in _headings(metric, paper)]
    table = []
    besides = _besides(study, sweep.content["about"])
    used = []
    for index, line in enumerate(lines):
        row = find_published(published, besides.get(_key(line.labels)))
        used.append(row)
        cells = [text_of(line.labels.get(axis)) for axis in axes] + ([_name(row)] if published else [])
        for metric, paper in columns:
            cells.append(_value(by_metric[metric][index], metric))
            cells += [_published(row, paper[0])] if paper else []
        table.append(cells)
    for row in published:
        if row not in used:
            cells = [*(NOT_RUN if i == 0 else "" for i in range(len(axes))), _name(row)]
            for _, paper in columns:
                cells += [_NONE, _published(row, paper[0])] if paper else [_NONE]
            table.append(cells)
    notes = [f"{', '.join(map(metric_name, names))}: {why}." for why, names in _unavailable(sweep, metrics).items()]
    several = any(line.expected > 1 for line in lines)
    if several:
        notes.insert(0, "Values are means ± sample deviations over seeds.")
    return Section("Scores", table=Table(head, table, len(axes) + bool(published)), notes=tuple(notes))


def _unavailable(sweep: SweepDirectory, metrics: Sequence[str]) -> dict[str, list[str]]:
    """Return why metrics were not measured -> these metrics, each with the reason of the first run that gives one."""
    reasons: dict[str, str] = {}
    for folder in sweep.folders():
        for name, reason in ((folder.result() or {}).get("unavailable") or {}).items():
            if name in metrics:
                reasons.setdefault(name, str(reason).rstrip("."))
    return {why: [name for name in reasons if reasons[name] == why] for why in dict.fromkeys(reasons.values())}


def _headings(metric: str, paper: tuple[str, str] | None) -> list[str]:
    return [metric_label(metric)] + ([paper[1]] if paper else [])


def _besides(study: Study | None, about: Mapping[str, Any]) -> dict[tuple[object, ...], Mapping[str, Label] | None]:
    if study is None:
        return {}
    return {_key(line.labels): line.beside for line in study.lines(about["scale"])}


def _key(labels: Mapping[str, Label]) -> tuple[object, ...]:
    return tuple(sorted((name, str(value)) for name, value in labels.items() if value is not None))


def _value(line: Summary, metric: str) -> str:
    if line.mean is None:
        return line.absence
    text = format_value(metric, line.mean)
    if line.deviation is not None:
        text += f" ± {format_value(metric, line.deviation)}"
    return text + (f" ({len(line.values)} of {line.expected})" if len(line.values) < line.expected else "")


def _published(row: Published | None, metric: str) -> str:
    return _NONE if row is None or metric not in row.values else format_value(metric, row.values[metric])


def _name(row: Published | None) -> str:
    return _NONE if row is None else ", ".join(str(value) for value in row.labels.values())


def differences(sweep: SweepDirectory, rows: Sequence[Row]) -> list[Section]:
    """Return the table of what each line gains over the one without pretraining; nothing where none is compared.

    A gain is taken seed by seed, and has a 95 % interval where two seeds or more are there.
    """
    metrics = metrics_of(sweep, rows)
    by_metric = {metric: over_seeds(rows, metric) for metric in metrics}
    lines = next(iter(by_metric.values()), [])
    names, against = names_of([line.labels for line in lines]), references([line.labels for line in lines])
    gains = {
        metric: [None if k is None else difference(line, found[k]) for line, k in zip(found, against, strict=True)]
        for metric, found in by_metric.items()
    }
    shown = [metric for metric in metrics if any(gain is not None and gain.values for gain in gains[metric])]
    if not shown:
        return []
    head = ["line", "against"]
    for metric in shown:
        head += [metric_label(metric), "95 % interval"]
    head.append(f"{metric_name(shown[0])} seed by seed")
    table = []
    for index, k in enumerate(against):
        if k is not None and any(gains[metric][index].values for metric in shown):  # type: ignore[union-attr]
            cells = [names[index], names[k]]
            for metric in shown:
                cells += _gain(gains[metric][index], metric)
            values = gains[shown[0]][index].values.values()  # type: ignore[union-attr]
            cells.append(", ".join(_signed(shown[0], value) for value in values) or _NONE)
            table.append(cells)
    notes = (
        "Differences are taken seed by seed: two runs of one seed see the same items in the same order. The "
        "interval is Student's, over seeds; one seed has none.",
    )
    return [Section("Differences", table=Table(head, table, 2), notes=notes)]


def _gain(gain: Summary | None, metric: str) -> list[str]:
    if gain is None or gain.mean is None:
        return [_NONE, _NONE]
    interval = gain.interval()
    text = _NONE if interval is None else " to ".join(_signed(metric, limit) for limit in interval)
    return [_signed(metric, gain.mean), text]


def _signed(metric: str, value: float) -> str:
    text = format_value(metric, abs(value))
    return ("−" if value < 0 else "+") + text


def missing(rows: Sequence[Row]) -> list[Section]:
    """Return the list of the cells without results, with their reasons; nothing where there are none."""
    found = [f"{row['cell']}: {row['status']}{_because(row['reason'])}" for row in rows if row["metric"] is None]
    return [Section("Not there", items=tuple(found))] if found else []


def _because(reason: str) -> str:
    return f" ({' '.join(reason.split())})" if reason else ""


def cost(rows: Sequence[Row]) -> Section:
    """Return the table of what a run of each line costs, as a mean over seeds, and of all runs together."""
    by_name = {name: over_seeds(rows, name, None, None) for name in _COST}
    lines = by_name["seconds"]
    axes = axes_of([line.labels for line in lines])
    table: list[list[str]] = []
    for index, line in enumerate(lines):
        values = [by_name[name][index].mean for name in _COST]
        if any(value is not None for value in values):
            table.append([text_of(line.labels.get(axis)) for axis in axes] + list(map(_amount, _COST, values)))
    if len(table) > 1:
        runs = {(row["cell"], row["metric"]): row["value"] for row in rows if row["metric"] in _ADDED_UP}
        total = {name: [v for (_, metric), v in runs.items() if metric == name] for name in _ADDED_UP}
        sums = [_amount(name, sum(total[name])) if total.get(name) else "" for name in _COST]
        table.append([*("all runs together" if i == 0 else "" for i in range(len(axes))), *sums])
    notes = (
        "A line is one run, from its last start, evaluation and pictures included; memory is that of its largest "
        "process. Those of GPUs are of the whole devices, read every five seconds; n/a where the machine does not "
        "tell them.",
    )
    return Section("Cost", table=Table([*axes, *_COST.values()], table, len(axes)), notes=notes if table else ())


def _amount(name: str, value: float | None) -> str:
    if value is None:
        return _MISSING if name.startswith("gpu_") else _NONE
    if name == "gpu_energy_joules":
        return f"{value / 3600:.2f}"
    return f"{value / 1e9:.2f}" if name.endswith("memory_bytes") else f"{value:,.0f}"
