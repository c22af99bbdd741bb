"""Captioned scenes: closed objects that differ in shape and colour, their held-out combinations, and their files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hyperkit.data.builtin_scenes import BUILTIN_SCENES, builtin_scenes_root
from hyperkit.data.procedural import fingerprint
from hyperkit.data.procedural.captioned import (
    COLOURS,
    NOVEL,
    SHAPES,
    caption,
    held_out,
    make_captioned_object,
    make_captioned_scenes,
    spread_poses,
)
from hyperkit.data.raster import CAMERA_ANGLE_X, render_mesh
from hyperkit.errors import HyperkitError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "captioned.json"
ONE_OF_EACH = [*((shape, "red") for shape in SHAPES), *NOVEL]


def on_white(pictures: np.ndarray) -> np.ndarray:
    values = pictures.astype(float) / 255
    return values[..., :3] * values[..., 3:] + 1 - values[..., 3:]


def test_all_shapes_and_colours_are_seen_and_the_held_out_ones_are_spread_evenly() -> None:
    spec = BUILTIN_SCENES["hyperfields"]
    assert (len(spec.train), len(spec.unseen)) == (45, 27)
    assert set(spec.train) | set(spec.unseen) == {(shape, colour) for shape in SHAPES for colour in COLOURS}
    assert (len(SHAPES), len(COLOURS)) == (9, 8)
    assert set(Counter(shape for shape, _ in spec.unseen).values()) == {3}
    assert set(Counter(colour for _, colour in spec.unseen).values()) == {3, 4}
    assert len({held_out(shape) for shape in SHAPES}) >= 8  # the ninth shape comes round to the first one's
    assert {("chair", "red"), ("toaster", "orange")} <= set(spec.unseen)

    quick = BUILTIN_SCENES["quickstart"]
    assert (len(quick.train), len(quick.unseen)) == (9, 3)
    assert len({shape for shape, _ in quick.unseen}) == len({colour for _, colour in quick.unseen}) == 3
    assert set(quick.unseen) <= set(spec.unseen)
    for name in ("quickstart", "hyperfields", "debug"):
        chosen = BUILTIN_SCENES[name]
        for axis in (0, 1):  # what is asked for unseen was seen elsewhere
            assert {scene[axis] for scene in chosen.unseen} <= {scene[axis] for scene in chosen.train}
    assert not set(BUILTIN_SCENES["novel"].unseen) & {*spec.train, *spec.unseen}
    assert caption("toaster", "orange") == "an orange toaster"
    assert caption("chair", "red") == "a red chair"


@pytest.mark.parametrize(("shape", "adjective"), ONE_OF_EACH)
def test_objects_are_closed_wound_outwards_centred_and_fill_the_unit_sphere(shape: str, adjective: str) -> None:
    mesh = make_captioned_object(shape, adjective)
    directed = np.concatenate([mesh.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    edges = {tuple(edge) for edge in directed.tolist()}
    assert len(edges) == len(directed)
    assert edges == {(b, a) for a, b in edges}
    assert 0.98 <= np.linalg.norm(mesh.vertices, axis=1).max() <= 1.0
    assert np.abs(mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)).max() < 1e-9
    poses = spread_poses(4)
    culled, whole = (render_mesh(mesh, poses, CAMERA_ANGLE_X, 48, 2, cull=cull).astype(int) for cull in (True, False))
    # A part wound inwards would show its far side: thousands of pixels. At seams a face from behind is as near.
    assert (np.abs(culled - whole).max(axis=-1) > 8).sum() <= 8  # worst seen 0


def test_a_colour_changes_the_body_and_nothing_else() -> None:
    poses = spread_poses(6)
    for shape in SHAPES:
        red, blue = (make_captioned_object(shape, colour) for colour in ("red", "blue"))
        assert np.array_equal(red.vertices, blue.vertices)
        assert np.array_equal(red.faces, blue.faces)
        assert red.corner_colours is not None
        assert blue.corner_colours is not None
        body = (red.corner_colours == COLOURS["red"]).all(axis=-1)
        assert np.array_equal(body, (blue.corner_colours == COLOURS["blue"]).all(axis=-1))
        assert np.array_equal(red.corner_colours[~body], blue.corner_colours[~body])
        one, other = (render_mesh(mesh, poses, CAMERA_ANGLE_X, 32, 2, cull=True) for mesh in (red, blue))
        shown = one[..., 3] > 127
        changed = (np.abs(one.astype(int) - other).max(axis=-1) > 40)[shown].mean()
        assert 0.5 < changed < 0.97, shape  # from 0.71 (car) to 0.91 (sofa): body and neutral parts both show


def test_pictures_tell_the_72_scenes_apart() -> None:
    # Retrieval by squared error needs scenes that are far apart: a field that is d dB from its own scene, d at least
    # 6 above the closest pair's, is nearer to that scene than to any other, whatever it looks like.
    poses = spread_poses(3)
    pictures = []
    for shape in SHAPES:
        for colour in COLOURS:
            pictures.append(render_mesh(make_captioned_object(shape, colour), poses, CAMERA_ANGLE_X, 24, 1, cull=True))
    flat = on_white(np.stack(pictures)).reshape(72, -1)
    square = (flat**2).sum(axis=1)
    error = (square[:, None] + square - 2 * flat @ flat.T) / flat.shape[1]
    nearest = -10 * np.log10(error[~np.eye(72, dtype=bool)].min())
    assert nearest < 23  # 22.5: a purple and a blue teapot; 21.6 at full size


def test_cameras_are_spread_evenly_over_a_band_of_the_sphere() -> None:
    poses = spread_poses(200).astype(float)
    eyes = poses[:, :3, 3] / 4
    assert np.abs(np.linalg.norm(eyes, axis=1) - 1).max() < 1e-6
    assert np.abs(poses[:, :3, 2] - eyes).max() < 1e-6  # they look at the origin
    assert eyes[:, 2].min() > 0
    assert eyes[:, 2].max() < np.sin(np.radians(60))
    angle = np.arccos(np.clip(eyes @ eyes.T, -1, 1)) + 9 * np.eye(200)
    # Hexagons of the same number over the band's area, 2 pi sin 60, would be 0.177 apart; random points come near 0.
    ideal = np.sqrt(2 / np.sqrt(3) * 2 * np.pi * np.sin(np.radians(60)) / 200)
    assert angle.min() > 0.85 * ideal  # 0.879


def tiny(shape: str, adjective: str) -> np.ndarray:
    return render_mesh(make_captioned_object(shape, adjective), spread_poses(5)[2:3], CAMERA_ANGLE_X, 16, 3, cull=True)[
        0
    ]


def test_objects_are_those_of_the_golden_file() -> None:
    # As for the other procedural objects. A change here changes the built-in sets: raise the version in their folders'
    # names in builtin_scenes.py.
    golden = json.loads(GOLDEN.read_text())
    assert set(golden) == {f"{shape}/{adjective}" for shape, adjective in ONE_OF_EACH}
    for shape, adjective in ONE_OF_EACH:
        entry = golden[f"{shape}/{adjective}"]
        assert fingerprint(make_captioned_object(shape, adjective)) == entry["sha256"], shape
        stored = np.array(entry["picture"]).reshape(16, 16, 3) / 255
        assert np.abs(on_white(tiny(shape, adjective)) - stored).mean() < 0.01


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_set_does_not_depend_on_workers_and_holds_captions_and_splits(tmp_path: Path) -> None:
    train, unseen = [("chair", "red"), ("mug", "orange"), ("chair", "blue")], [("mug", "red"), ("blender", "golden")]
    calls: list[tuple[int, int]] = []
    for workers in (1, 2):
        make_captioned_scenes(
            tmp_path / str(workers), train, unseen, 16, 3, workers, progress=lambda *call: calls.append(call)
        )
    assert calls == [(done, 5) for done in range(6)] * 2
    files = contents(tmp_path / "1")
    assert contents(tmp_path / "2") == files
    assert len([name for name in files if name.endswith(".png")]) == 15
    assert json.loads(files["captions.json"]) == {
        "chair/red": "a red chair",
        "mug/orange": "an orange mug",
        "chair/blue": "a blue chair",
        "mug/red": "a red mug",
        "blender/golden": "a golden blender",
    }
    assert json.loads(files["mug_splits.json"]) == {"train": ["orange"], "val": [], "test": ["red"]}
    assert json.loads(files["chair_splits.json"]) == {"train": ["red", "blue"], "val": [], "test": []}
    assert json.loads(files["blender_splits.json"]) == {"train": [], "val": [], "test": ["golden"]}


def test_names_that_are_unknown_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match="Did you mean 'chair'"):
        make_captioned_object("chairs", "red")
    with pytest.raises(HyperkitError, match="colour of captioned scenes 'beige'"):
        make_captioned_object("chair", "beige")
    with pytest.raises(HyperkitError, match="colour of captioned scenes 'golden'"):  # golden is a blender only
        make_captioned_object("chair", "golden")
    with pytest.raises(HyperkitError, match="Did you mean 'hyperfields'"):
        builtin_scenes_root("hyperfield")
    with pytest.raises(HyperkitError, match="views 0"):
        make_captioned_scenes(tmp_path / "out", [("chair", "red")], [], 16, 0)
    assert not (tmp_path / "out").exists()
