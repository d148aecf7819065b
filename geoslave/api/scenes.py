"""Scenes in a notebook: what is known of one, its pixels, its picture; and a rendered one to try things on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr
from rasterio.windows import Window

from geoslave import display
from geoslave.errors import GeoslaveError
from geoslave.files import refuse_existing, scratch_folder
from geoslave.imagery.geotiff import Reading, gdal_environment
from geoslave.imagery.geotiff import open_scene as open_file
from geoslave.imagery.preview import draw_scene
from geoslave.imagery.raster import Raster

if TYPE_CHECKING:
    from PIL import Image

OVERVIEW = 1600
"""Pixels of the longest side of what pictures are drawn from."""
_LARGEST = 400_000_000
"""Values that are read into memory without a window."""


@dataclass(frozen=True, slots=True)
class SceneView:
    """A scene, opened: what is known of it, and its pixels when they are asked for."""

    path: str
    scene_id: str
    bands: tuple[str, ...]
    geobox: GeoBox = field(repr=False)
    """CRS, affine transform and shape (y, x)."""
    date: date | None
    notes: tuple[str, ...]
    reading: Reading = field(repr=False, default=Reading())

    def pixels(self, rows: slice = slice(None), cols: slice = slice(None)) -> xr.DataArray:
        """Stored values [band, y, x] at full resolution, with coordinates and CRS; 0 where nothing was measured.

        The coordinate `valid` [y, x] tells where something was.

        Raises:
            GeoslaveError: if the window is too large for memory.
            SceneError: if the file is damaged there.
        """
        height, width = self.geobox.shape
        top, bottom, _ = rows.indices(height)
        left, right, _ = cols.indices(width)
        count = max(bottom - top, 0) * max(right - left, 0) * len(self.bands)
        if not 0 < count <= _LARGEST:
            raise GeoslaveError(f"{self.path}: {count:,} values are asked for: give rows and cols, e.g. slice(0, 1000)")
        with gdal_environment(), open_file(self.path, self.reading) as scene:
            return as_array(scene.read(Window(left, top, right - left, bottom - top)), self.bands)

    def overview(self, longest: int = 1024) -> xr.DataArray:
        """The whole scene [band, y, x], at most `longest` pixels on its longer side."""
        return as_array(overview_of(self.path, self.reading, longest), self.bands)

    def picture(self) -> Image.Image:
        """The scene as people see it, with scale bar and north arrow."""
        return draw_scene(overview_of(self.path, self.reading, OVERVIEW), title=self.scene_id, insets=0, side=720)

    def _repr_html_(self) -> str:
        rows, cols = self.geobox.shape
        told = (
            f"{cols:,} x {rows:,} pixels, {', '.join(self.bands)}, {self.geobox.crs}, {self.date or 'date not known'}"
        )
        return display.page(
            self.scene_id, *map(display.line, (told, *self.notes)), display.picture(self.picture(), self.scene_id)
        )


def open_scene(
    path: str | Path,
    *,
    bands: Mapping[str, int] | None = None,
    crs: str | None = None,
    nodata: float | None = None,
) -> SceneView:
    """Open a scene: a GeoTIFF or any raster that GDAL reads, on disk or behind an address.

    Args:
        bands: band numbers (from 1) by common name, where the file does not tell: {"red": 3, ...}.
        crs: of a file that declares none.
        nodata: the value that means nodata, over what the file says.

    Raises:
        SceneError: if it cannot be read.
    """
    reading = Reading(None if bands is None else tuple(bands), bands, None, crs, nodata)
    with gdal_environment(), open_file(path, reading) as scene:
        return SceneView(str(path), scene.scene_id, scene.bands, scene.geobox, scene.date, scene.remarks(), reading)


@dataclass(frozen=True, slots=True)
class DemoScene:
    """A rendered scene with known truth. It shows no real place."""

    scene: Path
    truth: Path
    sites: gpd.GeoDataFrame
    """The kilns that are in it, in the scene's CRS."""

    def _repr_html_(self) -> str:
        told = f"A rendered landscape with {len(self.sites)} brick kilns: no real place"
        return display.page("SYNTHETIC SCENE", display.line(told)) + open_scene(self.scene)._repr_html_()


def render_demo(
    folder: str | Path = "demo-scene", *, seed: int = 7, size: int = 640, overwrite: bool = False
) -> DemoScene:
    """Render a landscape with brick kilns (10 m pixels) and their truth into a folder, with nothing to download.

    Args:
        size: of a side, in pixels.

    Raises:
        OutputError: if the files are there and `overwrite` is false.
    """
    place = Path(folder)
    for name in ("scene.tif", "truth.geojson"):
        refuse_existing(place / name, overwrite)
    place.mkdir(parents=True, exist_ok=True)
    from geoslave.demo import render_demo_scene

    with scratch_folder(place / "scene.tif") as work:
        rendered = render_demo_scene(work, seed=seed, size=size)
        for path in work.iterdir():
            path.replace(place / path.name)
    return DemoScene(place / "scene.tif", place / "truth.geojson", rendered.sites)


def overview_of(path: str, reading: Reading, longest: int) -> Raster:
    with gdal_environment(), open_file(path, reading) as scene:
        return scene.overview(longest)


def as_array(raster: Raster, bands: Sequence[str]) -> xr.DataArray:
    """A Raster as xarray, [band, y, x]."""
    array = wrap_xr(raster.pixels, raster.geobox, axis=1, dims=("band", "y", "x"))
    valid = xr.DataArray(raster.valid, dims=array.dims[1:])
    return array.assign_coords(band=list(bands), valid=valid)
