"""Picture files of every ordinary kind as RGB: upright, on a background, 8 bits, of the size that is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from hyperkit.data.flat_pack import BadFile, Decoded
from hyperkit.data.folders import Kind
from hyperkit.errors import HyperkitError

Background = Literal["white", "black"]

PICTURES = Kind(
    name="pictures",
    suffixes=frozenset(
        (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")
    ),
    unread=frozenset((".heic", ".heif", ".svg", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw", ".jxl")),
)

SMALLEST = 8
"""Pixels that a picture's shorter side must have."""

LONGEST = 65536
"""Pixels that its longer side may have after resizing."""

ENLARGED = "enlarged"
"""Mark of pictures whose shorter side had fewer pixels than it was resized to."""


def read_rgb(path: str | Path, background: Background = "white") -> np.ndarray:
    """Read a picture as (H, W, 3) uint8: upright by its EXIF tag, alpha laid on the background, 16 bits rounded to 8.

    Of an animation, the first picture is read. Colour profiles are not applied.

    Raises:
        HyperkitError: the file is missing, not a picture, truncated, or too small or too large.
    """
    return _read(path, partial(rgb_of, background=background))


def read_rgba(path: str | Path) -> np.ndarray:
    """Read a picture as (H, W, 4) uint8, as ``read_rgb`` does but for its alpha, which is kept; 255 if it has none."""
    return _read(path, rgba_of)


def _read(path: str | Path, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    path = Path(path)
    hint = "Give a PNG, JPEG, WebP, TIFF, BMP or GIF."
    if not path.is_file():
        raise HyperkitError(f"The picture {path} {'is a folder' if path.is_dir() else 'does not exist'}.", hint)
    try:
        return _of_bytes(path.read_bytes(), convert)
    except BadFile as error:
        raise HyperkitError(f"{path} {error}.", hint) from error


def _of_bytes(content: bytes, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Return a file's picture, or say with ``BadFile`` why it cannot be used."""
    if not content:
        raise BadFile("is empty (0 bytes)")
    with _pillow(), Image.open(BytesIO(content)) as picture:
        check_size(picture)
        picture.load()
        return convert(picture)


@contextmanager
def _pillow() -> Iterator[None]:
    """Keep Pillow's warnings in, and turn what it raises into ``BadFile``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except BadFile:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise BadFile(f"has more than {Image.MAX_IMAGE_PIXELS} pixels; save it smaller") from error
        except Image.UnidentifiedImageError as error:
            raise BadFile("is not a picture of a known format") from error
        except Exception as error:  # Pillow raises many kinds for broken files
            raise BadFile(f"cannot be decoded: {error}") from error


def check_size(picture: Image.Image) -> None:
    """Raise ``BadFile`` for a picture whose shorter side is below ``SMALLEST``."""
    width, height = picture.size
    if min(width, height) < SMALLEST:
        raise BadFile(f"is {width} x {height} pixels; the shorter side must have at least {SMALLEST}")


def rgb_of(picture: Image.Image, background: Background) -> np.ndarray:
    """Return an opened picture as (H, W, 3) uint8; see ``read_rgb``.

    Raises:
        BadFile: its pixels are of a kind whose range is not known.
    """
    pixels = _pixels(picture)
    if pixels.shape[2] == 3:
        return pixels
    colour, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
    behind = np.uint32(255 if background == "white" else 0)
    return ((colour * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)


def rgba_of(picture: Image.Image) -> np.ndarray:
    """Return an opened picture as (H, W, 4) uint8; see ``read_rgba``.

    Raises:
        BadFile: its pixels are of a kind whose range is not known.
    """
    pixels = _pixels(picture)
    return pixels if pixels.shape[2] == 4 else np.pad(pixels, ((0, 0), (0, 0), (0, 1)), constant_values=255)


def _pixels(picture: Image.Image) -> np.ndarray:
    """Return (H, W, 4) uint8 of pictures with alpha, (H, W, 3) of others; upright."""
    kind = picture.format
    picture = ImageOps.exif_transpose(picture)
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM")):
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
        grey = np.asarray(picture).astype(np.int64).clip(0, 65535)
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    if mode in ("I", "F"):
        raise BadFile(f"has 32-bit values ({mode}), whose range is not known; save it with 8 or 16 bits")
    has_alpha = mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    return np.array(picture.convert("RGBA" if has_alpha else "RGB"))


def resize_shorter(rgb: np.ndarray, length: int) -> np.ndarray:
    """Resize (H, W, 3) uint8 so that its shorter side has ``length`` pixels: bicubic, averaging where it shrinks."""
    height, width = rgb.shape[:2]
    shorter = min(height, width)
    if shorter == length:
        return rgb
    size = (max(length, round(width * length / shorter)), max(length, round(height * length / shorter)))
    return np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def centre_crop(rgb: np.ndarray, size: int) -> np.ndarray:
    """Return the middle square (size, size, 3) of a picture; one pixel nearer to the upper left where it is uneven."""
    top, left = (rgb.shape[0] - size) // 2, (rgb.shape[1] - size) // 2
    return rgb[top : top + size, left : left + size]


def _decode(resize: int, background: Background, content: bytes) -> Decoded:
    rgb = _of_bytes(content, partial(rgb_of, background=background))
    height, width = rgb.shape[:2]
    if max(height, width) * resize > LONGEST * min(height, width):
        raise BadFile(f"is {width} x {height} pixels, a strip that is too long for its width")
    return Decoded(resize_shorter(rgb, resize), (ENLARGED,) if min(height, width) < resize else ())


def decoder(resize: int, background: Background) -> Any:
    """Return the function that makes (H, W, 3) uint8 of a file's bytes, its shorter side ``resize`` pixels long."""
    return partial(_decode, resize, background)
