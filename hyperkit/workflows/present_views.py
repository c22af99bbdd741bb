"""Radiance fields from all sides: frames, turntable, depth, uncertainty, contact sheet and mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from hyperkit.contracts import Cameras
from hyperkit.errors import HyperkitError
from hyperkit.files import atomic_path
from hyperkit.models import Field, Predictor
from hyperkit.models.field import Quality, Views
from hyperkit.models.predictor import FieldPredictor
from hyperkit.reports.attention import attention_sheet
from hyperkit.reports.pictures import depth_picture, to_uint8, turntable_sheet
from hyperkit.reports.signals import uncertainty_picture
from hyperkit.reports.video import write_gif, write_mp4, write_png
from hyperkit.tasks.inr import INRTask
from hyperkit.workflows.load import Loaded
from hyperkit.workflows.presenters import Given, Presenter, RenderOptions

MESH_FORMATS = (".glb", ".obj", ".ply", ".stl")


class ViewsPresenter(Presenter):
    """Presents radiance fields."""

    options = frozenset(
        {
            "views",
            "size",
            "elevation",
            "background",
            "samples",
            "quality",
            "fps",
            "frames",
            "mesh",
            "mesh_threshold",
            "mesh_resolution",
        }
    )
    file_option = "--image"
    tto_needs_cameras = True

    def check(self, task: str, options: RenderOptions) -> None:
        """Refuse options that mean nothing, meshes in unknown formats, and unknown backgrounds and qualities."""
        super().check(task, options)
        if options.mesh is not None and options.mesh.suffix.lower() not in MESH_FORMATS:
            raise HyperkitError(
                f"--mesh {options.mesh}: {options.mesh.suffix!r} is no mesh format.",
                f"Allowed: {' '.join(MESH_FORMATS)}.",
            )
        if options.quality not in (None, *get_args(Quality)):
            raise HyperkitError(
                f"There is no quality {options.quality!r}.", f"Allowed: {', '.join(get_args(Quality))}."
            )
        if options.background not in (None, "white", "black"):
            raise HyperkitError(f"There is no background {options.background!r}.", "Allowed: white, black.")

    def from_file(self, predictor: Predictor, path: Path) -> Given:
        """Crop and pad a picture to the training framing; its camera is not known."""
        return Given(predictor.prepare(path), path.stem)

    def from_data(self, task: INRTask, object_id: str, context_views: int | None) -> Given:
        """Take the first views of an object."""
        found = task.data().object(object_id)
        count = context_views or task.config.data.views
        if count > len(found.pictures):
            raise HyperkitError(
                f"{object_id} has {len(found.pictures)} views, --context-views asks for {count}.", "Ask for fewer."
            )
        chosen = torch.linspace(0, len(found.pictures) - 1, count + 1).long()[:count]
        seen = found.cameras
        cameras = Cameras(
            seen.poses[None, chosen], seen.focal[None, chosen], seen.width, seen.height, seen.near, seen.far
        )
        return Given(found.pictures[chosen].float()[None] / 255, object_id, cameras)

    def from_samples(self, predictor: Predictor, index: int, name: str) -> Given:
        """Take the pictures of an object that the checkpoint carries, with their cameras."""
        assert isinstance(predictor, FieldPredictor)
        pictures, poses = predictor.samples["pictures"][index], predictor.samples["poses"][index]
        views = pictures.reshape(-1, *pictures.shape[-3:])
        cameras = predictor.framing.cameras(poses.reshape(1, -1, 4, 4))
        if "focal" in predictor.samples:  # the framing is that of the first object
            cameras = replace(cameras, focal=torch.full_like(cameras.focal, float(predictor.samples["focal"][index])))
        return Given(views.float()[None] / 255, name, cameras)

    def write(self, generated: Field, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        """Write PNG frames, depth, uncertainty where there is one, GIF, MP4, a contact sheet, and the mesh."""
        files = self.write_turn(turn(generated, options), given, folder, options)
        if options.mesh is not None:
            files["mesh"] = write_mesh(generated, options.mesh, options.mesh_resolution or 128, options.mesh_threshold)
        return files

    def write_turn(self, rendered: Views, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        """Write one turn around the object; see ``write_rendered``."""
        return write_rendered(rendered, folder, given.context[0, 0], options)

    def write_attention(self, loaded: Loaded, given: Given, path: Path) -> Path:
        """Draw the attention of each layer's weight tokens over the input views."""
        return write_picture_attention(loaded, given, path)

    def overview(self, loaded: Loaded, folder: Path) -> dict[str, Path]:
        """Write a turntable of the first input that the checkpoint carries."""
        given = self.carried(loaded.predictor, 0)
        field = loaded.predictor.wrap(loaded.predictor.generate(given.context, given.cameras))
        return self.write(field, given, folder, RenderOptions(frames=False))


def write_picture_attention(loaded: Loaded, given: Given, path: Path) -> Path:
    """Draw the attention of each layer's weight tokens over the pictures of a context."""
    model = loaded.predictor.model
    context = given.context.to(model.device)
    layout = model.backbone.token_layout(*context.shape[-2:])
    maps = {}
    for layer, attention in model.attention(context, given.cameras).items():
        per_view = attention[0].reshape(context.shape[1], -1)[:, layout.prefix :]
        maps[layer] = per_view.reshape(context.shape[1], layout.rows, layout.columns).float().cpu()
    attention_sheet(context[0].cpu(), maps, path)
    return path


def turn(made: Field, options: RenderOptions) -> Views:
    """Render a field on one turn."""
    return made.render(
        options.views or 50,
        size=options.size,
        elevation=30.0 if options.elevation is None else options.elevation,
        background=options.background,
        samples=options.samples,
        quality=options.quality or "fast",
    )


def write_views(made: Field, folder: Path, picture: Tensor, options: RenderOptions) -> dict[str, Path]:
    """Render a field on one turn and write it; see ``write_rendered``."""
    return write_rendered(turn(made, options), folder, picture, options)


def write_rendered(rendered: Views, folder: Path, picture: Tensor, options: RenderOptions) -> dict[str, Path]:
    """Write a turntable: frames, depth, uncertainty, GIF, MP4 and a sheet with the input beside it.

    Args:
        rendered: the views of one turn.
        folder: where to.
        picture: the input (3, H, W), for the contact sheet.
        options: frames per second and the like.
    """
    fps = options.fps or 20
    pictures = rendered.frames()
    uncertain = [] if rendered.deviation is None else uncertainty_pictures(rendered.deviation)
    files: dict[str, Path] = {}
    if options.frames is not False:
        sequences: dict[str, list[Any]] = {"frames": pictures, "depth": depth_pictures(rendered)}
        if uncertain:
            sequences["uncertainty"] = uncertain
        for name, sequence in sequences.items():
            files[name] = write_sequence(folder / name, sequence)
    files |= {"turntable": folder / "turntable.gif", "contact sheet": folder / "contact_sheet.png"}
    write_gif(files["turntable"], pictures, fps)
    if write_mp4(folder / "turntable.mp4", pictures, fps):
        files["video"] = folder / "turntable.mp4"
    write_png(files["contact sheet"], turntable_sheet(to_uint8(picture), pictures))
    if uncertain:
        files["uncertainty sheet"] = folder / "uncertainty.png"
        write_png(files["uncertainty sheet"], turntable_sheet(to_uint8(picture), uncertain))
    return files


def write_sequence(folder: Path, pictures: Sequence[Any]) -> Path:
    """Write pictures as 000.png, 001.png, ...; those of an earlier turn with more views vanish."""
    for stale in folder.glob("*.png"):
        stale.unlink()
    for index, frame in enumerate(pictures):
        write_png(folder / f"{index:03d}.png", frame)
    return folder


def uncertainty_pictures(deviation: Tensor) -> list[Any]:
    """Return coloured maps of the deviation (V, H, W, 3), with one scale for all views."""
    largest = float(deviation.square().mean(-1).sqrt().max())
    return [uncertainty_picture(d, largest, legend=False) for d in deviation]


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
