"""Patch features of a picture encoder over a data set's views: reduced by PCA, kept in the cache, read between patches.

As in N3F (Tschernezki et al. 2022) and DFF (Kobayashi et al. 2022) they are what a field is taught beside its colours.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.data.builtin import made_once
from hyperkit.data.pixels import PixelReader
from hyperkit.data.places import new_folder
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import cache_dir

log = logging.getLogger("hyperkit")

VERSION = 1
FITTED = 1024
"""Views that the components are fitted on, spread evenly over those that are trained on: more change nothing."""
AT_ONCE = 16
"""Pictures that the encoder sees at once."""
Progress = Callable[[int, int], None]


class Encoder(Protocol):
    """What gives features of pictures."""

    @property
    def key(self) -> str:
        """Hash of all that its features depend on, its weights among it."""
        ...

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the features (N, rows, columns, D) of the patches of pictures (N, 3, H, W) in [0, 1]."""
        ...


@dataclass(frozen=True)
class Basis:
    """Principal components of features.

    Attributes:
        mean: (D,) float32.
        components: (D, F) float32, orthogonal, of one length: such that the features that they were fitted on have the
            variance 1 along them on average.
    """

    mean: Tensor
    components: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Return features (..., D) along the components, (..., F)."""
        return (features - self.mean.to(features)) @ self.components.to(features)


class FeatureBasis(nn.Module):
    """The basis of a model's features, as part of its state, so that a checkpoint goes on with the same one.

    Attributes:
        value: None until it is fitted or loaded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.value: Basis | None = None

    def get_extra_state(self) -> Tensor:
        """Return the basis as bytes, which no average of weights takes for numbers; none before it is fitted."""
        return torch.empty(0, dtype=torch.uint8) if self.value is None else _to_bytes(self.value)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the basis over from a checkpoint."""
        self.value = _from_bytes(state) if state.numel() else None


def _to_bytes(basis: Basis) -> Tensor:
    buffer = io.BytesIO()
    np.save(buffer, torch.cat((basis.mean[:, None], basis.components), dim=1).numpy(), allow_pickle=False)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _from_bytes(state: Tensor) -> Basis:
    joined = torch.from_numpy(np.load(io.BytesIO(state.cpu().numpy().tobytes()), allow_pickle=False))
    return Basis(joined[:, 0].clone(), joined[:, 1:].clone())


def fit_basis(batches: Iterable[tuple[Tensor, Tensor]], dims: int) -> tuple[Basis, float]:
    """Fit principal components to weighted features, in float64.

    Args:
        batches: features (..., D) with their weights (...).
        dims: F, number of components.

    Returns:
        The basis, each component's largest entry positive; and the share of the variance that it holds.

    Raises:
        HyperkitError: there are fewer than ``dims`` features, or all weights are 0.
    """
    total, first, second = 0.0, torch.zeros(()), torch.zeros(())
    for features, weights in batches:
        flat, own = features.reshape(-1, features.shape[-1]).double(), weights.reshape(-1, 1).double()
        total, first, second = total + float(own.sum()), first + (own * flat).sum(0), second + flat.T @ (own * flat)
    if not total:
        raise HyperkitError("No view shows an object, so that there are no features to learn.", "Look at the labels.")
    if dims > len(first):
        raise HyperkitError(
            f"features.dims={dims} components were asked for, and the encoder gives {len(first)} features.",
            f"Choose at most {len(first)}.",
        )
    mean = first / total
    values, vectors = torch.linalg.eigh(second / total - mean.outer(mean))
    kept, components = values[-dims:].flip(0).clamp_min(0), vectors[:, -dims:].flip(1)
    largest = components.gather(0, components.abs().argmax(0, keepdim=True))
    scale = kept.mean().clamp_min(1e-12).sqrt()
    share = float(kept.sum() / values.clamp_min(0).sum().clamp_min(1e-12))
    return Basis(mean.float(), (components * largest.sign() / scale).float()), share


class FeatureMaps:
    """Reduced features of some views of a data set.

    Args:
        maps: (M, rows, columns, F), a grid of patches of each view.
        views: (M,) rows of the pack, in order.
        size: S, width and height of the pictures.
    """

    def __init__(self, maps: np.ndarray, views: np.ndarray, size: int) -> None:
        self.maps, self.views, self.size = maps, views, size

    @property
    def dims(self) -> int:
        """F, number of features."""
        return int(self.maps.shape[-1])

    def read(self, views: np.ndarray, pixels: np.ndarray) -> Tensor:
        """Return the features at the middles of pixels, bilinear between the middles of patches, (B, R, F) float32.

        Args:
            views: (B,) rows of the pack.
            pixels: (B, R), row * S + column.

        Raises:
            ValueError: a view is not among those that the maps are of.
        """
        place = np.searchsorted(self.views, views).clip(max=len(self.views) - 1)
        if (self.views[place] != views).any():
            raise ValueError("a view was asked for that has no features")
        height, width = self.maps.shape[1:3]
        y, x = np.divmod(pixels, self.size)
        (top, bottom, down), (left, right, along) = _between(y, self.size, height), _between(x, self.size, width)
        one, own = np.asarray(self.maps), place[:, None]
        upper = _mix(one[own, top, left], one[own, top, right], along)
        lower = _mix(one[own, bottom, left], one[own, bottom, right], along)
        return torch.from_numpy(_mix(upper, lower, down))


def _between(pixel: np.ndarray, size: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the patches before and after the middles of pixels, and how far between their middles these lie."""
    at = ((pixel + 0.5) * (count / size) - 0.5).clip(0, count - 1)
    before = np.floor(at).astype(np.int64)
    return before, np.minimum(before + 1, count - 1), (at - before).astype(np.float32)


def _mix(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    first = one.astype(np.float32)
    return np.asarray(first + share[..., None] * (other.astype(np.float32) - first))


class FeatureStore:
    """Makes the feature maps of views once, and keeps them in the cache.

    Args:
        encoder: gives the features.
        dims: F, number of principal components that are kept of them.
        basis: holds the components; where it is empty they are fitted, on patches as they show an object.
        progress: called with (views done, views in all).
    """

    def __init__(self, encoder: Encoder, dims: int, basis: FeatureBasis, progress: Progress | None = None) -> None:
        self.encoder, self.dims, self.basis, self.progress = encoder, dims, basis, progress

    @torch.autocast("cpu", enabled=False)  # they may be asked for first in the middle of a training step
    def open(self, reader: PixelReader, labels: np.ndarray, views: np.ndarray, trained: np.ndarray) -> FeatureMaps:
        """Return the maps of some views.

        Args:
            reader: reads the pictures.
            labels: (N, S, S) uint8, 0 for the background.
            views: (M,) rows of the pack.
            trained: rows of the views that are trained on; the components are fitted on them.

        Raises:
            HyperkitError: the encoder's weights are missing or do not fit, or it gives fewer features than ``dims``.
            RunFailed: features are not finite, or the disk is full.
        """
        views = np.unique(views)
        if self.basis.value is None:
            self.basis.value = self._fitted(reader, labels, np.unique(trained))
        key = self._key(reader, views, _to_bytes(self.basis.value).numpy().tobytes())
        folder = made_once(f"features/{key}", lambda root: self._make(root, reader, views))
        return FeatureMaps(np.load(folder / "maps.npy", mmap_mode="r", allow_pickle=False), views, reader.pack.size)

    def _key(self, reader: PixelReader, views: np.ndarray, more: bytes) -> str:
        pack = reader.pack
        plain = (f"{VERSION}", self.encoder.key, pack.fingerprint, f"{pack.size}", reader.background, *pack.ids)
        digest = hashlib.sha256("\n".join(plain).encode())
        digest.update(views.astype(np.int64).tobytes())
        digest.update(more)
        return digest.hexdigest()[:32]

    def _fitted(self, reader: PixelReader, labels: np.ndarray, views: np.ndarray) -> Basis:
        chosen = views[np.linspace(0, len(views) - 1, min(FITTED, len(views))).astype(np.int64)]
        # labels weigh the patches, so that components belong to them as well
        shown = hashlib.sha256(np.asarray(labels[chosen]).tobytes()).digest()
        place = cache_dir() / "features" / self._key(reader, chosen, shown + f"{self.dims}".encode()) / "basis.npy"
        with suppress(OSError, ValueError, EOFError):
            return _from_bytes(torch.frombuffer(bytearray(place.read_bytes()), dtype=torch.uint8))

        def make(root: Path) -> None:
            log.info("finding %d components of the features of %d views", self.dims, len(chosen))
            basis, share = fit_basis(
                (
                    (found, coverage(labels[part], (found.shape[1], found.shape[2])))
                    for part, found in self._encoded(reader, chosen)
                ),
                self.dims,
            )
            log.info("they hold %.0f %% of the variance over the objects", 100 * share)
            with new_folder(root) as part:
                (part / "data").mkdir()
                (part / "data" / "basis.npy").write_bytes(_to_bytes(basis).numpy().tobytes())
                (part / "data").rename(root)

        made_once(f"features/{place.parent.name}", make)
        return _from_bytes(torch.frombuffer(bytearray(place.read_bytes()), dtype=torch.uint8))

    def _make(self, root: Path, reader: PixelReader, views: np.ndarray) -> None:
        log.info("computing the features of %d views in %s", len(views), root)
        assert self.basis.value is not None
        with new_folder(root) as part:
            (part / "data").mkdir()
            maps, done = None, 0
            for chosen, found in self._encoded(reader, views):
                reduced = self.basis.value.project(found).numpy().astype(np.float16)
                if maps is None:
                    path, shape = part / "data" / "maps.npy", (len(views), *reduced.shape[1:])
                    maps = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
                maps[done : done + len(chosen)] = reduced
                done += len(chosen)
            assert maps is not None
            maps.flush()
            (part / "data").rename(root)

    def _encoded(self, reader: PixelReader, views: np.ndarray) -> Iterable[tuple[np.ndarray, Tensor]]:
        for start in range(0, len(views), AT_ONCE):
            part = views[start : start + AT_ONCE]
            found = self.encoder(reader.pictures(part)).float().cpu()
            if not bool(found.isfinite().all()):
                raise RunFailed("The encoder gives features that are not finite.", "Get its weights again.")
            yield part, found
            if self.progress is not None:
                self.progress(start + len(part), len(views))


def coverage(labels: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Return the share of each patch that shows an object, label maps (N, S, S) -> (N, rows, columns)."""
    return F.adaptive_avg_pool2d(torch.from_numpy(np.asarray(labels) > 0).float()[:, None], grid)[:, 0]
