"""PSNR and SSIM against closed forms and scikit-image."""

from __future__ import annotations

import math

import pytest
import torch

from hyperkit.metrics.image import as_pictures, psnr, ssim, ssim_obstacle


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_constant_offset_is_closed_form() -> None:
    truth = noise(3, 3, 8, 8).double()
    offsets = torch.tensor([0.1, 0.01, 0.5], dtype=torch.float64)
    values = psnr(truth + offsets[:, None, None, None], truth)
    assert values.tolist() == pytest.approx([20.0, 40.0, -20 * math.log10(0.5)], abs=1e-9)


def test_psnr_averages_the_error_over_an_item_before_the_logarithm() -> None:
    """One wrong pixel of N, off by 1 in one of 3 channels: mse = 1 / (3 N)."""
    truth = torch.zeros(1, 100, 3)
    prediction = truth.clone()
    prediction[0, 7, 1] = 1.0
    assert psnr(prediction, truth).item() == pytest.approx(10 * math.log10(300), abs=1e-4)


def test_psnr_does_not_depend_on_the_batch() -> None:
    prediction, truth = noise(7, 3, 16, 16), noise(7, 3, 16, 16, seed=1)
    together = psnr(prediction, truth)
    alone = torch.cat([psnr(p[None], t[None]) for p, t in zip(prediction, truth, strict=True)])
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    assert torch.allclose(together, alone, atol=1e-5, rtol=0)
    assert torch.allclose(psnr(prediction[order], truth[order]), together[order], atol=1e-5, rtol=0)


def test_psnr_is_unclamped_and_infinite_for_equal_pictures() -> None:
    truth = noise(2, 3, 4, 4)
    assert torch.isinf(psnr(truth, truth)).all()
    assert psnr(truth + 10, truth).tolist() == pytest.approx([-20.0, -20.0], abs=1e-4)


def test_psnr_of_half_precision_is_taken_in_float32() -> None:
    truth = torch.full((1, 3, 64, 64), 0.5, dtype=torch.bfloat16)
    assert psnr(truth + 0.25, truth).item() == pytest.approx(-20 * math.log10(0.25), abs=1e-5)


def test_as_pictures_is_row_major_from_the_top() -> None:
    height, width = 3, 5
    index = torch.arange(height * width, dtype=torch.float32)
    values = torch.stack((index // width, index % width, index), dim=-1)[None]
    picture = as_pictures(values, (height, width))
    assert picture.shape == (1, 3, height, width)
    assert picture[0, 0].tolist() == [[0.0] * 5, [1.0] * 5, [2.0] * 5]
    assert picture[0, 1].tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]] * 3
    assert picture[0, 2].flatten().tolist() == list(range(15))
    with pytest.raises(ValueError, match="expected values"):
        as_pictures(values, (width, width))


def test_ssim_equals_scikit_image() -> None:
    """With a white margin wider than the window both libraries' border rules give the same: 1 there.

    skimage.metrics with the gaussian window of Wang et al.; worst difference seen 4e-7.
    """
    from skimage.metrics import structural_similarity

    prediction, truth = torch.ones(2, 3, 52, 48), torch.ones(2, 3, 52, 48)
    prediction[:, :, 12:40, 12:36], truth[:, :, 12:40, 12:36] = noise(2, 3, 28, 24), noise(2, 3, 28, 24, seed=1)
    truth = 0.5 * truth + 0.5 * prediction
    ours = ssim(prediction, truth)
    for i in range(2):
        _, full = structural_similarity(
            prediction[i].numpy().astype("float64"),
            truth[i].numpy().astype("float64"),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert ours[i].item() == pytest.approx(full.mean(), abs=2e-6)
    assert (ours < 0.99).all()  # else the comparison would be of margins only


def test_ssim_of_equal_pictures_is_one_for_any_batch() -> None:
    for count in (0, 1, 3):
        picture = noise(count, 3, 16, 11)
        assert ssim(picture, picture).tolist() == pytest.approx([1.0] * count, abs=1e-6)


def test_ssim_says_why_it_refuses_small_pictures() -> None:
    assert ssim_obstacle(11, 11) is None
    with pytest.raises(ValueError, match=r"at least 11x11 pixels .its window.; these are 16x10"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_shapes_that_would_broadcast_are_refused(metric: object) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        metric(torch.zeros(2, 3, 16, 16), torch.zeros(1, 3, 16, 16))  # type: ignore[operator]
