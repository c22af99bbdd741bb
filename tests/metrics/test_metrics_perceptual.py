"""LPIPS and FID, run for real on random weights, against the libraries' own and closed forms."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperkit.metrics import weights
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.perceptual import LPIPS, InceptionFeatures, frechet_distance


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def frechet_float64(real: np.ndarray, generated: np.ndarray) -> float:
    """The definition, with the symmetric form of the matrix root: tr (A^1/2 B A^1/2)^1/2."""
    a, b = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    return float(((real.mean(0) - generated.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross)


def test_lpips_equals_the_lpips_package(random_weights: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package still uses torchvision's old arguments
        import lpips

        original = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    alexnet = torch.load(random_weights / weights.FILES["lpips"].name)
    original.net.load_state_dict({k: alexnet[f"features.{k.split('.', 1)[1]}"] for k in original.net.state_dict()})
    first, second = pictures(3, 3, 64, 64), pictures(3, 3, 64, 64, seed=1)
    ours = LPIPS()(first, second)
    with torch.no_grad():
        theirs = original(first, second, normalize=True).flatten()
    assert ours.min() > 0.001
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=0)


def test_lpips_is_a_distance_of_each_item_by_itself(random_weights: Path) -> None:
    metric = LPIPS()
    first, second = pictures(3, 3, 40, 31), pictures(3, 3, 40, 31, seed=1)
    assert metric(first, first).tolist() == [0.0, 0.0, 0.0]
    both = metric(first, second)
    assert torch.allclose(both, metric(second, first), rtol=1e-5, atol=0)
    assert metric(first[1:2], second[1:2]).item() == pytest.approx(both[1].item(), rel=1e-4)
    assert metric(first[:0], second[:0]).shape == (0,)
    with pytest.raises(ValueError, match="at least 31x31"):
        metric(first[..., :30], second[..., :30])


def test_lpips_clamps_as_a_display_would(random_weights: Path) -> None:
    metric = LPIPS()
    truth = pictures(1, 3, 32, 32)
    assert metric(truth * 4 - 1, truth) == metric((truth * 4 - 1).clamp(0, 1), truth) > 0


def test_loading_leaves_the_global_random_state_alone(random_weights: Path) -> None:
    before = torch.get_rng_state()
    LPIPS()
    InceptionFeatures((64,))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("items", "features"), [(40, 6), (5, 12)])
def test_frechet_distance_equals_its_definition_in_float64(items: int, features: int) -> None:
    """Both where covariances are regular and where they are singular. Worst relative difference seen: 3e-8."""
    generator = np.random.default_rng(0)
    mix = generator.normal(size=(features, features))
    real = generator.normal(size=(items, features)) @ mix + 3
    generated = generator.normal(size=(items + 2, features)) * 1.5 + 2.5
    ours = frechet_distance(torch.from_numpy(real), torch.from_numpy(generated))
    assert ours == pytest.approx(frechet_float64(real, generated), rel=1e-6)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    """Scaling by s and shifting by t changes N(m, C) to a distance |t + (s-1) m|^2 + (s-1)^2 tr C, exactly."""
    real = pictures(50, 8).double()
    shift, scale = 0.25, 1.5
    expected = ((scale - 1) * real.mean(0) + shift).square().sum() + (scale - 1) ** 2 * torch.cov(real.T).trace()
    assert frechet_distance(real, real * scale + shift) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_of_equal_sets_is_zero_and_bad_sets_are_refused() -> None:
    real = pictures(9, 4)
    assert frechet_distance(real, real.flip(0)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least 2 items"):
        frechet_distance(real, real[:1])
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(real, torch.full_like(real, torch.nan))


def test_fid_equals_torchmetrics(random_weights: Path) -> None:
    """Our one pass for both layers, per group, against torchmetrics' own class with its own network."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, generated = pictures(4, 3, 24, 24), pictures(4, 3, 24, 24, seed=1) ** 2
    ours = ImageMetrics(names=("fid_64", "fid_2048"))
    classes = ("a", "b", "b", "a")
    for start in (0, 2):
        part = slice(start, start + 2)
        ours.update(generated[part], real[part], ids=["x", "y"], classes=classes[part])
    values = ours.distribution()
    path = str(random_weights / weights.FILES["fid"].name)
    theirs = FrechetInceptionDistance(feature=64, normalize=True, feature_extractor_weights_path=path)
    for label, index in {"all": [0, 1, 2, 3], "a": [0, 3], "b": [1, 2]}.items():
        theirs.reset()
        theirs.update(real[index], real=True)
        theirs.update(generated[index], real=False)
        # torchmetrics returns float32, and its sums of squares lose digits; worst seen 1e-5
        assert values["fid_64"][label] == pytest.approx(theirs.compute().item(), rel=1e-3)
    assert values["fid_2048"]["all"] != pytest.approx(values["fid_64"]["all"], rel=0.1)
    assert "as few as 2 items" in ours.notes["fid_64"]


def test_fid_of_the_same_pictures_is_zero(random_weights: Path) -> None:
    real = pictures(3, 3, 16, 16)
    metrics = ImageMetrics(names=("fid_64",))
    metrics.update(real, real, ids=["a", "b", "c"])
    assert metrics.distribution() == {"fid_64": {"all": pytest.approx(0, abs=1e-8)}}
