"""A scene's pixels in memory, as training takes them: display values on the grid that is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoslave.errors import GeoslaveError, LabelError, SceneError
from geoslave.imagery.geotiff import Reading, open_scene
from geoslave.imagery.raster import Raster
from geoslave.imagery.scaling import Radiometry
from geoslave.labels.images import centre_in, geobox_around
from geoslave.model.augment import Floats
from geoslave.model.recipe import TrainConfig


def read_pixels(
    path: Path, config: TrainConfig, centre_in_name: bool = False
) -> tuple[Raster, Floats | NDArray[np.uint8]]:
    """A scene as stored, on the grid it is trained on, and its display values [band, y, x] (see `Patch`)."""
    if centre_in_name:
        raster = _read_by_name(path, config)
        unit = Radiometry((1 / 255,), (0.0,))
    else:
        with open_scene(path, Reading(config.bands, gsd_m=config.gsd_m)) as scene:
            rows, cols = scene.geobox.shape
            raster = scene.read(Window(0, 0, cols, rows))
            unit = scene.radiometry()
    gain, bias = (np.array(v, np.float32)[:, None, None] for v in (unit.gain, unit.bias))
    if raster.pixels.dtype == np.uint8 and set(unit.gain) == {1 / 255} and not any(unit.bias):
        return raster, np.where(raster.valid, raster.pixels, np.uint8(0))
    shown = np.where(raster.valid, raster.pixels.astype(np.float32) * gain + bias, np.float32(0))
    return raster, np.asarray(shown, np.float32)


def grid_of(path: Path, config: TrainConfig, centre_in_name: bool = False) -> GeoBox | None:
    """The grid `read_pixels` would give, without reading a pixel; None where it would read nothing."""
    try:
        if not centre_in_name:
            with open_scene(path, Reading(config.bands, gsd_m=config.gsd_m)) as scene:
                return scene.geobox
        centre = centre_in(path.name)
        with rasterio.open(path) as file:
            return None if centre is None else geobox_around(centre, file.shape, config.gsd_m)
    except (GeoslaveError, RasterioError):
        return None


def _read_by_name(path: Path, config: TrainConfig) -> Raster:
    """An 8-bit image without a georeference, laid about the centre in its name (LATITUDE_LONGITUDE)."""
    centre = centre_in(path.name)
    if centre is None:
        raise LabelError(f"{path.name} is not named LATITUDE_LONGITUDE: leave out 'centre_in_name'")
    try:
        with rasterio.open(path) as file:
            pixels = file.read()
    except RasterioError as error:
        raise SceneError(f"{path} cannot be read as an image ({error}): fetch it again") from error
    if len(pixels) < len(config.bands) or pixels.dtype != np.uint8:
        raise SceneError(f"{path} has {len(pixels)} bands of {pixels.dtype}: {len(config.bands)} of uint8 are needed")
    _, rows, cols = pixels.shape
    geobox = geobox_around(centre, (rows, cols), config.gsd_m)
    return Raster(pixels[: len(config.bands)], np.ones((rows, cols), bool), geobox)
