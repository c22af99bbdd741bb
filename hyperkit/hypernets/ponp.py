"""PONP (Gu et al. 2023): a hypernetwork that writes probabilistic INRs."""

from __future__ import annotations

from typing import ClassVar

from hyperkit.contracts import TargetSpec
from hyperkit.errors import HyperkitError
from hyperkit.hypernets.trans_inr import TransINR, TransINRConfig


class PONP(TransINR):
    """Trans-INR's generator for a target that gives a mean and a deviation at every point.

    The target's output layer gives both (``deviation: true`` in its configuration), and training maximises the
    likelihood of a conditional neural process in place of the squared error: given the context C, the values y_n at
    the queries x_n are independent normal variables,

        log p(y | x, C) = sum_n log N(y_n; mean(x_n), deviation(x_n)^2),

    see ``objectives.gaussian_nll``. The deviation has a floor, so that the likelihood is bounded. In radiance fields
    the deviation of the colour is composited along the ray with the colour's weights.

    Args:
        config: see ``TransINRConfig``.
        spec: of a target that gives a deviation.
        width: D of the backbone.

    Raises:
        HyperkitError: the target gives no deviation.
    """

    predicts_deviation: ClassVar[bool] = True

    def __init__(self, config: TransINRConfig, spec: TargetSpec, width: int) -> None:
        if not spec.options.get("deviation"):
            raise HyperkitError(
                f"ponp needs a target that gives a deviation, but the target {spec.kind!r} gives none.",
                "Set target.deviation=true where the target has that option, or choose another algorithm.",
            )
        super().__init__(config, spec, width)
