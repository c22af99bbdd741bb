"""Folders of meshes: colours of every kind, normalisation, orientation, and files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from hyperkit.data.meshes import find_meshes, load_mesh, render_folder
from hyperkit.data.raster import CAMERA_ANGLE_X, render_mesh
from hyperkit.errors import HyperkitError

FRONT = np.array([[[-1.0, 0, 0, 0], [0, 0, 1, 4], [0, 1, 0, 0], [0, 0, 0, 1]]])  # from +y, upright


def look(file: Path, size: int = 33, up: str = "y") -> np.ndarray:
    return render_mesh(load_mesh(file, up), FRONT, CAMERA_ANGLE_X, size, 1)[0]


def box_with_vertex_colours() -> trimesh.Trimesh:
    mesh = trimesh.creation.box((1, 2, 0.5))  # tall along y, flat along z
    colours = np.full((len(mesh.vertices), 4), 255, np.uint8)
    colours[:, :3] = np.where(mesh.vertices[:, 1:2] > 0, (255, 0, 0), (0, 0, 255))  # red above, blue below
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colours)
    return mesh


def write_textured_obj(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2, :, 0] = 255  # upper half red, lower half green
    picture[2:, :, 1] = 255
    Image.fromarray(picture).save(folder / "paint.png")
    (folder / "quad.mtl").write_text("newmtl paint\nKd 0.2 0.2 0.2\nmap_Kd paint.png\n")
    (folder / "quad.obj").write_text(
        "mtllib quad.mtl\nv -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        "usemtl paint\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
    )
    return folder / "quad.obj"


def test_up_and_front_of_a_gltf_become_z_and_y(tmp_path: Path) -> None:
    mesh = box_with_vertex_colours()
    mesh.apply_translation((5, 6, 7))
    mesh.export(tmp_path / "a.glb")
    loaded = load_mesh(tmp_path / "a.glb")
    extent = loaded.vertices.max(axis=0) - loaded.vertices.min(axis=0)
    assert np.allclose(extent / extent[2], (0.5, 0.25, 1.0))  # y up has become z up
    assert np.abs(loaded.vertices.max(axis=0) + loaded.vertices.min(axis=0)).max() < 1e-9
    assert abs(np.linalg.norm(loaded.vertices, axis=1).max() - 1) < 1e-9
    picture = look(tmp_path / "a.glb")
    assert picture[6, 16, 0] > 100 > picture[6, 16, 2]  # red is above
    assert picture[26, 16, 2] > 100 > picture[26, 16, 0]
    kept = load_mesh(tmp_path / "a.glb", up="z")
    extent = kept.vertices.max(axis=0) - kept.vertices.min(axis=0)
    assert np.allclose(extent / extent[1], (0.5, 1.0, 0.25))


def test_front_of_a_gltf_looks_along_y_without_mirroring(tmp_path: Path) -> None:
    # A mark at x > 0 on the front (z > 0): for someone who looks at the front, glTF's +x is to the right.
    body = trimesh.creation.box((1, 1, 1))
    body.visual = trimesh.visual.ColorVisuals(body, face_colors=np.tile((0, 0, 255, 255), (12, 1)).astype(np.uint8))
    mark = trimesh.creation.box((0.2, 0.2, 0.1))
    mark.visual = trimesh.visual.ColorVisuals(mark, face_colors=np.tile((255, 0, 0, 255), (12, 1)).astype(np.uint8))
    mark.apply_translation((0.3, 0.3, 0.5))
    trimesh.Scene([body, mark]).export(tmp_path / "a.glb")
    picture = look(tmp_path / "a.glb", 65)
    rows, columns = np.nonzero((picture[..., 0] > 100) & (picture[..., 3] > 0))
    assert rows.mean() < 26
    assert columns.mean() > 38


def test_transforms_of_a_scene_are_applied(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    for x in (-3.0, 3.0):
        place = np.eye(4)
        place[0, 3] = x
        scene.add_geometry(trimesh.creation.box((1, 1, 1)), transform=place)
    scene.export(tmp_path / "two.glb")
    alpha = look(tmp_path / "two.glb", 64)[..., 3]
    assert (alpha[:, 24:40] == 0).all()
    assert (alpha[:, :16] > 0).any()
    assert (alpha[:, -16:] > 0).any()


def test_colours_of_textures_faces_and_materials(tmp_path: Path) -> None:
    picture = look(write_textured_obj(tmp_path))
    assert picture[8, 16, 0] > 100 > picture[8, 16, 1]  # v upwards: the picture's upper half is above
    assert picture[24, 16, 1] > 100 > picture[24, 16, 0]

    ply = trimesh.creation.box((1, 1, 1))
    green = np.tile((10, 200, 30, 255), (12, 1)).astype(np.uint8)
    ply.visual = trimesh.visual.ColorVisuals(ply, face_colors=green)
    ply.export(tmp_path / "b.ply")
    colour = look(tmp_path / "b.ply")[16, 16, :3].astype(float)
    assert np.allclose(colour / colour[1], (10 / 200, 1, 30 / 200), atol=0.01)

    plain = trimesh.creation.box((1, 1, 1))
    factor = trimesh.visual.material.PBRMaterial(baseColorFactor=(255, 55, 0, 255))
    plain.visual = trimesh.visual.TextureVisuals(uv=np.zeros((8, 2)), material=factor)
    plain.export(tmp_path / "c.glb")
    colour = look(tmp_path / "c.glb")[16, 16, :3].astype(float)
    srgb = 1.055 * (55 / 255) ** (1 / 2.4) - 0.055  # factors of glTF are in linear light
    assert np.allclose(colour / colour[0], (1, srgb, 0), atol=0.01)

    texture = Image.new("RGBA", (8, 8), (200, 100, 50, 255))
    both = trimesh.visual.material.PBRMaterial(baseColorTexture=texture, baseColorFactor=(255, 0, 255, 255))
    plain.visual = trimesh.visual.TextureVisuals(uv=np.zeros((8, 2)), material=both)
    plain.export(tmp_path / "d.glb")
    colour = look(tmp_path / "d.glb")[16, 16, :3].astype(float)
    assert np.allclose(colour / colour[0], (1, 0, 0.25), atol=0.01)

    trimesh.creation.icosphere().export(tmp_path / "e.stl")
    colour = look(tmp_path / "e.stl")[16, 16, :3]
    assert colour.max() - colour.min() <= 1  # grey


def test_alpha_of_a_masked_texture_cuts_holes_and_that_of_an_opaque_one_does_not(tmp_path: Path) -> None:
    texture = np.full((8, 8, 4), 255, np.uint8)
    texture[:, 4:, 3] = 0
    for mode, holes in (("MASK", True), ("OPAQUE", False)):
        mesh = trimesh.Trimesh([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], [(0, 1, 2), (0, 2, 3)])
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.fromarray(texture), alphaMode=mode, alphaCutoff=0.5
        )
        uv = np.array([(0.05, 0.05), (0.95, 0.05), (0.95, 0.95), (0.05, 0.95)])
        mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
        mesh.export(tmp_path / f"{mode}.glb")
        alpha = look(tmp_path / f"{mode}.glb")[..., 3]
        assert alpha[16, 10] == 255
        assert (alpha[16, 22] == 0) == holes


def make_folder(root: Path) -> None:
    for number in range(4):
        (root / "things").mkdir(parents=True, exist_ok=True)
        box_with_vertex_colours().export(root / "things" / f"box{number}.glb")
    write_textured_obj(root / "flat")
    (root / "flat" / "broken.glb").write_bytes(b"glTF\x02\x00\x00\x00 nothing of use")
    (root / "flat" / "torn.ply").write_text("ply\nformat ascii 1.0\nelement vertex 3\n")
    (root / "flat" / "empty.obj").write_text("# nothing\n")
    (root / "flat" / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (root / "flat" / "point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    (root / "flat" / "old.fbx").write_bytes(b"Kaydara")
    (root / "flat" / "notes.txt").write_text("not a mesh")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_becomes_a_data_set_and_bad_files_are_named(tmp_path: Path, workers: int) -> None:
    make_folder(tmp_path / "in")
    calls: list[tuple[int, int]] = []
    report = render_folder(
        tmp_path / "in", tmp_path / "out", size=16, views=3, seed=1, groups={"things/box0": "g", "box1": "g"},
        fractions=(0.5, 0.0, 0.5), workers=workers, progress=lambda *call: calls.append(call), supersample=1,
    )  # fmt: skip
    assert report.rendered == {"things": 4, "flat": 1}
    reasons = {path.name: reason for path, reason in report.left_out}
    assert set(reasons) == {"broken.glb", "torn.ply", "empty.obj", "nan.obj", "point.obj", "old.fbx"}
    assert "cannot be read" in reasons["broken.glb"]
    assert "not finite" in reasons["nan.obj"]
    assert "no extent" in reasons["point.obj"]
    assert "convert it" in reasons["old.fbx"]
    assert calls[-1] == (10, 10)
    assert sorted(path.name for path in (tmp_path / "out" / "flat").iterdir()) == ["quad"]
    splits = json.loads((tmp_path / "out" / "things_splits.json").read_text())
    assert sorted(splits["train"] + splits["test"]) == ["box0", "box1", "box2", "box3"]
    assert ("box0" in splits["train"]) == ("box1" in splits["train"])
    poses = [
        [frame["transform_matrix"] for frame in json.loads(path.read_text())["frames"]]
        for path in sorted((tmp_path / "out" / "things").glob("*/transforms.json"))
    ]
    assert np.shape(poses) == (4, 3, 4, 4)
    assert np.abs(np.subtract(poses[0], poses[1])).max() > 0.1  # each object has cameras of its own


def test_pictures_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    make_folder(tmp_path / "in")
    for workers in (1, 2):
        render_folder(tmp_path / "in", tmp_path / str(workers), 16, 2, workers=workers, supersample=1)
    files = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.*") if path.is_file()]
    assert len(files) == 5 * 3 + 2
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in files)


def test_names_of_objects_come_from_their_place(tmp_path: Path) -> None:
    for name in (
        "a.glb",
        "chairs/b.obj",
        "chairs/b.PLY",
        "chairs/one/model.obj",
        "chairs/.hidden/c.obj",
        "chairs/d.png",
    ):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    files, left_out = find_meshes(tmp_path / "set")
    assert set(files) == {"set/a", "chairs/b_obj", "chairs/b_ply", "chairs/one-model"}
    assert left_out == []


def test_folders_without_a_usable_mesh_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match="does not exist"):
        render_folder(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HyperkitError, match="no meshes"):
        render_folder(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "bad.glb").write_bytes(b"bad")
    with pytest.raises(HyperkitError, match=r"bad\.glb: cannot be read"):
        render_folder(tmp_path / "empty", tmp_path / "out", workers=1)
    with pytest.raises(HyperkitError, match="up is 'x'"):
        render_folder(tmp_path / "empty", tmp_path / "out", up="x")
    assert not (tmp_path / "out").exists()


@pytest.mark.shared_data
def test_real_cars_are_symmetric_and_look_along_y(shared_data: Path) -> None:
    files = sorted((shared_data / "meshes" / "cars").glob("*sedan*.glb"))
    if not files:
        pytest.skip(f"no cars in {shared_data / 'meshes'}")
    for file in files:
        mesh = load_mesh(file)
        extent = mesh.vertices.max(axis=0) - mesh.vertices.min(axis=0)
        assert extent[1] > extent[0]  # long from front to back
        assert extent[1] > extent[2]
