"""hyperkit: networks that write networks.

A pretrained transformer reads one picture together with learnable weight tokens; its outputs at those tokens become
the weights of a coordinate network. In a notebook::

    model = hyperkit.load("ckpt.pt")
    field = model("chair.png")
    frames = field.render(views=50)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperkit._version import __version__
from hyperkit.errors import HyperkitError

if TYPE_CHECKING:
    from hyperkit.workflows.load import load as load

__all__ = ["HyperkitError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, so `import hyperkit` and `hyperkit --help` wait until it is needed
    if name == "load":
        from hyperkit.workflows.load import load

        return load
    raise AttributeError(f"module 'hyperkit' has no attribute {name!r}")
