"""Train, load and use a hypernetwork from Python.

Run it with ``python examples/from_python.py [RECIPE] [FOLDER]``; the recipe ``debug`` takes seconds.
"""

import sys
from pathlib import Path

import hyperkit
from hyperkit.workflows.evaluate import evaluate
from hyperkit.workflows.train import train

recipe = sys.argv[1] if len(sys.argv) > 1 else "quickstart"
folder = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/from-python")

if __name__ == "__main__":
    run = train("nvs", recipe=recipe, out=folder)
    print(f"held-out PSNR: {run.results['test']['all']['psnr']:.2f} dB")

    shuffled = evaluate(run.run, shuffle_context="class")
    print(f"with the pictures of other objects: {shuffled.results['test']['all']['psnr']:.2f} dB")

    model = hyperkit.load(run.run)
    picture = model.samples["pictures"][0].float() / 255  # or the path of your own picture
    field = model(picture)
    views = field.render(views=8, size=64)
    print(f"rendered {len(views.frames())} views of {tuple(views.rgb.shape[1:3])} pixels")
    field.save(folder / "field.safetensors")

    network = field.to_module()  # an ordinary torch module: positions in, colour and density out
    print(network)
