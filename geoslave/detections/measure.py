"""Areas, lengths and places on the ellipsoid, the same in any CRS.

Everything starts from geodetic longitude and latitude on the CRS's own ellipsoid, so a metre is a
metre in UTM, Web Mercator, degrees, feet, and on the Moon.
"""

from __future__ import annotations

from functools import lru_cache
from math import degrees
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from geoslave.errors import GeoslaveError

Shapes = NDArray[np.object_]

_EARTH_RADIUS = 6.371e6


def areas_m2(shapes: Shapes, crs: Any) -> NDArray[np.float64]:
    """Area in square metres on the ellipsoid of each polygon or multipolygon [n] given in `crs`."""
    _, geod = _geodetic(CRS.from_user_input(crs))
    parts, part_of = shapely.get_parts(shapes, return_index=True)
    rings, ring_of = shapely.get_rings(parts, return_index=True)
    hole = np.concatenate([[False], ring_of[1:] == ring_of[:-1]]) if len(rings) else np.zeros(0, bool)
    xy = _to_lonlat(shapely.get_coordinates(rings), crs)
    ends = np.cumsum(shapely.get_num_coordinates(rings))
    size = np.empty(len(rings))
    for i, (start, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True) if len(rings) else ()):
        size[i] = abs(geod.polygon_area_perimeter(xy[start:end, 0], xy[start:end, 1])[0])
    signed = np.where(hole, -size, size)
    return np.bincount(part_of[ring_of], weights=signed, minlength=len(shapes)).astype(np.float64)


def sides_m(shapes: Shapes, crs: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Length and width in metres [n] of the smallest rotated box of each polygon [n] given in `crs`."""
    if not len(shapes):
        return np.zeros(0), np.zeros(0)
    hulls = shapely.convex_hull(shapes)
    xy, owner = shapely.get_coordinates(hulls, return_index=True)
    _, geod = _geodetic(CRS.from_user_input(crs))
    xyz = _cartesian(_to_lonlat(xy, crs), geod)
    # Seen from straight above: each hull on the plane that touches the ellipsoid at its middle.
    count = np.bincount(owner, minlength=len(shapes))[:, None]
    middle = np.column_stack([np.bincount(owner, weights=xyz[:, k], minlength=len(shapes)) for k in range(3)]) / count
    east, north = _tangents(middle)
    away = xyz - middle[owner]
    flat = np.column_stack([(away * east[owner]).sum(axis=1), (away * north[owner]).sum(axis=1)])
    boxes = shapely.oriented_envelope(shapely.set_coordinates(hulls, flat))
    corners = shapely.get_coordinates(boxes).reshape(len(shapes), 5, 2)
    sides = np.hypot(*np.moveaxis(corners[:, 1:3] - corners[:, 0:2], -1, 0))
    return sides.max(axis=1), sides.min(axis=1)


def lonlat_points(points: Shapes, crs: Any) -> NDArray[np.float64]:
    """Longitude and latitude in degrees [n, 2], on the ellipsoid of `crs`, longitude in [-180, 180)."""
    xy = _to_lonlat(shapely.get_coordinates(points), crs)
    xy[:, 0] = (xy[:, 0] + 180) % 360 - 180
    return xy


def cartesian_points(points: Shapes, crs: Any) -> NDArray[np.float64]:
    """Earth-centred x, y, z in metres [n, 3]: near places are near, in any CRS and across the antimeridian."""
    _, geod = _geodetic(CRS.from_user_input(crs))
    return _cartesian(_to_lonlat(shapely.get_coordinates(points), crs), geod)


def to_wgs84(shapes: Shapes, crs: Any) -> Shapes:
    """Polygons [n] in `crs` as longitude and latitude, split where they cross the antimeridian.

    Raises:
        GeoslaveError: if the CRS is of another planet, or of none.
    """
    source = CRS.from_user_input(crs)
    _, geod = _geodetic(source)
    if abs(geod.a - _EARTH_RADIUS) > 2e4:
        raise GeoslaveError(
            f"'{source.name}' is not on Earth, so there is no WGS 84 longitude and latitude: "
            "write a GeoPackage, FlatGeobuf or GeoParquet, and do not mix it with scenes of Earth"
        )
    return _split(shapely.transform(shapes, _project(source, CRS.from_user_input("OGC:CRS84"))))


def _split(shapes: Shapes) -> Shapes:
    """Cut lon/lat polygons [n] at 180 degrees, and bring all into [-180, 180]."""
    shapes = np.array(shapes, object)
    west, _, east, _ = shapely.bounds(shapes).T
    for i in np.flatnonzero((west < -180) | (east > 180) | (east - west > 180)):
        shape = shapes[i]
        if east[i] - west[i] > 180:
            shape = shapely.transform(shape, lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
        turns = np.floor((shape.bounds[0] + 180) / 360) * 360
        shape = _moved(shape, -turns)
        if shape.bounds[2] > 180:
            first = shapely.intersection(shape, shapely.box(-180, -90, 180, 90))
            second = shapely.intersection(shape, shapely.box(180, -90, 540, 90))
            parts = shapely.get_parts([first, _moved(second, -360)])
            shape = shapely.multipolygons([p for p in parts if p.geom_type == "Polygon"])
        shapes[i] = shape
    return shapes


def _moved(shape: Any, dx: float) -> Any:
    return shapely.transform(shape, lambda xy: xy + np.array([dx, 0.0]))


def _to_lonlat(xy: NDArray[np.float64], crs: Any) -> NDArray[np.float64]:
    """[n, 2] in `crs` -> longitude, latitude in degrees on its own ellipsoid and datum."""
    project, _ = _geodetic(CRS.from_user_input(crs))
    return np.asarray(project(xy)) if len(xy) else xy


@lru_cache(maxsize=32)
def _geodetic(crs: CRS) -> tuple[Any, Geod]:
    """How to get from a CRS to degrees on its own ellipsoid, and this ellipsoid."""
    flat = crs.to_2d() if len(crs.axis_info) > 2 else crs
    geodetic, geod = flat.geodetic_crs, flat.get_geod()
    if geodetic is None or geod is None:
        raise GeoslaveError(
            f"the CRS '{crs.name}' is not tied to the earth, so areas and places cannot be told: "
            "assign the right one, for example with  gdal_edit.py -a_srs EPSG:32643 SCENE"
        )
    geodetic = geodetic.to_2d()
    unit = degrees(geodetic.axis_info[0].unit_conversion_factor)
    to_geodetic = _project(flat, geodetic)
    if abs(unit - 1) < 1e-9:
        return to_geodetic, geod
    return (lambda xy: to_geodetic(xy) * unit), geod


def _project(source: CRS, target: CRS) -> Any:
    """A function from x, y [n, 2] in `source` to x, y [n, 2] in `target`."""
    transformer = Transformer.from_crs(source, target, always_xy=True)

    def project(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        try:
            return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1], errcheck=True))
        except ProjError as error:
            raise GeoslaveError(f"places in '{source.name}' cannot be brought to '{target.name}': {error}") from error

    return project


def _cartesian(lonlat: NDArray[np.float64], geod: Geod) -> NDArray[np.float64]:
    """Degrees [n, 2] -> metres from the centre of the ellipsoid [n, 3]."""
    lon, lat = np.radians(lonlat).T
    normal = geod.a / np.sqrt(1 - geod.es * np.sin(lat) ** 2)
    flat = normal * np.cos(lat)
    return np.column_stack([flat * np.cos(lon), flat * np.sin(lon), normal * (1 - geod.es) * np.sin(lat)])


def _tangents(xyz: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two unit vectors [n, 3] each that span the plane across the direction from the centre to xyz [n, 3]."""
    up = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    # At a pole any direction is as good as east.
    aside = np.where((np.abs(up[:, 2]) < 0.9)[:, None], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0])
    east = np.cross(aside, up)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    return east, np.cross(up, east)
