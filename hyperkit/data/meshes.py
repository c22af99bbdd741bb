"""Any folder of meshes to a data set in the LearnIt layout: read with trimesh, normalised, rendered from all sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperkit.data.groups import split_with_groups
from hyperkit.data.layout import write_scene
from hyperkit.data.raster import CAMERA_ANGLE_X, Floats, Ints, Mesh, render_mesh, smooth_normals, sphere_poses
from hyperkit.data.splits import write_splits
from hyperkit.data.workers import run_all
from hyperkit.errors import HyperkitError
from hyperkit.randomness import numpy_rng

FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl")
# Meshes in formats that trimesh cannot read are named as left out, not passed over.
OTHER_FORMATS = (".fbx", ".blend", ".dae", ".3ds", ".max", ".usd", ".usda", ".usdc", ".usdz", ".off")
GREY = (0.72, 0.72, 0.72)  # of a mesh without any colour


@dataclass(frozen=True)
class MeshReport:
    """What ``render_folder`` did: objects written per class, and the files left out, each with its reason."""

    rendered: dict[str, int]
    left_out: list[tuple[Path, str]] = field(default_factory=list)


class _LeftOutError(Exception):
    """A mesh cannot be used; the message is the reason."""


@dataclass(frozen=True)
class _Job:
    file: Path
    out: Path
    id: str
    size: int
    views: int
    seed: int
    up: str
    supersample: int


def render_folder(
    meshes: Path,
    out: Path,
    size: int = 128,
    views: int = 50,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.05, 0.15),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    up: str = "y",
    supersample: int = 3,
) -> MeshReport:
    """Render every mesh of a folder into the LearnIt layout and divide the objects into splits.

    Sub-folders are classes; files directly in the folder form one class with the folder's name. Faces are drawn from
    both sides, with vertex, face or texture colours, shaded. The bounding box is centred and the farthest vertex put
    at norm 1. Cameras are a function of (seed, class, object).

    Args:
        meshes: folder with GLB, glTF, OBJ, PLY or STL files.
        out: root of the data set.
        size: width and height in pixels.
        views: pictures per object.
        seed: of cameras and splits.
        groups: object ("class/name" or name) -> group; a group is never divided among splits.
        fractions: parts of the objects for (train, val, test).
        workers: processes; None: one per CPU.
        progress: called with (files done, files in all).
        up: the files' axis that points up: "y" (then z is the front, as in glTF, and becomes +y) or "z" (as it is).
        supersample: samples per pixel along each axis.

    Returns:
        What was written and what was left out: meshes that cannot be read, are empty, or have infinite vertices.

    Raises:
        HyperkitError: the folder does not exist, or holds no mesh that can be used.
        RunFailed: the disk is full, or a worker died.
    """
    _check(size, views, up)
    files, left_out = find_meshes(meshes)
    out = Path(out)
    jobs = [_Job(file, out, name, size, views, seed, up, supersample) for name, file in files.items()]
    written: list[str] = []
    for done, (index, reason) in enumerate(run_all(_render, jobs, workers), start=1):
        if reason is None:
            written.append(jobs[index].id)
        else:
            left_out.append((jobs[index].file, reason))
        if progress is not None:
            progress(done, len(jobs))
    if not written:
        reasons = "\n".join(f"  {path}: {reason}" for path, reason in sorted(left_out))
        raise HyperkitError(f"No mesh in {meshes} can be used:\n{reasons}", _expected())
    divided = split_with_groups(sorted(written), seed, fractions, groups or {})
    for class_name, splits in divided.items():
        write_splits(out, class_name, splits)
    rendered = {class_name: sum(map(len, splits.values())) for class_name, splits in divided.items()}
    return MeshReport(rendered, sorted(left_out))


def _check(size: int, views: int, up: str) -> None:
    if up not in ("y", "z"):
        raise HyperkitError(f"up is {up!r}.", 'Allowed: "y", "z".')
    if size < 1 or views < 1:
        raise HyperkitError(f"size is {size} and views {views}.", "Both must be at least 1.")


def find_meshes(folder: Path) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """Return the meshes below a folder, id "class/object" -> file, and the files in formats that cannot be read.

    The object's name is the file's path below its class, joined by "-", without its suffix; two files of one name keep
    theirs ("chair_glb", "chair_obj").

    Raises:
        HyperkitError: the folder does not exist or holds no file that looks like a mesh.
    """
    folder = Path(folder)
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise HyperkitError(f"The folder of meshes {folder} {kind}.", _expected())
    by_id: dict[str, list[Path]] = {}
    left_out = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = file.relative_to(folder).parts
        suffix = file.suffix.lower()
        if any(part.startswith((".", "__")) for part in parts):
            continue
        if suffix in OTHER_FORMATS:
            left_out.append((file, f"{suffix[1:]} files are not read; convert it to GLB"))
        if suffix not in FORMATS:
            continue
        class_name = parts[0] if len(parts) > 1 else folder.resolve().name
        inner = "-".join((*parts[1:-1], file.stem) if len(parts) > 1 else (file.stem,))
        by_id.setdefault(f"{class_name}/{inner}", []).append(file)
    if not by_id and not left_out:
        raise HyperkitError(f"There are no meshes in {folder}.", _expected())
    files: dict[str, Path] = {}
    for name, same in by_id.items():
        for file in same:
            files[name if len(same) == 1 else f"{name}_{file.suffix[1:].lower()}"] = file
    return files, left_out


def _expected() -> str:
    return f"Expected: a folder with files of {', '.join(FORMATS)}; its sub-folders are the classes."


def _render(job: _Job) -> str | None:
    """Render one mesh; return None, or the reason why it is left out."""
    try:
        mesh = load_mesh(job.file, job.up, max_texture=max(256, 4 * job.size))
    except _LeftOutError as error:
        return str(error)
    poses = sphere_poses(numpy_rng(job.seed, "mesh cameras", job.id), job.views)
    pictures = render_mesh(mesh, poses, CAMERA_ANGLE_X, job.size, job.supersample)
    write_scene(job.out / job.id, pictures, poses, CAMERA_ANGLE_X, {"source": job.file.name})
    return None


def load_mesh(file: Path, up: str = "y", max_texture: int = 512) -> Mesh:
    """Read a mesh file as one object: z up, bounding box centred at the origin, farthest vertex at norm 1.

    Textures larger than ``max_texture`` pixels on a side are reduced by averaging: pictures of the object are smaller.
    Normals are smoothed over creases below 40 degrees; those of the file are not used.

    Raises:
        Exception: (private to this module) with the reason, when the file cannot be used.
    """
    import trimesh

    try:
        scene = trimesh.load_scene(file, process=False)  # processing drops faces with vertices that are not finite
        geometries = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except Exception as error:  # readers raise anything on broken files: struct, key, index, value, import errors
        text = str(error).strip().splitlines()
        raise _LeftOutError(f"cannot be read: {type(error).__name__}" + (f": {text[0]}" if text else "")) from error
    if not geometries:
        raise _LeftOutError("has no faces")
    pieces = list(_pieces(geometries, file.suffix.lower() in (".glb", ".gltf"), max_texture))
    sizes = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    vertices = np.concatenate([piece.vertices for piece in pieces])
    faces = np.concatenate([piece.faces + size for piece, size in zip(pieces, sizes, strict=False)])
    vertices = _normalised(vertices, faces, up)
    textures: list[NDArray[Any]] = []
    texture_of, uvs = [], []
    for piece in pieces:
        texture_of.append(np.full(len(piece.faces), len(textures) if piece.textures else -1))
        textures += piece.textures
        uvs.append(np.zeros((len(piece.faces), 3, 2)) if piece.uv is None else piece.uv)
    colours = np.concatenate([piece.corner_colours for piece in pieces if piece.corner_colours is not None])
    normals = smooth_normals(*_welded(vertices, faces))
    return Mesh(
        vertices, faces, colours, normals, np.concatenate(uvs) if textures else None, tuple(textures),
        np.concatenate(texture_of),
    )  # fmt: skip


def _normalised(vertices: Floats, faces: Ints, up: str) -> Floats:
    used = np.unique(faces)
    if not np.isfinite(vertices[used]).all():
        raise _LeftOutError("has vertices that are not finite")
    vertices = np.where(np.isfinite(vertices), vertices, 0.0)
    if up == "y":  # a rotation that takes y up to z up, and the front z of glTF to y
        vertices = np.stack((-vertices[:, 0], vertices[:, 2], vertices[:, 1]), axis=-1)
    vertices = vertices - 0.5 * (vertices[used].min(axis=0) + vertices[used].max(axis=0))
    radius = np.linalg.norm(vertices[used], axis=1).max()
    if not radius > 0:
        raise _LeftOutError("has no extent")
    return vertices / radius


def _welded(vertices: Floats, faces: Ints) -> tuple[Floats, Ints]:
    """Join vertices at one place: files split them where colours or texture coordinates differ."""
    _, first, inverse = np.unique(np.round(vertices * 1e5), axis=0, return_index=True, return_inverse=True)
    return vertices[first], inverse.reshape(-1)[faces]


def _pieces(geometries: list[Any], linear_factors: bool, max_texture: int) -> Iterator[Mesh]:
    for geometry in geometries:
        vertices, faces = np.asarray(geometry.vertices, np.float64), np.asarray(geometry.faces, np.int64)
        visual = geometry.visual
        if visual.kind == "face":
            colours = np.repeat(_floats(visual.face_colors)[:, None, :3], 3, axis=1)
            yield Mesh(vertices, faces, _with_alpha(colours))
        elif visual.kind == "vertex":
            yield Mesh(vertices, faces, _with_alpha(_floats(visual.vertex_colors)[faces, :3]))
        elif visual.kind == "texture":
            yield from _textured(vertices, faces, visual, linear_factors, max_texture)
        else:
            yield Mesh(vertices, faces, _with_alpha(np.broadcast_to(np.array(GREY), (len(faces), 3, 3))))


def _textured(vertices: Floats, faces: Ints, visual: Any, linear_factors: bool, max_texture: int) -> Iterator[Mesh]:
    uv = None if visual.uv is None else np.nan_to_num(np.asarray(visual.uv, np.float64), posinf=0.0, neginf=0.0)
    per_vertex = visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None
    materials = getattr(visual.material, "materials", None) or [visual.material]
    of_face = getattr(visual, "face_materials", None)
    of_face = np.zeros(len(faces), np.int64) if of_face is None or len(materials) == 1 else np.asarray(of_face)
    for number, material in enumerate(materials):
        part = faces[of_face == number]
        if not len(part):
            continue
        image, factor = _material(material, linear_factors, max_texture)
        colours = np.broadcast_to(np.array(factor), (len(part), 3, 3))
        if per_vertex is not None and len(per_vertex) == len(vertices):
            colours = colours * _floats(per_vertex)[part, :3]
        textures = () if image is None or uv is None else (image,)
        yield Mesh(vertices, part, _with_alpha(colours), uv=uv[part] if uv is not None else None, textures=textures)


def _material(
    material: Any, linear_factors: bool, max_texture: int
) -> tuple[NDArray[np.uint8] | None, tuple[float, float, float]]:
    """Return a material's picture (h, w, 4), if it has one, and the colour that multiplies it."""
    if hasattr(material, "baseColorFactor"):
        image, factor = material.baseColorTexture, material.baseColorFactor
        base = np.ones(3) if factor is None else _floats(factor)[:3]
        if linear_factors:  # glTF states factors in linear light, pictures in sRGB
            base = np.where(base <= 0.0031308, 12.92 * base, 1.055 * base ** (1 / 2.4) - 0.055)
        mode, cutoff = material.alphaMode or "OPAQUE", material.alphaCutoff
    else:
        image = getattr(material, "image", None)
        # The picture replaces the diffuse colour, whose default is a dark grey, as viewers do.
        diffuse = getattr(material, "diffuse", None)
        base = np.ones(3) if image is not None else np.array(GREY) if diffuse is None else _floats(diffuse)[:3]
        mode, cutoff = "MASK", None
    texels = None
    if image is not None:
        texels = np.array(_reduced(image, max_texture))
        alpha = texels[..., 3] >= 255 * (0.5 if cutoff is None else cutoff)
        texels[..., 3] = 255 if mode == "OPAQUE" else 255 * alpha
    return texels, (float(base[0]), float(base[1]), float(base[2]))


def _reduced(image: Image.Image, largest: int) -> Image.Image:
    picture = image.convert("RGBA")
    factor = -(-max(picture.size) // largest)
    return picture.reduce(factor) if factor > 1 else picture


def _floats(colours: Any) -> NDArray[np.float64]:
    """Return colours in [0, 1]: integers are divided by their type's largest value."""
    values = np.asarray(colours)
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float64) / np.iinfo(values.dtype).max
    return np.clip(values.astype(np.float64), 0.0, 1.0)


def _with_alpha(colours: Floats) -> Floats:
    return np.concatenate((colours, np.ones((*colours.shape[:-1], 1))), axis=-1)
