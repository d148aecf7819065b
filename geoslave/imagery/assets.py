"""Which file of a STAC item holds a band, and what its numbers mean.

Bands are found by common name: `bands` (STAC 1.1), `eo:bands` (STAC 1.0), else by the key of the
asset (`red`, `B04`, `B04_10m`). Sentinel-2's conventions live here and nowhere else:

* reflectance = stored * scale + offset, from `raster:bands`, `bands` or the asset's own fields;
* since processing baseline 04.00 (25 January 2022) the stored numbers are 1000 higher, so an offset
  of -0.1 applies where none is declared (ESA, https://sentiwiki.copernicus.eu/web/s2-products);
* `earthsearch:boa_offset_applied: true` says that the 1000 were taken off already: then the declared
  offset, which Earth Search leaves at -0.1, does not apply (Element84/earth-search, issue 9);
* the scene classification layer (SCL) says where no ground is seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geoslave.errors import SceneError
from geoslave.imagery.geotiff import shown_path
from geoslave.imagery.scaling import SENTINEL2_SCALE

if TYPE_CHECKING:
    import pystac

SENTINEL2_OFFSET = -0.1
"""Reflectance to add since processing baseline 04.00 (BOA_ADD_OFFSET -1000 of 10,000)."""
BASELINE_WITH_OFFSET = 4.0

UNSEEN_CLASSES = frozenset({0, 1, 3, 8, 9, 10})
"""SCL classes that show no ground: no data, saturated or defective, cloud shadow, cloud (medium and
high probability), thin cirrus. Kept: dark areas (2), vegetation, soil, water, unclassified (7), snow (11)."""

SENTINEL2_BANDS = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge071": "B05",
    "rededge075": "B06",
    "rededge078": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "swir16": "B11",
    "swir22": "B12",
}
"""STAC's common names and what Sentinel-2 calls these bands."""

OF_A_FILE = "geoslave:file"
"""Property of items that were made from a file: it says itself which band is which."""

_OTHER_NAMES = {"rededge": "rededge071", "rededge1": "rededge071", "rededge2": "rededge075", "rededge3": "rededge078"}
_MASK_KEY = re.compile(r"scl(_\d+m)?$", re.IGNORECASE)
_NO_IMAGERY = {"thumbnail", "overview", "metadata", "graphic", "snow-ice", "cloud"}
_RASTER_ENDINGS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".zarr", ".nc")


@dataclass(frozen=True, slots=True)
class Calibration:
    """measurement = stored * scale + offset."""

    scale: float
    offset: float


@dataclass(frozen=True, slots=True)
class BandAsset:
    """A file of an item and the bands to be read from it."""

    key: str
    href: str
    bands: tuple[str, ...] | None
    """Common names in reading order; None takes every band."""
    numbers: Mapping[str, int] | None
    """Band numbers (from 1) by common name; None: the file tells itself."""
    nodata: float | None
    """As the item declares it."""
    calibration: tuple[Calibration | None, ...] | None
    """Per band, as the item declares it or Sentinel-2 has it; None: as the file declares."""
    declares_pixels: bool
    """The item says what its pixels are (data type, nodata): no fill has to be guessed."""


def band_assets(
    item: pystac.Item, wanted: Sequence[str] | None, numbers: Mapping[str, int] | None = None
) -> tuple[BandAsset, ...]:
    """The files that hold the wanted bands, in the order of the bands.

    A file that holds one band is preferred to one that holds several (a true-colour picture), finer
    to coarser, cloud-optimized to others.

    Args:
        wanted: common names; None takes every band of an item with a single image.
        numbers: band numbers the user gave for items with a single image.

    Raises:
        SceneError: if the item lacks a band.
    """
    images = image_assets(item)
    if not images:
        raise SceneError(f"the item {item.id} has no asset that is a raster: choose another collection")
    if wanted is None and len(images) > 1:
        raise SceneError(f"the item {item.id} keeps its bands in {len(images)} files: say which bands are wanted")
    holders = None if wanted is None else _holders(images, wanted)
    if len(images) == 1 and (holders is None or numbers or item.properties.get(OF_A_FILE)):
        # the file's own descriptions decide, and its error says what is missing
        return (_whole(item, *next(iter(images.items())), wanted, numbers),)
    assert wanted is not None
    if holders is None:
        missing = [name for name in wanted if not _candidates(images, name)]
        raise SceneError(
            f"the item {item.id} has no asset for {' or '.join(missing)} (its assets: {', '.join(sorted(images))}): "
            "choose a collection with these bands"
        )
    return tuple(_part(item, images, key, names) for key, names in holders)


def image_assets(item: pystac.Item) -> dict[str, pystac.Asset]:
    """The assets of an item that are imagery: no thumbnails, no metadata, no classification."""
    return {
        key: asset
        for key, asset in sorted(item.assets.items())
        if _is_raster(asset) and not _MASK_KEY.match(key) and not (_NO_IMAGERY & set(asset.roles or ()))
    }


def mask_asset(item: pystac.Item) -> pystac.Asset | None:
    """The scene classification layer, the finest if there are several."""
    found = [(_gsd(asset), key) for key, asset in item.assets.items() if _MASK_KEY.match(key) and _is_raster(asset)]
    return item.assets[min(found)[1]] if found else None


def bands_of(asset: pystac.Asset) -> list[dict[str, Any]]:
    """What an asset says of its bands, in the terms of STAC 1.0: `eo:bands`, `raster:bands` and `bands` in one."""
    fields = asset.extra_fields
    lists = [fields.get(name) or [] for name in ("bands", "eo:bands", "raster:bands")]
    if not any(lists):
        own = {key: fields[key] for key in ("raster:scale", "raster:offset", "nodata", "data_type") if key in fields}
        lists = [[own] if own else []]
    merged: list[dict[str, Any]] = []
    for n in range(max(map(len, lists))):
        band = {key: fields[key] for key in ("nodata", "data_type") if key in fields}
        for one in lists:
            band |= one[n] if n < len(one) else {}
        merged.append({key.removeprefix("raster:").removeprefix("eo:"): value for key, value in band.items()})
    return merged


def band_name(band: Mapping[str, Any]) -> str | None:
    """The common name of a band as an asset declares it."""
    for name in (band.get("common_name"), band.get("name")):
        if name:
            return common_name(str(name)) or str(name).lower()
    return None


def common_name(name: str) -> str | None:
    """STAC's common name for what a band or an asset is called; None if it is none."""
    plain = re.sub(r"_\d+m$", "", name.strip().lower())
    plain = _OTHER_NAMES.get(plain, plain)
    if plain in SENTINEL2_BANDS:
        return plain
    band = re.fullmatch(r"b0?(\d+a?)", plain)
    number = f"B{band[1].upper().zfill(2)}" if band else None
    return next((common for common, own in SENTINEL2_BANDS.items() if own == number), None)


def calibrations(item: pystac.Item, asset: pystac.Asset, count: int) -> tuple[Calibration | None, ...]:
    """Per band what makes reflectance of the stored numbers; None where nothing is known."""
    declared = bands_of(asset)
    declared = declared if len(declared) >= count else [declared[0] if declared else {}] * count
    return tuple(_calibration(item.properties, band) for band in declared[:count])


def _calibration(properties: Mapping[str, Any], band: Mapping[str, Any]) -> Calibration | None:
    scale, offset = band.get("scale"), band.get("offset")
    if band.get("data_type") == "uint8":
        return None if scale is None else Calibration(float(scale), float(offset or 0))
    applied = next((properties[key] for key in _OFFSET_APPLIED if key in properties), None)
    baseline = _baseline(properties)
    if applied is True:
        offset = 0.0
    elif offset is None and baseline is not None and baseline >= BASELINE_WITH_OFFSET:
        offset = SENTINEL2_OFFSET
    if scale is None and offset is None:
        return None
    default = SENTINEL2_SCALE if baseline is not None or applied is not None else 1.0
    found = Calibration(float(default if scale is None else scale), float(offset or 0))
    return None if found == Calibration(1.0, 0.0) else found


_OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


def _baseline(properties: Mapping[str, Any]) -> float | None:
    """The processing baseline of Sentinel-2 products."""
    for key in ("s2:processing_baseline", "sentinel2:processing_baseline", "sentinel:processing_baseline"):
        if key in properties:
            try:
                return float(properties[key])
            except (TypeError, ValueError):
                return None
    return None


def _holders(images: Mapping[str, pystac.Asset], wanted: Sequence[str]) -> list[tuple[str, list[str]]] | None:
    """Assets and the bands each gives, in the order of the bands; None if a band is nowhere."""
    chosen: list[tuple[str, list[str]]] = []
    for name in wanted:
        found = _candidates(images, name)
        if not found:
            return None
        if chosen and chosen[-1][0] == found[0]:
            chosen[-1][1].append(name)
        else:
            chosen.append((found[0], [name]))
    return chosen


def _candidates(images: Mapping[str, pystac.Asset], wanted: str) -> list[str]:
    """Keys of the assets that hold a band, best first."""
    name = _OTHER_NAMES.get(wanted, wanted)
    found = [key for key, asset in images.items() if name in _names(key, asset)]
    return sorted(found, key=lambda key: _rank(key, images[key]))


def _rank(key: str, asset: pystac.Asset) -> tuple[Any, ...]:
    kind = asset.media_type or ""
    optimized = "cloud-optimized" in kind or asset.href.lower().split("?")[0].endswith((".tif", ".tiff"))
    return len(_names(key, asset)) > 1, _gsd(asset), not optimized, key


def _names(key: str, asset: pystac.Asset) -> list[str | None]:
    """Common names of the bands in an asset, in the file's order."""
    declared = [band_name(band) for band in bands_of(asset)]
    if any(declared):
        return declared
    # Planetary Computer and the Copernicus Data Space name single bands by the asset's key alone
    return [common_name(key)] if len(declared) <= 1 else declared


def _gsd(asset: pystac.Asset) -> float:
    fields = asset.extra_fields
    size = fields.get("gsd") or next((b.get("spatial_resolution") for b in bands_of(asset)), None)
    if size is None and "proj:transform" in fields:
        size = abs(float(fields["proj:transform"][0]))
    return float(size or 0)


def _whole(
    item: pystac.Item,
    key: str,
    asset: pystac.Asset,
    wanted: Sequence[str] | None,
    numbers: Mapping[str, int] | None,
) -> BandAsset:
    declared = bands_of(asset)
    uniform = {(c.scale, c.offset) if c else None for c in calibrations(item, asset, max(1, len(declared)))}
    calibration = None
    if wanted is not None and len(uniform) == 1 and None not in uniform:
        calibration = calibrations(item, asset, 1) * len(wanted)
    nodata, declares = _nodata(declared)
    return BandAsset(
        key, _href(item, asset), None if wanted is None else tuple(wanted), numbers, nodata, calibration, declares
    )


def _part(item: pystac.Item, images: Mapping[str, pystac.Asset], key: str, names: Sequence[str]) -> BandAsset:
    asset = images[key]
    order = _names(key, asset)
    numbers = {name: order.index(_OTHER_NAMES.get(name, name)) + 1 for name in names}
    every = calibrations(item, asset, len(order))
    nodata, declares = _nodata(bands_of(asset))
    chosen = tuple(every[number - 1] for number in numbers.values())
    return BandAsset(key, _href(item, asset), tuple(names), numbers, nodata, chosen, declares)


def _nodata(declared: Iterable[Mapping[str, Any]]) -> tuple[float | None, bool]:
    """(nodata, whether the item says what its pixels are)."""
    bands = list(declared)
    value = next((band["nodata"] for band in bands if band.get("nodata") is not None), None)
    known = any("nodata" in band or "data_type" in band for band in bands)
    return (None if value is None else float(value)), known


def _href(item: pystac.Item, asset: pystac.Asset) -> str:
    href = asset.get_absolute_href() or asset.href
    if "://" not in href and not href.startswith("/"):
        raise SceneError(f"the item {item.id} names a file relatively ({shown_path(href)}): give its catalogue instead")
    return href.removeprefix("file://")


def _is_raster(asset: pystac.Asset) -> bool:
    kind = (asset.media_type or "").lower()
    if kind:
        return any(word in kind for word in ("tiff", "jp2", "geotiff", "vrt", "x-raster", "octet-stream"))
    return asset.href.lower().split("?")[0].endswith(_RASTER_ENDINGS)
