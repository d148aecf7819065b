"""Thresholds chosen on other regions: the region itself has no say."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoslave.detections.elsewhere import assess_elsewhere, best_f1_threshold, thresholds_elsewhere
from geoslave.detections.evaluate import compare

found_in = st.lists(
    st.tuples(st.sampled_from([0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95]), st.booleans(), st.sampled_from("abc")),
    max_size=30,
)
missed = st.fixed_dictionaries({name: st.integers(0, 5) for name in "abc"})


def _columns(rows: list[tuple[float, bool, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([row[0] for row in rows], float),
        np.array([row[1] for row in rows], bool),
        np.array([row[2] for row in rows], object),
    )


def _sites(rows: list[tuple[float, bool, str]], more: dict[str, int]) -> dict[str, int]:
    return {name: more[name] + sum(hit for _, hit, region in rows if region == name) for name in more}


@given(found_in, found_in, missed, missed)
def test_nothing_of_a_region_moves_its_own_threshold(
    rows: list[tuple[float, bool, str]],
    others: list[tuple[float, bool, str]],
    more: dict[str, int],
    other_more: dict[str, int],
) -> None:
    changed = [row for row in rows if row[2] != "a"] + [row for row in others if row[2] == "a"]
    now = thresholds_elsewhere(*_columns(rows), _sites(rows, more))
    then = thresholds_elsewhere(*_columns(changed), _sites(changed, {**more, "a": other_more["a"]}))
    assert now["a"] == then["a"]


@given(found_in, missed)
def test_no_other_threshold_has_a_higher_f1_on_the_others(
    rows: list[tuple[float, bool, str]], more: dict[str, int]
) -> None:
    n_sites = _sites(rows, more)
    for name, threshold in thresholds_elsewhere(*_columns(rows), n_sites).items():
        there = [(score, hit) for score, hit, region in rows if region != name]
        sites = sum(n for region, n in n_sites.items() if region != name)
        if threshold is None:
            assert not any(hit for _, hit in there)
            continue

        def f1(least: float, there: list[tuple[float, bool]] = there, sites: int = sites) -> float:
            shown = [hit for score, hit in there if score >= least]
            return 2 * sum(shown) / (len(shown) + sites)

        assert f1(threshold) == pytest.approx(max(f1(score) for score, _ in there))


def test_of_equal_thresholds_the_highest_is_taken() -> None:
    confidence, hit = np.array([0.4, 0.9, 0.6]), np.array([True, True, False])
    # at 0.9: 2 * 1 / (1 + 2); at 0.4: 2 * 2 / (3 + 2)
    assert best_f1_threshold(confidence, hit, 2) == 0.4
    assert best_f1_threshold(confidence, hit, 1) == 0.9
    assert best_f1_threshold(confidence, np.zeros(3, bool), 2) is None


def _boxes(at: list[tuple[float, float]]) -> list[shapely.Polygon]:
    return [shapely.box(x, y, x + 100, y + 50) for x, y in at]


def test_each_region_is_measured_at_the_threshold_of_the_others() -> None:
    """East is scored higher: the west's threshold lets its false alarm pass, its own loses the west's sites."""
    scenes = gpd.GeoDataFrame(
        {"group": ["west", "east"]},
        geometry=[shapely.box(0, 0, 5_000, 5_000), shapely.box(20_000, 0, 25_000, 5_000)],
        crs="EPSG:32645",
    ).translate(500_000, 2_600_000)
    footprints = gpd.GeoDataFrame({"group": ["west", "east"]}, geometry=scenes, crs="EPSG:32645")
    sites = _boxes([(1_000, 1_000), (3_000, 3_000), (21_000, 1_000), (23_000, 3_000)])
    alarms = _boxes([(1_000, 4_000), (21_000, 4_000)])
    table = gpd.GeoDataFrame({"confidence": [0.5, 0.4, 0.95, 0.9, 0.2, 0.6]}, geometry=sites + alarms, crs="EPSG:32645")
    labels = gpd.GeoDataFrame(geometry=sites, crs="EPSG:32645")
    for layer in (table, labels):
        layer["geometry"] = layer.geometry.translate(500_000, 2_600_000)
    facts = assess_elsewhere(compare(table, labels, footprints, 0.5), footprints)
    west, east = facts["by"]["west"], facts["by"]["east"]
    assert (west["threshold"], east["threshold"]) == (0.9, 0.4)
    assert (west["n_hits"], west["n_missed"], west["recall"], west["precision"]) == (0, 2, 0, None)
    assert (east["n_hits"], east["n_false_alarms"], east["recall"]) == (2, 1, 1)
    assert (facts["n_hits"], facts["n_missed"], facts["n_false_alarms"]) == (2, 2, 1)
    assert facts["f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert facts["f1_low"] <= facts["f1"] <= facts["f1_high"]
    assert not any(name.startswith("average_precision") for name in {**facts, **west})
