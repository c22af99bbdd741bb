"""The error of features that a field carries against those of the encoder that teaches them."""

from __future__ import annotations

from torch import Tensor


def feature_error(found: Tensor, truth: Tensor) -> Tensor:
    """Return each item's mean squared error of features, ||F - F_t||^2 / dims, as in N3F and DFF.

    A ray's features are composited like its colours, F = sum_i w_i f_i (Kobayashi et al. 2022, eq. 5), on a background
    that has none: where the truth shows no object it is 0, as it is for a ray that nothing stops.

    Args:
        found, truth: (B, R, F).

    Returns:
        (B,), in units of the variance where the truth was scaled by it.
    """
    return (found - truth).float().square().mean(dim=(1, 2))
