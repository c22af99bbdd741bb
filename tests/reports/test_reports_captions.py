import numpy as np
import torch

from hyperkit.reports.captions import UNSEEN, caption_matrix, examples_sheet, sentence_picture, views_sheet


def picture(level: int) -> np.ndarray:
    return np.broadcast_to(np.array([level, 7, 201], dtype=np.uint8), (64, 64, 3))  # no shade of the letters


def places(sheet: np.ndarray, *colour: int) -> tuple[int, int, int]:
    """Return the middle (row, column) of the pixels of one colour, and their number."""
    rows, columns = (sheet == np.array(colour)).all(-1).nonzero()
    return int(rows.mean()), int(columns.mean()), len(rows)


def test_rows_are_shapes_columns_are_colours_and_unseen_ones_are_framed() -> None:
    names = [f"{shape}/{colour}" for shape in ("bowl", "chair") for colour in ("red", "blue", "green")]
    sheet = caption_matrix({name: picture(40 + i) for i, name in enumerate(names)}, {"chair/blue"})
    found = [places(sheet, 40 + i, 7, 201) for i in range(6)]
    assert [count for *_, count in found] == [64 * 64] * 6  # no pixel is covered
    rows, columns = zip(*[(r, c) for r, c, _ in found], strict=True)
    assert rows[:3] == (rows[0],) * 3
    assert rows[3:] == (rows[3],) * 3
    assert rows[3] > rows[0] + 64
    assert columns[:3] == columns[3:]
    assert columns[0] + 64 < columns[1] < columns[2] - 64
    framed = (sheet == np.array(UNSEEN)).all(-1)
    assert framed.sum() == 68 * 68 - 64 * 64
    assert framed.nonzero()[0].mean() == rows[4] + 0.5
    assert framed.nonzero()[1].mean() == columns[4] + 0.5


def test_scenes_that_share_no_names_fill_rows_of_their_own() -> None:
    sheet = caption_matrix({f"a/{i}": picture(40 + i) for i in range(9)} | {"b/x": picture(60)}, set())
    found = [places(sheet, level, 7, 201) for level in (*range(40, 49), 60)]
    assert [count for *_, count in found] == [64 * 64] * 10
    assert len({r for r, _, _ in found[:8]}) == 1
    assert found[8][:2] == (found[8][0], found[0][1])  # the ninth begins the next row
    assert found[9][0] > found[8][0] > found[0][0]
    assert not (sheet == np.array(UNSEEN)).all(-1).any()


def test_examples_show_truth_prediction_and_their_difference() -> None:
    truth, found = torch.full((3, 64, 64), 0.75), torch.full((3, 64, 64), 0.25)
    found[0] = 2.0  # beyond white: shown as white
    sheet = examples_sheet([("a red chair\nseen", truth, found)])
    assert ((sheet == 191).all(-1)).sum() == 128 * 128
    assert ((sheet == [255, 64, 64]).all(-1)).sum() == 128 * 128
    assert ((sheet == [64, 128, 128]).all(-1)).sum() == 128 * 128


def test_views_stand_under_one_another() -> None:
    red, blue = torch.zeros(3, 32, 32), torch.zeros(3, 32, 32)
    red[0], blue[2] = 1.0, 1.0
    sheet = views_sheet({"truth": [red] * 2, "found": [blue] * 2})
    first, second = places(sheet, 255, 0, 0), places(sheet, 0, 0, 255)
    assert first[2] == second[2] == 2 * 128 * 128
    assert first[1] == second[1]
    assert first[0] + 128 < second[0]


def test_a_sentence_is_written_whole_and_within_its_square() -> None:
    for sentence in ("a red chair", "an extraordinarily comfortable aubergine-coloured velvet sofa with five cushions"):
        sheet = sentence_picture(sentence, 128)
        ink = (sheet < 128).all(-1)
        assert sheet.shape == (128, 128, 3)
        assert ink.sum() > 50
        edges = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        assert not edges.any()
