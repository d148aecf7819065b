"""A scene that chips are cut from, in memory, and where it lies on earth."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from geoslave.imagery.raster import Raster
from geoslave.model.augment import Floats, Patch, display


@dataclass(frozen=True, slots=True)
class TrainScene:
    """A scene in memory."""

    patch: Patch
    sample: Floats | NDArray[np.uint8]
    """[band, n] display values from all over the scene, as in `Patch`."""
    sites: NDArray[np.float64]
    """[n, 2] centres (row, column)."""
    site_class: NDArray[np.int64]
    """[n] 0 and up."""
    stretched: bool
    region: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class PlacedScene:
    """A scene with its place on earth and the outlines on it."""

    scene: TrainScene
    geobox: GeoBox
    sites: gpd.GeoDataFrame
    """In the geobox's CRS, with `class_index`."""
    footprint: BaseGeometry
    """What is answered for, in longitude and latitude."""
    aside: bool = False
    """It belongs to a source for validation."""


@dataclass(frozen=True, slots=True)
class WithheldScene:
    """A scene that is tested on elsewhere: training needs to know where it lies, and nothing else."""

    sites: gpd.GeoDataFrame
    """In any CRS."""
    footprint: BaseGeometry
    """In longitude and latitude."""


def burn(outlines: gpd.GeoSeries, raster: Raster) -> NDArray[np.bool_]:
    """The pixels [y, x] of a raster whose middles lie in outlines, which are in its CRS."""
    outlines = outlines[~outlines.is_empty]
    if not len(outlines):
        return np.zeros(raster.valid.shape, bool)
    burnt: NDArray[np.uint8] = rasterize(
        list(outlines), raster.valid.shape, transform=raster.geobox.affine, dtype="uint8"
    )
    return burnt.astype(bool)


def sample_of(patch: Patch, count: int = 5_000) -> Floats:
    """Display values [band, n] spread over the valid pixels."""
    values = patch.pixels[:, patch.valid]
    return np.ascontiguousarray(display(values[:, :: max(1, values.shape[1] // count)]))


def outline_of(geobox: GeoBox) -> BaseGeometry:
    """A grid's outline in longitude and latitude."""
    if geobox.crs.epsg == 4326:
        return geobox.extent.geom
    return gpd.GeoSeries([geobox.extent.geom], crs=geobox.crs.to_wkt()).to_crs(4326).iloc[0]
