"""Attacks on what is published: subtraction, linear programmes, and everybody the figures could be of."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from geoslave.errors import GeoslaveError
from geoslave.release.suppress import K, Tree, protect, told_by_subtraction


def tree(*parents: tuple[int, ...]) -> Tree:
    """A total of parents P0, P1, ... with cells P0.0, P0.1, ... that hold these counts."""
    around, values = {"total": ""}, {"total": (sum(map(sum, parents)),)}
    for i, cells in enumerate(parents):
        around[f"P{i}"], values[f"P{i}"] = "total", (sum(cells),)
        for j, n in enumerate(cells):
            around[f"P{i}.{j}"], values[f"P{i}.{j}"] = f"P{i}", (n,)
    return Tree(around, values)


def shown(of: Tree) -> dict[str, int]:
    """What a reader gets."""
    return {node: of.values[node][0] for node in protect(of)}


COUNTS = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=7).map(tuple), min_size=1, max_size=4)


@given(COUNTS)
def test_nothing_small_is_published_or_left_by_subtraction(parents: list[tuple[int, ...]]) -> None:
    counts = tree(*parents)
    if counts.values["total"][0] < K:
        with pytest.raises(GeoslaveError, match="fewer than 5 sites"):
            protect(counts)
        return
    published = protect(counts)
    assert "total" in published
    assert all(counts.values[node][0] >= K for node in published)
    assert told_by_subtraction(counts, published) == []


@given(COUNTS)
@settings(max_examples=25)
def test_a_linear_programme_cannot_tell_that_a_withheld_cell_is_small(parents: list[tuple[int, ...]]) -> None:
    """The attacker knows every cell and parent that exists and all published sums: what is each cell at most?"""
    counts = tree(*parents)
    if counts.values["total"][0] < K:
        return
    published = protect(counts)
    cells = [node for node in counts.parent if "." in node]
    inside = {"total": cells, **{f"P{i}": [c for c in cells if c.startswith(f"P{i}.")] for i in range(len(parents))}}
    sums = np.array([[cell in inside.get(node, [node]) for cell in cells] for node in sorted(published)], float)
    known = np.array([counts.values[node][0] for node in sorted(published)], float)
    for i, cell in enumerate(cells):
        if cell in published or not 0 < counts.values[cell][0] < K:
            continue
        aim = np.eye(len(cells))[i]
        highest = -linprog(-aim, A_eq=sums, b_eq=known, bounds=(0, None)).fun
        lowest = linprog(aim, A_eq=sums, b_eq=known, bounds=(0, None)).fun
        assert highest >= K - 1e-6, (cell, highest)
        assert lowest < 1e-6, (cell, lowest)


@pytest.mark.parametrize("shape", [(2,), (3,), (4,), (2, 2), (1, 1, 1), (2, 1, 1)])
def test_who_knows_the_rules_cannot_tell_a_withheld_count(shape: tuple[int, ...]) -> None:
    """Every country of few cells is released; those that look the same must differ in each small area."""
    most = 18 if sum(shape) < 4 else 15
    alike: dict[frozenset[tuple[str, int]], list[Tree]] = defaultdict(list)
    for counts in product(range(most + 1), repeat=sum(shape)):
        if sum(counts) > most:
            continue  # with all countries up to a total, none that looks like another is left out
        rest = list(counts)
        country = tree(*[tuple(rest.pop() for _ in range(n)) for n in shape])
        if country.values["total"][0] >= K:
            alike[frozenset(shown(country).items())].append(country)
    for release, countries in alike.items():
        told = {node for node, _ in release}
        for area in set(countries[0].parent) - told:
            could_be = {country.values[area][0] for country in countries}
            assert len(could_be) > 1 or not 0 < min(could_be) < K, (sorted(release), area, could_be)


def test_what_is_withheld_besides_does_not_depend_on_counts() -> None:
    few, many = tree((1, 6, 30, 8)), tree((1, 30, 6, 8))
    assert set(shown(few)) == set(shown(many))
    assert shown(few)["P0"] == 45 and len(shown(few)) == 4, "one cell more than the small one is withheld"


def test_two_counts_of_a_cell_are_both_protected() -> None:
    around = {"total": "", "P": "total", "a": "P", "b": "P", "c": "P"}
    values = {"total": (30, 30), "P": (30, 30), "a": (10, 2), "b": (10, 14), "c": (10, 14)}
    published = protect(Tree(around, values))
    assert "a" not in published and len(published & {"b", "c"}) == 1


def test_a_k_that_protects_nothing_is_refused() -> None:
    with pytest.raises(GeoslaveError, match="protects nothing"):
        protect(tree((9, 9)), k=1)
