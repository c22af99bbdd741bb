"""Label maps as pictures: their colours, and a legend that says the same."""

import numpy as np
import torch

from hyperkit.reports.parts import label_picture, part_colour, parts_turntable, with_legend

NAMES = tuple(f"part {i}" for i in range(1, 31))


def test_each_part_has_its_own_colour() -> None:
    colours = [part_colour(i) for i in range(31)]
    assert len(set(colours)) == 31
    assert colours[0] == (255, 255, 255)
    labels = torch.randint(0, 31, (5, 7))
    picture = label_picture(labels)
    assert picture.shape == (5, 7, 3)
    assert all(tuple(picture[y, x]) == colours[labels[y, x]] for y in range(5) for x in range(7))


def test_the_legend_lies_below_the_sheet_and_holds_every_colour() -> None:
    sheet = np.full((20, 200, 3), 7, np.uint8)
    found = with_legend(sheet, NAMES)
    assert np.array_equal(found[:20], sheet)
    below = {tuple(pixel) for pixel in found[20:].reshape(-1, 3).tolist()}
    assert {part_colour(i) for i in range(1, 31)} <= below
    short = with_legend(sheet, NAMES, shown=[2])
    below = {tuple(pixel) for pixel in short[20:].reshape(-1, 3).tolist()}
    assert part_colour(2) in below
    assert part_colour(1) not in below


def test_maps_stand_below_their_views() -> None:
    frames = [np.full((8, 8, 3), 10 * i, np.uint8) for i in range(4)]
    maps = [label_picture(np.full((8, 8), i + 1)) for i in range(4)]
    sheet = parts_turntable(frames[0], frames, maps, NAMES[:4])
    for frame, colours in zip(frames[1:], maps[1:], strict=True):
        ys, xs = np.nonzero((sheet == colours[0, 0]).all(-1)[:-45])  # the legend apart
        above = sheet[ys.min() - 1, xs.min()]
        assert tuple(above) == tuple(frame[0, 0])
