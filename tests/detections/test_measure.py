"""Measures on the ellipsoid."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from pyproj import Geod

from geoslave.detections import measure
from geoslave.errors import GeoslaveError

WGS84 = Geod(ellps="WGS84")


def array(*shapes: shapely.Geometry) -> np.ndarray:
    return np.array(shapes, object)


def test_holes_are_taken_out_and_parts_added() -> None:
    outer, hole, other = shapely.box(5e5, 0, 5e5 + 100, 100), shapely.box(5e5, 0, 5e5 + 50, 50), shapely.box(0, 0, 1, 1)
    ring = outer.difference(hole)
    framed = shapely.box(5e5 - 50, -50, 5e5 + 150, 150).difference(outer)
    both = shapely.multipolygons([framed, outer])
    whole = measure.areas_m2(array(outer, hole, ring, framed, both), "EPSG:32643")
    assert whole[0] == pytest.approx(1e4 / 0.9996**2, rel=1e-6)
    assert whole[2] == pytest.approx(whole[0] - whole[1], rel=1e-9)
    assert whole[4] == pytest.approx(whole[3] + whole[0], rel=1e-9)
    assert measure.areas_m2(array(other), "EPSG:4326")[0] == pytest.approx(WGS84.geometry_area_perimeter(other)[0])


@pytest.mark.parametrize("lat", [0, 30, 60, 80])
@pytest.mark.parametrize("azimuth", [0, 25, 90, 140])
def test_sides_of_a_large_mine_are_right_at_any_latitude_and_angle(lat: float, azimuth: float) -> None:
    """20 x 4 km, laid out by geodesics from its middle."""
    corners = []
    for along, across in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        lon1, lat1, back = WGS84.fwd(179.9, lat, azimuth, along * 10_000)
        heading = back + 180 if along > 0 else back
        corners.append(WGS84.fwd(lon1, lat1, heading + 90, across * 2_000)[:2])
    corners = [(lon % 360, y) for lon, y in corners]
    length, width = measure.sides_m(array(shapely.Polygon(corners)), "EPSG:4326")
    assert [length[0], width[0]] == pytest.approx([20_000, 4_000], rel=2e-3)


def test_nothing_in_nothing_out() -> None:
    nothing = np.zeros(0, object)
    assert measure.areas_m2(nothing, "EPSG:4326").shape == (0,)
    assert [side.shape for side in measure.sides_m(nothing, "EPSG:4326")] == [(0,), (0,)]
    assert len(measure.to_wgs84(nothing, "EPSG:32643")) == 0


def test_places_beyond_a_projection_are_refused_in_words() -> None:
    with pytest.raises(GeoslaveError, match="cannot be brought"):
        measure.areas_m2(array(shapely.box(1e12, 1e12, 2e12, 2e12)), "EPSG:32643")
