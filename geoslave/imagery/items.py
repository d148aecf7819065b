"""What a STAC item says: its day, its place, its cloud; and which items are wanted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urljoin

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from geoslave.errors import GeoslaveError, MissingExtra, SceneError
from geoslave.imagery.assets import OF_A_FILE, image_assets
from geoslave.imagery.geotiff import Reading, open_scene, shown_path
from geoslave.imagery.patient import edge_on, environment

if TYPE_CHECKING:
    import pystac

FOOTPRINT_EDGE_PX = 2
"""Footprints told in longitude and latitude are widened by so many pixels."""

Area: TypeAlias = gpd.GeoSeries | BaseGeometry
"""Polygons in longitude and latitude."""
Dates: TypeAlias = tuple[date | None, date | None]
"""First and last day, both included; None where a span is open."""


def day_of(item: pystac.Item) -> date | None:
    """The day an item was taken, in local solar time, so that one pass over a place is one day."""
    moment = item.datetime
    if moment is None or item.properties.get("geoslave:date_known") is False:
        return None
    longitude = 0.0
    if item.bbox and not item.properties.get(OF_A_FILE):
        longitude = (item.bbox[0] + item.bbox[-len(item.bbox) // 2]) / 2
    return (moment + timedelta(hours=longitude / 15)).date()


def item_crs(item: pystac.Item) -> CRS | None:
    """The CRS of an item's imagery; None if it does not say."""
    for fields in (item.properties, *(asset.extra_fields for asset in image_assets(item).values())):
        code = fields.get("proj:code") or fields.get("proj:epsg")
        if code:
            return _crs(str(code) if ":" in str(code) else f"EPSG:{code}")
        for name in ("proj:wkt2", "proj:projjson"):
            if fields.get(name):
                value = fields[name]
                return _crs(value if isinstance(value, str) else json.dumps(value))
    return None


def item_geobox(item: pystac.Item, gsd: float | None = None) -> GeoBox | None:
    """The grid of an item's imagery, if it says; of several, the one whose pixels are nearest to `gsd`."""
    crs = item_crs(item)
    if crs is None:
        return None
    grids = []
    for fields in (*(asset.extra_fields for asset in image_assets(item).values()), item.properties):
        shape = fields.get("proj:shape") or item.properties.get("proj:shape")
        transform = fields.get("proj:transform") or item.properties.get("proj:transform")
        if shape and transform:
            grids.append(GeoBox(tuple(int(n) for n in shape), Affine(*(float(v) for v in transform[:6])), crs))
    if not grids:
        return None
    wanted = gsd or min(abs(grid.affine.a) for grid in grids)
    return min(grids, key=lambda grid: abs(math.log(max(abs(grid.affine.a), 1e-12) / wanted)))


def footprint_on(item: pystac.Item, geobox: GeoBox) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) in pixels of a grid in which an item may have pixels; all of it if nobody knows."""
    rows, cols = geobox.shape
    own = item_geobox(item)
    edge = 0 if own is not None and own.crs == geobox.crs else FOOTPRINT_EDGE_PX
    if own is None:
        outline = outline_of(item)
        if outline is None:
            return 0, 0, rows, cols
        west, south, east, north = outline.bounds
        own = GeoBox((1, 1), Affine(east - west, 0, west, 0, south - north, north), "OGC:CRS84")
    x, y = edge_on(own, geobox)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return 0, 0, rows, cols
    top, bottom = math.floor(y.min() + 1e-6) - edge, math.ceil(y.max() - 1e-6) + edge
    left, right = math.floor(x.min() + 1e-6) - edge, math.ceil(x.max() - 1e-6) + edge
    return max(top, 0), max(left, 0), min(bottom, rows), min(right, cols)


def with_projection(item: pystac.Item) -> pystac.Item:
    """The item; if it does not say its projection, a copy that does, read from the header of its first image.

    Raises:
        SceneError: if the image cannot be opened.
    """
    if item_crs(item) is not None:
        return item
    images = image_assets(item)
    if not images:
        raise SceneError(f"the item {item.id} has neither a projection nor an image to read it from: leave it out")
    asset = next(iter(images.values()))
    href = asset.get_absolute_href() or asset.href
    with environment(href), open_scene(href, Reading(trust_all=True)) as scene:
        told = projection_fields(scene.geobox)
    copy = item.clone()
    copy.properties |= told
    return copy


def choose_items(
    items: Iterable[pystac.Item],
    aoi: Area | None = None,
    dates: Dates | None = None,
    max_cloud: float | None = None,
    limit: int | None = None,
) -> list[pystac.Item]:
    """Items that meet an area, a span of days (both included) and a cloud cover in percent, sorted.

    Items that do not say their cloud cover or day are kept.

    Args:
        limit: keep at most so many for a place (a tile of the product's own grid), those with the least
            cloud, then the newest.
    """
    check_dates(dates)
    area = None if aoi is None else as_area(aoi)
    if area is not None:
        shapely.prepare(area)
    kept = [
        item
        for item in items
        if _in_area(item, area) and _in_dates(item, dates) and (max_cloud is None or cloud_cover(item) <= max_cloud)
    ]
    return _fewest_clouds(kept, limit)


def outline_of(item: pystac.Item) -> BaseGeometry | None:
    """The footprint of an item in longitude and latitude."""
    if item.geometry:
        return shapely.make_valid(shapely.from_geojson(json.dumps(item.geometry)))
    if item.bbox:
        half = len(item.bbox) // 2
        return shapely.box(item.bbox[0], item.bbox[1], item.bbox[half], item.bbox[half + 1])
    return None


def as_area(aoi: Area) -> BaseGeometry:
    """One shape in longitude and latitude."""
    if isinstance(aoi, gpd.GeoSeries | gpd.GeoDataFrame):
        return shapely.make_valid(aoi.to_crs("OGC:CRS84").geometry.union_all())
    return shapely.make_valid(aoi)


def cloud_cover(item: pystac.Item) -> float:
    value = item.properties.get("eo:cloud_cover")
    return 0.0 if value is None else float(value)


def by_id(item: pystac.Item) -> tuple[str, str]:
    return item.id, item.collection_id or ""


def check_dates(dates: Dates | None) -> None:
    if dates is not None and dates[0] is not None and dates[1] is not None and dates[0] > dates[1]:
        raise GeoslaveError(f"the dates are reversed ({dates[0]} to {dates[1]}): give the earlier one first")


def _in_area(item: pystac.Item, area: BaseGeometry | None) -> bool:
    outline = outline_of(item)
    return area is None or outline is None or bool(area.intersects(outline))


def _in_dates(item: pystac.Item, dates: Dates | None) -> bool:
    moment = item.datetime
    if dates is None or moment is None:
        return True
    day = moment.astimezone(UTC).date()
    return (dates[0] is None or dates[0] <= day) and (dates[1] is None or day <= dates[1])


def _fewest_clouds(items: list[pystac.Item], limit: int | None) -> list[pystac.Item]:
    if limit is None:
        return sorted(items, key=by_id)
    places: dict[str, list[pystac.Item]] = {}
    for item in items:
        places.setdefault(_place(item), []).append(item)
    kept = []
    for same in places.values():
        newest = sorted(same, key=lambda item: (str(item.datetime), item.id), reverse=True)
        kept += sorted(newest, key=cloud_cover)[:limit]
    return sorted(kept, key=by_id)


def _place(item: pystac.Item) -> str:
    """The tile of a product's own grid; "" where it has none."""
    told = item.properties
    for key in ("grid:code", "s2:mgrs_tile"):
        if told.get(key):
            return str(told[key])
    parts = [told.get(f"mgrs:{key}") for key in ("utm_zone", "latitude_band", "grid_square")]
    return "".join(map(str, parts)) if all(parts) else ""


def projection_fields(geobox: GeoBox) -> dict[str, Any]:
    epsg = geobox.crs.epsg
    told: dict[str, Any] = {"proj:code": None if epsg is None else f"EPSG:{epsg}"}
    if epsg is None:
        told["proj:wkt2"] = geobox.crs.to_wkt()
    return told | {"proj:shape": list(geobox.shape), "proj:transform": list(geobox.affine)[:6]}


def item_from(content: Any, source: str) -> pystac.Item:
    stac = pystac_module()
    try:
        return stac.Item.from_dict(content, migrate=True)
    except Exception as error:  # whatever a broken item makes pystac raise
        raise SceneError(f"{source} holds something that is no STAC item ({one_line(error)}): mend it") from error


def make_absolute(item: pystac.Item, base: str) -> None:
    for asset in item.assets.values():
        href = asset.href
        if "://" in href or href.startswith("/"):
            continue
        if "://" in base:
            own = next((link.href for link in item.links if link.rel == "self"), None)
            asset.href = urljoin(own or base, href)
        else:
            asset.href = str((Path(base).absolute().parent / href).resolve())


def one_line(error: BaseException) -> str:
    """An error on one line, without what an address may keep secret."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"\S+://\S+", lambda match: shown_path(match[0]), text)
    return text if len(text) <= 200 else text[:200] + "..."


@lru_cache(maxsize=64)
def _crs(text: str) -> CRS:
    return CRS(text)


def pystac_module() -> Any:
    try:
        import pystac
    except ImportError as error:
        raise MissingExtra("a list of scenes (STAC)", "region") from error
    return pystac
