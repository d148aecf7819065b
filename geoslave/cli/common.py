"""What commands share: progress, options, answers."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


class _Finite(click.FloatRange):
    """A number in a range; not a number is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


PATH = click.Path(path_type=Path)
SHARE = _Finite(0, 1)
SCORE = _Finite(0, 1, min_open=True)
GSD = _Finite(0.01, 10_000)
DISTANCE = _Finite(0, 10_000)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing outputs.")


def scene_options(function: Function) -> Function:
    """Options of every command that reads a scene."""
    for option in (
        click.option("--bands", callback=_bands, metavar="NAME=N,...", help="Band numbers, e.g. red=3,green=2,blue=1."),
        click.option("--crs", metavar="EPSG:N", help="CRS of a scene that declares none."),
        click.option("--nodata", callback=_nodata, metavar="VALUE", help="Value that means nodata, or none."),
    ):
        function = option(function)
    return function


def example(*lines: str) -> str:
    """The end of a command's help: how it is used."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def step(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    with bar:
        yield step


def answer(as_json: bool, facts: dict[str, Any], lines: list[str]) -> None:
    """Print the answer, for a program or for a person."""
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, default=str, allow_nan=False))
        return
    for line in lines:
        click.echo(line)


@contextmanager
def warnings_told() -> Iterator[None]:
    """What reading labels repaired or left out is said as a note."""
    from geoslave.labels.formats import LabelWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LabelWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, LabelWarning):
            note(str(warning.message))


def note(text: str) -> None:
    """Something worth knowing, on standard error."""
    click.echo(f"{click.style('Note:', fg='yellow')} {text}", err=True)


def parse_date(_context: click.Context, _option: click.Parameter, value: str | None) -> date | None:
    """A date given as YYYY-MM-DD."""
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"'{value}' is no date: write it as YYYY-MM-DD") from None


def _bands(_context: click.Context, _option: click.Parameter, value: str | None) -> dict[str, int] | None:
    if value is None:
        return None
    try:
        pairs = [part.split("=") for part in value.split(",")]
        return {name.strip().lower(): int(number) for name, number in pairs}
    except ValueError:
        raise click.BadParameter(f"'{value}' is not understood: write it as red=3,green=2,blue=1") from None


def _nodata(_context: click.Context, _option: click.Parameter, value: str | None) -> float | str | None:
    if value is None or value.lower() == "none":
        return value and "none"
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"'{value}' is neither a number nor 'none'") from None
