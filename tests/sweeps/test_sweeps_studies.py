"""The studies: every line is called what is run, and the published numbers are those that the recipes state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from hyperkit.backbones.catalog import resolve_strategy
from hyperkit.backbones.config import BackboneConfig
from hyperkit.config import recipe_path
from hyperkit.errors import HyperkitError
from hyperkit.sweeps.cell import Cell
from hyperkit.sweeps.published import find_published
from hyperkit.sweeps.studies import STUDIES, Scale, about, find_study, study_cells
from hyperkit.workflows.configure import from_recipe

SCALES: tuple[Scale, ...] = ("debug", "quick", "paper")
CELLS = {
    "table1": (3, 7),
    "table2": (9, 9),
    "table3": (4, 4),
    "table4": (6, 6),
    "table5": (3, 4),
    "table8": (4, 4),
    "table9": (12, 12),
    "figure2": (10, 10),
    "figure3": (4, 28),
    "groups": (4, 4),
}
"""Lines at the scales debug and quick, and at paper; with those that are not applicable."""


def plain(cell: Cell) -> Mapping[str, Any]:
    resolved: Mapping[str, Any] = from_recipe(cell.task, cell.recipe, cell.overrides, "train")[1].model_dump(
        mode="json"
    )
    return resolved


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", list(STUDIES))
def test_every_line_is_called_what_is_run(name: str, scale: Scale) -> None:
    cells = study_cells(find_study(name), scale, seeds=2, data="DIR" if scale == "paper" else None, resolve=plain)
    assert len(cells) == 2 * CELLS[name][scale == "paper"]
    assert len({cell.identity for cell in cells}) == len(cells)
    assert {cell.labels["seed"] for cell in cells} == {0, 1}
    for cell in cells:
        if cell.not_applicable is not None:
            assert (name, scale) == ("figure3", "paper")
            continue
        config = cell.parameters
        assert config is not None
        assert config["training"]["seed"] == cell.labels["seed"]
        assert config["training"]["threads"] == 1
        _check(dict(cell.labels), config)


def _check(labels: dict[str, Any], config: Mapping[str, Any]) -> None:
    if (backbone := labels.get("backbone")) is not None:
        assert config["backbone"]["name"] == backbone
        # the paper's Table 1 has lines without a strategy: fine-tuned but for the random one
        expected = labels.get("strategy", "random" if backbone == "random" else "finetune")
        assert resolve_strategy(BackboneConfig(**config["backbone"])) == expected
    if "algorithm" in labels:
        assert config["algorithm"] == labels["algorithm"]
    if "data_fraction" in labels:
        assert config["data"]["train_fraction"] == labels["data_fraction"]
    if "unseen" in labels:
        assert list(config["data"]["test_classes"]) == [labels["unseen"]]
        assert labels["unseen"] not in config["data"]["classes"]
        assert len(config["data"]["classes"]) == 2
    if "groups" in labels:
        assert config["hypernet"]["groups"] == labels["groups"]


def test_published_numbers_are_those_that_the_recipes_state() -> None:
    compared = 0
    for study in STUDIES.values():
        for line in study.lines("paper"):
            row = find_published(study.rows, line.beside)
            if row is None:
                assert not study.rows
                continue
            text = recipe_path(line.recipe, study.task).read_text()
            stated = re.search(r"Expected \(paper\): (.*)", text)
            assert stated
            found = {n.lower(): float(v) for n, v in re.findall(r"(PSNR|SSIM|LPIPS|FID) (\d+\.\d+)", stated.group(1))}
            assert found == dict(row.values)
            compared += 1
    assert compared == 7 + 9 + 4 + 6 + 4 + 4 + 12 + 4


@pytest.mark.parametrize("name", list(STUDIES))
def test_each_published_row_is_run_at_paper_scale_and_substitutes_are_told(name: str) -> None:
    study = STUDIES[name]
    for scale in SCALES:
        besides = [line.beside for line in study.lines(scale)]
        assert all(find_published(study.rows, beside) is not None for beside in besides if beside is not None)
        if scale == "paper" and name != "table2":  # which leaves LoRA to Table 9
            assert [find_published(study.rows, beside) for beside in besides if beside] == list(study.rows)
        if scale != "paper":
            assert study.notes[scale]
            large = {"mae", "supervised", "deit", "dino", "dinov2", "clip", "whisper-base", "whisper-tiny", "random"}
            assert not large & {line.labels.get("backbone") for line in study.lines(scale)}
    assert about(study, "debug")["notes"][0].startswith("A handful")


def test_a_report_keeps_neither_other_data_nor_changes_to_itself() -> None:
    study = find_study("table1")
    assert any(note.startswith("Built-in cars") for note in about(study, "quick")["notes"])
    notes = about(study, "quick", "scenes", {"training": {"steps": 7, "epochs": None, "threads": 1}})["notes"]
    assert not any(note.startswith("Built-in") for note in notes)
    assert notes[-2:] == ["The data is scenes.", "Changed for all lines: training.steps=7, training.threads=1."]
    assert about(study, "paper", "scenes", {"training": {"steps": 7}})["notes"][-1].endswith("training.steps=7.")


def test_what_a_line_is_about_wins_over_what_all_have() -> None:
    own = {"training": {"steps": 3, "threads": 2}, "hypernet": {"groups": 2}}
    cells = study_cells(find_study("groups"), "debug", overrides=own, resolve=plain)
    assert [(c.parameters or {})["hypernet"]["groups"] for c in cells] == [1, 4, 16, 64]
    assert {(c.parameters or {})["training"]["steps"] for c in cells} == {3}
    assert {c.threads for c in cells} == {2}


def test_wrong_names_and_missing_data_are_told() -> None:
    with pytest.raises(HyperkitError, match="Did you mean 'table1'"):
        find_study("tabel1")
    with pytest.raises(HyperkitError, match="no scale"):
        study_cells(find_study("table1"), "huge")  # type: ignore[arg-type]
    with pytest.raises(HyperkitError, match="--data DIR"):
        study_cells(find_study("table1"), "paper")
