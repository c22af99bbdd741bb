"""Dynamic hypernetwork (HyperFields, section 4.3): each layer is written for the token and for what it will read."""

from __future__ import annotations

import itertools
import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TensorSpec
from hyperkit.hypernets.base import state_key
from hyperkit.randomness import torch_rng
from hyperkit.targets.skip_field import SkipField


class DynamicConfig(PartConfig):
    """How a sentence's tokens become the weights of a field.

    Attributes:
        blocks: of the transformer.
        heads: attention heads of each block.
        head_width: of each head; the transformer and the conditioning token are ``heads * head_width`` wide.
        hidden: width of the hidden layer of the MLPs that write weights.
        static: write every layer from the conditioning token alone (the ablation "without dynamic hypernetwork").
        probes: points at which activations are taken, the same for all scenes.
        seed: of those points.
        variation: share of the variance of the weights that depends on what they are written from, at the start; the
            rest is a start that all scenes share.
    """

    blocks: int = Field(default=6, ge=1)
    heads: int = Field(default=12, ge=1)
    head_width: int = Field(default=16, ge=1)
    hidden: int = Field(default=192, ge=1)
    static: bool = False
    probes: int = Field(default=1024, ge=1)
    seed: int = 0
    variation: float = Field(default=0.5, gt=0, le=1)

    @property
    def width(self) -> int:
        """Width of the conditioning token."""
        return self.heads * self.head_width


class Dynamic(nn.Module):
    """CT = T(tokens), W_i = MLP_i(CT, mean of a_{i-1}), a_i = relu(a_{i-1} W_i) (HyperFields, eq. 4.2 to 4.5).

    The thesis averages activations over the points of the minibatch, which makes the field depend on how its rays are
    batched. Here they are taken at ``probes`` fixed points of the unit sphere: a field is a function of its sentence,
    generated once, and rendered in any pieces. a_{i-1} is what layer i multiplies, with the skips and after the ReLU.
    Its gradient is stopped, and it passes an adaptive instance norm; see ``adaptive_mean``.

    The target's other tensors, the table of its grids, are learned here and shared by all scenes.

    Args:
        config: see ``DynamicConfig``.
        target: the field, which is evaluated at the probe points while it is generated.
        text_width: D of the tokens.

    Attributes:
        probes: (1, N, 3), a buffer that checkpoints hold.
        conditioning: (1, 1, C), learned: the place of the sequence at which CT is read.
    """

    probes: Tensor

    def __init__(self, config: DynamicConfig, target: SkipField, text_width: int) -> None:
        super().__init__()
        self.config, self.target, self.spec = config, target, target.spec
        width = config.width
        # small: what is read there is to come from the sentence (twice the variance between sentences that 1 leaves)
        self.conditioning = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.project = nn.Linear(text_width, width)
        self.blocks = nn.ModuleList(
            # drawn one by one: nn.TransformerEncoder copies the first into all places
            nn.TransformerEncoderLayer(
                width, config.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.writers = nn.ModuleList()
        self.base = nn.ParameterDict()
        for name, tensor in target.spec.tensors.items():
            if tensor.shared:
                self.base[state_key(name)] = nn.Parameter(torch.empty(tensor.shape).uniform_(*_range(tensor)))
            else:
                channels = 0 if config.static or not self.writers else tensor.shape[0]
                self.writers.append(LayerWriter(width, channels, tensor, config.hidden, config.variation))
        self.register_buffer("probes", probe_points(config.probes, config.seed)[None])

    def condition(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the conditioning token CT (B, C) of the tokens (B, T, D) of B sentences.

        Args:
            mask: (B, T) bool, False where a sentence is padded; such tokens change nothing.
        """
        sequence = torch.cat((self.conditioning.expand(len(tokens), -1, -1), self.project(tokens)), dim=1)
        padded = None if mask is None else F.pad(~mask, (1, 0), value=False)
        for block in self.blocks:
            sequence = block(sequence, src_key_padding_mask=padded)
        token: Tensor = self.norm(sequence[:, 0])
        return token

    def generate(self, tokens: Tensor, mask: Tensor | None = None) -> TargetParams:
        """Write one field for each sentence, in the parameters' own precision whatever autocast surrounds it.

        Args:
            tokens: (B, T, D).
            mask: see ``condition``.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            token = self.condition(tokens.to(self.conditioning.dtype), mask)
            weights = self._static(token) if self.config.static else self._dynamic(token)
        written = iter(weights)
        tensors = {
            name: self.base[state_key(name)][None] if tensor.shared else next(written)
            for name, tensor in self.spec.tensors.items()
        }
        return TargetParams(tensors, self.spec)

    def _static(self, token: Tensor) -> list[Tensor]:
        return [writer(token) for writer in self.writers]

    def _dynamic(self, token: Tensor) -> list[Tensor]:
        weights: list[Tensor] = []

        def write(index: int, read: Tensor) -> Tensor:
            weights.append(self.writers[index](token, read if index else None))
            return weights[-1].detach()  # so that nothing of the probe points is kept for the backward pass

        self.target.evaluate(self.target.inputs(self.base["table"][None].detach(), self.probes), write)
        return weights

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by role: tokens, heads (all that makes weights of a sentence), base (the table)."""
        makers = (self.project, self.blocks, self.norm, self.writers)
        return {
            "tokens": [self.conditioning],
            "heads": list(itertools.chain.from_iterable(maker.parameters() for maker in makers)),
            "base": list(self.base.parameters()),
        }


class LayerWriter(nn.Module):
    """W = MLP([CT, mean of the activation]), an MLP with one hidden layer and ReLU (HyperFields, eq. 4.5).

    Weights start with the variance of the layer's own uniform start: ``variation`` of it from the hidden layer, the
    rest from the bias.

    Args:
        width: C of the conditioning token.
        channels: I of the activation that is read beside it; 0: none.
        tensor: the weight that is written, (I, O).
        hidden: width of the hidden layer.
        variation: see ``DynamicConfig``.
    """

    def __init__(self, width: int, channels: int, tensor: TensorSpec, hidden: int, variation: float) -> None:
        super().__init__()
        self.shape = tensor.shape
        self.affine = nn.Linear(width, 2 * channels) if channels else None
        self.hidden = nn.Linear(width + channels, hidden)
        self.out = nn.Linear(hidden, tensor.numel)
        _, bound = _range(tensor)
        # CT comes from a LayerNorm: its mean square is 1, and that of the hidden values after the ReLU then too
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.zeros_(self.hidden.bias)
        nn.init.normal_(self.out.weight, std=bound * math.sqrt(variation / (3 * hidden)))
        nn.init.uniform_(self.out.bias, -bound * math.sqrt(1 - variation), bound * math.sqrt(1 - variation))
        if self.affine is not None:  # scale 1, shift 0
            nn.init.zeros_(self.affine.weight)
            nn.init.zeros_(self.affine.bias)

    def forward(self, token: Tensor, activation: Tensor | None = None) -> Tensor:
        """Write the weight (B, I, O) for a token (B, C) and an activation (B, N, I), whose gradient is stopped."""
        if self.affine is not None and activation is not None:
            scale, shift = self.affine(token).chunk(2, dim=-1)
            token = torch.cat((token, adaptive_mean(activation.detach(), 1 + scale, shift)), dim=-1)
        weight: Tensor = self.out(torch.relu(self.hidden(token)))
        return weight.unflatten(-1, self.shape)


def adaptive_mean(activation: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the mean over points of the adaptive instance norm of activations (B, N, I) -> (B, I).

    At each point the channels are brought to mean 0 and variance 1, then scaled and shifted by (B, I). The norm runs
    over channels: over points it would make the mean over points 0 in every channel, and what is returned the shift,
    a function of the token alone, so that nothing of the activations would be left.
    """
    normal = F.layer_norm(activation, activation.shape[-1:])
    return scale * normal.mean(1) + shift  # the same as the mean of scale * normal + shift


def probe_points(count: int, seed: int) -> Tensor:
    """Draw points (count, 3) evenly in the unit sphere, float32."""
    rng = torch_rng(seed, "probe points")
    direction = F.normalize(torch.randn(count, 3, generator=rng, dtype=torch.float64), dim=-1)
    radius = torch.rand(count, 1, generator=rng, dtype=torch.float64) ** (1 / 3)
    return (direction * radius).float()


def _range(tensor: TensorSpec) -> tuple[float, float]:
    bound = 1 / math.sqrt(tensor.shape[0]) if tensor.bound is None else tensor.bound
    return -bound, bound
