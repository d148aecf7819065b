"""Splits in space: no test site stands in a training chip, wherever chips and sites lie."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoslave.errors import LabelError
from geoslave.labels.split import DEGREE_M, SpatialBlocks, leaks, leave_one_out, named, split_by_blocks

LONGEST_M = 150.0


def _box(lon: float, lat: float, wide_m: float, high_m: float) -> shapely.Polygon:
    """A rectangle about a point, sides in metres."""
    down, across = high_m / DEGREE_M / 2, wide_m / DEGREE_M / np.cos(np.radians(lat)) / 2
    return shapely.box(lon - across, lat - down, lon + across, lat + down)


def _series(outlines: list[shapely.Polygon]) -> gpd.GeoSeries:
    return gpd.GeoSeries(outlines, crs=4326)


OFFSETS = st.lists(st.tuples(st.floats(-3_000, 3_000), st.floats(-3_000, 3_000)), min_size=1, max_size=25)


@given(st.floats(-179, 179), st.floats(-65, 65), OFFSETS, OFFSETS, st.integers(0, 5), st.sampled_from([400.0, 1_000.0]))
def test_no_training_chip_touches_a_test_site(
    lon: float,
    lat: float,
    chips: list[tuple[float, float]],
    sites: list[tuple[float, float]],
    seed: int,
    side_m: float,
) -> None:
    def place(east: float, north: float) -> tuple[float, float]:
        return lon + east / DEGREE_M / np.cos(np.radians(lat)), lat + north / DEGREE_M

    blocks = SpatialBlocks(side_m, buffer_m=LONGEST_M, share=0.3, seed=seed)
    footprints = _series([_box(*place(*offset), 480, 480) for offset in chips])
    outlines = _series([_box(*place(*offset), LONGEST_M, 60) for offset in sites])
    split = split_by_blocks(footprints, outlines, blocks)
    train, tested = np.array(footprints)[split.train], np.array(outlines)[split.test_sites]
    assert not any(chip.intersects(site) for chip in train for site in tested)
    assert not (split.train & split.test).any()


def _straddling() -> tuple[SpatialBlocks, gpd.GeoSeries, gpd.GeoSeries]:
    """A site whose middle lies in a test block, 10 m from a training block in which a chip begins."""
    blocks = SpatialBlocks(1_000, buffer_m=LONGEST_M, share=0.3)
    row, column = next(
        (0, c) for c in range(1_000) if blocks.is_test(0, c) and not blocks.is_test(0, c + 1)
        and not blocks.is_test(0, c + 2)
    )  # fmt: skip
    _, _, east, _ = blocks.box(row, column).bounds
    middle = 500 / DEGREE_M
    site = _box(east - 10 / DEGREE_M, middle, LONGEST_M, 60)
    chip = shapely.box(east + 1e-6, middle - 0.001, east + 0.004, middle + 0.001)
    return blocks, _series([chip]), _series([site])


def test_without_the_buffer_there_is_a_leak_and_it_is_refused() -> None:
    blocks, chips, sites = _straddling()
    assert not split_by_blocks(chips, sites, blocks).train.any()
    with pytest.raises(LabelError, match="buffer_m"):
        split_by_blocks(chips, sites, SpatialBlocks(blocks.side_m, 0, blocks.share, blocks.seed))


def test_a_leak_is_found() -> None:
    chips, sites = np.array([_box(90, 24, 480, 480)]), np.array([_box(91, 24, 100, 50), _box(90, 24, 100, 50)])
    assert leaks(chips, sites).tolist() == [1]
    assert leaks(chips[:0], sites).tolist() == []


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


def test_leave_one_out_and_names() -> None:
    folds = list(leave_one_out(["b", "a", "b"]))
    assert [name for name, _, _ in folds] == ["a", "b"]
    for name, train, test in folds:
        assert (train ^ test).all()
        assert test.tolist() == [r == name for r in ("b", "a", "b")]
    with pytest.raises(LabelError, match="two regions"):
        list(leave_one_out(["a", "a"]))
    assert named("OAM-386694-220241-19.tif", ["*-38669[45]-*"])
    assert not named("OAM-386693-220241-19.tif", ["*-38669[45]-*"])
