"""The report of a sweep: what is compared with what, curves and their laws, and the page as a browser reads it."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from hyperkit.sweeps.cell import Cell, Label
from hyperkit.sweeps.curves import axes_to_plot, curves, error_scale, law_in_words
from hyperkit.sweeps.document import relative
from hyperkit.sweeps.layout import differences
from hyperkit.sweeps.lines import names_of, references
from hyperkit.sweeps.plots import plot_curves, plot_lines
from hyperkit.sweeps.report import write_report
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.studies import NANO_DINO, NANO_MAE, about, find_study
from hyperkit.sweeps.table import Summary, over_seeds, tidy_rows

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Reads a page, and complains about tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.images += [values["src"] or ""] if tag == "img" else []
        self.links += [values["href"] or ""] if "href" in values else []
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def sweep_of(
    root: Path,
    lines: list[Mapping[str, Label]],
    psnr: Callable[[Mapping[str, Label], int], float | None],
    seeds: int = 3,
    parameters: Callable[[Mapping[str, Label]], float] = lambda labels: 5e6,
    content: Mapping[str, object] | None = None,
) -> SweepDirectory:
    """A sweep with results that are made up; None fails."""
    cells = [
        Cell("nvs", "debug", {"line": k}, labels).with_seed(s) for k, labels in enumerate(lines) for s in range(seeds)
    ]
    sweep = SweepDirectory.create(root, cells, content or {"title": "Made up"})
    for entry in sweep.entries():
        value = psnr(entry.labels, int(entry.labels["seed"] or 0))
        if value is None:
            state = {"state": "failed", "reason": "Error: <NaN> & more | at step 3"}
            (entry.folder.path / "state.json").write_text(json.dumps(state))
            continue
        result = {
            "test": {"all": {"psnr": value, "ssim": 1 - 10 ** (-value / 40), "n": 6}},
            "steps": 12,
            "backbone": {"parameters": parameters(entry.labels)},
            "cost": {"seconds": 60.0, "cpu_seconds": 50.0, "peak_memory_bytes": 1e9},
        }
        (entry.folder.path / "result.json").write_text(json.dumps(result))
    return sweep


def paint(sweep: SweepDirectory) -> None:
    """Give every finished run its curves, results and a picture."""
    for folder in sweep.folders():
        if folder.status() == "done":
            (folder.run / "media").mkdir(parents=True)
            (folder.run / "results.md").write_text("# Results\n")
            for name in ("curves", "examples"):
                Image.new("RGB", (1000, 500), (200, 30, 30)).save(folder.run / "media" / f"{name}.png")


FRACTIONS: list[Mapping[str, Label]] = [
    {"backbone": "nano-dino", "strategy": strategy, "data_fraction": fraction}
    for strategy in ("random", "finetune")
    for fraction in (0.01, 0.1, 0.2, 0.5, 1.0)
]


def scattered(labels: Mapping[str, Label], seed: int) -> float:
    """-10 log10(0.02 x^-a), a = 0.1 without pretraining and 0.2 with it, and a scatter that depends on all."""
    exponent = 0.1 if labels["strategy"] == "random" else 0.2
    x = float(labels["data_fraction"] or 0)
    draw = np.random.default_rng([seed, int(1000 * x), int(10 * exponent)])
    return -10 * math.log10(0.02 * x**-exponent) + 0.2 * float(draw.standard_normal())


def test_names_say_as_little_as_tells_lines_apart() -> None:
    assert names_of(FRACTIONS[:1]) == ["nano-dino, random, data_fraction 0.01"]
    assert names_of([FRACTIONS[0], FRACTIONS[1], FRACTIONS[5]]) == [
        "random, data_fraction 0.01",
        "random, data_fraction 0.1",
        "finetune, data_fraction 0.01",
    ]
    assert names_of([{"family": "random", "strategy": "random"}, {"family": "dino", "strategy": "finetune"}]) == [
        "random",
        "dino",
    ]
    assert names_of([{}]) == [""]


def test_a_line_is_compared_with_the_one_without_pretraining_that_is_like_it_otherwise() -> None:
    assert references(FRACTIONS) == [None] * 5 + [0, 1, 2, 3, 4]
    table1: list[Mapping[str, Label]] = [
        {"backbone": NANO_DINO, "strategy": "random"},
        {"backbone": NANO_MAE, "strategy": "finetune"},
        {"backbone": NANO_DINO, "strategy": "finetune"},
    ]
    assert references(table1) == [None, 0, 0]
    both = [{"backbone": b, "strategy": s} for b in ("dino", "clip") for s in ("finetune", "random")]
    assert references(both) == [1, None, 3, None]
    sizes = [{"backbone": b, "size": s} for b in ("random", "dino") for s in ("small", "base")]
    assert references(sizes) == [None, None, 0, 1]
    # the fresh network of another size says nothing about this one
    assert references([{"backbone": "random", "size": "tiny"}, {"backbone": "dino", "size": "small"}]) == [None, None]
    assert references([{"groups": 1}, {"groups": 4}, {"groups": 16}]) == [None, 0, 0]


def test_differences_are_those_of_a_paired_t_test(tmp_path: Path) -> None:
    values = {"random": [20.0, 21.5, 19.8], "finetune": [21.1, 22.2, 21.3], "lora": [19.0, None, None]}
    lines = [{"strategy": name} for name in values]
    sweep = sweep_of(tmp_path / "s", lines, lambda labels, seed: values[str(labels["strategy"])][seed])
    (section,) = differences(sweep, tidy_rows(sweep))
    assert section.table is not None
    first, second = section.table.rows
    test = stats.ttest_rel(values["finetune"], values["random"])
    low, high = test.confidence_interval(0.95)
    mean = np.mean(np.subtract(values["finetune"], values["random"]))
    assert first[:4] == ["finetune", "random", f"+{mean:.3f}", f"+{low:.3f} to +{high:.3f}"]
    assert first[-1] == "+1.100, +0.700, +1.500"
    # one seed that both have: a difference without an interval
    assert (second[0], second[2], second[3], second[-1]) == ("lora", "−1.000", "–", "−1.000")


def test_a_curve_holds_the_points_of_one_strategy_and_its_law_is_the_regression_of_the_logarithms(
    tmp_path: Path,
) -> None:
    rows = tidy_rows(sweep_of(tmp_path / "s", FRACTIONS[::-1], scattered))
    assert axes_to_plot(rows) == ["data_fraction"]
    finetune, random = curves(rows, "psnr", "data_fraction")
    assert (finetune.name, random.name) == ("finetune", "random")
    assert random.x == (0.01, 0.1, 0.2, 0.5, 1.0)
    for curve in (finetune, random):
        x = np.repeat(curve.x, 3)
        y = np.array([value for point in curve.points for value in point.values.values()])
        line = stats.linregress(np.log(x), np.log(10 ** (-y / 10)))
        assert curve.law is not None
        assert curve.law.exponent == pytest.approx(line.slope, rel=1e-9)
        low, high = (line.slope + sign * stats.t.ppf(0.975, 13) * line.stderr for sign in (-1, 1))
        text = law_in_words(curve, "psnr", "data_fraction")
        found = [float(word.replace("−", "-")) for word in re.findall(r"[+−]\d+\.\d+", text)]
        assert found == pytest.approx([line.slope, low, high, -10 * line.slope], abs=6e-3)
        assert "15 points at 5 places" in text
    assert "no trend" not in law_in_words(finetune, "psnr", "data_fraction")


def test_encoders_of_a_family_make_one_curve_against_their_parameters(tmp_path: Path) -> None:
    plain = {"nano": 1.4e6, "timm:vit_tiny_patch16_224": 5.5e6, "random": 86e6}
    sizes = {**plain, "dino-small": 22e6, "dino": 86e6}
    lines = [{"backbone": name, "strategy": "random" if name in plain else "finetune"} for name in sizes]
    rows = tidy_rows(
        sweep_of(
            tmp_path / "s", lines, lambda labels, seed: 20.0 + seed, parameters=lambda lb: sizes[str(lb["backbone"])]
        )
    )
    assert axes_to_plot(rows) == ["encoder_parameters"]
    random, dino = curves(rows, "psnr", "encoder_parameters")
    assert (random.name, random.x) == ("random", tuple(plain.values()))
    assert (dino.name, dino.x) == ("dino", (22e6, 86e6))
    # every seed's values are alike at all sizes: nothing is shown, and that is said
    assert "no trend is shown" in law_in_words(random, "psnr", "encoder_parameters")


def test_timms_own_weights_are_not_called_random(tmp_path: Path) -> None:
    sizes = {"timm:vit_tiny_patch16_224": 5.5e6, "timm:vit_small_patch16_224": 22e6, "nano": 1.4e6, "random": 86e6}
    for lines, names in (
        ([{"backbone": name} for name in sizes], [*list(sizes)[:2], "random"]),
        ([{"backbone": name, "strategy": "random"} for name in sizes], ["random, random"]),
    ):
        root = tmp_path / str(len(names))
        sweep = sweep_of(root, lines, lambda lb, seed: 20.0, 1, parameters=lambda lb: sizes[str(lb["backbone"])])
        assert [curve.name for curve in curves(tidy_rows(sweep), "psnr", "encoder_parameters")] == names


def test_the_axes_size_and_family_make_curves_too_and_encoders_of_one_size_none(tmp_path: Path) -> None:
    counts = {"tiny": 5.5e6, "small": 22e6}
    grid = [
        {"backbone": f, "size": s, "strategy": t} for f in ("deit", "mae") for s in counts for t in ("lora", "frozen")
    ]
    rows = tidy_rows(
        sweep_of(tmp_path / "s", grid, lambda lb, seed: 20.0, 1, parameters=lambda lb: counts[str(lb["size"])])
    )
    found = curves(rows, "psnr", "encoder_parameters")
    assert [curve.name for curve in found] == ["deit, lora", "deit, frozen", "mae, lora", "mae, frozen"]
    assert all(curve.x == (5.5e6, 22e6) and curve.law is not None for curve in found)
    assert "two points, which leave no interval" in law_in_words(found[0], "psnr", "encoder_parameters")
    alike = [{"backbone": "clip"}, {"backbone": "dinov2"}]
    same = sweep_of(
        tmp_path / "t", alike, lambda lb, s: 20.0, parameters=lambda lb: 86.2e6 if lb["backbone"] == "clip" else 86.6e6
    )
    assert axes_to_plot(tidy_rows(same)) == []


@pytest.mark.parametrize("metric", ["psnr", "si_sdr", "ssim", "lpips", "fid_64", "miou"])
def test_errors_fall_as_metrics_get_better_and_lead_back(metric: str) -> None:
    scale = error_scale(metric)
    assert scale is not None
    better = [0.3, 0.2, 0.1] if metric in ("lpips", "fid_64") else [0.1, 0.2, 0.3]
    errors = scale.to_error(np.array(better))
    assert (np.diff(errors) < 0).all()
    assert scale.to_metric(errors) == pytest.approx(better, rel=1e-12)


def test_metrics_that_are_no_errors_have_no_law(tmp_path: Path) -> None:
    assert [error_scale(name) for name in ("nll", "within_1", "unheard of")] == [None, None, None]
    rows = tidy_rows(sweep_of(tmp_path / "s", [{"data_fraction": 0.5}, {"data_fraction": 1}], lambda lb, s: 20.0, 1))
    for row in rows:
        row["value"] = 1.0 if row["metric"] == "ssim" else row["value"]  # an error of 0
    (curve,) = curves(rows, "ssim", "data_fraction")
    assert curve.law is None
    assert "no power law" in law_in_words(curve, "ssim", "data_fraction")


def colours_of(path: Path) -> set[tuple[int, int, int]]:
    picture = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    values, counts = np.unique(picture, axis=0, return_counts=True)
    return {tuple(int(c) for c in value) for value, count in zip(values, counts, strict=True) if count > 40}


def test_a_crowded_plot_shows_every_curve_also_that_of_one_point(tmp_path: Path) -> None:
    families = [f"family{k}" for k in range(7)]
    sizes = {"tiny": 5.5e6, "small": 22e6, "base": 86e6, "large": 304e6}
    lines = [{"family": f, "backbone": f"{f}-{s}", "size": s} for f in families for s in sizes]

    def psnr(labels: Mapping[str, Label], seed: int) -> float | None:
        family, size = families.index(str(labels["family"])), list(sizes).index(str(labels["size"]))
        return None if (family == 3 and size != 1) or (family == 5 and size == 0) else 20 + 0.2 * family + 0.5 * size

    rows = tidy_rows(sweep_of(tmp_path / "s", lines, psnr, 1, parameters=lambda lb: sizes[str(lb["size"])]))
    found = curves(rows, "psnr", "encoder_parameters")
    assert [len(curve.points) for curve in found] == [4, 4, 4, 1, 4, 3, 4]
    path = tmp_path / "crowded.png"
    plot_curves(path, found, "psnr", "encoder_parameters")
    drawn = colours_of(path)
    expected = ("#4c78a8", "#e4572e", "#59a14f", "#b07aa1", "#f0a030", "#2f9c95", "#8c564b")
    assert {tuple(bytes.fromhex(text[1:])) for text in expected} <= drawn


def test_a_single_point_and_an_empty_line_are_drawn(tmp_path: Path) -> None:
    labels = [{"data_fraction": 0.5}, {"data_fraction": 1}]
    rows = tidy_rows(sweep_of(tmp_path / "s", labels, lambda lb, s: 20.0 if lb["data_fraction"] == 1 else None, 1))
    found = curves(rows, "psnr", "data_fraction")
    plot_curves(tmp_path / "one.png", found, "psnr", "data_fraction")
    plot_lines(tmp_path / "lines.png", ["a", "b"], over_seeds(rows, "psnr"), "psnr")
    for name in ("one.png", "lines.png"):
        assert (76, 120, 168) in colours_of(tmp_path / name)
    nothing = [Summary({}, {}, 1)]
    plot_lines(tmp_path / "none.png", ["a"], nothing, "psnr")
    assert (76, 120, 168) not in colours_of(tmp_path / "none.png")


def test_the_page_of_a_figure_stands_alone_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    study = find_study("figure2")
    told = {**about(study, "debug"), "command": "hyperkit scale-sweep --study figure2 --set a=<b>"}
    sweep = sweep_of(tmp_path / "a b", FRACTIONS, scattered, content=told)
    paint(sweep)
    paths = write_report(sweep)
    text = paths["html"].read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport" content="width=device-width' in text
    assert all(image.startswith("data:image/") for image in page.images)
    for image in page.images:
        Image.open(io.BytesIO(base64.b64decode(image.split(",", 1)[1]))).verify()
    # two plots, and a picture of each of ten lines, reduced
    assert len(page.images) == 2 + 10
    small = [Image.open(io.BytesIO(base64.b64decode(i.split(",", 1)[1]))) for i in page.images if "jpeg" in i]
    assert {image.size for image in small} == {(900, 450)}
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inside) == set(page.ids)
    outside = [link for link in page.links if not link.startswith("#")]
    assert len(outside) == 10 + 4 * 30
    assert all((sweep.path / link).is_file() for link in outside)
    assert "--set a=&lt;b&gt;</code>" in text
    for note in told["notes"]:
        assert note.replace("'", "&#x27;") in text
    assert sum("squared error ∝ data^" in line for line in text.splitlines()) >= 1
    assert set(paths) >= {"csv", "markdown", "html", "psnr_by_data_fraction", "ssim_by_data_fraction"}


def test_addresses_are_relative_and_quoted() -> None:
    assert relative(Path("/x/a b/cells/c#1.png"), Path("/x/a b")) == "cells/c%231.png"
    assert relative(Path("/x/c 1.png"), Path("/x/a b")) == "../c%201.png"


def test_both_reports_say_the_same_numbers_as_the_table(tmp_path: Path) -> None:
    values = {"random": [20.0, 21.5, 19.8], "finetune": [21.1, None, 21.3]}
    lines = [{"strategy": name} for name in values]
    sweep = sweep_of(tmp_path / "s", lines, lambda labels, seed: values[str(labels["strategy"])][seed])
    paint(sweep)
    paths = write_report(sweep)
    page, text = Page(paths["html"].read_text()), paths["markdown"].read_text()
    with open(paths["csv"], newline="") as handle:
        table = [r for r in csv.DictReader(handle) if r["metric"] == "psnr"]
    mean = {s: np.mean([float(r["value"]) for r in table if r["strategy"] == s]) for s in values}
    for strategy, expected in mean.items():
        (row,) = [row for row in page.rows if row[0] == strategy and "±" in row[1]]
        assert row[1].startswith(f"{expected:.3f} ± ")
        assert f"| {strategy} | {expected:.3f} ± " in text
    # what failed is told with its reason, and nothing in it is taken for markup
    (failed,) = [row for row in page.rows if len(row) == 5 and row[1] == "failed"]
    assert failed[3] == "Error: <NaN> & more | at step 3"
    assert "Error: <NaN> & more \\| at step 3" in text
    for line in text.splitlines():
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) in {
                len(re.split(r"(?<!\\)\|", other)) for other in text.splitlines() if "--:" in other or ":--" in other
            }
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 2 + 2
    assert all((sweep.path / path).is_file() for path in pictures)


def test_a_report_of_nothing_yet_says_so_and_plots_that_no_longer_hold_vanish(tmp_path: Path) -> None:
    cells = [Cell("nvs", "debug", {}, {"strategy": "random"}).with_seed(seed) for seed in range(2)]
    sweep = SweepDirectory.create(tmp_path / "s", cells, {"title": "Nothing"})
    (sweep.path / "plots").mkdir()
    (sweep.path / "plots" / "old.png").write_bytes(b"")
    paths = write_report(sweep)
    assert [path.name for path in (sweep.path / "plots").iterdir()] == []
    page = Page(paths["html"].read_text())
    assert [row[1] for row in page.rows if len(row) == 5] == ["status", "pending", "pending"]
    assert paths["markdown"].read_text().count("Nothing is measured yet.") == 2
