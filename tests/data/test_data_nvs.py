"""Training batches, evaluation sets and constants of novel view synthesis."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperkit import geometry
from hyperkit.contracts import Batch, Cameras
from hyperkit.data.layout import write_scene
from hyperkit.data.nvs import NVSData, NVSDataConfig, nested_fraction
from hyperkit.errors import HyperkitError

MakeData = Callable[..., Path]
SPLITS = {"cars": {"train": [f"{i:04d}" for i in range(5)], "val": ["0005"], "test": ["0006", "0007", "0008"]}}


def _open(root: Path, **settings: object) -> NVSData:
    return NVSData(NVSDataConfig(root=str(root), **{"rays_per_item": 16, **settings}), seed=5)  # type: ignore[arg-type]


def _white(path: Path) -> np.ndarray:
    rgba = np.array(Image.open(path)).astype(np.float64) / 255.0
    return rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]


def _same(one: Batch, two: Batch) -> None:
    assert one.ids == two.ids
    assert one.context_cameras is not None
    assert two.context_cameras is not None
    for a, b in (
        (one.context, two.context),
        (one.truth, two.truth),
        (one.query.origins, two.query.origins),
        (one.query.directions, two.query.directions),
        (one.context_cameras.poses, two.context_cameras.poses),
    ):
        assert torch.equal(a, b)


def _pixels_of(data: NVSData, batch: Batch, item: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Find by geometry alone which view an item's rays belong to, and the (row, column) that each ray goes through."""
    sample = data.object(batch.ids[item])
    origin = batch.query.origins[item, 0]
    view = int((sample.cameras.poses[:, :3, 3] - origin).norm(dim=1).argmin())
    camera = Cameras(sample.cameras.poses[view][None], sample.cameras.focal[view][None], data.size, data.size)
    points = (batch.query.origins[item] + 3.0 * batch.query.directions[item])[None]
    x, y, _ = geometry.project(camera, points)[0].unbind(-1)
    return view, y.numpy(), x.numpy()


def test_truth_is_the_pictures_pixel_that_the_ray_goes_through(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS, size=12)
    data = _open(root)
    batch = data.train_batch(3, 8)
    assert batch.context.shape == (8, 1, 3, 12, 12)
    assert batch.truth.shape == batch.query.origins.shape == (8, 16, 3)
    for item, name in enumerate(batch.ids):
        view, row, column = _pixels_of(data, batch, item)
        # pixel centres; measured worst case 2e-5 pixels
        assert np.abs(row % 1 - 0.5).max() < 1e-3
        assert np.abs(column % 1 - 0.5).max() < 1e-3
        picture = _white(root / "cars" / name.split("/")[1] / f"r_{view:03d}.png")
        assert np.abs(picture[row.astype(int), column.astype(int)] - batch.truth[item].numpy()).max() < 1e-6


def test_the_context_is_another_view_with_its_own_camera(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS, views=6)
    data = _open(root, train_views=(1, 4))
    seen = set()
    for step in range(30):
        batch = data.train_batch(step, 5)
        assert batch.context_cameras is not None
        assert batch.context_cameras.poses.shape == (5, 1, 4, 4)
        for item, name in enumerate(batch.ids):
            poses = data.object(name).cameras.poses
            context = int((poses - batch.context_cameras.poses[item]).abs().sum((1, 2)).argmin())
            target = _pixels_of(data, batch, item)[0]
            assert context != target
            seen |= {(context, target)}
            picture = _white(root / "cars" / name.split("/")[1] / f"r_{context:03d}.png")
            assert np.abs(batch.context[item, 0].permute(1, 2, 0).numpy() - picture).max() < 1e-6
    assert seen == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b}


def test_a_batch_is_a_pure_function_of_seed_and_step(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS)
    one, two = _open(root, augment="all"), _open(root, augment="all")
    for step in (7, 0, 3):
        two.train_batch(step, 4)
    for step in (0, 3, 7, 10**6):
        _same(one.train_batch(step, 4), two.train_batch(step, 4))
    other = NVSData(one.config, seed=6).train_batch(3, 4)
    assert not torch.equal(other.query.directions, one.train_batch(3, 4).query.directions)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_interleave_to_the_joined_batch(make_data: MakeData, world: int) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS), augment="all")
    for step in (0, 4):
        joined = data.train_batch(step, 7)
        for rank in range(world):
            part = data.train_batch(step, 7, rank, world)
            own = list(range(rank, 7, world))
            assert part.ids == tuple(joined.ids[i] for i in own)
            assert torch.equal(part.context, joined.context[own])
            assert torch.equal(part.truth, joined.truth[own])
            assert torch.equal(part.query.directions, joined.query.directions[own])
            assert torch.equal(part.query.origins, joined.query.origins[own])


@pytest.mark.parametrize("batch_size", [2, 3, 5, 12])
def test_epochs_are_permutations_also_when_they_end_within_a_batch(make_data: MakeData, batch_size: int) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS))
    assert data.steps_per_epoch(batch_size) == math.ceil(5 / batch_size)
    stream = [name for step in range(30) for name in data.train_batch(step, batch_size).ids]
    epochs = [stream[start : start + 5] for start in range(0, len(stream) // 5 * 5, 5)]
    assert all(sorted(epoch) == sorted(data.train_ids) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2


def test_half_of_the_first_epochs_rays_hit_the_foreground(make_data: MakeData, tmp_path: Path) -> None:
    for name in ("cut out", "opaque"):
        for index in range(6):
            pictures = np.zeros((4, 16, 16, 4), np.uint8)
            pictures[..., :3] = 255
            pictures[..., 3] = 255 if name == "opaque" else 0
            pictures[:, 3:5, 6:8] = (20, 30, 40, 255)  # 4 pixels of 256
            folder = tmp_path / name / "cars" / f"{index}"
            write_scene(folder, pictures, geometry.turntable(4).numpy(), 2 * math.atan(0.27))
        data = _open(tmp_path / name, rays_per_item=64, foreground_epochs=2.0, train_fraction=1.0)
        count = len(data.train_ids)
        for step in range(3 * count):
            truth = data.train_batch(step, 1).truth
            dark = (truth < 0.5).all(-1)
            if step < 2 * count:
                assert dark[:, :32].all()
            assert dark[:, 32:].sum() < 8
            if step >= 2 * count:
                assert dark.sum() < 12


def test_another_part_of_the_rays_may_start_from_the_foreground(tmp_path: Path) -> None:
    for index in range(6):
        pictures = np.zeros((4, 16, 16, 4), np.uint8)
        pictures[:, 3:5, 6:8] = (20, 30, 40, 255)  # 4 pixels of 256
        write_scene(tmp_path / "cars" / f"{index}", pictures, geometry.turntable(4).numpy(), 2 * math.atan(0.27))
    for share, hits in ((0.0, 0), (0.25, 16), (1.0, 64)):
        data = _open(tmp_path, rays_per_item=64, foreground_epochs=1.0, foreground_share=share)
        dark = (data.train_batch(0, 4).truth < 0.5).all(-1)
        assert dark[:, :hits].all()
        assert dark[:, hits:].sum() < 12


def _splat(points: torch.Tensor, colours: torch.Tensor, camera: Cameras) -> np.ndarray:
    """Draw points as single pixels on nothing: (S, S, 4) uint8."""
    picture = np.zeros((camera.height, camera.width, 4), np.uint8)
    x, y, _ = geometry.project(camera, points[None])[0].unbind(-1)
    for column, row, colour in zip(x.long(), y.long(), colours, strict=True):
        picture[row, column] = (*colour.tolist(), 255)
    return picture


def test_mirrored_pictures_are_those_of_the_mirrored_world(tmp_path: Path) -> None:
    size, views = 32, 6
    poses = geometry.turntable(views, start=0.3)
    focal = torch.tensor([geometry.focal_from_angle(2 * math.atan(0.27), size)])
    worlds = {}
    for index in range(4):
        generator = torch.Generator().manual_seed(index)
        points = torch.rand(12, 3, generator=generator, dtype=torch.float64).float() - 0.5
        colours = torch.randint(0, 250, (12, 3), generator=generator)
        worlds[f"cars/{index}"] = (points, colours)
        pictures = [_splat(points, colours, Cameras(pose[None], focal, size, size)) for pose in poses]
        write_scene(tmp_path / "cars" / f"{index}", np.stack(pictures), poses.numpy(), 2 * math.atan(0.27))
    data = _open(tmp_path, augment="mirror", rays_per_item=256, foreground_epochs=100.0)
    mirrored = checked = 0
    for step in range(12):
        batch = data.train_batch(step, 3)
        assert batch.context_cameras is not None
        for item, name in enumerate(batch.ids):
            points, colours = worlds[name]
            pose = batch.context_cameras.poses[item]
            is_mirrored = (data.object(name).cameras.poses - pose).abs().sum((1, 2)).min() > 1e-3
            mirrored += bool(is_mirrored)
            world = points * torch.tensor([-1.0, 1.0, 1.0]) if is_mirrored else points
            drawn = _splat(world, colours, Cameras(pose, focal, size, size))
            expected = np.where(drawn[..., 3:] > 0, drawn[..., :3] / 255.0, 1.0)
            # A point on a pixel's edge may fall to the other side when mirrored: allow one point of twelve.
            wrong = np.abs(batch.context[item, 0].permute(1, 2, 0).numpy() - expected).max(-1) > 1e-5
            assert wrong.sum() <= 2
            # each ray that shows a point's colour passes it within a pixel's diagonal
            truth = (batch.truth[item] * 255).round().long()
            for point, colour in zip(world, colours, strict=True):
                rays = (truth == colour).all(-1)
                directions = torch.nn.functional.normalize(batch.query.directions[item][rays], dim=-1)
                offset = point - batch.query.origins[item][rays]
                along = (offset * directions).sum(-1, keepdim=True)
                assert ((offset - along * directions).norm(dim=-1) < 0.75 * along[:, 0] / focal).all()
                checked += int(rays.sum())
    assert 8 < mirrored < 28
    assert checked > 1000


@pytest.mark.parametrize("opaque", [False, True])
def test_colours_change_together_and_the_background_stays_white(tmp_path: Path, opaque: bool) -> None:
    pictures = np.full((4, 8, 8, 4), 255, np.uint8)
    pictures[..., 3] = 255 if opaque else 0
    pictures[:, 2:6, 2:6] = (200, 100, 30, 255)
    for index in range(12):
        write_scene(tmp_path / "cars" / f"{index}", pictures, geometry.turntable(4).numpy(), 0.5)
    data = _open(tmp_path, augment="colour", rays_per_item=64)
    batch = data.train_batch(0, 8)
    inside = batch.context[:, 0, :, 2:6, 2:6].flatten(2)
    assert torch.equal(inside, inside[:, :, :1].expand_as(inside))
    colours = inside[:, :, 0]
    assert len({tuple(colour.tolist()) for colour in colours}) == 8
    outside = batch.context[:, 0].clone()
    outside[:, :, 2:6, 2:6] = 1.0
    assert torch.equal(outside, torch.ones_like(outside))
    for item in range(8):
        rows = batch.truth[item]
        matches = (rows - colours[item]).abs().amax(-1) < 1e-5
        assert (matches | (rows == 1.0).all(-1)).all()
        assert matches.any()


def test_fractions_are_nested_and_per_class() -> None:
    names = [f"{c}/{i:03d}" for c, n in (("cars", 100), ("lamps", 10)) for i in range(n)]
    parts = [set(nested_fraction(names, fraction)) for fraction in (0.01, 0.1, 0.2, 0.5, 1.0)]
    assert all(small <= large for small, large in pairwise(parts))
    assert [len(part) for part in parts] == [2, 11, 22, 55, 110]


def test_evaluation_asks_for_every_ray_of_the_frozen_target(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS)
    data = _open(root)
    pairs = data.pairs("test", batch_size=4)
    assert (len(pairs), pairs.counts, pairs.hash) == (6, {"cars": 6}, data.frozen("test").sha256)
    batches = list(pairs)
    assert [len(batch.ids) for batch in batches] == [4, 2]
    items = [(batch, i) for batch in batches for i in range(len(batch.ids))]
    for pair, (batch, i) in zip(pairs.pairs, items, strict=True):
        assert batch.query_size == (8, 8)
        folder = root / "cars" / pair.object.split("/")[1]
        target = _white(folder / f"r_{pair.target:03d}.png").reshape(-1, 3)
        assert np.abs(batch.truth[i].numpy() - target).max() < 1e-6
        context = _white(folder / f"r_{pair.context:03d}.png")
        assert np.abs(batch.context[i, 0].permute(1, 2, 0).numpy() - context).max() < 1e-6
        camera = data.object(pair.object).cameras
        one = Cameras(camera.poses[pair.target][None], camera.focal[:1], 8, 8)
        assert torch.equal(batch.query.directions[i], geometry.picture_rays(one).directions[0])


def test_every_split_has_its_own_frozen_pairs(make_data: MakeData) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS))
    objects = {split: {pair.object for pair in data.pairs(split).pairs} for split in ("train", "val", "test")}
    assert {split: len(names) for split, names in objects.items()} == {"train": 5, "val": 1, "test": 3}
    assert len({data.pairs(split).hash for split in objects}) == 3
    assert not objects["train"] & objects["test"]


def test_shuffled_evaluation_changes_the_context_only(make_data: MakeData) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS))
    plain, shuffled = data.pairs("test"), data.pairs("test", shuffle_context="class")
    for one, two in zip(plain, shuffled, strict=True):
        assert torch.equal(one.truth, two.truth)
        assert torch.equal(one.query.directions, two.query.directions)
        assert not any(torch.equal(a, b) for a, b in zip(one.context, two.context, strict=True))
    limited = data.pairs("test", shuffle_context="class", limit=2)
    assert [pair in shuffled.pairs for pair in limited.pairs] == [True, True]


def test_constants_are_the_psnr_of_white_and_of_the_classs_mean(make_data: MakeData) -> None:
    names = [f"{i:04d}" for i in range(4)]
    lists = {"train": names[:2], "val": [], "test": names[2:]}
    root = make_data({"cars": 4, "lamps": 4, "vans": 4}, splits=dict.fromkeys(("cars", "lamps", "vans"), lists))
    data = _open(root, classes=("cars", "lamps"), train_views=(0, 3))
    # no validation objects: one of two training objects of each class is taken for it
    assert len(data.train_ids) == 2
    assert len(data.splits["val"]) == 3
    train = {name: [_white(root / name / f"r_{v:03d}.png") for v in range(3)] for name in data.train_ids}
    means = {name.split("/")[0]: np.mean(views, axis=0) for name, views in train.items()}
    overall = np.mean(list(train.values()), axis=(0, 1))
    expected: dict[str, dict[str, list[float]]] = {"white": {}, "class": {}, "all": {}}
    for pair in data.pairs("test", ["cars", "vans"]).pairs:
        name = pair.object.split("/")[0]
        target = _white(root / pair.object / f"r_{pair.target:03d}.png")
        for kind, given in (("white", np.ones(3)), ("class", means.get(name, overall)), ("all", overall)):
            error = ((target - given) ** 2).mean()
            expected[kind].setdefault(name, []).append(-10 * math.log10(error))
    for mean in ("class", "all"):
        found = data.constants("test", ["cars", "vans"], mean=mean)  # type: ignore[arg-type]
        again = data.constants("test", ["cars", "vans"], mean=mean)  # type: ignore[arg-type]
        assert found == again  # the stored mean picture is the same
        for key, kind in (("white", "white"), ("mean", mean)):
            for name in ("cars", "vans"):
                assert math.isclose(found[key][name], np.mean(expected[kind][name]), abs_tol=1e-4)
            assert math.isclose(found[key]["all"], np.mean(sum(expected[kind].values(), [])), abs_tol=1e-4)  # noqa: RUF017


def test_samples_are_plain_and_spread_over_classes(make_data: MakeData, tmp_path: Path) -> None:
    data = _open(make_data({"cars": 20, "lamps": 20}))
    samples = data.samples(4)
    assert [sample["class"] for sample in samples] == ["cars", "lamps", "cars", "lamps"]
    assert {sample["split"] for sample in samples} == {"test"}
    torch.save(samples, tmp_path / "samples.pt")
    loaded = torch.load(tmp_path / "samples.pt", weights_only=True)
    pair = next(pair for pair in data.pairs("test").pairs if pair.object == loaded[0]["id"])
    whole = data.object(loaded[0]["id"])
    assert torch.equal(loaded[0]["picture"], whole.pictures[pair.context])
    assert torch.equal(loaded[0]["target_pose"], whole.cameras.poses[pair.target])
    assert (whole.split, loaded[0]["width"], loaded[0]["near"], loaded[0]["far"]) == ("test", 8, 2.0, 6.0)


def test_wrong_names_are_named(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS)
    with pytest.raises(HyperkitError, match="Did you mean 'cars'"):
        _open(root, classes=("car",))
    data = _open(root)
    with pytest.raises(HyperkitError, match="Did you mean 'test'"):
        data.pairs("tests")
    with pytest.raises(HyperkitError, match="cars/0003"):
        data.object("0003")
    with pytest.raises(HyperkitError, match="no view in"):
        _open(root, train_views=(6, 9))
    with pytest.raises(ValueError, match="range"):
        NVSDataConfig(train_views=(3, 3))


def test_zero_rays_are_an_ordinary_request(make_data: MakeData) -> None:
    batch = _open(make_data({"cars": 9}, splits=SPLITS), rays_per_item=0).train_batch(0, 2)
    assert batch.truth.shape == batch.query.directions.shape == (2, 0, 3)


def test_a_black_background(make_data: MakeData) -> None:
    root = make_data({"cars": 9}, splits=SPLITS)
    data = _open(root, background="black")
    pair = data.pairs("test").pairs[0]
    rgba = np.array(Image.open(root / pair.object / f"r_{pair.target:03d}.png")) / 255.0
    truth = next(iter(data.pairs("test"))).truth[0].numpy()
    assert np.abs(truth - (rgba[..., :3] * rgba[..., 3:]).reshape(-1, 3)).max() < 1e-6
    assert set(data.constants("test")) == {"white", "black", "mean"}
