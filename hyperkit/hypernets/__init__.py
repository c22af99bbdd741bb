"""Weight tokens in, target parameters out: one file per algorithm."""

from hyperkit.hypernets.trans_inr import TransINR, TransINRConfig
from hyperkit.registry import Registry

ALGORITHMS = Registry("algorithm", {"trans-inr": "hyperkit.hypernets.trans_inr:TransINR"})

__all__ = ["ALGORITHMS", "TransINR", "TransINRConfig"]
