"""Features as colours: their first three components, with one scale for all pictures that are shown together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyperkit.reports.pictures import Picture, to_uint8, turntable_sheet


def feature_limits(features: Tensor, opacity: Tensor) -> Tensor:
    """Return the size that hardly any of the first three features exceeds where something is, (3,).

    Args:
        features: (..., F), composited; F of at least 3.
        opacity: (...).
    """
    inside = opacity > 0.5
    if not bool(inside.any()):
        return torch.ones(3)
    values = features[inside][:, :3].float() / opacity[inside].unsqueeze(-1)
    # the 98th percentile by sorting: torch.quantile refuses more than 16 million values
    largest = values.abs().sort(dim=0).values[int(0.98 * (len(values) - 1))]
    return largest.clamp_min(1e-6).cpu()


def feature_picture(features: Tensor, opacity: Tensor, limits: Tensor) -> Picture:
    """Return features (H, W, F) as a picture (H, W, 3) uint8 on white: 0 is grey, and +-``limits`` are the ends.

    Both are composited, so that their colour is laid on white by the opacity (H, W).
    """
    covered = opacity.float().cpu().unsqueeze(-1)
    colour = 0.5 * covered + features[..., :3].float().cpu() / (2 * limits)
    return to_uint8((colour.clamp(torch.zeros(()), covered) + 1 - covered).movedim(-1, 0))


def feature_pictures(features: Tensor, opacity: Tensor) -> list[Picture]:
    """Return the views (V, H, W, F) of one turn as pictures."""
    limits = feature_limits(features, opacity)
    return [feature_picture(one, covered, limits) for one, covered in zip(features, opacity, strict=True)]


def features_turntable(context: Picture, frames: Sequence[Picture], features: Sequence[Picture]) -> Picture:
    """Show the input, and views around the object with the features of each below its colours."""
    both = [np.concatenate(pair) for pair in zip(frames, features, strict=True)]
    return turntable_sheet(context, both, columns=min(len(both), 6), most=12)
