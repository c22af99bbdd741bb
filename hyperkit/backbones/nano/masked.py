"""An encoder of the patches that are seen, and a decoder of all (MAE, He et al. 2022)."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hyperkit.backbones.nano.architecture import NanoConfig, build_nano, mean_features
from hyperkit.backbones.timm_vit import TimmBackbone


class MaskedDecoder(nn.Module):
    """A small transformer from the encoded patches, at their places among mask tokens, to the values of all patches.

    Args:
        inputs: width of the encoder.
        patches: N, of a picture.
        values: P, of a patch: channels times pixels.
        width, depth, heads: of the transformer.
    """

    def __init__(self, inputs: int, patches: int, values: int, width: int = 96, depth: int = 2, heads: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, patches, width))
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, values)
        for parameter in (self.mask_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, encoded: Tensor, seen: Tensor) -> Tensor:
        """Return the values (B, N, P) of all patches.

        Args:
            encoded: (B, K, D), of the patches that are seen.
            seen: (B, K), which these are.
        """
        tokens = self.enter(encoded)
        places = seen[..., None].expand_as(tokens)
        everywhere = self.mask_token.to(tokens.dtype).expand(len(tokens), self.pos_embed.shape[1], -1)
        tokens = everywhere.scatter(1, places, tokens) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        values: Tensor = self.leave(self.norm(tokens))
        return values


class MaskedNano(nn.Module):
    """The network as an encoder of part of a picture's patches, with a decoder that is thrown away afterwards.

    Args:
        config: sizes of the network.
        width, depth, heads: of the decoder.
    """

    def __init__(self, config: NanoConfig, width: int = 96, depth: int = 2, heads: int = 3) -> None:
        super().__init__()
        self.encoder: TimmBackbone = build_nano(config)
        patches = (config.size // config.patch) ** 2
        self.decoder = MaskedDecoder(self.encoder.width, patches, 3 * config.patch**2, width, depth, heads)

    def forward(self, pictures: Tensor, seen: Tensor) -> Tensor:
        """Return the values (B, N, P) of all patches of pictures (B, 3, H, W), of which ``seen`` (B, K) are shown."""
        tokens = self.encoder.tokenize(pictures[:, None])
        first, patches = tokens[:, : self.encoder.prefix_tokens], tokens[:, self.encoder.prefix_tokens :]
        shown = patches.gather(1, seen[..., None].expand(-1, -1, patches.shape[-1]))
        # the outputs that the decoder reads are those of the patches, not the class token's
        values: Tensor = self.decoder(self.encoder.encode(first, shown), seen)
        return values

    def features(self, pictures: Tensor) -> Tensor:
        """Return what a picture is judged by, (B, D) for (B, 3, H, W): the mean of its patch tokens."""
        return mean_features(self.encoder, pictures)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by role."""
        return {"backbone": list(self.encoder.parameters()), "heads": list(self.decoder.parameters())}
