"""Frozen evaluation pairs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hyperkit.data.pairs import Pair, add_contexts, draw_pairs, frozen_pairs, shuffle_contexts
from hyperkit.errors import HyperkitError


def _views(**counts: int) -> dict[str, int]:
    return {f"{name}/{i:03d}": 50 for name, count in counts.items() for i in range(count)}


def test_contexts_are_of_the_first_half_and_targets_of_the_second() -> None:
    views = _views(cars=200) | {"cars/odd": 7, "cars/two": 2}
    pairs = draw_pairs("test", views)
    for pair in pairs:
        half = views[pair.object] // 2
        assert 0 <= pair.context < half <= pair.target < views[pair.object]
    full = [pair for pair in pairs if views[pair.object] == 50]
    assert len(full) == 400
    assert all(a.context != b.context and a.target != b.target for a, b in zip(full[::2], full[1::2], strict=True))
    assert {pair.context for pair in full} == set(range(25))
    assert {pair.target for pair in full} == set(range(25, 50))


def test_an_objects_pairs_do_not_depend_on_the_others() -> None:
    views = _views(cars=5)
    alone = draw_pairs("test", {"cars/003": 50})
    assert [pair for pair in draw_pairs("test", views) if pair.object == "cars/003"] == alone
    assert draw_pairs("val", {"cars/003": 50}) != alone


def test_they_are_drawn_once_and_then_read(tmp_path: Path) -> None:
    views = _views(cars=3)
    first = frozen_pairs(tmp_path, "test", views)
    assert first.path == tmp_path / ".hyperkit" / "pairs-test.json"
    text = first.path.read_text()
    again = frozen_pairs(tmp_path, "test", views, per_object=1)
    assert again.pairs == first.pairs
    assert again.sha256 == first.sha256
    assert first.path.read_text() == text
    first.path.write_text(json.dumps(json.loads(text), indent=4))  # the hash is over the content, not its layout
    assert frozen_pairs(tmp_path, "test", views).sha256 == first.sha256


@pytest.mark.parametrize("damage", ["view", "order", "truncated", "not json", "no hash", "list"])
def test_a_changed_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = frozen_pairs(tmp_path, "test", _views(cars=3)).path
    content = json.loads(path.read_text())
    if damage == "view":
        content["pairs"][0][1] ^= 1
    elif damage == "order":
        content["pairs"].reverse()
    elif damage == "no hash":
        del content["sha256"]
    text = {"truncated": path.read_text()[:60], "not json": "x", "list": "[]"}.get(damage, json.dumps(content))
    path.write_text(text)
    with pytest.raises(HyperkitError, match=r"have been changed|are damaged") as caught:
        frozen_pairs(tmp_path, "test", _views(cars=3))
    assert "delete it" in str(caught.value)
    assert path.read_text() == text


def test_objects_that_come_and_go_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frozen_pairs(tmp_path, "test", _views(cars=3))
    later = frozen_pairs(tmp_path, "test", {"cars/001": 50, "cars/002": 50, "cars/new": 50})
    assert (later.absent, later.unpaired) == (("cars/000",), ("cars/new",))
    assert {pair.object for pair in later.pairs} == {"cars/001", "cars/002"}
    assert "cars/new" in caplog.text
    assert "cars/000" in caplog.text
    with pytest.raises(HyperkitError, match="which has 3"):
        frozen_pairs(tmp_path, "test", {"cars/001": 3})


@pytest.mark.parametrize("within", [True, False])
def test_shuffled_contexts_have_no_fixed_point(within: bool) -> None:
    pairs = draw_pairs("test", _views(cars=7, chairs=2, lamps=30))
    shuffled = shuffle_contexts(pairs, within)
    assert [(pair.object, pair.target) for pair in shuffled] == [(pair.object, pair.target) for pair in pairs]
    assert all(pair.source != pair.object for pair in shuffled)
    donors = {pair.object: pair.source for pair in shuffled}
    assert sorted(donors.values()) == sorted(donors)  # each object gives its context once
    contexts = {(pair.object, pair.context) for pair in pairs}
    assert all((pair.source, pair.context) in contexts for pair in shuffled)
    same_class = [pair.object.split("/")[0] == pair.source.split("/")[0] for pair in shuffled]
    assert all(same_class) is within
    assert shuffle_contexts(pairs, within) == shuffled


def test_one_object_cannot_be_shuffled_within_its_class() -> None:
    pairs = draw_pairs("test", _views(cars=3, lamps=1))
    with pytest.raises(HyperkitError, match="lamps"):
        shuffle_contexts(pairs, True)
    assert len(shuffle_contexts(pairs, False)) == len(pairs)


def test_further_contexts_are_nested_distinct_and_of_the_first_half() -> None:
    views = _views(cars=60) | {"cars/odd": 17}
    pairs = draw_pairs("test", views)
    eight = add_contexts(pairs, "test", views, 8)
    for pair, frozen in zip(eight, pairs, strict=True):
        assert (pair.object, pair.context, pair.target, pair.source) == dataclasses.astuple(frozen)[:4]
        assert pair.contexts[0] == frozen.context
        assert len(set(pair.contexts)) == 8
        assert max(pair.contexts) < views[pair.object] // 2
    for count in (1, 2, 5):
        fewer = add_contexts(pairs, "test", views, count)
        assert [pair.contexts for pair in fewer] == [pair.contexts[:count] for pair in eight]
    assert {view for pair in eight for view in pair.further} == set(range(25))
    # the two pairs of an object have orders of their own
    assert all(one.further != two.further for one, two in zip(eight[::2], eight[1::2], strict=True))


def test_further_contexts_depend_on_the_object_alone() -> None:
    views = _views(cars=5)
    pairs = draw_pairs("test", views)
    eight = add_contexts(pairs, "test", views, 8)
    own = [pair for pair in pairs if pair.object == "cars/003"]
    assert add_contexts(own, "test", {"cars/003": 50}, 8) == [p for p in eight if p.object == "cars/003"]
    assert add_contexts(own, "val", {"cars/003": 50}, 8) != [p for p in eight if p.object == "cars/003"]


def test_a_target_among_the_first_half_is_never_a_context() -> None:
    # A frozen file may hold any pair, as long as its hash is right.
    for target in range(5):
        (pair,) = add_contexts([Pair("cars/a", 7, target, "cars/a")], "test", {"cars/a": 10}, 5)
        assert set(pair.contexts) == {7, *range(5)} - {target}


def test_too_few_views_are_named_with_their_numbers() -> None:
    views = {"cars/a": 8, "cars/b": 7, "cars/c": 12}
    with pytest.raises(HyperkitError, match="2 objects have too few views for 5") as caught:
        add_contexts(draw_pairs("test", views), "test", views, 5)
    assert "cars/a: 4\n  cars/b: 3" in caught.value.what
    assert "at most 3" in str(caught.value.hint)
    with pytest.raises(HyperkitError, match=r"1 object has(.|\n)*cars/one: 1"):
        draw_pairs("test", {"cars/one": 1, "cars/two": 2})
