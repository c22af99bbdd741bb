"""Pictures and sounds as generated networks: train on each, then read one at another resolution or rate.

Run it with ``python examples/pictures_and_sounds.py [RECIPE] [FOLDER]``; the recipe ``debug`` takes seconds.
"""

import sys
from pathlib import Path

import hyperkit
from hyperkit.reports.sound import write_wav
from hyperkit.workflows.train import train

recipe = sys.argv[1] if len(sys.argv) > 1 else "quickstart"
folder = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/pictures-and-sounds")

if __name__ == "__main__":
    for task in ("image", "audio"):
        run = train(task, recipe=recipe, out=folder / task)
        print(f"{task}: held-out PSNR {run.results['test']['all']['psnr']:.2f} dB")

    pictures = hyperkit.load(folder / "image")
    picture = pictures(pictures.samples["pictures"][0].float() / 255)  # or the path of your own picture
    print(f"a picture of {picture.size} pixels, read at {tuple(picture.render(256, 256).shape)}")
    picture.save(folder / "field.safetensors")

    sounds = hyperkit.load(folder / "audio")
    sound = sounds(sounds.samples["waveforms"][0])  # or the path of your own recording
    write_wav(folder / "sound.wav", sound.render(rate=16000), 16000)
    print(f"a sound of {sound.count / sound.rate:g} s, written at 16 kHz")
