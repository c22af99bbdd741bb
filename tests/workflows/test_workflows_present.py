"""What presenters hand to reports and models: attention in its layout, cameras of stored samples."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hyperkit.backbones import BackboneConfig, build_backbone
from hyperkit.models.field import Framing
from hyperkit.models.predictor import FieldPredictor, SoundPredictor
from hyperkit.workflows import present_sound
from hyperkit.workflows.present_sound import SoundPresenter
from hyperkit.workflows.present_views import ViewsPresenter
from hyperkit.workflows.presenters import Given


def drawn_attention(
    name: str, times: list[float], monkeypatch: pytest.MonkeyPatch, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is drawn for a model that attends to each of 4 times as much as ``times`` says, all bands alike."""
    backbone: Any = build_backbone(BackboneConfig(name=name, sample_rate=8000))
    layout = backbone.token_layout(1, 5000)
    expected = np.array(times)[np.arange(layout.columns) * len(times) // layout.columns]
    each = torch.tensor(expected / layout.rows, dtype=torch.float32).repeat(layout.rows)
    attention = torch.cat([torch.full((layout.prefix,), 0.125), each])[None]
    model = SimpleNamespace(
        device=torch.device("cpu"), backbone=backbone, attention=lambda context: {"layer0": attention}
    )
    predictor = SoundPredictor(model, rate=8000, count=5000)  # type: ignore[arg-type]
    seen: list[dict[str, np.ndarray]] = []
    monkeypatch.setattr(present_sound, "attention_spectrogram", lambda wave, rate, maps, path: seen.append(maps))
    loaded: Any = SimpleNamespace(predictor=predictor)
    SoundPresenter().write_attention(loaded, Given(torch.zeros(1, 5000), "a"), path)
    return seen[0]["layer0"], expected


@pytest.mark.parametrize("name", ["mel:nano", "patches-nano"])
def test_attention_of_sounds_is_drawn_at_its_time(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, expected = drawn_attention(name, [0.5, 0.25, 0.0, 0.0625], monkeypatch, tmp_path / "a.png")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("stored", [True, False])
def test_samples_are_seen_with_their_own_focal_length(stored: bool) -> None:
    framing = Framing(camera_angle_x=2 * math.atan(0.5 * 32 / 40.0), size=32)
    samples: dict[str, Any] = {
        "pictures": torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8),
        "poses": torch.eye(4).expand(2, 3, 4, 4),
    }
    if stored:
        samples["focal"] = torch.tensor([40.0, 55.0])
    model: Any = SimpleNamespace()
    predictor = FieldPredictor(model, samples=samples, framing=framing)
    for index, focal in enumerate((40.0, 55.0 if stored else 40.0)):
        cameras = ViewsPresenter().from_samples(predictor, index, "a").cameras
        assert cameras is not None
        torch.testing.assert_close(cameras.focal, torch.full((1, 3), focal))
        assert (cameras.width, cameras.height) == (32, 32)
