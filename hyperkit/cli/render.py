"""``hyperkit render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperkit.cli import options as o


def render(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint, or the folder of a run (its best).")],
    views: Annotated[int, typer.Option("--views", metavar="N", min=1, help="Views of one turn.")] = 50,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Your own picture: alpha or a plain background.")
    ] = None,
    object_id: Annotated[
        str | None, typer.Option("--object", metavar="ID", help="An object of the data set, as in cars/car_0001.")
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=0, help="Which of the checkpoint's own inputs to use.")
    ] = 0,
    data: o.DataOption = None,
    size: Annotated[int | None, typer.Option("--size", metavar="PIXELS", min=8, help="Size of the pictures.")] = None,
    elevation: Annotated[
        float, typer.Option("--elevation", metavar="DEGREES", min=-89, max=89, help="Height of the cameras.")
    ] = 30.0,
    background: Annotated[str | None, typer.Option("--background", metavar="NAME", help="white or black.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", metavar="N", min=1, help="Samples per ray.")] = None,
    tto: Annotated[int, typer.Option("--tto", metavar="STEPS", min=0, help="Test-time optimisation steps.")] = 0,
    mesh: Annotated[
        Path | None, typer.Option("--mesh", metavar="FILE", help="Write a mesh with vertex colours: .glb, .obj, .ply.")
    ] = None,
    mesh_threshold: Annotated[
        float | None, typer.Option("--mesh-threshold", metavar="DENSITY", help="Density of the surface.")
    ] = None,
    mesh_resolution: Annotated[
        int, typer.Option("--mesh-resolution", metavar="N", min=8, max=512, help="Grid points per axis.")
    ] = 128,
    weights_out: Annotated[
        Path | None, typer.Option("--weights-out", metavar="FILE", help="Write the generated network: .safetensors.")
    ] = None,
    out: o.OutOption = None,
    fps: Annotated[int, typer.Option("--fps", metavar="N", min=1, help="Frames per second of GIF and MP4.")] = 20,
    device: o.DeviceOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Render an object from all sides: frames, GIF, MP4, depth and a contact sheet.

    Works from the checkpoint alone, from an object of the data set (--object), or from your own picture (--image).

    Example: hyperkit render runs/a --image chair.png --views 50 --mesh chair.glb
    """
    from hyperkit.workflows.render import ViewOptions
    from hyperkit.workflows.render import render as work

    result = work(
        checkpoint,
        ViewOptions(views, size, elevation, background, samples, fps),
        image=image,
        object_id=object_id,
        sample=sample,
        data=data,
        tto=tto,
        mesh=mesh,
        mesh_threshold=mesh_threshold,
        mesh_resolution=mesh_resolution,
        weights_out=weights_out,
        out=out,
        device=device or "auto",
    )
    result.show()
    o.emit(result.folder, result.to_json(), as_json)
