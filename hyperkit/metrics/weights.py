"""The weights of the networks inside LPIPS and FID: which files, from where, and whether they are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hyperkit.files import cache_dir, sha256_of

COMMAND = "hyperkit prepare metrics"


@dataclass(frozen=True)
class WeightFile:
    """One file of pretrained weights.

    Attributes:
        name: its file name, which torchvision and torch-fidelity look for in torch hub's cache.
        url: where it is published.
        sha256: of all its bytes.
        size: in bytes.
        licence: of the weights.
        network: what they are weights of.
    """

    name: str
    url: str
    sha256: str
    size: int
    licence: str
    network: str


FILES: dict[str, WeightFile] = {
    "lpips": WeightFile(
        name="alexnet-owt-7be5be79.pth",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        size=244_408_911,
        licence="BSD-3-Clause (torchvision); trained on ImageNet",
        network="AlexNet, ImageNet-1k; LPIPS's linear layers, version 0.1, come with torchmetrics",
    ),
    "fid": WeightFile(
        name="weights-inception-2015-12-05-6726825d.pth",
        url=(
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth"
        ),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size=95_628_359,
        licence="Apache-2.0 (TensorFlow models); trained on ImageNet",
        network="Inception v3, TensorFlow 2015-12-05",
    ),
}


class MetricUnavailableError(Exception):
    """A metric cannot be computed here; the message says why and which command helps."""


def folders() -> list[Path]:
    """Return where weights are looked for: hyperkit's cache, then torch hub's."""
    return [cache_dir() / "metrics", Path(torch.hub.get_dir()) / "checkpoints"]


def require(metric: str) -> Path:
    """Return the verified file of a metric's network; nothing is downloaded, the answer comes at once.

    Args:
        metric: "lpips" or "fid".

    Raises:
        MetricUnavailableError: there is no such file, or only one whose SHA-256 differs.
    """
    file = FILES[metric]
    damaged = None
    for path in (folder / file.name for folder in folders()):
        if not path.is_file():
            continue
        found = sha256_of(path)
        if found == file.sha256:
            return path
        damaged = damaged or f"{path} is not the published file (its SHA-256 begins with {found[:8]})"
    if damaged:
        raise MetricUnavailableError(f"{damaged}; delete it, then run: {COMMAND}")
    raise MetricUnavailableError(f"the weights {file.name} are not in the cache; run: {COMMAND}")


def record(metric: str) -> dict[str, str]:
    """Return what a table says about the weights of a metric's network: file, hash, licence, network."""
    file = FILES[metric]
    return {"file": file.name, "sha256": file.sha256, "licence": file.licence, "network": file.network}
