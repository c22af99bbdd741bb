from pathlib import Path

import pytest
import yaml

from hyperkit.config import PartConfig, load_recipe, merge, parse_sets, to_yaml, validate
from hyperkit.errors import HyperkitError
from hyperkit.registry import Registry


class Inner(PartConfig):
    learning_rate: float = 1e-3
    name: str = "a"


class Outer(PartConfig):
    inner: Inner = Inner()
    maybe: Inner | None = None
    steps: int = 1


def test_misspelt_key_names_the_nearest() -> None:
    with pytest.raises(HyperkitError, match=r"inner: unknown key 'lerning_rate'; did you mean 'learning_rate'\?"):
        validate(Outer, {"inner": {"lerning_rate": 1}})
    with pytest.raises(HyperkitError, match="did you mean 'learning_rate'"):
        validate(Outer, {"maybe": {"learning_rat": 1}})


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(HyperkitError) as caught:
        validate(Outer, {"steps": "many", "nonsense": 1})
    assert "steps" in str(caught.value)
    assert "nonsense" in str(caught.value)
    assert caught.value.exit_code == 2


def test_sets_are_read_as_yaml_and_floats_with_exponents_too() -> None:
    sets = parse_sets(["inner.learning_rate=1e-4", "steps=7", "inner.name=null", "a.b=[1, 2]"])
    assert sets == {"inner": {"learning_rate": 1e-4, "name": None}, "steps": 7, "a": {"b": [1, 2]}}
    quoted = parse_sets(['precision="32"', "data.root='2024'", 'data.name= "1e-4"'])
    assert quoted == {"precision": "32", "data": {"root": "2024", "name": "1e-4"}}
    with pytest.raises(HyperkitError, match="section.field=value"):
        parse_sets(["steps"])


def test_merge_replaces_leaves_and_keeps_the_rest() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}}) == {"a": {"x": 1, "y": [3]}, "b": 1}
    assert base["a"] == {"x": 1, "y": [1, 2]}


def test_recipe_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("steps: 3\ninner: {name: base, learning_rate: 0.5}\n")
    (tmp_path / "own.yaml").write_text("extends: base\ninner: {name: own}\n")
    recipe = load_recipe(str(tmp_path / "own.yaml"), "nvs")
    assert recipe == {"steps": 3, "inner": {"name": "own", "learning_rate": 0.5}}
    (tmp_path / "loop.yaml").write_text("extends: loop\n")
    with pytest.raises(HyperkitError, match="extends itself"):
        load_recipe(str(tmp_path / "loop.yaml"), "nvs")


def test_recipes_of_other_tasks_and_bases_are_refused_by_name(tmp_path: Path) -> None:
    for name, task, owner in (
        ("paper/nvs-dino", "image", "nvs"),
        ("paper/image-celeba", "audio", "image"),
        ("audio/quickstart", "nvs", "audio"),
    ):
        with pytest.raises(HyperkitError, match=rf"(?s)no {task} recipe .*{name} belongs to the task {owner}\."):
            load_recipe(name, task)
        assert load_recipe(name, owner)
    for name, task in (("paper/_nvs-base", "nvs"), ("paper/_image-base", "image"), ("paper/_nvs-base", "audio")):
        with pytest.raises(HyperkitError, match=f"{name} is a base that recipes extend"):
            load_recipe(name, task)
    own = tmp_path / "own.yaml"  # a base is there to be extended, by a user's recipe too
    own.write_text("extends: paper/_nvs-base\nalgorithm: ipc\n")
    assert load_recipe(str(own), "nvs")["algorithm"] == "ipc"
    assert load_recipe(str(own), "nvs")["target"] == load_recipe("paper/nvs-random", "nvs")["target"]


def test_bad_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match=r"no nvs recipe 'quickstrt'. Did you mean 'quickstart'"):
        load_recipe("quickstrt", "nvs")
    with pytest.raises(HyperkitError, match="does not exist"):
        load_recipe(str(tmp_path / "none.yaml"), "nvs")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    with pytest.raises(HyperkitError, match="not valid YAML"):
        load_recipe(str(bad), "nvs")


def test_yaml_round_trip() -> None:
    config = Outer(steps=5, inner=Inner(name="z"))
    assert validate(Outer, yaml.safe_load(to_yaml(config))) == config


def test_registry_takes_names_and_outside_parts() -> None:
    registry = Registry("part", {"path": "pathlib:Path"})
    assert registry.load("path") is Path
    assert registry.load("collections:OrderedDict").__name__ == "OrderedDict"
    with pytest.raises(HyperkitError, match="no part 'pth'. Did you mean 'path'"):
        registry.load("pth")
    with pytest.raises(HyperkitError, match="no module 'not_there'"):
        registry.load("not_there:X")
    with pytest.raises(HyperkitError, match="has no 'Nope'"):
        registry.load("pathlib:Nope")
