"""The Markdown of a sweep: whose number stands beside whose, and what is said about what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from hyperkit.sweeps.cell import Cell, Label, train_command
from hyperkit.sweeps.report import write_report
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.studies import NANO, NANO_DINO, NANO_MAE, about, find_study, study_cells
from hyperkit.sweeps.table import over_seeds, tidy_rows


def finish(sweep: SweepDirectory, psnr: dict[str, float], metric: str = "psnr") -> None:
    """Write results: ``psnr`` by strategy, plus 0.1 for each further seed."""
    for entry in sweep.entries():
        if entry.not_applicable is None and entry.labels["strategy"] in psnr:
            value = psnr[str(entry.labels["strategy"])] + 0.1 * float(entry.labels["seed"] or 0)
            content = {
                "test": {"all": {metric: value, "n": 6}},
                "steps": 12,
                "cost": {"seconds": 60.0, "peak_memory_bytes": 1.5e9},
            }
            (entry.folder.path / "result.json").write_text(json.dumps(content))


def report_of(sweep: SweepDirectory) -> str:
    return write_report(sweep)["markdown"].read_text()


def table(text: str, title: str) -> list[dict[str, str]]:
    """The lines of the table under a heading."""
    lines = text.split(f"## {title}\n\n")[1].split("\n\n")[0].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(line) for line in cells} == {len(cells[0])}
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def test_each_line_stands_beside_the_published_one_that_asks_the_same(tmp_path: Path) -> None:
    study = find_study("table3")
    sweep = SweepDirectory.create(tmp_path / "s", study_cells(study, "debug", seeds=3), about(study, "debug"))
    finish(sweep, {"random": 10.0, "frozen": 11.0, "finetune": 12.0})
    failed = [entry for entry in sweep.entries() if entry.labels["strategy"] == "frozen"][1]
    (failed.folder.path / "result.json").unlink()
    state = {"state": "failed", "reason": "Error: memory\nran out"}
    (failed.folder.path / "state.json").write_text(json.dumps(state))
    text = report_of(sweep)
    found = [
        (line["backbone"], line["strategy"], line["PSNR (dB) ↑"], line["beside the paper's"], line["PSNR, paper"])
        for line in table(text, "Scores")
    ]
    assert found == [
        (NANO, "random", "10.100 ± 0.100", "random", "20.862"),
        (NANO_MAE, "frozen", "11.100 ± 0.141 (2 of 3)", "frozen", "21.035"),
        (NANO_MAE, "lora", "pending", "lora", "21.246"),
        (NANO_MAE, "finetune", "12.100 ± 0.100", "finetune", "21.737"),
    ]
    assert "\n- Built-in cars, chairs and lamps in the place of LearnIt ShapeNet" in text
    assert f"- {failed.folder.path.name}: failed (Error: memory ran out)" in text
    assert text.count(": pending") == 3
    cost = table(text, "Cost")
    assert [(line["strategy"], line["time (s)"], line["peak memory (GB)"], line["steps"]) for line in cost[:-1]] == [
        (strategy, "60", "1.50", "12") for strategy in ("random", "frozen", "finetune")
    ]
    assert (cost[-1]["backbone"], cost[-1]["time (s)"]) == ("all runs together", "480")  # 3 + 2 + 3 runs


def test_published_rows_without_a_counterpart_are_shown_as_not_run(tmp_path: Path) -> None:
    study = find_study("table1")
    sweep = SweepDirectory.create(tmp_path / "s", study_cells(study, "quick"), about(study, "quick"))
    lines = table(report_of(sweep), "Scores")
    assert [(line["backbone"], line["beside the paper's"]) for line in lines] == [
        (NANO, "random"),
        (NANO_MAE, "mae"),
        (NANO_DINO, "dino"),
        *(("not run here", name) for name in ("supervised", "deit", "clip", "dinov2")),
    ]
    last = lines[-1]
    assert (last["PSNR (dB) ↑"], last["PSNR, paper"], last["FID-64 ↓"]) == ("–", "22.095", "–")
    assert last["FID, paper (layer not stated)"] == "0.1705"


def test_a_sweep_without_a_study_shows_the_metrics_that_it_has(tmp_path: Path) -> None:
    common = Cell("segment", "debug", {}, {"strategy": "random"})
    sweep = SweepDirectory.create(tmp_path / "s", [common.with_seed(0)])
    finish(sweep, {"random": 0.5}, "miou")
    (line,) = table(report_of(sweep), "Scores")
    assert line == {"strategy": "random", "mIoU ↑": "0.5000"}
    empty = SweepDirectory.create(tmp_path / "t", [common.with_seed(0)])
    assert "pending" in report_of(empty)


def test_a_value_that_is_missing_says_where_its_runs_stand(tmp_path: Path) -> None:
    labels: list[dict[str, Label]] = [{"strategy": name} for name in ("done", "failed", "both", "late", "never")]
    cells = [Cell("nvs", "debug", {"line": k}, line).with_seed(s) for k, line in enumerate(labels) for s in range(2)]
    cells[8:] = [replace(cell, not_applicable="no weights") for cell in cells[8:]]
    sweep = SweepDirectory.create(tmp_path / "s", cells)
    finish(sweep, {"done": 20.0})
    failed, claim = {"state": "failed", "reason": "NaN"}, sweep.folders()[7].claim()
    for entry in (sweep.entries()[k] for k in (2, 3, 4)):
        (entry.folder.path / "state.json").write_text(json.dumps(failed))
    assert claim is not None
    claim.start()
    rows = {line["strategy"]: line["PSNR (dB) ↑"] for line in table(report_of(sweep), "Scores")}
    states = {"failed": "failed", "both": "failed, pending", "late": "pending, running", "never": "n/a"}
    assert rows == {"done": "20.050 ± 0.071", **states}
    claim.release()
    # a metric that the finished runs do not have is not available
    assert [line.absence for line in over_seeds(tidy_rows(sweep), "lpips")][:2] == ["n/a", "failed"]


def test_a_report_says_what_its_lines_start_from_and_leads_to_the_whole_commands(tmp_path: Path) -> None:
    cells = [Cell("nvs", "debug", {"hypernet": {"groups": g}}, {"groups": g}) for g in (1, 4)]
    sweep = SweepDirectory.create(tmp_path / "s", cells)
    text = report_of(sweep)
    assert "Each line starts from the recipe `debug` (nvs); a run's whole command is in its cell.json." in text
    for cell, line in zip(cells, table(text, "Runs"), strict=True):
        (link,) = re.findall(r"\[cell\.json\]\(([^)]+)\)", line["files"])
        assert json.loads((sweep.path / link).read_text())["command"] == train_command(cell)
    others = SweepDirectory.create(sweep.path, [Cell("nvs", f"r{k}", {}, {"row": k}) for k in range(5)])
    assert "one of the recipes `debug` (nvs), `r0` (nvs), `r1` (nvs), `r2` (nvs) and 2 more;" in report_of(others)
