"""``hyperkit scale-sweep``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hyperkit.cli import options as o


def scale_sweep(
    task: Annotated[
        str | None, typer.Argument(help="nvs, segment, image or audio; with --study it follows from that.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study", metavar="NAME", help="table1, 2, 3, 4, 5, 8 or 9, figure2, figure3 or groups, as published."
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option("--scale", metavar="NAME", help="Of the study: debug (minutes), quick (built-in data) or paper."),
    ] = None,
    axes: Annotated[
        list[str] | None,
        typer.Option(
            "--axis", metavar="NAME=A,B", help="What varies: backbone, size, strategy, algorithm, ...; repeatable."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Runs of each cell: seeds 0 to N - 1.")] = 1,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Without a study: what all cells start from; quickstart.")
    ] = None,
    data: o.DataOption = None,
    steps: o.StepsOption = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", metavar="TIME", help="Of each cell's training: 90s, 10m, 1h30m.")
    ] = None,
    device: o.DeviceOption = None,
    precision: o.PrecisionOption = None,
    assignments: o.SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the sweep; what is there goes on.")
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            "--reuse", metavar="SWEEP", help="Take finished runs of the same settings from there; repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, steps, parameters and estimated cost; run nothing of them.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run cells again that failed before.")] = False,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="local: processes on this machine. ray: a Ray cluster.")
    ] = "local",
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="N", min=1, help="local: cells at a time; as the cores allow.")
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=1, help="CPU threads of each cell; one repeats bit for bit.")
    ] = 1,
    devices_per_cell: Annotated[
        int | None,
        typer.Option("--devices-per-cell", metavar="N", min=1, help="GPUs of each cell; one where there are any."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="HOST:PORT", help="ray: the cluster; RAY_ADDRESS, or this machine."),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Run a grid of trainings and report it: a paper's table or figure, or axes of your own.

    Cells that are done are not run again: after an interruption the same command goes on, and with more seeds it runs
    the new ones. A cell that fails is recorded and the others go on. The folder gets report.html, report.md,
    table.csv and table.parquet, plots, and every cell's run.

    \b
    hyperkit scale-sweep --study table1 --scale debug
    hyperkit scale-sweep nvs --axis backbone=nano,nano-mae --axis data_fraction=0.1,1 --seeds 3 --dry-run
    hyperkit scale-sweep --study figure2 --scale paper --data shapenet --engine ray --ray-address auto
    """
    from hyperkit.workflows import scale_sweep as work

    plan = work.plan_sweep(
        task,
        study=study,
        scale=scale,
        axes=axes or (),
        recipe=recipe,
        overrides=o.overrides(assignments, steps=steps, max_time=max_time, device=device, precision=precision),
        seeds=seeds,
        threads=threads,
        devices_per_cell=devices_per_cell,
        data=data,
        out=out,
        reuse=reuse or (),
        command=shlex.join(["hyperkit", *sys.argv[1:]]),
    )
    resources = work.Resources(engine, jobs, ray_address, devices_per_cell)
    if dry_run:
        from hyperkit.cli.bars import CountedProgress
        from hyperkit.workflows.estimate_sweep import estimate

        estimated = estimate(plan, resources, retry_failed, CountedProgress("kinds of cells measured"))
        estimated.show()
        o.emit(None, estimated.to_json(), as_json)
        return
    from hyperkit.sweeps.live import LiveTable

    with LiveTable() as watch:
        result = work.scale_sweep(plan, resources, retry_failed=retry_failed, watch=watch)
    result.show()
    o.emit(result.sweep.path, result.to_json(), as_json)
    if result.failed:
        raise typer.Exit(1)
