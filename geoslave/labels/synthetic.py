"""A scene rendered from nothing, with known truth: for the demo, for tests, and for training.

What is drawn imitates the brick-kiln country of the Indo-Gangetic plain as Sentinel-2 shows it:
patchworks of fields, villages under trees, roads, a river with sandbars, ponds, and kilns of the
published sizes on their bright yards, together with things that are easily taken for kilns and are
none: bare fields, big sheds, red roofs, sandbars, yards without a kiln.

Large things are drawn at twice the grid's resolution, kilns and buildings at five times, then
averaged, blurred by the sensor's point spread and given noise. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, radians, sin
from typing import Literal

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize
from rasterio.transform import Affine
from scipy.ndimage import distance_transform_edt, gaussian_filter
from shapely import affinity
from shapely.geometry import LineString, Point, Polygon, box
from shapely.geometry.base import BaseGeometry

from geoslave.imagery.raster import Raster
from geoslave.imagery.scaling import DISPLAY_REFLECTANCE, SENTINEL2_SCALE

Landscape = Literal["delta", "plain", "dry", "forest"]
Colour = tuple[float, float, float]
Floats = NDArray[np.float32]

_COARSE = 2  # supersampling of the landscape
_FINE = 5  # supersampling of kilns and buildings


@dataclass(frozen=True, slots=True)
class KilnSize:
    """Published range (5 to 95 %) of one kind of kiln: KilnEye, 21,941 hand-validated boxes in India."""

    length_m: tuple[float, float]
    width_m: tuple[float, float]
    aspect: tuple[float, float]


KILN_SIZES: dict[str, KilnSize] = {
    "fcbk": KilnSize(length_m=(76, 126), width_m=(35, 59), aspect=(1.82, 2.56)),
    "zigzag": KilnSize(length_m=(73, 125), width_m=(37, 64), aspect=(1.62, 2.36)),
}


@dataclass(frozen=True, slots=True)
class RenderedScene:
    """A rendered scene and what is truly in it."""

    raster: Raster
    """Bands red, green, blue: uint8 as a display image, or uint16 digital numbers (reflectance x 10,000)."""
    sites: gpd.GeoDataFrame
    """One row a kiln, in the scene's CRS: geometry (outline), class_name 'brick_kiln', kind 'fcbk' or 'zigzag'."""


@dataclass(frozen=True, slots=True)
class _Palette:
    """Reflectances (red, green, blue) of a landscape; fields are drawn by weight."""

    fields: tuple[tuple[float, Colour], ...]
    tree: Colour
    village_share: float
    tree_share: float
    """Share of land under trees without houses."""


_PALETTES: dict[str, _Palette] = {
    "delta": _Palette(
        fields=(
            (5, (0.050, 0.085, 0.052)),
            (4, (0.042, 0.076, 0.042)),
            (3, (0.062, 0.088, 0.055)),
            (2, (0.075, 0.082, 0.062)),
            (1.2, (0.105, 0.108, 0.080)),
            (0.4, (0.155, 0.142, 0.110)),
            (0.12, (0.230, 0.205, 0.165)),
            (0.8, (0.040, 0.052, 0.050)),
        ),
        tree=(0.026, 0.041, 0.028),
        village_share=0.28,
        tree_share=0.05,
    ),
    "plain": _Palette(
        fields=(
            (3, (0.055, 0.090, 0.050)),
            (3, (0.085, 0.092, 0.062)),
            (3, (0.125, 0.112, 0.082)),
            (2, (0.160, 0.138, 0.105)),
            (0.8, (0.205, 0.175, 0.132)),
            (0.3, (0.245, 0.205, 0.155)),
        ),
        tree=(0.034, 0.048, 0.032),
        village_share=0.10,
        tree_share=0.03,
    ),
    "dry": _Palette(
        fields=(
            (1, (0.065, 0.088, 0.055)),
            (2, (0.150, 0.130, 0.098)),
            (4, (0.205, 0.170, 0.125)),
            (3, (0.235, 0.190, 0.140)),
            (1, (0.270, 0.225, 0.170)),
        ),
        tree=(0.055, 0.062, 0.045),
        village_share=0.07,
        tree_share=0.01,
    ),
    "forest": _Palette(
        fields=(
            (4, (0.060, 0.075, 0.048)),
            (3, (0.090, 0.085, 0.060)),
            (1, (0.150, 0.105, 0.075)),
            (0.6, (0.190, 0.125, 0.090)),
        ),
        tree=(0.028, 0.045, 0.030),
        village_share=0.03,
        tree_share=0.55,
    ),
}

_YARDS: tuple[Colour, ...] = (
    (0.175, 0.165, 0.145),
    (0.195, 0.180, 0.150),
    (0.150, 0.152, 0.140),
    (0.215, 0.195, 0.165),
    (0.135, 0.120, 0.105),
    (0.200, 0.160, 0.125),
    (0.170, 0.135, 0.110),
)
_BRICKS: tuple[Colour, ...] = (
    (0.300, 0.165, 0.115),
    (0.330, 0.195, 0.150),
    (0.270, 0.160, 0.120),
    (0.340, 0.250, 0.180),
    (0.350, 0.290, 0.230),
    (0.210, 0.130, 0.100),
    (0.240, 0.155, 0.120),
    (0.175, 0.118, 0.095),
)
_ROOFS: tuple[Colour, ...] = (
    (0.31, 0.32, 0.34),
    (0.42, 0.42, 0.42),
    (0.13, 0.19, 0.33),
    (0.20, 0.20, 0.20),
    (0.24, 0.15, 0.12),
    (0.12, 0.22, 0.18),
)
_SAND: Colour = (0.290, 0.270, 0.235)
_ROAD: Colour = (0.165, 0.150, 0.130)


def render_scene(
    seed: int,
    shape: tuple[int, int] = (512, 512),
    gsd_m: float = 10.0,
    n_kilns: int | None = None,
    *,
    landscape: Landscape = "delta",
    n_lookalikes: int | None = None,
    dtype: Literal["uint8", "uint16"] = "uint8",
    haze: float | None = None,
    crs: str = "EPSG:32645",
    origin: tuple[float, float] = (720_000.0, 2_640_000.0),
) -> RenderedScene:
    """Render a scene with brick kilns.

    Args:
        seed: the same seed and arguments give the same scene, pixel by pixel.
        shape: (rows, columns).
        gsd_m: metres per pixel; kilns keep their size in metres. Meant for 5 to 20.
        n_kilns: how many kilns are tried; a crowded or watery scene may hold fewer. By default
            about 15 per 100 km2 and at least one (real kiln country has about 4, at most 40).
        landscape: 'delta' is Bengal in the dry season; 'plain', 'dry' and 'forest' vary it.
        n_lookalikes: things that are no kilns but look it; by default four for each default kiln.
        dtype: 'uint8' is a display image (255 = reflectance 0.35), 'uint16' digital numbers.
        haze: 0 (clear) to 1; drawn when not given.
        crs, origin: a projected CRS in metres and the upper left corner in it.
    """
    if gsd_m <= 0 or min(shape) < 16:
        raise ValueError(f"gsd_m {gsd_m} must be positive and shape {shape} at least 16 x 16")
    streams = np.random.default_rng(seed).spawn(6)
    area_km2 = shape[0] * shape[1] * gsd_m**2 / 1e6
    default_kilns = max(1, round(0.15 * area_km2))
    image, blocked = _landscape(streams[0], shape, gsd_m, _PALETTES[landscape])
    kilns = _place(
        streams[1], blocked, gsd_m, default_kilns if n_kilns is None else n_kilns, margin_m=110, spacing_m=170
    )
    lookalikes = _place(
        streams[2],
        blocked,
        gsd_m,
        4 * default_kilns if n_lookalikes is None else n_lookalikes,
        margin_m=60,
        spacing_m=170,
        away_from=kilns,
    )
    rows = [_draw_kiln(streams[3], image, x, y, gsd_m) for x, y in kilns]
    for x, y in lookalikes:
        _draw_lookalike(streams[4], image, x, y, gsd_m)
    pixels = _sensor(streams[5], image, haze, dtype)
    transform = Affine(gsd_m, 0, origin[0], 0, -gsd_m, origin[1])
    raster = Raster(pixels, np.ones(shape, bool), GeoBox(shape, transform, crs))
    to_map = [1, 0, 0, -1, origin[0], origin[1]]
    sites = gpd.GeoDataFrame(
        {"class_name": ["brick_kiln"] * len(rows), "kind": [kind for kind, _ in rows]},
        geometry=[affinity.affine_transform(outline, to_map) for _, outline in rows],
        crs=crs,
    )
    return RenderedScene(raster, sites)


# --- the landscape -----------------------------------------------------------------------------


def _landscape(
    rng: np.random.Generator, shape: tuple[int, int], gsd_m: float, palette: _Palette
) -> tuple[Floats, NDArray[np.bool_]]:
    """Reflectance [3, y, x] without kilns, and where no kiln may stand [y, x]."""
    fine = (shape[0] * _COARSE, shape[1] * _COARSE)
    metre = gsd_m / _COARSE
    image = _fields(rng, fine, metre, palette)
    extent = (fine[1] * metre, fine[0] * metre)
    river, sand = _river(rng, extent)
    roads = _roads(rng, extent)
    water = _burn([river], fine, metre)
    sandbar = _burn([sand], fine, metre) & ~water
    road = _burn([line.buffer(rng.uniform(3, 9)) for line in roads], fine, metre)
    villages = _villages(rng, fine, metre, palette, road)
    woods = _share(_noise(rng, fine, 160 / metre) + 0.4 * _noise(rng, fine, 40 / metre), palette.tree_share)
    _paint_trees(rng, image, woods & ~villages, palette.tree, houses=0.0)
    _paint_trees(rng, image, villages, palette.tree, houses=rng.uniform(0.08, 0.22))
    ponds = _burn(_ponds(rng, villages, metre), fine, metre)
    grain = _noise(rng, fine, 60 / metre)
    _paint(image, ponds, _jitter(rng, (0.035, 0.048, 0.042), 0.25))
    _paint(image, road, _jitter(rng, _ROAD, 0.2))
    _paint(image, sandbar, _jitter(rng, _SAND, 0.15), 1 + 0.18 * grain)
    _paint(image, water, _jitter(rng, (0.045, 0.058, 0.056), 0.4), 1 + 0.08 * grain)
    blocked = water | sandbar | villages | woods
    return _average(image, _COARSE), _average(blocked[None].astype(np.float32), _COARSE)[0] > 0.25


def _fields(rng: np.random.Generator, shape: tuple[int, int], metre: float, palette: _Palette) -> Floats:
    """Parcels: strips cut into cells, turned a little differently in each part of the scene."""
    rows, cols = shape
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float32) * np.float32(metre)
    x += 25 * _noise(rng, shape, 400 / metre)
    y += 25 * _noise(rng, shape, 400 / metre)
    part = _parts(rng, shape, 900 / metre)
    n = int(part.max()) + 1
    angle = rng.uniform(0, pi) + rng.normal(0, 0.35, n)
    along = (x * np.cos(angle)[part] + y * np.sin(angle)[part]).astype(np.float32)
    across = (y * np.cos(angle)[part] - x * np.sin(angle)[part]).astype(np.float32)
    strip = across / rng.uniform(18, 55, n).astype(np.float32)[part]
    strip_id = np.floor(strip).astype(np.int64)
    shift = _hash_unit(strip_id * 7919 + part)
    cell = along / rng.uniform(35, 110, n).astype(np.float32)[part] + 5 * shift
    cell_id = np.floor(cell).astype(np.int64)
    parcel = strip_id * 1_000_003 + cell_id * 8191 + part * 131
    image = _parcel_colours(rng, parcel, palette)
    edge = np.minimum(strip - strip_id, cell - cell_id) < 0.08
    image[:, edge] *= 0.85
    season = 1 + 0.18 * _noise(rng, shape, 700 / metre) + 0.06 * _noise(rng, shape, 90 / metre)
    image *= season
    image *= 1 + 0.05 * rng.standard_normal(shape, np.float32)
    return image


def _parcel_colours(rng: np.random.Generator, parcel: NDArray[np.int64], palette: _Palette) -> Floats:
    """Reflectance [3, y, x]: one crop a parcel, its brightness and hue jittered."""
    salt = int(rng.integers(1 << 30))
    weights = np.array([w for w, _ in palette.fields]) * rng.uniform(0.3, 1.7, len(palette.fields))
    crop = np.searchsorted(np.cumsum(weights) / weights.sum(), _hash_unit(parcel + salt)).clip(0, len(weights) - 1)
    brightness = 0.86 + 0.28 * _hash_unit(parcel * 3 + salt + 1)
    hue = 0.94 + 0.12 * _hash_unit(parcel * 5 + salt + 2)
    colours = np.array([c for _, c in palette.fields], np.float32)
    image = np.stack([colours[:, band][crop] for band in range(3)]) * brightness
    image[0] *= hue
    return image.astype(np.float32)


def _parts(rng: np.random.Generator, shape: tuple[int, int], size: float) -> NDArray[np.int64]:
    """Cut the scene into parts of about `size` pixels with wandering borders: an index [y, x]."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    y += 0.35 * size * _noise(rng, shape, size / 2)
    x += 0.35 * size * _noise(rng, shape, size / 2)
    columns = ceil(shape[1] / size) + 2
    return (np.clip(y / size + 0.5, 0, None).astype(np.int64) * columns) + np.clip(x / size + 0.5, 0, None).astype(
        np.int64
    )


def _villages(
    rng: np.random.Generator, shape: tuple[int, int], metre: float, palette: _Palette, road: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Where houses stand under trees [y, x]: ragged clumps that like roads."""
    near_road = np.exp(-distance_transform_edt(~road) * metre / 120).astype(np.float32) if road.any() else 0
    field = (
        _noise(rng, shape, 350 / metre) + 0.6 * _noise(rng, shape, 110 / metre) + 0.35 * _noise(rng, shape, 35 / metre)
    )
    return _share(field + 0.8 * near_road, palette.village_share * rng.uniform(0.5, 1.3))


def _paint_trees(
    rng: np.random.Generator, image: Floats, where: NDArray[np.bool_], tree: Colour, houses: float
) -> None:
    """Dark crowns with gaps, and a share of roofs between them."""
    n = int(where.sum())
    if n == 0:
        return
    crown = np.clip(1 + 0.35 * rng.standard_normal(n, np.float32), 0.5, 2.2)
    gap = rng.random(n, np.float32) < 0.18
    colour = np.array(_jitter(rng, tree, 0.15), np.float32)[:, None] * crown
    colour[:, gap] = 0.5 * colour[:, gap] + 0.5 * image[:, where][:, gap]
    if houses:
        built = rng.random(n, np.float32) < houses
        roofs = np.array([_ROOFS[0], _ROOFS[3], _ROOFS[4], (0.15, 0.14, 0.12)], np.float32)
        kind = rng.choice(4, int(built.sum()), p=[0.3, 0.3, 0.1, 0.3])
        colour[:, built] = roofs[kind].T * rng.uniform(0.6, 1.3, int(built.sum())).astype(np.float32)
    image[:, where] = colour


def _river(rng: np.random.Generator, extent: tuple[float, float]) -> tuple[BaseGeometry, BaseGeometry]:
    """A meandering river across the scene and the sand beside it; both may be empty. Metres, y down."""
    if rng.random() < 0.3:
        return Polygon(), Polygon()
    width, height = extent
    reach = max(width, height)
    t = np.linspace(-0.1, 1.1, max(50, int(reach / 60)))
    wave = sum(
        (rng.uniform(80, 260) / k) * np.sin(2 * pi * (t * reach / (2200 / k) + rng.random())) for k in (1, 1.7, 3.1)
    )
    angle, offset = rng.uniform(0, pi), rng.uniform(-0.4, 0.4) * reach
    u, v = (t - 0.5) * reach * 1.5, wave + offset
    points = np.stack(
        [width / 2 + u * cos(angle) - v * sin(angle), height / 2 + u * sin(angle) + v * cos(angle)], axis=1
    )
    line = LineString(points)
    half = rng.uniform(15, 120)
    sand = line.buffer(half * rng.uniform(1.05, 1.6)) if rng.random() < 0.7 else Polygon()
    shift = (rng.uniform(-40, 40), rng.uniform(-40, 40))
    return line.buffer(half), affinity.translate(sand, *shift)


def _roads(rng: np.random.Generator, extent: tuple[float, float]) -> list[LineString]:
    """Wandering lines across the scene, in metres, y down."""
    width, height = extent
    roads = []
    for _ in range(max(2, round(width * height / 6e6))):
        angle = rng.uniform(0, 2 * pi)
        turns = np.cumsum(rng.normal(0, 0.12, max(6, int(rng.uniform(800, 6000) / 120))))
        steps = 120 * np.stack([np.cos(angle + turns), np.sin(angle + turns)], axis=1)
        start = rng.uniform((0, 0), extent)
        roads.append(LineString(start + np.cumsum(steps, axis=0)))
    return roads


def _ponds(rng: np.random.Generator, villages: NDArray[np.bool_], metre: float) -> list[Polygon]:
    """Tanks beside houses: dark rectangles of 20 to 90 m."""
    y, x = np.nonzero(villages[::8, ::8])
    count = min(len(y), int(villages.size * metre**2 / 1e6 * rng.uniform(2, 9)))
    ponds = []
    for i in rng.choice(len(y), count, replace=False) if count else []:
        east = x[i] * 8 * metre + rng.normal(0, 60)
        south = y[i] * 8 * metre + rng.normal(0, 60)
        ponds.append(_rectangle(east, south, rng.uniform(25, 90), rng.uniform(18, 55), rng.uniform(0, 180)))
    return ponds


# --- kilns and what looks like them --------------------------------------------------------------


def _place(
    rng: np.random.Generator,
    blocked: NDArray[np.bool_],
    gsd_m: float,
    count: int,
    *,
    margin_m: float,
    spacing_m: float,
    away_from: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float]]:
    """Up to `count` open places (x, y) in metres from the upper left corner, y down."""
    free = distance_transform_edt(~blocked) * gsd_m > 40
    inset = ceil(min(margin_m / gsd_m, (min(blocked.shape) - 2) / 2 - 1))
    free[:inset], free[-inset:], free[:, :inset], free[:, -inset:] = False, False, False, False
    y, x = np.nonzero(free)
    chosen: list[tuple[float, float]] = []
    if len(y) == 0 or count < 1:
        return chosen
    for i in rng.permutation(len(y))[: 40 * count]:
        spot = ((x[i] + rng.random()) * gsd_m, (y[i] + rng.random()) * gsd_m)
        others = np.array([*chosen, *away_from]).reshape(-1, 2)
        if not len(others) or np.hypot(*(others - spot).T).min() >= spacing_m:
            chosen.append(spot)
        if len(chosen) == count:
            break
    return chosen


def _draw_kiln(rng: np.random.Generator, image: Floats, x: float, y: float, gsd_m: float) -> tuple[str, Polygon]:
    """Draw a kiln with its yard; returns its kind and outline (metres from the upper left, y down)."""
    kind = "fcbk" if rng.random() < 0.4 else "zigzag"
    length, width = _kiln_size(rng, KILN_SIZES[kind])
    angle = rng.uniform(0, 180)
    outline = _outline(kind, x, y, length, width, angle)
    patch = _Patch.around(image, x, y, 200, gsd_m)
    _draw_yard(rng, patch, x, y, angle, length, width)
    brick = np.array(_jitter(rng, _BRICKS[rng.integers(len(_BRICKS))], 0.12))
    speckle = 1 + 0.16 * _noise(rng, patch.shape, 12 / patch.metre) + 0.08 * _noise(rng, patch.shape, 4 / patch.metre)
    patch.paint(outline, brick, speckle)
    if kind == "fcbk":
        _draw_trench(rng, patch, x, y, length, width, angle, brick)
    else:
        _draw_chambers(rng, patch, x, y, length, width, angle, brick)
    if rng.random() < 0.6:  # coal and ash
        spot = Point(x + rng.normal(0, width / 2), y + rng.normal(0, width / 2)).buffer(rng.uniform(5, 14))
        patch.paint(spot, np.array((0.035, 0.035, 0.037)), 1)
    patch.blend()
    return kind, outline


def _kiln_size(rng: np.random.Generator, size: KilnSize) -> tuple[float, float]:
    """Length and width in metres inside the published ranges, width following from the ratio."""
    while True:
        length = float(np.clip(rng.normal(np.mean(size.length_m), 15), *size.length_m))
        width = length / rng.uniform(*size.aspect)
        if size.width_m[0] <= width <= size.width_m[1]:
            return length, width


def _outline(kind: str, x: float, y: float, length: float, width: float, angle: float) -> Polygon:
    """A stadium for a Bull's trench kiln, a rectangle with rounded corners for a zigzag kiln."""
    round_m = width / 2 if kind == "fcbk" else min(4.0, width / 8)
    core: BaseGeometry = box(
        x - length / 2 + round_m, y - width / 2 + round_m, x + length / 2 - round_m, y + width / 2 - round_m
    )
    if kind == "fcbk":
        core = LineString([(x - length / 2 + round_m, y), (x + length / 2 - round_m, y)])
    return affinity.rotate(core.buffer(round_m, quad_segs=6), angle, origin=(x, y))


def _draw_trench(
    rng: np.random.Generator,
    patch: _Patch,
    x: float,
    y: float,
    length: float,
    width: float,
    angle: float,
    brick: NDArray[np.float64],
) -> None:
    """The ring in which bricks burn, round an island: the mark of a Bull's trench kiln."""
    ring = width * rng.uniform(0.18, 0.28)
    island = _outline("fcbk", x, y, length - 2 * ring, width - 2 * ring, angle)
    shade = rng.choice([0.55, 0.75, 1.15], p=[0.4, 0.35, 0.25])
    patch.paint(island, brick * shade * np.array((0.95, 1.05, 1.1)), 1)
    patch.paint(LineString(island.exterior.coords).buffer(2.0), brick * rng.uniform(0.35, 0.8), 1)
    patch.paint(Point(x, y).buffer(3.5), np.array((0.3, 0.3, 0.3)) * rng.uniform(0.2, 1.2), 1)


def _draw_chambers(
    rng: np.random.Generator,
    patch: _Patch,
    x: float,
    y: float,
    length: float,
    width: float,
    angle: float,
    brick: NDArray[np.float64],
) -> None:
    """Lines across, a part that has been emptied or covered with ash, and the chimney."""
    for k in np.linspace(-0.42, 0.42, int(rng.integers(4, 9))):
        line = _rectangle(x + k * length, y, 2.5, width * 0.8, 0)
        patch.paint(affinity.rotate(line, angle, origin=(x, y)), brick * rng.uniform(0.7, 0.95), 1)
    if rng.random() < 0.6:
        part = _rectangle(x + rng.uniform(-0.3, 0.3) * length, y, length * rng.uniform(0.2, 0.4), width * 0.75, 0)
        pale = np.array((0.38, 0.33, 0.27)) if rng.random() < 0.6 else np.array((0.16, 0.13, 0.12))
        patch.paint(affinity.rotate(part, angle, origin=(x, y)), 0.5 * brick + 0.5 * pale, 1)
    patch.paint(Point(x, y).buffer(3.0), np.array((0.3, 0.3, 0.3)) * rng.uniform(0.2, 1.3), 1)


def _draw_yard(
    rng: np.random.Generator, patch: _Patch, x: float, y: float, angle: float, length: float, width: float
) -> None:
    """One to four drying grounds along the kiln: bright, with the faint lines of rows of raw bricks."""
    colour = np.array(_jitter(rng, _YARDS[rng.integers(len(_YARDS))], 0.15))
    metre, (rows, cols) = patch.metre, patch.shape
    yy, xx = np.mgrid[0:rows, 0:cols] * metre
    for side in rng.permutation(4)[: rng.integers(1, 5)]:
        size = (rng.uniform(0.6, 1.5) * length, rng.uniform(45, 120))
        away = ((width if side % 2 else length) + size[1]) / 2 * rng.uniform(0.75, 1.0)
        turn = radians(angle + 90 * side)
        ground = _rectangle(
            x + away * cos(turn), y + away * sin(turn), *size, angle + 90 * side + 90 + rng.normal(0, 6)
        )
        lines = np.sin(2 * pi * (xx * cos(turn) + yy * sin(turn)) / rng.uniform(12, 28))
        texture = 1 + 0.06 * lines + 0.10 * _noise(rng, patch.shape, 25 / metre)
        patch.paint(ground, colour * rng.uniform(0.85, 1.15), texture.astype(np.float32))
    patch.paint(Point(x, y).buffer(0.75 * width), colour * 0.95, 1)


def _draw_lookalike(rng: np.random.Generator, image: Floats, x: float, y: float, gsd_m: float) -> None:
    """Draw something that is no kiln: yard, bare field, sheds, red roofs, sand, or scraped earth."""
    patch = _Patch.around(image, x, y, 220, gsd_m)
    angle = rng.uniform(0, 180)
    what = rng.choice(["yard", "field", "shed", "roofs", "sand", "scrape"])
    if what == "yard":
        _draw_yard(rng, patch, x, y, angle, rng.uniform(70, 120), rng.uniform(35, 60))
    elif what == "field":
        bare = np.array(_jitter(rng, (0.24, 0.205, 0.160), 0.2))
        grain = 1 + 0.08 * _noise(rng, patch.shape, 20 / patch.metre)
        patch.paint(_rectangle(x, y, rng.uniform(40, 200), rng.uniform(30, 120), angle), bare, grain)
    elif what in ("shed", "roofs"):
        _draw_buildings(rng, patch, x, y, angle, small=what == "roofs")
    elif what == "sand":
        heap = _blob(rng, x, y, rng.uniform(25, 100))
        patch.paint(heap, np.array(_jitter(rng, _SAND, 0.2)), 1 + 0.1 * _noise(rng, patch.shape, 15 / patch.metre))
    else:
        earth = np.array(_jitter(rng, (0.235, 0.150, 0.105), 0.25))
        grain = 1 + 0.2 * _noise(rng, patch.shape, 30 / patch.metre)
        patch.paint(_blob(rng, x, y, rng.uniform(20, 130)), earth, grain)
    patch.blend()


def _draw_buildings(rng: np.random.Generator, patch: _Patch, x: float, y: float, angle: float, *, small: bool) -> None:
    """Sheds of a factory, or a block of smaller roofs, on a paved yard."""
    patch.paint(_rectangle(x, y, rng.uniform(60, 160), rng.uniform(50, 110), angle), np.array(_YARDS[2]), 1)
    for _ in range(int(rng.integers(4, 14)) if small else int(rng.integers(1, 5))):
        roof = np.array(_jitter(rng, _ROOFS[rng.integers(len(_ROOFS))], 0.2))
        length = rng.uniform(8, 22) if small else rng.uniform(30, 110)
        width = rng.uniform(8, 16) if small else rng.uniform(18, 45)
        turn = angle + 90 * int(rng.integers(2))
        patch.paint(_rectangle(x + rng.normal(0, 32), y + rng.normal(0, 32), length, width, turn), roof, 1)


def _blob(rng: np.random.Generator, x: float, y: float, radius: float) -> Polygon:
    """A round thing with a ragged edge."""
    turn = np.linspace(0, 2 * pi, 40, endpoint=False)
    waves = sum(rng.normal(0, 0.18 / k) * np.cos(k * turn + rng.uniform(0, 2 * pi)) for k in (1, 2, 3, 4))
    reach = radius * (1 + waves)
    stretch = rng.uniform(0.5, 1)
    return Polygon(np.stack([x + reach * np.cos(turn), y + stretch * reach * np.sin(turn)], axis=1)).buffer(0)


class _Patch:
    """A finely sampled piece of the scene: things are painted here, then averaged onto the grid."""

    def __init__(self, image: Floats, top: int, left: int, rows: int, cols: int, gsd_m: float) -> None:
        self._image = image[:, top : top + rows, left : left + cols]
        self._origin = (left * gsd_m, top * gsd_m)
        self.metre = gsd_m / _FINE
        self.shape = (rows * _FINE, cols * _FINE)
        self._colour = np.zeros((3, *self.shape), np.float32)
        self._alpha = np.zeros(self.shape, np.float32)

    @classmethod
    def around(cls, image: Floats, x: float, y: float, radius_m: float, gsd_m: float) -> _Patch:
        """The patch within `radius_m` of a place, cut at the scene's edge."""
        reach = ceil(radius_m / gsd_m)
        row, col = int(y / gsd_m), int(x / gsd_m)
        top, left = max(row - reach, 0), max(col - reach, 0)
        bottom, right = min(row + reach + 1, image.shape[1]), min(col + reach + 1, image.shape[2])
        return cls(image, top, left, bottom - top, right - left, gsd_m)

    def paint(self, shape: BaseGeometry, colour: NDArray[np.float64], texture: Floats | float) -> None:
        """Cover a shape (metres from the scene's corner) with a reflectance times a texture."""
        moved = affinity.translate(shape, -self._origin[0], -self._origin[1])
        where = _burn([moved], self.shape, self.metre)
        shade = np.broadcast_to(np.float32(texture), self.shape)[where]
        self._colour[:, where] = colour.astype(np.float32)[:, None] * shade
        self._alpha[where] = 1

    def blend(self) -> None:
        """Average what was painted onto the scene's grid."""
        alpha = _average(self._alpha[None], _FINE)
        self._image *= 1 - alpha
        self._image += _average(self._colour, _FINE)


# --- the sensor ----------------------------------------------------------------------------------


def _sensor(
    rng: np.random.Generator, image: Floats, haze: float | None, dtype: Literal["uint8", "uint16"]
) -> NDArray[np.generic]:
    """Blur, haze, light, noise, and whole numbers."""
    blurred = gaussian_filter(image, (0, *(2 * [rng.uniform(0.45, 0.7)])))
    amount = rng.uniform(0, 0.5) if haze is None else haze
    veil = np.array((0.022, 0.032, 0.048), np.float32)[:, None, None] * np.float32(amount)
    light = rng.uniform(0.85, 1.15)
    reflectance = blurred * np.float32(light * (1 - 0.25 * amount)) + veil
    reflectance += 0.0015 * rng.standard_normal(reflectance.shape, np.float32)
    if dtype == "uint16":
        return np.clip(np.rint(reflectance / SENTINEL2_SCALE), 1, 65_535).astype(np.uint16)
    return np.clip(np.rint(reflectance / DISPLAY_REFLECTANCE * 255), 1, 255).astype(np.uint8)


# --- small tools ---------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, shape: tuple[int, int], size: float) -> Floats:
    """Smooth noise [y, x] with bumps of about `size` pixels, mean 0, standard deviation about 1."""
    size = max(size, 1.0)
    knots = rng.standard_normal((ceil(shape[0] / size) + 2, ceil(shape[1] / size) + 2), np.float32)
    rows = _interpolation(shape[0], knots.shape[0], size, rng.random())
    cols = _interpolation(shape[1], knots.shape[1], size, rng.random())
    return np.asarray(rows @ knots @ cols.T * np.float32(1.35), np.float32)


def _interpolation(length: int, knots: int, size: float, phase: float) -> Floats:
    """Weights [length, knots] that interpolate smoothly between knots `size` apart."""
    position = np.arange(length, dtype=np.float32) / np.float32(size) + np.float32(phase)
    left = np.floor(position).astype(int)
    part: Floats = (position - left).astype(np.float32)
    part = (part * part * (3 - 2 * part)).astype(np.float32)
    weights = np.zeros((length, knots), np.float32)
    weights[np.arange(length), left] = 1 - part
    weights[np.arange(length), left + 1] = part
    return weights


def _hash_unit(values: NDArray[np.int64]) -> Floats:
    """Numbers in [0, 1) that look random and follow from whole numbers."""
    x = values.astype(np.uint64)
    x = (x ^ (x >> np.uint64(31))) * np.uint64(0x7FB5D329728EA185)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x81DADEF4BC2DD44D)
    return ((x >> np.uint64(40)).astype(np.float32)) / np.float32(1 << 24)


def _share(field: Floats, share: float) -> NDArray[np.bool_]:
    """The highest `share` of a field [y, x]."""
    return np.asarray(field > np.quantile(field[::4, ::4], 1 - min(max(share, 0.0), 1.0)))


def _burn(shapes: Sequence[BaseGeometry], shape: tuple[int, int], metre: float) -> NDArray[np.bool_]:
    """Cells [y, x] of `metre` whose centre lies in one of the shapes (metres, y down)."""
    shapes = [s for s in shapes if not s.is_empty]
    if not shapes:
        return np.zeros(shape, bool)
    return rasterize(shapes, shape, transform=Affine(metre, 0, 0, 0, metre, 0), dtype="uint8").astype(bool)


def _paint(image: Floats, where: NDArray[np.bool_], colour: Colour, texture: Floats | float = 1.0) -> None:
    shade = np.broadcast_to(np.float32(texture), where.shape)[where]
    image[:, where] = np.array(colour, np.float32)[:, None] * shade


def _average(image: Floats, factor: int) -> Floats:
    """Mean of factor x factor cells: [band, y * factor, x * factor] to [band, y, x]."""
    bands, rows, cols = image.shape
    return image.reshape(bands, rows // factor, factor, cols // factor, factor).mean((2, 4), dtype=np.float32)


def _jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """The colour made a little brighter or darker, and a little different in each band."""
    light = 1 + rng.uniform(-amount, amount)
    tint = 1 + rng.uniform(-amount / 4, amount / 4, 3)
    red, green, blue = (float(c * light * t) for c, t in zip(colour, tint, strict=True))
    return red, green, blue


def _rectangle(x: float, y: float, length: float, width: float, angle: float) -> Polygon:
    """A rectangle about (x, y), turned by `angle` degrees."""
    return affinity.rotate(box(x - length / 2, y - width / 2, x + length / 2, y + width / 2), angle, origin=(x, y))
