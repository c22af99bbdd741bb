"""LPIPS and FID: distances in the features of pretrained networks, through torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperkit.metrics import weights
from hyperkit.metrics.weights import MetricUnavailableError

LPIPS_SMALLEST = 31  # AlexNet's two poolings leave nothing of smaller pictures


class LPIPS:
    """Learned perceptual distance of two pictures (Zhang et al. 2018): AlexNet, version 0.1, torchmetrics' default.

    Args:
        device: where the network runs.

    Raises:
        MetricUnavailableError: AlexNet's ImageNet weights are not in the cache, or torchvision cannot be imported.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        path = weights.require("lpips")
        try:
            # torchmetrics' public class goes to the network for AlexNet; its inner one can be given the file
            from torchmetrics.functional.image.lpips import _NoTrainLpips

            with torch.random.fork_rng(devices=[]):  # the random start is overwritten: do not move the global state
                self.net = _NoTrainLpips(net="alex", pnet_rand=True)
        except (ImportError, RuntimeError) as error:
            raise MetricUnavailableError(f"LPIPS needs torchvision, which cannot be imported: {error}") from error
        alexnet = torch.load(path, map_location="cpu", weights_only=True)
        wanted = {key: f"features.{key.split('.', 1)[1]}" for key in self.net.net.state_dict()}
        self.net.net.load_state_dict({key: alexnet[source] for key, source in wanted.items()})
        self.net.to(device)
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of each picture, 0 for equal ones.

        Args:
            prediction, truth: (B, 3, H, W) in [0, 1], at least 31x31; values beyond are clamped, as a display would.

        Returns:
            (B,) float32.

        Raises:
            ValueError: the pictures are too small, or shapes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
        if obstacle := lpips_obstacle(prediction.shape[-2], prediction.shape[-1]):
            raise ValueError(obstacle)
        if prediction.shape[0] == 0:
            return torch.zeros(0, device=self.device)
        first, second = (x.to(self.device, torch.float32).clamp(0, 1) for x in (prediction, truth))
        value: Tensor = self.net(first, second, normalize=True)
        return value.reshape(-1)


def lpips_obstacle(height: int, width: int) -> str | None:
    """Return why LPIPS is not defined for pictures of this size, or None where it is."""
    if min(height, width) >= LPIPS_SMALLEST:
        return None
    return f"LPIPS needs pictures of at least {LPIPS_SMALLEST}x{LPIPS_SMALLEST} pixels; these are {width}x{height}"


class InceptionFeatures:
    """Inception v3 features of pictures, as torchmetrics' ``FrechetInceptionDistance`` takes them.

    Args:
        layers: numbers of features: 64 (first pooling), 192, 768, 2048 (last pooling). All come from one pass.
        device: where the network runs.

    Raises:
        MetricUnavailableError: the weights are not in the cache, or torch-fidelity is not installed.
    """

    def __init__(self, layers: Sequence[int] = (64, 2048), device: torch.device | str = "cpu") -> None:
        path = weights.require("fid")
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            with torch.random.fork_rng(devices=[]):
                self.net = NoTrainInceptionV3("inception-v3-compat", [str(n) for n in sorted(layers)], str(path))
        except ImportError as error:
            raise MetricUnavailableError(f"FID needs torch-fidelity: {error}") from error
        self.net.to(device)
        self.layers = tuple(sorted(layers))
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> dict[int, Tensor]:
        """Return number of features -> (B, features) float32 on the CPU.

        Args:
            pictures: (B, 3, H, W) in [0, 1], clamped; scaled to 299x299 inside. They become 8-bit by cutting off, not
                rounding, as torchmetrics does with ``normalize=True``.
        """
        if pictures.shape[0] == 0:
            return {layer: torch.zeros(0, layer) for layer in self.layers}
        levels = (pictures.to(self.device, torch.float32).clamp(0, 1) * 255).byte()
        features = self.net._torch_fidelity_forward(levels)
        return {layer: value.float().cpu() for layer, value in zip(self.layers, features, strict=True)}


class _Given(nn.Module):
    """Stands for torchmetrics' feature network where features have been taken already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return the Frechet distance of two sets of features, each taken as a Gaussian (Heusel et al. 2017).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` with unbiased covariances, in float64, by torchmetrics. It is biased
    upwards for few items, and the covariances are singular where items are not more than features.

    Args:
        real, generated: (N1, D) and (N2, D), at least two rows each.

    Raises:
        ValueError: fewer than two rows, or values that are not finite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(real.shape[0], generated.shape[0]) < 2:
        raise ValueError(f"needs at least 2 items in each set, got {real.shape[0]} and {generated.shape[0]}")
    both = torch.cat((real, generated)).double()
    if not torch.isfinite(both).all():
        raise ValueError("some features are not finite")
    both = both - both.mean(0)  # distances do not change, and less is lost in sums of squares
    if both.shape[0] < both.shape[1]:
        # Few items span a small subspace. Rotating it onto the first axes changes no distance and makes the
        # eigenvalue problem as small as the number of items.
        both = both @ torch.linalg.qr(both.T).Q
    metric = FrechetInceptionDistance(feature=_Given(both.shape[1]))
    metric.update(both[: real.shape[0]], real=True)
    metric.update(both[real.shape[0] :], real=False)
    # rounding can leave -1e-12 for equal sets
    return max(float(metric.compute()), 0.0)
