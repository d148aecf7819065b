"""Polygons from scores: the same whatever the blocks, and with true sizes in any CRS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from rasterio.windows import Window
from scipy import ndimage

from geoslave.detections import schema
from geoslave.detections.polygonize import (
    SiteObject,
    join,
    join_rows,
    label_block,
    missing_block,
    polygonize,
    to_detections,
)
from geoslave.errors import GeoslaveError
from geoslave.grid import partition
from geoslave.targets import get_target

LOW, HIGH = 60, 150
NAMES: dict[str, Any] = {"class_name": "brick_kiln", "scene_id": "scene", "model_id": "model"}

scores = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 18), st.integers(1, 18)),
    elements=st.sampled_from([0, LOW - 1, LOW, 120, HIGH, 254, 255]),
)
crowded = hnp.arrays(np.uint8, st.tuples(st.integers(1, 18), st.integers(1, 18)), elements=st.sampled_from([0, 200]))


def reader(values: NDArray[np.uint8]) -> Callable[[Window], NDArray[np.uint8]]:
    return lambda w: values[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width]


def found(values: NDArray[np.uint8], block: int = 2048) -> list[SiteObject]:
    return polygonize(reader(values), values.shape, LOW, HIGH, block)


def as_bytes(objects: list[SiteObject]) -> list[tuple[bytes, int, int, int, bool]]:
    return [(o.polygon.wkb, o.n_pixels, o.score_sum, o.score_max, o.truncated) for o in objects]


def grid(rows: list[str]) -> NDArray[np.uint8]:
    """'#' a high score, '+' a low one, 'x' missing imagery."""
    code = {"#": 200, "+": 100, "x": 255, ".": 0}
    return np.array([[code[c] for c in row] for row in rows], np.uint8)


@settings(max_examples=150, deadline=None)
@given(st.one_of(scores, crowded), st.integers(1, 20))
def test_joined_row_by_row_it_is_the_same(values: NDArray[np.uint8], block: int) -> None:
    rows: dict[int, list[Any]] = {}
    for cell in partition(values.shape, block):
        core = cell.core
        rows.setdefault(core.row_off + core.height, []).append(
            label_block(reader(values)(core), core, values.shape, LOW, HIGH)
        )
    objects = [site for finished in join_rows(rows.items()) for site in finished]
    assert sorted(as_bytes(objects)) == sorted(as_bytes(found(values)))


@settings(max_examples=100, deadline=None)
@given(crowded, st.integers(2, 9), st.integers(0, 10))
def test_a_block_without_scores_is_missing_imagery(values: NDArray[np.uint8], block: int, lost: int) -> None:
    cells = list(partition(values.shape, block))
    lost %= len(cells)
    rows: dict[int, list[Any]] = {}
    for n, cell in enumerate(cells):
        core = cell.core
        here = (
            missing_block(core, values.shape)
            if n == lost
            else label_block(reader(values)(core), core, values.shape, LOW, HIGH)
        )
        rows.setdefault(core.row_off + core.height, []).append(here)
    core = cells[lost].core
    values[core.row_off : core.row_off + core.height, core.col_off : core.col_off + core.width] = 255
    objects = [site for finished in join_rows(rows.items()) for site in finished]
    assert sorted(as_bytes(objects)) == sorted(as_bytes(found(values)))


@settings(max_examples=150, deadline=None)
@given(st.one_of(scores, crowded), st.integers(1, 20))
def test_any_blocks_give_the_bytes_of_the_whole_raster(values: NDArray[np.uint8], block: int) -> None:
    assert as_bytes(found(values, block)) == as_bytes(found(values))


@settings(max_examples=150, deadline=None)
@given(st.one_of(scores, crowded))
def test_objects_are_what_gdal_outlines(values: NDArray[np.uint8]) -> None:
    """Against GDAL's polygonizer and scipy's labels on the whole raster, an independent way."""
    labels, _ = ndimage.label((values >= LOW) & (values < 255))
    outlines = rasterio.features.shapes(labels.astype(np.int32), mask=labels > 0, connectivity=4)
    expected = {}
    for geometry, label in outlines:
        mask = labels == label
        if values[mask].max() >= HIGH:
            grown = ndimage.binary_dilation(np.pad(mask, 1))
            cut = (grown & (np.pad(values, 1, constant_values=255) == 255)).any()
            stats = (int(mask.sum()), int(values[mask].sum(dtype=int)), int(values[mask].max()), bool(cut))
            polygon = shapely.make_valid(shapely.geometry.shape(geometry))
            expected[shapely.normalize(shapely.simplify(polygon, 0)).wkb] = stats
    got = {
        shapely.normalize(shapely.simplify(o.polygon, 0)).wkb: (o.n_pixels, o.score_sum, o.score_max, o.truncated)
        for o in found(values)
    }
    assert got == expected


@settings(max_examples=100, deadline=None)
@given(st.one_of(scores, crowded), st.integers(1, 7))
def test_polygons_are_valid_and_as_large_as_their_pixels(values: NDArray[np.uint8], block: int) -> None:
    for o in found(values, block):
        assert o.polygon.is_valid and o.polygon.geom_type == "Polygon"
        assert o.polygon.area == o.n_pixels


@settings(max_examples=50, deadline=None)
@given(scores, st.integers(1, 7), st.randoms())
def test_the_order_in_which_blocks_finish_does_not_matter(values: NDArray[np.uint8], block: int, random: Any) -> None:
    cells = list(partition(values.shape, block))
    random.shuffle(cells)
    blocks = [label_block(reader(values)(c.core), c.core, values.shape, LOW, HIGH) for c in cells]
    assert as_bytes(join(blocks)) == as_bytes(found(values))


def test_every_score_is_read_once() -> None:
    values, seen = np.full((10, 13), 200, np.uint8), np.zeros((10, 13), int)

    def read(window: Window) -> NDArray[np.uint8]:
        seen[window.toslices()] += 1
        return reader(values)(window)

    polygonize(read, values.shape, LOW, HIGH, 4)
    assert (seen == 1).all()


def test_an_object_of_many_blocks_with_holes_comes_out_whole() -> None:
    """A spiral with a ring in it, a thousand times the size of a block."""
    y, x = np.mgrid[-100:100, -100:100]
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    values = np.where((np.sin(radius / 6 - angle) > 0) & (radius < 95), 200, 0).astype(np.uint8)
    whole = found(values)
    assert as_bytes(found(values, 6)) == as_bytes(whole)
    assert max(o.n_pixels for o in whole) > 10_000


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_rings_that_touch_themselves_in_a_corner_are_holes(block: int) -> None:
    values = grid(
        [
            ".......",
            ".####..",
            ".#..##.",
            ".#.#.#.",
            ".#.###.",
            ".###...",
            ".......",
        ]
    )
    (site,) = found(values, block)
    assert site.polygon.is_valid
    assert [shapely.Polygon(hole).area for hole in site.polygon.interiors] == [4, 1]


@pytest.mark.parametrize("block", [1, 3, 4, 100])
def test_kilns_one_pixel_apart_and_corner_to_corner_stay_two(block: int) -> None:
    values = grid(
        [".........", ".###.###.", ".###.###.", ".........", ".........", ".##......", "...##....", "........."]
    )
    assert [o.n_pixels for o in found(values, block)] == [6, 6, 2, 2]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_a_faint_object_counts_only_if_a_part_of_it_is_strong(block: int) -> None:
    objects = found(grid(["......", ".++#+.", "......", ".++++.", "......"]), block)
    assert [(o.n_pixels, o.score_sum, o.score_max) for o in objects] == [(4, 500, 200)]


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_truncated_is_what_touches_the_edge_or_missing_imagery(block: int) -> None:
    values = grid(["#......", "...#...", ".......", ".#x..x.", "......#", ".x.....", ".......", "..##.#.", "......."])
    # In order: at the edge; clear; beside x; at the right edge; clear; clear (x only at a corner or away).
    assert [o.truncated for o in found(values, block)] == [True, False, True, True, False, False]


def test_nothing_and_everything() -> None:
    assert found(np.zeros((9, 9), np.uint8), 4) == []
    assert found(np.full((9, 9), 255, np.uint8), 4) == []
    (site,) = found(np.full((9, 7), 254, np.uint8), 4)
    assert site.polygon.equals(shapely.box(0, 0, 7, 9)) and len(site.polygon.exterior.coords) == 5
    assert site.truncated


def test_thresholds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="low <= high"):
        polygonize(reader(np.zeros((3, 3), np.uint8)), (3, 3), 200, 100)


# --- on earth ---


def box_scores(rows: int, cols: int, *boxes: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    values = np.zeros((rows, cols), np.uint8)
    for y, x, height, width in boxes:
        values[y : y + height, x : x + width] = 200
    return values


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        ("EPSG:32643", Affine(10, 0, 700_000, 0, -10, 3_000_000)),
        ("EPSG:3857", Affine(10, 0, 8_600_000, 0, -10, 8_000_000)),  # at 58 degrees north nearly a half as long
        ("EPSG:4326", Affine(1e-4, 0, 77, 0, -1e-4, 28)),
        ("EPSG:4326", Affine(1e-4, 0, 179.999, 0, -1e-4, -17)),  # across the antimeridian
        ("EPSG:2263", Affine(30, 0, 900_000, 0, -30, 200_000)),  # US feet
        ("EPSG:3413", Affine(10, 0, 1_000, 0, -10, 1_000)),  # at the north pole
        ("EPSG:4807", Affine(1e-4, 0, 2, 0, -1e-4, 52)),  # grads, from Paris
        ("EPSG:32643", Affine.translation(7e5, 3e6) @ Affine.rotation(30) @ Affine.scale(10, -10)),
        ("EPSG:32643", Affine.translation(7e5, 3e6) @ Affine.rotation(200) @ Affine.scale(10, 10)),
    ],
)
def test_sizes_are_true_in_any_crs(crs: str, affine: Affine) -> None:
    values = box_scores(40, 40, (10, 12, 5, 10))
    table = to_detections(found(values), GeoBox(values.shape, affine, crs), **NAMES)
    schema.validate(table)
    (row,) = table.to_dict("records")
    a, b, c, d, e, f = affine[:6]
    corners = [(a * x + b * y + c, d * x + e * y + f) for x, y in [(12, 10), (22, 10), (22, 15), (12, 15)]]
    proj = table.crs
    geod = Geod(a=proj.ellipsoid.semi_major_metre, b=proj.ellipsoid.semi_minor_metre)
    lonlat = Transformer.from_crs(proj, proj.geodetic_crs, always_xy=True)
    unit = np.degrees(proj.geodetic_crs.axis_info[0].unit_conversion_factor)
    ring = [lonlat.transform(*corner) for corner in corners]
    lon, lat = np.array(ring).T * unit
    assert row["area_m2"] == pytest.approx(abs(geod.polygon_area_perimeter(lon, lat)[0]), rel=1e-3)
    sides = [geod.inv(lon[i], lat[i], lon[i + 1], lat[i + 1])[2] for i in (0, 1)]
    assert [row["length_m"], row["width_m"]] == pytest.approx([max(sides), min(sides)], rel=5e-3)
    assert row["geometry"].exterior.is_ccw
    expected = shapely.Polygon(corners)
    assert row["geometry"].symmetric_difference(expected).area < 1e-9 * expected.area


UTM = Affine(10, 0, 500_000, 0, -10, 3_000_000)


@pytest.mark.parametrize("block", [16, 20, 64])
def test_a_kiln_on_a_seam_survives_the_size_filter(block: int) -> None:
    """In blocks of 16 or 20 its pieces would be far too small; the filter comes after joining."""
    values = box_scores(64, 64, (14, 14, 5, 10), (40, 40, 1, 1))
    objects = polygonize(reader(values), values.shape, LOW, HIGH, block)
    table = to_detections(objects, GeoBox(values.shape, UTM, "EPSG:32643"), target=get_target("brick_kiln"), **NAMES)
    assert table["area_m2"].tolist() == pytest.approx([5_000], rel=2e-3)
    assert table.attrs["left_out"] == {"too_small": 1, "too_large": 0, "wrong_shape": 0}


def test_what_is_cut_by_the_edge_is_not_too_small_but_can_be_too_large() -> None:
    values = box_scores(80, 80, (0, 20, 1, 2), (0, 40, 40, 30), (60, 5, 2, 14), (60, 30, 5, 9))
    table = to_detections(
        found(values), GeoBox(values.shape, UTM, "EPSG:32643"), target=get_target("brick_kiln"), **NAMES
    )
    assert sorted(zip(table["length_m"], table["truncated"], strict=True)) == [(20, True), (90, False)]
    assert table.attrs["left_out"] == {"too_small": 0, "too_large": 1, "wrong_shape": 1}


def test_confidence_is_the_mean_score_unless_the_caller_knows_better() -> None:
    values = box_scores(20, 20, (2, 2, 2, 4), (10, 10, 2, 4))
    values[10, 10] = 254
    geobox = GeoBox(values.shape, UTM, "EPSG:32643")
    plain = to_detections(found(values), geobox, **NAMES)
    assert plain["confidence"].tolist() == plain["score_mean"].tolist()
    assert plain["score_max"].tolist() == pytest.approx([1, 200 / 254], abs=1e-4)
    assert not plain["calibrated"].any()
    fitted = to_detections(
        found(values), geobox, confidence=lambda mean, top, area, stretch: top / 2, calibrated=True, **NAMES
    )
    assert fitted["confidence"].tolist() == pytest.approx([0.5, 100 / 254], abs=1e-4)
    assert fitted["calibrated"].all()
    with pytest.raises(ValueError, match="confidence"):
        to_detections(found(values), geobox, confidence=lambda _m, top, _a, _e: top * 2, **NAMES)


def test_a_rerun_gives_the_same_ids_and_another_day_others() -> None:
    values = box_scores(20, 20, (2, 2, 2, 4), (10, 10, 2, 4))
    geobox = GeoBox(values.shape, UTM, "EPSG:32643")
    first = to_detections(found(values), geobox, date="2024-01-02", **NAMES)
    again = to_detections(found(values, 3), geobox, date="2024-01-02", **NAMES)
    later = to_detections(found(values), geobox, date="2024-01-03", **NAMES)
    assert first.equals(again)
    assert not set(first["detection_id"]) & set(later["detection_id"])


def test_no_objects_give_a_valid_empty_table() -> None:
    table = to_detections([], GeoBox((5, 5), UTM, "EPSG:32643"), **NAMES)
    schema.validate(table)
    assert len(table) == 0 and table.crs == "EPSG:32643"


def test_a_scene_without_a_place_is_refused() -> None:
    objects = found(box_scores(20, 20, (2, 2, 2, 4)))
    with pytest.raises(GeoslaveError, match="no CRS"):
        to_detections(objects, GeoBox((20, 20), UTM, None), **NAMES)
    local = 'ENGCRS["site grid",EDATUM["stake"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
    with pytest.raises(GeoslaveError, match="not tied to the earth"):
        to_detections(objects, GeoBox((20, 20), UTM, local), **NAMES)


def test_on_real_imagery_any_blocks_give_the_same_detections(data_dir: Path) -> None:
    """A mosaic of real chips, their red band taken as scores: outlines as ragged as they come."""
    chips = sorted((data_dir / "kilns_s2" / "chips").glob("*.tif"))[:30]
    bands = []
    for chip in chips:
        with rasterio.open(chip) as file:
            bands.append(np.minimum(file.read(1, window=Window(0, 0, 120, 120)), 254))
    values = np.block([bands[i : i + 6] for i in range(0, 30, 6)])
    values[300:310, 200:400] = 255
    low, high = (int(q) for q in np.percentile(values, [80, 95]))
    tables = []
    for block in (37, 128, 500, 2048):
        objects = polygonize(reader(values), values.shape, low, high, block)
        tables.append(to_detections(objects, GeoBox(values.shape, UTM, "EPSG:32643"), **NAMES))
        assert as_bytes(objects) == as_bytes(polygonize(reader(values), values.shape, low, high, 720))
    assert len(tables[0]) > 100 and tables[0]["area_m2"].max() > 37 * 37 * 100, "some are larger than a block"
    assert all(table.equals(tables[0]) for table in tables)
