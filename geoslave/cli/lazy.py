"""Groups of commands that load a command when it is used: `geoslave --help` answers at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that knows where its commands are, and what they are for, before they are loaded."""

    def __init__(self, *arguments: Any, found_in: Mapping[str, tuple[str, str, str]], **more: Any) -> None:
        """
        Args:
            found_in: for each command its module, its name there, and a line about it.
        """
        super().__init__(*arguments, **more)
        self._found_in = found_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._found_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._found_in:
            return None
        module, name, _ = self._found_in[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, _, told) in self._found_in.items()])
