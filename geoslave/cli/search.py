"""`geoslave search`."""

from __future__ import annotations

import importlib

import click

from geoslave.cli.common import example

COMMANDS = {
    "index": ("geoslave.cli.search_index", "index", "Embed every chip of a region once."),
    "query": ("geoslave.cli.search_index", "query", "Rank chips by how much they look like some places."),
    "status": ("geoslave.cli.search_index", "status", "How far a search is, and whether going on is worth it."),
    "review": ("geoslave.cli.search_review", "review", "Look through chips page by page: one key a chip."),
    "train": ("geoslave.cli.search_review", "train", "Train a model on what a campaign has taught, and look with it."),
}


class _Commands(click.Group):
    """Finds a command's file when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, _, told) in COMMANDS.items()])


@click.group(
    "search",
    cls=_Commands,
    epilog=example(
        "geoslave search index delta",
        "geoslave search query regions/delta --like ten_camps.geojson --out ranked.gpkg",
        "geoslave search review regions/delta/camps --like ten_camps.geojson --target fish_camp",
        "geoslave search train regions/delta/camps",
    ),
)
def command() -> None:
    """A new kind of site from a few examples: find more like these, look, train, look again."""
