"""An area of interest: it chooses what is looked at, and never moves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyogrio.errors import DataSourceError
from shapely.geometry.base import BaseGeometry

from geoslave.errors import GeoslaveError
from geoslave.grid import Cell
from geoslave.imagery.geotiff import ground_sampling_distance

DENSIFY_DEGREES = 0.05
"""Long edges get vertices this close before they are projected, so that they bend as they should."""


def read_aoi(path: Path) -> gpd.GeoSeries:
    """The polygons of a file, in longitude and latitude.

    Raises:
        GeoslaveError: if it cannot be read, holds no polygon, or has no CRS.
    """
    if not path.exists():
        raise GeoslaveError(f"{path} does not exist: check the name given to --aoi")
    try:
        table = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)
    except (DataSourceError, ValueError, OSError) as error:
        raise GeoslaveError(
            f"{path} cannot be read as an area of interest ({error}): give GeoJSON or GeoPackage"
        ) from error
    if not isinstance(table, gpd.GeoDataFrame) or table.empty:
        raise GeoslaveError(f"{path} holds no area: give a file with at least one polygon")
    if table.crs is None:
        raise GeoslaveError(f"{path} has no CRS, so nobody knows where it lies: save it with one")
    area = table.geometry[table.geometry.notna()].make_valid()
    area = area[area.geom_type.isin(("Polygon", "MultiPolygon", "GeometryCollection"))]
    if area.empty:
        raise GeoslaveError(f"{path} holds no polygon: an area of interest is made of polygons")
    if not area.crs.is_geographic:
        area = area.segmentize(5_000 / max(area.crs.axis_info[0].unit_conversion_factor, 1e-9))
    return area.to_crs("OGC:CRS84")


def aoi_on(aoi: gpd.GeoSeries, geobox: GeoBox) -> BaseGeometry:
    """The area in pixel coordinates (x, y) of a grid, cut to what can be projected there."""
    projected = aoi.segmentize(DENSIFY_DEGREES).to_crs(str(geobox.crs))
    geometry = projected.make_valid().union_all()
    inverse = ~geobox.affine
    pixels = shapely.transform(geometry, lambda xy: np.column_stack(inverse @ (xy[:, 0], xy[:, 1])))
    finite = bool(np.isfinite(shapely.get_coordinates(pixels)).all())
    return shapely.make_valid(pixels) if finite else shapely.Polygon()


def touches(area: BaseGeometry, geobox: GeoBox) -> bool:
    """True if an area in pixel coordinates shares ground with the grid."""
    rows, cols = geobox.shape
    return bool(area.intersection(shapely.box(0, 0, cols, rows)).area > 0)


def choose_cells(cells: Iterable[Cell], area: BaseGeometry, geobox: GeoBox, margin_m: float) -> Iterator[Cell]:
    """The cells whose core lies within `margin_m` of an area in pixel coordinates.

    The margin is the length of the largest site, so that a site inside the area comes out whole.
    """
    near = area.buffer(margin_m / min(ground_sampling_distance(geobox)))
    shapely.prepare(near)
    for cell in cells:
        core = cell.core
        box = shapely.box(core.col_off, core.row_off, core.col_off + core.width, core.row_off + core.height)
        if near.intersects(box):
            yield cell
