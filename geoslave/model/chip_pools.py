"""Chips without outlines: backgrounds known to be free of sites, and weak chips, of which is known only
whether a site is somewhere in them.

Groups (galleries, campaigns) have styles of their own: chips are drawn evenly over them, and what is
put aside for validation is put aside by whole groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoslave.errors import LabelError
from geoslave.model.recipe import Backgrounds, TrainConfig


@dataclass(slots=True)
class ChipPool:
    """Many chips of one size, drawn by weight."""

    chips: NDArray[Any]
    """[n, y, x, band] display values, uint8 or float32 (see `augment.display`)."""
    group: NDArray[np.int64]
    """[n] which of them belong together."""
    weight: NDArray[np.float64]
    """[n], sums to 1."""
    members: list[NDArray[np.int64]] = field(default_factory=list)
    """Chips of each group."""
    label: NDArray[np.int8] | None = None
    """[n] of weak chips: 1 a site somewhere, 0 none."""
    class_index: int = 0
    """Of weak chips: which class the label speaks of."""
    colours: tuple[int, int, int] | None = None
    """Of weak chips whose pixels are guessed: which bands are red, green and blue."""
    _running: tuple[NDArray[np.float64] | None, NDArray[np.float64]] = field(
        default=(None, np.empty(0)), init=False, repr=False
    )
    """Weights, and their running shares."""

    def draw(self, rng: np.random.Generator) -> int:
        """A chip, by weight."""
        if self._running[0] is not self.weight:
            self._running = self.weight, running_shares(self.weight)
        return pick(self._running[1], rng)


def running_shares(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the sum, added up to 1: what `pick` wants."""
    running = weight.cumsum()
    return running / running[-1]


def pick(running: NDArray[np.float64], rng: np.random.Generator) -> int:
    """What rng.choice(len(weight), p=weight) draws, which would add up the weights each time."""
    return int(running.searchsorted(rng.random(), side="right"))


def background_pool(config: TrainConfig, aside: Sequence[ChipPool]) -> ChipPool | None:
    """All backgrounds together, without those that weak chips put aside show."""
    if not config.backgrounds:
        return None
    read = [read_chips(source, config) for source in config.backgrounds]
    chips = np.concatenate([c for c, _ in read])
    names = np.concatenate([table[source.group_column].to_numpy(str) for source, (_, table) in
                            zip(config.backgrounds, read, strict=True)])  # fmt: skip
    fresh = unseen(chips, aside)
    pool = pool_of(chips[fresh], names[fresh])
    pool.weight = even_weights(pool)
    return pool


def background_groups(config: TrainConfig) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Each group's name and its backgrounds [n, y, x, band]."""
    for source in config.backgrounds:
        chips, table = read_chips(source, config)
        for name, rows in table.reset_index(drop=True).groupby(source.group_column):
            yield str(name), chips[rows.index.to_numpy()]


def read_chips(source: Backgrounds, config: TrainConfig) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """Chips [n, y, x, band] and their rows of the table."""
    try:
        with np.load(source.chips, allow_pickle=False) as archive:
            chips = archive["x"]
        table = pd.read_csv(source.table)
        keep = ~table[source.group_column].isin(source.held_out)
        for column, value in source.where.items():
            keep &= table[column] == value
    except (OSError, ValueError, KeyError) as error:
        raise LabelError(f"{source.chips} and {source.table} do not make a set of chips ({error})") from error
    if len(chips) != len(table) or not keep.any():
        raise LabelError(
            f"{source.table}: {len(table)} rows for {len(chips)} chips, {keep.sum()} chosen; check 'where'"
        )
    if chips.ndim != 4 or chips.dtype != np.uint8 or chips.shape[3] != len(config.bands):
        raise LabelError(
            f"{source.chips}: x is {chips.dtype} {list(chips.shape)}; uint8 [n, y, x, {len(config.bands)}] is needed"
        )
    return chips[keep.to_numpy()], table[keep.to_numpy()]


def pool_of(chips: NDArray[np.uint8], names: NDArray[Any]) -> ChipPool:
    """Chips with their groups; the weights are still to be given."""
    _, group = np.unique(names.astype(str), return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(int(group.max()) + 1)]
    return ChipPool(chips, group.astype(np.int64), np.zeros(len(chips)), members)


def unseen(chips: NDArray[np.uint8], aside: Sequence[ChipPool]) -> NDArray[np.bool_]:
    """Chips that are not, to the byte, among those put aside: archives hold some twice."""
    seen = {chip.tobytes() for pool in aside for chip in pool.chips}
    return np.array([chip.tobytes() not in seen for chip in chips], bool)


def even_weights(pool: ChipPool) -> NDArray[np.float64]:
    """Weights that sum to 1: a group is drawn as often as the root of its size."""
    weight = np.zeros(len(pool.chips))
    for group in pool.members:
        weight[group] = 1 / np.sqrt(len(group))
    return weight / weight.sum()
