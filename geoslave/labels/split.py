"""Splits in space: what is tested on must not have been seen in training.

Sites look like their neighbours and chips overlap, so chips split at random put the same place on
both sides, and every figure comes out too good. Three ways to split are kept here:

* *blocks*: squares of a fixed grid of the whole Earth. A block is for testing or for training by a
  number made from its row and column, so the choice for a place does not depend on what else there
  is. Round the blocks for testing lies a buffer: what touches it is used for neither. A site
  belongs to the block that holds its representative point and may reach out of it; a buffer wider
  than the longest site therefore keeps every test site out of every training chip.
* *leave one out*: each region in turn is tested on, the others trained on.
* *lists*: patterns of names.

All outlines are in longitude and latitude (degrees). Rows of blocks are `side_m` high on the
sphere of the meridian degree; each row has its own columns, as wide at the row's middle as it is high.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from math import cos, floor, radians

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geoslave.errors import LabelError

DEGREE_M = 111_195.0
"""Metres in a degree on the sphere of radius 6,371 km; the ellipsoid's differ by half a percent."""
_STEEPEST = 89.0
"""Poleward of this blocks would wind round the pole; nobody lives there."""

Mask = NDArray[np.bool_]


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

    def in_test(self, points: NDArray[np.object_]) -> Mask:
        """Which points lie in a block for testing."""
        return np.array([self.is_test(*self.row_column(p.x, p.y)) for p in points], bool)

    def _width(self, row: int) -> float:
        """Width of a row's blocks in degrees."""
        height = self.side_m / DEGREE_M
        middle = min(_STEEPEST, abs((row + 0.5) * height))
        return height / cos(radians(middle))


@dataclass(frozen=True, slots=True)
class Split:
    """Which chips are trained on, which are tested on; the others are used for neither."""

    train: Mask
    """[chip]."""
    test: Mask
    """[chip]."""
    test_sites: Mask
    """[site]."""


def split_by_blocks(chips: gpd.GeoSeries, sites: gpd.GeoSeries, blocks: SpatialBlocks) -> Split:
    """Split chips and sites by blocks.

    Args:
        chips: footprints, any CRS.
        sites: outlines, any CRS.

    Raises:
        LabelError: if a test site still touches a training chip: the buffer is narrower than the site.
    """
    footprints, outlines = (np.asarray(s.to_crs(4326).array, object) for s in (chips, sites))
    train = np.array([not blocks.test_boxes(f.bounds, blocks.buffer_m) for f in footprints], bool)
    test = blocks.in_test(shapely.centroid(footprints))
    test_sites = blocks.in_test(shapely.point_on_surface(outlines))
    seen = leaks(footprints[train], outlines[test_sites])
    if len(seen):
        raise LabelError(
            f"{len(seen)} test sites reach into training chips: the buffer of {blocks.buffer_m:g} m is narrower than "
            "the sites are long; set a wider buffer_m"
        )
    return Split(train, test, test_sites)


def leaks(training_chips: NDArray[np.object_], test_sites: NDArray[np.object_]) -> NDArray[np.intp]:
    """Which test sites touch a training chip (positions in `test_sites`, ascending)."""
    if not len(training_chips) or not len(test_sites):
        return np.zeros(0, np.intp)
    touching, _ = shapely.STRtree(training_chips).query(test_sites, predicate="intersects")
    return np.unique(touching)


def leave_one_out(regions: Sequence[str]) -> Iterator[tuple[str, Mask, Mask]]:
    """Each region in turn: its name, what is trained on, what is tested on.

    Raises:
        LabelError: if there is only one region.
    """
    names = np.asarray(regions, dtype=str)
    if len(set(names)) < 2:
        raise LabelError("leaving one region out needs at least two regions: check the region column")
    for region in sorted(set(names)):
        yield region, names != region, names == region


def named(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns (* any text, ? any letter, [abc] one of them)."""
    return any(fnmatch(name, pattern) for pattern in patterns)
