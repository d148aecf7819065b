"""`geoslave release`: what may leave the house."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, note, overwrite_option
from geoslave.release.exportlog import NAME as LOG_NAME

if TYPE_CHECKING:
    from geoslave.release.cells import Counts, Reviewed


class MakeByDefault(click.Group):
    """`geoslave release LAYER` makes one; `check` and `log` are named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(
    "release",
    cls=MakeByDefault,
    epilog=example(
        "geoslave release kilns.gpkg --out bihar-2026 --author 'Kiln Watch'",
        "geoslave release check bihar-2026 --layer kilns.gpkg",
        "geoslave release log release-log.jsonl",
    ),
)
def command() -> None:
    """Publish counts that give no place away; check a folder before it leaves; see what has left.

    geoslave release LAYER --out FOLDER is short for geoslave release make.
    """


@command.command(
    "make",
    epilog=example(
        "geoslave release kilns.gpkg --out bihar-2026 --author 'Kiln Watch'",
        "geoslave release kilns.gpkg --frame frame.csv --reviews reviews.csv --out bihar-2026 --author 'Kiln Watch'",
        "geoslave release kilns.gpkg --precise --purpose 'site visits' --recipient 'Labour Dept' --out visits",
    ),
)
@click.argument("layer", type=PATH)
@click.option("--out", type=PATH, required=True, help="The folder to make.")
@click.option("--author", "authors", multiple=True, metavar="NAME", help="For the citation; may be given again.")
@click.option("--title", help="What the release is called. [default: made of the kind of site]")
@click.option("--class", "class_name", metavar="NAME", help="Count one class only.")
@click.option("--min-confidence", type=SHARE, default=0.0, help="Leave out detections below.")
@click.option("--frame", type=PATH, help="Tiles with lon and lat, for estimates with intervals; needs --reviews.")
@click.option("--reviews", type=PATH, help="What reviewers found in a sample of the frame's tiles.")
@click.option("--level", type=SHARE, default=0.95, show_default=True, help="Of the intervals.")
@click.option("--resolution", type=click.IntRange(1, 5), help="H3. [default: the finest that shows 80 % of the sites]")
@click.option(
    "--least", "k", type=click.IntRange(5), default=5, show_default=True, help="Fewest sites of a shown cell."
)
@click.option("--precise", is_flag=True, help="Exact places for one recipient; needs --purpose and --recipient.")
@click.option("--purpose", help="What a precise export is for.")
@click.option("--recipient", help="Who gets a precise export.")
@click.option("--log", type=PATH, help=f"What left the house is written here. [default: {LOG_NAME} beside --out]")
@overwrite_option
@json_option
def make_command(layer: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Make a release of LAYER: counts in H3 hexagons of at least 5 sites, for everybody.

    Hexagons are withheld so that subtraction from totals gives nothing away. The folder is made only if the
    linter finds no place, id or path in it. --precise writes exact places instead, marked and logged.
    """
    from geoslave.detections.export import filter_detections, read_detections, read_provenance
    from geoslave.errors import GeoslaveError
    from geoslave.files import refuse_existing

    if not options["precise"] and (options["purpose"] or options["recipient"]):
        raise click.UsageError("--purpose and --recipient belong to --precise: a public release is for everybody")
    if options["precise"] and not (options["purpose"] and options["recipient"]):
        raise click.UsageError("--precise needs --purpose and --recipient: who gets exact places, and for what?")
    if (options["frame"] is None) != (options["reviews"] is None):
        raise click.UsageError("--frame and --reviews go together: the tiles, and what was found in a sample of them")
    refuse_existing(out, options["overwrite"])
    log = options["log"] or out.absolute().parent / LOG_NAME
    if out.absolute() in log.absolute().parents:
        raise click.UsageError("--log lies in the release: it tells what must not leave, keep it elsewhere")
    found = filter_detections(read_detections(layer), options["min_confidence"])
    if options["class_name"]:
        found = found[found["class_name"] == options["class_name"]].reset_index(drop=True)
    if not len(found):
        raise GeoslaveError(f"{layer} holds no detection of that confidence and class: there is nothing to release")
    origin = read_provenance(layer)
    origin["min_confidence"] = max(options["min_confidence"], origin.get("min_confidence") or 0.0)
    if options["precise"]:
        _precise(found, origin, out, log, options, as_json)
    else:
        _public(found, origin, out, log, options, as_json)


def _precise(found: Any, origin: dict[str, Any], out: Path, log: Path, options: dict[str, Any], as_json: bool) -> None:
    from geoslave.release.folder import write_precise

    release_id = write_precise(
        out,
        found,
        origin,
        purpose=options["purpose"],
        recipient=options["recipient"],
        log=log,
        overwrite=options["overwrite"],
    )
    facts = {"out": str(out), "kind": "precise", "release_id": release_id, "n_detections": len(found), "log": str(log)}
    answer(
        as_json, facts, [f"{len(found)} exact places for {options['recipient']}  ->  {out}", f"  on record in {log}"]
    )


def _public(found: Any, origin: dict[str, Any], out: Path, log: Path, options: dict[str, Any], as_json: bool) -> None:
    from geoslave.release.cells import cells_of_detections, count_cells
    from geoslave.release.folder import Paper, today, write_public

    if not options["authors"]:
        raise click.UsageError("--author is missing: who answers for these counts? It goes into the citation")
    counts = count_cells(cells_of_detections(found), options["resolution"], options["k"], _reviewed(options))
    kinds = " and ".join(sorted(set(found["class_name"]))).replace("_", " ")
    paper = Paper(options["title"] or f"Counts of {kinds} sites by hexagon", options["authors"], today())
    release_id = write_public(
        out,
        counts,
        origin,
        paper,
        log=log,
        secrets={*found["detection_id"], *found["scene_id"]},
        user=_user(),
        overwrite=options["overwrite"],
    )
    facts = _facts(counts) | {"out": str(out), "kind": "public", "release_id": release_id, "log": str(log)}
    answer(as_json, facts, _lines(counts, out))
    if not as_json:
        for warning in counts.warnings:
            note(warning)


def _reviewed(options: dict[str, Any]) -> Reviewed | None:
    from geoslave.estimate.tables import read_table
    from geoslave.release.cells import Reviewed

    if options["frame"] is None:
        return None
    return Reviewed(read_table(options["frame"]), read_table(options["reviews"]), options["level"])


def _user() -> str:
    """This machine's user, where the name tells of a person."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return ""
    return "" if len(name) < 4 or name in ("root", "user", "admin", "ubuntu", "runner") else name


def _facts(counts: Counts) -> dict[str, Any]:
    total = counts.total
    return {
        "resolution": counts.resolution,
        "n_cells": len(counts.cells),
        "n_detections": total.n_detections,
        "estimate": total.estimate,
        "low": total.low,
        "high": total.high,
        "share_in_published_cells": round(counts.share_in_cells, 3),
    }


def _lines(counts: Counts, out: Path) -> list[str]:
    total = counts.total
    lines = [f"{total.n_detections:,} detections, {len(counts.cells)} hexagons of resolution {counts.resolution} shown"]
    if total.estimate is not None:
        lines.append(f"  {total.estimate:,} sites  [{total.low:,}, {total.high:,}], {counts.level:.0%} interval")
    lines.append(
        f"  {counts.share_in_cells:.0%} of the detections lie in one that is shown, each holds at least {counts.k}"
    )
    if not counts.cells:
        lines.append("  too few, too far apart: only totals could be shown")
    return [*lines, f"  looked through, nothing found that gives a place away  ->  {out}"]


@command.command("check", epilog=example("geoslave release check bihar-2026 --layer kilns.gpkg"))
@click.argument("folder", type=PATH)
@click.option("--layer", "layers", type=PATH, multiple=True, help="Detections whose ids are searched for too.")
@click.option("--pictures-seen", is_flag=True, help="You have looked at its pictures: none shows a site.")
@json_option
def check_command(folder: Path, layers: tuple[Path, ...], pictures_seen: bool, as_json: bool) -> int:
    """Open every file of FOLDER, packed ones too, and refuse what gives a place away.

    Looked for: coordinates in any writing, ids, local paths, names, small counts, counts left by subtraction,
    changed files. What cannot be opened is refused.
    """
    from geoslave.detections.export import read_detections
    from geoslave.release.lint import lint_folder

    secrets: set[str] = set()
    for layer in layers:
        table = read_detections(layer)
        secrets |= {*table["detection_id"], *table["scene_id"]}
    leaks = lint_folder(folder, secrets, _user(), pictures_seen)
    facts = {"clean": not leaks, "leaks": [{"file": leak.file, "kind": leak.kind, "what": leak.what} for leak in leaks]}
    lines = [str(leak) for leak in leaks]
    verdict = f"{len(leaks)} finding(s): do not publish {folder}" if leaks else f"nothing found in {folder}"
    answer(as_json, facts, [*lines, verdict])
    return 1 if leaks else 0


@command.command("log", epilog=example("geoslave release log release-log.jsonl"))
@click.argument("log", type=PATH)
@json_option
def log_command(log: Path, as_json: bool) -> None:
    """Show what left the house, after checking that no line of LOG was changed or taken out."""
    from geoslave.release.exportlog import read

    entries = read(log)
    lines = [
        f"{entry['logged']}  {entry['kind']:<8} {entry['release_id']}  {entry.get('recipient', 'everybody')}"
        for entry in entries
    ]
    last = entries[-1]["hash"] if entries else None
    answer(
        as_json,
        {"n": len(entries), "last_hash": last, "entries": entries},
        [*lines, f"{len(entries)} whole; last hash {last}"],
    )
