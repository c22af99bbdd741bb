"""A short run of one cell, to find out what the whole cell costs: ``python -m hyperkit.workflows.probe FILE``.

It goes through training, validation, evaluation and pictures as the cell does, but ends after a few steps, begins with
fresh weights and evaluates a few items.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hyperkit.config import merge
from hyperkit.errors import HyperkitError
from hyperkit.sweeps.estimate import Probe
from hyperkit.sweeps.worker import used_resources
from hyperkit.training.loop import fit
from hyperkit.workflows.configure import from_recipe
from hyperkit.workflows.train import open_run, report

STEPS, WARM_UP = 24, 4
SECONDS = "10s"
ITEMS = 48
"""At most so many steps, so much time and so many test items."""


def probe(task: str, recipe: str, overrides: Mapping[str, Any], began: float) -> Probe | None:
    """Run a cell for a moment; the further processes of one that runs on several devices return None.

    Args:
        task, recipe, overrides: of the cell.
        began: ``time.time()`` when its process was started.

    Raises:
        HyperkitError: bad configuration or data.
    """
    length = {"steps": STEPS, "epochs": None, "max_time": SECONDS, "log_every": 1, "validate_every": 10**9}
    task_cls, config = from_recipe(task, recipe, merge(overrides, {"training": length}), "train")
    with tempfile.TemporaryDirectory() as folder:
        with open_run(task_cls, config.model_dump(mode="json"), Path(folder) / "run", False) as run:
            work: Any = task_cls(config, config.training.seed)
            opening = time.time()
            steps_per_epoch = work.data().steps_per_epoch(config.training.batch_size)
            fit_began = time.time()
            fitted = fit(work, config.training, run, stored_config=config.model_dump(mode="json"), initial={})
            if run.follower:
                return None
            lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
            test = len(work.data().pairs("test"))
            results = report(run, fitted, limit=ITEMS).results
        ended = time.time()
    times = [line["seconds"] for line in lines if line["split"] == "train"]
    validated = [line["seconds"] for line in lines if line["split"] == "val"]
    validation = validated[-1] - times[-1] if validated else 0.0
    evaluation = results["evaluation_seconds"]
    return Probe(
        start_up=opening - began,
        step=_per_step(times),
        validation=validation,
        evaluation=evaluation * max(1.0, test / ITEMS),
        closing=ended - fit_began - times[-1] - validation - evaluation,
        steps_per_epoch=steps_per_epoch,
        encoder_parameters=int(results["backbone"]["parameters"]),
        parameters=sum(p.numel() for p in fitted.model.parameters()),
        peak_memory_bytes=int(used_resources(of_children=False).get("peak_memory_bytes", 0)),
        first_use=fit_began - opening,
    )


def _per_step(times: Sequence[float]) -> float:
    """Return the seconds of a step from those at the end of each; the first ones, which are slow, count if need be."""
    warm = len(times) - 1 - WARM_UP
    return (times[-1] - times[WARM_UP]) / warm if warm > 0 else times[-1] / len(times)


def main(path: str) -> None:
    """Probe the cell that a JSON file describes, and print what was found, or {"error": why}, as a JSON object."""
    cell = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        found = probe(cell["task"], cell["recipe"], cell["overrides"], cell["began"])
    except HyperkitError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return
    if found is not None:
        sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
