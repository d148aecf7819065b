"""Hatch's build hook: a wheel carries OpenLayers for the review page, fetched from npm and checked by its hash."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class FetchWeb(BuildHookInterface):  # type: ignore[type-arg]
    """Without a connection the build goes on: the page then says what is missing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        spec = importlib.util.spec_from_file_location("fetch_web", root / "scripts" / "fetch_web.py")
        assert spec is not None and spec.loader is not None
        fetch_web = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fetch_web)
        try:
            fetch_web.fetch(root / "geoslave" / "review" / "web" / "vendor")
        except fetch_web.FetchError as error:
            self.app.display_warning(str(error))
