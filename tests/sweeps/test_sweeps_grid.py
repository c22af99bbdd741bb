"""From axes to cells: which there are, what they set, which make no sense, and what makes two of them one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from hyperkit.backbones.catalog import NAMED, find_entry, resolve_strategy
from hyperkit.backbones.config import BackboneConfig
from hyperkit.config import parse_sets
from hyperkit.errors import HyperkitError
from hyperkit.sweeps.cell import BOOKKEEPING, Cell, flatten, train_command
from hyperkit.sweeps.grid import FAMILIES, Axis, expand, parse_axis
from hyperkit.training.config import PROGRESS_FIELDS, TrainingConfig
from hyperkit.workflows.configure import from_recipe


def plain(cell: Cell) -> Mapping[str, Any]:
    resolved: Mapping[str, Any] = from_recipe(cell.task, cell.recipe, cell.overrides, "train")[1].model_dump(
        mode="json"
    )
    return resolved


def test_the_issues_example_has_every_combination_once_and_says_which_make_no_sense() -> None:
    axes = [
        parse_axis("backbone=random,dino,clip"),
        parse_axis("data_fraction=0.01,0.1,1"),
        parse_axis("size=tiny,small,base"),
    ]
    cells = expand("nvs", axes, seeds=3)
    assert len(cells) == 3 * 3 * 3 * 3
    assert len({cell.identity for cell in cells}) == len(cells)
    assert [cell.labels["seed"] for cell in cells[:4]] == [0, 1, 2, 0]
    refused = {(c.labels["backbone"], c.labels["size"]) for c in cells if c.not_applicable}
    assert refused == {("dino", "tiny"), ("clip", "tiny"), ("clip", "small")}
    reasons = {c.not_applicable for c in cells if c.labels["backbone"] == "clip" and c.labels["size"] == "tiny"}
    assert reasons == {"clip has no tiny size; it has base, large"}
    small = next(c for c in cells if c.labels["backbone"] == "dino" and c.labels["size"] == "small")
    assert small.overrides["backbone"] == {"name": "dino-small"}
    assert small.overrides["data"] == {"train_fraction": 0.01}


def test_every_size_of_a_family_is_a_backbone_and_random_ones_stay_random() -> None:
    for family, sizes in FAMILIES.items():
        for size, name in sizes.items():
            if name in NAMED:
                assert NAMED[name].modality == ("sound" if family == "whisper" else "picture")
            else:
                assert f"_{size}_" in find_entry(name).model
    for cell in expand("nvs", [Axis("backbone", ("random",)), Axis("size", tuple(FAMILIES["random"]))]):
        assert cell.overrides["backbone"]["strategy"] == "random"
        assert cell.not_applicable is None


def test_the_plain_networks_of_all_sizes_never_get_weights() -> None:
    sizes, strategies = tuple(FAMILIES["random"]), ("auto", "random", "frozen", "lora", "finetune")
    auto: dict[str, Any] = {"backbone": {"strategy": "auto"}}
    cells = expand("nvs", [Axis("size", sizes), Axis("strategy", strategies)])
    cells += expand("nvs", [Axis("backbone", ("random",)), Axis("size", sizes)], overrides=auto)
    for cell in cells:
        strategy = cell.labels.get("strategy", "auto")
        if strategy in ("auto", "random"):
            assert cell.not_applicable is None
            assert resolve_strategy(BackboneConfig(**cell.overrides["backbone"])) == "random"
        else:
            assert cell.not_applicable == f"random has no pretrained weights for the strategy {strategy}"
    with pytest.raises(HyperkitError, match="strategy"):
        expand("nvs", [Axis("size", ("nano",)), Axis("strategy", ("freeze",))], resolve=plain)


def test_a_strategy_that_needs_weights_is_not_applicable_without_them() -> None:
    cells = expand("nvs", [Axis("backbone", ("nano", "dino")), Axis("strategy", ("random", "frozen", "auto"))])
    refused = {(c.labels["backbone"], c.labels["strategy"]): c.not_applicable for c in cells if c.not_applicable}
    assert refused == {("nano", "frozen"): "nano has no pretrained weights for the strategy frozen"}
    given = expand("nvs", [Axis("strategy", ("frozen",))], overrides={"backbone": {"name": "nano", "weights": "f"}})
    assert given[0].not_applicable is None
    # the recipe's own backbone is nano, and that of the paper's is frozen
    own = expand("nvs", [Axis("strategy", ("random", "frozen"))], recipe="debug", resolve=plain)
    assert [cell.not_applicable for cell in own] == [None, refused["nano", "frozen"]]
    frozen = expand("nvs", [Axis("backbone", ("random", "clip"))], recipe="paper/nvs-dino-frozen", resolve=plain)
    assert [cell.not_applicable for cell in frozen] == [
        "random has no pretrained weights for the strategy frozen",
        None,
    ]
    (sound,) = expand("nvs", [Axis("backbone", ("whisper-tiny",))])
    assert sound.not_applicable == "whisper-tiny reads sounds, the task nvs does not"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone", "name=value"),
        ("bakbone=dino", "Did you mean 'backbone'"),
        ("size=tiny,huge", "no size 'huge'"),
        ("backbone=", "no values"),
        ("views=1,1", "twice"),
        ("views=[1", "cannot be read"),
    ],
)
def test_a_bad_axis_is_named(text: str, message: str) -> None:
    with pytest.raises(HyperkitError, match=message):
        parse_axis(text)


def test_a_misspelt_backbone_or_strategy_is_an_error_not_an_empty_cell() -> None:
    with pytest.raises(HyperkitError, match="Did you mean 'dino'"):
        expand("nvs", [Axis("backbone", ("dinoo",))])
    with pytest.raises(HyperkitError, match="strategy"):
        expand("nvs", [Axis("strategy", ("freeze",))], resolve=plain)
    with pytest.raises(HyperkitError, match="given twice"):
        expand("nvs", [Axis("views", (1,)), Axis("views", (2,))])


def test_values_are_read_as_numbers_where_they_are() -> None:
    assert parse_axis("learning_rate=1e-4, 0.1,3").values == (1e-4, 0.1, 3)
    assert parse_axis("context.pose_tokens=true,false").values == (True, False)
    assert parse_axis("algorithm=ipc, ponp").values == ("ipc", "ponp")
    assert parse_axis("data.root='2024',\"1e3\"").values == ("2024", "1e3")


def test_the_identity_is_that_of_the_settings_however_they_are_given() -> None:
    bare = expand("nvs", [], recipe="debug", resolve=plain)[0]
    said = expand("nvs", [], recipe="debug", overrides={"training": {"steps": 12}}, resolve=plain)[0]  # the default
    assert bare.identity == said.identity
    logged = expand("nvs", [], recipe="debug", overrides={"training": {"log_every": 7}}, resolve=plain)[0]
    assert logged.identity == bare.identity
    others = [
        expand("nvs", [], recipe="debug", overrides={"training": {"steps": 13}}, resolve=plain)[0],
        expand("nvs", [], recipe="debug", threads=2, resolve=plain)[0],
        expand("nvs", [], recipe="debug", seeds=[1], resolve=plain)[0],
        expand("nvs", [], recipe="quickstart", resolve=plain)[0],
    ]
    assert len({bare.identity, *(cell.identity for cell in others)}) == 5
    assert replace(bare, labels={"row": "another name"}).identity == bare.identity
    assert bare.identity in bare.folder_name
    assert "/" not in replace(bare, labels={"backbone": "open_clip:ViT/b 32"}).folder_name


def test_what_does_not_make_another_cell_are_settings_that_change_no_number() -> None:
    assert BOOKKEEPING < PROGRESS_FIELDS
    assert TrainingConfig.model_fields.keys() >= BOOKKEEPING


def test_the_command_sets_exactly_what_the_cell_says() -> None:
    overrides = {
        "backbone": {"name": "dino", "weights": None},
        "data": {"classes": ["cars", "a, b"], "root": "2024", "train_fraction": 1e-05},
        "training": {"seed": 3, "slim": True, "max_time": "10m", "precision": "32"},
    }
    command = train_command(Cell("nvs", "debug", overrides))
    sets = [command[i + 1] for i, word in enumerate(command) if word == "--set"]
    expected = {**overrides, "training": {**overrides["training"], "threads": 1}}  # type: ignore[dict-item]
    assert parse_sets(sets) == expected
    assert command[command.index("train") :][:6] == ["train", "nvs", "--recipe", "debug", "--out", "{run}"]
    assert yaml.safe_load(yaml.safe_dump(flatten({"a": {"b": {}, "c": {"d": 1}}}))) == {"a.b": {}, "a.c.d": 1}
