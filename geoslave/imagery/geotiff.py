"""Scenes on disk (or behind HTTP), read by window.

Whatever says that a pixel carries no measurement - a nodata value, an alpha band, an internal or
side-car mask, NaN, an undeclared fill - ends in one validity mask that travels with the pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod
from pyproj import Transformer as Projection
from pyproj.exceptions import ProjError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from geoslave.errors import EmptyScene, OutputError, SceneError
from geoslave.files import atomic_file
from geoslave.imagery.names import DRIVER_PREFIX, scene_name, shown_path, without_secrets
from geoslave.imagery.raster import Raster, window_geobox
from geoslave.imagery.scaling import (
    Radiometry,
    Scaling,
    SceneStatistics,
    coefficients,
    cut_off_share,
    radiometry,
    scene_statistics,
)

GDAL_OPTIONS: dict[str, Any] = {
    # a COG over HTTP: header in one request, neighbouring blocks in one range, nothing listed
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_TIMEOUT": 60,
    # the header of a COG, and no more of it: several blocks are fetched by their exact ranges anyway
    "CPL_VSIL_CURL_CHUNK_SIZE": 65536,
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": 8 << 20,
    "GDAL_NUM_THREADS": "2",
}
"""Set while scenes are opened and read (`gdal_environment`)."""

SMALL_CACHE = 64 << 20
"""GDAL would take 5 % of the memory for blocks it has read; chips overlap little, so this serves."""
LARGE_CACHE = 256 << 20
"""For files in strips, of which every chip in a row needs the same."""

SAME_GSD = 1.25
"""Up to this ratio between the scene's and the model's GSD pixels are taken as they are."""
COARSEST = 2.0
"""A scene coarser than the model's GSD by more than this is refused: the sites are not visible in it."""
SAMPLE_PIXELS = 250_000
"""About as many pixels make the statistics of a scene."""
FEW_VALID = 256
"""With fewer valid pixels in the sample than this the whole scene is searched for more."""
CUT_OFF = 0.005
"""With so large a share of pixels at the largest value people are told: kiln-s2 misses kilns (its card has figures)."""
SEARCH_PIXELS = 1 << 20
"""About so many pixels are in memory while a scene is searched or averaged."""
UNDECLARED_FILL_SHARE = 0.02
"""So large a share of pixels at the end of the range in every band, border included, is taken as fill."""

_COMMON_NAMES = {
    "coastal": ("coastal", "b01", "b1"),
    "blue": ("blue", "b02", "b2"),
    "green": ("green", "b03", "b3"),
    "red": ("red", "b04", "b4"),
    "rededge": ("rededge", "rededge1", "b05", "b5"),
    "nir": ("nir", "b08", "b8"),
    "swir16": ("swir16", "swir1", "b11"),
    "swir22": ("swir22", "swir2", "b12"),
}
"""Common names and what Sentinel-2 products call them."""

_ONE_WORD = (
    (re.compile(r"\bcoastal (?:blue|aerosol)\b"), "coastal"),
    (re.compile(r"\bred edge"), "rededge"),
    (re.compile(r"\bgreen i\b"), "greeni"),
)
"""Names of two words, of which one is another band's name (`green_i` is PlanetScope's other green)."""

_ACQUISITION_TAGS = (
    "acquisitiondatetime",
    "acquisition_datetime",
    "acquisition_date",
    "date_acquired",
    "sensing_time",
    "datatake_1_datatake_sensing_start",
    "product_start_time",
    "datetime",
)
"""Tags, in small letters, that say when a scene was taken."""


def gdal_environment(cache: int = SMALL_CACHE) -> rasterio.Env:
    """The settings all reading runs under, with `cache` bytes for blocks that were read."""
    return rasterio.Env(**GDAL_OPTIONS, GDAL_CACHEMAX=cache)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a scene is read; None means: find out from the file."""

    bands: tuple[str, ...] | None = None
    """Common names wanted, in order; None takes every band but alpha."""
    numbers: Mapping[str, int] | None = None
    """Band number (from 1) of a common name, where the user says so."""
    gsd_m: float | None = None
    """Ground sampling distance to deliver; None keeps the scene's own grid."""
    crs: str | None = None
    """CRS of a file that declares none."""
    nodata: float | None = None
    """Value that means nodata, over what the file declares."""
    trust_all: bool = False
    """Take no undeclared fill for nodata (the user said `--nodata none`)."""


@dataclass(frozen=True, slots=True)
class Validity:
    """What makes a pixel invalid."""

    nodata: tuple[float | None, ...]
    """Per band."""
    masked: bool
    """The file carries a mask or an alpha band."""
    floating: bool
    """NaN and infinity can occur."""
    note: str | None = None
    """What a person should know, e.g. that an undeclared fill was found."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Pixels spread over a scene."""

    pixels: NDArray[Any]
    """[band, n]"""
    valid: NDArray[np.bool_]
    """[n]"""
    shape: tuple[int, int] | None
    """Rows and columns, if they cover the scene evenly."""


Read = Callable[[Window, tuple[int, int] | None, Resampling], tuple[NDArray[Any], NDArray[np.bool_]]]
"""Reads a window of a file, on so many pixels: their values [band, y, x] and validity [y, x]."""


class Scene:
    """An open scene, read by window on one grid: a `Source`.

    Not safe to read from two threads at once.
    """

    def __init__(
        self,
        stack: ExitStack,
        dataset: Any,
        path: str,
        geobox: GeoBox,
        indexes: tuple[int, ...],
        bands: tuple[str, ...],
        validity: Validity,
    ) -> None:
        self._stack = stack
        self._dataset = dataset
        self._indexes = indexes
        self._per_pixel = (dataset.height / geobox.shape[0], dataset.width / geobox.shape[1])
        self._declared = tuple(dataset.nodatavals[i - 1] for i in indexes)
        self._spread: _Sample | None = None
        self._searched: tuple[Validity, _Sample] | None = None
        self._address = path
        self.path = shown_path(path)
        """For people: without what an address may keep secret."""
        self.geobox = geobox
        self.bands = bands
        """Names of the bands, in reading order."""
        self.validity = validity
        self.dtype: str = dataset.dtypes[indexes[0] - 1]
        self.scales: tuple[float, ...] = tuple(dataset.scales[i - 1] for i in indexes)
        self.offsets: tuple[float, ...] = tuple(dataset.offsets[i - 1] for i in indexes)
        """Measurement = stored * scale + offset, per band; 1 and 0 where the file declares none."""
        self.scene_id = scene_name(path)
        self.date = _scene_date(dataset, self.scene_id)

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    @property
    def resampled(self) -> bool:
        """True if pixels are not the file's own."""
        return self._per_pixel != (1.0, 1.0)

    @property
    def has_overviews(self) -> bool:
        """True if the file holds smaller copies of itself, by which all of it is seen cheaply."""
        return bool(self._dataset.overviews(self._indexes[0]))

    def cache_bytes(self, rows: int) -> int:
        """Cache that reading windows of `rows` rows from left to right wants, so that no block is decoded twice."""
        height, width = self._dataset.block_shapes[0]
        if width < self._dataset.width:
            return SMALL_CACHE
        strips = (rows * self._per_pixel[0] + 2 * height) * self._dataset.width
        wanted = int(strips) * self._dataset.count * np.dtype(self.dtype).itemsize
        return min(max(wanted, SMALL_CACHE), LARGE_CACHE)

    def read(self, window: Window) -> Raster:
        """Stored values of the bands in a window of the grid; what hangs over the edge is 0 and invalid.

        Raises:
            SceneError: if the file is damaged there.
        """
        rows, cols = self.geobox.shape
        top, left = max(window.row_off, 0), max(window.col_off, 0)
        bottom = min(window.row_off + window.height, rows)
        right = min(window.col_off + window.width, cols)
        pixels = np.zeros((len(self._indexes), window.height, window.width), self.dtype)
        valid = np.zeros((window.height, window.width), bool)
        if top < bottom and left < right:
            inside, inside_valid = self._read_inside(Window(left, top, right - left, bottom - top))
            where = (
                slice(top - window.row_off, bottom - window.row_off),
                slice(left - window.col_off, right - window.col_off),
            )
            pixels[:, where[0], where[1]] = inside
            valid[where] = inside_valid
        return Raster(pixels, valid, window_geobox(self.geobox, window))

    def onto(self, geobox: GeoBox, resampling: Resampling) -> Scene:
        """The scene on another grid, warped by window as it is read; closing it closes this one too.

        What is nodata, masked or transparent here takes no part in the resampling.

        Raises:
            SceneError: if the two CRS have nothing to do with each other.
        """
        masked = self.validity.masked or all(value is None for value in self.validity.nodata)
        rows, cols = geobox.shape
        options: dict[str, Any] = {"crs": geobox.crs.to_wkt(), "transform": geobox.affine, "width": cols}
        if masked:
            options |= {"add_alpha": ColorInterp.alpha not in self._dataset.colorinterp}
        else:
            nodata = next(value for value in self.validity.nodata if value is not None)
            options |= {"src_nodata": nodata, "nodata": nodata, "UNIFIED_SRC_NODATA": "YES"}
        try:
            warped = WarpedVRT(self._dataset, **options, height=rows, resampling=resampling)
            stack = ExitStack()
            stack.callback(self.close)
            stack.enter_context(warped)
            validity = replace(self.validity, masked=masked)
            return Scene(stack, warped, self._address, geobox, self._indexes, self.bands, validity)
        except (RasterioError, ValueError) as error:
            raise SceneError(
                f"{self.path} cannot be brought to the grid of the region ({_cause(error)}): check its CRS"
            ) from error

    def overview(self, longest: int = 1024) -> Raster:
        """The whole scene, at most `longest` pixels on its longer side."""
        rows, cols = self.geobox.shape
        shrink = max(1.0, max(rows, cols) / longest)
        shape = (max(1, round(rows / shrink)), max(1, round(cols / shrink)))
        pixels, valid = self._read(Window(0, 0, self._dataset.width, self._dataset.height), shape, Resampling.nearest)
        affine = self.geobox.affine @ self.geobox.affine.scale(cols / shape[1], rows / shape[0])
        return Raster(pixels, valid, GeoBox(shape, affine, self.geobox.crs))

    def sample(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels [band, n] spread over the scene, and which of them are valid [n].

        Where few of them are valid, the scene is searched for valid ones. Read once and kept.
        """
        spread = self._spread_sample()
        # kept from before an undeclared fill was found
        valid = spread.valid & valid_pixels(spread.pixels[:, None], None, self.validity)[0]
        if np.count_nonzero(valid) >= FEW_VALID or valid.size >= self._dataset.height * self._dataset.width:
            return spread.pixels, valid
        if self._searched is None or self._searched[0] != self.validity:
            self._searched = (self.validity, _search(self._dataset, self._read))
        found = self._searched[1]
        return found.pixels, found.valid

    def border(self) -> NDArray[Any]:
        """Pixels [band, n] spread over the first and last rows and columns."""
        spread = self._spread_sample()
        if spread.shape is None:
            return _border(self._dataset, self._read)
        grid = spread.pixels.reshape(-1, *spread.shape)
        return np.concatenate([grid[:, 0], grid[:, -1], grid[:, :, 0], grid[:, :, -1]], axis=1)

    def _spread_sample(self) -> _Sample:
        if self._spread is None:
            self._spread = _sample(self._dataset, self._read)
        return self._spread

    def radiometry(self) -> Radiometry:
        """What the stored numbers mean."""
        return self._radiometry(*self.sample())

    def scaling(self, scaling: Scaling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(factor, summand) per band that bring stored values to a model's range.

        Raises:
            EmptyScene: if the scene has no valid pixel.
        """
        pixels, valid = self.sample()
        if not valid.any():
            raise EmptyScene(f"{self.path} holds no valid pixel: every pixel is nodata; nothing to look at")
        unit = self._radiometry(pixels, valid)
        statistics: SceneStatistics = scene_statistics(pixels[:, None], valid[None], unit, scaling)
        return coefficients(unit, statistics, scaling)

    def remarks(self) -> tuple[str, ...]:
        """What people should know of the imagery before they trust what a model says of it."""
        share = cut_off_share(*self.sample())
        cut_off = (
            f"{self.scene_id}: {share:.1%} of a band's pixels have its largest value: what is bright was cut off "
            "(a display stretch, or cloud), and models may miss sites: give imagery that was not stretched, if you can"
        )
        return (*([self.validity.note] if self.validity.note else []), *([cut_off] if share >= CUT_OFF else []))

    def _radiometry(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> Radiometry:
        brightest = float(np.percentile(pixels[:, valid], 98)) if valid.any() else 0.0
        return radiometry(self.dtype, self.scales, self.offsets, brightest)

    def _read_inside(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if not self.resampled:
            return self._read(window, None, Resampling.nearest)
        if not all(map(_same_nodata, self.validity.nodata, self._declared)):
            return self._average_valid(window)
        fy, fx = self._per_pixel
        source = Window(window.col_off * fx, window.row_off * fy, window.width * fx, window.height * fy)
        finer = max(fx, fy) > 1
        return self._read(source, (window.height, window.width), Resampling.average if finer else Resampling.bilinear)

    def _average_valid(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A window of the grid from the file's valid pixels alone.

        GDAL leaves out only the nodata value that the file declares, and would mix others into the
        average (the file's own overviews may have done so already): here it is done by hand, in pieces.
        """
        pixels = np.zeros((len(self._indexes), window.height, window.width), self.dtype)
        valid = np.zeros((window.height, window.width), bool)
        weights = _shares if max(self._per_pixel) > 1 else _neighbours
        width = 256
        height = max(1, int(SEARCH_PIXELS / (width * self._per_pixel[0] * self._per_pixel[1])))
        for x in range(0, window.width, width):
            cols = slice(x, min(x + width, window.width))
            left, across = weights(window.col_off, cols, self._per_pixel[1], self._dataset.width)
            for y in range(0, window.height, height):
                rows = slice(y, min(y + height, window.height))
                top, down = weights(window.row_off, rows, self._per_pixel[0], self._dataset.height)
                source = Window(left, top, across.shape[1], down.shape[1])
                stored, known = self._read(source, None, Resampling.nearest)
                # as GDAL does it: one valid pixel is enough beside nodata, half a pixel under a mask
                least = 0.5 if self.validity.masked else 1e-3
                pixels[:, rows, cols], valid[rows, cols] = _weighted_mean(stored, known, down, across, least)
        return pixels, valid

    def _read(
        self, window: Window, shape: tuple[int, int] | None, resampling: Resampling
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels and validity of a window of the file, on `shape` pixels."""
        options: dict[str, Any] = {"window": window, "resampling": resampling}
        indexes = list(self._indexes)
        if shape is not None:
            options["out_shape"] = (len(indexes), *shape)
        try:
            pixels = self._dataset.read(indexes, **options)
            masks = self._dataset.read_masks(indexes, **options) if self.validity.masked else None
        except (RasterioError, ValueError) as error:
            raise SceneError(f"{self.path} is damaged ({_cause(error)}): fetch the file again") from error
        return pixels, valid_pixels(pixels, masks, self.validity)


def valid_pixels(pixels: NDArray[Any], masks: NDArray[np.uint8] | None, validity: Validity) -> NDArray[np.bool_]:
    """One mask [y, x] from pixels [band, y, x], the file's masks [band, y, x] (0 = invalid) and its nodata.

    A nodata value of 0, or at the end of an unsigned range (255, 65535), also occurs as a real dark
    or saturated value in one band: there a pixel is invalid only if all bands have it. Any other
    nodata value, NaN and infinity are never measurements: there one band is enough.
    """
    valid = np.ones(pixels.shape[1:], bool)
    if masks is not None:
        valid &= (masks >= 128).any(axis=0)
    everywhere = None
    for band, nodata in zip(pixels, validity.nodata, strict=True):
        if nodata is None or not _holds(pixels.dtype, nodata):
            everywhere = np.zeros(valid.shape, bool)
        elif math.isnan(nodata):
            valid &= ~np.isnan(band)
        elif _end_of_range(nodata, pixels.dtype):
            hit = band == nodata
            everywhere = hit if everywhere is None else everywhere & hit
        else:
            valid &= band != np.asarray(nodata).astype(pixels.dtype)
    if everywhere is not None:
        valid &= ~everywhere
    if validity.floating:
        valid &= np.isfinite(pixels).all(axis=0)
    return valid


def open_scene(path: str | Path, reading: Reading | None = None) -> Scene:
    """Open a raster for windowed reading.

    Args:
        path: a file, or an address GDAL can read (https://, s3://, /vsi...).

    Raises:
        SceneError: if it cannot be read, has no place on earth, lacks a band, or is too coarse.
    """
    path, reading = str(path), reading or Reading()
    shown = shown_path(path)
    with gdal_environment(), ExitStack() as stack:
        raw = _open(stack, path)
        dataset = _georeferenced(stack, raw, shown, reading)
        # ground control points were warped to a grid in their own CRS
        crs = dataset.crs if dataset is not raw else reading.crs or dataset.crs
        _refuse_unusable(dataset, shown)
        indexes, names = _choose_bands(dataset, shown, reading)
        geobox = _work_grid(dataset, crs, shown, reading.gsd_m)
        validity = _validity(dataset, indexes, reading)
        scene = Scene(stack.pop_all(), dataset, path, geobox, indexes, names, validity)
    if reading.nodata is None and not reading.trust_all:
        try:
            scene.validity = _with_undeclared_fill(scene)
        except SceneError:
            scene.close()
            raise
    return scene


def ground_sampling_distance(geobox: GeoBox) -> tuple[float, float]:
    """Size (y, x) in metres on the ground of the pixel in the middle, right in any CRS (geodesic).

    Raises:
        ValueError: if the middle has no longitude and latitude.
    """
    crs = CRS.from_user_input(str(geobox.crs))
    geographic = crs.geodetic_crs
    if geographic is None:
        raise ValueError("the CRS has no geodetic base")
    project = Projection.from_crs(crs, geographic, always_xy=True)
    row, col = geobox.shape[0] / 2, geobox.shape[1] / 2
    corners = [geobox.affine @ (col + dx, row + dy) for dx, dy in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
    lon, lat = project.transform([x for x, _ in corners], [y for _, y in corners], errcheck=True)
    geod: Geod = crs.get_geod() or Geod(ellps="WGS84")
    _, _, across = geod.inv(lon[0], lat[0], lon[1], lat[1])
    _, _, down = geod.inv(lon[2], lat[2], lon[3], lat[3])
    if not (math.isfinite(across) and math.isfinite(down) and across > 0 and down > 0):
        raise ValueError("the pixel in the middle has no size on the ground")
    return down, across


def _open(stack: ExitStack, path: str) -> Any:
    if "://" not in path and not path.startswith("/vsi") and not DRIVER_PREFIX.match(path):
        _refuse_no_file(path)
    try:
        with catch_warnings():
            simplefilter("ignore", NotGeoreferencedWarning)
            if "://" not in path and not path.startswith("/vsi"):
                return stack.enter_context(rasterio.open(path))
            # with more threads a request that fails leaves another block's pixels, and no error
            # (GDAL 3.10; OSGeo/gdal#12426); with one it is tried again
            with rasterio.Env(GDAL_NUM_THREADS="1"):
                return stack.enter_context(rasterio.open(path, sharing=False))
    except RasterioIOError as error:
        raise SceneError(
            f"{shown_path(path)} cannot be opened as a raster ({_cause(error)}): "
            "give a GeoTIFF or another raster GDAL reads"
        ) from error


def _refuse_no_file(path: str) -> None:
    file = Path(path)
    if file.is_dir():
        raise SceneError(f"{path} is a folder: give the rasters in it, e.g. {path.rstrip('/')}/*.tif")
    if not file.exists():
        raise SceneError(f"{path} does not exist: check the name")
    if file.stat().st_size == 0:
        raise SceneError(f"{path} is empty (0 bytes): fetch the file again")


def _georeferenced(stack: ExitStack, dataset: Any, path: str, reading: Reading) -> Any:
    """The dataset itself, or its ground control points warped to a grid."""
    points, points_crs = dataset.gcps
    crs = points_crs or reading.crs
    if dataset.crs is None and points and crs is not None and dataset.transform.is_identity:
        try:
            return stack.enter_context(WarpedVRT(dataset, **_warp_options(dataset, crs, reading.nodata)))
        except (RasterioError, ValueError) as error:
            raise SceneError(
                f"{path} has ground control points that make no grid ({_cause(error)}): warp it first with gdalwarp"
            ) from error
    if dataset.crs is None and reading.crs is None:
        raise SceneError(
            f"{path} has no CRS, so nobody knows where it lies: say it with --crs EPSG:..., "
            "or write it into the file with  gdal_edit.py -a_srs EPSG:..."
        )
    if dataset.transform.is_identity:
        raise SceneError(
            f"{path} has a CRS but no geotransform, so nobody knows where it lies: "
            "give it one with  gdal_edit.py -a_ullr ULX ULY LRX LRY"
        )
    return dataset


def _warp_options(dataset: Any, crs: Any, nodata: float | None) -> dict[str, Any]:
    """How ground control points become a grid, on which the pixels beyond the image are invalid."""
    options: dict[str, Any] = {"src_crs": crs, "crs": crs, "resampling": Resampling.bilinear}
    if nodata is not None and _holds(np.dtype(dataset.dtypes[0]), nodata):
        return {**options, "src_nodata": nodata, "nodata": nodata}
    return {**options, "add_alpha": dataset.nodata is None and ColorInterp.alpha not in dataset.colorinterp}


def _refuse_unusable(dataset: Any, path: str) -> None:
    if any(kind.startswith("complex") for kind in dataset.dtypes):
        raise SceneError(f"{path} holds complex numbers (radar before detection): give its intensity instead")
    if dataset.colorinterp[0] == ColorInterp.palette:
        raise SceneError(
            f"{path} is a palette image, whose numbers are no brightness: "
            "turn it into colours with  gdal_translate -expand rgb IN OUT"
        )


def _choose_bands(dataset: Any, path: str, reading: Reading) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Band numbers and names for the bands wanted."""
    usable = [i for i, kind in enumerate(dataset.colorinterp, start=1) if kind != ColorInterp.alpha]
    if reading.bands is None and not reading.numbers:
        return tuple(usable), tuple(_band_title(dataset, i) for i in usable)
    known = {**_named_bands(dataset), **(reading.numbers or {})}
    wanted = reading.bands or tuple(reading.numbers or ())
    unwanted = [name for name in reading.numbers or () if name not in wanted]
    if unwanted:
        raise SceneError(
            f"{path}: nothing wants a band called {' or '.join(unwanted)}; wanted are {', '.join(wanted)}: mend --bands"
        )
    if len(usable) < len(wanted) and not reading.numbers:
        raise SceneError(
            f"{path} has too few bands: {len(usable)} ({_band_list(dataset)}), but {', '.join(wanted)} are needed; "
            "give a scene with these bands"
        )
    missing = [name for name in wanted if name not in known]
    if missing:
        example = ",".join(f"{name}={n}" for n, name in enumerate(wanted, start=1))
        raise SceneError(
            f"{path} does not tell which band is {' or '.join(missing)} (its bands: {_band_list(dataset)}): "
            f"say it, e.g. --bands {example}"
        )
    for name in wanted:
        if not 1 <= known[name] <= dataset.count:
            raise SceneError(f"{path} has no band {known[name]} for {name}: it has {dataset.count}; mend --bands")
    return tuple(known[name] for name in wanted), tuple(wanted)


def _named_bands(dataset: Any) -> dict[str, int]:
    """Band numbers by common name, from descriptions first, then from colour interpretation."""
    found: dict[str, int] = {}
    for number, kind in enumerate(dataset.colorinterp, start=1):
        if kind in (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
            found.setdefault(kind.name, number)
    return found | _described_bands(dataset.descriptions)


def _described_bands(descriptions: Sequence[str | None]) -> dict[str, int]:
    """Band numbers by common name: of the band called exactly that, else the first with the word in it."""
    exact: dict[str, int] = {}
    worded: dict[str, int] = {}
    for number, text in enumerate(descriptions, start=1):
        title = _plain_title(text or "")
        words = re.findall(r"[a-z]+\d*[a-z]*", title)
        for name, aliases in _COMMON_NAMES.items():
            if title in aliases:
                exact.setdefault(name, number)
            elif words and (words[0] in aliases or name in words):
                worded.setdefault(name, number)
    return worded | exact


def _plain_title(text: str) -> str:
    """A description in small letters, its words parted by one space, names of two words made one."""
    title = " ".join(re.split(r"[\s_-]+", text.lower())).strip()
    for pattern, word in _ONE_WORD:
        title = pattern.sub(word, title)
    return title


def _band_title(dataset: Any, number: int) -> str:
    return dataset.descriptions[number - 1] or _interpretation(dataset, number) or f"band_{number}"


def _interpretation(dataset: Any, number: int) -> str | None:
    kind = dataset.colorinterp[number - 1]
    return None if kind in (ColorInterp.undefined, ColorInterp.gray) else str(kind.name)


def _band_list(dataset: Any) -> str:
    return ", ".join(f"{i} {_band_title(dataset, i)}" for i in range(1, dataset.count + 1))


def _work_grid(dataset: Any, crs: Any, path: str, gsd_m: float | None) -> GeoBox:
    """The grid a scene is read on: its own, or coarser or finer to meet `gsd_m`."""
    try:
        native = GeoBox((dataset.height, dataset.width), dataset.transform, str(CRS.from_user_input(crs)))
        down, across = ground_sampling_distance(native)
    except (ProjError, ValueError) as error:
        raise SceneError(
            f"{path}: its CRS gives no place on the ground ({_cause(error)}): "
            "mend it with  gdal_edit.py -a_srs EPSG:..."
        ) from error
    if gsd_m is None:
        return native
    if max(down, across) > COARSEST * gsd_m:
        raise SceneError(
            f"{path} has pixels of {max(down, across):,.1f} m, too coarse for a model that looks at {gsd_m:g} m: "
            f"give imagery of {COARSEST * gsd_m:g} m or finer"
        )
    rows, cols = (
        n if 1 / SAME_GSD <= size / gsd_m <= SAME_GSD else max(1, round(n * size / gsd_m))
        for n, size in ((dataset.height, down), (dataset.width, across))
    )
    affine = native.affine @ native.affine.scale(dataset.width / cols, dataset.height / rows)
    return GeoBox((rows, cols), affine, native.crs)


def _validity(dataset: Any, indexes: Sequence[int], reading: Reading) -> Validity:
    flags = [flag for i in indexes for flag in dataset.mask_flag_enums[i - 1]]
    declared = tuple(dataset.nodatavals[i - 1] for i in indexes)
    nodata = declared if reading.nodata is None else (reading.nodata,) * len(indexes)
    return Validity(
        nodata=nodata,
        masked=MaskFlags.per_dataset in flags or MaskFlags.alpha in flags,
        floating=any(np.dtype(dataset.dtypes[i - 1]).kind == "f" for i in indexes),
    )


def _with_undeclared_fill(scene: Scene) -> Validity:
    """Take a large share of pixels at the end of the range in all bands, at the border too, for fill."""
    kind = np.dtype(scene.dtype)
    if scene.validity.masked or any(value is not None for value in scene.validity.nodata):
        return scene.validity
    pixels = scene._spread_sample().pixels
    for value in (0, np.iinfo(kind).max) if kind.kind == "u" else (0,):
        share = float((pixels == value).all(axis=0).mean())
        if share >= UNDECLARED_FILL_SHARE and (scene.border() == value).all(axis=0).mean() >= UNDECLARED_FILL_SHARE:
            note = (
                f"{share:.0%} of {scene.scene_id} is exactly {value} in every band, its border included: "
                f"taken as nodata (keep it with --nodata none)"
            )
            return replace(scene.validity, nodata=(float(value),) * len(scene.bands), note=note)
    return scene.validity


def _sample(dataset: Any, read: Read) -> _Sample:
    """Pixels spread over a raster: decimated where that is cheap, a lattice of small windows where not."""
    rows, cols = dataset.height, dataset.width
    shrink = max(1.0, math.sqrt(rows * cols / SAMPLE_PIXELS))
    if dataset.overviews(1) or rows * cols <= 100 * SAMPLE_PIXELS:
        shape = (max(1, round(rows / shrink)), max(1, round(cols / shrink)))
        pixels, valid = read(Window(0, 0, cols, rows), shape, Resampling.nearest)
        return _Sample(pixels.reshape(pixels.shape[0], -1), valid.ravel(), shape)
    height, width = min(64, rows), min(64, cols)
    down = min(16, rows // height)
    starts = [(y, x) for y in _spread(rows - height, down) for x in _spread(cols - width, 256 // down)]
    return _gather(read, [Window(x, y, width, height) for y, x in starts])


def _border(dataset: Any, read: Read) -> NDArray[Any]:
    """Pixels [band, n] of the first and last rows and columns, in pieces no longer than a block is wide or high."""
    rows, cols = dataset.height, dataset.width
    block_rows, block_cols = dataset.block_shapes[0]
    height, width = min(64, block_rows, rows), min(64, block_cols, cols)
    windows = [Window(x, y, width, 1) for y in (0, rows - 1) for x in _spread(cols - width, 32)]
    windows += [Window(x, y, 1, height) for x in (0, cols - 1) for y in _spread(rows - height, 32)]
    return _gather(read, windows).pixels


def _search(dataset: Any, read: Read) -> _Sample:
    """Valid pixels from wherever there are some: blocks in an order without a pattern, until there are enough."""
    windows = _block_windows(dataset)
    found: list[NDArray[Any]] = []
    missing, most = SAMPLE_PIXELS // 4, SAMPLE_PIXELS // 64
    for n in np.random.default_rng(0).permutation(len(windows)):
        pixels, valid = read(windows[n], None, Resampling.nearest)
        where = np.flatnonzero(valid)
        where = where[:: max(1, -(-where.size // most))]
        found.append(pixels.reshape(pixels.shape[0], -1)[:, where])
        missing -= where.size
        if missing <= 0:
            break
    together = np.concatenate(found, axis=1)
    return _Sample(together, np.ones(together.shape[1], bool), None)


def _block_windows(dataset: Any) -> list[Window]:
    """Windows of at most about `SEARCH_PIXELS` that cover a raster and part no block, if blocks are small."""
    rows, cols = dataset.height, dataset.width
    block_rows, block_cols = dataset.block_shapes[0]
    width = min(cols, block_cols * max(1, 512 // block_cols))
    height = max(1, SEARCH_PIXELS // width)
    height -= height % block_rows if height > block_rows else 0
    return [
        Window(x, y, min(width, cols - x), min(height, rows - y))
        for y in range(0, rows, height)
        for x in range(0, cols, width)
    ]


def _gather(read: Read, windows: Sequence[Window]) -> _Sample:
    parts = [read(window, None, Resampling.nearest) for window in windows]
    pixels = np.concatenate([p.reshape(p.shape[0], -1) for p, _ in parts], axis=1)
    return _Sample(pixels, np.concatenate([v.ravel() for _, v in parts]), None)


def _spread(last: int, count: int) -> list[int]:
    """At most `count` different whole numbers from 0 to `last`, evenly spread."""
    return sorted({int(n) for n in np.linspace(0, last, count)})


def _shares(offset: int, part: slice, step: float, size: int) -> tuple[int, NDArray[np.float32]]:
    """First of `size` source pixels, and how much of each lies in each pixel of a part [pixel, source]."""
    edges = (offset + np.arange(part.start, part.stop + 1)) * step
    first, last = int(edges[0]), min(size, math.ceil(edges[-1]))
    source = np.arange(first, last)
    overlap = np.minimum(edges[1:, None], source + 1) - np.maximum(edges[:-1, None], source)
    return first, np.maximum(overlap, 0).astype(np.float32)


def _neighbours(offset: int, part: slice, step: float, size: int) -> tuple[int, NDArray[np.float32]]:
    """As `_shares`, with the weights of linear interpolation between the nearest source pixels."""
    centres = (offset + np.arange(part.start, part.stop) + 0.5) * step - 0.5
    first, last = max(0, math.floor(centres[0])), min(size, math.floor(centres[-1]) + 2)
    return first, np.maximum(1 - np.abs(centres[:, None] - np.arange(first, last)), 0).astype(np.float32)


def _weighted_mean(
    pixels: NDArray[Any], valid: NDArray[np.bool_], down: NDArray[np.float32], across: NDArray[np.float32], least: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Means of valid pixels; valid where these have more than `least` of the weight."""
    from scipy.sparse import csr_array  # slow to import, and seldom needed

    rows, cols = csr_array(down), csr_array(across)
    kind = np.float32 if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else np.float64

    def total(layer: NDArray[Any]) -> NDArray[Any]:
        return (cols @ (rows @ layer).T).T

    weight = total(valid.astype(np.float32))
    known = weight > least * np.outer(down.sum(axis=1), across.sum(axis=1))
    mean = np.zeros((len(pixels), *known.shape), kind)
    for result, band in zip(mean, pixels, strict=True):
        np.divide(total(np.where(valid, band, 0).astype(kind)), weight, out=result, where=known)
    return (mean if pixels.dtype.kind == "f" else np.rint(mean)).astype(pixels.dtype), known


def _scene_date(dataset: Any, scene_id: str) -> date | None:
    """When the scene was taken: from tags that say so, else from eight digits in its name.

    TIFFTAG_DATETIME is not asked: it is when the file was made.
    """
    tags = {key.lower(): text for key, text in {**dataset.tags(), **dataset.tags(ns="IMAGERY")}.items()}
    for text in (*(tags.get(key, "") for key in _ACQUISITION_TAGS), scene_id):
        match = re.search(r"(?<!\d)((?:19|20)\d\d)[-:]?(\d\d)[-:]?(\d\d)(?!\d)", text)
        if match:
            try:
                return date(*(int(part) for part in match.groups()))
            except ValueError:
                continue
    return None


def _same_nodata(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))


def _holds(dtype: Any, value: float) -> bool:
    """True if pixels of a type can have this value."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return not math.isfinite(value) or abs(value) <= np.finfo(kind).max
    return math.isfinite(value) and value == int(value) and np.iinfo(kind).min <= value <= np.iinfo(kind).max


def _end_of_range(value: float, dtype: Any) -> bool:
    kind = np.dtype(dtype)
    return value == 0 or (kind.kind == "u" and value == np.iinfo(kind).max)


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return without_secrets(" ".join(str(error).split()).rstrip(".")) or type(error).__name__


def geotiff_profile(geobox: GeoBox, dtype: Any, count: int) -> dict[str, Any]:
    """Creation options of a GeoTIFF for this grid: tiled, deflated, with the predictor its type wants."""
    rows, cols = geobox.shape
    return {
        "driver": "GTiff",
        "width": cols,
        "height": rows,
        "count": count,
        "dtype": dtype,
        "crs": geobox.crs.to_wkt(),
        "transform": geobox.affine,
        "tiled": True,
        "blockxsize": min(256, -(-cols // 16) * 16),
        "blockysize": min(256, -(-rows // 16) * 16),
        "compress": "deflate",
        "predictor": {"i": 2, "u": 2, "f": 3}.get(np.dtype(dtype).kind, 1),
        "bigtiff": "IF_SAFER",
    }


def write_geotiff(
    raster: Raster,
    path: Path,
    bands: Sequence[str] = (),
    *,
    scales: Sequence[float] = (),
    offsets: Sequence[float] = (),
    overwrite: bool = False,
) -> None:
    """Write a raster with its validity as an internal mask: any number may be a measurement.

    Args:
        bands: band descriptions, by which the bands are found again.
        scales, offsets: per band, what makes measurements of the stored numbers; without them none are declared.

    Raises:
        OutputError: if it cannot be written; then nothing is left behind.
    """
    profile = geotiff_profile(raster.geobox, raster.pixels.dtype, raster.pixels.shape[0])
    with atomic_file(path, overwrite=overwrite) as draft, gdal_environment():
        try:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(draft, "w", **profile) as file:
                file.write(raster.pixels)
                if not raster.valid.all():
                    file.write_mask(raster.valid)
                for number, name in enumerate(bands, start=1):
                    file.set_band_description(number, name)
                if scales:
                    file.scales = tuple(scales)
                if offsets:
                    file.offsets = tuple(offsets)
        except RasterioError as error:
            raise OutputError(f"{path} cannot be written ({_cause(error)}): is the disk full?") from error
