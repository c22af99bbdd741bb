"""Rendering: frames, turntable, depth, contact sheet, mesh and the generated weights."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperkit.adapt import optimise_on_views
from hyperkit.contracts import Cameras
from hyperkit.errors import HyperkitError
from hyperkit.files import atomic_path
from hyperkit.models import Field, Predictor
from hyperkit.models.field import Views
from hyperkit.models.predictor import autocast
from hyperkit.reports.pictures import depth_picture, to_uint8, turntable_sheet
from hyperkit.reports.video import write_gif, write_mp4, write_png
from hyperkit.workflows.load import Loaded, home_of, open_checkpoint

MESH_FORMATS = (".glb", ".obj", ".ply", ".stl")


@dataclass(frozen=True)
class RenderResult:
    """What was rendered.

    Attributes:
        folder: where it is.
        files: what was written, by name.
        source: what the object was made from.
        seconds: spent on generating and rendering.
    """

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    source: str = ""
    seconds: float = 0.0

    def show(self) -> None:
        """Print the files, for people, on stderr."""
        from rich.console import Console

        console = Console(stderr=True)
        console.print(f"Rendered {self.source} in {self.seconds:.1f} s.", highlight=False, soft_wrap=True)
        for name, path in self.files.items():
            console.print(f"{name}: {path}", highlight=False, soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        files = {name: str(path) for name, path in self.files.items()}
        return {"folder": str(self.folder), "source": self.source, "seconds": self.seconds, "files": files}


@dataclass(frozen=True)
class ViewOptions:
    """How a turntable is rendered and written.

    Attributes:
        views: number of views of one turn.
        size: side of the pictures in pixels; None: the training size.
        elevation: of the cameras, degrees above the ground plane.
        background: "white" or "black"; None: as in training.
        samples: samples per ray; None: as in training.
        fps: frames per second of GIF and MP4.
        frames: write single pictures and depth maps too.
    """

    views: int = 50
    size: int | None = None
    elevation: float = 30.0
    background: str | None = None
    samples: int | None = None
    fps: int = 20
    frames: bool = True


@dataclass(frozen=True)
class _Input:
    picture: Tensor  # (3, H, W) in [0, 1]
    name: str
    cameras: Cameras | None  # (1, 1), where known


def render(
    checkpoint: str | os.PathLike[str],
    options: ViewOptions | None = None,
    *,
    image: str | os.PathLike[str] | None = None,
    object_id: str | None = None,
    sample: int = 0,
    data: str | None = None,
    tto: int = 0,
    mesh: str | os.PathLike[str] | None = None,
    mesh_threshold: float | None = None,
    mesh_resolution: int = 128,
    weights_out: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> RenderResult:
    """Render one object from all sides.

    Args:
        checkpoint: a file, or the folder of a run (its best checkpoint).
        options: views, sizes and the like.
        image: a picture of the user's own.
        object_id: an object of the data set ("cars/car_0001") instead.
        sample: number of the checkpoint's own input, where neither is given.
        data: folder of the data set that has the object, where it is not the one that was trained on.
        tto: steps of test-time optimisation; not with ``image``, whose camera is not known.
        mesh: write the surface here (.glb, .obj, .ply, .stl).
        mesh_threshold, mesh_resolution: density of the surface, grid points per axis.
        weights_out: write the generated network here (.safetensors).
        out: folder of the pictures; by default ``render-<input>`` in the run's folder, or beside the checkpoint.
        device: "auto", "cpu" or "cuda".

    Raises:
        HyperkitError: bad checkpoint, picture, object or arguments.
    """
    options = options or ViewOptions()
    _check(image, object_id, tto, mesh, weights_out, options.background)
    overrides: dict[str, Any] = {"training": {"device": device}} | ({"data": {"root": data}} if data else {})
    loaded = open_checkpoint(checkpoint, overrides)
    given = _input(loaded, image, object_id, sample)
    folder = Path(out) if out is not None else home_of(loaded.path) / f"render-{given.name.replace('/', '-')}"
    started = time.monotonic()
    made = _generate(loaded, given, tto)
    files = write_views(made, folder, given.picture, options)
    if mesh is not None:
        files["mesh"] = write_mesh(made, Path(mesh), mesh_resolution, mesh_threshold)
    if weights_out is not None:
        made.save(Path(weights_out))
        files["weights"] = Path(weights_out)
    return RenderResult(folder, files, given.name, time.monotonic() - started)


def _generate(loaded: Loaded, given: _Input, tto: int) -> Field:
    predictor = loaded.predictor
    params = predictor.generate(given.picture[None])
    if tto:
        assert given.cameras is not None
        settings = loaded.config.evaluation.tto.model_copy(update={"steps": tto})
        with autocast(predictor.model.device, predictor.precision):
            params = optimise_on_views(predictor.model, params, given.picture[None, None], given.cameras, settings)
    return predictor.field(params)


def _check(image: Any, object_id: str | None, tto: int, mesh: Any, weights_out: Any, background: str | None) -> None:
    if image is not None and object_id is not None:
        raise HyperkitError("Both --image and --object were given.", "Give one of them.")
    if image is not None and tto:
        raise HyperkitError(
            "--tto needs the camera of the input, and that of a picture of your own is not known.",
            "Leave --tto out, or use --object or the checkpoint's own samples.",
        )
    if mesh is not None and Path(mesh).suffix.lower() not in MESH_FORMATS:
        raise HyperkitError(
            f"--mesh {mesh}: {Path(mesh).suffix!r} is no mesh format.", f"Allowed: {' '.join(MESH_FORMATS)}."
        )
    if weights_out is not None and Path(weights_out).suffix != ".safetensors":
        raise HyperkitError(f"--weights-out {weights_out} must end in .safetensors.")
    if background not in (None, "white", "black"):
        raise HyperkitError(f"There is no background {background!r}.", "Allowed: white, black.")


def _input(loaded: Loaded, image: Any, object_id: str | None, sample: int) -> _Input:
    predictor = loaded.predictor
    if image is not None:
        return _Input(predictor.prepare(Path(image)), Path(image).stem, None)
    if object_id is not None:
        from hyperkit.tasks.nvs import NVSTask

        assert isinstance(loaded.task, NVSTask)
        found = loaded.task.data().object(object_id)
        seen = found.cameras
        first = Cameras(seen.poses[None, :1], seen.focal[None, :1], seen.width, seen.height, seen.near, seen.far)
        return _Input(found.pictures[0].float() / 255, object_id, first)
    return carried_sample(predictor, sample)


def carried_sample(predictor: Predictor, index: int) -> _Input:
    """Return input ``index`` of those that the checkpoint carries."""
    ids: Sequence[str] = predictor.samples.get("ids", ())
    if not 0 <= index < len(ids):
        raise HyperkitError(
            f"The checkpoint carries {len(ids)} inputs, and --sample {index} is not one of them.",
            "They are: " + ", ".join(f"{i} ({name})" for i, name in enumerate(ids)) + "."
            if ids
            else "Give --image FILE or --object ID.",
        )
    framing = predictor.framing
    cameras = framing.cameras(predictor.samples["poses"][index][None, None], framing.size)
    return _Input(predictor.samples["pictures"][index].float() / 255, ids[index], cameras)


def write_views(made: Field, folder: Path, picture: Tensor, options: ViewOptions) -> dict[str, Path]:
    """Render a turntable and write it: PNG frames, depth, GIF, MP4 and a contact sheet with the input beside it.

    Args:
        made: the field.
        folder: where to.
        picture: the input (3, H, W), for the contact sheet.
        options: views, sizes and the like.
    """
    rendered = made.render(
        options.views,
        size=options.size,
        elevation=options.elevation,
        background=options.background,
        samples=options.samples,
    )
    pictures = rendered.frames()
    files: dict[str, Path] = {}
    if options.frames:
        for name, sequence in (("frames", pictures), ("depth", depth_pictures(rendered))):
            files[name] = folder / name
            for stale in files[name].glob("*.png"):  # of an earlier turn with more views
                stale.unlink()
            for index, frame in enumerate(sequence):
                write_png(files[name] / f"{index:03d}.png", frame)
    files |= {"turntable": folder / "turntable.gif", "contact sheet": folder / "contact_sheet.png"}
    write_gif(files["turntable"], pictures, options.fps)
    if write_mp4(folder / "turntable.mp4", pictures, options.fps):
        files["video"] = folder / "turntable.mp4"
    write_png(files["contact sheet"], turntable_sheet(to_uint8(picture), pictures))
    return files


def depth_pictures(rendered: Views) -> list[Any]:
    """Return coloured depth maps, with one range for all views."""
    hit = rendered.opacity > 0.5
    near, far = rendered.cameras.near, rendered.cameras.far
    if bool(hit.any()):
        near, far = float(rendered.depth[hit].min()), float(rendered.depth[hit].max())
    return [
        depth_picture(d, near, max(far, near + 1e-3), o) for d, o in zip(rendered.depth, rendered.opacity, strict=True)
    ]


def write_mesh(made: Field, path: Path, resolution: int, threshold: float | None) -> Path:
    """Extract the surface and write it."""
    surface = made.mesh(resolution, threshold)
    with atomic_path(path) as temporary:
        surface.export(str(temporary), file_type=path.suffix.lower().removeprefix("."))
    return path


def first_field(predictor: Predictor) -> tuple[Field, Tensor]:
    """Return the field of the checkpoint's first own input, and that input."""
    given = carried_sample(predictor, 0)
    return predictor.field(predictor.generate(given.picture[None])), given.picture
