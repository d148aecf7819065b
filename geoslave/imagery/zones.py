"""The grids on which a region's scenes are read: one for each UTM zone (or national grid).

A site at the border of two zones is seen in both grids, because each reaches a halo beyond its zone.
It counts in one: in the grid whose part (`zone_parts`) holds its representative point.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer as Projection
from shapely.geometry.base import BaseGeometry

from geoslave.errors import SceneError
from geoslave.imagery.aoi import DENSIFY_DEGREES
from geoslave.imagery.geotiff import SAME_GSD, ground_sampling_distance
from geoslave.imagery.items import Area, as_area, item_crs, item_geobox, outline_of

if TYPE_CHECKING:
    import pystac


def zone_grids(
    items: Sequence[pystac.Item],
    aoi_lonlat: Area | None,
    gsd_m: float,
    *,
    margin_px: int = 128,
    anchor_px: int = 1,
) -> dict[str, GeoBox]:
    """One grid per CRS in which scenes are read, by its EPSG code ("EPSG:32645").

    Scenes in a projected CRS in whose pixels a metre is a metre keep it, most often their UTM zone; others
    (longitude and latitude, Web Mercator) are brought to the UTM zones they lie in. Each grid covers the
    area that its zone answers for (`zone_parts`) and `margin_px` pixels around it: the halo, so that a
    site at the border of two zones is seen whole in the grid that answers for it.

    Where there are no scenes there is no grid.

    A grid's pixels lie on multiples of the GSD, or, where all scenes of a zone share another lattice of
    about this GSD, on theirs: then they are read without resampling. The area chooses the extent, and
    never moves a pixel. With `anchor_px` the extent begins at multiples of so many pixels: with a job's
    block size, blocks do not move either.

    Args:
        aoi_lonlat: polygons in longitude and latitude; None takes all the scenes' ground.

    Raises:
        SceneError: if an item does not say its projection, or the area does not meet the scenes.
    """
    ground = _ground(items)
    seen = {code: part.intersection(ground) for code, part in zone_parts(items, aoi_lonlat, gsd_m).items()}
    return {
        code: _grid(_lattice(items, code, gsd_m), part, margin_px, anchor_px)
        for code, part in seen.items()
        if part.area > 0
    }


def zone_parts(items: Sequence[pystac.Item], aoi_lonlat: Area | None, gsd_m: float) -> dict[str, BaseGeometry]:
    """The part of an area (longitude, latitude) that each grid answers for: together all of it, none twice.

    A site counts in the grid whose part holds its representative point. Between UTM zones parts end at
    the zones' common meridian; ground in a zone without scenes goes to the next zone that has some.

    Raises:
        SceneError: as `zone_grids`.
    """
    if not items:
        raise SceneError("no scene: nothing says on which grid to work; find scenes with  geoslave region scenes")
    codes = sorted({code for item in items for code in _work_codes(item, gsd_m)})
    area = _ground(items) if aoi_lonlat is None else as_area(aoi_lonlat)
    if all(_utm(code) for code in codes):
        parts = {code: _polygons(area.intersection(box)) for code, box in _zone_boxes(codes).items()}
    else:
        parts = _parts_by_scenes(items, codes, area, gsd_m)
    parts = {code: part for code, part in parts.items() if not part.is_empty}
    if not parts or not _ground(items).intersects(area):
        raise SceneError("the area of interest and the scenes do not meet: check both, most often the axes are swapped")
    return parts


def _work_codes(item: pystac.Item, gsd_m: float) -> list[str]:
    """Codes of the CRS in which an item is read."""
    crs = item_crs(item)
    if crs is None:
        raise SceneError(
            f"the item {item.id} does not say its projection (proj:code): "
            "run  geoslave region scenes  again, which reads it from the files"
        )
    outline = outline_of(item)
    if crs.projected and crs.epsg is not None and _metre_is_metre(item, crs, gsd_m):
        return [f"EPSG:{crs.epsg}"]
    if outline is None:
        raise SceneError(f"the item {item.id} has no footprint, so nobody knows its UTM zone: give it a geometry")
    west, south, east, north = outline.bounds
    last = max(_zone(west), _zone(math.nextafter(east, -180)))
    base = 32600 if (south + north) / 2 >= 0 else 32700
    return [f"EPSG:{base + zone}" for zone in range(_zone(west), last + 1)]


def _metre_is_metre(item: pystac.Item, crs: CRS, gsd_m: float) -> bool:
    """True if a length of the CRS is about that length on the ground, where the item lies."""
    outline = outline_of(item)
    if _utm(f"EPSG:{crs.epsg}") or outline is None:
        return True
    middle = outline.centroid
    x, y = Projection.from_crs("OGC:CRS84", str(crs), always_xy=True).transform(middle.x, middle.y)
    if not (math.isfinite(x) and math.isfinite(y)):
        return False
    down, across = ground_sampling_distance(GeoBox((1, 1), Affine(gsd_m, 0, x, 0, -gsd_m, y), crs))
    return all(0.98 <= size / gsd_m <= 1.02 for size in (down, across))


def _utm(code: str) -> bool:
    return re.fullmatch(r"EPSG:32[67](?:0[1-9]|[1-5]\d|60)", code) is not None


def _zone(longitude: float) -> int:
    return min(60, max(1, math.floor((longitude + 180) / 6) + 1))


def _zone_boxes(codes: Sequence[str]) -> dict[str, BaseGeometry]:
    """The world's share of each UTM zone, in longitude and latitude."""
    zones = sorted({int(code[-2:]) for code in codes})
    # half way between the east end of one zone and the west end of the next: for neighbours the meridian they share
    borders = [-180.0, *(-180 + 3 * (west + east - 1) for west, east in pairwise(zones)), 180.0]
    boxes: dict[str, BaseGeometry] = {}
    for zone, (west, east) in zip(zones, pairwise(borders), strict=True):
        north, south = f"EPSG:{32600 + zone}", f"EPSG:{32700 + zone}"
        both = north in codes and south in codes
        if north in codes:
            boxes[north] = shapely.box(west, 0 if both else -90, east, 90)
        if south in codes:
            boxes[south] = shapely.box(west, -90, east, 0 if both else 90)
    return boxes


def _parts_by_scenes(
    items: Sequence[pystac.Item], codes: Sequence[str], area: BaseGeometry, gsd_m: float
) -> dict[str, BaseGeometry]:
    """Parts of an area where scenes are in national grids: each goes to the first CRS with scenes there."""
    parts: dict[str, BaseGeometry] = {}
    left = area
    for code in codes:
        own = [item for item in items if code in _work_codes(item, gsd_m)]
        parts[code] = _polygons(left.intersection(_ground(own)))
        left = left.difference(parts[code])
    parts[codes[0]] = _polygons(parts[codes[0]].union(left))
    return parts


def _lattice(items: Sequence[pystac.Item], code: str, gsd_m: float) -> GeoBox:
    """A pixel of the lattice of a zone: that of its scenes if they share one of about the GSD."""
    plain = GeoBox((1, 1), Affine(gsd_m, 0, 0, 0, -gsd_m, 0), code)
    grids = [item_geobox(item, gsd_m) for item in items if item_crs(item) == plain.crs]
    if not grids or any(grid is None for grid in grids):
        return plain
    known = [grid for grid in grids if grid is not None]
    first = known[0].affine
    size = first.a
    if first.b or first.d or size != -first.e or not 1 / SAME_GSD <= size / gsd_m <= SAME_GSD:
        return plain
    for grid in known:
        step = ~first @ grid.affine
        if max(abs(step.a - 1), abs(step.b), abs(step.d), abs(step.e - 1)) > 1e-9:
            return plain
        if max(abs(step.c - round(step.c)), abs(step.f - round(step.f))) > 1e-3:
            return plain
    return GeoBox((1, 1), Affine(size, 0, first.c % size, 0, -size, first.f % size), code)


def _grid(lattice: GeoBox, part: BaseGeometry, margin_px: int, anchor_px: int) -> GeoBox:
    """The window of a lattice that covers a part of the earth with a margin."""
    shape = gpd.GeoSeries([part], crs="OGC:CRS84").segmentize(DENSIFY_DEGREES).to_crs(str(lattice.crs))
    bounds = np.asarray(shape.total_bounds)
    if not np.isfinite(bounds).all():
        raise SceneError(f"the area of interest does not lie where {lattice.crs} is good for: check its coordinates")
    inverse = ~lattice.affine
    left, top = inverse @ (bounds[0], bounds[3])
    right, bottom = inverse @ (bounds[2], bounds[1])
    col, row = (math.floor((v - margin_px) / anchor_px) * anchor_px for v in (left, top))
    width, height = math.ceil(right + margin_px) - col, math.ceil(bottom + margin_px) - row
    return GeoBox((height, width), lattice.affine @ Affine.translation(col, row), lattice.crs)


def _ground(items: Iterable[pystac.Item]) -> BaseGeometry:
    outlines = [outline for outline in map(outline_of, items) if outline is not None]
    return shapely.union_all(outlines) if outlines else shapely.box(-180, -90, 180, 90)


def _polygons(shape: BaseGeometry) -> BaseGeometry:
    """What of a shape has an area."""
    pieces = [part for part in shapely.get_parts(shape) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(pieces) if pieces else shapely.Polygon()
