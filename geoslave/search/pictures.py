"""The pictures of chips: small ones for the grid, a large one with its surroundings to place a site in.

The frame of a chip (what it answers for) lies in the middle; round it is seen what a site on its edge reaches into.
Everything follows from the chip's id: what a browser sends back, as shares of a picture's side, is put on earth here.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from geoslave.imagery.preview import draw_view
from geoslave.imagery.raster import Raster
from geoslave.search import SearchError
from geoslave.search.index import ChipIndex

View = Literal["small", "large"]
SIDE: dict[View, int] = {"small": 264, "large": 768}
"""Of a picture, in pixels."""
_SURROUNDINGS = 2.5
"""How many frames wide the large picture is."""
_OVERVIEW = 256
_KEPT = 400


class NoSuchChip(SearchError):
    """A chip that is not in the index."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How a chip's picture lies on the ground."""

    affine: Affine
    """From shares of the picture's side (x right, y down, 0 to 1) to the scene's CRS."""
    crs: str
    frame: tuple[float, float]
    """Where the chip's frame begins and ends, as shares of the side; it is square, in the middle to half a pixel."""

    def to_lonlat(self, points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
        """Shares of the side [n, 2] as longitude and latitude [n, 2]."""
        x, y = np.asarray(points, float).reshape(-1, 2).T
        return np.column_stack(_transformer(self.crs, True).transform(*_through(self.affine, x, y)))

    def to_shares(self, shape: BaseGeometry) -> list[tuple[float, float]]:
        """The corners of a shape (longitude, latitude) as shares of the side, the last one not repeated."""
        polygon = isinstance(shape, shapely.Polygon)
        corners = shapely.get_coordinates(shape.exterior if isinstance(shape, shapely.Polygon) else shape)
        corners = corners[:-1] if polygon else corners
        x, y = _through(~self.affine, *_transformer(self.crs, False).transform(corners[:, 0], corners[:, 1]))
        return [(round(float(a), 5), round(float(b), 5)) for a, b in zip(x, y, strict=True)]


@lru_cache(64)
def _transformer(crs: str, to_lonlat: bool) -> Transformer:
    lonlat = "EPSG:4326"
    source, goal = (crs, lonlat) if to_lonlat else (lonlat, crs)
    return Transformer.from_crs(source, goal, always_xy=True)


def _through(affine: Affine, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


class Pictures:
    """Draws the chips of an index; the last ones are kept. May be used by several threads."""

    def __init__(self, index: ChipIndex) -> None:
        self._index = index
        self._overviews: dict[str, Raster] = {}
        self._geoboxes: dict[str, GeoBox] = {}
        self._kept: OrderedDict[tuple[str, View, str], bytes] = OrderedDict()
        self._turn = threading.Lock()

    def png(self, chip: str, view: View = "small", scene: str = "") -> bytes:
        """A chip's picture; with `scene`, the same ground in another scene of the index (see `others`).

        Raises:
            NoSuchChip: if there is none.
        """
        row, key = self._row(chip), (chip, view, scene)
        with self._turn:
            if key not in self._kept:
                self._kept[key] = self._drawn(self._seen_in(row, scene), view)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            return self._kept[key]

    def sight(self, chip: str, view: View = "small") -> Sight:
        """How a chip's picture lies on the ground; nothing is drawn for it.

        Raises:
            NoSuchChip: if there is none.
        """
        row = self._row(chip)
        geobox = self._geobox(str(self._index.chips["scene_id"].iloc[row]))
        drawn, side, rim = self._sizes(view)
        window, pixel = self._index.window(row, drawn), drawn / side
        corner = (window.col_off + rim * pixel, window.row_off + rim * pixel)
        affine = geobox.affine @ Affine.translation(*corner) @ Affine.scale(SIDE[view] * pixel)
        core = self._index.settings.core_px
        low = ((drawn - core) / 2 / pixel - rim) / SIDE[view]
        return Sight(affine, geobox.crs.to_wkt(), (low, low + core / pixel / SIDE[view]))

    def others(self, chip: str) -> list[dict[str, str]]:
        """Other scenes of the index that show a chip's ground: scene and date, oldest first."""
        row = self._row(chip)
        own = str(self._index.chips["scene_id"].iloc[row])
        found = self._index.chips.iloc[self._at_middle(row)]
        told = {str(scene): str(date or "") for scene, date in zip(found["scene_id"], found["date"], strict=True)}
        return [{"scene": scene, "date": told[scene]} for scene in sorted(told, key=told.__getitem__) if scene != own]

    def _row(self, chip: str) -> int:
        try:
            return self._index.rows[chip]
        except KeyError:
            raise NoSuchChip("there is no such chip in the index: load the page again") from None

    def _at_middle(self, row: int) -> NDArray[np.int64]:
        """Rows of all chips over a chip's middle."""
        middle = self._index.chips.geometry.iloc[row].representative_point()
        return np.asarray(self._index.chips.sindex.query(middle, predicate="intersects"), np.int64)

    def _seen_in(self, row: int, scene: str) -> int:
        """The row of the chip of another scene over the same ground."""
        if not scene:
            return row
        for other in self._at_middle(row):
            if str(self._index.chips["scene_id"].iloc[int(other)]) == scene:
                return int(other)
        raise NoSuchChip("no such scene shows this place: load the page again")

    def _drawn(self, row: int, view: View) -> bytes:
        drawn, side, rim = self._sizes(view)
        name = str(self._index.chips["scene_id"].iloc[row])
        with self._index.source(name) as scene:
            if name not in self._overviews:
                self._overviews[name] = overview_of(self._index, name, scene)
            image, _ = draw_view(scene, self._overviews[name], self._index.window(row, drawn), self._bands(), side)
        return _png(image.crop((rim, rim, rim + SIDE[view], rim + SIDE[view])) if rim else image)

    def _sizes(self, view: View) -> tuple[int, int, int]:
        """(pixels of the scene that are drawn, the drawing's side, the rim that is cut off).

        The grid's pictures are too small for a scale and an arrow: more is drawn, and its rim cut off.
        """
        core, chip = self._index.settings.core_px, self._index.settings.chip_px
        seen = chip if view == "small" else 2 * round(core * _SURROUNDINGS / 2)
        drawn = seen if view == "large" else 2 * round(0.85 * seen)
        side = round(SIDE[view] * drawn / seen)
        return drawn, side, round((side - SIDE[view]) / 2)

    def _geobox(self, scene_id: str) -> GeoBox:
        if scene_id not in self._geoboxes:
            self._geoboxes[scene_id] = self._index.record(scene_id).geobox
        return self._geoboxes[scene_id]

    def _bands(self) -> tuple[int, ...]:
        names = list(self._index.facts["reading"]["bands"])
        if all(band in names for band in ("red", "green", "blue")):
            return tuple(names.index(band) for band in ("red", "green", "blue"))
        return (0, 1, 2) if len(names) >= 3 else (0,)


def overview_of(index: ChipIndex, scene_id: str, scene: Any, longest: int = _OVERVIEW) -> Raster:
    """All of a scene, small; of a composite, which has no smaller copy of itself, chips from all over it in a row."""
    if hasattr(scene, "overview"):
        overview: Raster = scene.overview(longest)
        return overview
    rows = np.flatnonzero(index.chips["scene_id"].to_numpy() == scene_id)
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), 64)).astype(int)]
    parts = [scene.read(index.window(int(row), index.settings.core_px)) for row in chosen]
    pixels = np.concatenate([part.pixels for part in parts], axis=2)
    valid = np.concatenate([part.valid for part in parts], axis=1)
    first = parts[0].geobox
    return Raster(pixels, valid, GeoBox(valid.shape, first.affine, first.crs))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
