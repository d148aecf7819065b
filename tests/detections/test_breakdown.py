"""Agreement taken apart: the parts add up to the whole, and each says what its name says."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely

from geoslave.detections import breakdown
from geoslave.detections.assess import weights
from geoslave.detections.evaluate import Comparison, compare
from geoslave.errors import LabelError

UTM = 32645
FOOTPRINT = gpd.GeoSeries([shapely.box(500_000, 2_600_000, 510_000, 2_610_000)], crs=UTM)
GRID = [(x, y) for x in range(500, 10_000, 1_000) for y in range(500, 10_000, 1_000)]


def kiln(x: float, y: float, size: float = 1.0) -> shapely.Polygon:
    """100 m x 50 m times a size about a point given in metres from the scene's lower left corner."""
    a, b = 50 * size, 25 * size
    return shapely.box(500_000 + x - a, 2_600_000 + y - b, 500_000 + x + a, 2_600_000 + y + b)


def layer(places: list[tuple[float, float]], **columns: object) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=[kiln(x, y) for x, y in places], crs=UTM).assign(**columns)


def comparison(found: gpd.GeoDataFrame, sites: gpd.GeoDataFrame, **options: float) -> Comparison:
    if "confidence" not in found:
        found = found.assign(confidence=0.9)
    return compare(found, sites, FOOTPRINT, **options)


def halves(places: list[tuple[float, float]]) -> list[str]:
    return ["west" if x < 5_000 else "east" for x, _ in places]


def test_average_precision_falls_with_a_stricter_criterion() -> None:
    away = [(x + 90, y) for x, y in GRID]  # the middle is 40 m from the outline, the IoU 10 / 190
    c = comparison(layer(away), layer(GRID))
    facts = breakdown.by_criterion(c, weights(c, 50))
    assert {k: v["average_precision"] for k, v in facts["distance_m"].items()} == {"25": 0, "50": 1, "100": 1}
    half = [(x + 30, y) for x, y in GRID]  # IoU 70 / 130
    c = comparison(layer(half), layer(GRID))
    facts = breakdown.by_criterion(c, weights(c, 50))
    assert {k: v["average_precision"] for k, v in facts["iou"].items()} == {"0.1": 1, "0.3": 1, "0.5": 1}
    c = comparison(layer([(x + 40, y) for x, y in GRID]), layer(GRID))  # 60 / 140
    assert breakdown.by_criterion(c, weights(c, 50))["iou"]["0.5"]["average_precision"] == 0


def test_misses_and_false_alarms_cancel_in_the_count_but_not_by_block() -> None:
    c = comparison(layer([*GRID[10:], *((x + 300, y) for x, y in GRID[-10:])]), layer(GRID))
    facts = breakdown.count_error(c, weights(c, 200))
    assert (facts["n_sites"], facts["n_detections"], facts["error"], facts["relative_error"]) == (100, 100, 0, 0)
    assert facts["relative_error_low"] < 0 < facts["relative_error_high"]
    assert facts["mean_absolute_error_per_block"] == pytest.approx(20 / 25)


def test_regions_add_up_and_false_alarms_go_to_the_nearest() -> None:
    found = [*GRID[10:], *((x + 300, y) for x, y in GRID[-20:])]  # misses in the west, false alarms in the east
    c = comparison(layer(found), layer(GRID, region=halves(GRID)))
    facts = breakdown.by_place(c, "region", 100, 0)
    assert list(facts) == ["east", "west"]
    assert (facts["west"]["precision"], facts["west"]["recall"]) == (1, 0.8)
    assert (facts["east"]["recall"], facts["east"]["n_false_alarms"]) == (1, 20)
    assert sum(f["counted_area_km2"] for f in facts.values()) == pytest.approx(c.ground.counted_km2)
    assert facts["east"]["counted_area_km2"] == pytest.approx(49, rel=0.06)
    assert facts["west"]["recall_low"] < 0.8 < facts["west"]["recall_high"]


def test_a_column_scattered_over_the_map_gets_recall_alone() -> None:
    kind = ["a" if k % 3 else "b" for k in range(len(GRID))]
    c = comparison(layer(GRID[:50]), layer(GRID, kind=kind))
    facts = breakdown.by_place(c, "kind", 100, 0)
    assert "precision" not in facts["a"] and "false_alarms_per_100km2" not in facts["b"]
    assert facts["a"]["n_hits"] + facts["b"]["n_hits"] == 50


def test_a_column_that_is_not_there_or_names_single_sites_is_refused() -> None:
    sites = layer(GRID, region="one", name=[str(k) for k in range(len(GRID))])
    with pytest.raises(LabelError, match="no column 'district': choose one of region, name"):
        breakdown.by_place(comparison(layer(GRID), sites), "district", 10, 0)
    with pytest.raises(LabelError, match="100 values"):
        breakdown.by_place(comparison(layer(GRID), sites), "name", 10, 0)


def test_scene_groups_split_ground_and_objects() -> None:
    west, east = shapely.box(5e5, 2.6e6, 505_000, 2.61e6), shapely.box(505_000, 2.6e6, 5.1e5, 2.61e6)
    groups = gpd.GeoDataFrame({"group": ["w", "e"]}, geometry=[west, east], crs=UTM)
    facts = breakdown.by_group(comparison(layer(GRID[:50]), layer(GRID)), groups, 50, 0)
    assert (facts["w"]["recall"], facts["e"]["recall"]) == (1, 0)
    assert facts["e"]["precision"] is None and facts["e"]["n_detections"] == 0
    assert facts["w"]["counted_area_km2"] == pytest.approx(facts["e"]["counted_area_km2"], rel=0.01)


def test_kinds_that_the_model_does_not_tell_apart_get_recall_alone() -> None:
    c = comparison(layer(GRID[:50], class_name="brick_kiln"), layer(GRID, class_name=halves(GRID)))
    facts = breakdown.by_class(c, 50, 0)
    assert facts["west"]["recall"] == 1 and facts["east"]["recall"] == 0 and "precision" not in facts["west"]


def test_a_site_called_by_another_class_is_a_miss_and_a_false_alarm() -> None:
    names = halves(GRID)
    wrong = ["east", *names[1:]]
    facts = breakdown.by_class(comparison(layer(GRID, class_name=wrong), layer(GRID, class_name=names)), 50, 0)
    assert facts["west"]["recall"] == 49 / 50 and facts["west"]["precision"] == 1
    assert facts["east"]["recall"] == 1 and facts["east"]["precision"] == 50 / 51


def test_one_class_is_one_entry() -> None:
    facts = breakdown.by_class(comparison(layer(GRID, class_name="k"), layer(GRID, class_name="k")), 20, 0)
    assert list(facts) == ["k"] and facts["k"]["recall"] == 1


def test_names_of_single_sites_are_no_classes() -> None:
    sites = layer(GRID, class_name=[f"site {k}" for k in range(100)])
    assert breakdown.by_class(comparison(layer(GRID), sites), 20, 0) == {}


def test_small_sites_that_are_missed_show_in_their_size_class() -> None:
    size = [0.4 if k < 30 else 1 if k < 60 else 2 for k in range(100)]
    outlines = [kiln(x, y, s) for (x, y), s in zip(GRID, size, strict=True)]
    sites = gpd.GeoDataFrame(geometry=outlines, crs=UTM)
    facts = breakdown.by_size(comparison(sites.iloc[30:].copy(), sites), 50, 0)
    recalls = [f["recall"] for f in facts.values()]
    assert recalls[0] == 0 and recalls[-1] == 1
    assert sum(f["n_sites"] for f in facts.values()) == 100
    assert all(f["precision"] in (1, None) for f in facts.values())


def test_sizes_all_alike_are_one_class() -> None:
    assert list(breakdown.by_size(comparison(layer(GRID), layer(GRID)), 20, 0)) == ["all sizes"]


def test_tiles_by_hand() -> None:
    found = layer([*GRID[:90], *((x + 400, y + 400) for x, y in GRID[:9])], confidence=[0.9] * 90 + [0.6] * 9)
    c = comparison(found, layer(GRID))
    facts = breakdown.by_tile(c, weights(c, 200))
    assert (facts["n_tiles"], facts["n_with_site"]) == (400, 100)
    assert facts["sensitivity"] == 0.9 and facts["specificity"] == pytest.approx(291 / 300)
    assert facts["auc"] == pytest.approx(0.9 + 0.1 * 291 / 300 / 2)
    assert facts["sensitivity_low"] < 0.9 < facts["sensitivity_high"]


def test_a_hit_across_a_tiles_border_is_no_error() -> None:
    sites = [(x + 480, y) for x, y in GRID[:80]]
    c = comparison(layer([(x + 45, y) for x, y in sites]), layer(sites))
    facts = breakdown.by_tile(c, weights(c, 20))
    assert (facts["sensitivity"], facts["specificity"], facts["auc"]) == (1, 1, 1)


def test_what_is_not_defined_is_none() -> None:
    nothing = comparison(layer([], confidence=np.zeros(0)), layer(GRID, class_name="k"))
    weight = weights(nothing, 20)
    assert breakdown.by_tile(nothing, weight)["sensitivity"] == 0
    assert breakdown.by_size(nothing, 20, 0)["all sizes"]["precision"] is None
    no_sites = comparison(layer(GRID), layer([]))
    tile = breakdown.by_tile(no_sites, weight)
    assert tile["auc"] is None and tile["sensitivity"] is None and tile["specificity"] < 1
    assert breakdown.count_error(no_sites, weight)["relative_error"] is None
