"""STAC items of raster files: where, when and what, and by which a replaced file is noticed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from geoslave.errors import SceneError
from geoslave.imagery.assets import OF_A_FILE, common_name
from geoslave.imagery.geotiff import Reading, Scene, open_scene
from geoslave.imagery.items import by_id, projection_fields, pystac_module
from geoslave.imagery.patient import edge_on, is_remote

if TYPE_CHECKING:
    import pystac

RASTER_ENDINGS = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""What is taken for imagery in a folder."""
STATE = "geoslave:state"
"""Field of an asset: what changes when its file is replaced."""
TIMEOUT_S = 60

_EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)


def local_items(
    paths: Iterable[str | Path], *, crs: str | None = None, nodata: float | None = None
) -> list[pystac.Item]:
    """STAC items of rasters: folders (searched through), VRTs, single files, or their addresses.

    Each item has its projection, its bands by common name, its day (by the file's tags or name) and its
    state. An undeclared fill found at the border is kept as its nodata.

    Raises:
        SceneError: if a path holds no raster, or one cannot be read.
    """
    found: list[str] = []
    for path in paths:
        found += _rasters(str(path))
    items = []
    for path in dict.fromkeys(found):
        with open_scene(path, Reading(crs=crs, nodata=nodata)) as scene:
            items.append(_item_of(scene, path))
    return _with_different_ids(items)


def asset_state(href: str) -> str | None:
    """What changes when a file is replaced: size and time of change, or a server's ETag; None if nobody tells.

    Raises:
        SceneError: if the file is not there any more.
    """
    if not is_remote(href):
        path = Path(href.removeprefix("file://"))
        try:
            facts = path.stat()
        except OSError as error:
            raise SceneError(f"{path} is not there any more ({error.strerror}): list the scenes anew") from error
        return f"{facts.st_size}-{facts.st_mtime_ns}"
    if not href.startswith(("http://", "https://")):
        return None
    with suppress(URLError, OSError, ValueError), urlopen(Request(href, method="HEAD"), timeout=TIMEOUT_S) as answer:
        told = answer.headers
        tag = told.get("ETag") or told.get("Last-Modified")
        return None if tag is None else f"{told.get('Content-Length')}-{tag}"
    return None


def changed_assets(item: pystac.Item) -> list[str]:
    """Keys of the assets whose file is not the one the item was made from."""
    return [
        key
        for key, asset in sorted(item.assets.items())
        if (was := asset.extra_fields.get(STATE)) is not None and asset_state(asset.href) != was
    ]


def _rasters(path: str) -> list[str]:
    folder = Path(path)
    if "://" in path or path.startswith("/vsi") or not folder.is_dir():
        return [path if "://" in path or path.startswith("/vsi") else str(folder.absolute())]
    found = sorted(
        str(file.absolute())
        for file in folder.rglob("*")
        if file.suffix.lower() in RASTER_ENDINGS and not any(part.startswith(".") for part in file.parts)
    )
    if not found:
        raise SceneError(f"{path} holds no raster ({', '.join(RASTER_ENDINGS)}): give the folder with the scenes")
    return found


def _item_of(scene: Scene, path: str) -> pystac.Item:
    stac = pystac_module()
    outline = _lonlat_outline(scene.geobox, scene.path)
    known = scene.date is not None
    properties: dict[str, Any] = {**projection_fields(scene.geobox), OF_A_FILE: True, "geoslave:date_known": known}
    taken = None if scene.date is None else datetime.combine(scene.date, time(), UTC)
    if taken is None:
        # STAC wants a time: some day before the file was made
        properties |= {"start_datetime": "1900-01-01T00:00:00Z", "end_datetime": _made(path)}
    item = stac.Item(
        scene.scene_id,
        shapely.geometry.mapping(outline),
        list(outline.bounds),
        taken,
        properties,
        stac_extensions=list(_EXTENSIONS),
    )
    fields: dict[str, Any] = {"bands": _bands(scene)}
    if (state := asset_state(path)) is not None:
        fields[STATE] = state
    if not is_remote(path):
        fields["file:size"] = Path(path).stat().st_size
    item.add_asset("image", stac.Asset(path, media_type=_media_type(path), roles=["data"], extra_fields=fields))
    return item


def _bands(scene: Scene) -> list[dict[str, Any]]:
    """Bands as STAC 1.1 has them."""
    bands = []
    facts = zip(scene.bands, scene.validity.nodata, scene.scales, scene.offsets, strict=True)
    for name, nodata, scale, offset in facts:
        band: dict[str, Any] = {"name": name, "data_type": scene.dtype}
        if (common := common_name(name)) is not None:
            band["eo:common_name"] = common
        if nodata is not None:
            band["nodata"] = nodata if math.isfinite(nodata) else str(nodata)
        if (scale, offset) != (1, 0):
            band |= {"raster:scale": scale, "raster:offset": offset}
        bands.append(band)
    return bands


def _lonlat_outline(geobox: GeoBox, path: str) -> BaseGeometry:
    x, y = edge_on(geobox, GeoBox((1, 1), Affine.identity(), "OGC:CRS84"))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise SceneError(f"{path} lies where its CRS gives no longitude and latitude: check its CRS")
    return shapely.MultiPoint(np.column_stack([x, y])).convex_hull


def _made(path: str) -> str:
    moment = datetime.now(UTC)
    with suppress(OSError):
        moment = datetime.fromtimestamp(Path(path).stat().st_mtime, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _media_type(path: str) -> str:
    kinds = {".vrt": "application/x-vrt", ".jp2": "image/jp2", ".img": "application/x-raster"}
    return kinds.get(Path(path.split("?")[0]).suffix.lower(), "image/tiff; application=geotiff")


def _with_different_ids(items: list[pystac.Item]) -> list[pystac.Item]:
    """Files of one name in different folders get a number each, by their path."""
    named: dict[str, list[pystac.Item]] = {}
    for item in items:
        named.setdefault(item.id, []).append(item)
    for name, same in named.items():
        for n, item in enumerate(sorted(same, key=lambda item: item.assets["image"].href)):
            item.id = name if len(same) == 1 else f"{name}_{n + 1}"
    return sorted(items, key=by_id)
