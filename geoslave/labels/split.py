"""Splits in space: what is tested on must not have been seen in training.

Sites look like their neighbours and chips overlap, so chips split at random put the same place on
both sides, and every figure comes out too good. Training (`model.aside`) parts scenes in two ways:

* *blocks*: squares of a fixed grid of the whole Earth. A block is for testing or for training by a
  number made from its row and column, so the choice for a place does not depend on what else there
  is. Round the blocks for testing lies a buffer: what is there is used for neither. A site
  belongs to the block that holds its representative point and may reach out of it; a buffer wider
  than the longest site therefore keeps every test site out of every training chip.
* *lists*: patterns of names, and whole regions, each left out in turn. Their ground is hidden in all
  scenes that overlap them.

All outlines are in longitude and latitude (degrees). Rows of blocks are `side_m` high on the
sphere of the meridian degree; each row has its own columns, as wide at the row's middle as it is high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from math import cos, floor, radians

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

DEGREE_M = 111_195.0
"""Metres in a degree on the sphere of radius 6,371 km; the ellipsoid's differ by half a percent."""
_STEEPEST = 89.0
"""Poleward of this blocks would wind round the pole; nobody lives there."""

_SLIVER = 0.001
"""Share of a chip that rounding may put into the next one."""

Mask = NDArray[np.bool_]
Shapes = NDArray[np.object_]
"""Outlines [n] in longitude and latitude."""


@dataclass(frozen=True, slots=True)
class SpatialBlocks:
    """Squares of a fixed grid, a share of them for testing."""

    side_m: float
    buffer_m: float
    share: float
    seed: int = 0

    def is_test(self, row: int, column: int) -> bool:
        """Whether a block is for testing; made from its place and the seed alone."""
        numbers = np.random.default_rng([self.seed, row + 1_000_000, column + 10_000_000])
        return bool(numbers.random() < self.share)

    def row_column(self, lon: float, lat: float) -> tuple[int, int]:
        """The block that holds a point."""
        row = floor(lat * DEGREE_M / self.side_m)
        return row, floor(lon / self._width(row))

    def box(self, row: int, column: int, grown_m: float = 0.0) -> shapely.Polygon:
        """A block's outline, grown by some metres to all sides."""
        height, width = self.side_m / DEGREE_M, self._width(row)
        up = grown_m / DEGREE_M
        south, north = row * height - up, (row + 1) * height + up
        # metres are the fewest degrees where the box is nearest the equator: take the other end
        across = up / cos(radians(min(_STEEPEST, max(abs(south), abs(north)))))
        return shapely.box(column * width - across, south, (column + 1) * width + across, north)

    def test_boxes(self, bounds: tuple[float, float, float, float], grown_m: float = 0.0) -> list[shapely.Polygon]:
        """Blocks for testing whose grown outline touches `bounds` (west, south, east, north)."""
        area = shapely.box(*bounds)
        reach = (grown_m + self.side_m) / DEGREE_M
        first = floor((bounds[1] - reach) * DEGREE_M / self.side_m)
        last = floor((bounds[3] + reach) * DEGREE_M / self.side_m)
        boxes = []
        for row in range(first, last + 1):
            width = self._width(row)
            margin = 1 + floor(2 * reach / width)
            for column in range(floor(bounds[0] / width) - margin, floor(bounds[2] / width) + margin + 1):
                if self.is_test(row, column):
                    boxes.append(self.box(row, column, grown_m))
        return [box for box in boxes if box.intersects(area)]

    def tested(self, footprint: BaseGeometry) -> BaseGeometry:
        """What of a footprint is tested on."""
        return shapely.intersection(shapely.union_all(self.test_boxes(footprint.bounds)), footprint)

    def hidden(self, footprint: BaseGeometry) -> BaseGeometry:
        """The blocks for testing on or near a footprint, each with its buffer: training shows nothing of them."""
        return shapely.union_all(self.test_boxes(footprint.bounds, self.buffer_m))

    def _width(self, row: int) -> float:
        """Width of a row's blocks in degrees."""
        height = self.side_m / DEGREE_M
        middle = min(_STEEPEST, abs((row + 0.5) * height))
        return height / cos(radians(middle))


def shown_in(chips: Shapes, hidden: BaseGeometry) -> Mask:
    """Which chips [n] show some of a hidden area, both in longitude and latitude.

    Chips that only touch it do not: where two grids meet, rounding alone makes slivers.
    """
    common = shapely.area(shapely.intersection(chips, hidden))
    return np.asarray(common > _SLIVER * shapely.area(chips))


def named(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns (* any text, ? any letter, [abc] one of them)."""
    return any(fnmatch(name, pattern) for pattern in patterns)
