"""``prepare nvs``: the procedural set, existing data, groups, and what it reports."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hyperkit import geometry
from hyperkit.data import builtin
from hyperkit.data.groups import read_groups, straddling
from hyperkit.data.layout import find_objects, write_scene
from hyperkit.data.nvs import NVSData, NVSDataConfig
from hyperkit.data.splits import read_splits
from hyperkit.errors import HyperkitError
from hyperkit.workflows.prepare import list_cache, prepare_nvs, prepare_task_signals


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of 12 objects, no splits."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for class_name in ("cars", "lamps"):
        for index in range(12):
            pictures = rng.integers(0, 256, (4, 8, 8, 4), dtype=np.uint8)
            poses = geometry.turntable(4).numpy()
            write_scene(root / class_name / f"{index:02d}", pictures, poses, 2 * math.atan(0.27))
    return root


def test_existing_data_is_checked_packed_and_its_pairs_frozen(data: Path) -> None:
    (data / "cars" / "03" / "transforms.json").unlink()
    report = prepare_nvs(data=data)
    assert (report.kind, report.size, report.views) == ("data", 8, 23 * 4)
    assert sum(sum(part.values()) for part in report.counts.values()) == 23
    assert report.without_transforms == ["cars/03"]
    assert any("divided by a hash" in note for note in report.notes)
    opened = NVSData(NVSDataConfig(root=str(data)), seed=0)
    assert opened.counts() == report.counts
    assert opened.pairs("test").hash == report.pairs["test"]["sha256"]
    assert report.pairs["test"]["items"] == len(opened.pairs("test"))
    assert json.loads(json.dumps(report.as_dict()))["counts"] == report.counts
    assert prepare_nvs(data=data).pairs == report.pairs


def test_broken_objects_are_left_out_on_request(data: Path) -> None:
    (data / "cars" / "03" / "r_001.png").write_text("x")
    with pytest.raises(HyperkitError, match="--skip-bad"):
        prepare_nvs(data=data)
    report = prepare_nvs(data=data, skip_bad=True)
    assert report.as_dict()["left_out"] == [
        {"path": str(data / "cars" / "03" / "r_001.png"), "reason": "is not a picture: UnidentifiedImageError"}
    ]


def test_groups_stay_together_over_classes(data: Path, tmp_path: Path) -> None:
    ids = list(find_objects(data))
    lines = [f"{name},shape {index % 7}" for index, name in enumerate(ids[:-2])] + ["cars/nowhere,x"]
    (tmp_path / "groups.csv").write_text("object,group\n" + "\n".join(lines))
    report = prepare_nvs(data=data, groups=tmp_path / "groups.csv", test_fraction=0.33, val_fraction=0.1)
    splits = read_splits(data, ids)
    assert straddling(read_groups(tmp_path / "groups.csv"), splits.ids) == []
    assert sorted(name for names in splits.ids.values() for name in names) == ids
    assert all(splits.ids.values())
    assert any("2 objects are in no group" in note for note in report.notes)
    assert any("1 objects of the groups file are not in the data" in note for note in report.notes)


def test_splits_that_divide_a_group_are_refused(data: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups.txt"
    groups.write_text("\n".join(f"{name} all" for name in find_objects(data)))
    names = [f"{index:02d}" for index in range(12)]
    for path in ("car_splits.json", "lamp_splits.json"):
        (data / path).write_text(json.dumps({"train": names[:8], "val": names[8:9], "test": names[9:]}))
    with pytest.raises(HyperkitError, match="1 groups are divided"):
        prepare_nvs(data=data, groups=groups)


def test_a_learnit_archive_is_unpacked_and_packed(data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "learnit.zip", "w") as archive:
        for path in sorted(data.rglob("*")):
            archive.write(path, Path("top") / path.relative_to(data))
    report = prepare_nvs(tmp_path / "out", learnit=tmp_path / "learnit.zip", resolution=4)
    assert (report.kind, report.size) == ("learnit", 4)
    assert report.sha256
    assert len(report.sha256) == 64
    assert Path(report.packed) == tmp_path / "out" / ".hyperkit" / "4"


def test_wrong_combinations_are_refused(data: Path, tmp_path: Path) -> None:
    for arguments, expected in (
        ({"data": data, "meshes": data}, "given together"),
        ({"data": data, "out": tmp_path / "x"}, "--out is not used"),
        ({"data": data, "classes": ["cars"]}, "belong to the procedural set"),
        ({"meshes": data}, "needs a folder"),
        ({"meshes": tmp_path / "nowhere", "out": tmp_path / "x"}, "does not exist"),
        ({"out": data}, "not empty"),
        ({"size": 32}, "needs a folder"),
        ({"out": tmp_path / "x", "objects": (0, 1, 1)}, "train, val, test"),
        ({"out": tmp_path / "x", "classes": ["car"]}, "Did you mean 'cars'"),
        ({"data": data, "test_fraction": 0.9, "val_fraction": 0.2}, "Nothing is left"),
        ({"data": data, "groups": tmp_path / "nowhere"}, "cannot be read"),
    ):
        with pytest.raises(HyperkitError) as caught:
            prepare_nvs(**arguments)  # type: ignore[arg-type]
        assert expected in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_procedural_set_is_made_where_it_is_asked_for(tmp_path: Path) -> None:
    report = prepare_nvs(tmp_path / "out", objects=(2, 1, 1), size=16, views=4, classes=["cars", "lamps"])
    assert report.counts == {
        "train": {"cars": 2, "lamps": 2},
        "val": {"cars": 1, "lamps": 1},
        "test": {"cars": 1, "lamps": 1},
    }
    assert (report.views, report.size) == (32, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    again = prepare_nvs(tmp_path / "again", objects=(2, 1, 1), size=16, views=4, classes=["cars", "lamps"])
    assert again.pairs["test"]["sha256"] == report.pairs["test"]["sha256"]
    one, two = (next(Path(r.packed).glob("*.npy")).read_bytes() for r in (report, again))
    assert one == two


def test_the_built_in_debug_set_is_made_on_first_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))
    data = NVSData(NVSDataConfig(builtin="debug"), seed=0)
    assert data.counts() == {
        split: dict.fromkeys(("cars", "chairs", "lamps"), count)
        for split, count in (("train", 4), ("val", 1), ("test", 2))
    }
    assert (data.size, int(data.pack.views[0])) == (32, 8)
    stamps = {path: path.stat().st_mtime_ns for path in data.root.rglob("*.png")}
    assert NVSData(NVSDataConfig(builtin="debug"), seed=0).pairs().hash == data.pairs().hash
    assert {path: path.stat().st_mtime_ns for path in data.root.rglob("*.png")} == stamps
    assert [(name, path) for name, path, _ in list_cache()] == [(data.root.name, data.root)]
    total = sum(path.stat().st_size for path in data.root.rglob("*") if path.is_file())
    assert list_cache()[0][2] == total


def test_an_interrupted_generator_leaves_no_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builtin.builtin_root("debug", stop)
    assert list_cache() == []
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]
    shutil.rmtree(tmp_path / "cache")
    assert list_cache() == []


def test_meshes_are_rendered_divided_and_packed(tmp_path: Path) -> None:
    import trimesh

    (tmp_path / "meshes" / "boxes").mkdir(parents=True)
    for index in range(6):
        box = trimesh.creation.box((1.0, 1.0 + 0.2 * index, 0.5))
        box.export(tmp_path / "meshes" / "boxes" / f"b{index}.ply")
    (tmp_path / "meshes" / "boxes" / "bad.ply").write_text("no mesh")
    (tmp_path / "groups.csv").write_text("".join(f"b{index}.ply,pair {index // 2}\n" for index in range(6)))
    report = prepare_nvs(
        tmp_path / "out",
        meshes=tmp_path / "meshes",
        groups=tmp_path / "groups.csv",
        size=8,
        views=4,
        test_fraction=0.34,
        val_fraction=0.33,
    )
    assert report.counts == {split: {"boxes": 2} for split in ("train", "val", "test")}
    assert [Path(path).name for path, _ in report.left_out] == ["bad.ply"]
    splits = read_splits(tmp_path / "out", find_objects(tmp_path / "out"))
    assert straddling(read_groups(tmp_path / "groups.csv"), splits.ids) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["groups.csv", "meshes", "out"]


def test_a_recipe_of_ones_own_says_how_sounds_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    rng = np.random.default_rng(0)

    def download(subsets: list[str], out: Path, progress: object) -> Path:
        out.mkdir()
        for index in range(9):
            soundfile.write(out / f"{index}.flac", rng.uniform(-0.5, 0.5, 4000), 8000)
        soundfile.write(out / "short.flac", rng.uniform(-0.5, 0.5, 100), 8000)
        return out

    monkeypatch.setattr("hyperkit.workflows.prepare.download_librispeech", download)
    (tmp_path / "own.yaml").write_text("extends: quickstart\ndata: {rate: 8000, start: 0.25}\n")
    recipe = str(tmp_path / "own.yaml")
    with pytest.raises(HyperkitError, match="unknown key 'raet'"):  # before the download
        prepare_task_signals("audio", None, ["x"], tmp_path / "out", recipe=recipe, overrides={"data": {"raet": 1}})
    assert not (tmp_path / "out").exists()
    report = prepare_task_signals("audio", None, ["x"], tmp_path / "out", True, recipe=recipe)
    assert (report.read_as, Path(report.packed).name) == ("8000 Hz, 0.125 s at a time", "sounds-8000")
    assert [Path(problem.path).name for problem in report.left_out] == ["short.flac"]
    assert "after the first 0.25 s" in report.left_out[0].reason
