"""The one definition of a chip and of a block.

A `Cell` says what is looked at (`read`) and what it answers for (`core`). Cores tile the grid
exactly once. The partition is anchored at the grid's origin, so an area of interest chooses cells
but never moves them, and the result for a place does not depend on the extent asked for.

Windows are `rasterio.windows.Window` with whole numbers: (col_off, row_off, width, height).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from rasterio.windows import Window


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of work on a grid."""

    read: Window
    """What is looked at. It may hang over the right and lower edge: readers fill what lies outside as invalid."""
    core: Window
    """What the cell answers for. It never leaves the grid."""
    row: int
    """Position in the partition, counted from the top."""
    col: int
    """Position in the partition, counted from the left."""

    @property
    def name(self) -> str:
        """A name that sorts and fits a file system, e.g. `r003c017`."""
        return f"r{self.row:03d}c{self.col:03d}"

    @property
    def core_in_read(self) -> tuple[slice, slice]:
        """Slices (y, x) that cut the core out of an array read with `read`."""
        row = self.core.row_off - self.read.row_off
        col = self.core.col_off - self.read.col_off
        return slice(row, row + self.core.height), slice(col, col + self.core.width)


def partition(
    shape: tuple[int, int], core: int, halo: int = 0, multiple: int = 1, origin: tuple[int, int] = (0, 0)
) -> Iterator[Cell]:
    """Cut a grid of `shape` (rows, columns) into cells, row by row, with square cores.

    Each cell reads `halo` pixels more than its core on every side, as far as the grid goes: whatever
    the cores, a place near the grid's edge is seen with the same edge. Sides of the read window are
    made multiples of `multiple` (a network's stride) by reading over the right and lower edge.
    `origin` (rows, columns) moves the lattice of cores; it must not be positive. Only tests of shift
    invariance need it.

    Raises:
        ValueError: if a size is not positive or the halo is negative.
    """
    rows, cols = shape
    if core < 1 or rows < 1 or cols < 1:
        raise ValueError(f"shape {shape} and core {core} must be positive")
    if halo < 0 or multiple < 1 or max(origin) > 0:
        raise ValueError("halo must not be negative, multiple at least 1, origin not positive")
    for i, (top, bottom) in enumerate(_spans(rows, core, origin[0])):
        y, height = _with_halo(top, bottom, rows, halo, multiple)
        for j, (left, right) in enumerate(_spans(cols, core, origin[1])):
            x, width = _with_halo(left, right, cols, halo, multiple)
            yield Cell(
                read=Window(x, y, width, height),
                core=Window(left, top, right - left, bottom - top),
                row=i,
                col=j,
            )


def cells_within(shape: tuple[int, int], core: int, window: Window, halo: int = 0, multiple: int = 1) -> Iterator[Cell]:
    """The cells of `partition(shape, core, halo, multiple)` whose cores lie in a window, found without the others.

    The window's sides must lie on the lattice of cores or at the grid's edge, as those of a block of
    several cells do.
    """
    rows, cols = shape
    for i in range(window.row_off // core, -(-(window.row_off + window.height) // core)):
        top, bottom = i * core, min((i + 1) * core, rows)
        y, height = _with_halo(top, bottom, rows, halo, multiple)
        for j in range(window.col_off // core, -(-(window.col_off + window.width) // core)):
            left, right = j * core, min((j + 1) * core, cols)
            x, width = _with_halo(left, right, cols, halo, multiple)
            yield Cell(
                read=Window(x, y, width, height),
                core=Window(left, top, right - left, bottom - top),
                row=i,
                col=j,
            )


def chip_grid(shape: tuple[int, int], size: int, overlap: int) -> Iterator[Cell]:
    """Cut a grid of `shape` (rows, columns) into chips of one size that overlap their neighbours.

    The first chip starts at the grid's origin, the last ones hang over the right and lower edge, so
    that every pixel is in a chip. The core of a chip ends in the middle of each overlap.

    Raises:
        ValueError: if the overlap is negative or leaves no step between chips.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} must be at least 0 and smaller than the chip size {size}")
    rows, cols = shape
    for i, (y, top, bottom) in enumerate(_overlapping(rows, size, overlap)):
        for j, (x, left, right) in enumerate(_overlapping(cols, size, overlap)):
            yield Cell(
                read=Window(x, y, size, size),
                core=Window(left, top, right - left, bottom - top),
                row=i,
                col=j,
            )


def _spans(length: int, step: int, origin: int) -> Iterator[tuple[int, int]]:
    """Half-open spans of at most `step` that tile [0, length), cut at origin + k * step."""
    start = 0
    cut = origin % step or step
    while start < length:
        yield start, min(cut, length)
        start, cut = cut, cut + step


def _with_halo(start: int, stop: int, length: int, halo: int, multiple: int) -> tuple[int, int]:
    """(offset, size) of a span grown by a halo, inside [0, length) but for rounding up to a multiple."""
    first = max(0, start - halo)
    return first, _round_up(min(length, stop + halo) - first, multiple)


def _overlapping(length: int, size: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """(read start, core start, core end) of overlapping spans of `size` that cover [0, length)."""
    step = size - overlap
    count = max(1, ceil((length - overlap) / step))
    for k in range(count):
        start = k * step
        core_start = start + overlap // 2 if k else 0
        core_end = start + step + overlap // 2 if k < count - 1 else length
        yield start, core_start, core_end


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
