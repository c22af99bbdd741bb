from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperkit.data.picture import frame_picture
from hyperkit.data.picture_files import read_rgba, rgba_of
from hyperkit.errors import HyperkitError


def scene(background: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    picture = Image.new(mode, (200, 100), background)
    picture.paste((200, 30, 30, 255)[: len(mode)], (120, 20, 180, 50))  # 60 wide, 30 high, off the middle
    return picture


@pytest.mark.parametrize(
    "picture",
    [scene((0, 0, 0, 0), "RGBA"), scene((255, 255, 255)), scene((20, 90, 160))],
    ids=["alpha", "white", "blue"],
)
def test_object_is_centred_scaled_and_put_on_white(picture: Image.Image) -> None:
    framed = frame_picture(picture, 50, fill=0.8)
    assert framed.shape == (3, 50, 50)
    red = (framed[0] - framed[1]) > 0.3
    rows, columns = torch.where(red.any(1))[0], torch.where(red.any(0))[0]
    # 0.8 of 50 is 40 pixels wide and 20 high, in the middle
    assert (columns.min(), columns.max() + 1) == (5, 45)
    assert (rows.min(), rows.max() + 1) == (15, 35)
    assert framed[:, 0, 0].tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    assert framed[:, 25, 25].tolist() == pytest.approx([200 / 255, 30 / 255, 30 / 255], abs=0.01)


def test_object_that_touches_the_edge_is_padded() -> None:
    picture = np.full((40, 20, 4), 255, np.uint8)
    picture[..., 1:3] = 0
    picture[0, 0, 3] = 0
    framed = frame_picture(picture, 20, fill=0.5)
    assert framed[1, 0].min() > 0.99
    assert framed[1, 10, 10] < 0.01


def test_16_bit_greys_are_framed_as_their_8_bit_version(tmp_path: Path) -> None:
    grey = np.full((60, 80), 240, np.uint8)
    grey[10:50, 20:60] = np.arange(40, 200, 4)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / name)
        expected = frame_picture(Image.fromarray(grey), 40)
        assert expected.min() < 0.2
        assert torch.equal(frame_picture(read_rgba(tmp_path / name), 40), expected)
        assert torch.equal(frame_picture(Image.open(tmp_path / name), 40), expected)
    assert torch.equal(frame_picture(grey, 40), expected)


def test_files_keep_their_alpha_and_stand_upright(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (9, 12, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(rgba).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_rgba(tmp_path / "turned.png"), np.rot90(rgba, -1))
    np.testing.assert_array_equal(rgba_of(Image.open(tmp_path / "turned.png")), np.rot90(rgba, -1))
    palette = Image.fromarray(rgba[..., :3]).quantize(16)
    alpha = (np.arange(16) * 17).astype(np.uint8)
    palette.save(tmp_path / "palette.png", transparency=alpha.tobytes())
    found = read_rgba(tmp_path / "palette.png")
    np.testing.assert_array_equal(found[..., 3], alpha[np.asarray(palette)])
    np.testing.assert_array_equal(found[..., :3], np.asarray(palette.convert("RGB")))
    opaque = rgba_of(Image.fromarray(rgba[..., :3]))
    np.testing.assert_array_equal(opaque, np.dstack([rgba[..., :3], np.full((9, 12), 255, np.uint8)]))


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8))
    with pytest.raises(HyperkitError, match="not plain"):
        frame_picture(noise, 16)
    with pytest.raises(HyperkitError, match="No object can be seen"):
        frame_picture(Image.new("RGB", (9, 9), (8, 8, 8)), 16)
    with pytest.raises(HyperkitError, match="does not exist"):
        read_rgba(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(HyperkitError, match="text.png is not a picture of a known format"):
        read_rgba(tmp_path / "text.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "pixel.png")
    with pytest.raises(HyperkitError, match="pixel.png is 1 x 1 pixels; the shorter side must have at least 8"):
        read_rgba(tmp_path / "pixel.png")
    with pytest.raises(HyperkitError, match="The picture is 90 x 7 pixels; the shorter side must have at least 8"):
        frame_picture(scene((255, 255, 255)).resize((90, 7)), 16)
    with pytest.raises(HyperkitError, match=r"has 32-bit values \(F\)"):
        frame_picture(np.zeros((20, 20), np.float32), 16)
