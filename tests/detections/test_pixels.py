"""Areas called and labelled: every place counts once, margins do not, and pixels agree with outlines."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from geoslave.detections import bootstrap
from geoslave.detections.ground import survey
from geoslave.detections.match import lonlat
from geoslave.detections.pixels import by_outline, by_pixel
from geoslave.imagery.raster import SCORE_NODATA
from geoslave.imagery.scoremosaic import merged_scores, unseen

UTM = 32645
WEIGHT = bootstrap.draw_blocks(4, 50)


def score_map(path, stored: np.ndarray, left: float = 500_000, pixel: float = 10.0):
    """A score map [y, x] whose upper left corner is (left, 2 600 000)."""
    rows, cols = stored.shape
    options = {"driver": "GTiff", "dtype": "uint8", "crs": f"EPSG:{UTM}", "nodata": SCORE_NODATA, "count": 1}
    transform = Affine(pixel, 0, left, 0, -pixel, 2_600_000)
    with rasterio.open(path, "w", width=cols, height=rows, transform=transform, **options) as file:
        file.write(stored, 1)
    return path


def box(left: float, top: float, width: float, height: float) -> shapely.Polygon:
    """In metres right of and below the corner of the maps."""
    return shapely.box(500_000 + left, 2_600_000 - top - height, 500_000 + left + width, 2_600_000 - top)


def sites(*outlines: shapely.Polygon) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=list(outlines), crs=UTM)


def field(rows: int = 200, cols: int = 200, spots=()) -> np.ndarray:
    stored = np.zeros((rows, cols), np.uint8)
    for row, col, height, width in spots:
        stored[row : row + height, col : col + width] = 200
    return stored


def test_agreement_by_hand(tmp_path) -> None:
    path = score_map(tmp_path / "a.tif", field(spots=[(50, 50, 10, 10), (100, 100, 5, 10)]))
    labels = sites(box(550, 500, 100, 100), box(1500, 1500, 50, 50))  # 5 of 10 columns overlap; one is missed
    ground = survey(sites(box(0, 0, 2_000, 2_000)))
    facts = by_pixel(merged_scores([path]), labels, ground, 127, WEIGHT[:, : len(ground.blocks)])
    assert facts["iou"] == pytest.approx(50 / (50 + 50 + 50 + 50 + 25))
    assert facts["precision"] == pytest.approx(50 / 150) and facts["recall"] == pytest.approx(50 / 125)
    assert facts["called_km2"] == pytest.approx(150e-4, rel=2e-3)
    assert facts["n_pixels"] == pytest.approx(190**2, rel=0.01)  # without the margins


def test_where_scenes_overlap_a_place_counts_once_with_its_highest_score(tmp_path) -> None:
    whole = score_map(tmp_path / "whole.tif", field(200, 300, [(50, 50, 10, 10), (100, 180, 10, 10)]))
    left = score_map(tmp_path / "left.tif", field(200, 200, [(50, 50, 10, 10)]))
    right = score_map(tmp_path / "right.tif", field(200, 200, [(100, 80, 10, 10)]), left=501_000)
    labels = sites(box(500, 500, 100, 100), box(1800, 1000, 100, 100))
    ground = survey(sites(box(0, 0, 2_000, 2_000), box(1_000, 0, 2_000, 2_000)))
    weight = bootstrap.draw_blocks(len(ground.blocks), 20)
    one = by_pixel(merged_scores([whole]), labels, ground, 127, weight)
    two = by_pixel(merged_scores([left, right], size=64), labels, ground, 127, weight)
    assert two["iou"] == one["iou"] == 1  # the right spot is missed by one scene and found by the other
    assert two["n_pixels"] == one["n_pixels"]
    assert two["called_km2"] == pytest.approx(one["called_km2"], rel=1e-3)


def test_missing_imagery_is_neither_called_nor_missed(tmp_path) -> None:
    stored = field(spots=[(50, 50, 10, 10)])
    stored[:, 100:] = SCORE_NODATA
    path = score_map(tmp_path / "half.tif", stored)
    ground = survey(sites(box(0, 0, 2_000, 2_000)))
    labels = sites(box(500, 500, 100, 100), box(1500, 1500, 100, 100))
    facts = by_pixel(merged_scores([path]), labels, ground, 127, bootstrap.draw_blocks(len(ground.blocks), 20))
    assert facts["recall"] == 1
    gap = gpd.GeoSeries([unseen(path)], crs=4326).to_crs(UTM).iloc[0]
    assert gap.symmetric_difference(box(1_000, 0, 1_000, 2_000)).area < 100


def test_a_whole_map_has_no_gap_and_single_missing_pixels_are_none(tmp_path) -> None:
    stored = field()
    stored[20, 30] = stored[150, 7] = SCORE_NODATA
    assert unseen(score_map(tmp_path / "a.tif", stored)).is_empty


def test_outlines_agree_with_the_pixels_they_are_made_of(tmp_path) -> None:
    spots = [(50, 50, 10, 10), (100, 100, 5, 10), (2, 2, 3, 3)]
    path = score_map(tmp_path / "a.tif", field(spots=spots))
    outlines = lonlat(sites(*(box(10 * c, 10 * r, 10 * w, 10 * h) for r, c, h, w in spots)), "detections")
    labels = sites(box(550, 480, 100, 100), box(1000, 1000, 100, 50), box(1500, 1500, 50, 50))
    ground = survey(sites(box(0, 0, 2_000, 2_000)))
    weight = bootstrap.draw_blocks(len(ground.blocks), 50)
    pixels = by_pixel(merged_scores([path]), labels, ground, 127, weight)
    shapes = by_outline(outlines, labels, ground, weight)
    for name in ("iou", "precision", "recall"):
        assert shapes[name] == pytest.approx(pixels[name], abs=0.01)
    assert shapes["called_km2"] == pytest.approx(pixels["called_km2"], rel=0.01)


def test_nothing_called_and_nothing_labelled_is_not_defined(tmp_path) -> None:
    ground = survey(sites(box(0, 0, 2_000, 2_000)))
    weight = bootstrap.draw_blocks(len(ground.blocks), 20)
    for facts in (
        by_pixel(merged_scores([score_map(tmp_path / "a.tif", field())]), sites(), ground, 127, weight),
        by_outline(np.zeros(0, object), sites(), ground, weight),
    ):
        assert facts["iou"] is None and facts["precision"] is None and facts["called_km2"] == 0
