"""Pictures and moving pictures as files: PNG, GIF, MP4. Each is written at once or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hyperkit.errors import RunFailed
from hyperkit.files import atomic_path
from hyperkit.reports.pictures import Picture

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("hyperkit")


def write_png(path: str | os.PathLike[str], picture: Picture) -> None:
    """Write one picture (H, W, 3) uint8 without loss.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(picture)).save(temporary, format="PNG", optimize=True)


def write_gif(path: str | os.PathLike[str], frames: Sequence[Picture], fps: float = 20.0) -> None:
    """Write an endless loop as a GIF, with one palette of 256 colours that all frames share.

    Args:
        path: the file.
        frames: (H, W, 3) uint8, all of one size, at least one.
        fps: frames per second; a GIF counts in hundredths of a second, so 20, 25 and 50 are kept exactly.

    Raises:
        ValueError: no frames, or frames of different sizes.
        RunFailed: the disk is full or the place cannot be written.
    """

    _check(frames)
    pictures = _with_shared_palette(frames)
    duration = max(round(100 / fps), 2) * 10  # browsers slow anything below 20 ms down
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=duration,
            loop=0,
            optimize=False,
            disposal=1,
        )


def _with_shared_palette(frames: Sequence[Picture], pixels: int = 200_000) -> list[Image.Image]:
    """Return the frames with one palette, made from evenly chosen ones; the commonest colour is kept exactly."""
    from PIL import Image

    count = max(1, min(len(frames), pixels // max(frames[0].shape[0] * frames[0].shape[1], 1)))
    source = np.ascontiguousarray(np.concatenate([frames[round(i * len(frames) / count)] for i in range(count)]))
    palette = Image.fromarray(source).quantize(256, method=Image.Quantize.MEDIANCUT)
    # Median cut averages the background with its neighbours: white would become a visible grey of 252. Its entry is
    # put right, and its pixels are set by hand, because Pillow's search for the nearest entry is not exact.
    values, counts = np.unique(source.reshape(-1, 3).astype(np.int64) @ (65536, 256, 1), return_counts=True)
    commonest = np.array([values[counts.argmax()] >> shift & 255 for shift in (16, 8, 0)])
    colours = np.array(palette.getpalette(), dtype=np.int64).reshape(-1, 3)
    entry = int(np.abs(colours - commonest).sum(axis=1).argmin())
    colours[entry] = commonest
    table = colours.astype(np.uint8).tobytes()
    palette.putpalette(table)
    pictures = []
    for frame in frames:
        # No dithering: its noise changes from frame to frame, which flickers and triples the size.
        indices = np.array(Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE))
        indices[(frame == commonest).all(axis=-1)] = entry
        picture = Image.fromarray(indices)
        picture.putpalette(table)
        pictures.append(picture)
    return pictures


def write_mp4(path: str | os.PathLike[str], frames: Sequence[Picture], fps: float = 20.0) -> bool:
    """Write an H.264 video (yuv420p, which every player reads); odd sizes are padded by repeating the edge.

    A machine whose PyAV has no working encoder gets a notice in the log and no file: a missing video must not end a
    run that has its results.

    Args:
        path: the file.
        frames: (H, W, 3) uint8, all of one size, at least one.
        fps: frames per second.

    Returns:
        Whether the file was written.

    Raises:
        ValueError: no frames, or frames of different sizes.
        RunFailed: the disk is full or the place cannot be written.
    """
    _check(frames)
    height, width = frames[0].shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    try:
        import imageio.v3 as iio

        with atomic_path(path) as temporary, iio.imopen(temporary, "w", plugin="pyav") as video:
            video.init_video_stream("libx264", fps=fps, pixel_format="yuv420p")
            for frame in frames:
                video.write_frame(np.pad(frame, pad, mode="edge"))
    except RunFailed:
        raise
    except Exception as error:  # encoders fail in many ways: missing codec, broken build, refused size
        log.warning("No video: %s could not be encoded (%s: %s).", path, type(error).__name__, error)
        return False
    return True


def _check(frames: Sequence[Picture]) -> None:
    if not frames:
        raise ValueError("a video needs at least one frame")
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1 or len(frames[0].shape) != 3:
        raise ValueError(f"all frames must be (H, W, 3) pictures of one size, got {sorted(sizes)}")
