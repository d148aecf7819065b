"""The frame of a count: tiles that stay where they are, and ground that was not searched."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from geoslave.detections.frame import gaps, make_frame
from geoslave.errors import GeoslaveError
from geoslave.estimate.tables import checked_frame

GROUND = shapely.box(85.0, 25.0, 85.2, 25.1)


def ground(*shapes: shapely.Geometry, **columns: list[str]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=list(shapes), crs=4326)


def detections(*at: tuple[float, float], confidence: float = 0.8) -> gpd.GeoDataFrame:
    shapes = [shapely.Point(*place).buffer(2e-4) for place in at]
    return gpd.GeoDataFrame({"confidence": [confidence] * len(at)}, geometry=shapes, crs=4326)


def test_tiles_cover_the_ground_and_count_each_detection_once() -> None:
    found = detections((85.05, 25.05), (85.0501, 25.0501), (85.15, 25.02))
    frame = make_frame(found, ground(GROUND))
    area_km2 = abs(Geod(ellps="WGS84").geometry_area_perimeter(GROUND)[0]) / 1e6
    assert len(frame) == pytest.approx(area_km2, rel=0.05)
    assert frame["n_flagged"].sum() == 3 and frame["n_flagged"].max() == 2
    assert frame.loc[frame["n_flagged"] == 2, "expected_hits"].item() == pytest.approx(1.6)
    assert (frame["status"] == "ok").all() and len(checked_frame(frame)) == len(frame)
    assert frame["lon"].between(85, 85.2).all() and frame["lat"].between(25, 25.1).all()


@settings(max_examples=20)
@given(st.floats(0.02, 0.18), st.floats(0.02, 0.08))
def test_a_tile_does_not_move_with_the_extent(width: float, height: float) -> None:
    whole = make_frame(detections(), ground(GROUND)).set_index("tile_id")
    part = make_frame(detections(), ground(shapely.box(85.0, 25.0, 85.0 + width, 25.0 + height))).set_index("tile_id")
    assert set(part.index) <= set(whole.index)
    assert np.allclose(part[["lon", "lat"]], whole.loc[part.index, ["lon", "lat"]])


def test_ground_that_was_not_searched_is_told() -> None:
    left, middle, right = (shapely.box(85 + k * 0.1, 25, 85.1 + k * 0.1, 25.1) for k in range(3))
    frame = make_frame(detections(), ground(left, middle, right, left, state=["done", "failed", "to do", "failed"]))
    told = gaps(frame)
    assert set(told) == {"failed", "not_run"} and told["failed"] == pytest.approx(told["not_run"], rel=0.15)
    assert (frame.loc[frame["lon"] < 85.1, "status"] == "ok").all()  # where blocks overlap, one search is enough


def test_a_detection_at_the_edge_is_kept() -> None:
    sliver = shapely.box(85.0, 25.0, 85.2, 25.02)
    edge = detections((85.1, 25.0199))
    assert make_frame(edge, ground(sliver))["n_flagged"].sum() == 1


def test_only_the_area_of_interest() -> None:
    half = shapely.box(85.0, 25.0, 85.1, 25.1)
    frame = make_frame(detections(), ground(GROUND), aoi=half)
    assert 0 < len(frame) < len(make_frame(detections(), ground(GROUND))) and frame["lon"].max() <= 85.1


def test_bad_ground_is_refused() -> None:
    with pytest.raises(GeoslaveError, match="no ground"):
        make_frame(detections(), ground(GROUND).iloc[:0])
    with pytest.raises(GeoslaveError, match="'burnt'"):
        make_frame(detections(), ground(GROUND, state=["burnt"]))
    with pytest.raises(GeoslaveError, match="smaller tiles"):
        make_frame(detections(), ground(shapely.box(85, 25, 85.0001, 25.0001)))
    with pytest.raises(GeoslaveError, match="no CRS"):
        make_frame(detections(), gpd.GeoDataFrame(geometry=[GROUND]))
