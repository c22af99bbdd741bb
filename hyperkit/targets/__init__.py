"""The networks that get generated: functional, evaluated as ``target(params, query)``."""

from __future__ import annotations

from hyperkit.contracts import TargetSpec
from hyperkit.registry import Registry
from hyperkit.targets.base import Target

TARGETS = Registry(
    "target",
    {
        "mlp": "hyperkit.targets.mlp:MLP",
        "radiance_field": "hyperkit.targets.radiance_field:RadianceField",
        "hash_grid": "hyperkit.targets.hash_grid:HashGridField",
        "skip_field": "hyperkit.targets.skip_field:SkipField",
    },
)


def target_from_spec(spec: TargetSpec) -> Target:
    """Rebuild the target whose parameters ``spec`` describes."""
    cls = TARGETS.load(spec.kind)
    return cls(cls.config_model.model_validate(dict(spec.options)))


__all__ = ["TARGETS", "Target", "target_from_spec"]
