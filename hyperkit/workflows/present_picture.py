"""Generated pictures at any resolution: the input, what the network gives, and the difference."""

from __future__ import annotations

from pathlib import Path

from hyperkit.models import PictureINR, Predictor
from hyperkit.reports.pictures import to_uint8
from hyperkit.reports.signals import picture_comparison, uncertainty_picture
from hyperkit.reports.video import write_png
from hyperkit.tasks.inr import INRTask
from hyperkit.workflows.load import Loaded
from hyperkit.workflows.present_views import write_picture_attention
from hyperkit.workflows.presenters import Given, Presenter, RenderOptions


class PicturePresenter(Presenter):
    """Presents generated pictures."""

    options = frozenset({"scale"})
    file_option = "--image"

    def from_file(self, predictor: Predictor, path: Path) -> Given:
        """Bring a picture to the size that the model reads."""
        return Given(predictor.prepare(path), path.stem)

    def from_data(self, task: INRTask, object_id: str, context_views: int | None) -> Given:
        """Take a picture of the data set."""
        return Given(task.data().item(object_id), Path(object_id).with_suffix("").as_posix())

    def from_samples(self, predictor: Predictor, index: int, name: str) -> Given:
        """Take a picture that the checkpoint carries."""
        picture = predictor.samples["pictures"][index].float() / 255
        return Given(picture[None, None], Path(name).with_suffix("").as_posix())

    def write(self, generated: PictureINR, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        """Write the input, the generated picture at its resolution, and both beside their difference."""
        size = max(1, round(generated.size * (options.scale or 4.0)))
        original = given.context[0, 0]
        files = {name: folder / f"{name}.png" for name in ("input", "inr", "comparison")}
        write_png(files["input"], to_uint8(original))
        enlarged = generated.render(size, size)
        write_png(files["inr"], to_uint8(enlarged))
        write_png(files["comparison"], picture_comparison(original, generated.render(), enlarged))
        deviation = generated.deviation(size, size)
        if deviation is not None:
            files["uncertainty"] = folder / "uncertainty.png"
            write_png(files["uncertainty"], uncertainty_picture(deviation.permute(1, 2, 0)))
        return files

    def write_attention(self, loaded: Loaded, given: Given, path: Path) -> Path:
        """Draw the attention of each layer's weight tokens over the picture."""
        return write_picture_attention(loaded, given, path)

    def overview(self, loaded: Loaded, folder: Path) -> dict[str, Path]:
        """Write the first picture that the checkpoint carries, at four times its resolution."""
        given = self.carried(loaded.predictor, 0)
        made = loaded.predictor.wrap(loaded.predictor.generate(given.context))
        return {"comparison": self.write(made, given, folder, RenderOptions())["comparison"]}
