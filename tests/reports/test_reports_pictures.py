"""Sheets keep the pictures' own pixels; videos can be read back."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperkit.reports.pictures import (
    Example,
    Picture,
    comparison_sheet,
    contact_sheet,
    depth_picture,
    difference_picture,
    enlarge,
    pick_examples,
    to_uint8,
    turntable_sheet,
)
from hyperkit.reports.video import write_gif, write_mp4, write_png


def noise(height: int, width: int, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_frames(count: int, height: int, width: int) -> list[Picture]:
    """Frames with a hue that turns with time, which video codecs keep well."""
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([0 * x + 40 + 15 * k, 0 * x + 200 - 12 * k, (x + y) * 200 // (height + width)], -1).astype(np.uint8)
        for k in range(count)
    ]


def places(sheet: Picture, picture: Picture) -> list[tuple[int, int]]:
    """Return every (row, column) at which ``picture`` occurs in ``sheet`` exactly."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, picture.shape)[:, :, 0]
    found = np.argwhere((windows == picture).all(axis=(2, 3, 4)))
    return [(int(i), int(j)) for i, j in found]


def test_to_uint8_rounds_and_keeps_the_orientation() -> None:
    picture = torch.zeros(3, 2, 4)
    picture[0, 0, 3] = 0.5  # red, top right: 127.5 rounds to 128
    picture[1, 1, 0] = 2.0
    picture[2, 1, 1] = float("nan")
    result = to_uint8(picture)
    assert result.shape == (2, 4, 3)
    assert result[0, 3].tolist() == [128, 0, 0]
    assert result[1, 0].tolist() == [0, 255, 0]
    assert result[1, 1].tolist() == [0, 0, 0]
    levels = torch.arange(256) / 255
    assert to_uint8(levels.expand(3, 1, 256))[0, :, 0].tolist() == list(range(256))
    assert to_uint8(torch.zeros(5, 3, 2, 4)).shape == (5, 2, 4, 3)


def test_contact_sheet_holds_the_given_pixels_in_order() -> None:
    rows = [[noise(9, 14, seed=10 * i + j) for j in range(3)] for i in range(2)]
    rows[1].pop()
    sheet = contact_sheet(rows, ["a", "b", "c"], ["first", "second\nline"], [["x", "y", "z"]] * 2, title="Title")
    found = [[places(sheet, p) for p in row] for row in rows]
    assert all(len(place) == 1 for row in found for place in row)
    tops = [{place[0][0] for place in row} for row in found]
    assert [len(t) for t in tops] == [1, 1]
    assert tops[0].pop() + 9 < tops[1].pop()
    lefts = [place[0][1] for place in found[0]]
    assert lefts == sorted(lefts)
    assert [place[0][1] for place in found[1]] == lefts[:2]
    # margins are white, and something is written
    assert (sheet[0] == 255).all()
    assert (sheet[:, -1] == 255).all()
    assert (sheet.min(axis=-1) < 100).sum() > 6 * 9 * 14 * 0.2


def test_contact_sheet_scales_without_smoothing_and_allows_gaps() -> None:
    picture = noise(5, 7)
    sheet = contact_sheet([[None, picture], [noise(3, 3, 1)]], scale=3)
    assert len(places(sheet, enlarge(picture, 3))) == 1
    assert contact_sheet([]).ndim == 3


def test_comparison_sheet_shows_all_four_and_the_number() -> None:
    context, truth, prediction = (noise(16, 16, seed=s) for s in range(3))
    sheet = comparison_sheet([Example("worst", context, truth, prediction, 12.34, "cars/1")], scale=1)
    difference = difference_picture(truth, prediction)
    lefts = [places(sheet, p)[0][1] for p in (context, truth, prediction, difference)]
    assert lefts == sorted(lefts)
    i, j = 3, 5
    assert difference[i, j, 0] == 255 - np.abs(truth[i, j].astype(int) - prediction[i, j].astype(int)).max()
    other = comparison_sheet([Example("worst", context, truth, prediction, 23.45, "cars/1")], scale=1)
    assert sheet.shape == other.shape
    assert (sheet != other).any()


def test_pick_examples_takes_worst_median_best() -> None:
    assert pick_examples([3.0, 1.0, 2.0, 5.0, 4.0]) == {"worst": 1, "median": 0, "best": 3}
    assert pick_examples([3.0, float("nan"), 2.0]) == {"worst": 1, "median": 2, "best": 0}
    assert pick_examples([7.0]) == {"worst": 0, "median": 0, "best": 0}
    assert pick_examples([]) == {}


def test_turntable_sheet_has_the_input_on_the_left_and_evenly_chosen_views() -> None:
    frames = [noise(12, 12, seed=s) for s in range(50)]
    context = noise(12, 12, seed=99)
    sheet = turntable_sheet(context, frames, scale=1, most=10)
    assert len(places(sheet, enlarge(context, 2))) == 1
    first = places(sheet, frames[0])[0][1]
    assert places(sheet, enlarge(context, 2))[0][1] + 24 < first
    shown = [k for k, f in enumerate(frames) if places(sheet, f)]
    assert shown == list(range(0, 50, 5))


def test_depth_picture_is_white_where_nothing_is_hit_and_keeps_edges() -> None:
    from matplotlib import colormaps

    opacity = torch.tensor([[0.0, 0.5, 1.0]])
    depth = opacity * 3.0 + (1 - opacity) * 6.0  # a surface at 3 before a far end at 6
    picture = depth_picture(depth, 2.0, 6.0, opacity)
    colour = np.array(colormaps["turbo"](0.75)[:3])
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[0, 2].tolist() == to_uint8(colour[None, None])[0, 0].tolist()
    assert np.abs(picture[0, 1] - to_uint8((colour[None, None] + 1) / 2)[0, 0].astype(int)).max() <= 1


def test_png_is_lossless(tmp_path: Path) -> None:
    from PIL import Image

    picture = noise(7, 5)
    write_png(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        assert (np.asarray(image) == picture).all()


def test_gif_has_every_frame_loops_and_keeps_colours(tmp_path: Path) -> None:
    from PIL import Image

    frames = smooth_frames(12, 33, 47)
    frames[5] = frames[4].copy()  # equal neighbours must not be dropped
    write_gif(tmp_path / "a.gif", frames, fps=25)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["loop"] == 0
        durations, total = [], 0
        for k in range(gif.n_frames):
            gif.seek(k)
            durations.append(gif.info["duration"])
            index = min(total // 40, 11)
            total += gif.info["duration"]
            shown = np.asarray(gif.convert("RGB")).astype(int)
            assert np.abs(shown - frames[index]).mean() < 6
    assert sum(durations) == 12 * 40


def test_gif_keeps_a_white_background_exactly(tmp_path: Path) -> None:
    """Nearly white neighbours must not pull the palette's white down."""
    from PIL import Image

    frames = []
    for k in range(3):
        frame = np.full((40, 40, 3), 255, dtype=np.uint8)
        frame[10:20, 10:30] = noise(10, 20, seed=k)
        frame[30:34] = noise(4, 40, seed=k) // 32 + 244
        frames.append(frame)
    write_gif(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as gif:
        for k in range(3):
            gif.seek(k)
            assert (np.asarray(gif.convert("RGB"))[:10] == 255).all()


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 1)])
def test_mp4_of_any_size_can_be_read_back(tmp_path: Path, size: tuple[int, int]) -> None:
    import imageio.v3 as iio

    frames = smooth_frames(9, *size)
    assert write_mp4(tmp_path / "a.mp4", frames, fps=25)
    back = iio.imread(tmp_path / "a.mp4", plugin="pyav")
    assert back.shape == (9, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    if size[0] > 1:  # colours, to the codec's precision; worst seen 8
        error = np.abs(back[:, : size[0], : size[1]].astype(int) - np.stack(frames)).mean(axis=(1, 2, 3))
        assert error.max() < 12
    assert iio.immeta(tmp_path / "a.mp4", plugin="pyav")["fps"] == 25
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_broken_encoder_gives_a_notice_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import imageio.v3 as iio

    def broken(*_: object, **__: object) -> None:
        raise ValueError("unknown codec libx264")

    monkeypatch.setattr(iio, "imopen", broken)
    with caplog.at_level(logging.WARNING, logger="hyperkit"):
        assert not write_mp4(tmp_path / "a.mp4", smooth_frames(2, 8, 8))
    assert "unknown codec" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_gif, write_mp4])
def test_no_frames_or_mixed_sizes_are_refused(tmp_path: Path, write: object) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write(tmp_path / "a", [])  # type: ignore[operator]
    with pytest.raises(ValueError, match="of one size"):
        write(tmp_path / "a", [noise(4, 4), noise(4, 6)])  # type: ignore[operator]
