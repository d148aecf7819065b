"""Chips as windows of a picture: they overlap, so what is said of each pixel is computed once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SORTED = 16
"""Pixels along a side of a window that its percentiles are of: so few are sorted in a tenth of the time."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """Square windows of one size at regular steps: the chips of a picture, row by row."""

    rows: int
    cols: int
    step: int
    """From window to window, in pixels."""
    side: int
    """Of a window, in pixels."""

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) pixels that the windows cover together."""
        return (self.rows - 1) * self.step + self.side, (self.cols - 1) * self.step + self.side

    def cut(self, rows: slice, cols: slice) -> Lattice:
        """Some of its rows and columns."""
        return Lattice(rows.stop - rows.start, cols.stop - cols.start, self.step, self.side)

    def within(self, rim: int) -> Lattice:
        """The same windows without a rim of pixels."""
        return Lattice(self.rows, self.cols, self.step, self.side - 2 * rim)

    def tiles(self, most: int) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of at most so many windows a side."""
        for top in range(0, self.rows, most):
            for left in range(0, self.cols, most):
                yield slice(top, min(top + most, self.rows)), slice(left, min(left + most, self.cols))

    def spread_out(self, planes: NDArray[Any], every: int = 1) -> NDArray[Any]:
        """A view [picture, plane, row, col, y, x] of the windows of planes [picture, plane, y, x]."""
        seen = np.lib.stride_tricks.sliding_window_view(planes, (self.side, self.side), axis=(2, 3))
        return seen[:, :, :: self.step, :: self.step, ::every, ::every]

    def pooled(self, planes: NDArray[Any], how: np.ufunc, dtype: Any = None) -> NDArray[Any]:
        """[picture * window, plane]: each window's sum (np.add), maximum (np.maximum) or minimum of planes."""
        starts = [at * self.step for at in range(max(self.rows, self.cols))]
        down = [how.reduce(planes[:, :, y : y + self.side], axis=2, dtype=dtype) for y in starts[: self.rows]]
        high = np.ascontiguousarray(np.stack(down, axis=1).transpose(0, 1, 3, 2))  # [picture, row, x, plane]
        wide = None if dtype is None else np.float32
        both = [how.reduce(high[:, :, x : x + self.side], axis=2, dtype=wide) for x in starts[: self.cols]]
        return np.stack(both, axis=2).reshape(-1, planes.shape[1])


def boxes(wanted: NDArray[np.bool_], rim: int) -> list[tuple[slice, slice]]:
    """(rows, columns) that hold all wanted [row, col] windows, cut in two wherever that leaves less to compute.

    Args:
        rim: windows around each box that are computed too.
    """
    rows, cols = (np.flatnonzero(wanted.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)
    axis = int(np.argmax([part.stop - part.start for part in box]))
    if wanted[box].all() or box[axis].stop - box[axis].start <= 2 * rim:
        return [box]
    middle = (box[axis].start + box[axis].stop) // 2
    parts = []
    for half in (slice(box[axis].start, middle), slice(middle, box[axis].stop)):
        here, place = np.zeros_like(wanted), (half, box[1]) if axis == 0 else (box[0], half)
        here[place] = wanted[place]
        parts += boxes(here, rim)
    return parts if sum(_computed(part, rim) for part in parts) < _computed(box, rim) else [box]


def _computed(box: tuple[slice, slice], rim: int) -> int:
    rows, cols = (part.stop - part.start + 2 * rim for part in box)
    return rows * cols


def alone(side: int) -> Lattice:
    """The lattice of pictures that are a chip each."""
    return Lattice(1, 1, side, side)


def percentiles(
    planes: NDArray[np.float32], valid: NDArray[np.bool_] | None, wanted: Sequence[int], lattice: Lattice
) -> NDArray[np.float32]:
    """[window, plane * percentile] of planes [picture, plane, y, x] over valid pixels [picture, y, x].

    The lowest and the highest value (0, 100) are of all pixels; what lies between is of 256 at regular steps, the
    nearest rank. Nothing valid gives 0. `valid` None: all of them.
    """
    count = planes.shape[1]
    # beyond every value: sorted to the end
    marked = planes if valid is None else np.where(valid[:, None], planes, np.float32(np.inf))
    views = lattice.spread_out(marked, -(-lattice.side // _SORTED))
    values = views.transpose(0, 2, 3, 1, 4, 5).reshape(-1, count, views.shape[4] * views.shape[5])
    values = np.sort(values, axis=-1)  # in half the time that np.partition takes for so many ranks
    share = np.asarray(wanted) / 100
    if valid is None:
        out = values[..., np.rint(share * (values.shape[-1] - 1)).astype(int)]
    else:
        n = np.isfinite(values[:, :1]).sum(axis=-1, keepdims=True)
        ranks = np.rint(share * np.maximum(n - 1, 0)).astype(int)
        out = np.take_along_axis(values, np.broadcast_to(ranks, (len(values), count, len(share))), axis=-1)
    if 100 in wanted:
        least = marked if valid is None else np.where(valid[:, None], planes, np.float32(-np.inf))
        out[..., list(wanted).index(100)] = lattice.pooled(least, np.maximum)
    if 0 in wanted:
        out[..., list(wanted).index(0)] = lattice.pooled(marked, np.minimum)
    out[~np.isfinite(out)] = 0
    return np.asarray(out, np.float32).reshape(len(out), -1)
