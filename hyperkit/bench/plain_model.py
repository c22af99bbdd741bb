"""The baseline of training: a vision transformer and Trans-INR's heads in plain float32 PyTorch.

Separate products for queries, keys and values; attention with its matrix of weights in memory; one head per layer. It
takes over the parameters of a model of the package, so that both compute the same loss, which the tests check.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.bench.plain import RAYS_AT_ONCE, PlainField, PlainSettings, plain_render
from hyperkit.contracts import Rays, Rendered, TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.hypernets.trans_inr import TransINR
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.renderers import RendererConfig


class PlainBlock(nn.Module):
    """One pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        block: a block of timm, whose parameters are copied.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        width = block.attn.proj.weight.shape[0]
        self.heads = block.attn.num_heads
        self.norm1, self.norm2 = (_copy(norm, nn.LayerNorm(width, eps=norm.eps)) for norm in (block.norm1, block.norm2))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        with torch.no_grad():
            parts = zip(block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True)
            for layer, (weight, bias) in zip((self.query, self.key, self.value), parts, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        self.out = _copy(block.attn.proj, nn.Linear(width, width))
        hidden = block.mlp.fc1.weight.shape[0]
        self.up, self.down = (
            _copy(block.mlp.fc1, nn.Linear(width, hidden)),
            _copy(block.mlp.fc2, nn.Linear(hidden, width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n, D) to (B, n, D)."""
        h = self.norm1(x)
        query, key, value = (
            layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        mixed = scores.softmax(dim=-1) @ value
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainTransformer(nn.Module):
    """A vision transformer that reads patches and weight tokens.

    Args:
        backbone: a timm backbone of the package, whose parameters are copied.

    Raises:
        HyperkitError: it is of another kind, or its pictures do not have the size that its positions were made for.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        trunk = getattr(backbone, "trunk", None)
        if trunk is None or not hasattr(trunk, "cls_token") or backbone.prefix_tokens != 1:
            raise HyperkitError(
                f"The baseline has no transformer like the backbone {backbone.info.name!r}.",
                "It knows timm's plain vision transformers, such as random, vit_tiny and nano.",
            )
        self.width, self.size = backbone.width, backbone.info.image_size
        self.layout = backbone.token_layout
        kernel = backbone.info.patch_size
        self.patches = _copy(trunk.patch_embed.proj, nn.Conv2d(3, self.width, kernel, stride=kernel))
        self.first = nn.Parameter(trunk.cls_token.detach().clone())
        self.positions = nn.Parameter(trunk.pos_embed.detach().clone())
        self.blocks = nn.ModuleList(PlainBlock(block) for block in trunk.blocks)
        self.norm = _copy(trunk.norm, nn.LayerNorm(self.width, eps=trunk.norm.eps))
        self.register_buffer("mean", backbone.mean.clone(), persistent=False)
        self.register_buffer("deviation", backbone.deviation.clone(), persistent=False)

    def token_layout(self, height: int, width: int) -> Any:
        """Return where the tokens of one view lie."""
        return self.layout(height, width)

    def tokenize(self, context: Tensor) -> Tensor:
        """Turn pictures (B, 1, 3, H, W) into tokens (B, M, D)."""
        pictures = context[:, 0]
        if tuple(pictures.shape[-2:]) != self.size:
            pictures = F.interpolate(pictures, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        tokens = self.patches((pictures - self.mean) / self.deviation).flatten(2).transpose(1, 2)
        return torch.cat((self.first.expand(len(tokens), -1, -1), tokens), dim=1) + self.positions

    def encode(self, data_tokens: Tensor, weight_tokens: Tensor) -> Tensor:
        """Run the blocks over (B, M, D) and (Q, D); return the outputs at the weight tokens (B, Q, D)."""
        x = torch.cat((data_tokens, weight_tokens.expand(len(data_tokens), -1, -1)), dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, data_tokens.shape[1] :]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return all parameters."""
        return list(self.parameters())

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return none: there are no adapters."""
        return []


class PlainHeads(nn.Module):
    """W = normalize(base * head(LayerNorm(token))), one head per layer of the generated network (P, eq. 2).

    Args:
        hypernet: a Trans-INR of the package, whose parameters are copied.

    Raises:
        HyperkitError: another algorithm.
    """

    def __init__(self, hypernet: Any) -> None:
        super().__init__()
        if not isinstance(hypernet, TransINR):
            raise HyperkitError("The baseline's algorithm is trans-inr.", "Choose --algorithm trans-inr.")
        self.spec, self.config, self.groups = hypernet.spec, hypernet.config, hypernet.token_groups
        self.token_groups = hypernet.token_groups
        self.weight_tokens = nn.Parameter(hypernet.weight_tokens.detach().clone())
        self.norms, self.heads, self.base = nn.ModuleDict(), nn.ModuleDict(), nn.ParameterDict()
        width = self.weight_tokens.shape[1]
        for name in self.spec.tensors:
            layer, _, kind = name.rpartition(".")
            self.base[f"{layer}_{kind}"] = nn.Parameter(hypernet.base[f"{layer}_{kind}"].detach().clone())
            if kind == "weight":
                norm, head = hypernet.heads[f"{layer}_weight"].children()
                self.norms[layer] = _copy(norm, nn.LayerNorm(width))
                self.heads[layer] = _copy(head, nn.Linear(width, self.spec.tensors[name].shape[0]))
                columns: Tensor = getattr(hypernet, f"columns_{layer}_weight")
                self.register_buffer(f"columns_{layer}", columns.clone(), persistent=False)

    def generate(self, encoded: Tensor) -> TargetParams:
        """Turn encoded weight tokens (B, Q, D) into the parameters of B fields."""
        tensors: dict[str, Tensor] = {}
        start = 0
        for layer, count in self.groups.items():
            tokens = encoded[:, start : start + count]
            start += count
            vectors = self.heads[layer](self.norms[layer](tokens))
            weight = self.base[f"{layer}_weight"] * vectors[:, getattr(self, f"columns_{layer}")].transpose(1, 2)
            if self.config.normalize:
                weight = self.config.gain * F.normalize(weight, dim=1)
            tensors[f"{layer}.weight"], tensors[f"{layer}.bias"] = weight, self.base[f"{layer}_bias"][None]
        return TargetParams(tensors, self.spec)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by role."""
        heads = [*self.norms.parameters(), *self.heads.parameters()]
        return {"tokens": [self.weight_tokens], "heads": heads, "base": list(self.base.parameters())}


class PlainModel(INRHypernet):
    """A whole model in plain operations, in the place of ``model``, whose parameters are copied.

    Raises:
        HyperkitError: the baseline has no such model.
    """

    def __init__(self, model: INRHypernet) -> None:
        assert isinstance(model.renderer, RendererConfig)
        if list(model.context.parameters()):
            raise HyperkitError("The baseline reads one view without its camera.", "Leave out --views and pose tokens.")
        backbone, heads = PlainTransformer(model.backbone), PlainHeads(model.hypernet)
        super().__init__(backbone, heads, model.target, model.renderer, model.context)
        self.settings: PlainSettings | None = None

    def generate(self, context: Tensor, cameras: Any = None) -> TargetParams:
        """Write one field per item of the context (B, 1, 3, H, W)."""
        encoded = self.backbone.encode(self.backbone.tokenize(context), self.hypernet.weight_tokens)
        params: TargetParams = self.hypernet.generate(encoded)
        return params

    def render(self, params: TargetParams, query: Rays | Tensor, jitter: Tensor | None = None) -> Rendered:
        """Render rays (B, R, 3): all at once with gradients, 1,024 of them without."""
        assert isinstance(query, Rays)
        assert isinstance(self.renderer, RendererConfig)
        if self.settings is None or (self.settings.near, self.settings.far) != (query.near, query.far):
            place = query.origins.device
            self.settings = PlainSettings.of(self.target, self.renderer, query.near, query.far, place)
        settings = self.settings
        field = PlainField.of(params, len(query.origins))
        count = query.origins.shape[1]
        step = count if torch.is_grad_enabled() else max(1, RAYS_AT_ONCE // len(query.origins))
        parts = [slice(start, start + step) for start in range(0, count, max(step, 1))] or [slice(0, 0)]
        found = [
            plain_render(field, query.origins[:, p], query.directions[:, p], settings, _rows(jitter, p)) for p in parts
        ]
        rgb, depth, opacity = (torch.cat(values, dim=1) for values in zip(*found, strict=True))
        return Rendered(rgb, depth, opacity)


def _rows(jitter: Tensor | None, part: slice) -> Tensor | None:
    return None if jitter is None else jitter[:, part]


def _copy(source: Any, module: Any) -> Any:
    module.load_state_dict({name: value.detach() for name, value in source.state_dict().items()})
    return module
