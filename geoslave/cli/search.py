"""`geoslave search`."""

from __future__ import annotations

import click

from geoslave.cli.common import example
from geoslave.cli.lazy import LazyGroup

COMMANDS = {
    "index": ("geoslave.cli.search_index", "index", "Embed every chip of a region once."),
    "query": ("geoslave.cli.search_index", "query", "Rank chips by how much they look like some places."),
    "status": ("geoslave.cli.search_index", "status", "How far a search is, and whether going on is worth it."),
    "review": ("geoslave.cli.search_review", "review", "Look through chips page by page: one key a chip."),
    "train": ("geoslave.cli.search_review", "train", "Train a model on what a campaign has taught, and look with it."),
}


@click.group(
    "search",
    cls=LazyGroup,
    found_in=COMMANDS,
    epilog=example(
        "geoslave search index delta",
        "geoslave search query regions/delta --like ten_camps.geojson --out ranked.gpkg",
        "geoslave search review regions/delta/camps --like ten_camps.geojson --target fish_camp",
        "geoslave search train regions/delta/camps",
    ),
)
def command() -> None:
    """A new kind of site from a few examples: find more like these, look, train, look again."""
