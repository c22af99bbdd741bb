"""Vision transformers of timm: class, distillation and register tokens, LayerScale and pre-norm as timm has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import VisionTransformer, is_model_in_modules
from timm.models.vision_transformer import Block, checkpoint_filter_fn
from torch import Tensor, nn

from hyperkit.backbones.base import Backbone, Branches
from hyperkit.backbones.catalog import Entry
from hyperkit.backbones.config import BackboneConfig, BackboneInfo
from hyperkit.backbones.hub import Remote
from hyperkit.backbones.weights import check_shapes, load_checked, shape_error
from hyperkit.errors import HyperkitError, unknown_name

SUPPORTED = (
    "Supported are timm models of the classes VisionTransformer and VisionTransformerDistilled (vit_*, deit_*, "
    "deit3_*, *dinov2*, *siglip*) and Eva (*dinov3*, *pe_core*, eva02_*), and open_clip's VisionTransformer."
)
_HEADS = ("head.", "head_dist.", "attn_pool.", "pre_logits.", "decoder_", "mask_token", "fc_norm.", "norm.")


def timm_entry(name: str) -> Entry:
    """Return where timm's model ``name`` comes from; it has weights if timm's default configuration knows some.

    Raises:
        HyperkitError: timm has no such model, or no such tag.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_timm(architecture)
    known = timm.get_pretrained_cfg(name, allow_unregistered=False) if _tag_exists(architecture, tag) else None
    if known is None:
        raise unknown_name(f"tag of timm's {architecture}", tag, _tags(architecture))
    return Entry(f"timm:{name}", "timm", name, pretrained=known.has_weights, license=known.license)


def timm_remote(name: str) -> Remote:
    """Return where timm keeps the weights of a model."""
    known = timm.get_pretrained_cfg(name)
    repository, _, revision = (known.hf_hub_id or "").partition("@")
    files = (known.hf_hub_filename,) if known.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    url = known.url[0] if isinstance(known.url, tuple) else known.url
    return Remote(repository or None, revision or None, files, url or None, Path(torch.hub.get_dir()) / "checkpoints")


def unknown_timm(architecture: str) -> HyperkitError:
    """Build the error for a model that timm does not have; only vision transformers are suggested."""
    near = get_close_matches(architecture, timm.list_models(["vit_*", "deit*"]), n=5, cutoff=0.4)
    return HyperkitError(
        f"timm {timm.__version__} has no model {architecture!r}.",
        (f"Nearest: {', '.join(near)}. " if near else "") + SUPPORTED,
    )


def _tags(architecture: str) -> list[str]:
    names = timm.list_pretrained(f"{architecture}.*")
    return [name.partition(".")[2] for name in names]


def _tag_exists(architecture: str, tag: str) -> bool:
    return not tag or tag in _tags(architecture)


def build_timm(
    config: BackboneConfig,
    entry: Entry,
    mean: Sequence[float] | None = None,
    deviation: Sequence[float] | None = None,
) -> TimmBackbone:
    """Build a model of timm, with rotary positions or without.

    Args:
        config: the part's configuration.
        entry: which model.
        mean, deviation: of the pictures that its weights were trained on; None: those that timm has for the model.

    Raises:
        HyperkitError: its kind is not supported.
    """
    if is_model_in_modules(entry.model, ("eva",)):
        from hyperkit.backbones.rotary import RotaryBackbone

        return RotaryBackbone(config, entry, mean, deviation)
    return TimmBackbone(config, entry, mean, deviation)


class TimmBackbone(Backbone):
    """A ``VisionTransformer`` of timm without pooling and head.

    Where timm norms after pooling (``fc_norm``), that norm is applied to each token.

    Args:
        config: the part's configuration.
        entry: which model.
        mean, deviation: of the pictures that its weights were trained on; None: those that timm has for the model.

    The position embedding of a model that has pretrained weights keeps their size; another is made for
    ``config.image_size``.
    """

    trunk_class: ClassVar[type[nn.Module]] = VisionTransformer

    def __init__(
        self,
        config: BackboneConfig,
        entry: Entry,
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
    ) -> None:
        trunk = _create(entry, None if entry.pretrained else config.image_size, self.trunk_class)
        patch = _patch_size(trunk)
        info = BackboneInfo(entry.name, entry.source, tuple(trunk.patch_embed.img_size), patch, entry.paper)
        known = trunk.pretrained_cfg
        super().__init__(config, info, trunk.embed_dim, mean=mean or known["mean"], deviation=deviation or known["std"])
        self.trunk = _without_head(trunk)
        self.prefix_tokens = trunk.num_prefix_tokens

    def embed(self, pictures: Tensor) -> Tensor:
        """Apply timm's patch and position embedding and ``norm_pre``; positions follow the size of the pictures."""
        tokens = self.trunk._pos_embed(self.trunk.patch_embed(pictures))
        normed: Tensor = self.trunk.norm_pre(self.trunk.patch_drop(tokens))
        return normed

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """timm's blocks."""
        return self.trunk.blocks

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply timm's ``norm`` (or ``fc_norm``)."""
        normed: Tensor = self.trunk.norm(tokens)
        return normed

    def branches(self, block: nn.Module) -> Branches | None:
        """Return those of timm's ordinary block."""
        return block_branches(block)

    def load_weights(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Load a state dict of timm, or of the original repositories that timm can convert.

        Positions for another grid are interpolated; another patch size is refused.
        """
        own = self.trunk.state_dict()
        kernels = [name for name in state if name.endswith(("patch_embed.proj.weight", "visual.conv1.weight"))]
        for name in kernels:  # timm would resample the patches of another network without a word
            size, wanted = tuple(state[name].shape), tuple(own["patch_embed.proj.weight"].shape)
            if len(size) == 4 and size != wanted:
                raise shape_error(origin, [(name, size, wanted)])
        check_shapes({name: value for name, value in own.items() if name != "pos_embed"}, state, origin)
        try:
            converted = self.convert(dict(state))
        except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise HyperkitError(
                f"timm cannot read the file {origin} as {self.info.source}: {type(error).__name__} {error}.",
                "Choose the backbone that the file was made for.",
            ) from error
        for part in ("weight", "bias"):
            if f"norm.{part}" not in converted and f"fc_norm.{part}" in converted:
                converted[f"norm.{part}"] = converted.pop(f"fc_norm.{part}")
        load_checked(self.trunk, converted, origin, ignored=_HEADS)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring a state dict of timm or of an original repository to the trunk's names and position grid."""
        return dict(checkpoint_filter_fn(state, self.trunk, adapt_layer_scale=True))

    def load_file(self, path: Path) -> None:
        """Load a file of weights: safetensors, a torch file of tensors, or Google's own .npz."""
        if path.suffix != ".npz" or not hasattr(self.trunk, "load_pretrained"):
            super().load_file(path)
            return
        try:
            self.trunk.load_pretrained(str(path))  # allows no pickles
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            raise HyperkitError(
                f"The file {path} does not fit {self.info.source}: {error}",
                "Choose the backbone that the file was made for.",
            ) from error


def block_branches(block: Any) -> Branches | None:
    """Return the attention and the MLP branch of timm's ordinary block; None for other kinds."""
    if type(block) is not Block:
        return None
    return (
        lambda x: block.drop_path1(block.ls1(block.attn(block.norm1(x)))),
        lambda x: block.drop_path2(block.ls2(block.mlp(block.norm2(x)))),
    )


def _create(entry: Entry, image_size: int | None, kind: type[nn.Module]) -> Any:
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True, **entry.options}
    if image_size is not None:
        patch = _patch_size(_create(entry, None, kind))
        options["img_size"] = tuple(max(1, round(image_size / side)) * side for side in patch)
    try:
        trunk = timm.create_model(entry.model, pretrained=False, **options)
    except TypeError as error:  # other classes do not know dynamic_img_size
        raise _unsupported(entry, "is not a plain vision transformer") from error
    if not isinstance(trunk, kind) or not isinstance(trunk.patch_embed, PatchEmbed):
        raise _unsupported(entry, f"is of the class {type(trunk).__name__}")
    return trunk


def _unsupported(entry: Entry, what: str) -> HyperkitError:
    return HyperkitError(f"timm's {entry.model} {what}, which hyperkit cannot use as a backbone.", SUPPORTED)


def _patch_size(trunk: Any) -> tuple[int, int]:
    rows, columns = trunk.patch_embed.patch_size
    return int(rows), int(columns)


def _without_head(trunk: Any) -> Any:
    """Drop everything that the tokens do not pass through, so that no parameter is without a gradient."""
    if isinstance(trunk.norm, nn.Identity):
        trunk.norm = trunk.fc_norm
    trunk.fc_norm = nn.Identity()
    trunk.attn_pool = None
    trunk.head = nn.Identity()
    return trunk
