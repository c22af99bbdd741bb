"""The report of a sweep: its table, and what it says, as Markdown and as one HTML file with plots and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperkit.files import write_text
from hyperkit.metrics.catalogue import metric_name, metric_value
from hyperkit.sweeps import layout
from hyperkit.sweeps.curves import AXIS_NAMES, Against, axes_to_plot, curves, law_in_words
from hyperkit.sweeps.document import Links, Picture, Section, Table, markdown
from hyperkit.sweeps.lines import names_of
from hyperkit.sweeps.page import page
from hyperkit.sweeps.plots import plot_curves, plot_lines
from hyperkit.sweeps.state import CellFolder
from hyperkit.sweeps.store import Entry, SweepDirectory
from hyperkit.sweeps.table import SEED, Row, over_seeds, tidy_rows, write_table

_SHOWN = ("examples.png", "contact_sheet.png", "captions.png", "views.png")
"""Pictures of a run, the most telling first; where there is none of them, the first other one is shown."""

_MOST_LINES = 40
"""A sweep of more lines has no plot with a row for each."""

_LAWS = (
    "Power laws are fitted by least squares of the logarithms, every seed a point; intervals and bands hold with 95 % "
    "confidence where errors scatter alike at all places. Plots of up to four curves show those with a trend, dashed. "
    "Curves with error bars stand a little apart, so that the bars can be told from each other."
)


def write_report(sweep: SweepDirectory) -> dict[str, Path]:
    """Write ``table.csv``, ``table.parquet``, ``report.md``, ``report.html`` and ``plots/`` into the sweep's folder.

    It may be written at any time; what is not done yet is said to be so.

    Args:
        sweep: the sweep.

    Returns:
        "csv", "parquet", "markdown", "html", and the name of each plot -> path.

    Raises:
        RunFailed: the disk is full or the folder cannot be written.
    """
    rows = tidy_rows(sweep)
    plots = _plots(sweep, rows)
    sections = [
        layout.scores(sweep, rows),
        *layout.differences(sweep, rows),
        *plots,
        *_pictures(sweep, rows),
        *layout.missing(rows),
        *_runs(sweep, rows),
        layout.cost(rows),
    ]
    content = layout.title_of(sweep), layout.lead_of(sweep), layout.notes_of(sweep), sections, sweep.path
    paths = {**write_table(sweep), "markdown": sweep.path / "report.md", "html": sweep.path / "report.html"}
    write_text(paths["markdown"], markdown(*content))
    write_text(paths["html"], page(*content))
    return paths | {picture.path.stem: picture.path for section in plots for picture in section.pictures}


def _plots(sweep: SweepDirectory, rows: Sequence[Row]) -> list[Section]:
    """Draw what can be drawn; plots of an earlier report that are not drawn again vanish."""
    folder = sweep.path / "plots"
    metrics = [m for m in layout.metrics_of(sweep, rows) if any(line.values for line in over_seeds(rows, m))]
    sections = [_against(folder, rows, metrics, axis) for axis in axes_to_plot(rows)] if metrics else []
    if metrics and not sections:
        sections = _by_line(folder, rows, metrics)
    kept = {picture.path for section in sections for picture in section.pictures}
    for stale in folder.glob("*.png"):
        if stale not in kept:
            stale.unlink()
    return sections


def _against(folder: Path, rows: Sequence[Row], metrics: Sequence[str], axis: Against) -> Section:
    pictures, words = [], []
    for metric in metrics:
        found = curves(rows, metric, axis)
        if not found:
            continue
        path = folder / f"{metric}_by_{axis}.png"
        plot_curves(path, found, metric, axis)
        pictures.append(
            Picture(path, f"{metric_name(metric)} against the {AXIS_NAMES[axis]}; bars: deviation over seeds.")
        )
        words += [f"{metric_name(metric)}, {law_in_words(curve, metric, axis)}" for curve in found]
    title = "Against the " + ("training data" if axis == "data_fraction" else "size of the encoder")
    return Section(title, pictures=tuple(pictures), items=tuple(words), notes=(_LAWS,))


def _by_line(folder: Path, rows: Sequence[Row], metrics: Sequence[str]) -> list[Section]:
    lines = over_seeds(rows, metrics[0])
    if not 1 < len(lines) <= _MOST_LINES:
        return []
    names = names_of([line.labels for line in lines])
    pictures = []
    for metric in metrics:
        path = folder / f"{metric}_by_line.png"
        plot_lines(path, names, over_seeds(rows, metric), metric)
        pictures.append(Picture(path, f"{metric_name(metric)}: mean and deviation over seeds; pale dots are seeds."))
    return [Section("Line by line", pictures=tuple(pictures))]


def _pictures(sweep: SweepDirectory, rows: Sequence[Row]) -> list[Section]:
    """Show one picture of each line, of its first seed that has one."""
    main = next(iter(layout.metrics_of(sweep, rows)), None)
    chosen: dict[tuple[object, ...], tuple[Entry, Path]] = {}
    for entry in sweep.entries():
        key = tuple((name, value) for name, value in entry.labels.items() if name != SEED)
        picture = None if entry.not_applicable is not None else _picture_of(entry.folder)
        if picture is not None and entry.status() == "done":
            chosen.setdefault(key, (entry, picture))
    pictures = []
    names = names_of([dict(key) for key in chosen])  # type: ignore[arg-type]
    for name, (entry, path) in zip(names, chosen.values(), strict=True):
        value = _score(entry, main)
        seed = entry.labels.get(SEED)
        what = ", ".join([*([name] if name else []), *([f"seed {seed}"] if seed is not None else [])])
        text = ": ".join(part for part in (what, value) if part)
        pictures.append(Picture(path, text, wide=False))
    return [Section("Pictures", pictures=tuple(pictures))] if pictures else []


def _picture_of(folder: CellFolder) -> Path | None:
    media = folder.run / "media"
    named = [media / name for name in _SHOWN]
    others = (path for path in sorted(media.glob("*.png")) if path.name != "curves.png")
    return next((path for path in (*named, *others) if path.is_file()), None)


def _score(entry: Entry, metric: str | None) -> str:
    value = (((entry.folder.result() or {}).get("test") or {}).get("all") or {}).get(metric)
    if metric is None or not isinstance(value, (int, float)):
        return ""
    return metric_value(metric, value)


def _runs(sweep: SweepDirectory, rows: Sequence[Row]) -> list[Section]:
    """List every cell: how it ended and why, its score, and where its command, curves, results and picture are."""
    main = next(iter(layout.metrics_of(sweep, rows)), None)
    table: list[list[str | Links]] = []
    for entry in sweep.entries():
        status, state = entry.status(), entry.folder.state()
        reason = entry.not_applicable or (str(state.get("reason", "")) if status == "failed" else "")
        attempts = int(state.get("attempt", 0))
        reason = " ".join(reason.split()) or (f"started {attempts} times" if attempts > 1 else "")
        score = _score(entry, main) if status == "done" else ""
        table.append([entry.folder.path.name, status, score, reason, _links(entry)])
    headings = ("run", "status", "score", "remark", "files")
    return [Section("Runs", table=Table(headings, table, len(headings)))] if table else []


def _links(entry: Entry) -> Links:
    run = entry.folder.run
    picture = _picture_of(entry.folder)
    places = {
        "cell.json": entry.folder.path / "cell.json",
        "curves": run / "media" / "curves.png",
        "results": run / "results.md",
        "picture": picture,
    }
    if entry.not_applicable is None and entry.status() == "failed":
        places["messages"] = entry.folder.path / "stderr.txt"
    return Links(tuple((name, path) for name, path in places.items() if path is not None and path.is_file()))
