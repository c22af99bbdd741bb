"""The LearnIt layout as its users have it, and the splits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperkit import geometry
from hyperkit.data.groups import read_groups, split_with_groups, straddling
from hyperkit.data.layout import find_objects, make_splits, read_scene, write_scene, write_splits
from hyperkit.data.splits import read_splits
from hyperkit.errors import HyperkitError, RunFailed

MakeData = Callable[..., Path]


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_written_scene_is_read_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 5, 5, 4), dtype=np.uint8)
    poses = geometry.turntable(3).numpy()
    write_scene(tmp_path / "cars" / "a", pictures, poses, 0.5, {"near": 1.5, "maker": "me"})
    scene, problems = read_scene("cars/a", tmp_path / "cars" / "a")
    assert problems == []
    assert scene is not None
    assert (scene.camera_angle_x, scene.near, scene.far) == (0.5, 1.5, 6.0)
    np.testing.assert_array_equal(scene.poses, poses)
    for path, picture in zip(scene.pictures, pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)


def test_a_scene_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunFailed, match="No space left"):
        write_scene(tmp_path / "cars" / "a", np.zeros((2, 4, 4, 4), np.uint8), np.zeros((2, 4, 4)), 0.5)
    assert list((tmp_path / "cars").iterdir()) == []


def test_near_and_far_default_to_the_published_ones(make_data: MakeData) -> None:
    folder = make_data({"cars": 1}) / "cars" / "0000"
    content = json.loads((folder / "transforms.json").read_text())
    del content["near"], content["far"]
    (folder / "transforms.json").write_text(json.dumps(content))
    scene, _ = read_scene("cars/0000", folder)
    assert scene is not None
    assert (scene.near, scene.far) == (2.0, 6.0)


@pytest.mark.parametrize(
    "form", ["r_{i}", "./r_{i}", "./r_{i}.png", "r_{i}.png", "/gone/away/r_{i}", "train/r_{i}.png"]
)
def test_file_paths_are_followed_as_users_have_them(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "cars" / "02958343" / "a"
    folder.mkdir(parents=True)
    frames = []
    for index, pose in enumerate(geometry.turntable(2).numpy()):
        Image.fromarray(np.full((4, 4, 3), 40 * index, np.uint8)).save(folder / f"r_{index}.png")
        frames.append({"file_path": form.format(i=index), "transform_matrix": pose.tolist()})
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.5, "frames": frames}))
    scene, problems = read_scene("cars/a", folder)
    assert problems == []
    assert scene is not None
    assert [path.name for path in scene.pictures] == ["r_0.png", "r_1.png"]


def test_a_file_path_never_leads_out_of_the_object(make_data: MakeData, tmp_path: Path) -> None:
    folder = make_data({"cars": 1}) / "cars" / "0000"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "secret.png")
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][0]["file_path"] = "../../../secret.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    _, problems = read_scene("cars/0000", folder)
    assert len(problems) == 1
    assert "missing" in problems[0].reason


def test_synset_level_or_not_gives_the_same_objects(make_data: MakeData) -> None:
    plain = make_data({"cars": 2, "lamps": 1}, "plain")
    deep = make_data({"cars": 2, "lamps": 1}, "deep", synset="02958343")
    (deep / "cars" / "02958343" / "notes.txt").write_text("x")  # a stray file does not make it an object
    assert list(find_objects(plain)) == list(find_objects(deep)) == ["cars/0000", "cars/0001", "lamps/0000"]


def test_a_wrong_root_says_what_is_there_and_what_to_do(make_data: MakeData, tmp_path: Path) -> None:
    root = make_data({"cars": 1})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    cases = {
        tmp_path / "nowhere": "does not exist",
        tmp_path / "file": "not a folder",
        tmp_path / "empty": "holds nothing",
        root / "cars": f"--data {root}",
        root / "cars" / "0000": f"--data {root}",
        tmp_path: f"--data {root}",
    }
    for path, expected in cases.items():
        with pytest.raises(HyperkitError) as caught:
            find_objects(path)
        assert expected in str(caught.value)
        assert "hyperkit prepare nvs --meshes" in str(caught.value)
        assert "--learnit" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"camera_angle_x": float("nan")}, "camera_angle_x"),
        ({"camera_angle_x": 4.0}, "camera_angle_x"),
        ({"near": 7.0}, "near and far"),
        ({"frames": []}, "two frames"),
        ({"frames": 3}, "cannot be read"),
    ],
)
def test_bad_cameras_are_named(make_data: MakeData, change: dict[str, object], reason: str) -> None:
    folder = make_data({"cars": 1}) / "cars" / "0000"
    _edit(folder, **change)
    _, problems = read_scene("cars/0000", folder)
    assert any(reason in problem.reason for problem in problems)


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (np.full((4, 4), np.nan).tolist(), "NaN"),
        (np.eye(3).tolist(), "4 x 4"),
        ((np.eye(4) * [1.01, 1, 1, 1]).tolist(), "rotation"),
        ((np.eye(4) * [-1, 1, 1, 1]).tolist(), "rotation"),
        ("identity", "not a matrix"),
        (None, "4 x 4"),
    ],
)
def test_bad_poses_are_named(make_data: MakeData, matrix: object, reason: str) -> None:
    folder = make_data({"cars": 1}) / "cars" / "0000"
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][3]["transform_matrix"] = matrix
    (folder / "transforms.json").write_text(json.dumps(content))
    _, problems = read_scene("cars/0000", folder)
    assert ["frame 3" in problem.reason and reason in problem.reason for problem in problems] == [True]


def test_splits_come_from_the_published_files(make_data: MakeData) -> None:
    root = make_data({"cars": 5, "vans": 2})
    lists = {"train": ["02958343/0000", "0001"], "val": ["0002"], "test": ["0003", "9999"]}
    (root / "car_splits.json").write_text(json.dumps(lists))
    write_splits(root, "vans", {"train": ["0000"], "test": ["0001"]})
    assert (root / "vans_splits.json").is_file()
    splits = read_splits(root, find_objects(root))
    assert splits.ids["train"] == ("cars/0000", "cars/0001", "vans/0000")
    assert splits.ids["val"] == ("cars/0002",)
    assert splits.ids["test"] == ("cars/0003", "vans/0001")
    assert splits.missing == ("cars/9999",)
    assert splits.unlisted == ("cars/0004",)
    assert any("cars/9999" in note for note in splits.notes)


def test_an_object_in_two_splits_is_refused(make_data: MakeData) -> None:
    root = make_data({"cars": 3}, splits={"cars": {"train": ["0000", "0001"], "test": ["0001"]}})
    with pytest.raises(HyperkitError, match=r"cars/0001 \(train and test\)"):
        read_splits(root, find_objects(root))


def test_without_validation_objects_some_are_taken_from_train_only(make_data: MakeData) -> None:
    root = make_data({"cars": 1})
    train, test = [f"{i:04d}" for i in range(40)], [f"{i:04d}" for i in range(40, 60)]
    write_splits(root, "cars", {"train": train, "test": test})
    names = [f"cars/{i:04d}" for i in range(60)]
    splits = read_splits(root, names)
    assert len(splits.ids["val"]) == 2
    assert splits.ids["test"] == tuple(f"cars/{name}" for name in test)
    assert sorted(splits.ids["val"] + splits.ids["train"]) == [f"cars/{name}" for name in train]
    assert any("taken out of train" in note for note in splits.notes)


def test_made_splits_have_the_asked_sizes_and_do_not_depend_on_order() -> None:
    names = [f"{i:03d}" for i in range(200)]
    splits = make_splits(names, 3, (0.7, 0.1, 0.2))
    assert {name: len(part) for name, part in splits.items()} == {"train": 140, "val": 20, "test": 40}
    assert sorted(chain(*splits.values())) == names
    assert make_splits(names[::-1], 3, (0.7, 0.1, 0.2)) == splits
    assert make_splits(names, 4, (0.7, 0.1, 0.2)) != splits
    assert {name: len(part) for name, part in make_splits(names[:3], 0).items()} == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_divided_even_over_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"{name}/{i:03d}" for name in ("cars", "chairs", "lamps") for i in range(40)]
    groups = {name: f"g{rng.integers(0, 25)}" for name in names[:100]}
    splits = split_with_groups(names, seed, (0.6, 0.1, 0.3), groups)
    whole = {key: [f"{c}/{name}" for c in splits for name in splits[c][key]] for key in ("train", "val", "test")}
    assert straddling(groups, whole) == []
    assert sorted(chain(*whole.values())) == names
    assert abs(len(whole["test"]) - 36) <= 12
    broken = {"train": whole["train"] + whole["test"][:1], "test": whole["test"][1:] + whole["train"][:1]}
    assert straddling(groups, broken)


def test_groups_are_read_in_the_usual_forms(tmp_path: Path) -> None:
    path = tmp_path / "groups"
    for text in (
        "object,group\ncars/a.glb,one\nb,two\n",
        "cars/a.glb\tone\nb\ttwo\n",
        "# made by hand\n\ncars/a one\n./b.obj   two\n",
        '"cars/a", one\r\nb, two\r\n',
    ):
        path.write_text(text)
        assert read_groups(path) == {"cars/a": "one", "b": "two"}


def test_bad_lines_of_a_groups_file_are_all_listed(tmp_path: Path) -> None:
    path = tmp_path / "groups"
    path.write_text("a,one\nb\nc,one,two\nd,\na,two\ne,one\n")
    with pytest.raises(HyperkitError) as caught:
        read_groups(path)
    assert [line for line in (2, 3, 4, 5) if f"line {line}:" in str(caught.value)] == [2, 3, 4, 5]
    assert "line 1:" not in str(caught.value)
    with pytest.raises(HyperkitError, match="cannot be read"):
        read_groups(tmp_path / "nowhere")


def test_focal_length_follows_the_angle() -> None:
    # tan(angle / 2) = 0.27: a unit sphere at distance 4 spans asin(1/4), tan = 0.2582, and fits with a margin of 4 %
    assert math.isclose(geometry.focal_from_angle(2 * math.atan(0.27), 128), 64 / 0.27)
