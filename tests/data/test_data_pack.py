"""Packing: exact pixels, everything broken listed at once, nothing left half-written."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from hyperkit.data import pack as packing
from hyperkit.data.layout import find_objects, read_picture, read_scene
from hyperkit.data.pack import open_pack
from hyperkit.data.pixels import composite, planes
from hyperkit.errors import HyperkitError, RunFailed

MakeData = Callable[..., Path]


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_packed_pixels_are_the_pngs_bytes(make_data: MakeData) -> None:
    root = make_data({"cars": 3, "lamps": 2}, synset="03001627")
    pack = open_pack(root)
    assert isinstance(pack.pixels, np.memmap)
    for index, name in enumerate(pack.ids):
        scene, _ = read_scene(name, find_objects(root)[name])
        assert scene is not None
        rows = pack.first[index] + np.arange(pack.views[index])
        np.testing.assert_array_equal(pack.poses[rows], scene.poses)
        for row, path in zip(rows, scene.pictures, strict=True):
            png = np.array(Image.open(path))
            np.testing.assert_array_equal(pack.pixels[row], png)
            colour, alpha = png[..., :3] / 255.0, png[..., 3:] / 255.0
            white = composite(planes(png.reshape(1, -1, 4)), "white")[0].T.reshape(png.shape[0], -1, 3)
            # measured worst case 1.1e-7: float32 rounding
            assert np.abs(white.numpy() - (colour * alpha + 1 - alpha)).max() < 3e-7
            assert (white.numpy()[png[..., 3] == 0] == 1.0).all()


def test_rgb_pictures_are_opaque_and_grey_ones_are_read(make_data: MakeData) -> None:
    folder = make_data({"cars": 1}) / "cars" / "0000"
    picture = np.asarray(Image.open(folder / "r_000.png"))[..., :3]
    Image.fromarray(picture).save(folder / "r_000.png")
    Image.fromarray(picture[..., 0]).save(folder / "r_001.png")
    pack = open_pack(folder.parent.parent)
    np.testing.assert_array_equal(pack.pixels[0, ..., :3], picture)
    np.testing.assert_array_equal(pack.pixels[1, ..., :3], picture[..., :1].repeat(3, 2))
    assert (pack.pixels[:2, ..., 3] == 255).all()
    assert not pack.opaque[0]


def test_resizing_averages_what_is_seen_not_hidden_colours(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[:2, :2] = (255, 0, 0, 0)  # red, but not visible
    picture[0, 0] = (10, 200, 30, 255)
    Image.fromarray(picture).save(tmp_path / "a.png")
    small = read_picture(tmp_path / "a.png", 2)
    assert small[0, 0].tolist() == [10, 200, 30, 64]  # a quarter of 255 is 63.75
    assert small[1, 1].tolist() == [0, 0, 0, 0]


def test_resizing_keeps_the_mean_of_the_composited_picture(make_data: MakeData) -> None:
    root = make_data({"cars": 1}, size=16)
    full, half = open_pack(root), open_pack(root, 8)
    assert (full.size, half.size) == (16, 8)
    assert np.isclose(half.focal[0] * 2, full.focal[0])

    def white(pixels: np.ndarray) -> torch.Tensor:
        return composite(planes(np.array(pixels).reshape(len(pixels), -1, 4)), "white").double()

    exact = white(full.pixels).reshape(-1, 3, 8, 2, 8, 2).mean(dim=(3, 5)).flatten(2)
    # rounding alpha and colour to 8 bits; measured worst case 0.0037
    assert (white(half.pixels) - exact).abs().max() < 0.006


def _break_ten_ways(root: Path) -> list[str]:
    """Break ten objects, each in its own way; return a piece of the message that each must give."""
    cars = root / "cars"
    (cars / "0000" / "r_001.png").write_text("not a picture")
    whole = (cars / "0001" / "r_001.png").read_bytes()
    (cars / "0001" / "r_001.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((8, 9, 4), np.uint8)).save(cars / "0002" / "r_001.png")
    Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save(cars / "0003" / "r_001.png")
    (cars / "0004" / "r_001.png").unlink()
    for index, change in {
        "0005": lambda c: c["frames"][1].update(transform_matrix=[[float("nan")] * 4] * 4),
        "0006": lambda c: c["frames"][1].update(transform_matrix=np.eye(3).tolist()),
        "0007": lambda c: c["frames"][1].update(transform_matrix=(2 * np.eye(4)).tolist()),
        "0008": lambda c: c.update(frames=[]),
    }.items():
        content = json.loads((cars / index / "transforms.json").read_text())
        change(content)
        (cars / index / "transforms.json").write_text(json.dumps(content))
    (cars / "0009" / "transforms.json").write_text('{"camera_angle_x": 0.5, "fra')
    return [
        "0000/r_001.png: is not a picture",
        "0001/r_001.png: cannot be decoded",
        "0002/r_001.png: is not square: 9 x 8",
        "0003/r_001.png: is 9 x 9 pixels where most are 8 x 8",
        "0004/transforms.json: frame 1: its picture r_001.png is missing",
        "0005/transforms.json: frame 1: its transform_matrix holds NaN",
        "0006/transforms.json: frame 1: its transform_matrix must be 4 x 4",
        "0007/transforms.json: frame 1: its transform_matrix is not a rotation",
        "0008/transforms.json: at least two frames",
        "0009/transforms.json: cannot be read",
    ]


def test_everything_broken_is_listed_at_once_and_can_be_left_out(make_data: MakeData) -> None:
    root = make_data({"cars": 13})
    (root / "cars" / "0012" / "transforms.json").unlink()
    expected = _break_ten_ways(root)
    with pytest.raises(HyperkitError) as caught:
        open_pack(root)
    for piece in expected:
        assert piece in str(caught.value)
    assert "10 problems" in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    assert [path.name for path in (root / ".hyperkit" / "8").iterdir()] == [".lock"]
    pack = open_pack(root, skip_bad=True)
    assert pack.ids == ("cars/0010", "cars/0011")
    assert pack.without_transforms == ("cars/0012",)
    manifest = json.loads((pack.folder / "left-out.json").read_text())
    assert len(manifest) == 10
    assert all(set(entry) == {"path", "reason"} for entry in manifest)
    np.testing.assert_array_equal(
        pack.pixels[pack.first[1] + 3], np.asarray(Image.open(root / "cars" / "0011" / "r_003.png"))
    )
    with pytest.raises(HyperkitError, match="10 problems"):  # a pack without them does not hide them
        open_pack(root)


def test_more_than_twenty_problems_are_counted(make_data: MakeData) -> None:
    root = make_data({"cars": 6}, views=5)
    for path in root.glob("cars/*/r_*.png"):
        path.write_bytes(b"")
    with pytest.raises(HyperkitError) as caught:
        open_pack(root)
    assert "... and 10 more" in str(caught.value)
    assert str(caught.value).count("is not a picture") == 20
    with pytest.raises(HyperkitError):  # nothing is left
        open_pack(root, skip_bad=True)


def test_other_sizes_are_accepted_when_a_resolution_is_given(make_data: MakeData) -> None:
    root = make_data({"cars": 3})
    Image.fromarray(np.full((16, 16, 4), 255, np.uint8)).save(root / "cars" / "0001" / "r_000.png")
    with pytest.raises(HyperkitError, match="--resolution"):
        open_pack(root)
    assert len(open_pack(root, skip_bad=True).ids) == 2
    assert len(open_pack(root, 8).ids) == 3  # the pack that left one out is not taken for it


def test_packed_once_and_again_when_the_source_changes(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_data({"cars": 2})
    calls: list[int] = []
    real = packing._pack
    monkeypatch.setattr(packing, "_pack", lambda *args: (calls.append(1), real(*args))[1])
    first = open_pack(root)
    second = open_pack(root)
    assert len(calls) == 1
    assert second.fingerprint == first.fingerprint
    Image.fromarray(np.full((8, 8, 4), 7, np.uint8)).save(root / "cars" / "0000" / "r_002.png")
    third = open_pack(root)
    assert len(calls) == 2
    assert (third.pixels[2] == 7).all()
    assert len(list(third.folder.glob("*.npy"))) == 1  # the old one is gone
    index = third.folder / "index.npz"
    index.write_bytes(index.read_bytes()[:100])
    assert open_pack(root).ids == first.ids
    assert len(calls) == 3


def test_interrupted_packing_leaves_nothing(make_data: MakeData) -> None:
    root = make_data({"cars": 3})

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pack(root, progress=stop)
    folder = root / ".hyperkit" / "8"
    assert [path.name for path in folder.iterdir()] == [".lock"]
    (folder / ".pixels-dead.npy").write_bytes(b"x" * 100)  # as a killed process leaves it
    seen: list[tuple[int, int]] = []
    open_pack(root, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (18, 18)
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".npy", ".npz"]


def test_a_full_disk_is_named_with_bytes(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_data({"cars": 2})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(10, 9, 1234))
    with pytest.raises(RunFailed) as caught:
        open_pack(root)
    assert f"needs {12 * 8 * 8 * 4} bytes" in str(caught.value)
    assert "1234 bytes" in str(caught.value)
    monkeypatch.undo()

    def refuse(*args: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(RunFailed, match="no room"):
        open_pack(root)
    assert [path.name for path in (root / ".hyperkit" / "8").iterdir()] == [".lock"]


def test_read_only_data_is_packed_in_the_cache(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperkit.data import places

    root = make_data({"cars": 2})
    real = os.access
    monkeypatch.setattr(
        places.os, "access", lambda path, mode: not Path(path).is_relative_to(root) and real(path, mode)
    )
    pack = open_pack(root)
    assert pack.folder.is_relative_to(os.environ["HYPERKIT_CACHE"])
    assert not (root / ".hyperkit").exists()
    assert pack.ids == ("cars/0000", "cars/0001")
    monkeypatch.undo()
    beside = open_pack(root)
    assert beside.folder == root / ".hyperkit" / "8"
    monkeypatch.setattr(places.os, "access", lambda path, mode: False)
    assert open_pack(root).folder == beside.folder  # packed earlier by somebody who could


def _open_and_sum(root: str) -> int:
    return int(open_pack(Path(root)).pixels.sum())


def test_two_processes_at_once_get_the_same_whole_pack(make_data: MakeData) -> None:
    root = make_data({"cars": 20}, size=16)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sums = pool.map(_open_and_sum, [str(root)] * 4, chunksize=1)
    assert len(set(sums)) == 1
    expected = sum(int(np.asarray(Image.open(path)).sum(dtype=np.int64)) for path in root.glob("cars/*/*.png"))
    assert sums[0] == expected
