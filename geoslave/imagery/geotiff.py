"""Scenes on disk (or behind HTTP), read by window.

Whatever says that a pixel carries no measurement - a nodata value, an alpha band, an internal or
side-car mask, NaN, an undeclared fill - ends in one validity mask that travels with the pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
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

from geoslave.errors import OutputError, SceneError
from geoslave.files import atomic_file
from geoslave.imagery.raster import Raster, window_geobox
from geoslave.imagery.scaling import (
    Radiometry,
    Scaling,
    SceneStatistics,
    coefficients,
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
    "CPL_VSIL_CURL_CHUNK_SIZE": 262144,
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
UNDECLARED_FILL_SHARE = 0.02
"""So large a share of pixels at the end of the range in every band, border included, is taken as fill."""

_COMMON_NAMES = {
    "coastal": ("coastal", "b01", "b1"),
    "blue": ("blue", "b02", "b2"),
    "green": ("green", "b03", "b3"),
    "red": ("red", "b04", "b4"),
    "rededge": ("rededge", "b05", "b5"),
    "nir": ("nir", "b08", "b8"),
    "swir16": ("swir16", "swir1", "b11"),
    "swir22": ("swir22", "swir2", "b12"),
}
"""Common names and what Sentinel-2 products call them."""


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
        self.path = path
        self.geobox = geobox
        self.bands = bands
        """Names of the bands, in reading order."""
        self.validity = validity
        self.dtype: str = dataset.dtypes[indexes[0] - 1]
        self.scene_id = Path(path.rstrip("/")).stem
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

    def overview(self, longest: int = 1024) -> Raster:
        """The whole scene, at most `longest` pixels on its longer side."""
        rows, cols = self.geobox.shape
        shrink = max(1.0, max(rows, cols) / longest)
        shape = (max(1, round(rows / shrink)), max(1, round(cols / shrink)))
        pixels, valid = self._read(Window(0, 0, self._dataset.width, self._dataset.height), shape, Resampling.nearest)
        affine = self.geobox.affine @ self.geobox.affine.scale(cols / shape[1], rows / shape[0])
        return Raster(pixels, valid, GeoBox(shape, affine, self.geobox.crs))

    def sample(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels [band, n] spread over the scene, and which of them are valid [n]: from its overviews."""
        pixels, valid = _sample(self._dataset, self._read)
        return pixels.reshape(pixels.shape[0], -1), valid.ravel()

    def radiometry(self) -> Radiometry:
        """What the stored numbers mean."""
        return self._radiometry(*self.sample())

    def scaling(self, scaling: Scaling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(factor, summand) per band that bring stored values to a model's range.

        Raises:
            SceneError: if the scene has no valid pixel.
        """
        pixels, valid = self.sample()
        if not valid.any():
            raise SceneError(f"{self.path} holds no valid pixel: every pixel is nodata; nothing to look at")
        unit = self._radiometry(pixels, valid)
        statistics: SceneStatistics = scene_statistics(pixels[:, None], valid[None], unit, scaling)
        return coefficients(unit, statistics, scaling)

    def _radiometry(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> Radiometry:
        brightest = float(np.percentile(pixels[:, valid], 98)) if valid.any() else 0.0
        return radiometry(
            self.dtype,
            tuple(self._dataset.scales[i - 1] for i in self._indexes),
            tuple(self._dataset.offsets[i - 1] for i in self._indexes),
            brightest,
        )

    def _read_inside(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if not self.resampled:
            return self._read(window, None, Resampling.nearest)
        fy, fx = self._per_pixel
        source = Window(window.col_off * fx, window.row_off * fy, window.width * fx, window.height * fy)
        finer = max(fx, fy) > 1
        return self._read(source, (window.height, window.width), Resampling.average if finer else Resampling.bilinear)

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
        if nodata is None:
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
    with gdal_environment(), ExitStack() as stack:
        raw = _open(stack, path)
        dataset = _georeferenced(stack, raw, path, reading.crs)
        crs = reading.crs or dataset.crs
        _refuse_unusable(dataset, path)
        indexes, names = _choose_bands(dataset, path, reading)
        geobox = _work_grid(dataset, crs, path, reading.gsd_m)
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
    if "://" not in path and not path.startswith("/vsi"):
        _refuse_no_file(path)
    try:
        with catch_warnings():
            simplefilter("ignore", NotGeoreferencedWarning)
            options = {} if "://" not in path else {"sharing": False}
            return stack.enter_context(rasterio.open(path, **options))
    except RasterioIOError as error:
        raise SceneError(
            f"{path} cannot be opened as a raster ({_cause(error)}): give a GeoTIFF or another raster GDAL reads"
        ) from error


def _refuse_no_file(path: str) -> None:
    file = Path(path)
    if file.is_dir():
        raise SceneError(f"{path} is a folder: give the rasters in it, e.g. {path.rstrip('/')}/*.tif")
    if not file.exists():
        raise SceneError(f"{path} does not exist: check the name")
    if file.stat().st_size == 0:
        raise SceneError(f"{path} is empty (0 bytes): fetch the file again")


def _georeferenced(stack: ExitStack, dataset: Any, path: str, crs: str | None) -> Any:
    """The dataset itself, or its ground control points warped to a grid."""
    points, points_crs = dataset.gcps
    if dataset.crs is None and points and points_crs is not None and dataset.transform.is_identity:
        try:
            return stack.enter_context(
                WarpedVRT(dataset, crs=points_crs, resampling=Resampling.bilinear, add_alpha=dataset.nodata is None)
            )
        except (RasterioError, ValueError) as error:
            raise SceneError(
                f"{path} has ground control points that make no grid ({_cause(error)}): warp it first with gdalwarp"
            ) from error
    if dataset.crs is None and crs is None:
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
    described: dict[str, int] = {}
    for number, text in enumerate(dataset.descriptions, start=1):
        words = re.findall(r"[a-z]+\d*", (text or "").lower().replace("_", " "))
        for name, aliases in _COMMON_NAMES.items():
            if words and (words[0] in aliases or name in words):
                described.setdefault(name, number)
    return found | described


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
    if kind.kind != "u" or scene.validity.masked or any(value is not None for value in scene.validity.nodata):
        return scene.validity
    border = scene.overview(256).pixels
    edge = np.concatenate([border[:, 0], border[:, -1], border[:, :, 0], border[:, :, -1]], axis=1)
    pixels, _ = scene.sample()
    for value in (0, np.iinfo(kind).max):
        share = float((pixels == value).all(axis=0).mean())
        if share >= UNDECLARED_FILL_SHARE and (edge == value).all(axis=0).mean() >= UNDECLARED_FILL_SHARE:
            note = (
                f"{share:.0%} of {scene.scene_id} is exactly {value} in every band, its border included: "
                f"taken as nodata (keep it with --nodata none)"
            )
            return replace(scene.validity, nodata=(float(value),) * len(scene.bands), note=note)
    return scene.validity


def _sample(dataset: Any, read: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Pixels spread over a raster: decimated where that is cheap, a lattice of small windows where not."""
    rows, cols = dataset.height, dataset.width
    shrink = max(1.0, math.sqrt(rows * cols / SAMPLE_PIXELS))
    if dataset.overviews(1) or rows * cols <= 100 * SAMPLE_PIXELS:
        shape = (max(1, round(rows / shrink)), max(1, round(cols / shrink)))
        pixels, valid = read(Window(0, 0, cols, rows), shape, Resampling.nearest)
        return pixels.reshape(pixels.shape[0], -1), valid.ravel()
    side, per_axis = 64, 16
    starts = [
        (int(y), int(x)) for y in np.linspace(0, rows - side, per_axis) for x in np.linspace(0, cols - side, per_axis)
    ]
    parts = [read(Window(x, y, side, side), None, Resampling.nearest) for y, x in starts]
    return (
        np.concatenate([p.reshape(p.shape[0], -1) for p, _ in parts], axis=1),
        np.concatenate([v.ravel() for _, v in parts]),
    )


def _scene_date(dataset: Any, scene_id: str) -> date | None:
    """When the scene was taken: from its tags, else from eight digits in its name."""
    tags = dataset.tags()
    candidates = [tags.get(key, "") for key in ("ACQUISITIONDATETIME", "datetime", "TIFFTAG_DATETIME")]
    for text in (*candidates, scene_id):
        match = re.search(r"(?<!\d)((?:19|20)\d\d)[-:]?(\d\d)[-:]?(\d\d)(?!\d)", text)
        if match:
            try:
                return date(*(int(part) for part in match.groups()))
            except ValueError:
                continue
    return None


def _end_of_range(value: float, dtype: Any) -> bool:
    kind = np.dtype(dtype)
    return value == 0 or (kind.kind == "u" and value == np.iinfo(kind).max)


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


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


def write_geotiff(raster: Raster, path: Path, bands: Sequence[str] = (), *, overwrite: bool = False) -> None:
    """Write a raster with its validity as an internal mask: any number may be a measurement.

    Args:
        bands: band descriptions, by which the bands are found again.

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
        except RasterioError as error:
            raise OutputError(f"{path} cannot be written ({_cause(error)}): is the disk full?") from error
