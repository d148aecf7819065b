"""Accuracy and area: laws, tables, refusals. The published numbers are in test_published.py."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoslave.errors import EstimateError
from geoslave.estimate.accuracy import assess_accuracy, error_matrix


@given(st.lists(st.integers(1, 60), min_size=9, max_size=9), st.lists(st.floats(1, 1e6), min_size=3, max_size=3))
def test_areas_add_up_and_shares_stay_shares(cells: list[int], areas: list[float]) -> None:
    found = assess_accuracy(np.reshape(cells, (3, 3)) + np.eye(3), areas)
    assert sum(area.value for area in found.areas) == pytest.approx(sum(areas))
    for figure in (*found.users, *found.producers, found.overall):
        assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_units_make_the_matrix() -> None:
    units = pd.DataFrame({"map": ["a", "a", "b", "b", "b"], "reference": ["a", "b", "b", "b", "a"]})
    matrix, classes = error_matrix(units)
    assert classes == ("a", "b") and matrix.tolist() == [[1, 1], [1, 2]]
    assert list(assess_accuracy(matrix, [1, 2], classes).to_table()["class_name"]) == ["a", "b"]


def test_a_perfect_map_has_no_doubt_and_few_units_are_told() -> None:
    found = assess_accuracy([[20, 0], [0, 40]], [3, 7])
    assert (found.overall.low, found.overall.high) == (1, 1)
    assert "only 20 sample units" in found.users[0].warnings[0] and not found.users[1].warnings


@pytest.mark.parametrize(
    ("matrix", "areas", "said"),
    [
        ([[1, 2]], [1], "square"),
        ([[5, 1], [1, 5]], [1, 2, 3], "mapped areas"),
        ([[5, -1], [1, 5]], [1, 2], "counts"),
        ([[5, 0.5], [1, 5]], [1, 2], "counts"),
        ([[5, np.nan], [1, 5]], [1, 2], "counts"),
        ([[5, 1], [1, 5]], [-1, 2], "0 or more"),
        ([[5, 1], [0, 0]], [1, 2], "fewer than two"),
    ],
)
def test_bad_matrices_are_refused(matrix: list, areas: list, said: str) -> None:
    with pytest.raises(EstimateError, match=said):
        assess_accuracy(matrix, areas)


def test_units_of_a_class_without_area_are_refused() -> None:
    with pytest.raises(EstimateError, match="'c'"):
        error_matrix(pd.DataFrame({"map": ["a", "c"], "reference": ["a", "a"]}), ("a", "b"))
