"""Part labels of the procedural objects: those of the faces that are seen, pixel by pixel with the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperkit.data.layout import write_scene
from hyperkit.data.procedural import CLASSES, generate, make_object
from hyperkit.data.procedural.cars import make_car
from hyperkit.data.procedural.chairs import make_chair
from hyperkit.data.procedural.lamps import make_lamp
from hyperkit.data.procedural.objects import PARTS, make_labelled_object
from hyperkit.data.raster import CAMERA_ANGLE_X, Mesh, render_labels, render_mesh, sphere_poses
from hyperkit.randomness import numpy_rng


def seen_faces(mesh: Mesh, pose: np.ndarray, size: int) -> np.ndarray:
    """The face (S, S) that the ray through each pixel's centre meets first, -1 for none: Möller and Trumbore."""
    pose = pose.astype(float)
    across = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(across, -across)
    local = np.stack((0.27 * x, 0.27 * y, -np.ones_like(x)), axis=-1).reshape(-1, 3)
    rays, eye = local @ pose[:3, :3].T, pose[:3, 3]
    a, b, c = np.asarray(mesh.vertices, float)[mesh.faces].transpose(1, 0, 2)
    first, second, offset = b - a, c - a, eye - a
    h = np.cross(rays[:, None], second)
    det = (h * first).sum(axis=-1)
    u = (h * offset).sum(axis=-1) / det
    q = np.cross(offset, first)
    v = rays @ q.T / det
    t = np.where((u >= 0) & (v >= 0) & (u + v <= 1), (q * second).sum(axis=-1) / det, np.inf)
    return np.where(np.isfinite(t.min(axis=1)), t.argmin(axis=1), -1).reshape(size, size)


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_label_is_that_of_the_surface_that_a_ray_meets_first(class_name: str) -> None:
    size = 16
    for index in range(2):
        mesh, labels = make_labelled_object(class_name, 0, index)
        pose = sphere_poses(numpy_rng("labels", index), 1)
        faces = seen_faces(mesh, pose[0], size)
        truth = np.where(faces < 0, 0, labels[faces])
        shown = render_labels(mesh, labels, pose, CAMERA_ANGLE_X, size, supersample=1, cull=True)[0]
        assert (shown != truth).sum() <= 2, index  # rays along an edge; none seen
        assert (truth > 0).sum() > 20


def test_a_pixel_takes_the_label_that_most_of_its_covered_samples_have() -> None:
    size = 20
    for index, supersample in ((0, 2), (1, 3)):
        mesh, labels = make_labelled_object("chairs", 3, index)
        pose = sphere_poses(numpy_rng("votes", index), 2)
        shown = render_labels(mesh, labels, pose, CAMERA_ANGLE_X, size, supersample, cull=True)
        samples = render_labels(mesh, labels, pose, CAMERA_ANGLE_X, size * supersample, 1, cull=True)
        for view in range(2):
            blocks = samples[view].reshape(size, supersample, size, supersample).swapaxes(1, 2).reshape(size, size, -1)
            for row in range(size):
                for column in range(size):
                    votes = np.bincount(blocks[row, column], minlength=10)
                    covered = 2 * votes[1:].sum() >= supersample**2
                    assert shown[view, row, column] == (votes[1:].argmax() + 1 if covered else 0)
        alpha = render_mesh(mesh, pose, CAMERA_ANGLE_X, size, supersample, cull=True)[..., 3]
        assert np.array_equal(shown > 0, alpha >= 128)


MAKERS = {"cars": make_car, "chairs": make_chair, "lamps": make_lamp}


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_face_of_every_kind_has_a_part(class_name: str) -> None:
    least = {"cars": {"body", "wheels", "windows"}, "chairs": {"seat", "legs"}, "lamps": {"shade"}}
    met: set[str] = set()
    for index in range(60):  # the rarest kind is 3 % of its class
        present = set(MAKERS[class_name](numpy_rng("parts", index), (index + 0.5) / 60).labels().tolist())
        assert least[class_name] <= present <= set(PARTS[class_name])
        met |= present
    assert met == set(PARTS[class_name])


@pytest.mark.parametrize("class_name", ["cars", "chairs"])
def test_parts_are_where_they_belong(class_name: str) -> None:
    upwards = {"cars": ["wheels", "body", "windows"], "chairs": ["legs", "seat", "back"]}[class_name]
    for index in range(100, 112):
        mesh, labels = make_labelled_object(class_name, 1, index)
        whole = make_object(class_name, 1, index)
        assert np.array_equal(mesh.vertices, whole.vertices)
        assert np.array_equal(mesh.faces, whole.faces)
        corners = np.asarray(mesh.vertices)[mesh.faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        heights = []
        for name in upwards:
            own = labels == PARTS[class_name][name]
            if own.any():  # stools have no back
                heights.append(np.average(corners[own].mean(axis=1)[:, 2], weights=area[own]))
        assert heights == sorted(heights)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_label_maps_lie_beside_pictures_that_do_not_change(tmp_path: Path) -> None:
    counts = {"cars": (1, 0, 1), "lamps": (1, 0, 0)}
    settings = {"size": 16, "views": 2, "seed": 4, "supersample": 2}
    generate(tmp_path / "plain", counts, workers=1, **settings)  # type: ignore[arg-type]
    generate(tmp_path / "both", counts, workers=2, labels=True, **settings)  # type: ignore[arg-type]
    plain, both = contents(tmp_path / "plain"), contents(tmp_path / "both")
    assert set(plain) < set(both)
    assert {name for name in plain if plain[name] != both[name]} == {name for name in plain if "transforms" in name}
    assert json.loads(both["parts.json"]) == {name: PARTS[name] for name in counts}
    assert "label" not in plain["cars/car_0000/transforms.json"].decode()
    for folder in ("cars/car_0000", "cars/car_0001", "lamps/lamp_0000"):
        for frame in json.loads(both[f"{folder}/transforms.json"])["frames"]:
            with Image.open(tmp_path / "both" / folder / frame["label_path"]) as picture:
                assert picture.mode == "L"
                labels = np.asarray(picture)
            with Image.open(tmp_path / "both" / folder / frame["file_path"]) as picture:
                assert np.array_equal(labels > 0, np.asarray(picture)[..., 3] >= 128)
            assert set(np.unique(labels).tolist()) - {0} <= set(PARTS[folder.split("/")[0]].values())

    # Asking for labels later makes the objects anew; a map that is lost makes its object anew, and no other.
    generate(tmp_path / "plain", counts, workers=1, labels=True, **settings)  # type: ignore[arg-type]
    assert contents(tmp_path / "plain") == both
    kept = tmp_path / "plain" / "cars" / "car_0000" / "transforms.json"
    time = kept.stat().st_mtime_ns
    (tmp_path / "plain" / "lamps" / "lamp_0000" / "label_001.png").unlink()
    generate(tmp_path / "plain", counts, workers=1, labels=True, **settings)  # type: ignore[arg-type]
    assert contents(tmp_path / "plain") == both
    assert kept.stat().st_mtime_ns == time


def test_labels_of_another_shape_are_a_mistake(tmp_path: Path) -> None:
    mesh, labels = make_labelled_object("cars", 0, 0)
    pose = sphere_poses(numpy_rng("wrong"), 1)
    with pytest.raises(ValueError, match="one label above 0"):
        render_labels(mesh, labels[1:], pose, CAMERA_ANGLE_X, 8)
    with pytest.raises(ValueError, match="one label above 0"):
        render_labels(mesh, labels * 0, pose, CAMERA_ANGLE_X, 8)
    pictures = np.zeros((1, 4, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="expected labels"):
        write_scene(tmp_path / "one", pictures, pose, CAMERA_ANGLE_X, labels=np.zeros((1, 4, 5), np.uint8))
