"""Whose scene a rendered one is taken for, on pictures whose answer is known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hyperkit.adapt.teachers import TeacherPictures
from hyperkit.contracts import Cameras, Scores
from hyperkit.geometry import turntable
from hyperkit.metrics.weights import MetricUnavailableError
from hyperkit.tasks.taught import TaughtPrompts
from hyperkit.workflows import evaluate_text
from hyperkit.workflows.evaluate_text import Pictured

COLOURS = {"p/red": (1.0, 0.0, 0.0), "p/green": (0.0, 1.0, 0.0), "p/blue": (0.0, 0.0, 1.0), "p/grey": (0.5, 0.5, 0.5)}
KEPT, SIZE = 3, 8


def plain(colour: tuple[float, ...]) -> Tensor:
    return torch.tensor(colour)[:, None, None].expand(KEPT, 3, SIZE, SIZE)


@pytest.fixture
def prompts() -> TaughtPrompts:
    cameras = Cameras(turntable(KEPT + 1), torch.ones(KEPT + 1), SIZE, SIZE)
    taught = {}
    for name, colour in COLOURS.items():
        rgba = torch.ones(KEPT + 1, 4, SIZE, SIZE)
        rgba[:, :3] = torch.tensor(colour)[:, None, None]
        taught[name] = TeacherPictures((rgba * 255).round().to(torch.uint8), cameras)
    return TaughtPrompts({name: f"a {name[2:]} thing" for name in COLOURS}, taught, KEPT, "white")


def shown(colours: dict[str, tuple[float, ...]]) -> Pictured:
    return Pictured(tuple(colours), [plain(c) for c in colours.values()], [], [], [])


class Clip:
    """An encoder whose features of a picture are its mean colour: red things have features of red things."""

    def __init__(self, device: Any) -> None: ...

    def pictures(self, pictures: Tensor) -> Tensor:
        return pictures.mean((-2, -1)) + torch.linspace(0, 1e-3, len(pictures))[:, None]


def test_a_scene_is_looked_for_among_all(prompts: TaughtPrompts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_text, "ClipFeatures", Clip)
    # by PSNR: the first is red, the second nearer to grey than to green, the third green in place of blue
    found = shown({"p/red": (0.9, 0.1, 0.1), "p/green": (0.45, 0.6, 0.45), "p/blue": (0.1, 0.9, 0.1)})
    result, unavailable = evaluate_text._retrieval(prompts, {"seen": found}, torch.device("cpu"))  # type: ignore[arg-type]
    assert not unavailable
    assert result["among"] == 4
    assert result["by"]["psnr"]["seen"][1] == pytest.approx(1 / 3)
    assert result["by"]["psnr"]["seen"][3] == pytest.approx(2 / 3)  # blue is the farthest of four from green
    assert set(result["clip"]["seen"]) == {"precision", "recall", "kid"}
    assert result["by"]["clip"]["seen"][1] == pytest.approx(1 / 3)


def test_without_clip_the_rest_is_there(prompts: TaughtPrompts, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: Any) -> None:
        raise MetricUnavailableError("no weights; run: hyperkit prepare backbone clip")

    monkeypatch.setattr(evaluate_text, "ClipFeatures", missing)
    result, unavailable = evaluate_text._retrieval(prompts, {"seen": shown(COLOURS)}, torch.device("cpu"))  # type: ignore[arg-type]
    assert result["by"] == {"psnr": {"seen": {1: 1.0, 3: 1.0}}}
    assert "prepare backbone clip" in next(iter(unavailable.values()))


def test_scenes_with_cameras_of_their_own_are_not_compared(prompts: TaughtPrompts) -> None:
    prompts.shared_cameras = False  # type: ignore[misc]
    result, unavailable = evaluate_text._retrieval(prompts, {}, torch.device("cpu"))  # type: ignore[arg-type]
    assert result == {}
    assert "cameras of their own" in unavailable["retrieval"]


def test_prompts_stand_for_scenes(prompts: TaughtPrompts) -> None:
    assert prompts.split("train") == tuple(COLOURS)
    assert prompts.split("unseen") == ()
    views = prompts.test_views("p/blue")
    assert len(views) == KEPT
    torch.testing.assert_close(views.cameras.poses, turntable(KEPT + 1)[1:], atol=0, rtol=0)
    mean = torch.tensor(list(COLOURS.values())).mean(0)
    torch.testing.assert_close(prompts.mean_pictures("p/red"), plain(tuple(mean.tolist())), atol=2e-3, rtol=0)


def test_examples_are_the_worst_the_median_and_the_best(prompts: TaughtPrompts) -> None:
    part = Pictured(tuple(COLOURS), [plain(c) for c in COLOURS.values()], [plain(c) for c in COLOURS.values()], [], [])
    scores = Scores({"psnr": [20.0, 10.0, 40.0, 30.0]}, tuple(COLOURS), ("p",) * 4)
    rows = evaluate_text._examples(prompts, {"seen": part}, {"seen": scores})  # type: ignore[arg-type]
    assert [title for title, _, _ in rows] == [
        "a green thing\nseen, worst, 10.0 dB",
        "a grey thing\nseen, median, 30.0 dB",
        "a blue thing\nseen, best, 40.0 dB",
    ]
    torch.testing.assert_close(rows[0][1], plain(COLOURS["p/green"])[0])
