"""Frozen picture encoders whose patch features are distilled into something else."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from hyperkit.backbones.base import Backbone
from hyperkit.backbones.build import build_backbone, require_weights
from hyperkit.backbones.catalog import NAMED, find_entry, is_outside
from hyperkit.backbones.config import BackboneConfig
from hyperkit.config import PartConfig
from hyperkit.errors import HyperkitError
from hyperkit.files import sha256_of

NONE = "none"


class FeaturesConfig(PartConfig):
    """Whose patch features are distilled.

    Attributes:
        name: a picture backbone with pretrained weights; ``none``: no features.
        weights: a file of weights to use in place of the named ones.
        image_size: pictures are resized to this many pixels a side for it; None: the size that its weights were made
            for.
        dims: F, number of principal components of its features.
    """

    name: str = NONE
    weights: str | None = None
    image_size: int | None = Field(default=None, ge=1)
    dims: int = Field(default=16, ge=3, le=1024)

    @property
    def wanted(self) -> bool:
        """Whether there are any."""
        return self.name != NONE


class PatchEncoder:
    """Pictures in, features of their patches out; it is built when it is first needed.

    Args:
        config: which encoder.
        device: where it computes.
    """

    def __init__(self, config: FeaturesConfig, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, device

    @staticmethod
    def check(config: FeaturesConfig) -> None:
        """Refuse an encoder that reads no pictures or has no pretrained weights; nothing is looked for.

        Raises:
            HyperkitError: it is one; those that could be had are named.
        """
        if not config.wanted:
            if config.weights is not None:
                raise HyperkitError(
                    f"features.weights={config.weights} is given, and nothing says which encoder they are of.",
                    "Name it with --features NAME.",
                )
            return
        entry = find_entry(config.name)
        fitting = ", ".join(name for name, known in NAMED.items() if known.pretrained and known.modality == "picture")
        if entry.modality != "picture":
            raise HyperkitError(
                f"--features {config.name}: this backbone reads {entry.modality}s, not pictures.",
                f"Allowed: none, {fitting}.",
            )
        if not entry.pretrained and config.weights is None:
            raise HyperkitError(
                f"--features {config.name}: this backbone has no pretrained weights, and features of fresh ones mean "
                "nothing.",
                f"Give a file of them with --set features.weights=FILE, or choose one that has: {fitting}.",
            )

    def require(self) -> Path | None:
        """Find (or fetch) the weights.

        Raises:
            HyperkitError: they cannot be had; raised within seconds.
        """
        try:
            return require_weights(self._settings)
        except HyperkitError as error:
            # the same ways to get them, but for the option that gives a file
            hint = None if error.hint is None else error.hint.replace("--weights FILE", "--set features.weights=FILE")
            raise type(error)(f"--features {self.config.name}: {error.what}", hint) from error

    @cached_property
    def key(self) -> str:
        """Hash of all that the features depend on."""
        file = self.require()
        weights = sha256_of(file) if file is not None else self._backbone.info.weights_sha256
        plain = (self.config.name, f"{self.config.image_size}", f"{weights}")
        return hashlib.sha256("\n".join(plain).encode()).hexdigest()

    @cached_property
    def _backbone(self) -> Backbone:
        if not is_outside(find_entry(self.config.name)):
            self.require()
        with torch.random.fork_rng(devices=()):  # what is overwritten would take numbers from a training step
            backbone = build_backbone(self._settings)
        return backbone.eval().requires_grad_(False).to(self.device)

    @property
    def _settings(self) -> BackboneConfig:
        size = {"image_size": self.config.image_size, "resize": "resize"}
        return BackboneConfig(name=self.config.name, weights=self.config.weights, strategy="frozen", **size)  # type: ignore[arg-type]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the features of the patches, after the final norm, (N, rows, columns, D) float32.

        Args:
            pictures: (N, 3, H, W) in [0, 1]; resized to the encoder's size.
        """
        backbone = self._backbone
        layout = backbone.token_layout(*pictures.shape[-2:])
        # in float32 also where they are first asked for in the middle of a training step
        with torch.autocast(torch.device(self.device).type, enabled=False):
            tokens = backbone.features(pictures[:, None].to(self.device))[:, layout.prefix :]
        return tokens.unflatten(1, (layout.rows, layout.columns)).float()
