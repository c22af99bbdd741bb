"""Radiance fields that know their parts: what ``present_views`` writes, and label maps from all sides."""

from __future__ import annotations

from pathlib import Path

from hyperkit.models.field import Views
from hyperkit.reports.parts import label_picture, parts_turntable
from hyperkit.reports.pictures import to_uint8
from hyperkit.reports.video import write_gif, write_png
from hyperkit.workflows.present_views import ViewsPresenter, write_sequence
from hyperkit.workflows.presenters import Given, RenderOptions


class PartsPresenter(ViewsPresenter):
    """Presents radiance fields with parts."""

    def write_turn(self, rendered: Views, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        """Write the colours, and the label maps as coloured pictures: PNG, GIF, and a sheet with a legend."""
        files = super().write_turn(rendered, given, folder, options)
        maps = [label_picture(labels) for labels in rendered.labels()]
        if options.frames is not False:
            files["parts"] = write_sequence(folder / "parts", maps)
        files |= {"parts turntable": folder / "parts.gif", "parts sheet": folder / "parts.png"}
        write_gif(files["parts turntable"], maps, options.fps or 20)
        sheet = parts_turntable(to_uint8(given.context[0, 0]), rendered.frames(), maps, rendered.parts)
        write_png(files["parts sheet"], sheet)
        return files
