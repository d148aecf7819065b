"""Which counts of a tree of areas may be published: none below k, and none that subtraction gives away.

The tree: a total, its parent cells, their cells. A node is withheld if its count is below k (primary
suppression). Where a published node minus what is published inside it leaves 1 to k - 1, more is withheld
until it leaves nothing, or k or more that can be shared out in several ways (complementary suppression;
Hundepool et al. 2012, Statistical Disclosure Control, chapter 4). In a tree every sum that published
figures determine is made of such remainders, so no group of sites below k can be told by adding and
subtracting.

What is withheld besides goes by a fixed order of names and never by the counts: "the smallest one goes" would
tell a reader that what is missing is smaller than what is there (minimality attack; Wong et al. 2007).
Cells without a site and withheld cells look the same: absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from geoslave.errors import GeoslaveError

K = 5
"""Fewest sites of a published cell."""

Values = Mapping[str, tuple[int, ...]]
Published = frozenset[str] | set[str]


@dataclass(frozen=True, slots=True)
class Tree:
    """Areas within areas.

    `parent` names the area around each; the root's is "". `values` holds one or several counts of each area
    (detections, estimated sites): each of them is protected.
    """

    parent: Mapping[str, str]
    values: Values

    @property
    def root(self) -> str:
        """The area around all others."""
        return next(node for node, around in self.parent.items() if around == "")

    def children(self) -> dict[str, list[str]]:
        """Each node's parts."""
        parts: dict[str, list[str]] = {node: [] for node in self.parent}
        for node, around in self.parent.items():
            if around:
                parts[around].append(node)
        return parts


def protect(tree: Tree, k: int = K) -> frozenset[str]:
    """The nodes that may be published, the root among them.

    Raises:
        GeoslaveError: if k is below 2, or even the total is below k.
    """
    if k < 2:
        raise GeoslaveError(f"at least {k} sites a cell protects nothing: ask for 2 or more, {K} is the default")
    if min(tree.values[tree.root]) < k:
        raise GeoslaveError(
            f"there are fewer than {k} sites in all: no count of them can be published without giving places away"
        )
    parts = tree.children()
    published = {node for node in tree.parent if min(tree.values[node]) >= k}
    for node in _deepest_first(tree):
        while node in published and _tells(tree, parts, published, node, k):
            inside = _outermost(parts, published, node)
            if not inside:
                break
            published.remove(min(inside, key=_order))
    return frozenset(published)


def told_by_subtraction(tree: Tree, published: Published, k: int = K) -> list[str]:
    """The published nodes whose remainder tells of 1 to k - 1 sites; empty for what `protect` gives."""
    parts = tree.children()
    return [
        node
        for node in sorted(published)
        if any(0 < left < k for left in _remainder(tree, _outermost(parts, published, node), node))
    ]


def _remainder(tree: Tree, inside: list[str], node: str) -> tuple[int, ...]:
    """What subtraction leaves of a node: its counts minus those published inside it."""
    columns = zip(tree.values[node], *(tree.values[part] for part in inside), strict=True)
    return tuple(value - sum(published) for value, *published in columns)


def _tells(tree: Tree, parts: Mapping[str, list[str]], published: Published, node: str, k: int) -> bool:
    """Whether the remainder gives a small count away.

    It does if it is small itself; or if a reader who guessed which cells are withheld for being small and
    which besides could fill it in one way only: each at its least, or (all being small) each at its most.
    """
    left = _remainder(tree, _outermost(parts, published, node), node)
    withheld = [tree.values[cell] for cell in _withheld_cells(parts, published, node)]
    for measure, remains in enumerate(left):
        counts = [values[measure] for values in withheld if values[measure] > 0]
        n_small = sum(count < k for count in counts)
        n_large = len(counts) - n_small
        if 0 < remains < k:
            return True
        if n_small and (remains <= n_small + k * n_large or (n_large == 0 and remains >= (k - 1) * n_small)):
            return True
    return False


def _withheld_cells(parts: Mapping[str, list[str]], published: Published, node: str) -> list[str]:
    """The smallest areas inside a node that lie in nothing published but it."""
    if not parts[node]:
        return [node]
    return [cell for part in parts[node] if part not in published for cell in _withheld_cells(parts, published, part)]


def _outermost(parts: Mapping[str, list[str]], published: Published, node: str) -> list[str]:
    """The published nodes inside a node that lie in no other of them."""
    found: list[str] = []
    for part in parts[node]:
        found += [part] if part in published else _outermost(parts, published, part)
    return found


def _deepest_first(tree: Tree) -> list[str]:
    depth: dict[str, int] = {"": 0}

    def level(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + level(tree.parent[node])
        return depth[node]

    return sorted(tree.parent, key=lambda node: (-level(node), node))


def _order(node: str) -> str:
    """A fixed order that has nothing to do with counts or with neighbourhood."""
    return hashlib.sha256(node.encode()).hexdigest()
