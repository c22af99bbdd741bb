from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperkit.data.picture import frame_picture, read_picture
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


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8))
    with pytest.raises(HyperkitError, match="not plain"):
        frame_picture(noise, 16)
    with pytest.raises(HyperkitError, match="No object can be seen"):
        frame_picture(Image.new("RGB", (9, 9), (8, 8, 8)), 16)
    with pytest.raises(HyperkitError, match="does not exist"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(HyperkitError, match="cannot be read as a picture"):
        read_picture(tmp_path / "text.png")
