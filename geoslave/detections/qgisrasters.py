"""Rasters for a folder that is handed over: copies, pictures of scenes, and mosaics with relative paths."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.io import MemoryFile

from geoslave.errors import OutputError, SceneError
from geoslave.imagery.geotiff import gdal_environment
from geoslave.imagery.preview import natural_colours
from geoslave.imagery.raster import Raster

PLAIN_SIDE = 2048
"""Pixels; a larger copy gets overviews, if it has none."""
_COLOURS = {"red": {"red", "b4", "b04"}, "green": {"green", "b3", "b03"}, "blue": {"blue", "b2", "b02"}}
"""Words in bands' descriptions."""
_KIND, _PICTURE = "GEOSLAVE_KIND", "picture"
"""A raster's tag: its values are those of a screen."""
_CUT = (2, 98)
"""Percentiles of a scene's bands that become black and white."""


def copy_rasters(paths: Sequence[Path], into: Path) -> list[Path]:
    """Copies of rasters under names that differ; what refers to other files (a VRT) or pans slowly is rewritten.

    Raises:
        SceneError: if one is missing or no raster.
    """
    return [copy_raster(path, into) for path in paths]


def copy_raster(path: Path, into: Path, *, placed: bool = True) -> Path:
    """A copy of a raster under a name that is free.

    Args:
        placed: it must have a CRS.

    Raises:
        SceneError: if it is missing or no raster.
    """
    if not path.is_file():
        raise SceneError(f"{path} is not there: check the name")
    into.mkdir(exist_ok=True)
    with opened(path, placed=placed) as file:
        whole = file.driver == "GTiff" and (bool(file.overviews(1)) or max(file.shape) <= PLAIN_SIDE)
    copy = free_name(into, path.stem, path.suffix if whole else ".tif")
    if whole:
        shutil.copyfile(path, copy)
    else:
        _write_cog(path, copy, compress="DEFLATE")
    return copy


def write_picture(raster: Raster, names: Sequence[str], path: Path) -> Path:
    """A scene in natural colours as a small cloud-optimized GeoTIFF, clear where nothing was seen.

    Args:
        names: of the raster's bands; without red, green and blue the first is shown in grey.
    """
    chosen = [names.index(name) if name in names else -1 for name in ("red", "green", "blue")]
    pixels = np.moveaxis(natural_colours(raster, chosen if min(chosen) >= 0 else (0,)), -1, 0)
    rows, cols = raster.valid.shape
    profile = {
        "driver": "GTiff", "height": rows, "width": cols, "count": 3, "dtype": "uint8", "crs": str(raster.geobox.crs),
        "transform": raster.geobox.affine, "photometric": "RGB", "tiled": True,
    }  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    with gdal_environment(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(pixels)
            file.update_tags(**{_KIND: _PICTURE})
            file.write_mask(np.where(raster.valid, 255, 0).astype(np.uint8))
        with memory.open() as file:
            _write_cog(file, path, compress="JPEG", quality="88")
    return path


@dataclass(frozen=True, slots=True)
class _Part:
    """One raster of a mosaic."""

    name: str
    """Relative to the mosaic."""
    shape: tuple[int, int]
    transform: Affine

    @property
    def box(self) -> tuple[float, float, float, float]:
        """West, south, east, north."""
        rows, cols = self.shape
        west, north = self.transform.c, self.transform.f
        return west, north + self.transform.e * rows, west + self.transform.a * cols, north


def write_mosaic(paths: Sequence[Path], path: Path) -> Path:
    """Score maps, or pictures, of one CRS and not rotated as one layer: a VRT that names them relatively."""
    parts = []
    for part in paths:
        with rasterio.open(part) as file:
            parts.append(_Part(part.relative_to(path.parent).as_posix(), file.shape, file.transform))
            kind, titles, nodata, crs = file.dtypes[0], file.descriptions, file.nodata, file.crs
    size = min(abs(part.transform.a) for part in parts)
    west, south, east, north = (choose(part.box[k] for part in parts) for k, choose in enumerate((min, min, max, max)))
    masked = nodata is None
    missing = "" if masked else f"<NODATA>{nodata:g}</NODATA>"

    def sources(band: str) -> str:
        through = "<UseMaskBand>true</UseMaskBand>" if masked else missing
        return "".join(_source(part, band, (west, north), size, through) for part in parts)

    colours = ("Red", "Green", "Blue") if masked else ("Gray",) * len(titles)
    bands = "".join(
        f'<VRTRasterBand dataType="{_GDAL_TYPES[kind]}" band="{k}">{missing.replace("NODATA", "NoDataValue")}'
        f"<Description>{escape(title or '')}</Description><ColorInterp>{colour}</ColorInterp>{sources(str(k))}"
        "</VRTRasterBand>"
        for k, (title, colour) in enumerate(zip(titles, colours, strict=True), start=1)
    )
    if masked:
        bands += f'<MaskBand><VRTRasterBand dataType="Byte">{sources("mask,1")}</VRTRasterBand></MaskBand>'
    told = f'<Metadata><MDI key="{_KIND}">{_PICTURE}</MDI></Metadata>' if masked else ""
    width, height = round((east - west) / size), round((north - south) / size)
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{told}<SRS>{escape(crs.to_wkt())}</SRS>'
        f"<GeoTransform>{west!r}, {size!r}, 0, {north!r}, 0, {-size!r}</GeoTransform>{bands}</VRTDataset>\n",
        encoding="utf-8",
    )
    return path


def _source(part: _Part, band: str, corner: tuple[float, float], size: float, through: str) -> str:
    """Where a raster lies in a mosaic of pixels of a size, whose upper left corner is given."""
    rows, cols = part.shape
    west, south, east, north = part.box
    x, y = (west - corner[0]) / size, (corner[1] - north) / size
    return (
        f'<ComplexSource><SourceFilename relativeToVRT="1">{escape(part.name)}</SourceFilename>'
        f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="{cols}" ySize="{rows}"/>'
        f'<DstRect xOff="{x:.6f}" yOff="{y:.6f}" xSize="{(east - west) / size:.6f}" '
        f'ySize="{(north - south) / size:.6f}"/>{through}</ComplexSource>'
    )


_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """A path in a folder that is not taken."""
    path, number = folder / f"{stem}{suffix}", 2
    while path.exists():
        path = folder / f"{stem}-{number}{suffix}"
        number += 1
    return path


def opened(path: Path, *, placed: bool = True) -> Any:
    """A raster, open, that has a place on earth.

    Args:
        placed: it must have a CRS.

    Raises:
        SceneError: if it cannot be read or has no CRS.
    """
    try:
        file = rasterio.open(path)
    except rasterio.errors.RasterioError as error:
        raise SceneError(f"{path.name} cannot be read as a raster ({error}): check the file") from error
    if placed and file.crs is None:
        file.close()
        raise SceneError(f"{path.name} has no CRS: QGIS could not place it, add one with gdal_edit.py -a_srs")
    return file


def scene_style(file: Any) -> str:
    """How QGIS shows an open scene (the inside of a QML): natural colours, bands stretched between percentiles.

    Pictures (`write_picture`) are shown as they are.
    """
    bands = _colour_bands(file)
    ready = file.tags().get(_KIND) == _PICTURE
    stretched = ""
    for name, band in zip(("red", "green", "blue"), bands, strict=True):
        low, high = (0.0, 255.0) if ready else _percentiles(file, band)
        stretched += (
            f"<{name}ContrastEnhancement><minValue>{low:g}</minValue><maxValue>{high:g}</maxValue>"
            f"<algorithm>StretchToMinimumMaximum</algorithm></{name}ContrastEnhancement>"
        )
    red, green, blue = bands
    return (
        f'<pipe><rasterrenderer type="multibandcolor" redBand="{red}" greenBand="{green}" blueBand="{blue}" '
        f'alphaBand="{_alpha_band(file)}" opacity="1">{stretched}</rasterrenderer>'
        '<rasterresampler zoomedInResampler="cubic" zoomedOutResampler="bilinear" maxOversampling="2"/></pipe>'
    )


def _alpha_band(file: Any) -> int:
    """The band that says what is clear; QGIS counts a mask as one more band. -1: none."""
    alpha = [number for number, kind in enumerate(file.colorinterp, start=1) if kind == ColorInterp.alpha]
    if alpha:
        return alpha[0]
    return int(file.count) + 1 if MaskFlags.per_dataset in file.mask_flag_enums[0] else -1


def _colour_bands(file: Any) -> tuple[int, int, int]:
    """Band numbers of red, green and blue, as the file says; else the first band as grey."""
    said = [kind.name for kind in file.colorinterp]
    titles = [str(title or "").lower() for title in file.descriptions]
    found = []
    for name, codes in _COLOURS.items():
        by_title = [i for i, title in enumerate(titles) if codes & set(re.split(r"[^a-z0-9]+", title))]
        where = [i for i, kind in enumerate(said) if kind == name] or by_title
        found.append(where[0] + 1 if where else 0)
    red, green, blue = found if all(found) else (1, 1, 1)
    return red, green, blue


def _percentiles(file: Any, band: int) -> tuple[float, float]:
    scale = max(file.shape) / 512
    shape = tuple(max(1, round(side / max(scale, 1))) for side in file.shape)
    pixels = file.read(band, out_shape=shape, masked=True, resampling=Resampling.nearest).compressed()
    pixels = pixels[np.isfinite(pixels) & (pixels != 0)]
    if not len(pixels):
        return 0.0, 1.0
    low, high = np.percentile(pixels, _CUT)
    return float(low), float(max(high, low + 1e-6))


def _write_cog(source: Any, path: Path, **options: str) -> None:
    with gdal_environment():
        try:
            rasterio.shutil.copy(
                source, path, driver="COG", blocksize=512, bigtiff="IF_SAFER", overview_resampling="AVERAGE", **options
            )
        except (rasterio.errors.RasterioError, OSError) as error:
            raise OutputError(f"{path.name} cannot be written ({error}): is the disk full? free some space") from error
