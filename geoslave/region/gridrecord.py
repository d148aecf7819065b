"""What was found out about a grid, as `grids/<grid>.json` keeps it.

No library of geodata is loaded before one is needed: a job with nothing left to do starts, counts and ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date as Day
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import rasterio
    import shapely
    from odc.geo.geobox import GeoBox

    from geoslave.grid import Cell


@dataclass(frozen=True, slots=True)
class GridRecord:
    """What was found out about a grid."""

    name: str
    status: str
    """'ok', 'outside' (the area of interest misses it) or 'empty' (no valid pixel)."""
    shape: tuple[int, int]
    transform: tuple[float, ...]
    crs: str
    scene_id: str
    date: str | None
    factor: tuple[float, ...]
    summand: tuple[float, ...]
    """scaled = stored * factor + summand, per band."""
    block_px: int
    blocks: tuple[tuple[int, int], ...]
    """(row, column) of the blocks to look at."""
    notes: tuple[str, ...]
    stamps: dict[str, str]
    """Of every file the grid is made of."""
    reach: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Where a file has pixels (top, left, bottom, right); those that are not named: anywhere."""

    @property
    def geobox(self) -> GeoBox:
        from affine import Affine
        from odc.geo.geobox import GeoBox

        return GeoBox(self.shape, Affine(*self.transform), self.crs)

    @property
    def coefficients(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.factor, np.float32), np.array(self.summand, np.float32)

    @property
    def taken(self) -> Day | None:
        return None if self.date is None else Day.fromisoformat(self.date)

    def block(self, row: int, col: int) -> Cell:
        """A block as a cell."""
        return block_at(self.shape, self.block_px, row, col)

    def outline(self, window: rasterio.windows.Window) -> shapely.Polygon:
        """A window of the grid as a polygon in the grid's CRS."""
        import shapely

        affine = self.geobox.affine
        return shapely.transform(window_box(window), lambda xy: np.column_stack(affine @ (xy[:, 0], xy[:, 1])))

    def stamps_under(self, window: rasterio.windows.Window) -> dict[str, str]:
        """Of the files that have pixels in a window."""
        bottom, right = window.row_off + window.height, window.col_off + window.width

        def meets(place: Sequence[int]) -> bool:
            down = place[0] < bottom and place[2] > window.row_off
            return down and place[1] < right and place[3] > window.col_off

        return {path: told for path, told in self.stamps.items() if path not in self.reach or meets(self.reach[path])}

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @staticmethod
    def from_dict(told: dict[str, Any]) -> GridRecord:
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) and key != "blocks" else value for key, value in told.items()
        }
        fields["blocks"] = tuple((row, col) for row, col in told["blocks"])
        return GridRecord(**fields)


def window_box(window: rasterio.windows.Window) -> shapely.Polygon:
    """A window as a polygon in pixel coordinates (x, y)."""
    import shapely

    left, top = window.col_off, window.row_off
    return shapely.box(left, top, left + window.width, top + window.height)


def block_at(shape: tuple[int, int], block_px: int, row: int, col: int) -> Cell:
    """The block at a position of `partition(shape, block_px)`."""
    from rasterio.windows import Window

    from geoslave.grid import cells_within

    window = Window(
        col * block_px,
        row * block_px,
        min(block_px, shape[1] - col * block_px),
        min(block_px, shape[0] - row * block_px),
    )
    return next(cells_within(shape, block_px, window))


def block_name(row: int, col: int) -> str:
    """What a block is called: the name of its cell."""
    return f"r{row:03d}c{col:03d}"
