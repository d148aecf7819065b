"""Raster: pixels with their validity and their place on earth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window


@dataclass(frozen=True, slots=True)
class Raster:
    """A piece of imagery in memory."""

    pixels: NDArray[np.generic]
    """[band, y, x], y downward."""
    valid: NDArray[np.bool_]
    """[y, x], True where every band carries a measurement."""
    geobox: GeoBox
    """CRS, affine transform and shape (y, x) of the pixels."""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3:
            raise ValueError(f"pixels must be [band, y, x], not {self.pixels.ndim}-dimensional")
        if not (self.pixels.shape[1:] == self.valid.shape == tuple(self.geobox.shape)):
            raise ValueError(
                f"pixels {self.pixels.shape}, valid {self.valid.shape} and geobox {tuple(self.geobox.shape)} differ"
            )


@dataclass(frozen=True, slots=True)
class Scores(Raster):
    """A Raster with one band per class, float32 in [0, 1]; 0 where not valid."""


SCORE_STEPS = 254
"""Scores are stored as whole numbers 0..254; the step is below half a percent."""
SCORE_NODATA = 255
"""Stored where no score could be given because the imagery is not valid there."""


def encode_scores(scores: Scores) -> NDArray[np.uint8]:
    """Scores [class, y, x] in [0, 1] as they are stored: uint8, nearest step, SCORE_NODATA where invalid."""
    stored = np.rint(scores.pixels.astype(np.float32) * np.float32(SCORE_STEPS)).astype(np.uint8)
    stored[:, ~scores.valid] = SCORE_NODATA
    return stored


def decode_scores(stored: NDArray[np.uint8], geobox: GeoBox) -> Scores:
    """The inverse of `encode_scores`, up to the step."""
    valid = (stored != SCORE_NODATA).all(axis=0)
    pixels = np.where(valid, stored, 0).astype(np.float32) / np.float32(SCORE_STEPS)
    return Scores(pixels, valid, geobox)


class Source(Protocol):
    """Anything that can be read by window."""

    @property
    def geobox(self) -> GeoBox:
        """The whole grid."""
        ...

    def read(self, window: Window) -> Raster:
        """The pixels of a window of the grid; what hangs over the edge is invalid and zero."""
        ...


def window_geobox(geobox: GeoBox, window: Window) -> GeoBox:
    """The GeoBox of a window, which may hang over the edge of `geobox`."""
    affine = geobox.affine @ geobox.affine.translation(window.col_off, window.row_off)
    return GeoBox((window.height, window.width), affine, geobox.crs)


@dataclass(frozen=True, slots=True)
class MemorySource:
    """A Raster that is read by window: for tests and for small things that are in memory anyway."""

    raster: Raster

    @property
    def geobox(self) -> GeoBox:
        return self.raster.geobox

    def read(self, window: Window) -> Raster:
        bands, rows, cols = self.raster.pixels.shape
        pixels = np.zeros((bands, window.height, window.width), self.raster.pixels.dtype)
        valid = np.zeros((window.height, window.width), bool)
        y0, x0 = max(window.row_off, 0), max(window.col_off, 0)
        y1, x1 = min(window.row_off + window.height, rows), min(window.col_off + window.width, cols)
        if y0 < y1 and x0 < x1:
            target = (slice(y0 - window.row_off, y1 - window.row_off), slice(x0 - window.col_off, x1 - window.col_off))
            pixels[:, *target] = self.raster.pixels[:, y0:y1, x0:x1]
            valid[target] = self.raster.valid[y0:y1, x0:x1]
        return Raster(pixels, valid, window_geobox(self.geobox, window))
