"""Score maps of several scenes as one: where scenes overlap, a place has its highest score and counts once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import shapely.geometry
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.features import shapes
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from scipy import ndimage

from geoslave.imagery.geotiff import gdal_environment
from geoslave.imagery.raster import SCORE_NODATA, window_geobox

WINDOW = 1024
"""Pixels a side that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class MergedScores:
    """A window of one scene's score map, joined with what other scenes show there."""

    scores: NDArray[np.uint8]
    """[y, x] highest stored score of any class in any scene, 0..254; 0 where there is none."""
    own: NDArray[np.bool_]
    """[y, x] True where the scene has a score and no scene before it has: every place counts once."""
    geobox: GeoBox


def merged_scores(paths: Sequence[Path], size: int = WINDOW) -> Iterator[MergedScores]:
    """Walk over score maps (`geoslave detect --scores`), window by window, one scene after another.

    Other scenes are laid on a scene's grid by the nearest pixel, so that where grids differ, a place
    may be off by half a pixel.
    """
    with gdal_environment():
        boxes = [_lonlat_box(path) for path in paths]
        tree = shapely.STRtree(boxes)
        for number, path in enumerate(paths):
            near = sorted(int(k) for k in tree.query(boxes[number]) if k != number)
            with ExitStack() as stack:
                file = stack.enter_context(rasterio.open(path))
                others = [(k < number, _on_grid(stack, paths[k], file)) for k in near]
                yield from _windows(file, others, size)


def unseen(path: Path, longest: int = 1024) -> shapely.Geometry:
    """Ground of a score map without a score (nodata in the imagery), in longitude/latitude; empty if there is none.

    Found on an overview of at most `longest` pixels a side; gaps of one of its pixels are passed over.
    """
    with gdal_environment(), rasterio.open(path) as file:
        shrink = max(1.0, max(file.shape) / longest)
        shape = tuple(max(1, round(side / shrink)) for side in file.shape)
        missing = file.read(1, out_shape=shape, resampling=Resampling.nearest) == SCORE_NODATA
        # a gap at the edge of the map goes on beyond it
        missing = ndimage.binary_opening(np.pad(missing, 1, mode="edge"), np.ones((2, 2), bool))[1:-1, 1:-1]
        if not missing.any():
            return shapely.Polygon()
        affine = file.transform @ file.transform.scale(file.width / shape[1], file.height / shape[0])
        parts = [
            shapely.geometry.shape(part) for part, _ in shapes(missing.astype(np.uint8), missing, transform=affine)
        ]
        gaps = gpd.GeoSeries(parts, crs=file.crs.to_wkt()).to_crs("OGC:CRS84")
    return shapely.make_valid(gaps.union_all())


def _windows(file: Any, others: Sequence[tuple[bool, Any]], size: int) -> Iterator[MergedScores]:
    geobox = GeoBox((file.height, file.width), file.transform, file.crs.to_wkt())
    for top in range(0, file.height, size):
        for left in range(0, file.width, size):
            window = Window(left, top, min(size, file.width - left), min(size, file.height - top))
            scores, own = _highest(file, window)
            for before, other in others:
                theirs, there = _highest(other, window)
                scores = np.maximum(scores, theirs)
                if before:
                    own &= ~there
            yield MergedScores(scores, own, window_geobox(geobox, window))


def _highest(file: Any, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(scores, where there is one), [y, x] over all classes."""
    stored = file.read(window=window)
    there = (stored != SCORE_NODATA).all(axis=0)
    return np.where(there, stored.max(axis=0), 0).astype(np.uint8), there


def _on_grid(stack: ExitStack, path: Path, file: Any) -> Any:
    """Another score map on the grid of `file`."""
    other = stack.enter_context(rasterio.open(path))
    return stack.enter_context(
        WarpedVRT(
            other,
            crs=file.crs,
            transform=file.transform,
            width=file.width,
            height=file.height,
            resampling=Resampling.nearest,
            src_nodata=SCORE_NODATA,
            nodata=SCORE_NODATA,
        )
    )


def _lonlat_box(path: Path) -> shapely.Polygon:
    with rasterio.open(path) as file:
        west, south, east, north = transform_bounds(file.crs, "OGC:CRS84", *file.bounds, densify_pts=21)
    if west > east:  # across the antimeridian: as wide as the world, so that no neighbour is missed
        west, east = -180.0, 180.0
    return shapely.box(west, south, east, north)
