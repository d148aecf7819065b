"""Where the images that labels speak about lie on earth.

An image's own georeference comes first. Where it has none, the centre in its name is used, as
SentinelKilnDB names its patches: `23.0761_89.2143.png`, latitude first; else a centre that a table
gives. Such an image is north up, with square pixels of a given size on the ground.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from warnings import catch_warnings, simplefilter

import geopandas as gpd
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geoslave.errors import LabelError

IMAGE_ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp", ".bmp", ".gif", ".vrt")

_CENTRE = re.compile(r"^(-?\d{1,3}(?:\.\d+)?)_(-?\d{1,3}\.\d+)(?![\d.])")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts this before the name of an uploaded file
_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class Place:
    """An image's grid on earth."""

    geobox: GeoBox
    from_file: bool
    """The image itself is georeferenced; else its place follows from its centre."""
    size: tuple[int, int] | None
    """Height and width of the image file in pixels, None where there is no file."""


@dataclass(slots=True)
class ImageIndex:
    """The images of a folder (or one image), found by name; opened once and only when asked for.

    Without images, places still follow from the centres in names.
    """

    root: Path | None = None
    gsd_m: float = 10.0
    """Ground sampling distance of images that are not georeferenced."""
    shape: tuple[int, int] = (128, 128)
    """Height and width of images that are not there."""
    _by_stem: dict[str, list[Path]] = field(default_factory=dict)
    _asked: set[Path] = field(default_factory=set)
    _opened: dict[Path, tuple[GeoBox | None, tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.root is None:
            return
        if not self.root.exists():
            raise LabelError(f"{self.root}: there is no such folder; check the path to the images")
        for path in images_in(self.root):
            self._by_stem.setdefault(stem(path.name), []).append(path)

    def __len__(self) -> int:
        return sum(len(paths) for paths in self._by_stem.values())

    def find(self, name: str, besides: str | None = None) -> Path | None:
        """The image of this name (a file name, a path, an address; with or without ending).

        Args:
            besides: of several images of one name, the one whose folder is called so (train, val).

        Raises:
            LabelError: if several images have the name.
        """
        key = stem(file_name(name))
        found = self._by_stem.get(key) or self._by_stem.get(_UPLOAD.sub("", key)) or []
        if len(found) > 1:
            exact = [p for p in found if p.name == file_name(name)]
            found = exact if len(exact) == 1 else [p for p in found if p.parent.name == besides] or found
        if len(found) > 1:
            raise LabelError(
                f"several images are called {key} ({found[0].parent.name}/{found[0].name}, "
                f"{found[1].parent.name}/{found[1].name}); give one folder of images at a time"
            )
        self._asked.update(found)
        return found[0] if found else None

    def place(
        self,
        name: str,
        besides: str | None = None,
        lonlat: tuple[float, float] | None = None,
        gsd_m: float | None = None,
        shape: tuple[int, int] | None = None,
    ) -> Place | None:
        """Where the image of this name lies, None if nothing tells.

        Args:
            lonlat: its centre, where a table gives it.
            gsd_m, shape: ground sampling distance and (height, width) as the labels give them, for
                images without a georeference.
        """
        path = self.find(name, besides)
        geobox, size = self._open(path) if path is not None else (None, None)
        if geobox is not None:
            return Place(geobox, True, size)
        centre = centre_in(name) or lonlat
        if centre is None:
            return None
        return Place(geobox_around(centre, size or shape or self.shape, gsd_m or self.gsd_m), False, size)

    def unasked(self) -> int:
        """How many images nobody asked for."""
        return len(self) - len(self._asked)

    def footprint(self) -> shapely.Geometry:
        """What all images that have a place cover, in longitude and latitude.

        Raises:
            LabelError: if none has a place.
        """
        covers = []
        for path in (path for paths in self._by_stem.values() for path in paths):
            geobox, size = self._open(path)
            centre = centre_in(path.name)
            if geobox is None and centre is not None:
                geobox = geobox_around(centre, size, self.gsd_m)
            if geobox is not None:
                covers.append(gpd.GeoSeries([geobox.extent.geom], crs=geobox.crs.to_wkt()).to_crs(4326)[0])
        if not covers:
            raise LabelError(
                f"{self.root}: none of the {len(self)} images is georeferenced or named by its centre, so nobody can "
                "tell whether the labels lie on them; give georeferenced images"
            )
        return shapely.union_all(covers)

    def _open(self, path: Path) -> tuple[GeoBox | None, tuple[int, int]]:
        if path not in self._opened:
            self._opened[path] = georeference(path)
        return self._opened[path]


def images_in(root: Path) -> Iterator[Path]:
    """Images of a folder and its subfolders in order of their names, or the one image."""
    paths = [root] if root.is_file() else sorted(root.rglob("*"))
    return (path for path in paths if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith("."))


def georeference(path: Path) -> tuple[GeoBox | None, tuple[int, int]]:
    """An image's grid (None where it has no CRS or no transform) and its height and width.

    Raises:
        LabelError: if it cannot be opened.
    """
    try:
        with catch_warnings():
            simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                known = file.crs is not None and not file.transform.is_identity
                geobox = GeoBox(file.shape, file.transform, file.crs.to_wkt()) if known else None
                return geobox, (int(file.height), int(file.width))
    except RasterioError as error:
        raise LabelError(
            f"{path.name}: cannot be opened as an image ({' '.join(str(error).split())}); is it whole?"
        ) from error


def geobox_around(lonlat: tuple[float, float], shape: tuple[int, int], gsd_m: float) -> GeoBox:
    """A north-up grid of (height, width) pixels in degrees around a centre, by geodesics on WGS 84."""
    lon, lat = lonlat
    reach = 500.0
    east, _, _ = _GEOD.fwd(lon, lat, 90, reach)
    _, north, _ = _GEOD.fwd(lon, lat, 0, reach)
    dx, dy = ((east - lon + 180) % 360 - 180) / reach * gsd_m, (north - lat) / reach * gsd_m
    rows, cols = shape
    return GeoBox(shape, Affine(dx, 0, lon - dx * cols / 2, 0, -dy, lat + dy * rows / 2), "EPSG:4326")


def centre_in(name: str) -> tuple[float, float] | None:
    """Longitude and latitude of the centre in an image's name `<lat>_<lon>...`, None where there is none.

    A latitude beyond 90 degrees tells that the name is `<lon>_<lat>`.
    """
    match = _CENTRE.match(_UPLOAD.sub("", stem(file_name(name))))
    if match is None:
        return None
    lat, lon = float(match[1]), float(match[2])
    if abs(lat) > 90:
        lat, lon = lon, lat
    return (lon, lat) if abs(lat) <= 90 and abs(lon) <= 180 else None


def file_name(name: str) -> str:
    """The last part of a path or an address (also of Label Studio's `/data/local-files/?d=folder/name.png`)."""
    if "?" in name or "://" in name:
        parts = urlsplit(name)
        name = unquote(parse_qs(parts.query).get("d", [parts.path])[0])
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def stem(name: str) -> str:
    """A file name without its ending; `23.07_89.21` has none."""
    for ending in (*IMAGE_ENDINGS, ".txt"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
