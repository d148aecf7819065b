"""The whole report: plain JSON whatever was found, and one row for every object."""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pytest
import shapely

from geoslave.detections.assess import assess, outcomes, refuse_elsewhere
from geoslave.detections.evaluate import compare, evaluate
from geoslave.errors import LabelError
from tests.detections.test_breakdown import FOOTPRINT, GRID, UTM, halves, kiln, layer


@pytest.mark.parametrize("found, sites", [(GRID[:60], GRID), ([], GRID), (GRID[:1], GRID[:1]), (GRID, [])])
def test_the_report_is_json_without_nan_and_starts_with_the_evaluation(found, sites) -> None:
    detections = layer(found, confidence=np.linspace(0.2, 1, len(found)), class_name="k")
    labels = layer(sites, class_name="k", region=halves(sites))
    facts = assess(compare(detections, labels, FOOTPRINT), ["region"], n_replicates=50)
    facts = json.loads(json.dumps(facts, allow_nan=False))
    assert facts["n_sites"] == len(sites) and facts["tile"]["n_with_site"] == len(sites)
    plain = evaluate(detections, labels, FOOTPRINT, n_replicates=50).to_dict()
    assert {name: facts[name] for name in plain} == json.loads(json.dumps(plain))


def test_every_object_has_one_outcome_and_the_numbers_agree() -> None:
    at_edge = (20.0, 5_000.0)
    found = layer([*GRID[:50], (700, 700), at_edge], confidence=[0.9] * 45 + [0.3] * 5 + [0.8, 0.8], scene_id="s")
    sites = layer(GRID[:80], region=halves(GRID[:80]))
    c = compare(found, sites, FOOTPRINT)
    table = outcomes(c)
    assert table["outcome"].value_counts().to_dict() == {"hit": 45, "miss": 35, "false alarm": 1, "ignored": 1}
    missed = table[table["outcome"] == "miss"]
    assert sorted(missed["confidence"].dropna()) == [0.3] * 5
    assert missed["region"].notna().all() and table.loc[table["outcome"] == "false alarm", "region"].isna().all()
    assert table["site"].dropna().is_unique
    hits = table[table["outcome"] == "hit"]
    assert (hits["iou"] == 1).all() and (hits["distance_m"] == 0).all()


def test_labels_of_another_place_are_refused_with_both_places() -> None:
    far = layer(GRID).set_geometry(layer(GRID).translate(300_000, 0))
    with pytest.raises(LabelError, match=r"none of the 100 labels lies where was searched.*E, .*CRS"):
        refuse_elsewhere(compare(layer(GRID, confidence=1.0), far, FOOTPRINT))
    with pytest.raises(LabelError, match="there is no label"):
        refuse_elsewhere(compare(layer(GRID, confidence=1.0), layer([]), FOOTPRINT))
    edge = gpd.GeoDataFrame(geometry=[kiln(30, 5_000)], crs=UTM)
    with pytest.raises(LabelError, match="within 50 m of the searched ground's edge"):
        refuse_elsewhere(compare(layer(GRID, confidence=1.0), edge, FOOTPRINT))


def test_labels_in_some_parts_of_what_was_searched_are_enough() -> None:
    parts = [shapely.box(west, 2.6e6, west + 2_000, 2.602e6) for west in (500_000, 505_000)]
    parts = gpd.GeoSeries(parts, crs=UTM)
    refuse_elsewhere(compare(layer(GRID, confidence=1.0), layer(GRID), parts))
    assert compare(layer(GRID, confidence=1.0), layer(GRID), parts).site_counted.sum() == 8
