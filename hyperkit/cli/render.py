"""``hyperkit render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperkit.cli import options as o


def render(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint, or the folder of a run (its best).")],
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Your own picture; for nvs on a plain background.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", metavar="FILE", help="Your own sound: WAV, FLAC, ...")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="A sentence, for models of hyperkit distill.")
    ] = None,
    object_id: Annotated[
        str | None, typer.Option("--object", metavar="ID", help="An item of the data set, as in cars/car_0001.")
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=0, help="Which of the checkpoint's own inputs to use.")
    ] = 0,
    data: o.DataOption = None,
    context_views: Annotated[
        int | None, typer.Option("--context-views", metavar="N", min=1, help="Views of the object that go in.")
    ] = None,
    tto: Annotated[int, typer.Option("--tto", metavar="STEPS", min=0, help="Test-time optimisation steps.")] = 0,
    attention: Annotated[
        bool, typer.Option("--attention", help="Draw where the weight tokens of each layer look.")
    ] = False,
    weights_out: Annotated[
        Path | None, typer.Option("--weights-out", metavar="FILE", help="Write the generated network: .safetensors.")
    ] = None,
    views: Annotated[
        int | None, typer.Option("--views", metavar="N", min=1, help="nvs: views of one turn, 50.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PIXELS", min=8, help="nvs: size of the pictures.")
    ] = None,
    elevation: Annotated[
        float | None,
        typer.Option("--elevation", metavar="DEGREES", min=-89, max=89, help="nvs: height of the cameras, 30."),
    ] = None,
    background: Annotated[str | None, typer.Option("--background", metavar="NAME", help="nvs: white or black.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", metavar="N", min=1, help="nvs: samples per ray.")] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            metavar="NAME",
            help="nvs: fast, the default; or exact: every sample, in float32.",
        ),
    ] = None,
    mesh: Annotated[
        Path | None,
        typer.Option("--mesh", metavar="FILE", help="nvs: write a mesh with vertex colours: .glb, .obj, .ply."),
    ] = None,
    mesh_threshold: Annotated[
        float | None, typer.Option("--mesh-threshold", metavar="DENSITY", help="nvs: density of the surface.")
    ] = None,
    mesh_resolution: Annotated[
        int | None,
        typer.Option("--mesh-resolution", metavar="N", min=8, max=512, help="nvs: grid points per axis, 128."),
    ] = None,
    fps: Annotated[
        int | None, typer.Option("--fps", metavar="N", min=1, help="nvs: frames per second of GIF and MP4, 20.")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", metavar="X", min=0.1, max=64, help="image: pixels per pixel of the input, 4."),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option("--rate", metavar="HZ", min=100, max=384000, help="audio: samples per second; as in training."),
    ] = None,
    out: o.OutOption = None,
    device: o.DeviceOption = None,
    assignments: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Render an object from all sides, a picture at any resolution, or a sound at any rate.

    Works from the checkpoint alone, from an item of the data set (--object), or from your own file.

    \b
    hyperkit render runs/nvs --image chair.png --views 50 --mesh chair.glb
    hyperkit render runs/image --image photo.jpg --scale 4
    hyperkit render runs/audio --audio speech.flac --rate 48000
    hyperkit render runs/distill --prompt "an orange toaster" --views 50
    """
    from hyperkit.workflows.render import RenderOptions
    from hyperkit.workflows.render import render as work

    options = RenderOptions(
        views=views,
        size=size,
        elevation=elevation,
        background=background,
        samples=samples,
        quality=quality,  # type: ignore[arg-type]
        fps=fps,
        mesh=mesh,
        mesh_threshold=mesh_threshold,
        mesh_resolution=mesh_resolution,
        scale=scale,
        rate=rate,
    )
    result = work(
        checkpoint,
        options,
        image=image,
        audio=audio,
        prompt=prompt,
        object_id=object_id,
        sample=sample,
        overrides=o.overrides(assignments, data=data, device=device),
        context_views=context_views,
        tto=tto,
        attention=attention,
        weights_out=weights_out,
        out=out,
    )
    result.show()
    o.emit(result.folder, result.to_json(), as_json)
