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
from geoslave.model.recipe import Backgrounds, TrainConfig, WeakChips


@dataclass(slots=True)
class ChipPool:
    """Many chips of one size, drawn by weight."""

    chips: NDArray[np.uint8]
    """[n, y, x, band]."""
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


def background_pool(config: TrainConfig, aside: Sequence[ChipPool]) -> ChipPool | None:
    """All backgrounds together, without those that weak chips put aside show."""
    if not config.backgrounds:
        return None
    read = [_read_chips(source, config) for source in config.backgrounds]
    chips = np.concatenate([c for c, _ in read])
    names = np.concatenate([table[source.group_column].to_numpy(str) for source, (_, table) in
                            zip(config.backgrounds, read, strict=True)])  # fmt: skip
    fresh = _unseen(chips, aside)
    pool = _pool(chips[fresh], names[fresh])
    pool.weight = _even_weights(pool.members, len(pool.chips))
    return pool


def background_groups(config: TrainConfig) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Each group's name and its backgrounds [n, y, x, band]."""
    for source in config.backgrounds:
        chips, table = _read_chips(source, config)
        for name, rows in table.reset_index(drop=True).groupby(source.group_column):
            yield str(name), chips[rows.index.to_numpy()]


def weak_pools(config: TrainConfig) -> tuple[list[ChipPool], list[ChipPool]]:
    """Weak chips to train on and weak chips put aside."""
    training, aside = [], []
    for source in config.weak_chips:
        chips, table = _read_chips(source, config)
        if config.chip < max(chips.shape[1:3]):
            raise LabelError(
                f"{source.chips}: a label is of a whole chip of {max(chips.shape[1:3])} pixels, but 'chip' is "
                f"{config.chip}: make it as large"
            )
        names = table[source.group_column].to_numpy(str)
        label = _labels(table, source)
        tested = np.isin(names, config.validation.groups)
        if tested.any():
            aside.append(_weak_pool(chips[tested], names[tested], label[tested], source, config, "validated"))
        fresh = ~tested & _unseen(chips, aside)
        training.append(_weak_pool(chips[fresh], names[fresh], label[fresh], source, config, "trained"))
    known = {name for source in config.weak_chips for name in _read_groups(source)}
    wrong = sorted(set(config.validation.groups) - known)
    if wrong:
        raise LabelError(f"validation.groups: no weak chip is of group {wrong[0]}; check its name")
    return training, aside


def _read_groups(source: Backgrounds) -> set[str]:
    return set(pd.read_csv(source.table, usecols=[source.group_column])[source.group_column].astype(str))


def _labels(table: pd.DataFrame, source: WeakChips) -> NDArray[np.int8]:
    if source.label_column not in table:
        raise LabelError(f"{source.table} has no column '{source.label_column}': change 'label_column'")
    values = pd.to_numeric(table[source.label_column], errors="coerce")
    if not values.isin([0, 1]).all():
        raise LabelError(f"{source.table}: '{source.label_column}' must be 0 or 1 in every row that is used")
    return values.to_numpy(np.int8)


def _weak_pool(
    chips: NDArray[np.uint8],
    names: NDArray[Any],
    label: NDArray[np.int8],
    source: WeakChips,
    config: TrainConfig,
    use: str,
) -> ChipPool:
    if len(set(label.tolist())) < 2:
        raise LabelError(
            f"{source.table}: all {len(label)} chips to be {use} on have the same label: both are needed; "
            "check 'where', 'held_out' and 'validation.groups'"
        )
    if source.class_name is not None and source.class_name not in config.class_names:
        raise LabelError(f"weak chips: class '{source.class_name}' is none of {', '.join(config.class_names)}")
    pool = _pool(chips, names)
    pool.label = label
    pool.class_index = 0 if source.class_name is None else config.class_names.index(source.class_name)
    pool.colours = None if source.guess is None else _colours(config)
    pool.weight = _balanced_weights(pool, source.positive_share)
    return pool


def _colours(config: TrainConfig) -> tuple[int, int, int]:
    try:
        red, green, blue = (config.bands.index(name) for name in ("red", "green", "blue"))
    except ValueError as error:
        raise LabelError(f"weak chips: 'guess: bare_ground' needs red, green and blue: {error}") from error
    return red, green, blue


def _read_chips(source: Backgrounds, config: TrainConfig) -> tuple[NDArray[np.uint8], pd.DataFrame]:
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


def _pool(chips: NDArray[np.uint8], names: NDArray[Any]) -> ChipPool:
    """Chips with their groups; the weights are still to be given."""
    _, group = np.unique(names.astype(str), return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(int(group.max()) + 1)]
    return ChipPool(chips, group.astype(np.int64), np.zeros(len(chips)), members)


def _unseen(chips: NDArray[np.uint8], aside: Sequence[ChipPool]) -> NDArray[np.bool_]:
    """Chips that are not, to the byte, among those put aside: archives hold some twice."""
    seen = {chip.tobytes() for pool in aside for chip in pool.chips}
    return np.array([chip.tobytes() not in seen for chip in chips], bool)


def _even_weights(members: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.float64]:
    """Weights [count] that sum to 1: a group is drawn as often as the root of its size."""
    weight = np.zeros(count)
    for group in members:
        weight[group] = 1 / np.sqrt(len(group))
    return weight / weight.sum()


def _balanced_weights(pool: ChipPool, positive_share: float) -> NDArray[np.float64]:
    """The same, with a fixed share for chips that hold a site."""
    weight = _even_weights(pool.members, len(pool.chips))
    for label, share in ((1, positive_share), (0, 1 - positive_share)):
        weight[pool.label == label] *= share / weight[pool.label == label].sum()
    return weight


def even_weights(pool: ChipPool) -> NDArray[np.float64]:
    """Weights that sum to 1: a group is drawn as often as the root of its size."""
    return _even_weights(pool.members, len(pool.chips))
