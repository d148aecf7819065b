"""Two sets of sites are matched one to one, by metres on the ground, anywhere on earth."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from geoslave.detections.match import match_sites, merge_duplicates
from geoslave.errors import GeoslaveError

GEOD = Geod(ellps="WGS84")


def move(lon: float, lat: float, east_m: float, north_m: float) -> tuple[float, float]:
    """A point some metres away, by the geodesic."""
    azimuth, distance = np.degrees(np.arctan2(east_m, north_m)), float(np.hypot(east_m, north_m))
    x, y, _ = GEOD.fwd(lon, lat, azimuth, distance)
    return x, y


def kiln(lon: float, lat: float, length: float = 100, width: float = 50) -> shapely.Polygon:
    """A rectangle of these metres about a point."""
    half = [(-length / 2, -width / 2), (length / 2, -width / 2), (length / 2, width / 2), (-length / 2, width / 2)]
    return shapely.Polygon([move(lon, lat, x, y) for x, y in half])


def layer(*outlines: shapely.Geometry, **columns: list[float]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=list(outlines), crs=4326)


@pytest.mark.parametrize("lon, lat", [(89, 24), (72, 0), (-70, -55), (25, 69), (179.9999, 17)])
@pytest.mark.parametrize("gap_m, hit", [(49.9, True), (50.1, False)])
def test_fifty_metres_are_fifty_metres_everywhere(lon: float, lat: float, gap_m: float, hit: bool) -> None:
    point = shapely.Point(move(lon, lat, 50 + gap_m, 0))
    x = (point.x + 180) % 360 - 180
    assert len(match_sites(layer(shapely.Point(x, point.y)), layer(kiln(lon, lat)))) == hit


def test_overlap_is_a_hit_where_the_points_are_far() -> None:
    long_site = kiln(89, 24, length=1000, width=50)
    half = kiln(*move(89, 24, 420, 0), length=1200, width=50)
    found = match_sites(layer(half), layer(long_site), max_distance_m=0)
    assert found.iou[0] == pytest.approx((500 - (420 - 600)) / (1000 + 1200 - 680), abs=1e-3)


def test_a_point_inside_a_site_is_no_distance_away() -> None:
    assert match_sites(layer(shapely.Point(89, 24)), layer(kiln(89, 24))).distance_m[0] == 0


def test_two_detections_of_one_site_are_one_hit_and_the_surer_takes_it() -> None:
    detections = layer(kiln(89, 24), kiln(89.0001, 24), confidence=[0.4, 0.8])
    found = match_sites(detections, layer(kiln(89, 24)))
    assert found.detection.tolist() == [1]
    assert found.site_of.tolist() == [-1, 0]
    assert found.detection_of.tolist() == [1]


def test_neighbouring_kilns_are_not_mixed_up() -> None:
    a, b = kiln(89, 24), kiln(*move(89, 24, 0, 60))
    found = match_sites(layer(b, a, confidence=[0.5, 0.5]), layer(a, b))
    assert found.site_of.tolist() == [1, 0]


def test_layers_in_different_crs_and_zones_match() -> None:
    places = [(89.9, 24.0), (90.1, 24.0), (77.0, 28.0), (84.1, 26.0)]
    sites = layer(*(kiln(*p) for p in places))
    assert match_sites(sites.to_crs(32645), sites.to_crs(3857)).site_of.tolist() == [0, 1, 2, 3]


def test_empty_layers_and_empty_outlines_match_nothing() -> None:
    nothing, some = layer(), layer(kiln(89, 24), shapely.Polygon(), None)
    assert len(match_sites(nothing, some)) == len(match_sites(some, nothing)) == len(merge_duplicates(nothing)) == 0
    assert len(match_sites(some, some)) == 1


def test_a_self_crossing_outline_is_repaired() -> None:
    x, y = 89.0, 24.0
    bow = shapely.Polygon([(x, y), (x + 0.001, y + 0.001), (x + 0.001, y), (x, y + 0.001)])
    assert len(match_sites(layer(bow), layer(bow))) == 1


def test_a_layer_without_crs_is_refused() -> None:
    with pytest.raises(GeoslaveError, match="no CRS"):
        match_sites(gpd.GeoDataFrame(geometry=[kiln(89, 24)]), layer(kiln(89, 24)))


def test_labels_drawn_twice_count_once_and_the_larger_outline_stays() -> None:
    sites = layer(
        kiln(89, 24, 60), kiln(*move(89, 24, 30, 0), 100), kiln(*move(89, 24, 80, 0)), name=["cut", "whole", "next"]
    )
    assert merge_duplicates(sites)["name"].tolist() == ["whole", "next"]


def test_four_kilns_of_the_real_labels_are_labelled_twice(data_dir) -> None:
    kilns = gpd.read_file(data_dir / "kilns_s2" / "kilns.geojson")
    assert len(merge_duplicates(kilns)) == len(kilns) - 4


offsets = st.lists(
    st.tuples(st.floats(-300, 300), st.floats(-300, 300), st.sampled_from([0.2, 0.5, 0.9])), min_size=0, max_size=15
)


def layer_of(places: list[tuple[float, float, float]]) -> gpd.GeoDataFrame:
    return layer(*(kiln(*move(89, 24, x, y)) for x, y, _ in places), confidence=[c for *_, c in places])


@given(offsets, offsets)
@settings(max_examples=40, deadline=None)
def test_matching_is_one_to_one_and_does_not_depend_on_lower_detections(a, b) -> None:
    detections, sites = layer_of(a), layer_of(b)
    found = match_sites(detections, sites)
    assert len(set(found.detection.tolist())) == len(set(found.site.tolist())) == len(found)
    assert ((found.distance_m <= 50) | (found.iou >= 0.1)).all()
    sure = np.flatnonzero(detections["confidence"].to_numpy(float) >= 0.5)
    assert match_sites(detections.iloc[sure], sites).site_of.tolist() == found.site_of[sure].tolist()


@given(offsets)
@settings(max_examples=40, deadline=None)
def test_merging_twice_changes_nothing_and_leaves_no_close_pair(places) -> None:
    once = merge_duplicates(layer_of(places))
    assert merge_duplicates(once).index.tolist() == once.index.tolist()
    centres = once.to_crs(32645).centroid
    gaps = [p.distance(q) for i, p in enumerate(centres) for q in centres.iloc[:i]]
    assert all(gap > 34.9 for gap in gaps)
