"""Scenes as STAC items: from files, from a static catalogue, from a STAC API.

Whatever way scenes are found, they are kept as one JSON file an item, sorted by id, so that the same
question gives the same files. What an item says stands in `items`, the grids that scenes are read on
in `zones`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from geoslave.errors import OutputError, SceneError
from geoslave.imagery.geotiff import shown_path
from geoslave.imagery.items import (
    by_id,
    choose_items,
    day_of,
    item_crs,
    item_from,
    item_geobox,
    make_absolute,
    one_line,
    pystac_module,
    with_projection,
)
from geoslave.imagery.scenefiles import asset_state, changed_assets, local_items
from geoslave.imagery.stacsearch import search_items
from geoslave.imagery.zones import zone_grids, zone_parts

if TYPE_CHECKING:
    import pystac

__all__ = [
    "asset_state",
    "changed_assets",
    "choose_items",
    "day_of",
    "item_crs",
    "item_geobox",
    "load_items",
    "local_items",
    "read_catalogue",
    "save_items",
    "search_items",
    "with_projection",
    "zone_grids",
    "zone_parts",
]

TIMEOUT_S = 60
_AGENT = "geoslave"


def save_items(items: Iterable[pystac.Item], folder: Path) -> list[Path]:
    """Keep items as one JSON file each; items of an earlier search are removed.

    Raises:
        OutputError: if the folder cannot be written to.
    """
    kept: dict[str, pystac.Item] = {}
    for item in sorted(items, key=lambda item: item.id):
        kept[_file_name(item.id, kept)] = item
    for name, item in kept.items():
        text = json.dumps(_lasting(item), indent=1, sort_keys=True, ensure_ascii=False)
        _write_whole(folder / name, text + "\n")
    for old in folder.glob("*.json"):
        if old.name not in kept:
            old.unlink()
    return [folder / name for name in kept]


def load_items(folder: Path) -> list[pystac.Item]:
    """The items kept in a folder, sorted by id.

    Raises:
        SceneError: if there is none, or a file is damaged.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise SceneError(f"{folder} holds no scene: list or search scenes first with  geoslave region scenes")
    return sorted(
        (item_from(_json(path.read_text(encoding="utf-8"), str(path)), str(path)) for path in files), key=by_id
    )


def read_catalogue(place: str | Path) -> list[pystac.Item]:
    """Items of a static STAC catalogue, collection, item collection or item, by file or address.

    Raises:
        SceneError: if it cannot be read or is none.
    """
    stac = pystac_module()
    place = str(place)
    shown = shown_path(place)
    content = _json(_text(place), shown)
    kind = content.get("type")
    if kind == "FeatureCollection":
        items = [item_from(feature, shown) for feature in content.get("features", [])]
        for item in items:
            make_absolute(item, place)
    elif kind == "Feature":
        items = [item_from(content, shown)]
        make_absolute(items[0], place)
    elif kind in ("Catalog", "Collection"):
        try:
            found = stac.read_file(place)
            items = list(found.get_items(recursive=True))
            for item in items:
                item.make_asset_hrefs_absolute()
        except Exception as error:  # whatever pystac makes of a broken link
            raise SceneError(
                f"{shown} names something that cannot be read ({one_line(error)}): mend the catalogue"
            ) from error
    else:
        raise SceneError(f"{shown} is no STAC catalogue, collection or item (its type is {kind!r}): give one")
    if not items:
        raise SceneError(f"{shown} holds no item: give a catalogue with scenes")
    return sorted(items, key=by_id)


def _file_name(item_id: str, taken: Iterable[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", item_id).lstrip(".")[:150] or "item"
    if plain != item_id or f"{plain}.json" in taken:
        plain = f"{plain}-{hashlib.sha256(item_id.encode()).hexdigest()[:8]}"
    n, name = 2, f"{plain}.json"
    while name in taken:
        n, name = n + 1, f"{plain}-{n}.json"
    return name


def _lasting(item: pystac.Item) -> dict[str, Any]:
    """An item as it is kept: without links, which led to where it was found."""
    content: dict[str, Any] = item.to_dict(include_self_link=False, transform_hrefs=False)
    return {**content, "links": []}


def _write_whole(path: Path, text: str) -> None:
    """A file that is complete under its name; unlike `atomic_file` it lists no folder, which may hold thousands."""
    draft = path.with_name(f".~{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}): free some space") from error
    finally:
        draft.unlink(missing_ok=True)


def _json(text: str, source: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        kind = "a web page" if text.lstrip()[:1] == "<" else "no JSON"
        raise SceneError(f"{source} is {kind}, no STAC: give a STAC catalogue, collection or item") from error
    if not isinstance(content, dict):
        raise SceneError(f"{source} is no STAC catalogue, collection or item: give one")
    return content


def _text(place: str) -> str:
    shown = shown_path(place)
    try:
        if "://" in place:
            with urlopen(Request(place, headers={"User-Agent": _AGENT}), timeout=TIMEOUT_S) as answer:
                return str(answer.read().decode("utf-8", errors="replace"))
        return Path(place).read_text(encoding="utf-8")
    except (HTTPError, URLError, OSError, UnicodeDecodeError) as error:
        raise SceneError(f"{shown} cannot be read ({one_line(error)}): check the name") from error
