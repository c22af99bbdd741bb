"""Weight tokens in, target parameters out: one file per algorithm.

No algorithm is imported until it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hyperkit.registry import Registry

if TYPE_CHECKING:
    from hyperkit.hypernets.base import Hypernet, HypernetConfig
    from hyperkit.hypernets.ipc import IPC, IPCConfig
    from hyperkit.hypernets.ponp import PONP
    from hyperkit.hypernets.trans_inr import TransINR, TransINRConfig

ALGORITHMS = Registry(
    "algorithm",
    {
        "trans-inr": "hyperkit.hypernets.trans_inr:TransINR",
        "ipc": "hyperkit.hypernets.ipc:IPC",
        "ponp": "hyperkit.hypernets.ponp:PONP",
    },
)

_HOME = {
    "Hypernet": "base",
    "HypernetConfig": "base",
    "IPC": "ipc",
    "IPCConfig": "ipc",
    "PONP": "ponp",
    "TransINR": "trans_inr",
    "TransINRConfig": "trans_inr",
}

__all__ = ["ALGORITHMS", "IPC", "PONP", "Hypernet", "HypernetConfig", "IPCConfig", "TransINR", "TransINRConfig"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"hyperkit.hypernets.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
