"""Label maps: which part each pixel and ray shows, what is refused, and how maps become smaller."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperkit import geometry
from hyperkit.contracts import Batch, Cameras
from hyperkit.data.layout import write_scene, write_splits
from hyperkit.data.pack import open_pack
from hyperkit.data.parts import Parts, open_labels, read_parts, resize_labels
from hyperkit.data.segment import SegmentData, SegmentDataConfig
from hyperkit.errors import HyperkitError

TABLE = {"cars": {"body": 20, "wheels": 7}, "chairs": {"seat": 30, "legs": 7, "back": 254}}
NUMBER = {0: 0, 7: 1, 20: 2, 30: 3, 254: 4}
FLIP = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Random pictures and label maps of three cars and three chairs, 12 pixels, 6 views."""
    rng = np.random.default_rng(0)
    for name, parts in TABLE.items():
        for index in range(5):
            pictures = rng.integers(0, 256, (6, 12, 12, 4), dtype=np.uint8)
            labels = rng.choice(np.array([0, *parts.values()], np.uint8), (6, 12, 12))
            poses = geometry.turntable(6, start=0.3 + index).numpy()
            write_scene(tmp_path / "data" / name / f"{index}", pictures, poses, 2 * math.atan(0.27), labels=labels)
        write_splits(tmp_path / "data", name, {"train": ["0", "1", "2"], "val": ["3"], "test": ["4"]})
    (tmp_path / "data" / "parts.json").write_text(json.dumps(TABLE))
    return tmp_path / "data"


def open_data(root: Path, **settings: object) -> SegmentData:
    parts = settings.pop("parts", None) or read_parts(root)
    return SegmentData(SegmentDataConfig(root=str(root), parts=parts, rays_per_item=32, **settings), 5)  # type: ignore[arg-type]


def test_parts_are_numbered_by_their_labels() -> None:
    parts = Parts(TABLE)
    assert (len(parts), parts.labels) == (4, (7, 20, 30, 254))
    assert parts.names == ("wheels/legs", "body", "seat", "back")
    assert parts.of_class("chairs") == {"seat": 3, "legs": 1, "back": 4}
    numbers = parts.numbers("cars")
    assert [int(numbers[label]) for label in (0, 7, 20, 30, 1)] == [0, 1, 2, 255, 255]
    assert Parts({"a": {"leg": 1}, "b": {"leg": 2}}).names == ("leg of a", "leg of b")


def test_labels_belong_to_the_pixels_that_rays_go_through(root: Path) -> None:
    data = open_data(root, augment="all")
    mirrored = 0
    for step in range(6):
        batch = data.train_batch(step, 4)
        assert batch.labels is not None
        for item, name in enumerate(batch.ids):
            view, flipped, rows, columns = pixels_of(data, batch, item)
            truth = np.array(Image.open(root / name / f"label_{view:03d}.png"))[rows, columns]
            assert batch.labels[item].tolist() == [NUMBER[int(value)] for value in truth]
            mirrored += flipped
    assert 0 < mirrored < 24


def pixels_of(data: SegmentData, batch: Batch, item: int) -> tuple[int, bool, np.ndarray, np.ndarray]:
    """Find by geometry alone the view that an item's rays belong to, whether mirrored, and each ray's pixel."""
    cameras = data.object(batch.ids[item]).cameras
    origin, directions = batch.query.origins[item, 0], batch.query.directions[item]
    places = cameras.poses[:, :3, 3]
    distance = torch.stack(((places - origin).norm(dim=1), (places * FLIP - origin).norm(dim=1)))
    flipped, view = divmod(int(distance.argmin()), len(places))
    if flipped:
        origin, directions = origin * FLIP, directions * FLIP
    camera = Cameras(cameras.poses[view][None], cameras.focal[view][None], data.size, data.size)
    x, y, _ = geometry.project(camera, (origin + 3.0 * directions)[None])[0].unbind(-1)
    return view, bool(flipped), y.long().numpy(), x.long().numpy()


def test_evaluation_has_the_label_map_of_the_target(root: Path) -> None:
    items = open_data(root).pairs("test")
    batch = items.batch(range(len(items)))
    assert batch.labels is not None
    for pair, labels in zip(items.pairs, batch.labels, strict=True):
        truth = np.array(Image.open(root / pair.object / f"label_{pair.target:03d}.png")).flatten()
        assert labels.tolist() == [NUMBER[int(value)] for value in truth]


def test_maps_without_a_name_in_transforms_lie_in_the_order_of_the_frames(root: Path) -> None:
    before = np.array(open_labels(open_pack(root), Parts(TABLE)))
    source = root / "cars" / "0" / "transforms.json"
    content = json.loads(source.read_text())
    for frame in content["frames"]:
        del frame["label_path"]
    source.write_text(json.dumps(content))
    assert np.array_equal(open_labels(open_pack(root), Parts(TABLE)), before)


def test_a_changed_map_is_read_anew(root: Path) -> None:
    before = np.array(open_labels(open_pack(root), Parts(TABLE)))
    Image.fromarray(np.full((12, 12), 20, np.uint8)).save(root / "cars" / "0" / "label_000.png")
    after = open_labels(open_pack(root), Parts(TABLE))
    assert (after[0] == 2).all()
    assert np.array_equal(after[1:], before[1:])
    assert len(list((root / ".hyperkit" / "12").glob("labels-*.npy"))) == 1


def test_everything_broken_is_listed_at_once(root: Path) -> None:
    cars = root / "cars" / "0"
    (cars / "label_000.png").unlink()
    (cars / "label_001.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.fromarray(np.full((12, 12), 30, np.uint8)).save(cars / "label_002.png")  # a seat on a car
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(cars / "label_003.png")
    Image.fromarray(np.zeros((12, 8), np.uint8)).save(cars / "label_004.png")
    with pytest.raises(HyperkitError) as found:
        open_data(root)
    lines = str(found.value).split("\n")
    assert lines[0].startswith("5 problems were found")
    expected = ("is missing", "cannot identify", "no part of its class in parts.json: 30", "kind RGB", "not square")
    for line, index, words in zip(lines[1:6], range(5), expected, strict=True):
        assert f"cars/0/label_{index:03d}.png" in line
        assert words in line
    assert not list((root / ".hyperkit" / "12").glob("labels-*"))


def test_parts_that_are_missing_or_wrong_are_refused(root: Path) -> None:
    known = {name: dict(parts) for name, parts in TABLE.items()}
    known["cars"]["wheels"] = 8
    with pytest.raises(HyperkitError, match=r"not those that the model knows:\n  cars: .*'wheels': 7.*'wheels': 8"):
        open_data(root, parts=known)
    (root / "parts.json").write_text(
        '{"cars": {"body": 0, "door": 300, "roof": true}, "chairs": {}, "x": {"a": 1, "b": 1}}'
    )
    with pytest.raises(HyperkitError) as found:
        read_parts(root)
    for words in ("'body'", "'door'", "'roof'", "chairs: has no parts", "x: two parts have one label"):
        assert words in str(found.value)
    (root / "parts.json").unlink()
    with pytest.raises(HyperkitError, match=r"there is no parts\.json(.|\n)*label_000\.png"):
        read_parts(root)
    with pytest.raises(HyperkitError, match="does not exist"):
        read_parts(root / "nowhere")


def test_a_smaller_map_has_the_part_that_covers_most_of_a_pixel() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[0:4, 0:2], labels[0:1, 2:4] = 1, 2  # 8 of 16, and 2: of 1
    labels[0:4, 4:6], labels[0:1, 6:8] = 0, 2  # 2 of 16: background
    labels[4:8, 0:4] = np.array([1, 2, 2, 3])  # half of it 2
    labels[4:6, 4:8] = 3  # exactly half
    assert resize_labels(labels, 2).tolist() == [[1, 0], [2, 3]]
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, (30, 30)).astype(np.uint8)
    blocks = labels.reshape(10, 3, 10, 3).transpose(0, 2, 1, 3).reshape(10, 10, 9)
    counts = np.stack([(blocks == k).sum(-1) for k in range(4)], -1)
    expected = np.where(2 * counts[..., 1:].sum(-1) >= 9, counts[..., 1:].argmax(-1) + 1, 0)
    assert np.array_equal(resize_labels(labels, 10), expected)


def test_the_mean_label_map_is_each_pixels_most_frequent_part(root: Path) -> None:
    data = open_data(root, train_views=(1, 4))
    found = data.mean_labels()
    maps = [np.array(Image.open(root / "cars" / f"{i}" / f"label_{v:03d}.png")) for i in range(3) for v in (1, 2, 3)]
    numbers = np.vectorize(NUMBER.get)(np.stack(maps))
    expected = [[np.bincount(numbers[:, y, x], minlength=5).argmax() for x in range(12)] for y in range(12)]
    assert found["cars"].tolist() == expected


def test_the_built_in_set_is_the_generators_with_its_labels() -> None:
    from hyperkit.data.procedural.objects import PARTS
    from hyperkit.data.segment import parts_of

    assert parts_of(None) == PARTS
    data = SegmentData(SegmentDataConfig(builtin="debug", parts=parts_of(None)), 0)
    batch = data.pairs("test").batch(range(6))
    assert batch.labels is not None
    assert batch.opacity is not None
    # labelled where at least half of a pixel is covered, which an 8-bit alpha says to a step
    assert torch.equal(batch.labels > 0, batch.opacity >= 127 / 255)
    for name, labels in zip(batch.classes, batch.labels, strict=True):
        assert set(labels.unique().tolist()) <= {0, *PARTS[name].values()}
