"""Measures of how like two pictures are that need no pretrained network: PSNR and SSIM."""

from __future__ import annotations

import torch
from torch import Tensor

SSIM_WINDOW = 11


def as_pictures(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures (B, 3, H, W) from colours (B, H * W, 3) in row-major order from the upper left corner.

    Args:
        values: (B, N, 3), as a renderer gives them for ``geometry.picture_rays``.
        size: (H, W).

    Raises:
        ValueError: N is not H * W.
    """
    height, width = size
    if values.ndim != 3 or values.shape[1] != height * width:
        raise ValueError(f"expected values (B, {height * width}, C) for a picture {size}, got {tuple(values.shape)}")
    return values.transpose(1, 2).reshape(values.shape[0], values.shape[2], height, width)


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each item, ``-10 log10(mse)``, for a peak of 1.

    The squared error is averaged over all pixels and channels of an item before the logarithm; a table's PSNR is the
    mean of these values over items. Nothing is clamped: equal pictures give ``inf``, values outside [0, 1] count as
    they are.

    Args:
        prediction, truth: (B, 3, H, W), (B, N, 3) or any equal shapes (B, ...); half precision is raised to float32.

    Returns:
        (B,) in dB.

    Raises:
        ValueError: the shapes differ.
    """
    prediction, truth = _alike(prediction, truth)
    return -10.0 * torch.log10((prediction - truth).square().flatten(1).mean(1))


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity of each picture (Wang et al. 2004), for a data range of 1.

    Gaussian window of 11x11 with deviation 1.5, k1 0.01, k2 0.03, mirrored borders, mean over pixels and channels:
    torchmetrics' defaults, which the papers use.

    Args:
        prediction, truth: (B, 3, H, W) with values in [0, 1]; half precision is raised to float32.

    Returns:
        (B,), at most 1, where pictures are equal.

    Raises:
        ValueError: the shapes differ, are not (B, C, H, W), or are smaller than the window (see ``ssim_obstacle``).
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    prediction, truth = _alike(prediction, truth)
    if prediction.ndim != 4:
        raise ValueError(f"expected pictures (B, C, H, W), got {tuple(prediction.shape)}; see as_pictures")
    if obstacle := ssim_obstacle(prediction.shape[-2], prediction.shape[-1]):
        raise ValueError(obstacle)
    if prediction.shape[0] == 0:
        return prediction.new_zeros(0)
    # torchmetrics squeezes a batch of one to a scalar
    value = structural_similarity_index_measure(prediction, truth, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.reshape(prediction.shape[0])


def ssim_obstacle(height: int, width: int) -> str | None:
    """Return why SSIM is not defined for pictures of this size, or None where it is."""
    if min(height, width) >= SSIM_WINDOW:
        return None
    return (
        f"SSIM needs pictures of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels (its window); these are {width}x{height}"
    )


def _alike(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    exact = torch.float64 if torch.float64 in (prediction.dtype, truth.dtype) else torch.float32
    return prediction.to(exact), truth.to(exact)
