"""Hatch's build hook: a wheel carries OpenLayers for the review page, fetched by npm and checked by its hash."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class FetchWeb(BuildHookInterface):  # type: ignore[type-arg]
    """Without a connection the build goes on: the page then says what is missing."""

    def dependencies(self) -> list[str]:
        """npm from PyPI, where it is needed and the machine has none."""
        fetch_web = self._fetch_web()
        return [] if fetch_web.is_there(self._folder()) or fetch_web.npm() else [fetch_web.NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        fetch_web = self._fetch_web()
        try:
            fetch_web.fetch(self._folder())
        except fetch_web.FetchError as error:
            self.app.display_warning(str(error))

    def _folder(self) -> Path:
        return Path(self.root) / "geoslave" / "review" / "web" / "vendor"

    def _fetch_web(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("fetch_web", Path(self.root) / "scripts" / "fetch_web.py")
        assert spec is not None and spec.loader is not None
        fetch_web = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fetch_web)
        return fetch_web
