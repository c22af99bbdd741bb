"""Vision towers of open_clip: class token, norm before the blocks and quick-GELU as the original has them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import _build_vision_tower
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import Attention, resample_abs_pos_embed
from torch import Tensor, nn

from hyperkit.backbones.base import Backbone, Branches
from hyperkit.backbones.catalog import Entry
from hyperkit.backbones.config import BackboneConfig, BackboneInfo
from hyperkit.backbones.hub import Remote
from hyperkit.backbones.timm_vit import SUPPORTED, build_timm
from hyperkit.backbones.weights import load_checked
from hyperkit.errors import HyperkitError, unknown_name

log = logging.getLogger("hyperkit")

_LICENSES = {"openai": "mit", "laion": "mit", "datacomp": "mit", "commonpool": "mit"}
_RENAMED = (
    ("attn.in_proj_weight", "attn.qkv.weight"),
    ("attn.in_proj_bias", "attn.qkv.bias"),
    ("attn.out_proj.", "attn.proj."),
)


def open_clip_entry(name: str) -> Entry:
    """Return where open_clip's model ``NAME/TAG`` comes from; without a tag it has no pretrained weights.

    Raises:
        HyperkitError: no such model or tag, or its tower is not a vision transformer.
    """
    model, _, tag = name.partition("/")
    if model not in open_clip.list_models():
        near = get_close_matches(model, open_clip.list_models(), n=5, cutoff=0.4)
        raise HyperkitError(
            f"open_clip {open_clip.__version__} has no model {model!r}.",
            (f"Nearest: {', '.join(near)}. " if near else "") + SUPPORTED,
        )
    if tag and not get_pretrained_cfg(model, tag):
        raise unknown_name(f"tag of open_clip's {model}", tag, list_pretrained_tags_by_model(model))
    known = next((license for start, license in _LICENSES.items() if tag.startswith(start)), None)
    return Entry(f"open_clip:{name}", "open_clip", model, tag=tag or None, pretrained=bool(tag), license=known)


def open_clip_remote(model: str, tag: str) -> Remote:
    """Return where open_clip keeps the weights of a model."""
    known = get_pretrained_cfg(model, tag)
    repository, _, file = known.get("hf_hub", "").rpartition("/")
    files = (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return Remote(repository or None, None, files, known.get("url") or None, Path("~/.cache/clip").expanduser())


def build_open_clip(config: BackboneConfig, entry: Entry) -> Backbone:
    """Build the vision tower of an open_clip model; towers that are timm's are built by timm.

    Raises:
        HyperkitError: the tower is not a vision transformer.
    """
    model = open_clip.get_model_config(entry.model)
    vision = dict(model["vision_cfg"])
    weights = get_pretrained_cfg(entry.model, entry.tag) if entry.tag else {}
    mean, deviation = weights.get("mean", OPENAI_DATASET_MEAN), weights.get("std", OPENAI_DATASET_STD)
    if timm_name := vision.get("timm_model_name"):
        size = {"img_size": vision["image_size"]} if "image_size" in vision else {}
        inner = replace(entry, library="timm", model=timm_name, options=size)
        backbone = build_timm(config, inner, mean, deviation)
        backbone.info = replace(backbone.info, source=entry.source)
        return backbone
    if isinstance(vision.get("layers", 12), list | tuple):
        raise HyperkitError(f"The vision tower of open_clip's {entry.model} is a ResNet.", SUPPORTED)
    if entry.pretrained is False and config.image_size is not None:
        patch = vision.get("patch_size", 16)
        vision["image_size"] = max(1, round(config.image_size / patch)) * patch
    quick = bool(model.get("quick_gelu")) or bool(weights.get("quick_gelu"))
    if quick and not model.get("quick_gelu"):
        log.info("%s was trained with quick-GELU, which is used here.", entry.source)
    # patch dropout is an augmentation of contrastive training, and would drop tokens at random here
    tower = _build_vision_tower(model["embed_dim"], {**vision, "patch_dropout": 0.0}, quick_gelu=quick)
    return OpenClipBackbone(config, entry, tower, mean, deviation)


class _SelfAttention(Attention):  # type: ignore[misc]
    """open_clip's attention in the form of timm's, whose projections are modules that adapters can be put on.

    ``nn.MultiheadAttention`` reads its projections' weights without calling them, so that an adapter on them would do
    nothing, and in evaluation it takes a path of its own that does not pass through ``scaled_dot_product_attention``.
    """

    def __init__(self, other: nn.MultiheadAttention) -> None:
        super().__init__(other.embed_dim, other.num_heads, qkv_bias=True)
        with torch.no_grad():
            self.qkv.weight.copy_(other.in_proj_weight)
            self.qkv.bias.copy_(other.in_proj_bias)
            self.proj.weight.copy_(other.out_proj.weight)
            self.proj.bias.copy_(other.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        return super().forward(query), None


class OpenClipBackbone(Backbone):
    """A ``VisionTransformer`` of open_clip without pooling and projection.

    The norm after the blocks (``ln_post``) is applied to each token, also where open_clip applies it after pooling;
    towers with attentional pooling have it behind the pooling only, and then there is none here.

    Args:
        config: the part's configuration.
        entry: which model.
        tower: open_clip's own.
        mean, deviation: of the pictures that its weights were trained on.
    """

    def __init__(
        self,
        config: BackboneConfig,
        entry: Entry,
        tower: VisionTransformer,
        mean: tuple[float, ...] = OPENAI_DATASET_MEAN,
        deviation: tuple[float, ...] = OPENAI_DATASET_STD,
    ) -> None:
        info = BackboneInfo(entry.name, entry.source, tuple(tower.image_size), tuple(tower.patch_size), entry.paper)
        super().__init__(config, info, tower.conv1.out_channels, mean=mean, deviation=deviation)
        if tower.attn_pool is not None:
            tower.ln_post, tower.attn_pool, tower.attn_pool_contrastive = nn.Identity(), None, None
        tower.proj = None
        for block in tower.transformer.resblocks:
            if isinstance(block.attn, nn.MultiheadAttention):
                block.attn = _SelfAttention(block.attn)
        if not tower.positional_embedding.requires_grad:  # fixed sine and cosine positions stay so
            fixed = tower.positional_embedding.detach()
            del tower.positional_embedding
            tower.register_buffer("positional_embedding", fixed)
        self.trunk = tower
        self.prefix_tokens = 1

    def embed(self, pictures: Tensor) -> Tensor:
        """Apply open_clip's patch, class and position embedding and ``ln_pre``; positions follow the pictures' size."""
        tower = self.trunk
        patches = tower.conv1(pictures)
        grid = list(patches.shape[-2:])
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([tower.class_embedding.expand(tokens.shape[0], 1, -1), tokens], dim=1)
        positions = resample_abs_pos_embed(
            tower.positional_embedding[None], new_size=grid, old_size=list(tower.grid_size), num_prefix_tokens=1
        )
        normed: Tensor = tower.ln_pre(tokens + positions)
        return normed

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """open_clip's residual attention blocks."""
        blocks: nn.ModuleList = self.trunk.transformer.resblocks
        return blocks

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply ``ln_post``."""
        normed: Tensor = self.trunk.ln_post(tokens)
        return normed

    def branches(self, block: Any) -> Branches | None:
        """Return those of open_clip's ordinary block."""
        if type(block) is not ResidualAttentionBlock:
            return None
        return (
            lambda x: block.ls_1(block.attention(block.ln_1(x))),
            lambda x: block.ls_2(block.mlp(block.ln_2(x))),
        )

    def load_weights(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Load the vision tower from a state dict of a whole open_clip model, or of its ``visual`` alone.

        Positions for another grid are interpolated.
        """
        tower = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
        tower = tower or dict(state)
        expected = self.trunk.state_dict()
        if "blocks.0.attn.qkv.weight" not in tower:
            tower = {_rename(name) if _rename(name) in expected else name: value for name, value in tower.items()}
        positions, own = tower.get("positional_embedding"), self.trunk.positional_embedding
        if positions is not None and positions.shape != own.shape and positions.shape[-1] == own.shape[-1]:
            grid = list(self.trunk.grid_size)
            log.info("The position embedding of %s is interpolated to %s patches.", origin, "x".join(map(str, grid)))
            tower["positional_embedding"] = resample_abs_pos_embed(positions[None], grid, num_prefix_tokens=1)[0]
        ignored = ["proj", "attn_pool"] + (["ln_post."] if "ln_post.weight" not in expected else [])
        load_checked(self.trunk, tower, origin, ignored=ignored)


def _rename(name: str) -> str:
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name
