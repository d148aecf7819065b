"""What the grids of a region are made of, before anybody looks at them: scenes, or STAC items brought to one grid.

Scenes of files are listed without a library of geodata: see `gridrecord`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoslave.errors import GeoslaveError, MissingExtra
from geoslave.imagery.names import scene_ids
from geoslave.imagery.scenefolder import RASTERS
from geoslave.model.package import ModelSpec
from geoslave.region.config import RegionConfig
from geoslave.region.layout import RegionFolder, digest, sha256
from geoslave.region.stamps import stamp, stamps

if TYPE_CHECKING:
    import geopandas as gpd
    from odc.geo.geobox import GeoBox

    from geoslave.imagery.geotiff import Reading


@dataclass(frozen=True, slots=True)
class Input:
    """One grid's imagery, before anybody has looked at it."""

    name: str
    """Of the grid; fits a file system."""
    path: str | None
    """A scene that is read on its own grid."""
    items: tuple[str, ...]
    """Else: ids of the STAC items that are brought to one grid."""
    geobox: tuple[tuple[int, int], tuple[float, ...], str] | None
    """Of that grid: shape, affine (6), CRS."""
    stamp: str
    """Changes when the imagery does."""
    part: str | None = None
    """Ground this grid answers for beside others (WKT, longitude and latitude); None: all of it."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": self.path,
            "items": list(self.items),
            "geobox": None if self.geobox is None else [list(self.geobox[0]), list(self.geobox[1]), self.geobox[2]],
            "stamp": self.stamp,
            "part": self.part,
        }

    @staticmethod
    def from_dict(told: dict[str, Any]) -> Input:
        box = told["geobox"]
        geobox = None if box is None else ((box[0][0], box[0][1]), tuple(box[1]), box[2])
        return Input(told["name"], told["path"], tuple(told["items"]), geobox, told["stamp"], told["part"])


def find_inputs(
    region: RegionFolder, config: RegionConfig, spec: ModelSpec, area: Callable[[], gpd.GeoSeries | None]
) -> tuple[Input, ...]:
    """The grids of a region.

    Args:
        area: gives the area of interest, which only composites ask for.

    Raises:
        GeoslaveError: if there is no scene, or one is named that is not there.
    """
    if config.scenes and config.composite == "single":
        return _scene_inputs(list_scenes(region, config.scenes))
    items = _items(region, config)
    if not items:
        raise GeoslaveError(
            f"region {region.name} has no scenes: name them in {region.config} (scenes: ...), "
            f"or find some with  geoslave region scenes {region.name} ..."
        )
    return tuple(_item_inputs(items, config, spec, area))


def list_scenes(region: RegionFolder, named: Sequence[str]) -> list[str]:
    """The rasters that `scenes:` names: files, addresses, folders, patterns; relative ones from the region's folder.

    Raises:
        GeoslaveError: if something named is not there.
    """
    found: list[str] = []
    for name in named:
        if "://" in name or name.startswith("/vsi"):
            found.append(name)
            continue
        path = region.path / name if not Path(name).is_absolute() else Path(name)
        if path.is_dir():
            inside = [str(file) for file in path.rglob("*") if file.suffix.lower() in RASTERS]
        elif any(sign in name for sign in "*?["):
            base = Path(path.anchor)
            inside = [str(file) for file in base.glob(str(path.relative_to(base)))]
        else:
            inside = [str(path)] if path.exists() else []
        if not inside:
            raise GeoslaveError(f"{region.config}: scenes: {name} names no raster that is there: mend it")
        found += sorted(inside)
    return list(dict.fromkeys(found))


def block_side(config: RegionConfig, spec: ModelSpec) -> int:
    """Side of a block in pixels: whole chips."""
    return -(-config.block // spec.tile) * spec.tile


def reading(config: RegionConfig, spec: ModelSpec) -> Reading:
    """How scenes are read."""
    from geoslave.imagery.geotiff import Reading

    nodata = None if config.nodata == "none" else config.nodata
    return Reading(spec.bands, config.bands or None, spec.gsd_m, config.crs, nodata, config.nodata == "none")


def item_files(item: Any, config: RegionConfig, spec: ModelSpec) -> list[str]:
    """Where the bands that are read of an item lie, and its scene classification."""
    from geoslave.imagery.assets import band_assets, mask_asset

    how = reading(config, spec)
    files = [asset.href for asset in band_assets(item, how.bands, how.numbers)]
    classes = mask_asset(item)
    return files if classes is None else [*files, str(classes.get_absolute_href() or classes.href)]


def addressed_files(region: RegionFolder, config: RegionConfig, spec: ModelSpec, inputs: Sequence[Input]) -> list[str]:
    """The files at addresses of the STAC items that inputs are made of: their items do not tell when they change."""
    wanted = {item for one in inputs for item in one.items}
    if not wanted:
        return []
    chosen = (item for item in _items(region, config) if item.id in wanted)
    return sorted({file for item in chosen for file in item_files(item, config, spec) if "://" in file})


def own_stamp(path: str) -> str:
    """A scene's stamp: its file's, or what changes when a VRT does or any file that it shows.

    Raises:
        SceneError: as `stamps.stamp`.
    """
    return one_stamp(stamps(files_of(path))) if shows_others(path) else stamp(path)


def shows_others(path: str) -> bool:
    return path.lower().endswith(".vrt")


def one_stamp(found: Mapping[str, str]) -> str:
    """One stamp of several files; it does not change when all are moved."""
    return digest(*found.values())


def files_of(path: str) -> list[str]:
    """The file itself and those it refers to (a VRT's)."""
    if "://" in path:
        return [path]
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as dataset:
            inside = [str(file) for file in dataset.files if Path(file).is_file()]
    except RasterioError:
        inside = []
    return list(dict.fromkeys([path, *inside]))


def _scene_inputs(paths: Sequence[str]) -> tuple[Input, ...]:
    names = _unique([_safe(name) for name in scene_ids(paths)])
    return tuple(Input(name, path, (), None, own_stamp(path)) for name, path in zip(names, paths, strict=True))


def _items(region: RegionFolder, config: RegionConfig) -> list[Any]:
    if not config.scenes and not region.scenes.is_dir():
        return []
    try:
        from geoslave.imagery.catalog import load_items, local_items
    except ImportError:
        raise MissingExtra("a region of STAC items", "region") from None
    if config.scenes:
        nodata = None if config.nodata == "none" else config.nodata
        return list(local_items(list_scenes(region, config.scenes), crs=config.crs, nodata=nodata))
    return list(load_items(region.scenes)) if any(region.scenes.glob("*.json")) else []


def _item_inputs(
    items: Sequence[Any], config: RegionConfig, spec: ModelSpec, area: Callable[[], gpd.GeoSeries | None]
) -> Iterator[Input]:
    from geoslave.imagery.catalog import zone_grids, zone_parts

    if config.composite == "single":
        names = _unique([_safe(item.id) for item in items])
        for item, name in zip(items, names, strict=True):
            yield from _single_inputs(item, name, spec)
        return
    aoi = area()
    margin = spec.halo + round(spec.sought.length_m[1] / spec.gsd_m)
    grids = zone_grids(items, aoi, spec.gsd_m, margin_px=margin, anchor_px=block_side(config, spec))
    parts = zone_parts(items, aoi, spec.gsd_m)
    for zone, geobox in grids.items():
        part = None if len(grids) == 1 else parts[zone].wkt
        yield _item_input(f"zone_{_safe(zone)}", items, geobox, part)


def _single_inputs(item: Any, name: str, spec: ModelSpec) -> Iterator[Input]:
    """One scene: from its file if it is one, else (its bands are files of their own) on the grid of its bands."""
    from geoslave.imagery.catalog import item_geobox, zone_grids
    from geoslave.imagery.geotiff import SAME_GSD, ground_sampling_distance

    path = _own_file(item)
    if path is not None:
        yield Input(name, path, (), None, own_stamp(path))
        return
    own = item_geobox(item, spec.gsd_m)
    if own is not None and 1 / SAME_GSD <= max(ground_sampling_distance(own)) / spec.gsd_m <= SAME_GSD:
        yield _item_input(name, [item], own, None)
        return
    for zone, geobox in zone_grids([item], None, spec.gsd_m).items():
        yield _item_input(f"{name}_{_safe(zone)}", [item], geobox, None)


def _item_input(name: str, items: Sequence[Any], geobox: GeoBox, part: str | None) -> Input:
    content = [item.to_dict(include_self_link=False, transform_hrefs=False) for item in items]
    place = ((int(geobox.shape[0]), int(geobox.shape[1])), tuple(geobox.affine)[:6], str(geobox.crs))
    files = {str(one.get_absolute_href() or one.href) for item in items for one in item.assets.values()}
    vrts = sorted(file for file in files if shows_others(file) and Path(file).is_file())
    told = [content, *map(own_stamp, vrts)] if vrts else content
    return Input(name, None, tuple(item.id for item in items), place, sha256(repr(told).encode()), part)


def _own_file(item: Any) -> str | None:
    """The file an item was made from, if it holds all of it."""
    from geoslave.imagery.assets import OF_A_FILE, image_assets

    images = list(image_assets(item).values())
    return images[0].get_absolute_href() if item.properties.get(OF_A_FILE) and len(images) == 1 else None


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "scene"


def _unique(names: Sequence[str]) -> list[str]:
    """Names that differ from each other: the second of a name gets a 2."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique
