"""A scene behind a network that fails now and then, read until it is whole.

GDAL itself repeats what the server refused for a moment (429, 502, 503, 504, a dropped connection:
`GDAL_HTTP_MAX_RETRY`). What it cannot know is that bytes arrived which are not the file's: a body cut
short, garbage, an error page. That shows when a block does not decode (deflate, zstd and LERC carry
checksums; bare or JPEG blocks do not), or when the header is none. Then the file is closed, what GDAL
keeps of it is dropped, and it is read anew, a few times, with growing pauses.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj import Transformer as Projection
from pyproj.exceptions import ProjError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoslave.errors import SceneError
from geoslave.imagery.geotiff import (
    COARSEST,
    LARGE_CACHE,
    SAME_GSD,
    Reading,
    Scene,
    gdal_environment,
    ground_sampling_distance,
    open_scene,
)
from geoslave.imagery.raster import Raster
from geoslave.imagery.scaling import Scaling

PAUSES_S: tuple[float, ...] = (0.5, 1, 2, 4, 8)
"""Seconds before a file that seemed damaged is read again; then it is given up."""

REMOTE_OPTIONS: dict[str, Any] = {
    # a server that sends nothing for so many seconds has stalled
    "GDAL_HTTP_LOW_SPEED_TIME": 15,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,
    # the folder of a remote file is not asked for companions
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}
"""Beside `GDAL_OPTIONS`, for files behind a network; settings of the same name in the environment go first."""

_FILE_SYSTEMS = {"http": "/vsicurl/http://", "https": "/vsicurl/https://"}
_FILE_SYSTEMS |= {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "oss": "/vsioss/"}
_FOR_GOOD = re.compile(
    r"response[ _]code\D*(?:400|401|403|404|410)\b|specified key does not exist"
    r"|NoSuch|AccessDenied|InvalidAccess|SignatureDoesNot",
    re.IGNORECASE,
)
"""What a server says of a file that will not be there the next time either."""

T = TypeVar("T")


class PatientScene:
    """A `Scene` on a target grid, opened when it is first read and again whenever it seems damaged.

    Without a target grid it stays on its own (or that of the reading's GSD), known once it was opened.

    Its pixels are the file's own where the file lies on the target grid. Elsewhere they are averaged
    where the file is finer than the grid (by more than `SAME_GSD`) and bilinear otherwise, or as
    `resampling` says. Not safe to read from two threads at once.
    """

    def __init__(
        self, path: str, reading: Reading, geobox: GeoBox | None, resampling: Resampling | None = None
    ) -> None:
        if is_remote(path):
            silence_gdal()
        self.path = path
        self._reading = reading
        self._geobox = geobox
        self._resampling = resampling
        self._scene: Scene | None = None
        self._shift = (0, 0)

    def read(self, window: Window) -> Raster:
        """A window of the target grid.

        Raises:
            SceneError: if the file cannot be read, also not after several tries.
        """

        def read(scene: Scene) -> Raster:
            down, right = self._shift
            return scene.read(Window(window.col_off - right, window.row_off - down, window.width, window.height))

        return self.ask(read)

    def ask(self, question: Callable[[Scene], T]) -> T:
        """What a question about the open scene is answered with."""
        for pause in (*PAUSES_S, None):
            try:
                with environment(self.path):
                    return question(self._opened())
            except SceneError as error:
                self.close()
                if not _may_mend(self.path, error):
                    raise
                if pause is None:
                    raise SceneError(f"{error} (given up after {len(PAUSES_S) + 1} tries)") from error
                forget(self.path)
                time.sleep(pause)
        raise AssertionError("unreachable")

    def covers(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the file on the target grid, in pixels; may lie outside of it."""
        rows, cols = self.ask(lambda scene: tuple(scene.geobox.shape))
        return self._shift[0], self._shift[1], self._shift[0] + rows, self._shift[1] + cols

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._scene is not None:
            self._scene.close()
            self._scene = None

    def _opened(self) -> Scene:
        if self._scene is None:
            scene = open_scene(self.path, self._reading)
            try:
                if self._geobox is None:
                    self._geobox = scene.geobox
                self._scene, self._shift = _on_grid(scene, self._geobox, self._resampling)
            except SceneError:
                scene.close()
                raise
        return self._scene


class RemoteScene:
    """A scene behind a network on its own grid, as `open_scene` gives one on a disk: a `Source`.

    Raises:
        SceneError: if it cannot be opened, also not after several tries.
    """

    def __init__(self, path: str, reading: Reading) -> None:
        self._patient = PatientScene(path, reading, None)
        first = self._patient.ask(lambda scene: scene)
        self.geobox = first.geobox
        self.bands = first.bands
        self.validity = first.validity
        self.resampled = first.resampled
        self.dtype = first.dtype
        self.path = first.path
        self.scene_id = first.scene_id
        self.date = first.date

    def __enter__(self) -> RemoteScene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._patient.close()

    def read(self, window: Window) -> Raster:
        """As `Scene.read`, tried again where it seems damaged."""
        return self._patient.read(window)

    def overview(self, longest: int = 1024) -> Raster:
        """As `Scene.overview`."""
        return self._patient.ask(lambda scene: scene.overview(longest))

    def scaling(self, scaling: Scaling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `Scene.scaling`."""
        return self._patient.ask(lambda scene: scene.scaling(scaling))

    def remarks(self) -> tuple[str, ...]:
        """As `Scene.remarks`."""
        return self._patient.ask(lambda scene: scene.remarks())

    def cache_bytes(self, rows: int) -> int:
        """Cache for a row of windows of `rows` rows, so that what one shares with the next is fetched once."""
        wanted = int(1.1 * rows * self.geobox.shape[1] * len(self.bands) * np.dtype(self.dtype).itemsize)
        own = self._patient.ask(lambda scene: scene.cache_bytes(rows))
        return min(max(wanted, own), LARGE_CACHE)


def open_any_scene(path: str, reading: Reading) -> Scene | RemoteScene:
    """A scene on its own grid: patiently, if a network lies between.

    Raises:
        SceneError: if it cannot be used.
    """
    return RemoteScene(path, reading) if is_remote(path) else open_scene(path, reading)


def environment(path: str = "") -> rasterio.Env:
    """GDAL's settings for reading a file, remote or not."""
    own = {key: value for key, value in REMOTE_OPTIONS.items() if key not in os.environ} if is_remote(path) else {}
    env = gdal_environment()
    if rasterio.env.hasenv() or threading.current_thread() is not threading.main_thread():
        # whoever reads many windows has set it, for all threads; one that reads ahead does not see that
        env.options.pop("GDAL_CACHEMAX")
    env.options.update(own)
    return env


def is_remote(path: str) -> bool:
    """True if a path leads over a network."""
    return gdal_path(path).startswith("/vsi") and not path.startswith(("/vsizip", "/vsitar", "/vsigzip", "/vsimem"))


def gdal_path(path: str) -> str:
    """A path as GDAL's own functions want it."""
    scheme, separator, rest = path.partition("://")
    return _FILE_SYSTEMS.get(scheme, f"{scheme}://") + rest if separator else path


def forget(path: str) -> None:
    """Drop what GDAL keeps of a remote file: bytes, size, and that it was not there."""
    with suppress(OSError, AttributeError):
        _clear_function()(gdal_path(path).encode())


@cache
def silence_gdal() -> None:
    """Keep GDAL's own threads from printing each request that failed: it is tried again, and then raised.

    What GDAL meets while Python calls it goes to Python in any case.
    """
    if os.environ.get("GEOSLAVE_DEBUG"):
        return
    with suppress(OSError, AttributeError):
        library = _gdal()
        library.CPLSetErrorHandler.argtypes = [ctypes.c_void_p]
        library.CPLSetErrorHandler.restype = ctypes.c_void_p
        library.CPLSetErrorHandler(ctypes.cast(library.CPLQuietErrorHandler, ctypes.c_void_p))


@cache
def _clear_function() -> Any:
    clear = _gdal().VSICurlPartialClearCache
    clear.argtypes, clear.restype = [ctypes.c_char_p], None
    return clear


@cache
def _gdal() -> Any:
    # rasterio has no name for these functions; its modules are linked to the GDAL it uses
    return ctypes.CDLL(rasterio._env.__file__)


def _may_mend(path: str, error: SceneError) -> bool:
    """True if reading again can help: the network is at work and the file is not simply absent."""
    came_from_gdal = isinstance(error.__cause__, (RasterioError, ValueError))
    return is_remote(path) and came_from_gdal and not _FOR_GOOD.search(_text(error))


def _text(error: BaseException) -> str:
    parts = []
    cause: BaseException | None = error
    while cause is not None:
        parts.append(re.sub(r"\S*(?:://|/vsi)\S*", "", str(cause)))
        cause = cause.__cause__
    return " ".join(parts)


def _on_grid(scene: Scene, geobox: GeoBox, resampling: Resampling | None) -> tuple[Scene, tuple[int, int]]:
    """The scene on the grid, and where its first pixel lies there (row, column)."""
    shift = aligned(scene.geobox, geobox)
    if shift is not None:
        return scene, shift
    if resampling is None:
        resampling = _resampling(scene, geobox)
    part, shift = _part_under(scene.geobox, geobox)
    return scene.onto(part, resampling), shift


def _part_under(scene: GeoBox, geobox: GeoBox) -> tuple[GeoBox, tuple[int, int]]:
    """The part of a grid that a scene may cover, and its first row and column; at least one pixel."""
    rows, cols = geobox.shape
    x, y = edge_on(scene, geobox)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return geobox, (0, 0)
    left, top = (int(np.clip(np.floor(v.min()), 0, n - 1)) for v, n in ((x, cols), (y, rows)))
    right, bottom = (int(np.clip(np.ceil(v.max()), 1, n)) for v, n in ((x, cols), (y, rows)))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    return geobox[top:bottom, left:right], (top, left)


def edge_on(geobox: GeoBox, grid: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (x, y) along the edge of a geobox, in pixels of a grid; infinite where its CRS does not reach."""
    rows, cols = geobox.shape
    along = np.linspace(0, 1, 33)
    x = np.concatenate([along * cols, along * cols, along * 0, along * 0 + cols])
    y = np.concatenate([along * 0, along * 0 + rows, along * rows, along * rows])
    east, north = geobox.affine @ (x, y)
    if geobox.crs != grid.crs:
        try:
            east, north = _projection(str(geobox.crs), str(grid.crs)).transform(east, north)
        except ProjError:  # another celestial body
            return np.full(x.shape, np.inf), np.full(x.shape, np.inf)
    found: tuple[NDArray[np.float64], NDArray[np.float64]] = ~grid.affine @ (east, north)
    return found


@cache
def _projection(source: str, target: str) -> Projection:
    return Projection.from_crs(CRS.from_user_input(source), CRS.from_user_input(target), always_xy=True)


def aligned(geobox: GeoBox, grid: GeoBox) -> tuple[int, int] | None:
    """Row and column of a geobox's first pixel on a grid of which it is a window; None if it is none."""
    if geobox.crs != grid.crs:
        return None
    own = ~grid.affine @ geobox.affine
    longest = max(*geobox.shape, 1)
    far = max(abs(own.a - 1), abs(own.b), abs(own.d), abs(own.e - 1)) * longest
    row, col = round(own.f), round(own.c)
    if far > 0.01 or abs(own.f - row) > 0.01 or abs(own.c - col) > 0.01:
        return None
    return row, col


def _resampling(scene: Scene, geobox: GeoBox) -> Resampling:
    size, wanted = max(ground_sampling_distance(scene.geobox)), max(ground_sampling_distance(geobox))
    # a length on the ground and one on the map differ by 0.1 % within a UTM zone
    if size > 1.02 * COARSEST * wanted:
        raise SceneError(
            f"{scene.path} has pixels of {size:,.1f} m, too coarse for a grid of {wanted:,.1f} m: "
            f"give imagery of {COARSEST * wanted:,.1f} m or finer"
        )
    return Resampling.average if wanted > SAME_GSD * size else Resampling.bilinear
