"""Scenes as STAC items: from files, from a static catalogue, from a STAC API; and the grids they are read on.

Whatever way scenes are found, they are kept as one JSON file an item, sorted by id, so that the same
question gives the same files. An item made from a local file has its projection (STAC extension
`projection`), its bands, its day, and `geoslave:state`, by which a replaced file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer as Projection
from shapely.geometry.base import BaseGeometry

from geoslave.errors import GeoslaveError, MissingExtra, SceneError
from geoslave.files import atomic_file
from geoslave.imagery.aoi import DENSIFY_DEGREES
from geoslave.imagery.assets import OF_A_FILE, common_name, image_assets
from geoslave.imagery.geotiff import SAME_GSD, Reading, Scene, ground_sampling_distance, open_scene, shown_path
from geoslave.imagery.patient import PAUSES_S, edge_on, environment, is_remote

if TYPE_CHECKING:
    import pystac

RASTER_ENDINGS = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""What is taken for imagery in a folder."""
STATE = "geoslave:state"
"""Field of an asset: what changes when its file is replaced."""
TIMEOUT_S = 60
MOST_ITEMS = 100_000
"""A search that finds more is taken for a mistake."""
LONELY_EDGE_PX = 2
"""Footprints told in longitude and latitude are widened by so many pixels."""

_EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
_AGENT = "geoslave"

Area: TypeAlias = gpd.GeoSeries | BaseGeometry


# ---------------------------------------------------------------- kept on disk


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
        with atomic_file(folder / name, overwrite=True) as draft:
            draft.write_text(text + "\n", encoding="utf-8")
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
    return sorted((_item(_json(path.read_text(encoding="utf-8"), str(path)), str(path)) for path in files), key=_by_id)


# ---------------------------------------------------------------- files


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


# ---------------------------------------------------------------- catalogues


def read_catalogue(place: str | Path) -> list[pystac.Item]:
    """Items of a static STAC catalogue, collection, item collection or item, by file or address.

    Raises:
        SceneError: if it cannot be read or is none.
    """
    pystac = _pystac()
    place = str(place)
    shown = shown_path(place)
    content = _json(_text(place), shown)
    kind = content.get("type")
    if kind == "FeatureCollection":
        items = [_item(feature, shown) for feature in content.get("features", [])]
        for item in items:
            _make_absolute(item, place)
    elif kind == "Feature":
        items = [_item(content, shown)]
        _make_absolute(items[0], place)
    elif kind in ("Catalog", "Collection"):
        try:
            found = pystac.read_file(place)
            items = list(found.get_items(recursive=True))
            for item in items:
                item.make_asset_hrefs_absolute()
        except Exception as error:  # whatever pystac makes of a broken link
            raise SceneError(
                f"{shown} names something that cannot be read ({_line(error)}): mend the catalogue"
            ) from error
    else:
        raise SceneError(f"{shown} is no STAC catalogue, collection or item (its type is {kind!r}): give one")
    if not items:
        raise SceneError(f"{shown} holds no item: give a catalogue with scenes")
    return sorted(items, key=_by_id)


def choose_items(
    items: Iterable[pystac.Item],
    aoi: Area | None = None,
    dates: tuple[date | None, date | None] | None = None,
    max_cloud: float | None = None,
    limit: int | None = None,
) -> list[pystac.Item]:
    """Items that meet an area, a span of days (both included) and a cloud cover in percent, sorted.

    Items that do not say their cloud cover or day are kept.

    Args:
        limit: keep at most so many for a place (a tile of the product's own grid), those with the least
            cloud, then the newest.
    """
    _check_dates(dates)
    area = None if aoi is None else _area(aoi)
    if area is not None:
        shapely.prepare(area)
    kept = [
        item
        for item in items
        if _in_area(item, area) and _in_dates(item, dates) and (max_cloud is None or _cloud(item) <= max_cloud)
    ]
    return _fewest_clouds(kept, limit)


def search_items(
    api_url: str,
    collection: str,
    aoi: Area,
    dates: tuple[date | None, date | None] | None = None,
    max_cloud: float | None = None,
    limit: int | None = None,
) -> list[pystac.Item]:
    """Items of a STAC API that meet an area, days (both included) and a cloud cover (percent), sorted.

    The server is asked with what it says it understands; what it answers is checked again here. Pages
    are followed to the end. A server that is busy (429, 502, 503, 504) is asked again, a few times.

    Args:
        limit: see `choose_items`.

    Raises:
        SceneError: if the address is no STAC API, has no such collection, or no item fits; then the
            message says what was searched and what might help.
    """
    _check_dates(dates)
    area = _area(aoi)
    client = _client(api_url)
    _check_collection(client, api_url, collection)
    asked = _ask(client, api_url, collection, area, dates, max_cloud)
    found = choose_items(asked, area, dates, max_cloud, limit)
    if found:
        return found
    raise SceneError(_nothing_found(client, api_url, collection, area, dates, max_cloud))


# ---------------------------------------------------------------- what an item says


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
    edge = 0 if own is not None and own.crs == geobox.crs else LONELY_EDGE_PX
    if own is None:
        outline = _outline(item)
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
        told = _projection(scene.geobox)
    copy = item.clone()
    copy.properties |= told
    return copy


# ---------------------------------------------------------------- grids


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
    area = _ground(items) if aoi_lonlat is None else _area(aoi_lonlat)
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
    outline = _outline(item)
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
    outline = _outline(item)
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
    outlines = [outline for outline in map(_outline, items) if outline is not None]
    return shapely.union_all(outlines) if outlines else shapely.box(-180, -90, 180, 90)


def _outline(item: pystac.Item) -> BaseGeometry | None:
    """The footprint of an item in longitude and latitude."""
    if item.geometry:
        return shapely.make_valid(shapely.from_geojson(json.dumps(item.geometry)))
    if item.bbox:
        half = len(item.bbox) // 2
        return shapely.box(item.bbox[0], item.bbox[1], item.bbox[half], item.bbox[half + 1])
    return None


def _polygons(shape: BaseGeometry) -> BaseGeometry:
    """What of a shape has an area."""
    pieces = [part for part in shapely.get_parts(shape) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(pieces) if pieces else shapely.Polygon()


def _area(aoi: Area) -> BaseGeometry:
    """One shape in longitude and latitude."""
    if isinstance(aoi, gpd.GeoSeries | gpd.GeoDataFrame):
        return shapely.make_valid(aoi.to_crs("OGC:CRS84").geometry.union_all())
    return shapely.make_valid(aoi)


# ---------------------------------------------------------------- items of files


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
    pystac = _pystac()
    outline = _lonlat_outline(scene.geobox, scene.path)
    known = scene.date is not None
    properties: dict[str, Any] = {**_projection(scene.geobox), OF_A_FILE: True, "geoslave:date_known": known}
    taken = None if scene.date is None else datetime.combine(scene.date, time(), UTC)
    if taken is None:
        # STAC wants a time: some day before the file was made
        properties |= {"start_datetime": "1900-01-01T00:00:00Z", "end_datetime": _made(path)}
    item = pystac.Item(
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
    item.add_asset("image", pystac.Asset(path, media_type=_media_type(path), roles=["data"], extra_fields=fields))
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


def _projection(geobox: GeoBox) -> dict[str, Any]:
    epsg = geobox.crs.epsg
    told: dict[str, Any] = {"proj:code": None if epsg is None else f"EPSG:{epsg}"}
    if epsg is None:
        told["proj:wkt2"] = geobox.crs.to_wkt()
    return told | {"proj:shape": list(geobox.shape), "proj:transform": list(geobox.affine)[:6]}


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
    by_id: dict[str, list[pystac.Item]] = {}
    for item in items:
        by_id.setdefault(item.id, []).append(item)
    for name, same in by_id.items():
        for n, item in enumerate(sorted(same, key=lambda item: item.assets["image"].href)):
            item.id = name if len(same) == 1 else f"{name}_{n + 1}"
    return sorted(items, key=_by_id)


# ---------------------------------------------------------------- STAC APIs


def _client(api_url: str) -> Any:
    try:
        import pystac_client
        from pystac_client.stac_api_io import StacApiIO
        from urllib3 import Retry
    except ImportError as error:
        raise MissingExtra("searching a STAC API", "region") from error
    retry = Retry(
        total=len(PAUSES_S),
        connect=2,
        backoff_factor=min(PAUSES_S),
        status_forcelist=[429, 502, 503, 504],
        allowed_methods=None,
        raise_on_status=False,
    )
    try:
        return pystac_client.Client.open(api_url, stac_io=StacApiIO(max_retries=retry, timeout=TIMEOUT_S))
    except Exception as error:  # requests, JSON and pystac each have their own
        raise SceneError(_no_api(api_url, error)) from error


def _no_api(api_url: str, error: BaseException) -> str:
    shown = shown_path(api_url)
    text = _line(error)
    if isinstance(error, ValueError) or "JSON" in text or "Expecting value" in text or "<html" in text.lower():
        return (
            f"{shown} is no STAC API (it answered something that is no JSON, perhaps a web page): give the API's root"
        )
    return f"{shown} cannot be asked ({text}): check the address and the network"


def _check_collection(client: Any, api_url: str, collection: str) -> None:
    try:
        names = sorted(one.id for one in client.get_collections())
    except Exception:  # an API without a list of collections can be searched all the same
        return
    if names and collection not in names:
        from difflib import get_close_matches

        near = get_close_matches(collection, names, n=3, cutoff=0.4) or names[:8]
        raise SceneError(
            f"{shown_path(api_url)} has no collection '{collection}': take one of {', '.join(near)}"
            + (f" (it has {len(names)})" if len(names) > len(near) else "")
        )


def _ask(
    client: Any,
    api_url: str,
    collection: str,
    area: BaseGeometry,
    dates: tuple[date | None, date | None] | None,
    max_cloud: float | None,
) -> list[pystac.Item]:
    """All items a server gives, page after page."""
    question: dict[str, Any] = {
        "collections": [collection],
        # many vertices make servers refuse; the exact area is asked of the answer
        "intersects": json.loads(shapely.to_geojson(area.convex_hull)),
        "limit": 100,
        "max_items": MOST_ITEMS,
        "method": _method(client),
    }
    if dates is not None:
        question["datetime"] = "/".join(_ends(dates))
    if max_cloud is not None and client.conforms_to("QUERY"):
        question["query"] = {"eo:cloud_cover": {"lte": max_cloud}}
    elif max_cloud is not None and client.conforms_to("FILTER"):
        question["filter"] = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, max_cloud]}
    try:
        items = list(client.search(**question).items())
    except Exception as error:  # requests, JSON and pystac each have their own
        raise SceneError(_no_api(api_url, error)) from error
    for item in items:
        _make_absolute(item, api_url)
    return items


def _method(client: Any) -> str:
    """How a server wants to be searched; one that says nothing takes POST."""
    methods = {str(link.extra_fields.get("method", "GET")).upper() for link in client.get_links("search")}
    return "POST" if not methods or "POST" in methods else "GET"


def _nothing_found(
    client: Any,
    api_url: str,
    collection: str,
    area: BaseGeometry,
    dates: tuple[date | None, date | None] | None,
    max_cloud: float | None,
) -> str:
    west, south, east, north = area.bounds
    searched = f"{collection} at {shown_path(api_url)}, {west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N"
    if dates is not None:
        searched += f", {dates[0] or 'the beginning'} to {dates[1] or 'today'}"
    if max_cloud is None:
        return f"no scene found: searched {searched}; try other dates, or another collection"
    cloudy = choose_items(_ask(client, api_url, collection, area, dates, None), area, dates)
    if cloudy:
        least = min(map(_cloud, cloudy))
        return (
            f"no scene with at most {max_cloud:g} % cloud: searched {searched}; there are {len(cloudy)} with more "
            f"cloud, the clearest with {least:.0f} %: allow more cloud or try other dates"
        )
    return f"no scene found: searched {searched}, also with more cloud; try other dates, or another collection"


# ---------------------------------------------------------------- small things


def _check_dates(dates: tuple[date | None, date | None] | None) -> None:
    if dates is not None and dates[0] is not None and dates[1] is not None and dates[0] > dates[1]:
        raise GeoslaveError(f"the dates are reversed ({dates[0]} to {dates[1]}): give the earlier one first")


def _ends(dates: tuple[date | None, date | None]) -> tuple[str, str]:
    first, last = dates
    return (f"{first}T00:00:00Z" if first else "..", f"{last}T23:59:59Z" if last else "..")


def _in_area(item: pystac.Item, area: BaseGeometry | None) -> bool:
    outline = _outline(item)
    return area is None or outline is None or bool(area.intersects(outline))


def _in_dates(item: pystac.Item, dates: tuple[date | None, date | None] | None) -> bool:
    moment = item.datetime
    if dates is None or moment is None:
        return True
    day = moment.astimezone(UTC).date()
    return (dates[0] is None or dates[0] <= day) and (dates[1] is None or day <= dates[1])


def _cloud(item: pystac.Item) -> float:
    value = item.properties.get("eo:cloud_cover")
    return 0.0 if value is None else float(value)


def _fewest_clouds(items: list[pystac.Item], limit: int | None) -> list[pystac.Item]:
    if limit is None:
        return sorted(items, key=_by_id)
    places: dict[str, list[pystac.Item]] = {}
    for item in items:
        places.setdefault(_place(item), []).append(item)
    kept = []
    for same in places.values():
        newest = sorted(same, key=lambda item: (str(item.datetime), item.id), reverse=True)
        kept += sorted(newest, key=_cloud)[:limit]
    return sorted(kept, key=_by_id)


def _place(item: pystac.Item) -> str:
    """The tile of a product's own grid; "" where it has none."""
    told = item.properties
    for key in ("grid:code", "s2:mgrs_tile"):
        if told.get(key):
            return str(told[key])
    parts = [told.get(f"mgrs:{key}") for key in ("utm_zone", "latitude_band", "grid_square")]
    return "".join(map(str, parts)) if all(parts) else ""


def _by_id(item: pystac.Item) -> tuple[str, str]:
    return item.id, item.collection_id or ""


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


def _item(content: Any, source: str) -> pystac.Item:
    pystac = _pystac()
    try:
        return pystac.Item.from_dict(content, migrate=True)
    except Exception as error:  # whatever a broken item makes pystac raise
        raise SceneError(f"{source} holds something that is no STAC item ({_line(error)}): mend it") from error


def _make_absolute(item: pystac.Item, base: str) -> None:
    for asset in item.assets.values():
        href = asset.href
        if "://" in href or href.startswith("/"):
            continue
        if "://" in base:
            own = next((link.href for link in item.links if link.rel == "self"), None)
            asset.href = urljoin(own or base, href)
        else:
            asset.href = str((Path(base).absolute().parent / href).resolve())


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
        raise SceneError(f"{shown} cannot be read ({_line(error)}): check the name") from error


def _line(error: BaseException) -> str:
    """An error on one line, without what an address may keep secret."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"\S+://\S+", lambda match: shown_path(match[0]), text)
    return text if len(text) <= 200 else text[:200] + "..."


@lru_cache(maxsize=64)
def _crs(text: str) -> CRS:
    return CRS(text)


def _pystac() -> Any:
    try:
        import pystac
    except ImportError as error:
        raise MissingExtra("a list of scenes (STAC)", "region") from error
    return pystac
