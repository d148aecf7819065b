"""`geoslave search review` and `geoslave search train`: the page of a campaign, and the model it leads to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoslave.cli.common import PATH, answer, example, json_option, note, progress

if TYPE_CHECKING:
    from geoslave.search.campaign import Campaign
    from geoslave.search.index import ChipIndex
    from geoslave.targets import Target

PORT = 8010
campaign_argument = click.argument("campaign", type=PATH, metavar="CAMPAIGN")


@click.command(
    "review",
    epilog=example(
        "geoslave search review regions/delta/camps --like ten_camps.geojson --target fish_camp",
        "geoslave search review regions/delta/camps",
    ),
)
@campaign_argument
@click.option("--like", type=PATH, help="Places of the kind that is sought, to begin with: any layer or CSV of points.")
@click.option("--unlike", type=PATH, help="Places that look alike and are not.")
@click.option("--target", help="What is sought: a preset (geoslave targets list) or your own .yaml file.")
@click.option("--page-size", type=click.IntRange(4, 60), default=20, show_default=True, help="Chips of a page.")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Where it listens.")
@click.option("--open", "in_browser", is_flag=True, help="Open the page in this computer's browser.")
def review(
    campaign: Path,
    like: Path | None,
    unlike: Path | None,
    target: str | None,
    page_size: int,
    port: int,
    in_browser: bool,
) -> None:
    """Look through chips page by page: one key a chip, each page better than the one before.

    CAMPAIGN is a name in an index: INDEX/NAME (or REGION/NAME, where the region was indexed). It is begun with --like
    and --target, and gone on with by its name. The page is for this computer alone (127.0.0.1). Each round says how
    many sites were found, how many may remain, and whether going on is worth it; when enough is known, a model is
    trained from the page or with  geoslave search train.
    """
    from geoslave.cli.serving import listening, serve_until_stopped
    from geoslave.search.app import create_app, training_command
    from geoslave.search.lock import alone
    from geoslave.search.pages import Desk

    if like is None and unlike is not None:
        raise click.UsageError("--unlike goes with --like: a campaign begins with examples")
    opened = _opened(campaign, like, unlike, target, page_size)
    with alone(opened.folder, "its page is open already: close that one first"), listening("127.0.0.1", port) as door:
        opened = open_campaign_at(campaign)  # whoever had it may have answered more
        sought = target_of(opened, target)
        for line in doubts(opened.index, sought):
            note(line)
        app = create_app(Desk(opened, sought), training_command(opened.folder))
        address = f"http://127.0.0.1:{port}"
        click.echo(f"The page of the search is at {address}")
        click.echo("Press Ctrl-C to stop: every answer is kept, and the page stays as it is.")
        if in_browser:
            click.launch(address)
        try:
            serve_until_stopped(app, door)
        finally:
            app.state.training.stop()
    click.echo(f"Stopped. Go on with  geoslave search review {campaign}")


@click.command(
    "train",
    epilog=example(
        "geoslave search train regions/delta/camps",
        "geoslave search train regions/delta/camps --start-from none --steps 1000",
    ),
)
@campaign_argument
@click.option("--target", help="What was sought, where the campaign does not say.  [default: the campaign's]")
@click.option(
    "--start-from",
    metavar="MODEL",
    help="Weights to start from: a model, imagenet, or none.  [default: the target's; imagenet for fish camps]",
)
@click.option(
    "--steps", type=click.IntRange(1, 1_000_000), help="Steps of training.  [default: the target's, else 400]"
)
@click.option("--threads", type=click.IntRange(1), help="Threads to compute with.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed trains the same model."
)
@click.option("--few", is_flag=True, help="Train with fewer sites than the least that is advised (for trying out).")
@click.option("--look/--no-look", default=True, show_default=True, help="Run the model over the index's scenes.")
@json_option
def train(
    campaign: Path,
    target: str | None,
    start_from: str | None,
    steps: int | None,
    threads: int | None,
    seed: int,
    few: bool,
    look: bool,
    as_json: bool,
) -> None:
    """Train a model on what a CAMPAIGN has taught, run it over the scenes, and ask about what it is unsure of.

    Points grow to the target's footprint, drawn outlines stay as they were drawn, and chips without a site are learned
    as such; what nobody answered is not learned. With too little to learn from it says what is missing. Beside the
    campaign then lie model/, detections.gpkg, training/ (what was learned from, and the recipe), and the page of
    `geoslave search review` shows what the model was unsure of.
    """
    from geoslave.search.labels import Marks, label_table
    from geoslave.search.lock import alone
    from geoslave.search.training import train_campaign

    opened = open_campaign_at(campaign)
    sought = target_of(opened, target)
    known = opened.known()
    table = label_table(opened.index.chips, known, Marks(opened.folder).current(), sought)  # type: ignore[arg-type]
    work = opened.folder / "training"
    work.mkdir(exist_ok=True)
    with alone(work, "it is being trained already: wait for that"), progress(as_json) as bar:
        trained = train_campaign(
            opened.index,
            table,
            sought,
            opened.folder,
            name=_model_name(opened.name),
            answered=known,
            start_from=start_from,
            steps=steps,
            threads=threads,
            seed=seed,
            detect=look,
            **({"least": (1, 1)} if few else {}),
            tell=note,
            step=_watched(opened.folder, bar),
        )
    for line in trained.notes:
        note(line)
    measured = (
        ""
        if trained.held_out_f1 is None
        else f", F1 {trained.held_out_f1:.2f} on {trained.held_out_sites} sites put aside"
    )
    lines = [
        f"trained on {trained.taught.in_words()}, from {trained.start_from}, in {trained.seconds / 60:.1f} minutes"
        f"{measured}  ->  {trained.model}",
        f"it finds {trained.detections} places; about {trained.unsure} chips it is unsure:  "
        f"geoslave search review {campaign}",
    ]
    answer(as_json, trained.to_dict(), lines)


def open_campaign_at(path: Path) -> Campaign:
    """A campaign by its folder, or by INDEX/NAME.

    Raises:
        SearchError: if there is none.
    """
    from geoslave.search.campaign import open_campaign
    from geoslave.search.index import open_index

    index, name = _index_and_name(path)
    return open_campaign(open_index(index), name)


def target_of(campaign: Campaign, given: str | None) -> Target:
    """What a campaign seeks: as given now, as given before, else as it was begun. Kept beside the campaign.

    Raises:
        GeoslaveError: if nobody said, or it is no target.
    """
    from geoslave.region.layout import write_whole
    from geoslave.search import SearchError
    from geoslave.search.campaign import TARGET
    from geoslave.targets import get_target, read_target, target_yaml

    kept = campaign.folder / TARGET
    if given is None and kept.is_file():
        return read_target(kept)
    named = given or campaign.settings.get("target")
    if not named:
        raise SearchError(f"campaign {campaign.name} names no target: say what is sought with --target")
    target = get_target(str(named))
    write_whole(kept, target_yaml(target).encode())
    return target


def doubts(index: ChipIndex, target: Target) -> list[str]:
    """What speaks against finding a target in an index: imagery too coarse, a season's other date missing."""
    told = []
    gsd = float(index.facts["reading"]["gsd_m"])
    if gsd > 1.25 * target.gsd_m:
        told.append(
            f"a {target.title} shows in imagery of {target.gsd_m:g} m or finer; the index has {gsd:g} m: look for it "
            "in finer imagery"
        )
    if target.dates > max(1, index.chips["date"].nunique()):
        told.append(
            f"a {target.title} is told from what looks like it by {target.dates} dates; the index has fewer: index a "
            "scene of another season too"
        )
    return told


def _opened(path: Path, like: Path | None, unlike: Path | None, target: str | None, page_size: int) -> Campaign:
    """A campaign that is there, or a new one where there are examples."""
    from geoslave.cli.search_index import read_places
    from geoslave.search.campaign import start_campaign
    from geoslave.search.index import open_index
    from geoslave.targets import get_target

    if like is None:
        return open_campaign_at(path)
    if target is None:
        raise click.UsageError("--like begins a campaign: say with --target what is sought (geoslave targets list)")
    sought = get_target(target)
    index, name = _index_and_name(path)
    campaign = start_campaign(
        open_index(index),
        name,
        read_places(like, sought),
        None if unlike is None else read_places(unlike, sought),
        target=sought,
        page_size=page_size,
    )
    for line in campaign.settings["notes"]:
        note(line)
    return campaign


def _index_and_name(path: Path) -> tuple[Path, str]:
    """INDEX/NAME or INDEX/campaigns/NAME."""
    folder = path.parent
    return (folder.parent if folder.name == "campaigns" else folder), path.name


def _model_name(campaign: str) -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in campaign.lower()).strip("-")
    return name or "search"


def _watched(folder: Path, bar: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """Progress for a terminal, and once a second in a file for the page."""
    from geoslave.region.layout import write_json

    last = 0.0

    def step(stage: str, done: int, total: int) -> None:
        nonlocal last
        bar(stage, done, total)
        if time.monotonic() - last >= 1 or done == total:
            last = time.monotonic()
            write_json(folder / "training.json", {"stage": stage, "done": done, "total": total})

    return step
