"""A student and its teacher for self-distillation (DINO, Caron et al. 2021)."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperkit.backbones.nano.architecture import NanoConfig, build_nano, class_features
from hyperkit.backbones.timm_vit import TimmBackbone


class ProjectionHead(nn.Module):
    """Three layers with GELU to a bottleneck of length 1, and then cosines to K unit vectors (DINO, appendix C).

    Args:
        width: of what comes in.
        outputs: K.
        hidden: width of the layers between.
        bottleneck: width of the bottleneck.
    """

    def __init__(self, width: int, outputs: int, hidden: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.directions = nn.Parameter(torch.empty(outputs, bottleneck))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            else:
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor, learn_directions: bool = True) -> Tensor:
        """Return logits (..., K) in [-1, 1] of features (..., D), in float32 at least.

        Args:
            features: of crops.
            learn_directions: False keeps the gradient from the K vectors, as DINO does at first.
        """
        directions = self.directions if learn_directions else self.directions.detach()
        narrow = self.layers(features)
        with torch.autocast(narrow.device.type, enabled=False):  # a low temperature makes much of little differences
            wide = torch.promote_types(narrow.dtype, torch.float32)
            return F.linear(F.normalize(narrow.to(wide), dim=-1), F.normalize(directions.to(wide), dim=-1))


class DistilledNano(nn.Module):
    """Two networks with their heads: one is trained, the other is its running mean and starts as its copy.

    Args:
        config: sizes of both networks.
        outputs, hidden, bottleneck: of the heads, see ``ProjectionHead``.

    Attributes:
        centre: (K,), the running mean of the teacher's logits.
    """

    centre: Tensor

    def __init__(self, config: NanoConfig, outputs: int, hidden: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        backbone = build_nano(config)
        head = ProjectionHead(backbone.width, outputs, hidden, bottleneck)
        self.student = nn.ModuleDict({"backbone": backbone, "head": head})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(outputs))

    def forward(self, wide: Tensor, near: Tensor, learn_directions: bool = True) -> tuple[Tensor, Tensor]:
        """Return the logits of both networks.

        Args:
            wide: global crops (B, G, 3, H, W).
            near: local crops (B, L, 3, h, w), which only the student sees; there may be none.
            learn_directions: see ``ProjectionHead``.

        Returns:
            The student's (G + L, B, K), global crops first, and the teacher's (G, B, K), without gradient.
        """
        crops = [part for part in (wide, near) if part.shape[1]]
        features = torch.cat([_features(self.student, part) for part in crops])
        student = self.student["head"](features, learn_directions)
        with torch.no_grad():
            teacher = self.teacher["head"](_features(self.teacher, wide))
        return student, teacher

    @property
    def encoder(self) -> TimmBackbone:
        """The network that is used afterwards, the teacher's."""
        return cast(TimmBackbone, self.teacher["backbone"])

    def features(self, pictures: Tensor) -> Tensor:
        """Return what a picture is judged by, (B, D) for (B, 3, H, W): the teacher's class token."""
        return class_features(self.encoder, pictures)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by role; the teacher's have none, for they are not trained."""
        return {
            role: list(self.student[part].parameters()) for role, part in (("backbone", "backbone"), ("heads", "head"))
        }


def _features(network: nn.ModuleDict, crops: Tensor) -> Tensor:
    """Return the class tokens (G, B, D) of crops (B, G, 3, H, W)."""
    flat = class_features(cast(TimmBackbone, network["backbone"]), crops.transpose(0, 1).flatten(0, 1))
    return flat.unflatten(0, (crops.shape[1], crops.shape[0]))
