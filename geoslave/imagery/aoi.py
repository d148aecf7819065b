"""An area of interest: it chooses what is looked at, and never moves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from odc.geo.geobox import GeoBox
from pyogrio.errors import DataSourceError
from pyproj import CRS
from pyproj import Transformer as Projection
from shapely.geometry.base import BaseGeometry

from geoslave.errors import GeoslaveError
from geoslave.grid import Cell
from geoslave.imagery.geotiff import ground_sampling_distance

DENSIFY_DEGREES = 0.05
"""Long edges get vertices this close before they are projected, so that they bend as they should."""

_POINTS = 33
"""A grid's surroundings are found from this many points along each side and inside."""


def read_aoi(path: Path) -> gpd.GeoSeries:
    """The polygons of a file, in longitude and latitude.

    Raises:
        GeoslaveError: if it cannot be read, holds no polygon, or has no CRS.
    """
    if not path.exists():
        raise GeoslaveError(f"{path} does not exist: check the name given to --aoi")
    try:
        table = gpd.read_parquet(path) if path.suffix.lower() == ".parquet" else gpd.read_file(path, layer=_layer(path))
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


def _layer(path: Path) -> str | None:
    """The one layer of a file that may hold polygons. None: the first, whatever it holds.

    Raises:
        GeoslaveError: if there are several: which of them is meant nobody can tell.
    """
    layers = pyogrio.list_layers(path)
    if len(layers) < 2:
        return None
    names = [str(name) for name, kind in layers if kind is not None and not str(kind).endswith(("Point", "String"))]
    if len(names) > 1:
        told = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        raise GeoslaveError(
            f"{path} holds {len(names)} layers ({told}): save the one that is meant as a file of its own"
        )
    return names[0] if names else None


def aoi_on(aoi: gpd.GeoSeries, geobox: GeoBox) -> BaseGeometry:
    """The part of an area near a grid, in the grid's pixel coordinates (x, y).

    The area is cut to the grid's surroundings first, because a CRS gives nonsense far from home.
    """
    near = _surroundings(geobox)
    copies = [aoi.translate(turn) for turn in (-360, 0, 360)]
    cut = gpd.GeoSeries(np.concatenate([c.intersection(near).to_numpy() for c in copies]), crs=aoi.crs)
    cut = cut[~cut.is_empty]
    if cut.empty:
        return shapely.Polygon()
    projected = cut.segmentize(DENSIFY_DEGREES).to_crs(str(geobox.crs)).make_valid().union_all()
    inverse = ~geobox.affine
    return shapely.make_valid(shapely.transform(projected, lambda xy: np.column_stack(inverse @ (xy[:, 0], xy[:, 1]))))


def _surroundings(geobox: GeoBox) -> BaseGeometry:
    """A box in longitude and latitude around a grid, a little larger; it may reach past 180 degrees."""
    rows, cols = geobox.shape
    x, y = np.meshgrid(np.linspace(0, cols, _POINTS), np.linspace(0, rows, _POINTS))
    project = Projection.from_crs(CRS.from_user_input(str(geobox.crs)), "OGC:CRS84", always_xy=True)
    lon, lat = (np.ravel(v) for v in project.transform(*(geobox.affine @ (x.ravel(), y.ravel()))))
    known = np.isfinite(lon) & np.isfinite(lat)
    if not known.any():
        return shapely.Polygon()
    lon, lat = lon[known], lat[known]
    if np.ptp(lon) > 180 and np.ptp(lon % 360) < np.ptp(lon):
        lon = lon % 360  # the grid lies across the antimeridian
    pad = 0.05 + 0.1 * max(np.ptp(lon), np.ptp(lat))
    if np.abs(lat).max() + pad >= 90:  # a pole is near: every longitude
        return shapely.box(-180, lat.min() - pad, 180, lat.max() + pad)
    return shapely.box(lon.min() - pad, lat.min() - pad, lon.max() + pad, lat.max() + pad)


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
