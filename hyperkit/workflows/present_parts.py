"""Radiance fields that know their parts: what ``present_views`` writes, and label maps from all sides."""

from __future__ import annotations

from pathlib import Path

from hyperkit.models.field import Views
from hyperkit.reports.features import feature_pictures, features_turntable
from hyperkit.reports.parts import label_picture, parts_turntable
from hyperkit.reports.pictures import to_uint8
from hyperkit.reports.video import write_gif, write_mp4, write_png
from hyperkit.workflows.present_views import ViewsPresenter, write_sequence
from hyperkit.workflows.presenters import Given, RenderOptions


class PartsPresenter(ViewsPresenter):
    """Presents radiance fields with parts."""

    def write_turn(self, rendered: Views, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        """Write the colours, and the label maps as coloured pictures: PNG, GIF, and a sheet with a legend.

        Distilled features as well, where there are some: the first three of them as colours.
        """
        files = super().write_turn(rendered, given, folder, options)
        maps = [label_picture(labels) for labels in rendered.labels()]
        if options.frames is not False:
            files["parts"] = write_sequence(folder / "parts", maps)
        files |= {"parts turntable": folder / "parts.gif", "parts sheet": folder / "parts.png"}
        write_gif(files["parts turntable"], maps, options.fps or 20)
        sheet = parts_turntable(to_uint8(given.context[0, 0]), rendered.frames(), maps, rendered.parts)
        write_png(files["parts sheet"], sheet)
        return files | self._write_features(rendered, given, folder, options)

    def _write_features(self, rendered: Views, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        if rendered.distilled is None:
            return {}
        files: dict[str, Path] = {}
        pictures, fps = feature_pictures(rendered.distilled, rendered.opacity), options.fps or 20
        if options.frames is not False:
            files["features"] = write_sequence(folder / "features", pictures)
        files |= {"features turntable": folder / "features.gif", "features sheet": folder / "features.png"}
        write_gif(files["features turntable"], pictures, fps)
        if write_mp4(folder / "features.mp4", pictures, fps):
            files["features video"] = folder / "features.mp4"
        sheet = features_turntable(to_uint8(given.context[0, 0]), rendered.frames(), pictures)
        write_png(files["features sheet"], sheet)
        return files
