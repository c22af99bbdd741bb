"""Generated sounds at any rate: WAV files, and waveform and spectrogram beside the original."""

from __future__ import annotations

from pathlib import Path

from hyperkit.models import Predictor, SoundINR
from hyperkit.models.predictor import SoundPredictor
from hyperkit.reports.attention import attention_spectrogram
from hyperkit.reports.sound import sound_figure, write_wav
from hyperkit.tasks.inr import INRTask
from hyperkit.workflows.load import Loaded
from hyperkit.workflows.presenters import Given, Presenter, RenderOptions


class SoundPresenter(Presenter):
    """Presents generated sounds."""

    options = frozenset({"rate"})
    file_option = "--audio"

    def from_file(self, predictor: Predictor, path: Path) -> Given:
        """Bring a sound to the model's rate and take its first clip."""
        return Given(predictor.prepare(path), path.stem)

    def from_data(self, task: INRTask, object_id: str, context_views: int | None) -> Given:
        """Take a clip of the data set."""
        return Given(task.data().item(object_id), Path(object_id).with_suffix("").as_posix())

    def from_samples(self, predictor: Predictor, index: int, name: str) -> Given:
        """Take a clip that the checkpoint carries."""
        return Given(predictor.samples["waveforms"][index][None], Path(name).with_suffix("").as_posix())

    def write(self, generated: SoundINR, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        """Write the original and the generated sound as WAV, and a figure of both."""
        rate = options.rate or generated.rate
        files = {"original": folder / "original.wav", "sound": folder / "inr.wav", "figure": folder / "figure.png"}
        original = given.context[0].cpu()
        write_wav(files["original"], original, generated.rate)
        write_wav(files["sound"], generated.render(rate), rate)
        deviation = generated.deviation()
        sound_figure(
            files["figure"],
            original.numpy(),
            generated.render().numpy(),
            generated.rate,
            title=given.name,
            deviation=None if deviation is None else deviation.numpy(),
        )
        return files

    def write_attention(self, loaded: Loaded, given: Given, path: Path) -> Path:
        """Draw the attention of each layer's weight tokens over time, summed over the bands where tokens have one."""
        predictor = loaded.predictor
        assert isinstance(predictor, SoundPredictor)
        context = given.context.to(predictor.model.device)
        layout = predictor.model.backbone.token_layout(1, context.shape[-1])
        maps = {}
        for layer, attention in predictor.model.attention(context).items():
            bands = attention[0, layout.prefix :].reshape(layout.rows, layout.columns)
            maps[layer] = bands.sum(0).float().cpu().numpy()
        attention_spectrogram(context[0].cpu().numpy(), predictor.rate, maps, path)
        return path

    def overview(self, loaded: Loaded, folder: Path) -> dict[str, Path]:
        """Write the first clip that the checkpoint carries."""
        given = self.carried(loaded.predictor, 0)
        made = loaded.predictor.wrap(loaded.predictor.generate(given.context))
        return self.write(made, given, folder, RenderOptions())
