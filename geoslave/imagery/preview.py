"""The picture of a place, as people see it: imagery, outlines, scale, legend, and what it is not.

A page has a title, the map with a scale bar and a north arrow, the surest detections enlarged below,
a legend and the notices. Everything is drawn with Pillow alone.

Colours: detections run from pale yellow (doubtful) through orange to red (sure), known sites are
dashed light blue. Each line lies on a dark casing, so that it reads on dark forest and on bright
soil alike; the pair stays apart for colour-blind readers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image, ImageDraw, ImageFont
from pyproj import Geod, Transformer
from rasterio.windows import Window

from geoslave.errors import OutputError
from geoslave.imagery.grades import Colour, confidence_colour
from geoslave.imagery.raster import Raster, Source, window_geobox

Points = NDArray[np.float64]
Kind = Literal["detections", "truth"]

TRUTH: Colour = (70, 214, 255)
_CASING: Colour = (18, 22, 28)
_PAPER, _INK, _GREY, _RULE = (252, 252, 250), (26, 30, 36), (104, 110, 118), (214, 214, 208)
_NODATA, _HATCH = (226, 226, 222), (205, 205, 200)

_MARGIN = 36
_NARROWEST = 900  # the page, however narrow the scene
_SMOOTH = 3  # lines are drawn this much larger and averaged down
_SMALL = 24  # a site drawn smaller than this many pixels gets a ring
_RING = 13
_GAP = 12
_LEGEND_ROW = 36
_PERCENTILES = (2.0, 98.0, 99.9)
_BRIGHT = 0.86  # what the 98th percentile is shown as: sites are often brighter and must not drown in white
_GAMMA = 0.8  # lifts forest and water, on which the eye would see only black
_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class Layer:
    """Outlines to draw."""

    sites: gpd.GeoDataFrame
    """Any CRS. Detections are coloured by their column `confidence` (1 where there is none)."""
    name: str
    """As the legend calls them."""
    kind: Kind = "detections"

    @classmethod
    def detections(cls, sites: gpd.GeoDataFrame, name: str = "detections") -> Layer:
        """What the model found, coloured by confidence."""
        return cls(sites, name, "detections")

    @classmethod
    def truth(cls, sites: gpd.GeoDataFrame, name: str = "known sites") -> Layer:
        """What is known to be there, dashed."""
        return cls(sites, name, "truth")


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Stored values shown as black, as bright and as white, per band."""

    low: Points
    high: Points
    top: Points


@dataclass(frozen=True, slots=True)
class _View:
    """A drawn piece of the world: its picture and how to get onto it."""

    picture: Image.Image
    geobox: GeoBox
    scale: tuple[float, float]
    """Picture pixels per raster pixel, x and y."""

    def place(self, coordinates: Points) -> Points:
        """CRS coordinates [n, 2] as picture pixels [n, 2]."""
        inverse = ~self.geobox.affine
        x, y = coordinates[:, 0], coordinates[:, 1]
        col = inverse.a * x + inverse.b * y + inverse.c
        row = inverse.d * x + inverse.e * y + inverse.f
        return np.stack([col * self.scale[0], row * self.scale[1]], axis=1)


@dataclass(frozen=True, slots=True)
class _Mark:
    """One outline on its way to the picture."""

    outline: shapely.Geometry
    """In the raster's CRS."""
    kind: Kind
    confidence: float
    number: int | None = None
    """Shown beside it where it is enlarged below."""


def draw_scene(
    raster: Raster,
    layers: Sequence[Layer] = (),
    title: str = "",
    subtitle: str = "",
    notices: Sequence[str] = (),
    bands: Sequence[int] | None = None,
    side: int = 1200,
    insets: int = 6,
    source: Source | None = None,
) -> Image.Image:
    """A page with the scene, its outlines, and the surest detections enlarged.

    Args:
        raster: the scene, or an overview of it; at most a few thousand pixels a side.
        layers: drawn in the order given; within a layer the surest last, on top.
        notices: small print, one a line: attribution, what is synthetic, and that a detection is an
            indicator, not evidence.
        bands: positions of red, green, blue, or of one band for grey; the first three, else the first.
        side: longest side of the map on the page, in pixels.
        insets: how many detections to enlarge; 0 for none.
        source: the scene at full resolution, read for the insets where `raster` is an overview.
    """
    if bands is None:
        bands = (0, 1, 2) if raster.pixels.shape[0] >= 3 else (0,)
    stretch = _stretch(raster, bands)
    marks = _marks(layers, raster.geobox, insets)
    view = _view(raster, bands, stretch, side)
    chosen = [mark for mark in marks if mark.number is not None]
    tiles = _tiles(source or raster, bands, stretch, marks, chosen, max(view.picture.width, _NARROWEST))
    return _page(view, _drawn_map(view, marks), tiles, layers, marks, title, subtitle, notices)


def draw_place(
    imagery: Source,
    overview: Raster,
    centre: tuple[float, float],
    across_m: float,
    layers: Sequence[Layer] = (),
    bands: Sequence[int] | None = None,
    side: int = 220,
) -> Image.Image:
    """A square thumbnail of a place with its outlines and a scale bar.

    Args:
        imagery: with a CRS; what hangs over its edge is hatched.
        overview: of the same imagery; its values decide what is shown dark and bright.
        centre: longitude and latitude of the middle.
        across_m: metres from side to side, rounded to whole pixels of the imagery.
        layers, bands: as of `draw_scene`.
        side: of the thumbnail, in pixels.
    """
    if bands is None:
        bands = (0, 1, 2) if overview.pixels.shape[0] >= 3 else (0,)
    point = gpd.GeoSeries(gpd.points_from_xy([centre[0]], [centre[1]]), crs=4326)
    across, down = _pixel_metres(imagery.geobox) or (1.0, 1.0)
    reach = max(4, round(across_m / across)), max(4, round(across_m / down))
    middle = _Mark(point.to_crs(imagery.geobox.crs.to_wkt()).iloc[0], "detections", 1.0)
    piece = _crop(imagery, middle, reach)
    scale = (side / reach[0], side / reach[1])
    view = _View(_render(piece, bands, _stretch(overview, bands), (side, side)), piece.geobox, scale)
    tile = _outlined(view, _marks(layers, piece.geobox, 0), width=2.0, rings=False)
    _scale_on(ImageDraw.Draw(tile, "RGBA"), across / scale[0], side)
    return tile


def ground_window(imagery: Source, centre: tuple[float, float], across_m: float) -> Window:
    """The window of whole pixels about a longitude and latitude that is `across_m` metres wide and high."""
    point = gpd.GeoSeries(gpd.points_from_xy([centre[0]], [centre[1]]), crs=4326)
    x, y = shapely.get_coordinates(point.to_crs(imagery.geobox.crs.to_wkt()).iloc[0])[0]
    inverse = ~imagery.geobox.affine
    col, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    across, down = _pixel_metres(imagery.geobox) or (1.0, 1.0)
    cols, rows = max(4, round(across_m / across)), max(4, round(across_m / down))
    return Window(round(col - cols / 2), round(row - rows / 2), cols, rows)


def draw_view(
    imagery: Source, overview: Raster, window: Window, bands: Sequence[int] | None = None, side: int = 512
) -> tuple[Image.Image, Affine]:
    """A square view without outlines, with scale bar and north arrow, and the way back to the ground.

    Args:
        imagery, overview, bands: as of `draw_place`.
        window: of the imagery, about square on the ground (see `ground_window`).
        side: of the picture, in pixels.

    Returns:
        the picture, and the affine from its pixels (x right, y down) to the imagery's CRS.
    """
    if bands is None:
        bands = (0, 1, 2) if overview.pixels.shape[0] >= 3 else (0,)
    piece = imagery.read(window)
    picture = _render(piece, bands, _stretch(overview, bands), (side, side))
    across = _pixel_metres(piece.geobox)
    if across:
        _scale_on(ImageDraw.Draw(picture, "RGBA"), across[0] * window.width / side, side)
    north = _north(piece.geobox)
    if north:
        ImageDraw.Draw(picture, "RGBA").rounded_rectangle((side - 49, 3, side - 3, 49), 6, fill=(*_PAPER, 215))
        _draw_north(picture, north, side - 48, 4)
    affine = piece.geobox.affine
    return picture, affine @ affine.scale(window.width / side, window.height / side)


def natural_colours(raster: Raster, bands: Sequence[int]) -> NDArray[np.uint8]:
    """Pixels for a screen [y, x, 3], dark and bright as in every picture; `bands` as of `draw_place`."""
    return _display(raster, bands, _stretch(raster, bands))


def draw_key(page: Image.Image, x: float, y: int, kind: Kind, text: str) -> None:
    """An entry of a legend: how outlines of a kind are drawn, with what they are."""
    _draw_entry(page, x, y, Layer(gpd.GeoDataFrame(geometry=[], crs=4326), text, kind), text)


def typeface(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The typeface of every picture."""
    return _font(size)


def save_png(image: Image.Image, path: str | Path, *, smallest: bool = True) -> None:
    """Write a PNG that appears under its name only when it is whole.

    Args:
        smallest: take four times as long for the last 2 % of its size; not for pictures made by the thousand.

    Raises:
        OutputError: if it cannot be written.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, "PNG", optimize=smallest)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from error
    finally:
        temporary.unlink(missing_ok=True)


def scale_bar(metres_per_pixel: float, longest_px: float) -> tuple[float, str]:
    """The longest length of 1, 2 or 5 times a power of ten that fits: (pixels, "500 m" or "2 km")."""
    longest = metres_per_pixel * longest_px
    power = 10.0 ** np.floor(np.log10(longest))
    metres = next(m for m in (5 * power, 2 * power, power) if m <= longest * (1 + 1e-9))
    return metres / metres_per_pixel, f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


# ---------------------------------------------------------------- imagery


def _stretch(raster: Raster, bands: Sequence[int]) -> _Stretch:
    """Percentiles of the valid pixels, per band."""
    sample = raster.pixels[list(bands)][:, raster.valid].astype(np.float64)
    if not np.isfinite(sample).any(axis=1).all():
        return _Stretch(np.zeros(len(bands)), np.ones(len(bands)), np.full(len(bands), 2.0))
    low, high, top = np.nanpercentile(sample, _PERCENTILES, axis=1)
    high = np.where(high > low, high, low + 1)
    return _Stretch(low, high, np.maximum(top, high + 0.05 * (high - low)))


def _display(raster: Raster, bands: Sequence[int], stretch: _Stretch) -> NDArray[np.uint8]:
    """The pixels as [y, x, 3] for a screen: linear up to the 98th percentile, gentler beyond."""
    channels = []
    for band, low, high, top in zip(bands, stretch.low, stretch.high, stretch.top, strict=True):
        stored = np.nan_to_num(raster.pixels[band].astype(np.float64))
        share = np.interp(stored, (low, high, top), (0.0, _BRIGHT, 1.0))
        channels.append(np.rint(share**_GAMMA * 255).astype(np.uint8))
    return np.stack(channels if len(channels) == 3 else channels[:1] * 3, axis=-1)


def _render(raster: Raster, bands: Sequence[int], stretch: _Stretch, size: tuple[int, int]) -> Image.Image:
    """The pixels as an RGB picture of `size` (width, height), hatched where not valid."""
    enlarged = size[0] > raster.valid.shape[1]
    method = Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS
    picture = Image.fromarray(_display(raster, bands, stretch)).resize(size, method)
    if not raster.valid.all():
        mask = Image.fromarray(np.where(raster.valid, 255, 0).astype(np.uint8))
        picture = Image.composite(picture, _hatched(size), mask.resize(size, Image.Resampling.NEAREST))
    return picture


def _hatched(size: tuple[int, int]) -> Image.Image:
    """Grey with thin diagonals: nothing was seen here."""
    y, x = np.ogrid[: size[1], : size[0]]
    lines = ((x + y) % 14 < 2)[..., None]
    return Image.fromarray(np.where(lines, np.array(_HATCH, np.uint8), np.array(_NODATA, np.uint8)))


def _view(raster: Raster, bands: Sequence[int], stretch: _Stretch, side: int) -> _View:
    """The raster so large that its longest side on the ground is `side`, square metres square."""
    rows, cols = raster.valid.shape
    across, down = _pixel_metres(raster.geobox) or (1.0, 1.0)
    width, height = cols * across, rows * down
    larger = max(width, height)
    size = (max(1, round(side * width / larger)), max(1, round(side * height / larger)))
    return _View(_render(raster, bands, stretch, size), raster.geobox, (size[0] / cols, size[1] / rows))


def _pixel_metres(geobox: GeoBox) -> tuple[float, float] | None:
    """Width and height of the pixel in the middle of the grid, in metres on the ground; None without CRS."""
    rows, cols = geobox.shape
    points = _lonlat(geobox, np.array([[0.0, 0], [1, 0], [0, 1]]) + np.array([cols / 2, rows / 2]))
    if points is None:
        return None
    (lon, lat), right, below = points
    across = _GEOD.inv(lon, lat, *right)[2]
    down = _GEOD.inv(lon, lat, *below)[2]
    return (across, down) if across > 0 and down > 0 else None


def _lonlat(geobox: GeoBox, pixels: Points) -> Points | None:
    """Pixel positions [n, (col, row)] in longitude/latitude; None where the CRS does not lead there."""
    if geobox.crs is None:
        return None
    a = geobox.affine
    x = a.a * pixels[:, 0] + a.b * pixels[:, 1] + a.c
    y = a.d * pixels[:, 0] + a.e * pixels[:, 1] + a.f
    try:
        transformer = Transformer.from_crs(geobox.crs.to_wkt(), 4326, always_xy=True)
        points = np.column_stack(transformer.transform(x, y))
    except Exception:  # another planet, a local grid: the picture still helps, without a scale
        return None
    return points if np.isfinite(points).all() else None


def _north(geobox: GeoBox) -> tuple[float, float] | None:
    """Unit vector (right, down) toward north on the raster's grid, at its middle."""
    rows, cols = geobox.shape
    here = _lonlat(geobox, np.array([[cols / 2, rows / 2]]))
    if here is None or geobox.crs is None:
        return None
    back = Transformer.from_crs(4326, geobox.crs.to_wkt(), always_xy=True)
    x, y = back.transform(np.repeat(here[0, 0], 2), here[0, 1] + np.array([0, 1e-3]))
    inverse = ~geobox.affine
    across, down = _pixel_metres(geobox) or (1.0, 1.0)
    right = (inverse.a * (x[1] - x[0]) + inverse.b * (y[1] - y[0])) * across
    below = (inverse.d * (x[1] - x[0]) + inverse.e * (y[1] - y[0])) * down
    length = float(np.hypot(right, below))
    return (right / length, below / length) if np.isfinite(length) and length else None


# ---------------------------------------------------------------- outlines


def _marks(layers: Sequence[Layer], geobox: GeoBox, insets: int) -> list[_Mark]:
    """Every outline that touches the raster, in drawing order; the surest detections numbered."""
    extent = geobox.extent.geom
    marks: list[_Mark] = []
    for layer in layers:
        sites = layer.sites
        if sites.crs is not None and geobox.crs is not None:
            sites = sites.to_crs(geobox.crs.to_wkt())
        sites = sites[sites.geometry.intersects(extent).to_numpy()]
        sure = sites["confidence"].to_numpy(float) if "confidence" in sites else np.ones(len(sites))
        order = np.argsort(sure, kind="stable")
        marks += [_Mark(sites.geometry.iloc[i], layer.kind, float(sure[i])) for i in order]
    found = [k for k, mark in enumerate(marks) if mark.kind == "detections"]
    ranked = sorted(found, key=lambda k: -marks[k].confidence)[:insets]
    number = {k: rank for rank, k in enumerate(ranked, start=1)}
    return [_Mark(m.outline, m.kind, m.confidence, number.get(k)) for k, m in enumerate(marks)]


def _colour(mark: _Mark) -> Colour:
    return TRUTH if mark.kind == "truth" else confidence_colour(mark.confidence)


def _drawn_map(view: _View, marks: Sequence[_Mark]) -> Image.Image:
    """The map with outlines and the numbers of those enlarged below."""
    picture = _outlined(view, marks, width=2.6, rings=True)
    draw = ImageDraw.Draw(picture, "RGBA")
    for mark in marks:
        if mark.number is not None:
            _number(draw, picture.size, _box(view, mark), mark)
    return picture


def _outlined(view: _View, marks: Sequence[_Mark], width: float, rings: bool) -> Image.Image:
    """A copy of the picture with the outlines on it; small ones in a ring where `rings`."""
    size = view.picture.size
    overlay = Image.new("RGBA", (size[0] * _SMOOTH, size[1] * _SMOOTH), (*_CASING, 0))
    draw = ImageDraw.Draw(overlay)
    for mark in marks:
        lines = _lines(view, mark)
        left, top, right, bottom = _box(view, mark)
        small = rings and max(right - left, bottom - top) < _SMALL
        if small:
            radius = _RING + (5 if mark.kind == "truth" else 0)
            lines = [_circle((left + right) / 2, (top + bottom) / 2, radius)]
        for line in lines:
            _stroke(draw, line * _SMOOTH, _colour(mark), width * _SMOOTH, dashed=mark.kind == "truth")
    overlay = overlay.resize(size, Image.Resampling.BOX)
    picture = view.picture.convert("RGBA")
    picture.alpha_composite(overlay)
    return picture.convert("RGB")


def _lines(view: _View, mark: _Mark) -> list[Points]:
    """The boundary of a mark's outline in picture pixels."""
    rings = shapely.get_parts(shapely.boundary(mark.outline))
    return [view.place(shapely.get_coordinates(ring)) for ring in rings if not ring.is_empty]


def _box(view: _View, mark: _Mark) -> tuple[float, float, float, float]:
    points = view.place(shapely.get_coordinates(mark.outline))
    left, top = points.min(axis=0)
    right, bottom = points.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def _circle(x: float, y: float, radius: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 73)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def _stroke(draw: ImageDraw.ImageDraw, line: Points, colour: Colour, width: float, dashed: bool) -> None:
    """A line on its dark casing."""
    parts = _dashes(line, 2.6 * width, 3 * width) if dashed else [line]
    for part in parts:
        _polyline(draw, part, (*_CASING, 215), width * 1.75)
    for part in parts:
        _polyline(draw, part, (*colour, 255), width)


def _polyline(draw: ImageDraw.ImageDraw, line: Points, colour: tuple[int, ...], width: float) -> None:
    points = [(float(x), float(y)) for x, y in line]
    draw.line(points, fill=colour, width=max(1, round(width)), joint="curve")
    radius = width / 2  # round ends and a closed corner
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _dashes(line: Points, on: float, off: float) -> list[Points]:
    """Pieces of a line, evenly spaced so that a ring closes without a stump."""
    step = np.hypot(*np.diff(line, axis=0).T)
    along = np.r_[0, np.cumsum(step)]
    total = float(along[-1])
    if not total:
        return [line]
    count = max(2, round(total / (on + off)))
    period = total / count
    share = on / (on + off)
    pieces = []
    for k in range(count):
        start, end = k * period, (k + share) * period
        inner = along[(along > start) & (along < end)]
        at = np.r_[start, inner, end]
        pieces.append(np.stack([np.interp(at, along, line[:, 0]), np.interp(at, along, line[:, 1])], axis=1))
    return pieces


def _number(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], box: tuple[float, float, float, float], mark: _Mark
) -> None:
    """A small badge at the upper right of an outline, kept on the picture."""
    left, top, right, bottom = box
    if max(right - left, bottom - top) < _SMALL:
        x, y = (left + right) / 2 + _RING, (top + bottom) / 2 - _RING
    else:
        x, y = right, top
    radius = 11
    x = min(max(x + 6, radius + 2), size[0] - radius - 2)
    y = min(max(y - 6, radius + 2), size[1] - radius - 2)
    _badge(draw, x, y, radius, str(mark.number))


def _badge(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, text: str) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*_CASING, 225))
    draw.text((x, y), text, font=_font(14), fill=(255, 255, 255, 255), anchor="mm")


# ---------------------------------------------------------------- furniture


def _draw_furniture(page: Image.Image, view: _View, right: int, bottom: int) -> None:
    """Scale bar and north arrow, right above the map: on it they would hide sites."""
    draw = ImageDraw.Draw(page, "RGBA")
    north = _north(view.geobox)
    if north:
        _draw_north(page, north, right - 44, bottom - 50)
        right -= 66
    metres = _pixel_metres(view.geobox)
    if not metres:
        return
    length, text = scale_bar(metres[0] / view.scale[0], min(220.0, 0.25 * page.width))
    y = bottom - 10
    draw.line((right - length, y, right, y), fill=_INK, width=3)
    for end in (right - length, right):
        draw.line((end, y - 8, end, y + 1), fill=_INK, width=3)
    draw.text((right - length / 2, y - 12), text, font=_font(18), fill=_INK, anchor="mb")


def _scale_on(draw: ImageDraw.ImageDraw, metres_per_pixel: float, side: int) -> None:
    """A scale bar on a thumbnail, lower left, white on a dark ground."""
    length, text = scale_bar(metres_per_pixel, 0.4 * side)
    left, y = 9, side - 10
    draw.rounded_rectangle((3, side - 31, left + max(length, 46) + 7, side - 3), 4, fill=(*_CASING, 165))
    draw.line((left, y, left + length, y), fill=(255, 255, 255), width=2)
    for end in (left, left + length):
        draw.line((end, y - 4, end, y), fill=(255, 255, 255), width=2)
    draw.text((left, y - 5), f" {text}", font=_font(13), fill=(255, 255, 255), anchor="lb")


def _draw_north(page: Image.Image, north: tuple[float, float], x: int, y: int) -> None:
    """An arrow that points north, with its letter, in a square of 44 pixels."""
    size = 44 * _SMOOTH
    image = Image.new("RGBA", (size, size), (*_PAPER, 0))
    draw = ImageDraw.Draw(image)
    along, side = np.array(north), np.array([-north[1], north[0]])
    middle = np.array([size / 2, size / 2])
    tip, tail = middle + along * size * 0.12, middle - along * size * 0.48
    notch = middle - along * size * 0.34
    for flank, colour in ((tail + side * size * 0.19, _INK), (tail - side * size * 0.19, _GREY)):
        draw.polygon([(float(px), float(py)) for px, py in (tip, flank, notch)], fill=colour)
    letter = middle + along * size * 0.32
    draw.text((float(letter[0]), float(letter[1])), "N", font=_font(17 * _SMOOTH), fill=_INK, anchor="mm")
    image = image.resize((44, 44), Image.Resampling.BOX)
    page.paste(image, (x, y), image)


def _tiles(
    imagery: Source | Raster,
    bands: Sequence[int],
    stretch: _Stretch,
    marks: Sequence[_Mark],
    chosen: Sequence[_Mark],
    page_width: int,
) -> list[Image.Image]:
    """The numbered detections enlarged, all at one scale, the surest first."""
    if not chosen:
        return []
    columns = max(4, min(len(chosen), 6))
    side = (page_width - _GAP * (columns - 1)) // columns
    reach = _inset_pixels(imagery.geobox, chosen)
    tiles = []
    for mark in sorted(chosen, key=lambda m: m.number or 0):
        piece = _crop(imagery, mark, reach)
        scale = (side / piece.valid.shape[1], side / piece.valid.shape[0])
        view = _View(_render(piece, bands, stretch, (side, side)), piece.geobox, scale)
        extent = piece.geobox.extent.geom
        near = [m for m in marks if shapely.intersects(m.outline, extent)]
        tile = _outlined(view, near, width=2.4, rings=False)
        draw = ImageDraw.Draw(tile, "RGBA")
        _badge(draw, 19, 19, 13, str(mark.number))
        _confidence_label(draw, tile.size, mark.confidence)
        tiles.append(tile)
    return tiles


def _inset_pixels(geobox: GeoBox, chosen: Sequence[_Mark]) -> tuple[int, int]:
    """(columns, rows) of raster pixels in an inset: three times a typical outline, square on the ground."""
    across, down = _pixel_metres(geobox) or (1.0, 1.0)
    inverse = ~geobox.affine
    lengths = []
    for mark in chosen:
        points = shapely.get_coordinates(mark.outline)
        col = (inverse.a * points[:, 0] + inverse.b * points[:, 1]) * across
        row = (inverse.d * points[:, 0] + inverse.e * points[:, 1]) * down
        lengths.append(max(np.ptp(col), np.ptp(row)))
    reach = max(3.0 * float(np.median(lengths)), 1.15 * float(np.max(lengths)), 24 * max(across, down))
    return max(8, round(reach / across)), max(8, round(reach / down))


def _crop(imagery: Source | Raster, mark: _Mark, reach: tuple[int, int]) -> Raster:
    """The imagery about an outline; what hangs over the edge is not valid."""
    x, y = shapely.get_coordinates(shapely.centroid(mark.outline))[0]
    inverse = ~imagery.geobox.affine
    col, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    window = Window(round(col - reach[0] / 2), round(row - reach[1] / 2), reach[0], reach[1])
    return _window(imagery, window) if isinstance(imagery, Raster) else imagery.read(window)


def _window(raster: Raster, window: Window) -> Raster:
    """A window of a raster in memory."""
    rows, cols = raster.valid.shape
    y = np.arange(window.row_off, window.row_off + window.height)
    x = np.arange(window.col_off, window.col_off + window.width)
    inside = ((y >= 0) & (y < rows))[:, None] & ((x >= 0) & (x < cols))[None, :]
    grid = np.ix_(np.clip(y, 0, rows - 1), np.clip(x, 0, cols - 1))
    return Raster(raster.pixels[:, grid[0], grid[1]], raster.valid[grid] & inside, window_geobox(raster.geobox, window))


def _confidence_label(draw: ImageDraw.ImageDraw, size: tuple[int, int], confidence: float) -> None:
    text, font = f"{confidence:.2f}", _font(19)
    width = draw.textlength(text, font=font)
    right, bottom = size[0] - 8, size[1] - 8
    draw.rounded_rectangle((right - width - 34, bottom - 28, right, bottom), 6, fill=(255, 255, 255, 230))
    draw.rounded_rectangle(
        (right - width - 27, bottom - 20, right - width - 15, bottom - 8), 3, fill=confidence_colour(confidence)
    )
    draw.text((right - 8, bottom - 14), text, font=font, fill=_INK, anchor="rm")


# ---------------------------------------------------------------- the page


def _page(
    view: _View,
    picture: Image.Image,
    tiles: Sequence[Image.Image],
    layers: Sequence[Layer],
    marks: Sequence[_Mark],
    title: str,
    subtitle: str,
    notices: Sequence[str],
) -> Image.Image:
    """Title, subtitle, map, insets, legend and notice, from top to bottom."""
    width = max(picture.width, _NARROWEST)
    beside = width - 310  # room for scale bar and north arrow
    heading, under = _wrapped(title, 32, beside), _wrapped(subtitle, 19, beside)
    small_print = [line for notice in notices for line in _wrapped(notice, 17, width)]
    top = _MARGIN - 6 + max(42 * len(heading) + 28 * len(under), 50) + 14
    legend_top = top + picture.height + 18 + _tile_rows_height(tiles)
    legend = _legend(layers, marks, width)
    print_top = legend_top + (_LEGEND_ROW * (legend[-1][1] + 1) + 10 if legend else 0)

    page = Image.new("RGB", (width + 2 * _MARGIN, print_top + 25 * len(small_print) + _MARGIN - 8), _PAPER)
    draw = ImageDraw.Draw(page, "RGBA")
    y = _text_lines(draw, heading, top - 14 - 42 * len(heading) - 28 * len(under), 32, 42, _INK)
    _text_lines(draw, under, y, 19, 28, _GREY)
    left = _MARGIN + (width - picture.width) // 2
    _draw_furniture(page, view, left + picture.width, top - 10)
    _paste(page, picture, left, top)
    for k, tile in enumerate(tiles):
        row, column = divmod(k, _tile_columns(tiles))
        across, down = column * (tile.width + _GAP), row * (tile.height + _GAP)
        _paste(page, tile, _MARGIN + across, top + picture.height + 18 + down)
    for x, row, layer, text in legend:
        _draw_entry(page, _MARGIN + x, legend_top + 16 + _LEGEND_ROW * row, layer, text)
    _text_lines(draw, small_print, print_top, 17, 25, _GREY)
    return page


def _text_lines(draw: ImageDraw.ImageDraw, lines: Sequence[str], y: int, size: int, step: int, colour: Colour) -> int:
    """Lines of text one below the other at the left margin; returns where the next would be."""
    for line in lines:
        draw.text((_MARGIN, y), line, font=_font(size), fill=colour)
        y += step
    return y


def _paste(page: Image.Image, picture: Image.Image, x: int, y: int) -> None:
    """A picture with a hair line about it."""
    page.paste(picture, (x, y))
    draw = ImageDraw.Draw(page, "RGBA")
    draw.rectangle((x, y, x + picture.width - 1, y + picture.height - 1), outline=(0, 0, 0, 60))


def _tile_columns(tiles: Sequence[Image.Image]) -> int:
    return max(4, min(len(tiles), 6))


def _tile_rows_height(tiles: Sequence[Image.Image]) -> int:
    if not tiles:
        return 0
    rows = -(-len(tiles) // _tile_columns(tiles))
    return rows * (tiles[0].height + _GAP) + 8


def _legend(layers: Sequence[Layer], marks: Sequence[_Mark], width: int) -> list[tuple[float, int, Layer, str]]:
    """(x, row, layer, text) of each entry, in as many rows as they need."""
    placed: list[tuple[float, int, Layer, str]] = []
    x, row = 0.0, 0
    for layer in layers:
        text = f"{layer.name} ({_count_on_map(layer, layers, marks):,})"
        wide = 50 + _font(19).getlength(text) + (300 if layer.kind == "detections" else 0)
        if x and x + wide > width:
            x, row = 0.0, row + 1
        placed.append((x, row, layer, text))
        x += wide + 34
    return placed


def _draw_entry(page: Image.Image, x: float, y: int, layer: Layer, text: str) -> None:
    """A swatch with its name and count; for detections also the ramp of confidence."""
    draw = ImageDraw.Draw(page, "RGBA")
    swatch = _swatch(layer.kind)
    page.paste(swatch, (round(x), round(y - swatch.height / 2)), swatch)
    draw.text((x + 50, y), text, font=_font(19), fill=_INK, anchor="lm")
    if layer.kind == "detections":
        _draw_ramp(draw, x + 50 + draw.textlength(text, font=_font(19)) + 26, y)


def _count_on_map(layer: Layer, layers: Sequence[Layer], marks: Sequence[_Mark]) -> int:
    """How many of a layer's outlines are on the map."""
    same = [other for other in layers if other.kind == layer.kind]
    if len(same) == 1:
        return sum(mark.kind == layer.kind for mark in marks)
    return len(layer.sites)


def _swatch(kind: Kind) -> Image.Image:
    """A small outline as it looks on the map, on a mid grey so that both colours show."""
    size = (40, 26)
    image = Image.new("RGBA", (size[0] * _SMOOTH, size[1] * _SMOOTH), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, image.width - 1, image.height - 1), 5 * _SMOOTH, fill=(96, 112, 88, 255))
    box = np.array([[8, 7], [32, 7], [32, 19], [8, 19], [8, 7]], float) * _SMOOTH
    colour = TRUTH if kind == "truth" else confidence_colour(0.85)
    _stroke(draw, box, colour, 2.6 * _SMOOTH, dashed=kind == "truth")
    return image.resize(size, Image.Resampling.BOX)


def _draw_ramp(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """The colours of confidence from 0 to 1."""
    font, length = _font(17), 150
    draw.text((x, y), "confidence  0", font=font, fill=_GREY, anchor="lm")
    x += draw.textlength("confidence  0", font=font) + 8
    for step in range(length):
        draw.line((x + step, y - 8, x + step, y + 8), fill=confidence_colour(step / (length - 1)))
    draw.rectangle((x - 1, y - 9, x + length, y + 9), outline=(*_CASING, 120))
    draw.text((x + length + 8, y), "1", font=font, fill=_GREY, anchor="lm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, so that the picture is the same on every machine."""
    return ImageFont.load_default(size)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Text in lines that fit; a word that is longer stays whole."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
