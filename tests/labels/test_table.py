"""Laws of the labels table: duplicates are merged once and for all, axes are turned when they must be."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoslave.detections import match
from geoslave.errors import LabelError
from geoslave.labels.table import DUPLICATE_M, Tally, merge_duplicates, swapped, upright

metres = st.integers(0, 200)
sites = st.lists(st.tuples(metres, metres, st.integers(5, 20)), min_size=1, max_size=12)


def table(places: list[tuple[int, int, int]], **columns: object) -> gpd.GeoDataFrame:
    """Squares of a half side each at a number of metres from one place, in UTM."""
    boxes = [shapely.box(x - s, y - s, x + s, y + s) for x, y, s in places]
    outlines = gpd.GeoSeries(boxes, crs=32645).translate(500_000, 2_600_000)
    common = {"class_name": "kiln", "kind": "outline", "presence": "yes", **columns}
    return gpd.GeoDataFrame(geometry=outlines, crs=32645).assign(**common)


@settings(max_examples=30)
@given(st.lists(st.tuples(metres, metres, st.integers(5, 30)), min_size=1, max_size=12, unique_by=lambda site: site[2]))
def test_merging_agrees_with_how_detections_are_counted(places) -> None:
    """The evaluation merges in a way of its own; both must count the same sites."""
    labels = table(places)
    kept, gone, _ = merge_duplicates(labels)
    assert len(kept) + gone == len(labels)
    assert match.DUPLICATE_M == DUPLICATE_M
    assert kept.index.tolist() == match.merge_duplicates(labels).index.tolist()


@settings(max_examples=30)
@given(sites, st.randoms(use_true_random=False))
def test_merging_twice_or_in_another_order_changes_nothing(places, random) -> None:
    labels = table(places)
    kept, _, _ = merge_duplicates(labels)
    assert merge_duplicates(kept)[1] == 0
    order = list(range(len(labels)))
    random.shuffle(order)
    assert len(merge_duplicates(labels.iloc[order])[0]) == len(kept)


@settings(max_examples=30)
@given(sites)
def test_labels_of_one_image_are_never_merged(places) -> None:
    labels = table(places)
    assert merge_duplicates(labels, drawn_on=np.full(len(labels), "a", object))[1] == 0


def test_an_outline_goes_before_a_point_and_answers_are_not_mixed() -> None:
    labels = table([(0, 0, 5), (3, 0, 20)], kind=["outline", "point"])
    assert merge_duplicates(labels)[0].index.tolist() == [0]
    assert merge_duplicates(labels.assign(presence=["yes", "no"]))[1] == 0
    assert merge_duplicates(labels.assign(kind="chip"))[1] == 0
    assert merge_duplicates(labels.assign(class_name=["a", "b"]))[1:] == (1, 1)
    assert merge_duplicates(labels, 0)[1] == 0


def test_merging_works_across_the_antimeridian() -> None:
    outlines = [shapely.box(179.9999, 0, 179.99995, 0.0001), shapely.box(-179.99995, 0, -179.9999, 0.0001)]
    columns = {"class_name": "kiln", "kind": "outline", "presence": "yes"}
    assert merge_duplicates(gpd.GeoDataFrame(geometry=outlines, crs=4326).assign(**columns))[1] == 1


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(91, 179), st.floats(-60, 60)), min_size=1, max_size=5))
def test_swapped_layers_beyond_ninety_degrees_come_back(places) -> None:
    right = gpd.GeoDataFrame(geometry=[shapely.Point(*place) for place in places], crs=4326)
    wrong = right.set_geometry(gpd.GeoSeries(swapped(right.geometry.to_numpy()), crs=4326))
    tally = Tally("k")
    assert upright(wrong, tally).geometry.tolist() == right.geometry.tolist()
    assert list(tally.repaired.values()) == [len(places)]
    assert upright(right, Tally("k")).geometry.tolist() == right.geometry.tolist()


def test_places_that_are_nowhere_are_left_out_or_refused() -> None:
    both = gpd.GeoDataFrame(geometry=[shapely.Point(89, 24), shapely.Point(500, 300)], crs=4326)
    tally = Tally("k.gpkg")
    assert len(upright(both, tally)) == 1 and list(tally.left_out.values()) == [1]
    with pytest.raises(LabelError, match=r"k\.gpkg: its CRS counts in degrees, but the first place is 500, 300"):
        upright(both[1:], Tally("k.gpkg"))


def test_a_layer_that_meets_the_imagery_either_way_is_left_alone() -> None:
    layer = gpd.GeoDataFrame(geometry=[shapely.Point(24, 89), shapely.Point(89, 24)], crs=4326)
    tally = Tally("k")
    assert upright(layer, tally, shapely.box(88, 23, 90, 25)).geometry.tolist() == layer.geometry.tolist()
    assert not tally.sentences()
