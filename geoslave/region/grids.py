"""Looking at the grids of a region: each scene on its own, or one per UTM zone; and the blocks to look at on each.

What a scene is like (place, scaling, which of its blocks matter) is found out once, by a task, and
kept in `grids/<grid>.json`. Files are stamped (size and time, or ETag), so that one that is replaced
while a run goes on is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from geoslave.errors import EmptyScene, GeoslaveError
from geoslave.grid import Cell, cells_within, partition
from geoslave.imagery.aoi import aoi_on, choose_cells, touches
from geoslave.imagery.geotiff import gdal_environment
from geoslave.imagery.names import shown_path
from geoslave.imagery.patient import open_any_scene
from geoslave.model.package import ModelSpec
from geoslave.region.config import RegionConfig
from geoslave.region.gridrecord import GridRecord
from geoslave.region.inputs import Input, block_side, files_of, item_files, one_stamp, reading, shows_others
from geoslave.region.stamps import ReplacedScene, drop_older, stamps


def measure(
    given: Input, config: RegionConfig, spec: ModelSpec, aoi: gpd.GeoSeries | None, items: Path | None = None
) -> GridRecord:
    """Find out what a grid is like.

    Raises:
        SceneError: if its imagery cannot be used with the model, or was replaced since the run began.
    """
    before = _stamps(given, config, spec, items)
    drop_older(before)
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
    notes = [*source.remarks()] if hasattr(source, "remarks") else []  # a composite is of many scenes
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
        return stamps(inside for file in read for inside in (files_of(file) if shows_others(file) else [file]))
    found = stamps(files_of(given.path))
    if given.stamp != (one_stamp(found) if shows_others(given.path) else found[given.path]):
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
