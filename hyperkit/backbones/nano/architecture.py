"""The network itself, its features, and the file that it is stored in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from hyperkit.backbones.catalog import NAMED
from hyperkit.backbones.config import BackboneConfig
from hyperkit.backbones.timm_vit import TimmBackbone, build_timm
from hyperkit.config import PartConfig
from hyperkit.files import atomic_path

LARGEST = 12 * 10**6
"""Bytes that a stored network may have, so that it can come with the package."""


class NanoConfig(PartConfig):
    """Sizes of the network. As they are: 1.4 M parameters, 2.8 MB; with a depth of 11 4.9 M and 9.9 MB.

    Attributes:
        size: pixels a side of the pictures that its positions are made for.
        patch: pixels a side of a patch.
        width: of the tokens.
        depth: blocks.
        heads: of each block's attention.
    """

    size: int = Field(default=64, ge=8)
    patch: int = Field(default=8, ge=1)
    width: int = Field(default=192, ge=8)
    depth: int = Field(default=3, ge=1)
    heads: int = Field(default=3, ge=1)


def build_nano(config: NanoConfig) -> TimmBackbone:
    """Build the network with fresh weights, drawn from torch's global generator: timm's ``VisionTransformer``."""
    options = {
        "img_size": config.size,
        "patch_size": config.patch,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
    }
    entry = replace(NAMED["nano"], options=options)
    backbone = build_timm(BackboneConfig(name="nano", strategy="random"), entry)
    backbone.set_strategy("random")
    return backbone


def class_features(backbone: TimmBackbone, pictures: Tensor) -> Tensor:
    """Return the class tokens (B, D) of pictures (B, 3, H, W) after the final norm."""
    tokens = backbone.tokenize(pictures[:, None])
    # the last block computes the outputs of the tokens that come last alone; their order is nothing to attention
    return backbone.encode(tokens[:, 1:], tokens[:, :1])[:, 0]


def mean_features(backbone: TimmBackbone, pictures: Tensor) -> Tensor:
    """Return the means (B, D) of the patch tokens of pictures (B, 3, H, W) after the final norm."""
    return backbone.features(pictures[:, None])[:, backbone.prefix_tokens :].mean(1)


def stored_bytes(backbone: TimmBackbone) -> int:
    """Return how many bytes the tensors of ``save_nano`` take."""
    return sum(value.numel() * torch.float16.itemsize for value in backbone.trunk.state_dict().values())


def save_nano(path: str | Path, backbone: TimmBackbone, about: Mapping[str, str]) -> None:
    """Store the weights as float16, under timm's names, so that ``--weights FILE`` reads them.

    Args:
        path: the file, ``.safetensors``.
        backbone: the network.
        about: how it was made, kept in the file as JSON under "hyperkit". The same content gives the same bytes.

    Raises:
        ValueError: the file would be larger than ``LARGEST``.
        RunFailed: the disk is full or the place cannot be written.
    """
    if (size := stored_bytes(backbone)) > LARGEST:
        raise ValueError(f"the network takes {size} bytes as {torch.float16}, more than {LARGEST}")
    tensors = {name: value.detach().half().cpu().contiguous() for name, value in backbone.trunk.state_dict().items()}
    with atomic_path(path) as temporary:
        # one entry, for several would be written in an order that changes from one process to the next
        save_file(tensors, temporary, metadata={"hyperkit": json.dumps(dict(about))})
