"""The options of `geoslave region export --stac`, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geoslave.cli.common import PATH
from geoslave.release.exportlog import NAME as LOG_NAME

if TYPE_CHECKING:
    from geoslave.region.layout import RegionFolder

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Wish:
    """A catalogue that is asked for."""

    folder: Path
    purpose: str
    recipient: str
    log: Path
    with_scenes: bool


def stac_options(function: Function) -> Function:
    """Where a catalogue goes, for whom and for what."""
    for option in (
        click.option("--log", type=PATH, help=f"For --stac: the log of releases. [default: {LOG_NAME} beside DIR]"),
        click.option("--with-scenes", is_flag=True, help="For --stac: copy scenes that are files of this machine."),
        click.option("--recipient", metavar="WHO", help="For --stac: who gets it."),
        click.option("--purpose", metavar="WORDS", help="For --stac: what it is for."),
        click.option("--stac", type=PATH, metavar="DIR", help="A STAC catalogue of the run; it holds exact places."),
    ):
        function = option(function)
    return function


def take_wish(options: dict[str, Any]) -> Wish | None:
    """What these options ask for; they are taken out of `options`.

    Raises:
        click.UsageError: if one is missing, or given without --stac.
    """
    folder, purpose, recipient, log, with_scenes = (
        options.pop(name) for name in ("stac", "purpose", "recipient", "log", "with_scenes")
    )
    if folder is None:
        if purpose or recipient or log or with_scenes:
            raise click.UsageError("--purpose, --recipient, --log and --with-scenes belong to --stac")
        return None
    if not (purpose and recipient):
        raise click.UsageError(
            "--stac needs --purpose and --recipient: a catalogue holds exact places; who gets it, and for what?"
        )
    log = log or folder.absolute().parent / LOG_NAME
    if folder.absolute() in log.absolute().parents:
        raise click.UsageError("--log lies in the catalogue: keep it elsewhere")
    return Wish(folder, purpose, recipient, log, with_scenes)


def write_catalogue(
    region: RegionFolder, wish: Wish, allow_gaps: bool, overwrite: bool, facts: dict[str, Any], lines: list[str]
) -> int:
    """Write it, and add to facts and lines; returns how many blocks are missing."""
    from geoslave.region.stac import export_catalogue

    made = export_catalogue(
        region,
        wish.folder,
        purpose=wish.purpose,
        recipient=wish.recipient,
        log=wish.log,
        with_scenes=wish.with_scenes,
        allow_gaps=allow_gaps,
        overwrite=overwrite,
    )
    facts |= {
        "run": made.run,
        "blocks_missing": len(made.missing),
        "stac": str(made.folder),
        "release_id": made.release_id,
        "log": str(wish.log),
        "n_scenes": made.n_scenes,
        "n_score_maps": made.n_score_maps,
        "n_detections": made.n_detections,
    }
    lines += [
        f"{made.n_scenes} scenes, {made.n_score_maps} score maps, {made.n_detections} detections  ->  {made.folder}",
        f"  exact places, for {wish.recipient} only: on record in {wish.log}",
    ]
    return len(made.missing)
