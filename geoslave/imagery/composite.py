"""Many scenes read as one: a mosaic or a cloud-masked median on one grid.

A composite is a `Source`: what it reads depends on the window alone. It is read through `PatientScene`
rather than `odc.stac.load`, which knows neither offsets that differ by item nor files that need a second
try; where neither matters the medians of both are the same (tested).

* `single`: the scenes as they come, by id; where several overlap, the first that has a valid pixel.
* `latest`: the newest valid pixel. `least_cloudy`: the valid pixel of the scene with the least cloud.
* `median`: per band the median over days of the valid pixels; for an even number the mean of the
  middle two. Scenes of one day (local solar time) are one observation, so tiles that overlap do not
  count double.

Pixels under cloud, by Sentinel-2's scene classification where the item has one, are not valid (see
`assets.UNSEEN_CLASSES`). Scenes in the grid's own CRS go before others, which are warped: so a place
near a zone's border keeps the file's own pixels where there are any. Ties are decided by the id.

Files that lie on the grid are read as they are; else they are resampled, as `PatientScene` says.
Stored numbers of scenes with another scale or offset are brought to those of the reference, the
scene with the lowest offset: with Sentinel-2, stored 1000 before and stored 2000 since processing
baseline 04.00 mean the same.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from geoslave.errors import EmptyScene, SceneError
from geoslave.imagery.assets import UNSEEN_CLASSES, BandAsset, Calibration, band_assets, mask_asset
from geoslave.imagery.geotiff import SAMPLE_PIXELS, SMALL_CACHE, Reading, Scene
from geoslave.imagery.items import day_of, footprint_on, item_crs
from geoslave.imagery.patient import PatientScene
from geoslave.imagery.raster import Raster, window_geobox
from geoslave.imagery.scaling import Radiometry, Scaling, coefficients, radiometry, scene_statistics

if TYPE_CHECKING:
    import pystac

Method = Literal["single", "latest", "least_cloudy", "median"]

MOST_OPEN = 32
"""So many items are kept open at once; the one not read for longest is closed."""
SAMPLE_ITEMS = 16
"""The statistics of a source come from so many of its scenes, evenly spread in time."""
SAMPLE_SIDES = (128, 192)
"""Fewest and most pixels on the longer side of a scene that is sampled by its overviews."""
MEDIAN_SIDE = 512
"""A median is made in squares of so many pixels, which are kept for the next windows: each is made once,
with the memory of one square a day. Two blocks of a usual COG wide: where one block alone is missing, GDAL fetches
half as much again behind it."""
MEDIAN_SQUARES = 16
"""So many squares are kept."""
DEEP_CACHE = 512 << 20
"""Most cache for the blocks of many days; with more days blocks are fetched more than once."""
_NO_DATE = date(1, 1, 1)


def open_composite(
    items: Sequence[pystac.Item],
    geobox: GeoBox,
    reading: Reading | None = None,
    method: Method = "single",
    *,
    unseen: frozenset[int] = UNSEEN_CLASSES,
) -> Composite:
    """Open scenes as one source on a grid.

    Args:
        items: STAC items, in any order.
        geobox: the grid, e.g. one of `catalog.zone_grids`.
        reading: bands, band numbers, CRS and nodata, as for a single scene; its GSD is the grid's.
        unseen: classes of the scene classification layer that are not valid.

    Raises:
        SceneError: if there is no item, one lacks a band, or the first cannot be opened.
    """
    if method not in get_args(Method):
        raise SceneError(f"'{method}' is no way to make a composite: take one of {', '.join(get_args(Method))}")
    if not items:
        raise SceneError("no scene to read: search or list scenes first with  geoslave region scenes")
    reading = reading or Reading()
    members = [_Member(item, geobox, reading, unseen) for item in _ordered(items, geobox, method)]
    composite = Composite(members, geobox, method)
    try:
        composite.begin()
    except SceneError:
        composite.close()
        raise
    return composite


class Composite:
    """Scenes on one grid: a `Source`. Not safe to read from two threads at once."""

    def __init__(self, members: Sequence[_Member], geobox: GeoBox, method: Method) -> None:
        self._members = members
        self._footprints = np.array([member.footprint for member in members])
        self._squares: OrderedDict[tuple[int, int], tuple[NDArray[np.bool_], NDArray[np.float32]]] = OrderedDict()
        self._open: OrderedDict[int, _Member] = OrderedDict()
        self._lowest: tuple[Calibration, ...] | None = None
        self._drawn: tuple[NDArray[Any], Radiometry] | None = None
        self.geobox = geobox
        self.method = method
        self.bands: tuple[str, ...] = ()
        self.dtype = "float32"
        """Of the pixels read; a median has fractions."""
        self._stored = "float32"

    def begin(self) -> None:
        """Open the first scene, which says what the pixels are."""
        first = self._members[0]
        self._stored = first.dtype
        self.bands = first.bands
        self.dtype = "float32" if self.method == "median" else self._stored
        known = [member.declared for member in self._members]
        if any(one is not None for one in known):
            every = [self._calibrations(member) for member in self._members]
            self._lowest = tuple(
                min((one[band] for one in every), key=lambda c: (c.offset, c.scale)) for band in range(len(self.bands))
            )

    def __enter__(self) -> Composite:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for member in self._members:
            member.close()
        self._open.clear()
        self._squares.clear()

    @property
    def scene_id(self) -> str:
        """The item's id; of several: how they were put together, how many, and a digest of their ids."""
        if len(self._members) == 1:
            return self._members[0].item.id
        ids = "\n".join(sorted(member.item.id for member in self._members))
        return f"{self.method}_{len(self._members)}_{hashlib.sha256(ids.encode()).hexdigest()[:8]}"

    @property
    def date(self) -> date | None:
        """The day of the newest scene; None if no scene tells."""
        days = [member.day for member in self._members if member.day is not None]
        return max(days) if days else None

    def read(self, window: Window) -> Raster:
        """Pixels of a window of the grid; what no scene shows is 0 and invalid.

        Raises:
            SceneError: if a file is absent, or damaged also after several tries.
        """
        if self.method == "median":
            pixels, valid = self._median(window)
        else:
            pixels, valid = self._first_valid(self._reaching(window), window)
        return Raster(pixels, valid, window_geobox(self.geobox, window))

    def cache_bytes(self, rows: int) -> int:
        """Cache that reading windows of `rows` rows from left to right wants, so that no block is fetched twice."""
        if self.method != "median":
            return SMALL_CACHE
        middles = [(m.footprint[0] + m.footprint[2], m.footprint[1] + m.footprint[3]) for m in self._members[:50]]
        days = max(len(self._days(Window(x // 2, y // 2, 1, 1))) for y, x in middles)
        row_of_blocks = (2 * MEDIAN_SIDE + max(rows, MEDIAN_SIDE)) * 4096
        wanted = days * len(self.bands) * np.dtype(self._stored).itemsize * row_of_blocks
        return min(max(wanted, SMALL_CACHE), DEEP_CACHE)

    def scaling(self, scaling: Scaling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(factor, summand) per band that bring pixels to a model's range; one pair for the whole source.

        The statistics come from whole scenes, so they do not depend on the area of interest.

        Raises:
            EmptyScene: if no scene has a valid pixel.
        """
        pixels, unit = self._sample()
        statistics = scene_statistics(pixels[:, None], np.ones((1, pixels.shape[1]), bool), unit, scaling)
        return coefficients(unit, statistics, scaling)

    def _sample(self) -> tuple[NDArray[Any], Radiometry]:
        """Valid pixels [band, n] from scenes evenly spread over the source, and what they mean. Kept."""
        if self._drawn is None:
            ordered = sorted(self._members, key=lambda member: (member.day or _NO_DATE, member.item.id))
            count = min(len(ordered), SAMPLE_ITEMS)
            chosen = [ordered[int(n)] for n in np.linspace(0, len(ordered) - 1, count)]
            parts = []
            for member in chosen:
                self._touch(member)
                pixels = self._common(member, member.sample(SAMPLE_PIXELS // count))
                parts.append(pixels[:, :: max(1, -(-pixels.shape[1] * count // SAMPLE_PIXELS))])
            together = np.concatenate(parts, axis=1)
            if together.shape[1] == 0:
                raise EmptyScene(
                    f"no valid pixel in {count} of {len(ordered)} scenes (nodata or cloud everywhere): "
                    "search other dates or allow less cloud"
                )
            self._drawn = together, self._radiometry(together)
        return self._drawn

    def _radiometry(self, pixels: NDArray[Any]) -> Radiometry:
        lowest = self._lowest or (Calibration(1, 0),) * len(self.bands)
        scales, offsets = tuple(c.scale for c in lowest), tuple(c.offset for c in lowest)
        return radiometry(self._stored, scales, offsets, float(np.percentile(pixels, 98)))

    def _first_valid(self, members: Sequence[_Member], window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The first valid pixel in the order of the members; of later ones only the gaps are read."""
        pixels = np.zeros((len(self.bands), window.height, window.width), self.dtype)
        valid = np.zeros((window.height, window.width), bool)
        for member in members:
            gap = _gap(valid, member.on(window))
            if gap is None:
                continue
            self._touch(member)
            read = member.read(Window(window.col_off + gap[1].start, window.row_off + gap[0].start, *_size(gap)))
            new = read.valid & ~valid[gap]
            brought = self._common(member, read.pixels)
            for band, layer in zip(pixels, brought, strict=True):
                band[gap][new] = layer[new]
            valid[gap] |= new
            if valid.all():
                break
        return pixels, valid

    def _median(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The median over days, put together from squares of the grid."""
        pixels = np.zeros((len(self.bands), window.height, window.width), np.float32)
        valid = np.zeros((window.height, window.width), bool)
        for row in range(window.row_off // MEDIAN_SIDE, -(-(window.row_off + window.height) // MEDIAN_SIDE)):
            for col in range(window.col_off // MEDIAN_SIDE, -(-(window.col_off + window.width) // MEDIAN_SIDE)):
                known, median = self._square(row, col)
                down, from_row = _overlap(row * MEDIAN_SIDE, window.row_off, window.height)
                across, from_col = _overlap(col * MEDIAN_SIDE, window.col_off, window.width)
                valid[down, across] = known[from_row, from_col]
                pixels[:, down, across] = median[:, from_row, from_col]
        return pixels, valid

    def _square(self, row: int, col: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(valid, median) of a square of the grid; those used last are kept."""
        if (row, col) not in self._squares:
            piece = Window(col * MEDIAN_SIDE, row * MEDIAN_SIDE, MEDIAN_SIDE, MEDIAN_SIDE)
            days = self._days(piece)
            stack = np.full((len(days), len(self.bands), MEDIAN_SIDE, MEDIAN_SIDE), np.nan, np.float32)
            for observation, members in zip(stack, days, strict=True):
                seen, known = self._first_valid(members, piece)
                observation[:, known] = seen[:, known]
            self._squares[row, col] = median_of_valid(stack)
            if len(self._squares) > MEDIAN_SQUARES:
                self._squares.popitem(last=False)
        self._squares.move_to_end((row, col))
        return self._squares[row, col]

    def _days(self, window: Window) -> list[list[_Member]]:
        """The members that reach a window, by day; those without a date are a day each."""
        groups: dict[Any, list[_Member]] = {}
        for member in self._reaching(window):
            groups.setdefault(member.day or member.item.id, []).append(member)
        return [groups[key] for key in sorted(groups, key=str)]

    def _reaching(self, window: Window) -> list[_Member]:
        """The members that may have pixels in a window, in their order."""
        top, left, bottom, right = self._footprints.T
        down = (top < window.row_off + window.height) & (bottom > window.row_off)
        across = (left < window.col_off + window.width) & (right > window.col_off)
        return [self._members[int(n)] for n in np.flatnonzero(down & across)]

    def _touch(self, member: _Member) -> None:
        """Keep the files read last open, and no more than `MOST_OPEN`."""
        self._open[id(member)] = member
        self._open.move_to_end(id(member))
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()

    def _calibrations(self, member: _Member) -> tuple[Calibration, ...]:
        return member.declared or (Calibration(1, 0),) * len(self.bands)

    def _common(self, member: _Member, pixels: NDArray[Any]) -> NDArray[Any]:
        """Stored numbers of a member as the reference would store them."""
        same = self._lowest is None or self._calibrations(member) == self._lowest
        if same and (member.dtype == self._stored or (self.method == "median" and self._lowest is None)):
            return pixels
        if self._lowest is None:
            raise SceneError(
                f"{member.item.id} has pixels of type {member.dtype}, other scenes {self._stored}, and neither says "
                "what its numbers mean: leave one kind out, or write scale and offset into the items"
            )
        brought = np.empty(pixels.shape, np.float64)
        for band, (own, common) in enumerate(zip(self._calibrations(member), self._lowest, strict=True)):
            brought[band] = (pixels[band] * own.scale + (own.offset - common.offset)) / common.scale
        kind = np.dtype(self._stored)
        if kind.kind == "f":
            return brought.astype(kind)
        limits = np.iinfo(kind)
        return np.clip(np.rint(brought), limits.min, limits.max).astype(kind)


@dataclass(frozen=True, slots=True)
class _File:
    """An open file of an item and what is read from it."""

    asset: BandAsset
    scene: PatientScene


class _Member:
    """An item on the grid: its bands, and the classification that says what is seen. Opened when read."""

    def __init__(self, item: pystac.Item, geobox: GeoBox, reading: Reading, unseen: frozenset[int]) -> None:
        self.item = item
        self.day = day_of(item)
        assets = band_assets(item, reading.bands, reading.numbers)
        self._unseen = np.array(sorted(unseen))
        self.footprint = footprint_on(item, geobox)
        """(top, left, bottom, right) on the grid."""
        self._files = [_File(asset, PatientScene(asset.href, _reading(asset, reading), geobox)) for asset in assets]
        classes = mask_asset(item)
        self._classes: PatientScene | None = None
        if classes is not None and unseen:
            href = classes.get_absolute_href() or classes.href
            plain = Reading(trust_all=True, crs=reading.crs)
            self._classes = PatientScene(href, plain, geobox, Resampling.nearest)
        declared = [one for asset in assets for one in asset.calibration or ()]
        self.declared = tuple(one or Calibration(1, 0) for one in declared) if any(declared) else None
        """Per band, as the item has it; None where it says nothing."""

    @property
    def dtype(self) -> str:
        """Type of the stored pixels."""
        return self._files[0].scene.ask(lambda scene: scene.dtype)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names in reading order."""
        return tuple(name for file in self._files for name in file.scene.ask(lambda scene: scene.bands))

    def on(self, window: Window) -> tuple[slice, slice] | None:
        """The part (rows, columns) of a window in which the item may have pixels; None if there is none."""
        top, left, bottom, right = self.footprint
        rows = slice(max(top - window.row_off, 0), min(bottom - window.row_off, window.height))
        cols = slice(max(left - window.col_off, 0), min(right - window.col_off, window.width))
        return (rows, cols) if rows.start < rows.stop and cols.start < cols.stop else None

    def read(self, window: Window) -> Raster:
        """Stored pixels of a window; invalid too where the classification sees no ground."""
        seen = None
        if self._classes is not None:
            classes = self._classes.read(window)
            seen = classes.valid & ~np.isin(classes.pixels[0], self._unseen)
            if not seen.any():
                # the bands under a closed cloud cover are not fetched
                pixels = np.zeros((sum(map(self._count, self._files)), *seen.shape), self.dtype)
                return Raster(pixels, seen, classes.geobox)
        parts = [file.scene.read(window) for file in self._files]
        valid = np.logical_and.reduce([part.valid for part in parts] + ([] if seen is None else [seen]))
        return Raster(np.concatenate([part.pixels for part in parts]), valid, parts[0].geobox)

    def sample(self, most: int) -> NDArray[Any]:
        """Valid stored pixels [band, n] spread over the scene, whatever the grid; about `most` of them."""
        scenes = [*self._scenes(), *([] if self._classes is None else [self._classes])]
        by_overview = all(scene.ask(lambda one: one.has_overviews) for scene in self._scenes())
        if self._classes is None and (most == SAMPLE_PIXELS or not by_overview):
            parts = [scene.ask(Scene.sample) for scene in scenes]
            count = min(valid.size for _, valid in parts)
            valid = np.logical_and.reduce([valid[:count] for _, valid in parts])
            return np.concatenate([pixels[:, :count] for pixels, _ in parts])[:, valid]
        side = min(max(int(most**0.5), SAMPLE_SIDES[0]), SAMPLE_SIDES[1])
        rasters = [scene.ask(lambda one: one.overview(side)) for scene in scenes]
        rasters = [_on_shape(raster, rasters[0].valid.shape) for raster in rasters]
        valid = np.logical_and.reduce([raster.valid for raster in rasters])
        if self._classes is not None:
            valid = valid & ~np.isin(rasters.pop().pixels[0], self._unseen)
        return np.concatenate([raster.pixels for raster in rasters])[:, valid]

    def close(self) -> None:
        """Close the files."""
        for scene in (*self._scenes(), self._classes):
            if scene is not None:
                scene.close()

    def _scenes(self) -> Iterator[PatientScene]:
        return (file.scene for file in self._files)

    @staticmethod
    def _count(file: _File) -> int:
        return file.scene.ask(lambda scene: len(scene.bands))


def median_of_valid(stack: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """(valid [y, x], median [band, y, x]) of observations [day, band, y, x], NaN where there is none.

    The median of an even number is the mean of the middle two. The order of days does not matter.
    """
    if len(stack) == 0:
        return np.zeros(stack.shape[2:], bool), np.zeros(stack.shape[1:], np.float32)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(stack).all(axis=1))
    count = known.sum(axis=0)
    ordered = np.sort(np.where(known[:, None], stack, np.nan), axis=0)  # NaN goes last
    low, high = np.maximum(count - 1, 0) // 2, count // 2
    high = np.minimum(high, np.maximum(count - 1, 0))
    middle = [np.take_along_axis(ordered, n[None, None], axis=0)[0] for n in (low, high)]
    median = (middle[0] + middle[1]) / 2
    valid = count > 0
    return valid, np.where(valid, median, 0).astype(np.float32)


def _ordered(items: Sequence[pystac.Item], geobox: GeoBox, method: Method) -> list[pystac.Item]:
    """Items in the order in which their pixels are taken."""

    def days_ago(item: pystac.Item) -> int:
        return -(day_of(item) or _NO_DATE).toordinal()

    def cloud(item: pystac.Item) -> float:
        value = item.properties.get("eo:cloud_cover")
        return float("inf") if value is None else float(value)

    keys: dict[str, Callable[[pystac.Item], tuple[Any, ...]]] = {
        "single": lambda item: (),
        "latest": lambda item: (days_ago(item),),
        "least_cloudy": lambda item: (cloud(item), days_ago(item)),
        "median": lambda item: (),
    }
    return sorted(items, key=lambda item: (item_crs(item) != geobox.crs, *keys[method](item), item.id))


def _reading(asset: BandAsset, reading: Reading) -> Reading:
    """How a file of an item is read on its own grid."""
    nodata = asset.nodata if reading.nodata is None else reading.nodata
    # what the item declares needs no search for undeclared fill, which costs requests
    trust = reading.trust_all or (asset.declares_pixels and nodata is None)
    return replace(
        reading, bands=asset.bands, numbers=asset.numbers, gsd_m=None, nodata=None if trust else nodata, trust_all=trust
    )


def _gap(valid: NDArray[np.bool_], part: tuple[slice, slice] | None) -> tuple[slice, slice] | None:
    """The smallest box inside a part that holds all its pixels without a value; None if all have one."""
    if part is None:
        return None
    missing = ~valid[part]
    rows, cols = np.flatnonzero(missing.any(axis=1)), np.flatnonzero(missing.any(axis=0))
    if rows.size == 0:
        return None
    top, left = part[0].start, part[1].start
    return (
        slice(top + int(rows[0]), top + int(rows[-1]) + 1),
        slice(left + int(cols[0]), left + int(cols[-1]) + 1),
    )


def _overlap(start: int, window_start: int, length: int) -> tuple[slice, slice]:
    """Where a square that begins at `start` lies in a window, and the part of the square that does."""
    first, last = max(start, window_start), min(start + MEDIAN_SIDE, window_start + length)
    return slice(first - window_start, last - window_start), slice(first - start, last - start)


def _size(part: tuple[slice, slice]) -> tuple[int, int]:
    """(width, height)"""
    return part[1].stop - part[1].start, part[0].stop - part[0].start


def _on_shape(raster: Raster, shape: tuple[int, int]) -> Raster:
    """A raster of the same ground on another number of pixels, by the nearest."""
    if raster.valid.shape == shape:
        return raster
    rows, cols = (np.arange(n) * have // n for n, have in zip(shape, raster.valid.shape, strict=True))
    grid = np.ix_(rows, cols)
    box = GeoBox(shape, raster.geobox.affine, raster.geobox.crs)
    return Raster(raster.pixels[:, *grid], raster.valid[grid], box)
