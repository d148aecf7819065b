"""Sites followed across dates: matched, told apart, and not called closed for want of a look."""

from __future__ import annotations

from datetime import date
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoslave.detections.change import Epoch, absences_needed, follow, histories, match_optimally
from geoslave.errors import GeoslaveError

YEARS = [date(2015 + k, 1, 15) for k in range(8)]
M = 1 / 111_320  # degrees a metre, at the equator


def boxes(*corners: tuple[float, float]) -> Any:
    """Squares of 40 m, corners in metres from 0 E 0 N."""
    return np.array([shapely.box(x * M, y * M, (x + 40) * M, (y + 40) * M) for x, y in corners], dtype=object)


def layer(*corners: tuple[float, float]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=list(boxes(*corners)), crs=4326)


def status(*layers: gpd.GeoDataFrame, **options: Any) -> list[str]:
    epochs = [Epoch(when, found) for when, found in zip(YEARS, layers, strict=False)]
    return list(follow(epochs, **options)["status"])


def test_matching_is_optimal_where_greed_is_not() -> None:
    """b1 is nearest to a2 but the only partner of a1: two pairs are better than one."""
    a, b = boxes((0, 0), (70, 0)), boxes((60, 0), (130, 0))
    pairs = match_optimally(a, b)
    assert list(zip(pairs.a, pairs.b, strict=True)) == [(0, 0), (1, 1)]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=12),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=12),
)
def test_matching_is_one_to_one_and_symmetric(first: list, second: list) -> None:
    a, b = boxes(*first), boxes(*second)
    pairs, back = match_optimally(a, b), match_optimally(b, a)
    assert len(set(pairs.a)) == len(set(pairs.b)) == len(pairs.a) == len(back.a)
    assert pairs.iou.sum() == pytest.approx(back.iou.sum())


def test_two_dates() -> None:
    assert status(layer((0, 0), (1000, 0)), layer((10, 5), (5000, 0))) == ["persisted", "not redetected", "appeared"]


def test_closed_needs_two_absences() -> None:
    site, other = layer((0, 0), (900, 0)), layer((900, 0))
    assert status(site, other)[0] == "not redetected"
    assert status(site, other, other)[0] == "closed"
    assert status(site, other, site)[0] == "persisted"


def test_clouds_are_no_absence() -> None:
    def clouded(points: Any) -> Any:
        return shapely.get_x(points) > 500 * M

    both, right = layer((0, 0), (900, 0)), layer((900, 0))
    epochs = [Epoch(YEARS[0], both), Epoch(YEARS[1], right, clouded), Epoch(YEARS[2], right, clouded)]
    table = follow(epochs)
    assert list(table["status"]) == ["unobservable", "persisted"]
    assert list(table["states"]) == ["PUU", "PPP"]
    late = follow([Epoch(YEARS[0], right, clouded), Epoch(YEARS[1], both)])
    assert list(late["status"]) == ["persisted", "unobservable"]


def test_first_and_last_seen_are_intervals() -> None:
    states = np.array([[0, -1, 1, 1, -1, 0, 0, -1]], np.int8)
    row = histories(states, YEARS).iloc[0]
    assert (row["first_seen_after"], row["first_seen"]) == ("2015-01-15", "2017-01-15")
    assert (row["last_seen"], row["gone_by"]) == ("2018-01-15", "2020-01-15")
    assert row["status"] == "closed"


@pytest.mark.parametrize("recall", [0.8, 0.85, 0.95])
def test_closed_is_seldom_wrong_where_differencing_often_is(recall: float) -> None:
    """A tenth of 6,000 sites closes in 8 years; a quarter of the looks meets clouds; the detector misses some."""
    rng = np.random.default_rng(1)
    n = 6000
    closing = np.where(rng.random(n) < 0.1, rng.integers(1, 7, n), 99)
    seen = rng.random((n, 8)) >= 0.25
    found = (np.arange(8) < closing[:, None]) & seen & (rng.random((n, 8)) < recall)
    states = np.where(found, 1, np.where(seen, 0, -1)).astype(np.int8)[found.any(1)]
    standing = closing[found.any(1)] == 99
    plain = (states[:, :-1] == 1).any(1) & (states[:, -1] != 1)
    assert standing[plain].mean() > 0.3
    two = (histories(states, YEARS)["status"] == "closed").to_numpy()
    known = (histories(states, YEARS, absences_needed(recall))["status"] == "closed").to_numpy()
    assert (two & standing).sum() < 0.05 * standing.sum() and (plain & standing).sum() > 0.25 * standing.sum()
    assert known.sum() > 30 and standing[known].mean() < 0.05


def test_a_weaker_detector_needs_more_absences() -> None:
    needed = [absences_needed(recall) for recall in (1, 0.95, 0.85, 0.6)]
    assert needed[0] == needed[1] == 2 and needed == sorted(needed) and needed[-1] > 4


def test_bad_input_is_refused() -> None:
    one = layer((0, 0))
    with pytest.raises(GeoslaveError, match="two dates"):
        follow([Epoch(YEARS[0], one)])
    with pytest.raises(GeoslaveError, match="order of date"):
        follow([Epoch(YEARS[1], one), Epoch(YEARS[0], one)])
    with pytest.raises(GeoslaveError, match="no CRS"):
        follow([Epoch(YEARS[0], one), Epoch(YEARS[1], gpd.GeoDataFrame(geometry=list(boxes((0, 0)))))])
    with pytest.raises(GeoslaveError, match="recall"):
        absences_needed(0)


def test_empty_dates_are_dates() -> None:
    empty = layer((0, 0)).iloc[:0]
    assert status(layer((0, 0)), empty, empty) == ["closed"]
    assert status(empty, layer((0, 0))) == ["appeared"]
    assert status(empty, empty) == []
