"""`geoslave region`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, note, overwrite_option
from geoslave.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from geoslave.region.run import Progress

COMMANDS = {
    "init": ("geoslave.cli.region", "init", "Make a region: its folder and a commented region.yaml."),
    "scenes": ("geoslave.cli.region_scenes", "command", "Find a region's scenes: a folder, a VRT, a STAC catalogue."),
    "plan": ("geoslave.cli.region", "plan", "Blocks, disk, memory and time, measured on this machine."),
    "run": ("geoslave.cli.region", "run", "Find sites in all scenes; run again to go on where it stopped."),
    "status": ("geoslave.cli.region", "status", "How far a run is; from another shell, too."),
    "export": ("geoslave.cli.region_export", "command", "Write the merged layers, or a QGIS project."),
    "schema": ("geoslave.cli.region", "schema", "Print the JSON schema of region.yaml, for editors."),
}


@click.group(
    "region",
    cls=LazyGroup,
    found_in=COMMANDS,
    epilog=example(
        "geoslave region init bihar --aoi bihar.geojson --target brick_kiln --model kiln-s2 --scenes 'tiles/*.tif'",
        "geoslave region plan bihar",
        "geoslave region run bihar",
        "geoslave region export bihar",
    ),
)
def command() -> None:
    """Find sites in a whole region: many scenes, resumed where it stopped."""


regions_option = click.option(
    "--regions", type=PATH, default="regions", show_default=True, help="The folder of regions."
)


def _box(_context: click.Context, _option: click.Parameter, value: str | None) -> Any:
    """West, south, east, north in degrees."""
    if value is None:
        return None
    try:
        west, south, east, north = (float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is no box: write it as west,south,east,north in degrees") from None
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise click.BadParameter(f"'{value}' holds no area: write west,south,east,north, west before east")
    return west, south, east, north


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Progress on standard error: a bar on a terminal, else a line a minute."""
    if quiet:
        yield lambda _progress: None
        return
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    shown = console.is_terminal
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        console=console,
        transient=True,
        disable=not shown,
    )
    task = bar.add_task("looking at scenes", total=None, told="")
    last_line = time.monotonic()

    def watch(progress: Progress) -> None:
        nonlocal last_line
        told = _progress_line(progress)
        if progress.stage == "blocks":
            bar.update(task, description="blocks", total=progress.blocks, completed=progress.done, told=told)
        if not shown and progress.stage == "blocks" and time.monotonic() - last_line >= 60:
            last_line = time.monotonic()
            click.echo(f"{progress.done} of {progress.blocks} blocks, {told}", err=True)

    with bar:
        yield watch


def _progress_line(progress: Progress) -> str:
    parts = [f"{progress.mpx_s:.2f} Mpx/s"] if progress.mpx_s else []
    if progress.seconds_left is not None:
        parts.append(f"{_duration(progress.seconds_left)} left")
    parts.append(f"{progress.objects} objects")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


@click.command(
    "init",
    epilog=example("geoslave region init bihar --aoi bihar.geojson --model kiln-s2 --scenes 'tiles/*.tif'"),
)
@click.argument("name")
@click.option("--aoi", type=PATH, help="Polygons; only sites inside are reported. [default: all of the scenes]")
@click.option("--target", help="The kind of site. [default: the model's]")
@click.option("--model", default="kiln-s2", show_default=True, help="A model's name (geoslave models list) or folder.")
@click.option("--scenes", multiple=True, help="A raster, VRT, address, folder or pattern; may be given several times.")
@regions_option
@overwrite_option
@json_option
def init(
    name: str,
    aoi: Path | None,
    target: str | None,
    model: str,
    scenes: tuple[str, ...],
    regions: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make the region NAME: a folder with a region.yaml in which every setting is explained."""
    from geoslave.region.setup import init_region

    region = init_region(regions / name, aoi, target, model, scenes, overwrite=overwrite)
    facts = {"region": region.name, "folder": str(region.path), "config": str(region.config)}
    next_step = "plan" if scenes else "scenes"
    answer(
        as_json,
        facts,
        [f"{region.config}  was made: look it over, then  geoslave region {next_step} {name}"],
    )


@click.command("schema", epilog=example("geoslave region schema > region.schema.json"))
def schema() -> None:
    """Print the JSON schema of region.yaml, for editors."""
    from geoslave.region.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


def _when(_context: click.Context, _option: click.Parameter, value: str | None) -> Any:
    """A day or a moment; without a zone it is this machine's."""
    from datetime import datetime

    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).astimezone()
    except ValueError:
        raise click.BadParameter(f"'{value}' is no date: write 2027-01-31 or 2027-01-31T08:00") from None


@click.command("plan", epilog=example("geoslave region plan bihar", "geoslave region plan bihar --by 2027-01-31T08:00"))
@click.argument("name")
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine. [default: one per core]")
@click.option("--by", callback=_when, metavar="DATE[THH:MM]", help="How many workers finish by then?")
@regions_option
@json_option
def plan(name: str, workers: int | None, by: Any, regions: Path, as_json: bool) -> None:
    """Say what the region NAME will take: blocks, disk, memory and time.

    Looks at every scene and times a few chips on this machine; a run goes on from what was looked at.
    blocks.geojson, which opens in QGIS, shows the blocks.
    """
    from geoslave.cli.common import progress
    from geoslave.region.layout import find_region
    from geoslave.region.plan import plan_facts, plan_region

    region = find_region(name, regions)
    with progress(as_json) as step:
        made = plan_region(region, workers, by, step)
    for text in made.warnings:
        note(text)
    facts = {"region": region.name, "blocks_file": str(region.blocks), **plan_facts(made)}
    answer(as_json, facts, _plan_lines(name, facts))


def _plan_lines(name: str, facts: dict[str, Any]) -> list[str]:
    done = f", {facts['blocks_done']} of them done" if facts["blocks_done"] else ""
    skipped = f" ({facts['skipped']} more are outside of the area or empty)" if facts["skipped"] else ""
    step = facts["seconds_a_chip"]
    whole = max(sum(step.values()), 1e-9)
    shares = ", ".join(
        f"{told} {step[key] / whole:.0%}"
        for key, told in (("fetch", "fetching"), ("decode", "decoding"), ("network", "model"), ("write", "writing"))
    )
    hours = {int(n): 3600 * value for n, value in facts["hours_by_workers"].items()}
    cluster = ", ".join(f"{n}: {_duration(hours[n])}" for n in (8, 64, 256))
    lines = [
        f"{facts['grids']} scenes or grids{skipped}, {facts['blocks']} blocks{done}",
        f"  ground    {facts['ground_km2']:,.0f} km² ({facts['mpx']:,.1f} Mpx), {facts['valid_share']:.0%} of it valid",
        f"  time      {_duration(3600 * facts['hours'])} with {facts['workers']} worker(s) of {facts['threads']} "
        f"thread(s) on this machine's {facts['cores']} core(s)",
        f"  cluster   {cluster}  (workers with a core each)",
        f"  steps     {shares}",
        f"  slowest   {facts['bottleneck']}",
        f"  disk      {facts['disk_gb']:.2f} GB of {facts['free_gb']:.0f} GB free",
        f"  memory    {facts['memory_mb']:.0f} MB for each worker, of {facts['machine_mb'] / 1024:.0f} GB",
    ]
    if facts["workers_by"] is not None:
        needed = facts["workers_by"]
        told = f"{needed} worker(s) with a core each" if needed else "no number of workers: that moment has passed"
        lines.append(f"  by then   {told}")
    return [*lines, f"  next:  geoslave region run {name}"]


@click.command(
    "run",
    epilog=example(
        "geoslave region run bihar --workers 4", "geoslave region run bihar --dask tcp://scheduler.example:8786"
    ),
)
@click.argument("name")
@click.option("--workers", type=click.IntRange(0), help="Processes; 0 works in this one. [default: one per core]")
@click.option("--dask", metavar="ADDRESS", help="Work on a dask.distributed cluster: its scheduler's address.")
@click.option("--only", callback=_box, metavar="W,S,E,N", help="Only blocks in this box (degrees), others later.")
@click.option("--no-gate", is_flag=True, help="Look everywhere closely, though the model has a gate: slower.")
@regions_option
@json_option
def run(
    name: str,
    workers: int | None,
    dask: str | None,
    only: tuple[float, float, float, float] | None,
    no_gate: bool,
    regions: Path,
    as_json: bool,
) -> int:
    """Find sites in all scenes of the region NAME; run again to go on where it stopped.

    A block that fails is tried again, then listed with its reason; the others go on, and the exit
    status is 1. Ctrl-C stops at once: blocks that are done stay done.
    """
    from geoslave.region.layout import find_region
    from geoslave.region.run import Choice, run_region

    if workers is not None and dask is not None:
        raise click.UsageError("give --workers or --dask, not both: a cluster has its own workers")
    region = find_region(name, regions)
    with _bar(as_json) as watch:
        summary = run_region(region, Choice(workers, dask, only, gate=not no_gate), watch)
    for text in summary.notes:
        note(text)
    facts = {
        "region": region.name,
        "run": summary.run.path.name,
        "gate": summary.gate,
        "blocks": summary.blocks,
        "done": summary.done_before + summary.done_now,
        "done_now": summary.done_now,
        "failed": dict(summary.failures),
        "left_out": summary.left_out,
        "seconds": round(summary.seconds, 1),
    }
    answer(as_json, facts, _run_lines(name, facts))
    return 1 if summary.failures else 0


def _run_lines(name: str, facts: dict[str, Any]) -> list[str]:
    before = facts["done"] - facts["done_now"]
    lines = [
        f"{facts['done']} of {facts['blocks']} blocks are done"
        + (f" ({before} of them before)" if before else "")
        + f", in {_duration(facts['seconds'])}"
    ]
    if facts["left_out"]:
        lines.append(f"  {facts['left_out']} more lie outside --only and are still to be done")
    failed = list(facts["failed"].items())
    if not failed:
        return [*lines, f"  next:  geoslave region export {name}"]
    lines.append(f"  {len(failed)} failed:")
    lines += [f"    {block}: {reason}" for block, reason in failed[:10]]
    if len(failed) > 10:
        lines.append(f"    and {len(failed) - 10} more: see  geoslave region status {name}")
    return [*lines, "  mend the cause, then run again: only what is missing is done"]


@click.command("status", epilog=example("geoslave region status bihar --json"))
@click.argument("name")
@regions_option
@json_option
def status(name: str, regions: Path, as_json: bool) -> None:
    """How far the region NAME is. Reads only the disk: from any shell, while a run goes on or after it."""
    from geoslave.region.layout import find_region
    from geoslave.region.status import region_status

    told = region_status(find_region(name, regions))
    state = "running" if told.running else told.stage
    lines = [f"{told.region} ({told.run}): {state}, {told.done} of {told.blocks} blocks done"]
    if told.running and told.seconds_left is not None:
        lines.append(f"  {told.mpx_s:.2f} Mpx/s, about {_duration(told.seconds_left)} left")
    if told.objects:
        lines.append(f"  {told.objects} objects above the threshold so far")
    lines += [f"  failed: {one['name']}: {one['reason']}" for one in told.failed[:20]]
    if len(told.failed) > 20:
        lines.append(f"  and {len(told.failed) - 20} more failed: --json lists them")
    answer(as_json, told.to_dict(), lines)
