"""Several context views, in training and in evaluation, and classes that only the test knows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from hyperkit import geometry
from hyperkit.contracts import Batch, Cameras
from hyperkit.data.layout import write_scene, write_splits
from hyperkit.data.nvs import NVSData, NVSDataConfig
from hyperkit.errors import HyperkitError

MakeData = Callable[..., Path]
SPLITS = {"cars": {"train": [f"{i:04d}" for i in range(5)], "val": ["0005"], "test": ["0006", "0007", "0008"]}}


def _open(root: Path, seed: int = 5, **settings: object) -> NVSData:
    return NVSData(NVSDataConfig(root=str(root), **{"rays_per_item": 16, **settings}), seed)  # type: ignore[arg-type]


def _white(path: Path) -> np.ndarray:
    rgba = np.array(Image.open(path)).astype(np.float64) / 255.0
    return rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]


def _view_of(data: NVSData, name: str, pose: torch.Tensor) -> tuple[int, bool]:
    """Find which of an object's views a pose is, and whether it was mirrored."""
    poses = data.object(name).cameras.poses
    for mirrored, known in ((False, poses), (True, geometry.mirror_x(poses))):
        distance = (known - pose).abs().sum((1, 2))
        if distance.min() < 1e-6:
            return int(distance.argmin()), mirrored
    raise AssertionError("the pose is none of the object's")


def _target_of(data: NVSData, batch: Batch, item: int) -> int:
    origin, poses = batch.query.origins[item, 0], data.object(batch.ids[item]).cameras.poses
    return int((poses[:, :3, 3] - origin).norm(dim=1).argmin())


def _contexts_of(data: NVSData, batch: Batch, item: int) -> list[int]:
    assert batch.context_cameras is not None
    return [_view_of(data, batch.ids[item], pose)[0] for pose in batch.context_cameras.poses[item]]


def test_one_view_draws_what_it_always_drew(make_data: MakeData) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS), augment="all", foreground_epochs=2.0, train_views=(1, 5))
    digest = hashlib.sha256()
    for step in (0, 1, 2, 3, 1000):
        draw = data._draws.at(step, 7)
        for part in (draw.objects, draw.contexts, draw.target, np.floor(draw.rays * 2**40).astype(np.int64)):
            digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        digest.update(draw.mirror.tobytes() + draw.foreground.tobytes())
    # stored when there was only one view, equal to the batches of then bit for bit
    assert digest.hexdigest() == "92a741c3f4e9e23934ff4f2ce5c06ec8fde7bfbc32ec7b8602711f279ef04c2e"


def test_contexts_are_distinct_and_the_target_is_another(make_data: MakeData) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS, views=7), train_views=(1, 5), views=2)
    single = _open(data.root, train_views=(1, 5))
    seen = set()
    for step in range(40):
        batch, alone = data.train_batch(step, 5), single.train_batch(step, 5)
        assert batch.context.shape == (5, 2, 3, 8, 8)
        for item in range(5):
            one, two = _contexts_of(data, batch, item)
            target = _target_of(data, batch, item)
            seen.add((one, two, target))
            assert [one] == _contexts_of(single, alone, item)
        assert torch.equal(batch.truth, alone.truth)
        assert torch.equal(batch.query.directions, alone.query.directions)
    every = {(a, b, c) for a in range(1, 5) for b in range(1, 5) for c in range(1, 5) if len({a, b, c}) == 3}
    assert seen == every


def test_the_target_is_a_context_only_where_no_view_is_left(make_data: MakeData) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS, views=6), train_views=(0, 3), views=3)
    for step in range(5):
        batch = data.train_batch(step, 5)
        for item in range(5):
            contexts = _contexts_of(data, batch, item)
            assert sorted(contexts) == [0, 1, 2]
            assert _target_of(data, batch, item) in contexts[1:]


def test_every_context_is_the_picture_of_its_camera_also_mirrored(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS, views=6)
    data = _open(root, views=3, augment="mirror")
    mirrors = []
    for step in range(4):
        batch = data.train_batch(step, 5)
        assert batch.context_cameras is not None
        assert batch.context_cameras.focal.shape == (5, 3)
        for item, name in enumerate(batch.ids):
            found = [_view_of(data, name, pose) for pose in batch.context_cameras.poses[item]]
            assert len({mirrored for _, mirrored in found}) == 1
            mirrors.append(found[0][1])
            for (view, mirrored), picture in zip(found, batch.context[item], strict=True):
                stored = _white(root / name / f"r_{view:03d}.png")
                expected = stored[:, ::-1] if mirrored else stored
                assert np.abs(picture.permute(1, 2, 0).numpy() - expected).max() < 1e-6
    assert 3 < sum(mirrors) < 17


def test_colours_change_alike_in_all_views_of_an_item(tmp_path: Path) -> None:
    pictures = np.full((8, 6, 6, 4), 255, np.uint8)
    pictures[..., :3] = (200, 100, 30)
    for index in range(6):
        write_scene(tmp_path / "cars" / f"{index}", pictures, geometry.turntable(8).numpy(), 0.5)
    data = _open(tmp_path, augment="colour", views=3)
    batch = data.train_batch(0, 4)
    colours = batch.context[:, 0, :, 0, 0]
    assert len({tuple(colour.tolist()) for colour in colours}) == 4
    assert torch.equal(batch.context, colours[:, None, :, None, None].expand_as(batch.context))
    assert torch.equal(batch.truth, colours[:, None].expand_as(batch.truth))


def test_the_number_of_views_is_drawn_per_step_and_the_same_everywhere(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS, views=8)
    data, always = _open(root, views=4, fewest_views=2), _open(root, views=4)
    counts = []
    for step in range(60):
        batch = data.train_batch(step, 5)
        counts.append(batch.context.shape[1])
        assert torch.equal(batch.context, always.train_batch(step, 5).context[:, : counts[-1]])
        for rank in range(2):
            part = data.train_batch(step, 5, rank, 2)
            assert torch.equal(part.context, batch.context[rank::2])
            assert torch.equal(part.truth, batch.truth[rank::2])
            assert part.context_cameras is not None
            assert batch.context_cameras is not None
            assert torch.equal(part.context_cameras.poses, batch.context_cameras.poses[rank::2])
    # 60 draws from three values: 20 each, deviation 3.7
    assert all(abs(counts.count(views) - 20) < 13 for views in (2, 3, 4))
    assert len(counts) == sum(counts.count(views) for views in (2, 3, 4))
    assert counts != [_open(root, seed=6, views=4, fewest_views=2)._draws.views(step) for step in range(60)]
    with pytest.raises(ValueError, match="at most views, which is 4; found 5"):
        NVSDataConfig(views=4, fewest_views=5)


def _uneven(root: Path, views: dict[str, int]) -> Path:
    for index, (name, count) in enumerate(views.items()):
        pictures = np.zeros((count, 4, 4, 4), np.uint8)
        write_scene(root / "cars" / name, pictures, geometry.turntable(count, start=0.1 * index).numpy(), 0.5)
    lists = {"train": [n for n in views if n[0] == "t"], "val": [n for n in views if n[0] == "v"], "test": []}
    lists["test"] = [n for n in views if n[0] == "e"]
    write_splits(root, "cars", lists)
    return root


def test_every_object_gives_views_of_its_own(tmp_path: Path) -> None:
    views = {"t0": 4, "t1": 9, "t2": 6, "t3": 3, "v0": 6, "e0": 6}
    data = _open(_uneven(tmp_path, views), views=3, train_views=(0, 7))
    seen: dict[str, set[int]] = {}
    for step in range(40):
        batch = data.train_batch(step, 4)
        for item, name in enumerate(batch.ids):
            contexts = _contexts_of(data, batch, item)  # fails for another object's views
            assert len({*contexts, _target_of(data, batch, item)}) == (3 if name == "cars/t3" else 4)
            seen.setdefault(name, set()).update(contexts)
    assert {name: len(found) for name, found in seen.items()} == {
        "cars/t0": 4,
        "cars/t1": 7,
        "cars/t2": 6,
        "cars/t3": 3,
    }
    assert max(seen["cars/t1"]) == 6


def test_objects_with_too_few_views_are_named_all_at_once(tmp_path: Path) -> None:
    views = {"t0": 8, "t1": 3, "t2": 2, "v0": 9, "e0": 9, "e1": 9}
    data = _open(_uneven(tmp_path / "train", views), views=4, train_views=(0, 25))
    with pytest.raises(HyperkitError, match="2 objects have too few views for 4") as caught:
        data.train_batch(0, 2)
    assert "cars/t1: 3\n  cars/t2: 2" in caught.value.what
    assert "at most 2" in str(caught.value.hint)
    # the evaluation takes contexts from the first half of the views, and is refused before training starts
    views = {"t0": 8, "t1": 8, "v0": 7, "e0": 7, "e1": 9}
    data = _open(_uneven(tmp_path / "test", views), views=4)
    with pytest.raises(HyperkitError, match=r"\(val\) .* first half (.|\n)*cars/v0: 3"):
        data.train_batch(0, 2)
    with pytest.raises(HyperkitError, match=r"1 object has (.|\n)*cars/e0: 3"):
        data.pairs("test")
    # a model of four views can be measured with three, constants need no context, and five views are too many for all
    assert data.pairs("test", views=3).pairs[0].further
    assert data.constants("test")["white"]["all"] == 100.0
    with pytest.raises(HyperkitError, match="2 objects have"):
        data.pairs("test", views=5)
    with pytest.raises(HyperkitError, match="at least one"):
        data.pairs("test", views=0)


def test_evaluation_gives_more_views_of_the_same_items(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS, views=8)
    data = _open(root, views=2)
    one, two, four = (data.pairs("test", views=views) for views in (1, 2, 4))
    text = data.frozen("test").path.read_text()
    assert data.pairs("test").pairs == two.pairs
    assert one.hash == two.hash == four.hash == data.frozen("test").sha256
    for views, evalset in ((1, one), (2, two), (4, four)):
        for pair, frozen in zip(evalset.pairs, data.frozen("test").pairs, strict=True):
            assert (pair.object, pair.context, pair.target) == (frozen.object, frozen.context, frozen.target)
            assert len(set(pair.contexts)) == len(pair.contexts) == views
            assert set(pair.contexts) <= set(range(4))
    assert all(b.contexts == d.contexts[:2] for b, d in zip(two.pairs, four.pairs, strict=True))
    batch, alone = four.batch(range(6)), one.batch(range(6))
    assert batch.context.shape == (6, 4, 3, 8, 8)
    assert torch.equal(batch.truth, alone.truth)
    assert torch.equal(batch.query.directions, alone.query.directions)
    assert torch.equal(batch.context[:, :1], alone.context)
    for item, pair in enumerate(four.pairs):
        for place, view in enumerate(pair.contexts):
            stored = _white(root / pair.object / f"r_{view:03d}.png")
            assert np.abs(batch.context[item, place].permute(1, 2, 0).numpy() - stored).max() < 1e-6
            assert batch.context_cameras is not None
            assert _view_of(data, pair.object, batch.context_cameras.poses[item, place]) == (view, False)
    assert data.frozen("test").path.read_text() == text


def test_shuffled_contexts_are_all_of_the_other_object(make_data: MakeData) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS, views=8), views=3)
    plain, shuffled = data.pairs("test"), data.pairs("test", shuffle_context="class")
    given = {(pair.object, pair.contexts) for pair in plain.pairs}
    assert all(pair.source != pair.object and (pair.source, pair.contexts) in given for pair in shuffled.pairs)
    for batch, own in zip(shuffled, plain, strict=True):
        assert torch.equal(batch.truth, own.truth)
        for item, pair in enumerate(shuffled.pairs[: len(batch.ids)]):
            pictures = data.object(pair.source).pictures[list(pair.contexts)] / 255.0
            assert (batch.context[item] - pictures).abs().max() < 0.003  # the object's are rounded to bytes
            assert batch.context_cameras is not None
            expected = data.object(pair.source).cameras.poses[list(pair.contexts)]
            assert torch.equal(batch.context_cameras.poses[item], expected)
        break


def test_samples_carry_all_context_views(make_data: MakeData) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS, views=8), views=3)
    (sample,) = data.samples(1)
    pair = next(pair for pair in data.pairs("test").pairs if pair.object == sample["id"])
    whole = data.object(sample["id"])
    assert torch.equal(sample["pictures"], whole.pictures[list(pair.contexts)])
    assert torch.equal(sample["poses"], whole.cameras.poses[list(pair.contexts)])
    assert torch.equal(sample["picture"], whole.pictures[pair.context])
    assert torch.equal(sample["target_picture"], whole.pictures[pair.target])


def test_unseen_classes_are_for_the_test_alone(make_data: MakeData) -> None:
    names = [f"{i:04d}" for i in range(4)]
    lists = {"train": names[:2], "val": names[2:3], "test": names[3:]}
    classes = ("cars", "lamps", "vans")
    data = _open(
        make_data(dict.fromkeys(classes, 4), splits=dict.fromkeys(classes, lists)),
        classes=("cars", "lamps"),
        test_classes=("vans",),
        train_views=(0, 3),
    )
    assert {name.split("/")[0] for name in data.train_ids} == {"cars", "lamps"}
    assert set(data.pairs("val").counts) == {"cars", "lamps"}
    assert set(data.pairs("test").counts) == {"vans"}
    assert set(data.pairs("test", classes=["cars"]).counts) == {"cars"}
    assert {sample["class"] for sample in data.samples(3)} == {"vans"}
    overall = np.mean([_white(data.root / n / f"r_{v:03d}.png") for n in data.train_ids for v in range(3)], axis=0)
    errors = [
        ((_white(data.root / pair.object / f"r_{pair.target:03d}.png") - overall) ** 2).mean()
        for pair in data.pairs("test").pairs
    ]
    expected = np.mean([-10 * math.log10(error) for error in errors])
    assert math.isclose(data.constants("test")["mean"]["vans"], expected, abs_tol=1e-4)
    with pytest.raises(HyperkitError, match="Did you mean 'vans'"):
        _open(data.root, test_classes=("van",))


@pytest.mark.parametrize("shuffle", ["none", "class"])
def test_cameras_of_contexts_see_what_the_pictures_show(tmp_path: Path, shuffle: Literal["none", "class"]) -> None:
    # A red point before cameras that differ in place and angle: each picture shows it where its own camera sees it.
    size, point = 32, torch.tensor([[0.3, -0.2, 0.25]])
    for index in range(8):
        poses, angle = geometry.turntable(8, start=0.2 * index), 0.4 + 0.05 * index
        focal = torch.tensor([geometry.focal_from_angle(angle, size)])
        pictures = np.zeros((8, size, size, 4), np.uint8)
        for view, pose in enumerate(poses):
            x, y, _ = geometry.project(Cameras(pose[None], focal, size, size), point[None])[0, 0]
            pictures[view, int(y), int(x)] = (255, 0, 0, 255)
        write_scene(tmp_path / "cars" / f"{index}", pictures, poses.numpy(), angle)
    split = {"train": ["0", "1", "2", "3"], "val": ["4"], "test": ["5", "6", "7"]}
    write_splits(tmp_path, "cars", split)
    data = _open(tmp_path, views=4)
    for batch in (data.train_batch(0, 4), next(iter(data.pairs("test", shuffle_context=shuffle)))):
        cameras = batch.context_cameras
        assert cameras is not None
        flat = Cameras(cameras.poses.flatten(0, 1), cameras.focal.flatten(), size, size)
        seen = geometry.project(flat, point.expand(len(flat.focal), 1, 3))[:, 0].long()
        for picture, (x, y, _) in zip(batch.context.flatten(0, 1), seen, strict=True):
            assert picture[1, y, x] < 1e-6
            assert int((picture[1] < 0.5).sum()) == 1
