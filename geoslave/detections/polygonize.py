"""Scores to objects to detections: exact across seams, in bounded memory, every score read once.

A block labels the pixels of its own core. An object that stays clear of its neighbours is *whole*;
one that touches an inner edge of the core is a *piece*, kept with the runs of pixels by which it
touches. When all blocks are done, pieces whose runs face each other across a seam are joined.

Outlines are never cut and sewn as polygons. An object is carried as its *corners*: the pixel
corners where its outline turns, each with the mixed difference of the object's mask there,

    turn = upper left - upper right - lower left + lower right     (1 if in the object, else 0)

This is linear in the mask, so the corners of a joined object are the sum of its pieces' corners:
what seams add cancels to zero. Corners determine the outline: along a row of corners they pair up
into horizontal edges, down a column into vertical ones. Any way of cutting a raster into blocks
therefore gives the same bytes as the whole raster.

Where an object touches itself in a corner (turn = +-2) the two rings part around the pixels that
are not in it. This is the one decomposition that makes a valid polygon of a 4-connected object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from geoslave.detections import measure, schema
from geoslave.errors import GeoslaveError
from geoslave.grid import partition
from geoslave.imagery.raster import SCORE_NODATA, SCORE_STEPS
from geoslave.targets import Target

LENIENCY = 1.5
"""Sizes may miss a Target's range by this factor (its square for areas): outlines made of pixels are
coarse (at 10 m a kiln is about 10 x 5 of them) and a threshold cuts a site tighter or wider than a
person would draw it."""

Confidence = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]
]
"""(score_mean, score_max, area_m2, length / width), each [n] -> confidence [n] in [0, 1]."""


@dataclass(frozen=True, slots=True)
class SiteObject:
    """A 4-connected set of pixels with score >= low, at least one of them >= high."""

    polygon: shapely.Polygon
    """Outline in pixel coordinates (x, y), whole numbers at the corners of pixels, y downward."""
    n_pixels: int
    score_sum: int
    """Sum of the stored scores, 0..254 each."""
    score_max: int
    truncated: bool
    """It touches the raster's edge or, by a side of a pixel, missing imagery."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Objects, or pieces of them, as columns of length n."""

    n_pixels: NDArray[np.int64]
    score_sum: NDArray[np.int64]
    score_max: NDArray[np.uint8]
    truncated: NDArray[np.bool_]
    corners: NDArray[np.int32]
    """[k, 4]: part 0..n-1, y, x (of the raster), turn; sorted by part, y, x."""

    def __len__(self) -> int:
        return len(self.n_pixels)


@dataclass(frozen=True, slots=True)
class BlockObjects:
    """What one block found. It is small and can be sent between processes."""

    whole: Parts
    """Objects that touch no inner edge of the block and reach `high`."""
    pieces: Parts
    """Parts of objects that touch an inner edge, however small or faint."""
    runs: NDArray[np.int32]
    """[r, 6]: axis (0: seam along y, 1: along x), position of the seam, side (0 before it, 1 behind),
    start, stop along the seam, part of `pieces` or -1 for missing imagery."""
    high: int
    """The stored score a joined object must reach."""


def label_block(values: NDArray[np.uint8], core: Window, shape: tuple[int, int], low: int, high: int) -> BlockObjects:
    """Find the objects of one block.

    Args:
        values: stored scores [y, x] of the core, 0..254, 255 for missing imagery.
        core: the window of the raster that the block answers for.
        shape: rows and columns of the whole raster.
        low: stored score from which a pixel can belong to an object.
        high: stored score that an object must reach somewhere.
    """
    if values.shape != (core.height, core.width):
        raise ValueError(f"values {values.shape} do not fit the core {(core.height, core.width)}")
    if not 0 <= low <= high <= SCORE_STEPS:
        raise ValueError(f"thresholds must be 0 <= low <= high <= {SCORE_STEPS}, not {low} and {high}")
    nodata = values == SCORE_NODATA
    mask = (values >= low) & ~nodata
    if not mask.any():
        labels = np.broadcast_to(np.int32(0), values.shape)
        return BlockObjects(_NO_PARTS, _NO_PARTS, _runs(labels, 0, nodata, core, shape), high)
    labels, n = ndimage.label(mask)
    inside = np.flatnonzero(mask)
    owner, scores = labels.ravel()[inside], values.ravel()[inside]
    n_pixels = np.bincount(owner, minlength=n + 1)
    score_sum = np.bincount(owner, weights=scores, minlength=n + 1).astype(np.int64)
    score_max = np.zeros(n + 1, np.uint8)
    np.maximum.at(score_max, owner, scores)
    on_seam, truncated = _touching(labels, nodata, core, shape, n)
    whole = ~on_seam & (score_max >= high)
    whole[0] = False
    # Wholes are numbered first, pieces after them: one pass over the corners serves both.
    order = np.concatenate([np.flatnonzero(whole), np.flatnonzero(on_seam)])
    n_whole = len(order) - int(on_seam.sum())
    number = np.zeros(n + 1, np.int32)
    number[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    labels.ravel()[inside] = number[owner]
    corners = _corners(labels) + np.array([0, core.row_off, core.col_off, 0], np.int32)
    parts = Parts(n_pixels[order], score_sum[order], score_max[order], truncated[order], corners)
    return BlockObjects(
        _slice(parts, 0, n_whole),
        _slice(parts, n_whole, len(order)),
        _runs(labels, n_whole, nodata, core, shape),
        high,
    )


def join(blocks: Iterable[BlockObjects]) -> list[SiteObject]:
    """Join what the blocks of one raster found, in any order, to its objects, sorted by top, then left."""
    wholes, pieces, runs, high, count = [_NO_PARTS], [_NO_PARTS], [np.zeros((0, 6), np.int32)], 0, 0
    for block in blocks:
        wholes.append(block.whole)
        pieces.append(block.pieces)
        runs.append(_numbered_from(block.runs, count))
        count += len(block.pieces)
        high = block.high
    joined, _ = _join_pieces(_concatenate(pieces), np.concatenate(runs))
    return _site_objects(_concatenate([*wholes, joined]), high)


def join_rows(rows: Iterable[tuple[int, Iterable[BlockObjects]]]) -> Iterator[list[SiteObject]]:
    """As `join`, row by row of blocks, in memory for two rows: a row gives what is finished with it.

    Args:
        rows: from the top, (lower edge of the row in pixels, what its blocks found). Where the raster
            goes on beside a block, there must be a block too: `missing_block` if there are no scores.
    """
    carried, carried_runs, high = _NO_PARTS, np.zeros((0, 6), np.int32), 0
    for bottom, blocks in rows:
        wholes, pieces, runs, count = [_NO_PARTS], [carried], [carried_runs], len(carried)
        for block in blocks:
            wholes.append(block.whole)
            pieces.append(block.pieces)
            runs.append(_numbered_from(block.runs, count))
            count += len(block.pieces)
            high = max(high, block.high)
        all_runs = np.concatenate(runs)
        joined, group = _join_pieces(_concatenate(pieces), all_runs)
        lower = (all_runs[:, 0] == 0) & (all_runs[:, 1] == bottom) & (all_runs[:, 2] == 0)
        carried_runs = all_runs[lower]
        is_piece = carried_runs[:, 5] >= 0
        unfinished, number = np.unique(group[carried_runs[is_piece, 5]], return_inverse=True)
        carried_runs[is_piece, 5] = number
        carried = _select(joined, unfinished)
        finished = _select(joined, np.setdiff1d(np.arange(len(joined)), unfinished))
        yield _site_objects(_concatenate([*wholes, finished]), high)


def missing_block(core: Window, shape: tuple[int, int]) -> BlockObjects:
    """A block without scores: what its neighbours found along it counts as cut by missing imagery."""
    nodata = np.broadcast_to(True, (core.height, core.width))
    nothing = np.broadcast_to(np.int32(0), nodata.shape)
    return BlockObjects(_NO_PARTS, _NO_PARTS, _runs(nothing, 0, nodata, core, shape), 0)


def polygonize(
    read: Callable[[Window], NDArray[np.uint8]], shape: tuple[int, int], low: int, high: int, block: int = 2048
) -> list[SiteObject]:
    """The objects of a raster of stored scores, whatever the size of a block.

    Args:
        read: gives the stored scores [y, x] of a window; called once for each block.
        shape: rows and columns of the raster.
        low: stored score (0..254) from which a pixel can belong to an object.
        high: stored score that an object must reach somewhere.
        block: side of a block in pixels. Memory grows with its square, and with what is found.
    """
    return join(label_block(read(cell.core), cell.core, shape, low, high) for cell in partition(shape, block))


def to_detections(
    objects: Sequence[SiteObject],
    geobox: GeoBox,
    *,
    class_name: str,
    scene_id: str,
    model_id: str,
    date: str | None = None,
    target: Target | None = None,
    leniency: float = LENIENCY,
    confidence: Confidence | None = None,
    calibrated: bool = False,
) -> gpd.GeoDataFrame:
    """Place objects on earth: a detections table in the scene's CRS, most confident first.

    Without `confidence`, the confidence is the mean score of the object: it ranks, it is not a
    probability, and `calibrated` stays False. Lengths are those of the smallest box around an
    outline made of pixels, so up to a pixel or two too long for sites that lie askew.

    With a `target`, what misses its sizes by more than `leniency` is left out, and counted in
    `.attrs["left_out"]` = {"too_small", "too_large", "wrong_shape"}. A truncated object may be
    larger than what is seen of it: it is left out only for being too large.

    Raises:
        GeoslaveError: if the scene has no CRS, or one that is not tied to a planet.
    """
    if geobox.crs is None:
        raise GeoslaveError(f"scene '{scene_id}' has no CRS, so its detections have no place: give it one")
    crs = geobox.crs.proj
    if not objects:
        table = schema.empty(crs)
        table.attrs["left_out"] = dict.fromkeys(("too_small", "too_large", "wrong_shape"), 0)
        return table
    a = geobox.affine
    pixels = np.array([o.polygon for o in objects], object)
    shapes = shapely.transform(pixels, lambda xy: xy @ np.array([[a.a, a.d], [a.b, a.e]]) + np.array([a.c, a.f]))
    shapes = shapely.orient_polygons(shapes)
    n_pixels = np.array([o.n_pixels for o in objects], float)
    score_mean = np.array([o.score_sum for o in objects], float) / n_pixels / SCORE_STEPS
    score_max = np.array([o.score_max for o in objects], float) / SCORE_STEPS
    truncated = np.array([o.truncated for o in objects], bool)
    area = measure.areas_m2(shapes, crs)
    length, width = measure.sides_m(shapes, crs)
    elongation = length / np.maximum(width, 1e-3)
    sure = np.asarray(score_mean if confidence is None else confidence(score_mean, score_max, area, elongation), float)
    if sure.shape != score_mean.shape or not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidence must give one number in [0, 1] for each object")
    points = measure.lonlat_points(shapely.point_on_surface(shapes), crs)
    table = gpd.GeoDataFrame(
        {
            "detection_id": [schema.detection_id(lon, lat, class_name, date) for lon, lat in points.tolist()],
            "class_name": class_name,
            "confidence": sure.round(4),
            "calibrated": calibrated,
            "score_mean": score_mean.round(4),
            "score_max": score_max.round(4),
            "area_m2": area.round(1),
            "length_m": length.round(1),
            "width_m": width.round(1),
            "date": pd.Series([date] * len(shapes), dtype="object"),
            "scene_id": scene_id,
            "model_id": model_id,
            "truncated": truncated,
        },
        geometry=shapes,
        crs=crs,
    )
    reasons = _misfits(area, length, width, truncated, target, leniency)
    table = schema.sort(table[~np.logical_or.reduce(list(reasons.values()))])
    table.attrs["left_out"] = {reason: int(which.sum()) for reason, which in reasons.items()}
    return table


def _misfits(
    area: NDArray[np.float64],
    length: NDArray[np.float64],
    width: NDArray[np.float64],
    truncated: NDArray[np.bool_],
    target: Target | None,
    leniency: float,
) -> dict[str, NDArray[np.bool_]]:
    """Which objects miss the target's sizes, each under one reason only."""
    if target is None:
        nothing = np.zeros(len(area), bool)
        return {"too_small": nothing, "too_large": nothing, "wrong_shape": nothing}
    large = (area > target.area_m2[1] * leniency**2) | (length > target.length_m[1] * leniency)
    small = (area < target.area_m2[0] / leniency**2) | (length < target.length_m[0] / leniency)
    aspect = length / width
    odd = (aspect < target.aspect[0] / leniency) | (aspect > target.aspect[1] * leniency)
    small &= ~large & ~truncated
    return {"too_small": small, "too_large": large, "wrong_shape": odd & ~large & ~small & ~truncated}


_NO_PARTS = Parts(
    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, bool), np.zeros((0, 4), np.int32)
)


def _slice(parts: Parts, start: int, stop: int) -> Parts:
    """Parts start..stop, numbered from 0."""
    a, b = np.searchsorted(parts.corners[:, 0], [start, stop])
    corners = parts.corners[a:b] - np.array([start, 0, 0, 0], np.int32)
    keep = slice(start, stop)
    return Parts(parts.n_pixels[keep], parts.score_sum[keep], parts.score_max[keep], parts.truncated[keep], corners)


def _concatenate(several: Sequence[Parts]) -> Parts:
    """One after the other, numbered through."""
    first = np.cumsum([0] + [len(parts) for parts in several])
    corners = [p.corners + np.array([start, 0, 0, 0]) for p, start in zip(several, first[:-1], strict=True)]
    return Parts(
        np.concatenate([p.n_pixels for p in several]),
        np.concatenate([p.score_sum for p in several]),
        np.concatenate([p.score_max for p in several]),
        np.concatenate([p.truncated for p in several]),
        np.concatenate(corners).astype(np.int32),
    )


def _touching(
    labels: NDArray[np.int32], nodata: NDArray[np.bool_], core: Window, shape: tuple[int, int], n: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of labels 0..n: which touch an inner edge of the core; which touch the raster's edge or missing imagery."""
    on_seam, truncated = np.zeros(n + 1, bool), np.zeros(n + 1, bool)
    for inner, line in (
        (core.row_off > 0, labels[0]),
        (core.col_off > 0, labels[:, 0]),
        (core.row_off + core.height < shape[0], labels[-1]),
        (core.col_off + core.width < shape[1], labels[:, -1]),
    ):
        (on_seam if inner else truncated)[line] = True
    if nodata.any():
        for label, missing in (
            (labels[1:], nodata[:-1]),
            (labels[:-1], nodata[1:]),
            (labels[:, 1:], nodata[:, :-1]),
            (labels[:, :-1], nodata[:, 1:]),
        ):
            truncated[label[missing]] = True
    on_seam[0] = False
    return on_seam, truncated


def _runs(
    labels: NDArray[np.int32], n_whole: int, nodata: NDArray[np.bool_], core: Window, shape: tuple[int, int]
) -> NDArray[np.int32]:
    """Runs (see BlockObjects.runs) along the inner edges; pieces have labels [y, x] above `n_whole`."""
    top, left, bottom, right = core.row_off, core.col_off, core.row_off + core.height, core.col_off + core.width
    found = []
    for inner, axis, seam, side, along, line in (
        (top > 0, 0, top, 1, left, np.s_[0, :]),
        (bottom < shape[0], 0, bottom, 0, left, np.s_[-1, :]),
        (left > 0, 1, left, 1, top, np.s_[:, 0]),
        (right < shape[1], 1, right, 0, top, np.s_[:, -1]),
    ):
        if not inner:
            continue
        code = np.where(nodata[line], -1, np.maximum(labels[line] - n_whole, 0))
        cuts = np.concatenate([[0], np.flatnonzero(np.diff(code)) + 1, [len(code)]])
        what = code[cuts[:-1]]
        start, stop = cuts[:-1][what != 0] + along, cuts[1:][what != 0] + along
        what = what[what != 0]
        fixed = np.broadcast_to([axis, seam, side], (len(what), 3))
        found.append(np.column_stack([fixed, start, stop, np.where(what > 0, what - 1, -1)]))
    return np.concatenate(found).astype(np.int32) if found else np.zeros((0, 6), np.int32)


def _corners(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Corners (see Parts.corners) of the objects 1.. of [y, x], numbered from 0."""
    padded = np.pad(labels, 1)
    mask = (padded > 0).view(np.int8)
    turn = mask[:-1, :-1] - mask[:-1, 1:] - mask[1:, :-1] + mask[1:, 1:]
    y, x = np.nonzero(turn != 0)
    d = turn[y, x].astype(np.int32)
    # Pixels that share a side are of one object, so only two that touch in a corner can be of two.
    upper_left, upper_right = padded[y, x], padded[y, x + 1]
    lower_left, lower_right = padded[y + 1, x], padded[y + 1, x + 1]
    one = np.where(d > 0, np.maximum(upper_left, lower_right), np.maximum(upper_right, lower_left))
    two = np.where(d > 0, np.minimum(upper_left, lower_right), np.minimum(upper_right, lower_left))
    one = np.where(one > 0, one, np.maximum(np.maximum(upper_left, upper_right), np.maximum(lower_left, lower_right)))
    part = (np.abs(d) == 2) & (one != two)
    d[part] = np.sign(d[part])
    columns = np.column_stack([one - 1, y, x, d])
    extra = np.column_stack([two - 1, y, x, d])[part]
    corners = np.concatenate([columns, extra])
    return corners[np.lexsort((corners[:, 2], corners[:, 1], corners[:, 0]))].astype(np.int32)


def _site_objects(found: Parts, high: int) -> list[SiteObject]:
    """Whole objects that reach `high`, sorted by top, then left."""
    polygons = _trace(found.corners)
    first = found.corners[np.searchsorted(found.corners[:, 0], np.arange(len(found)))]
    order = np.lexsort((first[:, 2], first[:, 1]))
    return [
        SiteObject(
            polygons[i],
            int(found.n_pixels[i]),
            int(found.score_sum[i]),
            int(found.score_max[i]),
            bool(found.truncated[i]),
        )
        for i in order
        if found.score_max[i] >= high
    ]


def _numbered_from(runs: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Runs whose pieces follow `count` others."""
    shifted = runs.copy()
    shifted[:, 5] += np.where(shifted[:, 5] >= 0, count, 0).astype(np.int32)
    return shifted


def _select(parts: Parts, which: NDArray[np.integer[Any]]) -> Parts:
    """Some parts (ascending), numbered from 0."""
    number = np.full(len(parts), -1, np.int32)
    number[which] = np.arange(len(which), dtype=np.int32)
    corners = parts.corners[number[parts.corners[:, 0]] >= 0]
    corners[:, 0] = number[corners[:, 0]]
    return Parts(parts.n_pixels[which], parts.score_sum[which], parts.score_max[which], parts.truncated[which], corners)


def _join_pieces(pieces: Parts, runs: NDArray[np.int32]) -> tuple[Parts, NDArray[np.integer[Any]]]:
    """Join pieces that touch each other across a seam: the joined parts, and of which one each piece is."""
    if not len(pieces):
        return _NO_PARTS, np.zeros(0, np.int32)
    before, behind = _facing(runs)
    n = len(pieces)
    both = (before >= 0) & (behind >= 0)
    truncated = pieces.truncated.copy()
    truncated[before[(before >= 0) & (behind < 0)]] = True
    truncated[behind[(behind >= 0) & (before < 0)]] = True
    links = sparse.coo_array((np.ones(int(both.sum()), bool), (before[both], behind[both])), shape=(n, n))
    count, group = csgraph.connected_components(links, directed=False)
    n_pixels, score_sum = np.zeros(count, np.int64), np.zeros(count, np.int64)
    score_max, cut = np.zeros(count, np.uint8), np.zeros(count, bool)
    np.add.at(n_pixels, group, pieces.n_pixels)
    np.add.at(score_sum, group, pieces.score_sum)
    np.maximum.at(score_max, group, pieces.score_max)
    np.logical_or.at(cut, group, truncated)
    corners = pieces.corners.copy()
    corners[:, 0] = group[corners[:, 0]]
    return Parts(n_pixels, score_sum, score_max, cut, _sum_turns(corners)), group


def _facing(runs: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of parts (before, behind) whose runs face each other across a seam; -1 is missing imagery."""
    _, seam = np.unique(runs[:, :2], axis=0, return_inverse=True)
    # All seams are laid end to end on one line, far enough apart, and searched at once.
    length = int(runs[:, 4].max(initial=0)) + 1
    start = seam.ravel() * length + runs[:, 3].astype(np.int64)
    stop = seam.ravel() * length + runs[:, 4].astype(np.int64)
    a, b = np.flatnonzero(runs[:, 2] == 0), np.flatnonzero(runs[:, 2] == 1)
    b = b[np.argsort(start[b])]
    low = np.searchsorted(stop[b], start[a], side="right")
    times = np.maximum(np.searchsorted(start[b], stop[a], side="left") - low, 0)
    nth = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    return runs[np.repeat(a, times), 5].astype(np.int64), runs[b[np.repeat(low, times) + nth], 5].astype(np.int64)


def _sum_turns(corners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Add up the turns that parts have at one place; what cancels is no corner."""
    corners = corners[np.lexsort((corners[:, 2], corners[:, 1], corners[:, 0]))]
    first = np.flatnonzero(np.concatenate([[True], (np.diff(corners[:, :3], axis=0) != 0).any(axis=1)]))
    turns = np.add.reduceat(corners[:, 3], first)
    merged = corners[first]
    merged[:, 3] = turns
    return merged[turns != 0]


def _trace(corners: NDArray[np.int32]) -> NDArray[np.object_]:
    """Corners of objects 0..n-1 (see Parts.corners) -> their polygons [n].

    Rings start at their top left corner; the outer one runs right from there (positive area as the
    numbers go), holes follow by top, then left, and run the other way.
    """
    if not len(corners):
        return np.zeros(0, object)
    # A corner where an object touches itself is two nodes. They part around the pixels outside of it:
    # turn +2 (upper left and lower right are in): left-lower and right-upper edges belong together;
    # turn -2: left-upper and right-lower.
    twice = np.abs(corners[:, 3]) == 2
    index = np.repeat(np.arange(len(corners)), np.where(twice, 2, 1))
    second = np.concatenate([[False], index[1:] == index[:-1]])
    owner, y, x = corners[index, 0], corners[index, 1], corners[index, 2]
    is_lower = twice[index] & (second == (corners[index, 3] < 0))
    node = np.arange(len(index))
    across = node ^ 1  # sorted by object, y, x: neighbours pair up to horizontal edges
    column = np.lexsort((is_lower, y, x, owner))
    down = np.empty_like(node)
    down[column[0::2]], down[column[1::2]] = column[1::2], column[0::2]
    step = down[across]
    ring, heads = _rings(across, step)
    rank, forward = _ranks(step, across, heads, ring)
    ahead = np.flatnonzero(forward)
    ahead = ahead[np.lexsort((rank[ahead], ring[ahead]))]
    path = np.column_stack([ahead, across[ahead]]).ravel()
    return _assemble(path, ring[path], owner[heads], x, y)


def _rings(across: NDArray[np.int64], step: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ring of each node, rings numbered by their first node; and these first nodes, which are top left."""
    n = len(across)
    rows = np.tile(np.arange(n), 2)
    links = sparse.coo_array((np.ones(2 * n, bool), (rows, np.concatenate([across, step]))), shape=(n, n))
    _, ring = csgraph.connected_components(links, directed=False)
    _, heads = np.unique(ring, return_index=True)
    order = np.argsort(heads)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[ring], heads[order]


def _ranks(
    step: NDArray[np.int64], across: NDArray[np.int64], heads: NDArray[np.int64], ring: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position of each node on the way round its ring, and whether it is on the way that starts at the head.

    `step` leads two corners on; every ring is two cycles of it, one each way round. Pointer jumping
    finds all positions in as many passes as the longest ring has binary digits.
    """
    node = np.arange(len(step))
    starts = np.zeros(len(step), bool)
    starts[heads] = starts[across[heads]] = True
    jump = np.where(starts[step], node, step)
    left = (jump != node).astype(np.int64)
    while True:
        further = jump[jump]
        if np.array_equal(further, jump):
            break
        left += left[jump]
        jump = further
    return -left, step[jump] == heads[ring]


def _assemble(
    path: NDArray[np.int64],
    ring: NDArray[np.int64],
    owner: NDArray[np.int32],
    x: NDArray[np.int32],
    y: NDArray[np.int32],
) -> NDArray[np.object_]:
    """Nodes in the order of the rings -> polygons; the first ring of each owner is the outer one."""
    size = np.bincount(ring)
    first = np.cumsum(size) - size
    hole = np.concatenate([[False], owner[1:] == owner[:-1]])
    of = np.repeat(np.arange(len(size)), size + 1)  # closed: the first corner comes again
    nth = np.arange(len(of)) - np.repeat(first + np.arange(len(size)), size + 1)
    nth = np.where(hole[of], size[of] - nth, nth) % size[of]
    nodes = path[first[of] + nth]
    xy = np.column_stack([x[nodes], y[nodes]]).astype(np.float64)
    ring_ends = np.concatenate([[0], np.cumsum(size + 1)])
    polygon_ends = np.concatenate([[0], np.cumsum(np.bincount(owner))])
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (ring_ends, polygon_ends)))
