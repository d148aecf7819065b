"""Weak chips: pieces of imagery of which is known only whether a site is somewhere in them.

They come as an archive of chips with a table, or as scenes with a labels table that answers for pieces of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from geoslave.errors import LabelError
from geoslave.labels.formats import read_labels, weak_of
from geoslave.labels.split import Shapes, shown_in
from geoslave.model.augment import Floats, display
from geoslave.model.chip_pools import ChipPool, even_weights, pool_of, read_chips, unseen
from geoslave.model.recipe import TrainConfig, WeakChips, WeakLabels
from geoslave.model.scene_pixels import read_pixels


@dataclass(frozen=True, slots=True)
class Answers:
    """Chips with an answer each, of one source."""

    source: WeakChips | WeakLabels
    place: str
    """Where they come from, for errors."""
    chips: NDArray[Any]
    """[n, y, x, band] display values."""
    names: NDArray[np.str_]
    """[n] the group each belongs to."""
    label: NDArray[np.int8]
    """[n] 1 a site somewhere, 0 none."""
    groups: set[str]
    """All that the source names, those held out too."""
    ground: Shapes | None = None
    """[n] the ground each shows, in longitude and latitude; None where the source does not tell."""
    held_out: Sequence[BaseGeometry] = ()
    """The ground of those held out."""


def weak_answers(config: TrainConfig) -> list[Answers]:
    """All weak chips but those held out.

    Raises:
        GeoslaveError: if they cannot be read, or are of no use.
    """
    return [
        *(_from_archive(source, config) for source in config.weak_chips),
        *(_from_scenes(labelled, config) for labelled in config.weak_labels),
    ]


def tested_ground(answers: Sequence[Answers], config: TrainConfig) -> list[BaseGeometry]:
    """The ground, in longitude and latitude, of weak chips put aside or held out: training must not show it."""
    tested: list[BaseGeometry] = []
    for given in answers:
        if given.ground is not None:
            tested += [*given.ground[np.isin(given.names, config.validation.groups)], *given.held_out]
    return tested


def weak_pools(
    answers: Sequence[Answers], hidden: BaseGeometry, config: TrainConfig
) -> tuple[list[ChipPool], list[ChipPool]]:
    """Weak chips to train on and weak chips put aside.

    Args:
        hidden: ground that no chip to train on may show, in longitude and latitude.

    Raises:
        LabelError: if nothing is left to train or to validate on.
    """
    training: list[ChipPool] = []
    aside: list[ChipPool] = []
    known: set[str] = set()
    for given in answers:
        known |= given.groups
        tested = np.isin(given.names, config.validation.groups)
        if tested.any():
            aside.append(_weak_pool(given, tested, config, "validated"))
        fresh = ~tested & unseen(given.chips, aside)
        if given.ground is not None:
            fresh &= ~shown_in(given.ground, hidden)
        training.append(_weak_pool(given, fresh, config, "trained"))
    wrong = sorted(set(config.validation.groups) - known)
    if wrong:
        raise LabelError(f"validation.groups: no weak chip is of group {wrong[0]}; check its name")
    return training, aside


def _weak_pool(answers: Answers, rows: NDArray[np.bool_], config: TrainConfig, use: str) -> ChipPool:
    source, label = answers.source, answers.label[rows]
    if len(set(label.tolist())) < 2:
        raise LabelError(
            f"{answers.place}: all {len(label)} chips to be {use} on have the same label: both are needed; "
            "check 'where', 'held_out' and 'validation.groups'"
        )
    if source.class_name is not None and source.class_name not in config.class_names:
        raise LabelError(f"weak chips: class '{source.class_name}' is none of {', '.join(config.class_names)}")
    pool = pool_of(answers.chips[rows], answers.names[rows])
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


def _balanced_weights(pool: ChipPool, positive_share: float) -> NDArray[np.float64]:
    """Groups are drawn as often as the root of their size, with a fixed share for chips that hold a site."""
    weight = even_weights(pool)
    for label, share in ((1, positive_share), (0, 1 - positive_share)):
        weight[pool.label == label] *= share / weight[pool.label == label].sum()
    return weight


# --- an archive and its table --------------------------------------------------------------------


def _from_archive(source: WeakChips, config: TrainConfig) -> Answers:
    chips, table = read_chips(source, config)
    _refuse_larger(chips.shape[1:3], source.chips, config)
    names = table[source.group_column].to_numpy(str)
    groups = pd.read_csv(source.table, usecols=[source.group_column])[source.group_column].astype(str)
    return Answers(source, source.table, chips, names, _labels(table, source), set(groups))


def _labels(table: pd.DataFrame, source: WeakChips) -> NDArray[np.int8]:
    if source.label_column not in table:
        raise LabelError(f"{source.table} has no column '{source.label_column}': change 'label_column'")
    values = pd.to_numeric(table[source.label_column], errors="coerce")
    if not values.isin([0, 1]).all():
        raise LabelError(f"{source.table}: '{source.label_column}' must be 0 or 1 in every row that is used")
    return values.to_numpy(np.int8)


def _refuse_larger(shape: tuple[int, ...], place: str, config: TrainConfig) -> None:
    if config.chip < max(shape):
        raise LabelError(
            f"{place}: a label is of a whole chip of {max(shape)} pixels, but 'chip' is {config.chip}: make it as large"
        )


# --- scenes and a labels table -------------------------------------------------------------------


def _from_scenes(source: WeakLabels, config: TrainConfig) -> Answers:
    paths = sorted(Path(source.scenes).glob(source.files))
    if not paths:
        raise LabelError(f"{source.scenes} holds no {source.files}: check 'scenes' in the configuration")
    table = weak_of(read_labels(source.labels, config.sought, weak=True))
    table = table[table["presence"].isin(("yes", "no"))]
    if table.empty:
        raise LabelError(
            f"{source.labels} has no yes or no about a whole chip (rows of the kind 'chip'): write it by  "
            "geoslave labels import ... --format chips"
        )
    if source.group_column is not None and source.group_column not in table:
        raise LabelError(f"{source.labels} has no column '{source.group_column}': change 'group_column'")
    pieces = [piece for path in paths for piece in _pieces(path, table, source, config)]
    if not pieces:
        raise LabelError(
            f"no chip of {source.labels} lies whole on a scene of {source.scenes}: check that both are of the same "
            "place, and the labels' CRS"
        )
    chips, names, label, outlines = zip(*pieces, strict=True)
    names_of, ground = np.array(names), np.array(outlines, object)
    kept = ~np.isin(names_of, source.held_out)
    return Answers(source, source.labels, _of_one_size(chips)[kept], names_of[kept],
                   np.array(label, np.int8)[kept], set(names), ground[kept], tuple(ground[~kept]))  # fmt: skip


def _pieces(
    path: Path, table: gpd.GeoDataFrame, source: WeakLabels, config: TrainConfig
) -> Iterator[tuple[Floats, str, int, BaseGeometry]]:
    """(display values [y, x, band], group, label, ground) of the labels' footprints that lie whole on a scene."""
    raster, pixels = read_pixels(path, config)
    shown = display(pixels).transpose(1, 2, 0)
    here = table.to_crs(raster.geobox.crs.proj)
    outlines = np.asarray(here.geometry.array, object)
    to_pixels = ~raster.geobox.affine
    placed = shapely.transform(outlines, lambda xy: np.column_stack(to_pixels @ (xy[:, 0], xy[:, 1])))
    groups = [path.name] * len(here) if source.group_column is None else here[source.group_column].astype(str)
    ground = np.asarray(table.to_crs(4326).geometry.array, object)
    for (left, top, right, bottom), group, presence, footprint in zip(
        shapely.bounds(placed), groups, here["presence"], ground, strict=True
    ):
        rows, cols = (slice(round(a), round(b)) for a, b in ((top, bottom), (left, right)))
        whole = rows.start >= 0 and cols.start >= 0 and rows.stop <= shown.shape[0] and cols.stop <= shown.shape[1]
        if not whole or not raster.valid[rows, cols].any():
            continue
        _refuse_larger(shown[rows, cols].shape[:2], source.labels, config)
        yield shown[rows, cols], group, int(presence == "yes"), footprint


def _of_one_size(pieces: tuple[Floats, ...]) -> Floats:
    """[n, y, x, band]: pieces of which some are a pixel smaller than others are filled up with zeros, invalid."""
    rows, cols = (max(piece.shape[axis] for piece in pieces) for axis in (0, 1))
    filled = [np.pad(piece, ((0, rows - piece.shape[0]), (0, cols - piece.shape[1]), (0, 0))) for piece in pieces]
    return np.stack(filled)
