"""What the figures share: made without global state, written at once or not at all, with quiet axes."""

from __future__ import annotations

import os
from typing import Any

from hyperkit.files import atomic_path


def new_figure(size: tuple[float, float], dpi: int = 110) -> Any:
    """Return an empty matplotlib figure of so many inches; no display is needed, and nothing has to be closed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def tidy(axes: Any) -> None:
    """Give axes a pale grid behind the data, and no frame at the top and at the right."""
    axes.grid(True, color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
