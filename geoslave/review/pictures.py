"""The pictures of a task: three zooms, today's and an earlier date's, on one grid so that they swipe.

PNG below 1 MB each (Zooniverse takes no more), named by chance so that a name tells nothing. A
picture carries a scale bar and a north arrow, no outline: the page draws it, to be switched off.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import geopandas as gpd
import shapely
from affine import Affine
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from geoslave.imagery.geotiff import Reading, Scene, open_scene
from geoslave.imagery.preview import draw_view, ground_window, save_png
from geoslave.imagery.raster import Raster, window_geobox
from geoslave.review.tasks import Picture

SIDE = 512
LARGEST_BYTES = 1_000_000
ZOOMS: tuple[Literal["near", "middle", "far"], ...] = ("near", "middle", "far")
WIDER = (1.0, 3.0, 9.0)
"""How much wider each zoom is than the nearest, of a detection."""
WIDER_TILE = (1.0, 2.0, 5.0)
_MOST_PIXELS = 6_000
_FOLDER = "pictures"


@dataclass(frozen=True, slots=True)
class Shown:
    """A task's pictures and how their pixels lie on the ground."""

    pictures: tuple[Picture, ...]
    grids: dict[str, tuple[float, float, float, float, float, float]]
    crs: str
    outline: str
    """WKT, in `crs`."""


class SceneView:
    """An open scene, ready to be drawn from, with earlier scenes of the same ground."""

    def __init__(self, path: str, reading: Reading, earlier: Sequence[tuple[str, BaseGeometry]] = ()) -> None:
        self.scene = open_scene(path, reading)
        self._overview = self.scene.overview(512)
        self._bands = _colour_bands(self.scene)
        self._reading = reading
        self._earlier = tuple(earlier)

    def __enter__(self) -> SceneView:
        return self

    def __exit__(self, *_: object) -> None:
        self.scene.close()

    @property
    def date(self) -> str | None:
        return self.scene.date.isoformat() if self.scene.date else None

    def show_site(self, outline: BaseGeometry, crs: object, folder: Path) -> Shown:
        """Pictures about a detection's outline (given in `crs`)."""
        wkt = self.scene.geobox.crs.to_wkt()
        shape = gpd.GeoSeries([outline], crs=crs).to_crs(wkt).iloc[0]
        lonlat = gpd.GeoSeries([shape], crs=wkt).to_crs(4326).iloc[0]
        centre = shapely.get_coordinates(lonlat.centroid)[0]
        local = gpd.GeoSeries([lonlat], crs=4326).to_crs(_local(centre)).iloc[0]
        longest = 2 * shapely.minimum_bounding_radius(local)
        nearest = max(3.5 * longest, 48 * self._gsd(centre))
        return self._shown(self._windows(centre, nearest, WIDER), shape, (centre[0], centre[1]), folder)

    def show_tile(self, core: Window, folder: Path) -> Shown:
        """Pictures of a tile; its edge is the outline."""
        wkt = self.scene.geobox.crs.to_wkt()
        geobox = window_geobox(self.scene.geobox, core)
        shape = shapely.Polygon(geobox.extent.geom.exterior.coords)
        centre = shapely.get_coordinates(gpd.GeoSeries([shape.centroid], crs=wkt).to_crs(4326).iloc[0])[0]
        gsd = self._gsd(centre)
        square = ground_window(self.scene, (centre[0], centre[1]), 1_000)
        across_m = 1_000 * max(core.width / square.width, core.height / square.height) + gsd
        return self._shown(self._windows(centre, across_m, WIDER_TILE), shape, (centre[0], centre[1]), folder)

    def _windows(self, centre: Sequence[float], nearest_m: float, wider: Sequence[float]) -> list[Window]:
        """Three squares about a place; the wider ones no wider than the scene, or than a computer can read."""
        gsd = self._gsd(centre)
        widest = min(gsd * max(self.scene.geobox.shape), gsd * _MOST_PIXELS)
        sides = [max(nearest_m, min(nearest_m * factor, widest)) for factor in wider]
        return [ground_window(self.scene, (centre[0], centre[1]), side) for side in sides]

    def _shown(
        self,
        windows: Sequence[Window],
        shape: BaseGeometry,
        centre: tuple[float, float],
        folder: Path,
    ) -> Shown:
        pictures: list[Picture] = []
        grids: dict[str, tuple[float, float, float, float, float, float]] = {}
        before = self._scene_before(centre)
        for zoom, window in zip(ZOOMS, windows, strict=True):
            views: list[tuple[Literal["now", "before"], Scene, Raster, Window]] = [
                ("now", self.scene, self._overview, window)
            ]
            if before is not None:
                geobox = window_geobox(self.scene.geobox, window)
                opened = open_scene(before, self._reading)
                overview = opened.overview(512)
                warped = opened.onto(geobox, Resampling.bilinear)
                views.append(("before", warped, overview, Window(0, 0, window.width, window.height)))
            for when, scene, overview, part in views:
                name = f"{_FOLDER}/{secrets.token_hex(8)}.png"
                side, affine = _drawn(scene, overview, part, _colour_bands(scene), folder / name)
                date = scene.date.isoformat() if scene.date else None
                pictures.append(Picture(name, zoom, side, side, date, when, _rings(shape, affine)))
                grids[name] = (affine.a, affine.b, affine.c, affine.d, affine.e, affine.f)
                if when == "before":
                    scene.close()
        return Shown(tuple(pictures), grids, self.scene.geobox.crs.to_wkt(), shape.wkt)

    def _scene_before(self, centre: tuple[float, float]) -> str | None:
        point = shapely.Point(centre)
        return next((path for path, footprint in self._earlier if shapely.contains(footprint, point)), None)

    def _gsd(self, centre: Sequence[float]) -> float:
        """Metres a pixel, the finer side."""
        window = ground_window(self.scene, (centre[0], centre[1]), 10_000)
        return float(10_000 / max(window.width, window.height))


def footprint(scene: Scene) -> BaseGeometry:
    """The box of a scene in longitude/latitude."""
    box = shapely.Polygon(scene.geobox.extent.geom.exterior.coords)
    dense = shapely.segmentize(box, max(box.length / 64, 1e-9))
    return gpd.GeoSeries([dense], crs=scene.geobox.crs.to_wkt()).to_crs(4326).iloc[0]


def _drawn(scene: Scene, overview: Raster, window: Window, bands: Sequence[int], path: Path) -> tuple[int, Affine]:
    """Write the picture, smaller where it would be too heavy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    side = SIDE
    while True:
        picture, affine = draw_view(scene, overview, window, bands, side)
        save_png(picture, path, smallest=False)
        if path.stat().st_size <= LARGEST_BYTES or side < 128:
            return side, affine
        side = int(side * 0.8)


def _colour_bands(scene: Scene) -> tuple[int, ...]:
    names = list(scene.bands)
    if all(band in names for band in ("red", "green", "blue")):
        return tuple(names.index(band) for band in ("red", "green", "blue"))
    return (0, 1, 2) if len(names) >= 3 else (0,)


def _rings(shape: BaseGeometry, affine: Affine) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The boundary in picture pixels, to a tenth."""
    inverse = ~affine
    rings = []
    for ring in shapely.get_parts(shapely.boundary(shape)):
        x, y = shapely.get_coordinates(ring).T
        col, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
        rings.append(tuple((round(float(c), 1), round(float(r), 1)) for c, r in zip(col, row, strict=True)))
    return tuple(rings)


def _local(centre: Sequence[float]) -> CRS:
    return CRS.from_proj4(f"+proj=aeqd +lon_0={centre[0]} +lat_0={centre[1]} +datum=WGS84 +units=m")
