"""Splits in space: what is tested on is hidden whole, wherever scenes and sites lie (training: model/test_leaks)."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoslave.labels.split import DEGREE_M, SpatialBlocks, named, shown_in

LONGEST_M = 150.0


def _box(lon: float, lat: float, wide_m: float, high_m: float) -> shapely.Polygon:
    """A rectangle about a point, sides in metres."""
    down, across = high_m / DEGREE_M / 2, wide_m / DEGREE_M / np.cos(np.radians(lat)) / 2
    return shapely.box(lon - across, lat - down, lon + across, lat + down)


OFFSETS = st.tuples(st.floats(-3_000, 3_000), st.floats(-3_000, 3_000))


@given(st.floats(-179, 179), st.floats(-65, 65), OFFSETS, OFFSETS, st.integers(0, 5), st.sampled_from([400.0, 1_000.0]))
def test_a_site_to_be_tested_on_is_hidden_whole(
    lon: float, lat: float, scene: tuple[float, float], site: tuple[float, float], seed: int, side_m: float
) -> None:
    def place(east: float, north: float) -> tuple[float, float]:
        return lon + east / DEGREE_M / np.cos(np.radians(lat)), lat + north / DEGREE_M

    blocks = SpatialBlocks(side_m, buffer_m=LONGEST_M, share=0.3, seed=seed)
    footprint, outline = _box(*place(*scene), 2_400, 2_400), _box(*place(*site), LONGEST_M, 60)
    tested, hidden = blocks.tested(footprint), blocks.hidden(footprint)
    point = outline.representative_point()
    if blocks.is_test(*blocks.row_column(point.x, point.y)):
        assert outline.intersection(footprint).difference(hidden).area < 1e-15
        assert tested.buffer(1e-9).covers(point) or not footprint.covers(point)
    assert tested.difference(hidden).area < 1e-15


def test_chips_that_show_some_of_what_is_hidden_are_told_from_those_that_only_touch_it() -> None:
    hidden = shapely.box(90, 24, 91, 25)
    chips = np.array([shapely.box(91, 24, 92, 25), shapely.box(90.99, 24, 91.99, 25), shapely.box(92, 24, 93, 25)])
    assert shown_in(chips, hidden).tolist() == [False, True, False]
    assert not shown_in(chips, shapely.union_all([])).any()


@given(st.floats(-170, 170), st.floats(-70, 70), st.floats(200, 20_000))
def test_blocks_are_square_and_hold_their_points(lon: float, lat: float, side_m: float) -> None:
    blocks = SpatialBlocks(side_m, 0, 0.3)
    box = blocks.box(*blocks.row_column(lon, lat))
    assert box.buffer(1e-9).contains(shapely.Point(lon, lat))
    west, south, east, north = box.bounds
    high, wide = (north - south) * DEGREE_M, (east - west) * DEGREE_M * np.cos(np.radians((south + north) / 2))
    assert wide == pytest.approx(high, rel=0.01)


def test_the_choice_for_a_place_does_not_depend_on_what_else_there_is() -> None:
    blocks = SpatialBlocks(1_000, 100, 0.3)
    here = [box.bounds for box in blocks.test_boxes((90.0, 24.0, 90.1, 24.1))]
    around = [box.bounds for box in blocks.test_boxes((89.0, 23.5, 91.0, 24.5))]
    assert here and set(here) <= set(around)
    assert 0.2 < len(around) / (200 * 111.2 * 0.91) / 1.112 < 0.4


def test_names() -> None:
    assert named("OAM-386694-220241-19.tif", ["*-38669[45]-*"])
    assert not named("OAM-386693-220241-19.tif", ["*-38669[45]-*"])
