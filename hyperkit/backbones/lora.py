"""Low-rank adapters (LoRA) in an encoder's linear layers, by peft."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from hyperkit.backbones.config import BackboneConfig
from hyperkit.errors import HyperkitError

if TYPE_CHECKING:
    from hyperkit.backbones.base import Backbone


def add_adapters(module: Backbone, config: BackboneConfig) -> None:
    """Put adapters beside the linear layers that ``config.lora_targets`` names; only they are trainable afterwards.

    Unless it names any, these are the backbone's own ``lora_targets``, the projections to queries, keys and values:
    ``qkv`` where they are one layer, ``query``, ``key`` and ``value`` in Whisper, ``q_proj``, ``k_proj`` and
    ``v_proj`` in EVA-02.

    A layer W gets W + (alpha / r) B A with A (r, in) random and B (out, r) zero, so that nothing changes at first.
    On ViT-B, rank 16 on ``qkv`` makes 12 * 16 * (768 + 2304) = 589,824 parameters; on three layers it is
    12 * 3 * 16 * (768 + 768) = 884,736.

    Raises:
        HyperkitError: no linear layer has one of these names; those that there are are listed.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = list(config.lora_targets or module.lora_targets)
    linear = sorted({name.split(".")[-1] for name, part in module.named_modules() if isinstance(part, nn.Linear)})
    if strange := [name for name in targets if name not in linear]:
        raise HyperkitError(
            f"LoRA cannot be put on {', '.join(strange)}: the backbone {config.name!r} has no such linear layers.",
            f"Allowed: {', '.join(linear)}. Choose with --set backbone.lora_targets='[...]'.",
        )
    settings = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets, bias="none")
    inject_adapter_in_model(settings, module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def merge_adapters(module: nn.Module) -> None:
    """Add the adapters to the weights that they stand beside, and take them out."""
    from peft.tuners.lora import LoraLayer

    for name, part in list(module.named_modules()):
        if isinstance(part, LoraLayer):
            part.merge()  # type: ignore[operator]
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, part.get_base_layer())
