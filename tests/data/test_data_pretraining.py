"""What backbones are pretrained on: objects of other classes, their crops, and the classes that are held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperkit.data import pretraining
from hyperkit.data.crops import Looks, blur, crop, draw_boxes, grey_of, recolour
from hyperkit.data.pretraining import PretrainingData, PretrainingDataConfig, frame_of, laid_on
from hyperkit.data.procedural import CLASSES, fingerprint
from hyperkit.data.procedural.others import HELD_OUT_CLASSES, PRETRAINING_CLASSES, make_other_object
from hyperkit.data.raster import CAMERA_ANGLE_X, render_mesh, sphere_poses
from hyperkit.errors import HyperkitError
from hyperkit.randomness import numpy_rng

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pretraining.json"
EVERY = (*PRETRAINING_CLASSES, *HELD_OUT_CLASSES)
TINY = PretrainingDataConfig(objects=1, held_out=2, views=2, pictures=4, stored=20, size=16, local_size=8, workers=1)


def test_no_class_is_one_that_hypernetworks_are_trained_on_and_none_is_both() -> None:
    assert len(set(EVERY)) == len(EVERY) == 17
    assert not set(EVERY) & set(CLASSES)
    with pytest.raises(HyperkitError, match="chairs"):
        make_other_object("chairs", 0, 0)


@pytest.mark.parametrize("name", EVERY)
def test_objects_are_closed_wound_outwards_centred_and_differ(name: str) -> None:
    prints = set()
    for index in range(12):  # steps of the golden ratio: all kinds of a class are among them
        mesh = make_other_object(name, 0, index)
        directed = np.concatenate([mesh.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
        edges = {tuple(edge) for edge in directed.tolist()}
        assert len(edges) == len(directed)
        assert edges == {(b, a) for a, b in edges}
        assert 0.98 <= np.linalg.norm(mesh.vertices, axis=1).max() <= 1.0
        assert np.abs(mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)).max() < 1e-9
        poses = sphere_poses(numpy_rng(index), 1)
        culled, whole = (
            render_mesh(mesh, poses, CAMERA_ANGLE_X, 32, 2, cull=cull).astype(int) for cull in (True, False)
        )
        assert (np.abs(culled - whole).max(axis=-1) > 8).sum() <= 8, index  # a part wound inwards shows its far side
        prints.add(fingerprint(mesh))
    assert len(prints) == 12


def test_objects_are_the_same_on_every_machine() -> None:
    found = {name: [fingerprint(make_other_object(name, 0, index)) for index in range(2)] for name in EVERY}
    assert found == json.loads(GOLDEN.read_text())


def test_a_crop_shows_its_box() -> None:
    # a picture whose colours are its coordinates: the crop of a box holds the coordinates within it
    side, size = 40, 10
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.broadcast_to(axis[None, :], (side, side)), np.broadcast_to(axis[:, None], (side, side))
    pictures = torch.from_numpy(np.stack((x, y, 0 * x))).expand(2, -1, -1, -1)
    box = np.array([(0.2, -0.1, 0.5, 0.25)] * 2)
    found = crop(pictures, box, size, torch.tensor([False, True])).numpy()
    own = (np.arange(size) + 0.5) / size * 2 - 1
    assert np.abs(found[0, 0] - (0.2 + 0.5 * own)[None, :]).max() < 1e-9
    assert np.abs(found[0, 1] - (-0.1 + 0.25 * own)[:, None]).max() < 1e-9
    assert np.abs(found[1] - found[0][..., ::-1]).max() < 1e-9


def test_a_crop_of_the_whole_picture_at_half_its_size_is_its_means() -> None:
    pictures = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    whole = np.tile((0.0, 0.0, 1.0, 1.0), (3, 1))
    found = crop(pictures, whole, 8, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(pictures, 2))


def test_boxes_lie_within_the_square_and_have_the_areas_asked_for() -> None:
    rng, frame = np.random.default_rng(0), np.array((0.3, -0.2, 0.6))
    boxes = draw_boxes(rng, frame, 4000, (0.1, 0.4))
    low, high = boxes[:, :2] - boxes[:, 2:], boxes[:, :2] + boxes[:, 2:]
    assert (low >= frame[:2] - 0.6 - 1e-12).all()
    assert (high <= frame[:2] + 0.6 + 1e-12).all()
    share = boxes[:, 2] * boxes[:, 3] / 0.36
    assert share.min() == pytest.approx(0.1, abs=1e-3)
    assert share.max() == pytest.approx(0.4, abs=1e-3)
    ratio = boxes[:, 2] / boxes[:, 3]
    assert (ratio.min(), ratio.max()) == pytest.approx((3 / 4, 4 / 3), abs=1e-2)
    assert np.abs(boxes[:, :2].mean(0) - frame[:2]).max() < 0.01


def test_looks_change_what_they_say_and_nothing_else() -> None:
    torch.manual_seed(0)
    pictures = 0.4 + 0.2 * torch.rand(4, 3, 8, 8)  # nothing reaches the limits
    middle = np.full((4, Looks.DRAWS), 0.5)
    torch.testing.assert_close(recolour(pictures, Looks(0.5, 0.5, 0.5), middle), pictures)
    brighter, flatter, paler = (middle.copy() for _ in range(3))
    brighter[:, 1], flatter[:, 2], paler[:, 3] = 0.75, 0.25, 0.25
    looks = Looks(0.5, 0.0, 0.0)
    torch.testing.assert_close(recolour(pictures, looks, brighter), 1.25 * pictures)
    mean = grey_of(pictures).mean((2, 3), keepdim=True)
    torch.testing.assert_close(recolour(pictures, looks, flatter), mean + 0.75 * (pictures - mean))
    pale = recolour(pictures, looks, paler)
    torch.testing.assert_close(grey_of(pale), grey_of(pictures))
    torch.testing.assert_close(pale - grey_of(pale), 0.75 * (pictures - grey_of(pictures)))
    grey = recolour(pictures, Looks(0.5, 1.0, 0.0), middle)
    torch.testing.assert_close(grey, grey_of(pictures).expand(-1, 3, -1, -1))


def test_blur_is_a_gaussian_of_each_pictures_own_width() -> None:
    point = torch.zeros(2, 3, 15, 15, dtype=torch.float64)
    point[:, :, 7, 7] = 1
    sigma = torch.tensor([0.5, 1.0], dtype=torch.float64)
    found = blur(point, sigma)
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))
    taps = torch.arange(-3, 4, dtype=torch.float64)
    for item in range(2):
        weights = torch.exp(-0.5 * (taps / sigma[item]) ** 2)
        plane = torch.outer(weights, weights) / weights.sum() ** 2
        torch.testing.assert_close(found[item, :, 4:11, 4:11], plane.expand(3, -1, -1))
    flat = torch.full((1, 3, 6, 6), 0.7, dtype=torch.float64)
    torch.testing.assert_close(blur(flat, sigma[:1]), flat)


def test_compositing_and_the_square_around_an_object() -> None:
    rgba = np.zeros((10, 10, 4), np.uint8)
    rgba[2:4, 5:9] = (200, 100, 0, 255)
    rgba[3, 8, 3] = 51  # a fifth
    white, before = laid_on(rgba, None), laid_on(rgba, np.full((10, 10, 3), 50, np.uint8))
    assert white[2, 5].tolist() == before[2, 5].tolist() == [200, 100, 0]
    assert (white[0, 0].tolist(), before[0, 0].tolist()) == ([255] * 3, [50] * 3)
    assert (white[3, 8].tolist(), before[3, 8].tolist()) == ([244, 224, 204], [80, 60, 40])
    assert frame_of(rgba[..., 3]).tolist() == pytest.approx([0.4, -0.4, 0.4])
    assert frame_of(np.zeros((10, 10), np.uint8)).tolist() == [0, 0, 1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture
def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainingData:
    monkeypatch.setenv("HYPERKIT_CACHE", str(root))
    return PretrainingData(TINY, 0)


def test_an_epoch_shows_every_view_and_picture_once_and_no_held_out_class(tiny: PretrainingData) -> None:
    steps = tiny.steps_per_epoch(4)
    seen = [name for step in range(steps) for name in tiny.train_batch(step, 4).ids]
    expected = [f"{name}/0/{view}" for name in PRETRAINING_CLASSES for view in range(2)]
    assert sorted(seen) == sorted(expected + [f"pictures/{k}" for k in range(4)])
    bank = tiny.held_out.query
    assert set(tiny.held_out.classes) == set(bank.classes) == set(HELD_OUT_CLASSES)
    assert not {name.rpartition("/")[0] for name in bank.ids} & {name.rpartition("/")[0] for name in tiny.held_out.ids}
    assert float(tiny.held_out.context[:, 0, :, 0, 0].min()) == 1.0  # corners are white


def test_a_batch_depends_on_seed_and_step_alone_and_processes_share_it(tiny: PretrainingData) -> None:
    joined = tiny.train_batch(3, 6)
    halves = [PretrainingData(TINY, 0).train_batch(3, 6, rank, 2) for rank in range(2)]
    for rank, half in enumerate(halves):
        assert half.ids == joined.ids[rank::2]
        torch.testing.assert_close(half.context, joined.context[rank::2], rtol=0, atol=1e-6)
        torch.testing.assert_close(half.query, joined.query[rank::2], rtol=0, atol=1e-6)
    assert not torch.equal(PretrainingData(TINY, 1).train_batch(3, 6).context, joined.context)
    assert (joined.context.shape, joined.query.shape) == ((6, 2, 3, 16, 16), (6, 4, 3, 8, 8))
    assert 0 <= float(joined.context.min()) <= float(joined.context.max()) <= 1


def test_plain_crops_keep_their_colours(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(root))
    config = TINY.model_copy(update={"global_scale": (1.0, 1.0), "backgrounds": 0.0, "mirror": 0.0})
    data = PretrainingData(config, 0, plain=True)
    batch = data.train_batch(0, 8)
    assert (batch.context.shape, batch.query.shape) == ((8, 1, 3, 16, 16), (8, 0, 3, 8, 8))
    objects = [i for i, name in enumerate(batch.classes) if name != "pictures"]
    assert len(objects) >= 2
    for i in objects:  # nothing but white around the object, which colours changed would tint
        name, index, view = batch.ids[i].split("/")
        rgba = data.objects[PRETRAINING_CLASSES.index(name) + int(index), int(view)]
        colours = laid_on(rgba, None).reshape(-1, 3).mean(0) / 255
        # aspects of 3/4 to 4/3 leave a part of the picture out
        assert np.abs(batch.context[i, 0].mean((1, 2)).numpy() - colours).max() < 0.1  # 0.05 seen


def test_the_set_is_made_once_and_alike_by_any_number_of_workers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(root))
    first = PretrainingData(TINY, 0)
    told: list[tuple[int, int]] = []
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))
    again = PretrainingData(TINY.model_copy(update={"workers": 2}), 5, progress=lambda *now: told.append(now))
    assert np.array_equal(first.objects, again.objects)
    assert np.array_equal(first.pictures, again.pictures)
    assert told[-1] == (12 + 10 + 4,) * 2
    monkeypatch.setattr(pretraining, "_make", None)  # nothing is made a second time
    assert PretrainingData(TINY, 0).root == again.root
