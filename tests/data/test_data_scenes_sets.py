"""Sets of captioned scenes: views and cameras as stored, held-out views, the mean image, and clear refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperkit.config import validate
from hyperkit.data.builtin_scenes import builtin_scenes_root
from hyperkit.data.procedural.captioned import make_captioned_scenes
from hyperkit.data.scenes import ScenesConfig, SceneSet, held_out_views, open_scene, read_captions
from hyperkit.data.splits import read_splits, write_splits
from hyperkit.errors import HyperkitError

SCENES = [("chair", "red"), ("chair", "blue"), ("mug", "red")]
UNSEEN = [("mug", "blue")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four scenes of 5 views, of which the middle one is held out."""
    make_captioned_scenes(tmp_path / "set", SCENES, UNSEEN, 12, 5, workers=1)
    return tmp_path / "set"


def opened(root: Path, **values: object) -> SceneSet:
    return SceneSet.open(validate(ScenesConfig, {"root": str(root), **values}))


def stored(root: Path, scene: str, view: int) -> np.ndarray:
    """One picture in float64, read by Pillow: (S, S, 4)."""
    with Image.open(root / scene / f"r_{view:03d}.png") as picture:
        return np.asarray(picture, np.float64) / 255


def on(rgba: np.ndarray, background: float) -> np.ndarray:
    return rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:])


@pytest.mark.parametrize("background", ["white", "black"])
def test_views_are_those_on_disk_with_their_cameras(root: Path, background: str) -> None:
    scenes = opened(root, background=background)
    assert scenes.captions == {
        "chair/blue": "a blue chair",
        "chair/red": "a red chair",
        "mug/blue": "a blue mug",
        "mug/red": "a red mug",
    }
    assert scenes.split("train") == ("chair/blue", "chair/red", "mug/red")  # none is taken out for validation
    assert scenes.notes == ()  # and nobody is told so
    assert scenes.split("unseen") == ("mug/blue",)
    assert scenes.shared_cameras
    for scene in scenes.captions:
        frames = json.loads((root / scene / "transforms.json").read_text())["frames"]
        for views, numbers in ((scenes.views(scene), [0, 1, 3, 4]), (scenes.test_views(scene), [2])):
            assert len(views) == len(numbers)
            assert not views.opaque
            rgba = np.stack([stored(root, scene, number) for number in numbers]).transpose(0, 3, 1, 2)
            assert np.abs(views.rgba.numpy() - rgba).max() < 1e-7
            poses = np.array([frames[number]["transform_matrix"] for number in numbers])
            assert np.abs(views.cameras.poses.numpy() - poses).max() < 1e-6
            assert torch.allclose(views.cameras.focal, torch.tensor(6 / 0.27))
            assert (views.cameras.width, views.cameras.height, scenes.size) == (12, 12, 12)
            pictures = views.pictures(scenes.background)
            truth = on(rgba.transpose(0, 2, 3, 1), float(background == "white")).transpose(0, 3, 1, 2)
            assert np.abs(pictures.numpy() - truth).max() < 1e-6
            clear = (views.rgba[:, 3:] == 0).expand(-1, 3, -1, -1)
            assert clear.any()
            assert (pictures[clear] == float(background == "white")).all()


def test_the_mean_image_is_that_of_the_training_scenes_from_the_same_camera(root: Path) -> None:
    scenes = opened(root)
    mean = np.mean([on(stored(root, scene, 2), 1.0) for scene in scenes.split("train")], axis=0)
    for scene in scenes.captions:
        assert scenes.mean_pictures(scene).shape == (1, 3, 12, 12)
        assert np.abs(scenes.mean_pictures(scene)[0].numpy() - mean.transpose(2, 0, 1)).max() < 1e-6

    # One training scene was seen from elsewhere: nobody can say what the others look like from the same camera.
    source = root / "mug" / "red" / "transforms.json"
    content = json.loads(source.read_text())
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    for frame in content["frames"]:
        frame["transform_matrix"] = (turn @ frame["transform_matrix"]).tolist()
    source.write_text(json.dumps(content))
    scenes = opened(root)
    assert not scenes.shared_cameras
    mean = np.mean([on(stored(root, s, view), 1.0) for s in scenes.split("train") for view in (0, 1, 3, 4)], axis=0)
    assert np.abs(scenes.mean_pictures("mug/blue")[0].numpy() - mean.transpose(2, 0, 1)).max() < 1e-6


def test_the_mean_image_needs_training_scenes(tmp_path: Path) -> None:
    make_captioned_scenes(tmp_path / "new", [], [("vase", "striped")], 8, 3, workers=1)
    scenes = opened(tmp_path / "new")
    assert scenes.split("train") == ()
    assert scenes.split("unseen") == ("vase/striped",)
    with pytest.raises(HyperkitError, match="no training scenes"):
        scenes.mean_pictures("vase/striped")


def test_held_out_views_are_spread_over_the_path() -> None:
    assert np.flatnonzero(held_out_views(40, 0.2)).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    for views in range(2, 60):
        for fraction in (0.01, 0.2, 0.5, 0.99):
            held = held_out_views(views, fraction)
            assert held.sum() == min(max(1, round(fraction * views)), views - 1)
            gaps = np.diff(np.flatnonzero(held))
            assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_a_scenes_hash_is_that_of_what_its_field_is_fitted_to(root: Path) -> None:
    def repaint(view: int) -> str:
        path = root / "mug" / "red" / f"r_{view:03d}.png"
        with Image.open(path) as picture:
            pixels = np.array(picture)
        pixels[0, 0] = (1, 2, 3, 4)
        Image.fromarray(pixels).save(path)
        return opened(root).hash("mug/red")

    scenes = opened(root)
    first = scenes.hash("mug/red")
    assert len({scenes.hash(scene) for scene in scenes.captions}) == 4
    assert opened(root, background="black").hash("mug/red") == first
    assert opened(root, resolution=6).hash("mug/red") != first
    assert opened(root, test_fraction=0.4).hash("mug/red") != first
    assert repaint(2) == first  # held out
    assert repaint(3) != first


def test_a_single_scene_is_read_as_in_its_set(root: Path) -> None:
    for resolution in (None, 5):
        scenes = opened(root, resolution=resolution)
        train, test = open_scene(root / "mug" / "blue", resolution)
        for one, other in ((train, scenes.views("mug/blue")), (test, scenes.test_views("mug/blue"))):
            assert torch.equal(one.rgba, other.rgba)
            assert torch.equal(one.cameras.poses, other.cameras.poses)
            assert torch.allclose(one.cameras.focal, other.cameras.focal, rtol=1e-6)
            assert (one.cameras.width, one.cameras.near, one.opaque) == (scenes.size, scenes.near, other.opaque)


def test_a_broken_single_scene_is_refused_with_all_that_is_wrong(root: Path) -> None:
    with pytest.raises(HyperkitError, match=r"has no transforms\.json"):
        open_scene(root / "mug")
    scene = root / "mug" / "red"
    Image.new("RGBA", (9, 9)).save(scene / "r_001.png")
    (scene / "r_002.png").unlink()
    whole = (scene / "r_003.png").read_bytes()
    (scene / "r_003.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HyperkitError) as caught:
        open_scene(scene)
    for part in ("r_002.png is missing", "different sizes: 9, 12 pixels", "r_003.png: cannot be decoded"):
        assert part in str(caught.value)


def test_everything_that_is_wrong_with_captions_and_pictures_is_listed_at_once(root: Path) -> None:
    path = root / "captions.json"
    captions = json.loads(path.read_text())
    del captions["chair/red"]
    path.write_text(json.dumps(captions | {"mug/red": " ", "mug/blue": 3, "boat/red": "a red boat", "boat/tin": ""}))
    picture = Image.new("RGBA", (8, 8))
    picture.save(root / "chair" / "blue" / "r_001.png")
    with pytest.raises(HyperkitError) as caught:
        opened(root)
    for part in (
        "captions that are empty (2): mug/red, boat/tin",
        "captions that are not a sentence (1): mug/blue",
        "captions without a scene (2): boat/red, boat/tin",
        "scenes without a caption (1): chair/red",
        "chair/blue/r_001.png: is 8 x 8 pixels where most are 12 x 12",
        "--resolution",
    ):
        assert part in str(caught.value), part
    with pytest.raises(HyperkitError, match="captions that are empty") as caught:
        opened(root, resolution=6)  # sizes are no problem then
    assert "8 x 8" not in str(caught.value)


def test_captions_that_cannot_be_read_are_refused(root: Path) -> None:
    path = root / "captions.json"
    for text, message in (("{", "cannot be read"), ('["a red mug"]', "holds list, not a mapping")):
        path.write_text(text)
        with pytest.raises(HyperkitError, match=message):
            opened(root)
    path.unlink()
    with pytest.raises(HyperkitError, match=r"there is no captions\.json") as caught:
        opened(root)
    assert "a red chair" in str(caught.value)  # what the file should hold
    path.write_text(json.dumps({"mug/red": "  a red mug\n"}))
    assert read_captions(root, ["mug/red"]) == ({"mug/red": "a red mug"}, [])


def test_validation_scenes_train_and_opaque_pictures_are_known(root: Path) -> None:
    write_splits(root, "chair", {"train": ["red"], "val": ["blue"]})
    for view in range(5):
        Image.new("RGB", (12, 12), (90, 80, 70)).save(root / "mug" / "red" / f"r_{view:03d}.png")
    scenes = opened(root)
    assert scenes.split("train") == ("chair/blue", "chair/red", "mug/red")
    assert scenes.views("mug/red").opaque
    assert (scenes.views("mug/red").rgba[:, 3] == 1).all()
    write_splits(root, "chair", {"train": ["red", "blue"]})
    ids = list(scenes.captions)
    assert len(read_splits(root, ids).ids["val"]) == 1  # what other tasks do
    assert read_splits(root, ids, validation=False).ids["val"] == ()


def test_unknown_names_are_refused(root: Path) -> None:
    scenes = opened(root)
    with pytest.raises(HyperkitError, match="Did you mean 'mug/red'"):
        scenes.views("mug/rde")
    with pytest.raises(HyperkitError, match="split of scenes 'test'"):
        scenes.split("test")  # type: ignore[arg-type]


def test_the_built_in_set_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))
    calls: list[tuple[int, int]] = []
    scenes = SceneSet.open(ScenesConfig(builtin="debug"), lambda *call: calls.append(call))
    assert calls[:5] == [(done, 4) for done in range(5)]
    assert (scenes.size, len(scenes.views("chair/red")), len(scenes.test_views("chair/red"))) == (16, 3, 1)
    assert scenes.split("unseen") == ("chair/red",)
    assert math.isclose(scenes.views("chair/red").cameras.focal[0].item(), 8 / 0.27, rel_tol=1e-6)
    made = (builtin_scenes_root("debug") / "captions.json").stat().st_mtime_ns
    SceneSet.open(ScenesConfig(builtin="debug"))
    assert (builtin_scenes_root("debug") / "captions.json").stat().st_mtime_ns == made
