"""Scores on disk: written block by block in the making, one cloud-optimized GeoTIFF in the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoslave.errors import OutputError
from geoslave.files import atomic_file
from geoslave.imagery.geotiff import gdal_environment
from geoslave.imagery.raster import SCORE_NODATA, SCORE_STEPS, Scores, encode_scores


class ScoreFile:
    """A raster of scores in the making: uint8, one band per class, nodata where nothing was written."""

    def __init__(self, dataset: Any, path: Path) -> None:
        self._dataset = dataset
        self.path = path

    def write(self, scores: Scores, window: Window) -> None:
        """Store the scores of a window, which no other call writes.

        Raises:
            OutputError: if the disk refuses.
        """
        self.write_stored(encode_scores(scores), window)

    def write_stored(self, stored: NDArray[np.uint8], window: Window) -> None:
        """Store scores [class, y, x] that are encoded already.

        Raises:
            OutputError: if the disk refuses.
        """
        try:
            self._dataset.write(stored, window=window)
        except (RasterioError, OSError) as error:
            raise disk_error(self.path, error) from error

    def read(self, window: Window, band: int = 1) -> NDArray[np.uint8]:
        """Stored scores [y, x] of one class in a window inside the raster."""
        stored: NDArray[np.uint8] = self._dataset.read(band, window=window)
        return stored


@contextmanager
def score_file(path: Path, geobox: GeoBox, classes: Sequence[str], core: int) -> Iterator[ScoreFile]:
    """A new score raster at `path` for cores of `core` pixels; what is not written is nodata."""
    rows, cols = geobox.shape
    block = _block_size(core)
    try:
        dataset = rasterio.open(
            path,
            "w+",
            driver="GTiff",
            height=rows,
            width=cols,
            count=len(classes),
            dtype="uint8",
            crs=str(geobox.crs),
            transform=geobox.affine,
            nodata=SCORE_NODATA,
            tiled=True,
            blockxsize=block,
            blockysize=block,
            interleave="band",
            compress="DEFLATE",
            zlevel=1,
            bigtiff="IF_SAFER",
            sparse_ok=True,
        )
    except (RasterioError, OSError) as error:
        raise disk_error(path, error) from error
    try:
        with dataset:
            for number, name in enumerate(classes, start=1):
                dataset.set_band_description(number, name)
                dataset.update_tags(number, scale=f"score = value / {SCORE_STEPS}")
            yield ScoreFile(dataset, path)
    except RasterioError as error:
        raise disk_error(path, error) from error


def publish_scores(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Copy a finished score raster to a cloud-optimized GeoTIFF with overviews, whole or not at all."""
    with gdal_environment(), atomic_file(target, overwrite=overwrite) as draft:
        try:
            rasterio.shutil.copy(
                source,
                draft,
                driver="COG",
                compress="DEFLATE",
                blocksize=512,
                # of the small bright spots that sites are, an average leaves nothing at low zooms
                overview_resampling="RMS",
                bigtiff="IF_SAFER",
                num_threads="2",
            )
        except (RasterioError, OSError) as error:
            raise disk_error(target, error) from error


def disk_error(path: Path, error: BaseException) -> OutputError:
    """What to say when GDAL cannot write."""
    return OutputError(f"{path} cannot be written ({error}): is the disk full? free some space or choose another --out")


def _block_size(core: int) -> int:
    """The largest TIFF block (at most 512) that divides a core, so that no block is written twice."""
    return next((size for size in (512, 256, 128, 64, 32, 16) if core % size == 0), 256)
