"""The grids of a region: each scene on its own, or one per UTM zone; and the blocks to look at on each.

What a scene is like (place, scaling, which of its blocks matter) is found out once, by a task, and
kept in `grids/<grid>.json`. Files are stamped (size and time, or ETag), so that one that is replaced
while a run goes on is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date as Day
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from shapely.geometry.base import BaseGeometry

from geoslave.detect import scene_ids
from geoslave.errors import EmptyScene, GeoslaveError, MissingExtra
from geoslave.grid import Cell, cells_within, partition
from geoslave.imagery.aoi import aoi_on, choose_cells, touches
from geoslave.imagery.geotiff import (
    SAME_GSD,
    Reading,
    gdal_environment,
    ground_sampling_distance,
    shown_path,
)
from geoslave.imagery.patient import open_any_scene
from geoslave.imagery.scenefolder import RASTERS
from geoslave.model.package import ModelSpec
from geoslave.region.config import RegionConfig
from geoslave.region.layout import RegionFolder, digest, sha256
from geoslave.region.stamps import ReplacedScene, stamp, stamps


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


@dataclass(frozen=True, slots=True)
class GridRecord:
    """What was found out about a grid."""

    name: str
    status: str
    """'ok', 'outside' (the area of interest misses it) or 'empty' (no valid pixel)."""
    shape: tuple[int, int]
    transform: tuple[float, ...]
    crs: str
    scene_id: str
    date: str | None
    factor: tuple[float, ...]
    summand: tuple[float, ...]
    """scaled = stored * factor + summand, per band."""
    block_px: int
    blocks: tuple[tuple[int, int], ...]
    """(row, column) of the blocks to look at."""
    notes: tuple[str, ...]
    stamps: dict[str, str]
    """Of every file the grid is made of."""
    reach: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Where a file has pixels (top, left, bottom, right); those that are not named: anywhere."""

    @property
    def geobox(self) -> GeoBox:
        return GeoBox(self.shape, Affine(*self.transform), self.crs)

    @property
    def coefficients(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.factor, np.float32), np.array(self.summand, np.float32)

    @property
    def taken(self) -> Day | None:
        return None if self.date is None else Day.fromisoformat(self.date)

    def block(self, row: int, col: int) -> Cell:
        """A block as a cell."""
        return block_at(self.shape, self.block_px, row, col)

    def outline(self, window: rasterio.windows.Window) -> shapely.Polygon:
        """A window of the grid as a polygon in the grid's CRS."""
        affine = self.geobox.affine
        return shapely.transform(window_box(window), lambda xy: np.column_stack(affine @ (xy[:, 0], xy[:, 1])))

    def stamps_under(self, window: rasterio.windows.Window) -> dict[str, str]:
        """Of the files that have pixels in a window."""
        bottom, right = window.row_off + window.height, window.col_off + window.width

        def meets(place: Sequence[int]) -> bool:
            down = place[0] < bottom and place[2] > window.row_off
            return down and place[1] < right and place[3] > window.col_off

        return {path: told for path, told in self.stamps.items() if path not in self.reach or meets(self.reach[path])}

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @staticmethod
    def from_dict(told: dict[str, Any]) -> GridRecord:
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) and key != "blocks" else value for key, value in told.items()
        }
        fields["blocks"] = tuple((row, col) for row, col in told["blocks"])
        return GridRecord(**fields)


def window_box(window: rasterio.windows.Window) -> shapely.Polygon:
    """A window as a polygon in pixel coordinates (x, y)."""
    left, top = window.col_off, window.row_off
    return shapely.box(left, top, left + window.width, top + window.height)


def block_at(shape: tuple[int, int], block_px: int, row: int, col: int) -> Cell:
    """The block at a position of `partition(shape, block_px)`."""
    window = rasterio.windows.Window(
        col * block_px,
        row * block_px,
        min(block_px, shape[1] - col * block_px),
        min(block_px, shape[0] - row * block_px),
    )
    return next(cells_within(shape, block_px, window))


def block_side(config: RegionConfig, spec: ModelSpec) -> int:
    """Side of a block in pixels: whole chips."""
    return -(-config.block // spec.tile) * spec.tile


def reading(config: RegionConfig, spec: ModelSpec) -> Reading:
    """How scenes are read."""
    nodata = None if config.nodata == "none" else config.nodata
    return Reading(spec.bands, config.bands or None, spec.gsd_m, config.crs, nodata, config.nodata == "none")


def find_inputs(
    region: RegionFolder, config: RegionConfig, spec: ModelSpec, aoi: gpd.GeoSeries | None
) -> tuple[Input, ...]:
    """The grids of a region.

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
    return tuple(_item_inputs(items, config, spec, aoi))


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


def measure(
    given: Input, config: RegionConfig, spec: ModelSpec, aoi: gpd.GeoSeries | None, items: Path | None = None
) -> GridRecord:
    """Find out what a grid is like.

    Raises:
        SceneError: if its imagery cannot be used with the model, or was replaced since the run began.
    """
    before = _stamps(given, config, spec, items)
    with gdal_environment(), open_input(given, config, spec, items) as source:
        geobox = source.geobox
        taken = config.date or source.date
        status, cells, factor, summand = _look(source, config, spec, ground(given, aoi, spec))
        side = block_side(config, spec)
        notes = _notes(source, status, spec)
        return GridRecord(
            name=given.name,
            status=status,
            shape=(int(geobox.shape[0]), int(geobox.shape[1])),
            transform=tuple(geobox.affine)[:6],
            crs=str(geobox.crs),
            # zones of one composite are scenes of their own: what both show is merged
            scene_id=str(source.scene_id) if given.part is None else f"{source.scene_id}_{given.name}",
            date=None if taken is None else taken.isoformat(),
            factor=tuple(float(value) for value in factor),
            summand=tuple(float(value) for value in summand),
            block_px=side,
            blocks=tuple((cell.row, cell.col) for cell in cells),
            notes=notes,
            stamps=before,
            reach=_reach(given, config, spec, items),
        )


def open_input(given: Input, config: RegionConfig, spec: ModelSpec, items: Path | None) -> Any:
    """A grid's imagery as an open source (a context manager) with `.scene_id`, `.date` and `.scaling()`."""
    how = reading(config, spec)
    if given.path is not None:
        scene = open_any_scene(given.path, how)
        scene.scene_id = given.name
        return scene
    from geoslave.imagery.composite import open_composite

    assert given.geobox is not None and items is not None
    shape, affine, crs = given.geobox
    return open_composite(_chosen(given, items), GeoBox(shape, Affine(*affine), crs), how, config.composite)


def ground(given: Input, aoi: gpd.GeoSeries | None, spec: ModelSpec) -> gpd.GeoSeries | None:
    """What is reported of a grid, in longitude and latitude; None is all of it.

    A grid that answers for a part reports a site's length more: which of two grids holds a site on the
    border depends on its outline, so both report it and one is kept.
    """
    if given.part is None:
        return aoi
    degrees = spec.sought.length_m[1] / 100_000
    part = gpd.GeoSeries([shapely.from_wkt(given.part).buffer(degrees)], crs="OGC:CRS84")
    return part if aoi is None else part.intersection(aoi.union_all())


def area_on(aoi: gpd.GeoSeries | None, geobox: GeoBox) -> BaseGeometry | None:
    """The area of interest in a grid's pixel coordinates."""
    return None if aoi is None else aoi_on(aoi, geobox)


def chips(record: GridRecord, block: Cell, spec: ModelSpec, area: BaseGeometry | None) -> list[Cell]:
    """The chips of a block that are looked at: the same as for the whole scene."""
    cells: Iterable[Cell] = cells_within(record.shape, spec.tile, block.core, spec.halo, spec.stride)
    if area is not None:
        cells = choose_cells(cells, area, record.geobox, spec.sought.length_m[1])
    return list(cells)


def _look(
    source: Any, config: RegionConfig, spec: ModelSpec, aoi: gpd.GeoSeries | None
) -> tuple[str, list[Cell], Sequence[float], Sequence[float]]:
    """(status, blocks, factor, summand)."""
    area = area_on(aoi, source.geobox)
    if area is not None and not touches(area, source.geobox):
        return "outside", [], (), ()
    try:
        factor, summand = source.scaling(spec.scaling)
    except EmptyScene:
        return "empty", [], (), ()
    cells: Iterable[Cell] = partition(tuple(source.geobox.shape), block_side(config, spec))
    if area is not None:
        cells = choose_cells(cells, area, source.geobox, spec.sought.length_m[1])
    return "ok", list(cells), factor.tolist(), summand.tolist()


def _notes(source: Any, status: str, spec: ModelSpec) -> tuple[str, ...]:
    notes = [text for text in (getattr(getattr(source, "validity", None), "note", None),) if text]
    if getattr(source, "resampled", False):
        notes.append(f"{source.scene_id} was resampled to the model's {spec.gsd_m:g} m")
    if status == "outside":
        notes.append(f"{source.scene_id} lies outside the area of interest: nothing was looked at")
    if status == "empty":
        notes.append(f"{source.scene_id} holds no valid pixel: nothing was looked at")
    return tuple(notes)


def _stamps(given: Input, config: RegionConfig, spec: ModelSpec, items: Path | None) -> dict[str, str]:
    """Of every file a grid is made of, as they are before it is looked at."""
    if given.path is None:
        assert items is not None
        chosen = _chosen(given, items)
        for item in chosen:
            _refuse_changed(item)
        read = (file for item in chosen for file in item_files(item, config, spec))
        return stamps(inside for file in read for inside in (_files(file) if _shows_others(file) else [file]))
    found = stamps(_files(given.path))
    if given.stamp != (_together(found) if _shows_others(given.path) else found[given.path]):
        raise ReplacedScene(f"{shown_path(given.path)} was replaced since the run began: run again, a new one begins")
    return found


def _refuse_changed(item: Any) -> None:
    """Files on disk must be those the item was made of; those at addresses are stamped when a run begins."""
    from geoslave.imagery.catalog import changed_assets

    changed = [] if any("://" in asset.href for asset in item.assets.values()) else changed_assets(item)
    if changed:
        raise ReplacedScene(
            f"the item {item.id}: its file for {', '.join(changed)} was replaced: list the scenes anew with  "
            "geoslave region scenes"
        )


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


def _reach(given: Input, config: RegionConfig, spec: ModelSpec, items: Path | None) -> dict[str, tuple[int, ...]]:
    """Where on the grid each file of several items has pixels."""
    if len(given.items) < 2:
        return {}
    from geoslave.imagery.items import footprint_on

    assert given.geobox is not None and items is not None
    shape, affine, crs = given.geobox
    grid = GeoBox(shape, Affine(*affine), crs)
    reach: dict[str, tuple[int, ...]] = {}
    for item in _chosen(given, items):
        place = tuple(int(side) for side in footprint_on(item, grid))
        reach |= dict.fromkeys(item_files(item, config, spec), place)
    return reach


def _chosen(given: Input, items: Path) -> list[Any]:
    from geoslave.imagery.catalog import load_items

    wanted = set(given.items)
    found = [item for item in load_items(items) if item.id in wanted]
    if len(found) < len(wanted):
        lost = sorted(wanted - {item.id for item in found})
        raise GeoslaveError(f"{items} lacks {', '.join(lost[:3])}, of this run: delete {items.parent}, then run again")
    return found


def own_stamp(path: str) -> str:
    """A scene's stamp: its file's, or what changes when a VRT does or any file that it shows.

    Raises:
        SceneError: as `stamps.stamp`.
    """
    return _together(stamps(_files(path))) if _shows_others(path) else stamp(path)


def _shows_others(path: str) -> bool:
    return path.lower().endswith(".vrt")


def _together(found: Mapping[str, str]) -> str:
    """One stamp of several files; it does not change when all are moved."""
    return digest(*found.values())


def _files(path: str) -> list[str]:
    """The file itself and those it refers to (a VRT's)."""
    if "://" in path:
        return [path]
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
    items: Sequence[Any], config: RegionConfig, spec: ModelSpec, aoi: gpd.GeoSeries | None
) -> Iterator[Input]:
    from geoslave.imagery.catalog import zone_grids, zone_parts

    if config.composite == "single":
        names = _unique([_safe(item.id) for item in items])
        for item, name in zip(items, names, strict=True):
            yield from _single_inputs(item, name, spec)
        return
    margin = spec.halo + round(spec.sought.length_m[1] / spec.gsd_m)
    grids = zone_grids(items, aoi, spec.gsd_m, margin_px=margin, anchor_px=block_side(config, spec))
    parts = zone_parts(items, aoi, spec.gsd_m)
    for zone, geobox in grids.items():
        part = None if len(grids) == 1 else parts[zone].wkt
        yield _item_input(f"zone_{_safe(zone)}", items, geobox, part)


def _single_inputs(item: Any, name: str, spec: ModelSpec) -> Iterator[Input]:
    """One scene: from its file if it is one, else (its bands are files of their own) on the grid of its bands."""
    from geoslave.imagery.catalog import item_geobox, zone_grids

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
    vrts = sorted(file for file in files if _shows_others(file) and Path(file).is_file())
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
