"""Object-level agreement: the rules of counting, the rates, and intervals that hold."""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoslave.detections.evaluate import Evaluation, average_precision, best_threshold, evaluate, merge_scenes
from geoslave.errors import GeoslaveError

UTM = 32645
SCENE = shapely.box(500_000, 2_600_000, 510_000, 2_610_000)
FOOTPRINT = gpd.GeoSeries([SCENE], crs=UTM)


def kiln(x: float, y: float) -> shapely.Polygon:
    """100 m x 50 m about a point given in metres from the scene's lower left corner."""
    return shapely.box(500_000 + x - 50, 2_600_000 + y - 25, 500_000 + x + 50, 2_600_000 + y + 25)


def layer(places: list[tuple[float, float]], **columns: object) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=[kiln(x, y) for x, y in places], crs=UTM).assign(**columns)


GRID = [(x, y) for x in range(500, 10_000, 1_000) for y in range(500, 10_000, 1_000)]


def run(found: list[tuple[float, float]], sites: list[tuple[float, float]], confidence=0.9, **options) -> Evaluation:
    return evaluate(
        layer(found, confidence=confidence, scene_id="one"), layer(sites), FOOTPRINT, **{"n_replicates": 200} | options
    )


def test_labels_found_exactly_are_a_perfect_score_with_an_interval_that_claims_no_certainty() -> None:
    result = run(GRID, GRID)
    assert (result.precision, result.recall, result.f1, result.average_precision) == (1, 1, 1, 1)
    assert result.false_alarms_per_100km2 == 0
    assert result.n_sites == result.n_detections == 100
    assert 0.95 < result.recall_low < 0.97 and result.recall_high == 1
    assert 3 < result.false_alarms_per_100km2_high < 4
    assert result.n_blocks == 25


def test_counts_by_hand() -> None:
    result = run(GRID[:40] + [(x + 400, y) for x, y in GRID[:10]], GRID[:80])
    assert (result.n_hits, result.n_false_alarms, result.n_missed) == (40, 10, 40)
    assert (result.precision, result.recall) == (0.8, 0.5)
    assert result.f1 == pytest.approx(80 / 130)
    assert result.counted_area_km2 == pytest.approx(9.9**2, rel=2e-3)
    assert result.false_alarms_per_100km2 == pytest.approx(1000 / result.counted_area_km2)
    assert result.precision_low < 0.8 < result.precision_high


def test_average_precision_by_hand() -> None:
    # hit, miss, hit of 3 sites: envelope 1 up to 1/3, then 2/3 up to 2/3
    hit = np.array([True, False, True])
    assert average_precision(np.array([0.9, 0.8, 0.7]), hit, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(np.array([0.5, 0.5, 0.5]), hit, 3) == pytest.approx(2 / 3 * 2 / 3)
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0
    assert average_precision(np.zeros(0), np.zeros(0, bool), 0) is None


def test_low_detections_count_for_average_precision_but_not_for_the_operating_point() -> None:
    confidence = [0.9] * 50 + [0.2] * 50
    result = run(GRID, GRID, confidence, min_confidence=0.5)
    assert (result.recall, result.average_precision, result.n_detections) == (0.5, 1, 50)
    assert [p.recall for p in result.curve] == [0.5, 1]
    assert best_threshold(result) == 0.2


def test_undefined_rates_are_none() -> None:
    nothing_found = run([], GRID)
    assert nothing_found.precision is None and nothing_found.precision_low is None
    assert (nothing_found.recall, nothing_found.f1, nothing_found.average_precision) == (0, 0, 0)
    nothing_there = run(GRID, [])
    assert nothing_there.recall is None and nothing_there.average_precision is None
    assert nothing_there.precision == 0 and nothing_there.curve == ()
    assert run([], []).f1 is None and best_threshold(run([], [])) is None
    nowhere = evaluate(layer([], confidence=[]), layer([]), gpd.GeoSeries([], crs=UTM))
    assert nowhere.false_alarms_per_100km2 is None and nowhere.area_km2 == 0


def test_what_touches_the_edge_or_lies_outside_is_ignored() -> None:
    at_edge, outside, inside = (95, 5_000), (-500, 5_000), (105, 8_000)
    result = run([at_edge, outside], [at_edge, outside, inside])
    assert (result.n_sites, result.n_detections) == (1, 0)
    assert (result.n_sites_ignored, result.n_detections_ignored) == (2, 2)


def test_scenes_that_overlap_or_abut_are_one_footprint() -> None:
    left, right = shapely.box(500_000, 2_600_000, 505_000, 2_610_000), shapely.box(505_000, 2.6e6, 510_000, 2.61e6)
    twice = shapely.box(503_000, 2_600_000, 507_000, 2_610_000)
    sites = layer([(5_000, y) for y in range(500, 10_000, 1_000)])
    result = evaluate(sites.assign(confidence=1.0), sites, gpd.GeoSeries([left, twice, right], crs=UTM))
    assert result.n_sites == 10
    assert result.area_km2 == pytest.approx(run([], []).area_km2, rel=1e-6)


def test_one_place_in_two_scenes_counts_once_but_neighbours_in_one_scene_stay() -> None:
    places = [(1_000, 1_000), (1_020, 1_010), (1_000, 1_051)]
    found = layer(places, confidence=[0.6, 0.9, 0.5], scene_id=["a", "b", "a"])
    assert merge_scenes(found)["confidence"].tolist() == [0.9, 0.5]
    assert evaluate(found, layer(places[:1]), FOOTPRINT).n_false_alarms == 1


def test_detections_of_one_site_do_not_raise_recall_and_lower_precision() -> None:
    once = run(GRID[:10], GRID[:20])
    again = run(GRID[:10] + [(x, y + 55) for x, y in GRID[:10]], GRID[:20])
    assert again.recall == once.recall
    assert again.precision == 0.5


def test_the_real_labels_against_themselves(data_dir) -> None:
    kilns = gpd.read_file(data_dir / "kilns_s2" / "kilns.geojson")
    boxes = []
    for path in sorted((data_dir / "kilns_s2" / "chips").glob("*.tif")):
        with rasterio.open(path) as chip:
            boxes.append(shapely.box(*chip.bounds))
    found = kilns.assign(confidence=0.9, scene_id=kilns["patch_id"])
    result = evaluate(found, kilns, gpd.GeoSeries(boxes, crs=4326))
    assert (result.precision, result.recall, result.average_precision) == (1, 1, 1)
    assert result.n_duplicate_labels == 4 and result.n_sites + result.n_sites_ignored == 37
    assert 40 < result.area_km2 < 30 * 1.28**2


def slowly(found: np.ndarray, sites: np.ndarray, confidence: np.ndarray) -> tuple[int, int, int, float]:
    """(hits, false alarms, sites, average precision) by the rules, pair by pair, in metres of the scene.

    UTM makes lengths 0.04 % too short in the middle of its zone, where the scene lies.
    """
    d, s = (layer([tuple(p) for p in places]).geometry.to_list() for places in (found, sites))
    edge = SCENE.boundary

    def counts(outline: shapely.Polygon) -> bool:
        return outline.distance(edge) / 0.9996 > 50 and outline.intersects(SCENE)

    free, steps, hits, false_alarms = set(range(len(s))), [], 0, 0
    for i in np.argsort(-confidence):
        choices = []
        for j in free:
            iou = d[i].intersection(s[j]).area / d[i].union(s[j]).area
            away = d[i].representative_point().distance(s[j]) / 0.9996
            if away <= 50 or iou >= 0.1:
                choices.append((-iou, away, j))
        taken = min(choices)[2] if choices else None
        free.discard(taken)
        if counts(s[taken] if choices else d[i]):
            steps.append(bool(choices))
            hits += bool(choices) and confidence[i] >= 0.4
            false_alarms += not choices and confidence[i] >= 0.4
    n = sum(map(counts, s))
    precision = np.cumsum(steps) / np.arange(1, len(steps) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return hits, false_alarms, n, float((envelope * steps).sum() / n)


@pytest.mark.parametrize("seed", range(8))
def test_a_slow_and_plain_evaluation_agrees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = np.array([(x, y) for x in range(100, 10_000, 140) for y in range(60, 10_000, 70)], float)
    sites = rng.permutation(cells)[:60] * [1, 0.5] + rng.uniform(-15, 15, (60, 2))
    found = np.vstack([sites[:40] + rng.normal(0, 35, (40, 2)), rng.uniform(0, 10_000, (20, 2))])
    confidence = rng.permutation(60) / 60
    mine = evaluate(
        layer(found.tolist(), confidence=confidence, scene_id="one"),
        layer(sites.tolist()),
        FOOTPRINT,
        0.4,
        duplicate_m=0.1,
        n_replicates=2,
    )
    hits, false_alarms, n, ap = slowly(found, sites, confidence)
    assert (mine.n_hits, mine.n_false_alarms, mine.n_sites) == (hits, false_alarms, n)
    assert mine.average_precision == pytest.approx(ap, abs=1e-12)


def test_the_same_seed_gives_the_same_interval_and_the_answer_is_json() -> None:
    first, second = (run([*GRID[:60], (5_000, 777)], GRID[:80]).to_dict() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    keys = ("precision", "recall", "f1", "average_precision", "false_alarms_per_100km2")
    assert {f"{k}{end}" for k in keys for end in ("", "_low", "_high")} | {"n_sites", "n_detections"} <= set(first)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, inside = np.random.default_rng(1), 0
    for seed in range(60):
        good = [p for p in GRID if rng.random() < 0.7]
        result = run(good, GRID, seed=seed)
        inside += result.recall_low <= 0.7 <= result.recall_high
    assert inside >= 51  # 95 % of 60 are 57; fewer than 51 has a chance below 0.1 %


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        evaluate(layer(GRID), layer(GRID), FOOTPRINT)
    with pytest.raises(GeoslaveError, match="footprints have no CRS"):
        evaluate(layer(GRID, confidence=1.0), layer(GRID), gpd.GeoSeries([SCENE]))


places = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), max_size=12)


@given(places, places, st.data())
@settings(max_examples=25, deadline=None)
def test_rates_are_shares_and_lie_in_their_intervals(found, sites, data) -> None:
    confidence = [data.draw(st.sampled_from([0.1, 0.4, 0.6, 0.9])) for _ in found]
    result = run(found, sites, confidence)
    assert result.n_hits + result.n_missed == result.n_sites
    for name in ("precision", "recall", "f1", "average_precision"):
        value, low, high = (getattr(result, name + end) for end in ("", "_low", "_high"))
        assert value is None or 0 <= value <= 1
        assert low is None or 0 <= low <= high <= 1
    thresholds = [p.confidence for p in result.curve]
    assert thresholds == sorted(thresholds, reverse=True)


apart = st.sets(st.tuples(st.integers(0, 90), st.integers(0, 150)), min_size=1, max_size=12)


@given(apart)
@settings(max_examples=25, deadline=None)
def test_sites_that_do_not_overlap_are_a_perfect_score_for_themselves(cells) -> None:
    sites = [(column * 110, row * 60) for column, row in sorted(cells)]
    result = run(sites, sites)
    assert result.recall in (1, None) and result.average_precision in (1, None)
    assert result.n_sites == result.n_detections
