"""Tables of results: ``results.json``, ``results.csv`` and ``results.md``, and one for the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperkit.contracts import Scores
from hyperkit.files import write_text
from hyperkit.metrics.aggregate import ALL, CLASS_MEAN, better_constant, mean
from hyperkit.metrics.catalogue import CATALOGUE, format_value, metric_label

if TYPE_CHECKING:
    from rich.table import Table

CSV_COLUMNS = ("split", "class", "metric", "value", "n", "standard_error")
_NOT_METRICS = frozenset({"n", "n_of", "classes", "standard_error"})
_GROUP_NAMES = {ALL: "all", CLASS_MEAN: "class mean"}
_MISSING = "n/a"


def write_results(folder: str | os.PathLike[str], results: Mapping[str, Any]) -> dict[str, Path]:
    """Write ``results.json``, ``results.csv`` and ``results.md``, each at once or not at all.

    Args:
        folder: the run directory; made if absent.
        results: one entry per split, named "test", "val", ...: group ("all", a class, "class_mean") -> metric -> value,
            with ``n``, ``n_of`` and ``standard_error``, as ``metrics.aggregate`` gives it. Beside them, as far as
            known: ``constants`` (constant -> class -> PSNR in dB, or constant -> split -> class),
            ``retrieval`` ("among": count, "by": measure -> split -> k -> share of captions), ``unavailable`` (metric ->
            reason), ``notes`` (metric -> remark), ``weights`` (network -> file, sha256, licence), ``pairs`` (hash of
            the evaluation pairs), ``seconds``, ``steps``, ``config`` and anything else that JSON can hold.

    Returns:
        "json", "csv", "md" -> path. Values that JSON has no number for (nan, inf) become null, and the reason is
        added under ``unavailable``.

    Raises:
        RunFailed: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    clean = plain_results(results)
    texts = {
        "json": json.dumps(clean, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "csv": results_csv(clean),
        "md": results_markdown(clean),
    }
    paths = {kind: folder / f"results.{kind}" for kind in texts}
    for kind, text in texts.items():
        write_text(paths[kind], text)
    return paths


def write_items(path: str | os.PathLike[str], scores: Scores) -> Path:
    """Write one row per item, in the order of evaluation: id, class and its metrics, for paired comparisons.

    Args:
        path: the CSV file.
        scores: of all items; a value that is None is an empty cell.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("id", "class", *scores.values))
    classes = scores.classes or ("",) * len(scores.ids)
    for index, (name, label) in enumerate(zip(scores.ids, classes, strict=True)):
        values = (column[index] for column in scores.values.values())
        writer.writerow((name, label, *("" if v is None else repr(float(v)) for v in values)))
    write_text(Path(path), buffer.getvalue())
    return Path(path)


def plain_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``results`` as plain JSON values; what is not finite is null, with its reason under ``unavailable``."""
    clean: dict[str, Any] = _plain(results)
    reasons: dict[str, str] = dict(clean.get("unavailable") or {})
    for split in split_names(results):
        for label, group in results[split].items():
            for name in _metrics_of(group):
                value = group[name]
                if value is None or math.isfinite(value):
                    continue
                why = "some items are reproduced exactly" if value == math.inf and name == "psnr" else "not finite"
                reasons.setdefault(f"{name} ({split}, {label})", f"{value}: {why}")
    return {**clean, "unavailable": reasons}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a number of NumPy's or torch's
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)  # paths and the like


def split_names(results: Mapping[str, Any]) -> list[str]:
    """Return the splits that results hold, in order."""
    return [k for k, v in results.items() if isinstance(v, Mapping) and isinstance(v.get(ALL), Mapping)]


def _metrics_of(group: Mapping[str, Any]) -> list[str]:
    return [name for name in group if name not in _NOT_METRICS]


def results_csv(results: Mapping[str, Any]) -> str:
    """Return one row per split, class and metric; a missing value is an empty cell.

    Constants are metrics too: ``psnr_of_white``, ``psnr_of_mean``.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for split in split_names(results):
        for label, group in results[split].items():
            errors = group.get("standard_error") or {}
            rows = [(name, group[name], errors.get(name)) for name in _metrics_of(group)]
            rows += [(f"psnr_of_{c}", v, None) for c, v in _constants(results, split).get(label, {}).items()]
            for name, value, error in rows:
                cells = ["" if x is None else repr(x) if isinstance(x, float) else x for x in (value, error)]
                count = (group.get("n_of") or {}).get(name, group.get("n", ""))
                writer.writerow((split, label, name, cells[0], count, cells[1]))
    for measure, by_split in ((results.get("retrieval") or {}).get("by") or {}).items():
        for split, shares in by_split.items():
            for k, share in shares.items():
                row = (split, ALL, f"retrieval_{measure}_first_{k}", repr(float(share)), results[split][ALL]["n"], "")
                writer.writerow(row)
    return buffer.getvalue()


def _constants(results: Mapping[str, Any], split: str) -> dict[str, dict[str, float]]:
    """Return group -> constant -> PSNR, with "better" (per class) where both the classes and counts are known."""
    groups = results[split]
    given = {n: v.get(split, v) for n, v in (results.get("constants") or {}).items() if isinstance(v, Mapping)}
    if not given:
        return {}
    classes = [label for label in groups if label not in (ALL, CLASS_MEAN)]
    known = classes and all(isinstance(v.get(c), (int, float)) for v in given.values() for c in classes)
    table = {name: dict(values) for name, values in given.items()}
    if known:
        for values in table.values():
            values.setdefault(CLASS_MEAN, mean(values[c] for c in classes))
        if "better" not in table:
            table["better"] = better_constant(table, {c: groups[c].get("n", 0) for c in classes})
    elif "better" not in table and all(ALL in v for v in given.values()):
        table["better"] = {ALL: max(v[ALL] for v in given.values())}
    return {g: {name: v[g] for name, v in table.items() if v.get(g) is not None} for g in groups}


def _cells(results: Mapping[str, Any], split: str, errors: bool = True) -> tuple[list[str], list[list[str]], list[str]]:
    """Return headings, rows and footnotes of one split's table; ``errors`` adds standard errors."""
    groups = results[split]
    names = list(dict.fromkeys(name for group in groups.values() for name in _metrics_of(group)))
    constants = _constants(results, split)
    shown = list(dict.fromkeys(name for by_name in constants.values() for name in by_name))
    gains = "better" in shown and "psnr" in names
    columns = [c for c in shown if c != "better" or not gains]
    notes, marks = _footnotes(results, names)
    headings = ["class", "n", *(metric_label(n) + marks.get(n, "") for n in names)]
    headings += [f"PSNR of {'mean picture' if c == 'mean' else c} (dB)" for c in columns]
    if gains:
        headings.append("gain (dB) ↑")
        notes.append("gain: PSNR above that of the better constant, chosen for each class.")
    rows = []
    for label, group in groups.items():
        row = [_GROUP_NAMES.get(label, label), str(group.get("n", ""))]
        for name in names:
            value, error = group.get(name), (group.get("standard_error") or {}).get(name)
            text = _MISSING if value is None else format_value(name, value)
            text = f"{text} ± {format_value(name, error)}" if errors and error is not None else text
            own_count = (group.get("n_of") or {}).get(name)
            row.append(text if own_count is None else f"{text} (n = {own_count})")
        own = constants.get(label, {})
        row += [_MISSING if c not in own else format_value("psnr", own[c]) for c in columns]
        if gains:
            known = "better" in own and group.get("psnr") is not None
            row.append(f"{group['psnr'] - own['better']:+.3f}" if known else _MISSING)
        rows.append(row)
    return headings, rows, notes


_MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


def _footnotes(results: Mapping[str, Any], names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the notes in order, and metric -> the marks to put at its heading. Equal reasons share a note."""
    entries: dict[str, list[str]] = {}
    for kind, text in (("unavailable", "n/a: "), ("notes", "")):
        for name, reason in (results.get(kind) or {}).items():
            entries.setdefault(text + reason, []).append(name)

    def column(name: str) -> int:
        base = name.split(" ")[0].rstrip(",")  # "psnr (test, cars)" speaks of psnr
        return names.index(base) if base in names else len(names)

    notes, marks = [], dict.fromkeys(names, "")
    ordered = sorted(entries.items(), key=lambda entry: min(map(column, entry[1])))
    for index, (text, about) in enumerate(ordered):
        mark = _MARKS[index] if index < len(_MARKS) else f"({index + 1})"
        for name in {names[i] for i in map(column, about) if i < len(names)}:
            marks[name] += f" {mark}"
        subject = ", ".join(CATALOGUE[n].name if n in CATALOGUE else n for n in about)
        notes.append(f"{mark} {subject} {text}" if text.startswith("n/a") else f"{mark} {subject}: {text}")
    return notes, marks


def results_markdown(results: Mapping[str, Any]) -> str:
    """Return the tables as Markdown: a row per class, units, directions, counts, footnotes, and where it comes from."""
    lines = ["# Results", ""]
    notes: list[str] = []
    for split in split_names(results):
        headings, rows, notes = _cells(results, split)
        lines += [f"## {split}", "", _md_row(headings), _md_row([":--", *["--:"] * (len(headings) - 1)])]
        lines += [*map(_md_row, rows), ""]
    for note in notes:
        lines += [note, ""]
    lines += retrieval_markdown(results)
    lines += ["Values are means over items ± standard error. ↑ more is better, ↓ less is better.", ""]
    lines += _provenance(results)
    return "\n".join(lines).rstrip() + "\n"


def retrieval_cells(results: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Return title, headings and rows of the retrieval of rendered scenes; no rows where there was none."""
    found = results.get("retrieval") or {}
    tables = found.get("by") or {}
    ks = list(dict.fromkeys(k for splits in tables.values() for shares in splits.values() for k in shares))
    rows = [
        [f"by {_RETRIEVED_BY.get(measure, measure)}", split, *(f"{100 * float(shares[k]):.1f} %" for k in ks)]
        for measure, splits in tables.items()
        for split, shares in splits.items()
    ]
    return f"retrieval among {found.get('among')} scenes", ["", "captions", *(f"first {k}" for k in ks)], rows


_RETRIEVED_BY = {"psnr": "PSNR", "clip": "CLIP"}


def retrieval_markdown(results: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of retrieval; none where nothing was retrieved."""
    title, headings, rows = retrieval_cells(results)
    if not rows:
        return []
    ruler = [":--", ":--", *["--:"] * (len(headings) - 2)]
    return [f"## {title}", "", _md_row(headings), _md_row(ruler), *map(_md_row, rows), ""]


def retrieval_rich_table(results: Mapping[str, Any]) -> Table | None:
    """Return the table of retrieval for the terminal; None where nothing was retrieved."""
    from rich import box
    from rich.table import Table

    title, headings, rows = retrieval_cells(results)
    if not rows:
        return None
    table = Table(*headings, title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row)
    return table


def _md_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _provenance(results: Mapping[str, Any]) -> list[str]:
    lines = []
    if results.get("pairs"):
        lines.append(f"- evaluation pairs: `{results['pairs']}`")
    if results.get("steps") is not None:
        lines.append(f"- training steps: {results['steps']}")
    if results.get("seconds") is not None:
        lines.append(f"- seconds: {results['seconds']:.1f}")
    for network, entry in (results.get("weights") or {}).items():
        if isinstance(entry, Mapping):
            facts = [f"`{entry['file']}`", f"SHA-256 `{entry['sha256']}`", f"licence {entry['licence']}"]
            lines.append(f"- {network} weights: {', '.join(facts)}")
    return lines


def render_rich_table(results: Mapping[str, Any], split: str | None = None) -> Table:
    """Return the table of one split for the terminal.

    Args:
        results: as for ``write_results``.
        split: which; None takes the first.

    Raises:
        KeyError: ``results`` has no such split.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    clean = plain_results(results)
    splits = split_names(clean)
    if (split is not None and split not in splits) or not splits:
        raise KeyError(f"results have no split {split!r}; they have {splits}")
    split = split or splits[0]
    headings, rows, notes = _cells(clean, split, errors=False)
    caption = Text("\n".join(notes), justify="left", style="dim")
    table = Table(
        title=f"{split} results", caption=caption, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0)
    )
    table.add_column(headings[0], overflow="fold")
    # a metric that no row has is left to the notes: its column would squeeze the others
    shown = [i for i in range(1, len(headings)) if any(row[i] != _MISSING for row in rows)]
    for index in shown:
        # headings may wrap between words, values never
        widest = max(map(len, [*headings[index].split(" "), *(row[index] for row in rows)]))
        table.add_column(Text(headings[index]), justify="right", min_width=widest)
    for row, label in zip(rows, clean[split], strict=True):
        table.add_row(row[0], *(row[i] for i in shown), style="bold" if label == ALL else None)
    return table
