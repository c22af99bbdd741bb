"""How well scenes match what they were generated from: retrieval among a support set, CLIP's features, and KID.

B (HyperFields), Table 4.1 gives CLIP retrieval scores, Table 4.3 CLIP precision and recall, and KID.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperkit.errors import HyperkitError
from hyperkit.metrics.weights import MetricUnavailableError

TOP = (1, 3, 5, 10)
CLIP_COMMAND = "hyperkit prepare backbone clip"
_CHUNK = 32


def ranks(similarity: Tensor, own: Tensor) -> Tensor:
    """Return the rank of each query's own item, 1 for the most similar one.

    Ties count against the query: an item that is as similar as the own one stands before it. So do items whose
    similarity is not a number; and where the own one's is not, its rank is S + 1.

    Args:
        similarity: (Q, S), higher for more similar.
        own: (Q,) indices of the own items.

    Returns:
        (Q,) int64.

    Raises:
        ValueError: shapes do not match, or there is no such item.
    """
    if similarity.ndim != 2 or own.shape != similarity.shape[:1]:
        raise ValueError(f"expected similarity (Q, S) and own (Q,), got {tuple(similarity.shape)}, {tuple(own.shape)}")
    if own.numel() and not 0 <= int(own.min()) <= int(own.max()) < similarity.shape[1]:
        raise ValueError(f"own items must be in 0 ... {similarity.shape[1] - 1}")
    mine = similarity.gather(1, own[:, None])
    before = ~(similarity < mine)  # holds where anything is not a number, and for the own item itself
    return before.sum(1) + mine[:, 0].isnan()


def retrieval(similarity: Tensor, own: Tensor, top: Sequence[int] = TOP) -> dict[int, float]:
    """Return k -> the share of queries whose own item is among the k most similar ones (B, Table 4.1).

    Ties count as in ``ranks``. With similarities that are all alike nothing is retrieved, and by chance k / S is. A k
    of S or more, which all would reach, is left out.

    Args:
        similarity: (Q, S), higher for more similar.
        own: (Q,) indices of the own items.
        top: which k.

    Raises:
        ValueError: shapes do not match, there is no such item, or there are no queries.
    """
    if own.numel() == 0:
        raise ValueError("there are no queries")
    found = ranks(similarity, own)
    return {k: float((found <= k).double().mean()) for k in top if k < similarity.shape[1]}


def psnr_similarity(queries: Tensor, support: Tensor) -> Tensor:
    """Return the PSNR of each query scene against each support scene, over N views of both from the same cameras.

    The squared error is averaged over all views before the logarithm, so that one view that is met exactly does not
    outweigh the others. Equal scenes give ``inf``.

    Args:
        queries: (Q, N, 3, H, W) in [0, 1].
        support: (S, N, 3, H, W) in [0, 1].

    Returns:
        (Q, S) in dB, float64.

    Raises:
        ValueError: the scenes have other views.
    """
    if queries.ndim != 5 or queries.shape[1:] != support.shape[1:]:
        raise ValueError(
            f"expected (Q, N, 3, H, W) and (S, N, 3, H, W): {tuple(queries.shape)}, {tuple(support.shape)}"
        )
    error = torch.zeros(len(queries), len(support), dtype=torch.float64)
    for view in range(queries.shape[1]):
        known = support[:, view].float()
        for index, picture in enumerate(queries[:, view].float()):
            error[index] += (known - picture).square().flatten(1).mean(1).cpu()
    return -10 * torch.log10(error / queries.shape[1])


def embedding_similarity(queries: Tensor, support: Tensor) -> Tensor:
    """Return the cosine of each query's mean feature and each support item's.

    The N views of a scene are taken together as the mean of their features of length 1; a sentence is a query with
    one. The paper does not say how it takes several views together.

    Args:
        queries: (Q, N, E), support: (S, M, E), of ``ClipFeatures``.

    Returns:
        (Q, S) in [-1, 1], float64.
    """
    first, second = (F.normalize(F.normalize(x.double(), dim=-1).mean(1), dim=-1) for x in (queries, support))
    return first @ second.T


def precision_recall(similarity: Tensor, relevant: Tensor, k: int = 3) -> tuple[float, float]:
    """Return the mean precision and recall of retrieving the k most similar items (B, Table 4.3, with k = 3).

    A query is a sentence, and relevant are the views of its scene among the views of all scenes. Precision is the share
    of the k that are relevant, recall the share of the relevant ones that are among the k; with R relevant ones it is
    at most k / R. Ties, and similarities that are not numbers, count against the query. The paper says only that it
    retrieves the 3 nearest neighbours; its two values are not those of any one number of views per scene.

    Args:
        similarity: (Q, S), higher for more similar.
        relevant: (Q, S) bool.
        k: at most S.

    Raises:
        ValueError: shapes differ, k is none of 1 ... S, or a query has nothing that is relevant.
    """
    if similarity.ndim != 2 or similarity.shape != relevant.shape or not 1 <= k <= similarity.shape[1]:
        raise ValueError(f"expected two (Q, S), k in 1 ... S: {tuple(similarity.shape)}, {tuple(relevant.shape)}, {k}")
    if not bool(relevant.any(1).all()) or relevant.shape[0] == 0:
        raise ValueError("each query needs something relevant")
    values = similarity.double()
    # what is not a number stands last if it is relevant, else first
    values = torch.where(values.isnan(), torch.where(relevant, -torch.inf, torch.inf), values)
    order = relevant.long().argsort(dim=1, stable=True)  # what is not relevant first, and so before its equals
    order = order.gather(1, values.gather(1, order).argsort(dim=1, descending=True, stable=True))
    hits = relevant.gather(1, order[:, :k]).sum(1).double()
    return float((hits / k).mean()), float((hits / relevant.sum(1)).mean())


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """Return KID (Binkowski et al. 2018): the squared maximum mean discrepancy of two sets of Inception features.

    ``k(x, y) = (x y / D + 1)^3``, unbiased, so that it may come out below 0 for sets that are alike. It is taken once
    over all items by torchmetrics' functions, in float64, not as a mean over random subsets.

    Args:
        real, generated: (N, D), of ``hyperkit.metrics.perceptual.InceptionFeatures`` with 2048 features.

    Raises:
        ValueError: fewer than two rows, sets of different sizes, or values that are not finite.
    """
    from torchmetrics.image.kid import poly_mmd

    if real.shape != generated.shape or real.ndim != 2 or real.shape[0] < 2:
        raise ValueError(f"needs two sets of as many features, got {tuple(real.shape)} and {tuple(generated.shape)}")
    if not bool(torch.isfinite(real).all() and torch.isfinite(generated).all()):
        raise ValueError("some features are not finite")
    return float(poly_mmd(real.double(), generated.double()))


class ClipFeatures:
    """CLIP's features of pictures and of sentences in their common space, by open_clip (the backbone called clip).

    Args:
        device: where the network runs.

    Attributes:
        weights: what a table says of them: file, SHA-256, licence, network.

    Raises:
        MetricUnavailableError: the weights are not in a cache; it comes at once, with the command that gets them.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        from hyperkit.backbones.catalog import find_entry
        from hyperkit.backbones.hub import cached_weights
        from hyperkit.backbones.weights import load_checked, read_state_dict
        from hyperkit.files import sha256_of

        entry = find_entry("clip")
        try:
            file = cached_weights(entry)
        except HyperkitError as error:
            raise MetricUnavailableError(f"{error.what} Delete it, then run: {CLIP_COMMAND}") from error
        if file is None:
            raise MetricUnavailableError(f"the weights of {entry.source} are not in the cache; run: {CLIP_COMMAND}")
        import open_clip

        with torch.random.fork_rng(devices=[]):  # the random start is overwritten: do not move the global state
            self._net = open_clip.CLIP(**open_clip.get_model_config(entry.model))
        load_checked(self._net, read_state_dict(file), str(file))
        self._net.to(device).eval().requires_grad_(False)
        self._tokenizer = open_clip.get_tokenizer(entry.model)
        self._device = torch.device(device)
        self.weights = {
            "file": file.name,
            "sha256": sha256_of(file),
            "licence": entry.license or "",
            "network": entry.source,
        }

    @torch.no_grad()
    def pictures(self, pictures: Tensor) -> Tensor:
        """Return the features of pictures, of length 1.

        The largest square in the middle is resized to what the network wants (bicubic, anti-aliased) and normalised.

        Args:
            pictures: (B, 3, H, W) in [0, 1], clamped.

        Returns:
            (B, E) float32 on the CPU.
        """
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        mean, deviation = (
            torch.tensor(x, device=self._device).view(3, 1, 1) for x in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        )
        features = []
        for part in pictures.split(_CHUNK):
            side, (height, width) = min(part.shape[-2:]), part.shape[-2:]
            top, left = (height - side) // 2, (width - side) // 2
            part = part[..., top : top + side, left : left + side].to(self._device, torch.float32).clamp(0, 1)
            part = F.interpolate(part, self._net.visual.image_size, mode="bicubic", antialias=True, align_corners=False)
            part = (part.clamp(0, 1) - mean) / deviation
            features.append(self._net.encode_image(part, normalize=True).float().cpu())
        return torch.cat(features)

    @torch.no_grad()
    def sentences(self, sentences: Sequence[str]) -> Tensor:
        """Return the features (B, E) of sentences, of length 1, float32 on the CPU; long ones are cut by open_clip."""
        ids = self._tokenizer(list(sentences)).to(self._device)
        features: Tensor = self._net.encode_text(ids, normalize=True)
        return features.float().cpu()
