"""``python -m hyperkit.bench``. Torch is imported after the options are read."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperkit.errors import HyperkitError

app = typer.Typer(
    name="hyperkit.bench",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ROW]...", help="Only these rows, with or without --rows.")
    ] = None,
    rows: Annotated[list[str] | None, typer.Option("--rows", metavar="NAME ...", help="Only these rows.")] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Rounds of every comparison; medians are taken.")
    ] = 5,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="Of training and TTO: auto, 32 or bf16.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Threads on a CPU; torch's choice by default.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="CKPT", help="Render the field that this model writes, not a fitted one."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="DIR", help="Write the result there, as the file of this device.")
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Everything at sizes that take seconds; the figures say nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")] = False,
) -> None:
    """Measure speed and memory as ratios to a plain implementation in the same run.

    Rows: render_128, field_mlp_256, field_mlp_64, train_step_vit_b, tto_100, render_memory_1024; on GPUs also
    render_batch_8. On request only, as it takes many minutes: quickstart_to_psnr.

    On first use a field is fitted for the rows of rendering, which takes a few minutes; it is kept in the cache folder.
    """
    _check("device", device, ("auto", "cpu", "cuda"))
    _check("precision", precision, ("auto", "32", "bf16"))
    wanted = [name.strip() for part in [*(rows or ()), *(names or ())] for name in part.split(",") if name.strip()]
    settings = {"repeats": repeats, "device": device, "precision": precision, "threads": threads}
    _measure(wanted or None, save, as_json, **settings, checkpoint=checkpoint, debug=debug)


def _measure(wanted: list[str] | None, save: Path | None, as_json: bool, **settings: Any) -> None:
    """Run the rows, show each as it comes, and write the result."""
    from rich.console import Console

    from hyperkit.bench import report
    from hyperkit.bench.run import run
    from hyperkit.training.progress import make_progress

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    shown: list[str] = []

    def show(row: report.Row) -> None:
        if not shown:
            console.print(report.HEADER, markup=False)
        shown.append(row.name)
        console.print(report.line(row), markup=False)

    def say(text: str) -> None:
        console.print(text, style="dim", markup=False)

    result = run(wanted, say=say, show=show, progress=make_progress(), **settings)
    path = None if save is None else report.save(save, result)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    elif path is not None:
        sys.stdout.write(f"{path}\n")


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise HyperkitError(f"There is no {name} {value!r}.", f"Allowed: {', '.join(allowed)}.")


def main() -> None:
    """Run the benchmark; print errors that a user can mend without a traceback."""
    log = logging.getLogger("hyperkit")
    log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    try:
        app()
    except HyperkitError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
