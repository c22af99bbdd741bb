"""The truth's opacity beside its colour: which pixel it is of, and where it is not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperkit import geometry
from hyperkit.contracts import Batch, Cameras
from hyperkit.data.layout import write_scene
from hyperkit.data.nvs import NVSData, NVSDataConfig

MakeData = Callable[..., Path]
SPLITS = {"cars": {"train": [f"{i:04d}" for i in range(5)], "val": ["0005"], "test": ["0006", "0007", "0008"]}}
FLIP = torch.tensor([-1.0, 1.0, 1.0])


def _open(root: Path, **settings: object) -> NVSData:
    return NVSData(NVSDataConfig(root=str(root), **{"rays_per_item": 32, **settings}), 5)  # type: ignore[arg-type]


def _alpha(path: Path) -> np.ndarray:
    return np.array(Image.open(path))[..., 3].astype(np.float64) / 255.0


def _pixels_of(data: NVSData, batch: Batch, item: int) -> tuple[int, bool, np.ndarray, np.ndarray]:
    """Find by geometry alone the view that an item's rays belong to, whether mirrored, and each ray's pixel."""
    cameras = data.object(batch.ids[item]).cameras
    origin, directions = batch.query.origins[item, 0], batch.query.directions[item]
    places = cameras.poses[:, :3, 3]
    distance = torch.stack(((places - origin).norm(dim=1), (places * FLIP - origin).norm(dim=1)))
    mirrored, view = divmod(int(distance.argmin()), len(places))
    assert distance[mirrored, view] < 1e-5
    if mirrored:
        origin, directions = origin * FLIP, directions * FLIP
    camera = Cameras(cameras.poses[view][None], cameras.focal[view][None], data.size, data.size)
    x, y, _ = geometry.project(camera, (origin + 3.0 * directions)[None])[0].unbind(-1)
    return view, bool(mirrored), y.long().numpy(), x.long().numpy()


def test_the_opacity_is_the_alpha_of_the_pixel_that_the_ray_goes_through(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(8):
        pictures = rng.integers(0, 256, (6, 12, 12, 4), dtype=np.uint8)
        # turned by 0.3 rad, so that no view lies where a mirrored one does
        write_scene(tmp_path / "cars" / f"{index}", pictures, geometry.turntable(6, start=0.3).numpy(), 0.527)
    data = _open(tmp_path, augment="all")
    turned = 0
    for step in range(6):
        batch = data.train_batch(step, 4)
        assert batch.opacity is not None
        for item, name in enumerate(batch.ids):
            view, mirrored, rows, columns = _pixels_of(data, batch, item)
            expected = _alpha(tmp_path / name / f"r_{view:03d}.png")[rows, columns]
            # worst case seen: 3e-8, one rounding to float32
            assert np.abs(batch.opacity[item].numpy() - expected).max() < 1e-7
            turned += mirrored
    assert 4 < turned < 20


@pytest.mark.parametrize("split", ["train", "test"])
def test_black_and_white_truth_differ_by_what_passes_through(make_data: MakeData, split: str) -> None:
    root = make_data({"cars": 9}, splits=SPLITS)
    white, black = _open(root, augment="mirror"), _open(root, augment="mirror", background="black")
    if split == "train":
        pairs = [(white.train_batch(step, 5), black.train_batch(step, 5)) for step in range(4)]
    else:
        pairs = list(zip(white.pairs(split), black.pairs(split), strict=True))
    for one, two in pairs:
        assert one.opacity is not None
        assert two.opacity is not None
        assert torch.equal(one.opacity, two.opacity)
        through = (one.truth - two.truth).double()
        # worst case seen: 9e-8
        assert (through - (1 - one.opacity.double()).unsqueeze(-1)).abs().max() < 1e-6
        # pixels of all kinds are among them
        assert (one.opacity == 0).any()
        assert (one.opacity == 1).any()
        assert ((one.opacity > 0) & (one.opacity < 1)).any()


def test_nothing_is_said_of_pictures_without_alpha(make_data: MakeData) -> None:
    root = make_data({"cars": 6}, name="mixed")
    make_data({"lamps": 6}, name="mixed", opaque=True)
    data = _open(root)
    known = {"cars": False, "lamps": True}
    for batch in [data.train_batch(step, 6) for step in range(3)] + list(data.pairs("test")):
        assert batch.opacity is not None
        missing = batch.opacity.isnan()
        expected = torch.tensor([known[name] for name in batch.classes])
        assert torch.equal(missing, expected[:, None].expand_as(missing))
        assert 0 < expected.sum() < len(expected)
        assert not batch.truth.isnan().any()


def test_processes_share_the_opacity_of_the_joined_batch(make_data: MakeData) -> None:
    data = _open(make_data({"cars": 9}, splits=SPLITS), augment="all")
    joined = data.train_batch(2, 5).opacity
    assert joined is not None
    for rank in range(2):
        part = data.train_batch(2, 5, rank, 2).opacity
        assert part is not None
        assert torch.equal(part, joined[rank::2])
    assert math.isclose(float(joined.min()), 0.0)
