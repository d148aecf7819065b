"""`geoslave review`: tasks, votes, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import (
    DISTANCE,
    PATH,
    SHARE,
    answer,
    example,
    json_option,
    note,
    progress,
    scene_options,
)

if TYPE_CHECKING:
    import geopandas as gpd

    from geoslave.review.store import Store
    from geoslave.review.verdicts import Outcome
    from geoslave.review.zooniverse import Tally

DATABASE = "review.sqlite"
DESIGNS = ("triage", "census+audit", "stratified", "random")
PLACES = ("zooniverse", "mapswipe")


class _Group(click.Group):
    """Loads the page's commands when they are used."""

    _PAGE = ("serve", "invite")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["create", *self._PAGE, "consensus", "export", "import", "verify"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._PAGE:
            from geoslave.cli import review_serve

            command: click.Command | None = getattr(review_serve, cmd_name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(
    "review",
    cls=_Group,
    epilog=example(
        "geoslave review create kilns.gpkg --scenes scenes/ --out kilns-review",
        "geoslave review serve kilns-review",
        "geoslave review consensus kilns-review --out verdicts",
    ),
)
def command() -> None:
    """Let people look at detections, and bring back what they say."""


review_argument = click.argument("review", metavar="REVIEW")
pictures_option = click.option(
    "--pictures", type=PATH, metavar="DIR", help="Folder the pictures lie in, where REVIEW is a PostgreSQL URL."
)


@command.command(
    "create",
    epilog=example(
        "geoslave review create kilns.gpkg --scenes scenes/ --gold known.geojson --out kilns-review",
        "geoslave review create kilns.gpkg --scenes scenes/ --design census+audit -n 300 --out kilns-audit",
        "geoslave review create kilns.gpkg --scenes 2026/ --before 2020/ --urgent 'school_m<800' --out urgent",
        "geoslave review create regions/bihar --design census+audit -n 300 --out bihar-review",
    ),
)
@click.argument("detections", type=PATH)
@click.option("--scenes", type=PATH, multiple=True, help="The rasters, or folders of them; a region knows its own.")
@click.option("--before", type=PATH, multiple=True, help="Rasters of an earlier date, to swipe between.")
@click.option("--out", type=PATH, required=True, help="The review's folder.")
@click.option("--design", type=click.Choice(DESIGNS), default="triage", show_default=True, help="How tasks are drawn.")
@click.option("--kind", type=click.Choice(["validate", "search"]), help="Detections or tiles, of --design random.")
@click.option("-n", "n", type=click.IntRange(1), help="Tasks; of census+audit the tiles without a detection.")
@click.option("--gold", type=PATH, help="Known places: outlines, with a column presence (yes, no) if you have it.")
@click.option(
    "--gold-share", type=click.FloatRange(0, 0.5), default=0.1, show_default=True, help="Known places among tasks."
)
@click.option(
    "--unflagged-share",
    type=click.FloatRange(0, 0.5),
    default=0.1,
    show_default=True,
    help="Tasks that show ground without a detection.",
)
@click.option("--urgent", multiple=True, metavar="RULE", help="On top of a triage, e.g. 'school_m<800'.")
@click.option("--tile", "tile_m", type=click.FloatRange(50, 20_000), default=1_000, show_default=True, help="Metres.")
@click.option("--votes", type=click.IntRange(1, 50), default=3, show_default=True, help="Each task gets so many.")
@click.option("--min-confidence", type=SHARE, help="Leave out detections below.")
@click.option("--looking-for", metavar="WORDS", help="What reviewers are asked about, e.g. 'brick kiln'.")
@click.option("--database", metavar="URL", help="postgresql://user@host/name; else a file in the folder.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same tasks.")
@scene_options
@json_option
def create(
    detections: Path,
    scenes: tuple[Path, ...],
    before: tuple[Path, ...],
    out: Path,
    design: str,
    kind: Any,
    n: int | None,
    gold: Path | None,
    gold_share: float,
    unflagged_share: float,
    urgent: tuple[str, ...],
    tile_m: float,
    votes: int,
    min_confidence: float | None,
    looking_for: str | None,
    database: str | None,
    seed: int,
    bands: dict[str, int] | None,
    crs: str | None,
    nodata: Any,
    as_json: bool,
) -> None:
    """Make tasks of DETECTIONS (a layer, or a region: its latest run) and the scenes they were found in.

    Designs: triage asks about the most useful detections first (uncertain, large, new, near what a rule protects);
    stratified about as many of every confidence; random about detections or tiles at random; census+audit shows
    every tile with a detection and a random sample of the others. Each task keeps its stratum and its chance of
    having been drawn.
    """
    from geoslave.cli.review_region import of_region
    from geoslave.detections.export import filter_detections, read_detections
    from geoslave.imagery.geotiff import Reading
    from geoslave.imagery.scenefolder import find_scenes
    from geoslave.review.create import Options, create_review

    region = None if detections.is_file() else of_region(str(detections))
    if region is None and not scenes:
        raise click.UsageError("--scenes is missing: the rasters the detections were found in")
    if region is not None:
        detections = region.detections
        bands, crs, nodata = bands or region.bands, crs or region.crs, nodata or region.nodata
    table = read_detections(detections / "detections.gpkg" if detections.is_dir() else detections)
    if min_confidence is not None:
        table = filter_detections(table, min_confidence)
    fill = None if nodata in (None, "none") else float(nodata)
    options = Options(
        design=design,
        kind=kind,
        n=n,
        unflagged_share=unflagged_share,
        gold_share=gold_share,
        urgent=urgent,
        tile_m=tile_m,
        votes=votes,
        seed=seed,
        looking_for=looking_for or "",
        reading=Reading(numbers=bands, crs=crs, nodata=fill, trust_all=nodata == "none"),
    )
    paths, older = ([scene.path for part in given for scene in find_scenes(part)] for given in (scenes, before))
    if region is not None and not scenes:
        paths = list(region.scenes)
    known = None if gold is None else _gold(gold)
    with progress(as_json) as step:
        made = create_review(table, paths, out, options, before=older, gold=known, database=database, step=step)
    for text in made.notes:
        note(text)
    facts = {"folder": str(out), **{name: getattr(made, name) for name in made.__slots__}}
    lines = [
        f"{made.tasks} tasks ({made.validate} validate, {made.search} search; {made.gold} gold, {made.tutorial} of "
        f"them in the tutorial) with {made.pictures} pictures  ->  {out}",
        *(f"  {name}: {count}" for name, count in made.strata.items()),
        f"  next:  geoslave review serve {out}",
    ]
    answer(as_json, facts, lines)


def _gold(path: Path) -> gpd.GeoDataFrame:
    import pyogrio

    from geoslave.errors import LabelError

    if not path.is_file():
        raise LabelError(f"{path} is not there: check the name")
    try:
        return pyogrio.read_dataframe(path)
    except Exception as error:  # every driver has its own errors
        raise LabelError(f"{path} cannot be read as a layer: {' '.join(str(error).split())}") from error


@command.command("consensus", epilog=example("geoslave review consensus kilns-review --out verdicts"))
@review_argument
@click.option("--out", type=PATH, required=True, help="A folder for the tables and the layer.")
@click.option(
    "--merge-distance",
    "merge_m",
    type=DISTANCE,
    default=50.0,
    show_default=True,
    metavar="METRES",
    help="Marks of different reviewers so close are one site.",
)
@json_option
def consensus(review: str, out: Path, merge_m: float, as_json: bool) -> None:
    """Bring the votes of a REVIEW (folder, file or PostgreSQL URL) together.

    Writes verdicts.csv (geoslave calibrate reads it), tiles.csv, votes.csv and gold.csv (geoslave estimate reads
    them), reviewers.csv and verdicts.gpkg for QGIS. Probabilities come from Dawid-Skene with gold; marks of searches
    this close are one site.
    """
    from geoslave.files import refuse_existing
    from geoslave.review.verdicts import outcome

    refuse_existing(out, overwrite=False)
    with open_review(review) as store:
        found = outcome(store, merge_m=merge_m)
    written = _write(found, out)
    for text in found.consensus.warnings:
        note(text)
    facts = _facts(found) | {"folder": str(out), "files": written, "warnings": list(found.consensus.warnings)}
    answer(as_json, facts, _lines(found, out))


def _write(found: Outcome, out: Path) -> list[str]:
    from geoslave.detections import qgis
    from geoslave.detections.qgislayers import fields, write_layer
    from geoslave.files import scratch_folder

    with scratch_folder(out) as draft:
        for name, table in (("verdicts", found.verdicts), ("tiles", found.tiles)):
            if len(table):
                table.drop(columns="geometry").to_csv(draft / f"{name}.csv", index=False)
                write_layer(table, draft / "verdicts.gpkg", name, qgis.verdicts_qml(fields(table)), name)
        if len(found.sites):
            found.sites.to_file(draft / "verdicts.gpkg", layer="sites", engine="pyogrio")
        found.consensus.reviewers.to_csv(draft / "reviewers.csv", index=False)
        found.votes.to_csv(draft / "votes.csv", index=False)
        if len(found.gold):
            found.gold.to_csv(draft / "gold.csv", index=False)
        names = sorted(path.name for path in draft.iterdir())
        draft.rename(out)
    return names


def _facts(found: Outcome) -> dict[str, Any]:
    import math

    everything = found.consensus.verdicts
    kappa = found.consensus.kappa
    return {
        "verdicts": len(found.verdicts),
        "tiles": int((found.tiles["n_votes"] > 0).sum()) if len(found.tiles) else 0,
        "sites": int(found.sites["counts"].sum()),
        "unanswered": found.n_unanswered,
        "answers": {str(name): int(n) for name, n in found.verdicts["answer"].value_counts().items()},
        "status": {str(name): int(n) for name, n in everything["status"].value_counts().items()},
        "kappa": None if math.isnan(kappa) else kappa,
        "reviewers": len(found.consensus.reviewers),
    }


def _lines(found: Outcome, out: Path) -> list[str]:
    facts = _facts(found)
    kappa = "not defined" if facts["kappa"] is None else f"{facts['kappa']:.2f}"
    told = ", ".join(f"{n} {name}" for name, n in facts["answers"].items()) or "none"
    lines = [f"verdicts on {facts['verdicts']} detections ({told})  ->  {out}"]
    if len(found.tiles):
        lines.append(f"  {facts['sites']} sites on {facts['tiles']} tiles that were searched")
    lines += [
        f"  tasks: {', '.join(f'{n} {name}' for name, n in facts['status'].items())}; {facts['unanswered']} unanswered",
        f"  {facts['reviewers']} reviewers, agreement (Fleiss' kappa) {kappa}",
    ]
    return lines


@command.command("verify", epilog=example("geoslave review verify kilns-review"))
@review_argument
@json_option
def verify(review: str, as_json: bool) -> None:
    """Check that no vote of a REVIEW was changed, taken out or slipped in."""
    from dataclasses import asdict

    with open_review(review) as store:
        check = store.verify()
    lines = [
        f"the chain holds: {check.records} records, {check.votes} votes that stand",
        f"  its end: {check.head}  (write it down elsewhere: a chain that was cut shows by it)",
    ]
    answer(as_json, asdict(check), lines)


@command.command(
    "export",
    epilog=example(
        "geoslave review export kilns-review --to zooniverse --out subject-set",
        "geoslave review export kilns-review --to mapswipe --out project --base-url https://example.org/pictures/",
    ),
)
@review_argument
@click.option("--to", "to", type=click.Choice(PLACES), required=True, help="Where tasks go.")
@click.option("--out", type=PATH, required=True, help="A folder; of outlines a .geojson.")
@pictures_option
@click.option("--base-url", default="", help="MapSwipe: where the pictures will be found.")
@click.option("--outlines", is_flag=True, help="MapSwipe: outlines instead of pictures. It tells where the sites are.")
@click.option("--purpose", help="With --outlines: why coordinates leave the house.")
@click.option("--recipient", help="With --outlines: who gets them.")
@json_option
def export(
    review: str,
    to: str,
    out: Path,
    pictures: Path | None,
    base_url: str,
    outlines: bool,
    purpose: str | None,
    recipient: str | None,
    as_json: bool,
) -> None:
    """Make the tasks of a REVIEW ready for Zooniverse or MapSwipe.

    Nothing but pictures and opaque ids is in it. Keep the review: votes come back by these ids.
    """
    from geoslave.review import mapswipe, zooniverse

    if outlines and (to != "mapswipe" or not (purpose and recipient)):
        raise click.UsageError("--outlines is of MapSwipe, and needs --purpose and --recipient: they are kept")
    folder = pictures or (Path(review) if Path(review).is_dir() else Path(review).parent)
    with open_review(review) as store:
        tasks = [task for task in store.tasks() if not task.tutorial]
        if to == "zooniverse":
            n = zooniverse.export(tasks, folder, out)
        elif outlines:
            n = mapswipe.export_outlines(tasks, {place.task_id: place for place in store.places()}, out)
            _log_export(store, str(purpose), str(recipient), n)
        else:
            n = mapswipe.export_images(tasks, folder, out, base_url)
    answer(as_json, {"tasks": n, "out": str(out), "to": to}, [f"{n} tasks for {to}  ->  {out}"])


def _log_export(store: Store, purpose: str, recipient: str, n: int) -> None:
    from datetime import UTC, datetime

    entry = {"at": datetime.now(UTC).isoformat(), "purpose": purpose, "recipient": recipient, "outlines": n}
    store.set_setting("exports", [*store.setting("exports", []), entry])


@command.command(
    "import",
    epilog=example(
        "geoslave review import kilns-review classifications.csv --from zooniverse",
        "geoslave review import kilns-review agg_results.csv --from mapswipe --answer 4=offset",
    ),
)
@review_argument
@click.argument("file", type=PATH)
@click.option("--from", "origin", type=click.Choice(PLACES), required=True, help="Where answers come from.")
@click.option("--answer", "answers", multiple=True, metavar="WORDS=ANSWER", help="What volunteers pressed.")
@click.option("--workflow", metavar="ID", help="Zooniverse: only this workflow.")
@json_option
def import_votes(
    review: str, file: Path, origin: str, answers: tuple[str, ...], workflow: str | None, as_json: bool
) -> None:
    """Take votes from a FILE of Zooniverse (classifications) or MapSwipe (results) into a REVIEW.

    Imported again, nothing counts twice. What was left out is told with its reason.
    """
    from geoslave.review import mapswipe, zooniverse
    from geoslave.review.zooniverse import Tally

    tally = Tally()
    words = dict(_words(text) for text in answers)
    with open_review(review) as store:
        tasks = {task.task_id: task for task in store.tasks()}
        if origin == "zooniverse":
            votes = zooniverse.read_votes(file, tasks, tally, answers=words, workflow=workflow)
        else:
            votes = mapswipe.read_votes(file, tasks, tally, answers=words)
        kept, left = store.import_votes(votes)
    for why, n in left.items():
        tally.leave(why, n)
    facts = {"read": tally.n_read, "votes": kept, "people": tally.n_people, "left": tally.left}
    answer(as_json, facts | {"versions": tally.versions}, _told(tally, kept))


def _told(tally: Tally, kept: int) -> list[str]:
    lines = [f"{kept} votes of {tally.n_people} people, from {tally.n_read} rows"]
    lines += [f"  left out: {n} ({why})" for why, n in sorted(tally.left.items(), key=lambda item: -item[1])]
    if len(tally.versions) > 1:
        lines.append("  workflow versions: " + ", ".join(f"{name} ({n})" for name, n in sorted(tally.versions.items())))
    return lines


def _words(text: str) -> tuple[str, str]:
    from geoslave.review.tasks import ANSWERS

    words, _, meaning = text.rpartition("=")
    if not words or meaning not in ANSWERS:
        raise click.UsageError(f"--answer '{text}' is not understood: write WORDS=ANSWER, one of {', '.join(ANSWERS)}")
    return words.strip().lower(), meaning


def open_review(review: str) -> Store:
    """The store of a review: its folder, its database file, or a PostgreSQL URL."""
    from geoslave.review.store import open_store
    from geoslave.review.tasks import ReviewError

    if "://" in review:
        return open_store(review)
    path = Path(review)
    path = path / DATABASE if path.is_dir() else path
    if not path.is_file():
        raise ReviewError(f"{path} is not there: give a folder that `geoslave review create` made, or a database")
    return open_store(path)
