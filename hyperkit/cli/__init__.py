"""The command line: ``hyperkit VERB TASK|CKPT [options]``. Torch is imported inside commands only."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

import typer

from hyperkit._version import __version__
from hyperkit.cli.distill import distill
from hyperkit.cli.evaluate import evaluate
from hyperkit.cli.finetune import finetune
from hyperkit.cli.options import is_follower
from hyperkit.cli.prepare import prepare
from hyperkit.cli.render import render
from hyperkit.cli.scale_sweep import scale_sweep
from hyperkit.cli.train import train
from hyperkit.errors import HyperkitError

app = typer.Typer(
    name="hyperkit",
    help="Networks that write networks: a picture or a sound in, the network that reproduces it out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"hyperkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Networks that write networks: a picture or a sound in, the network that reproduces it out."""


for command, summary in (
    (prepare, "Make, convert, check or download data and weights."),
    (train, "Train a hypernetwork and report it on held-out items."),
    (distill, "Teach a hypernetwork to write fields for sentences."),
    (finetune, "Go on from a checkpoint on other data or with another strategy."),
    (evaluate, "Measure a checkpoint on held-out items, per class."),
    (render, "Render an object, a picture or a sound; weights too."),
    (scale_sweep, "Run a grid of trainings: a paper's table or figure."),
):
    app.command(short_help=summary)(command)


def _terminated(number: int, frame: FrameType | None) -> None:
    # a plain exit runs the clean-up of files that are being written; training puts a handler of its own in place
    raise SystemExit(128 + number)


def main() -> None:
    """Run a command; print errors that a user can mend without a traceback.

    Exit codes: 0 done, 2 bad usage or bad input, 1 failure, 130 on SIGINT, 143 on SIGTERM.
    """
    signal.signal(signal.SIGTERM, _terminated)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("hyperkit")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        app()
    except HyperkitError as error:
        if not is_follower():
            sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        raise SystemExit(130) from None
