"""Sites and estimates counted in H3 cells, ready to be protected.

Every place is indexed once at resolution 5 (252.9 km2 on average), and coarser cells are those indices'
parents: H3 cells hold their children only nearly, and indexing a place again at a coarser resolution would
let two releases differ by the slivers between, which place a site far better than a cell does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geoslave.detections.measure import to_wgs84
from geoslave.errors import EstimateError, MissingExtra
from geoslave.estimate.count import count_by, count_sites
from geoslave.estimate.result import Estimate
from geoslave.release.suppress import K, Tree, protect

FINEST = 5
"""The finest resolution that is ever published."""
COARSEST = 1
ENOUGH = 0.8
"""Share of the sites that published cells should hold: the finest resolution that reaches it is chosen."""
TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Row:
    """One published count."""

    level: str
    """"cell", "parent" or "total"."""
    cell: str
    """H3 index; "total" for all."""
    resolution: int | None
    area_km2: int | None
    n_detections: int
    estimate: int | None
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    """What may be published."""

    resolution: int
    k: int
    rows: tuple[Row, ...]
    level: float | None
    """Nominal coverage of the intervals, None without."""
    method: str
    n_reviewed: int
    n_reviewers: int | None
    """People who reviewed, None if the reviews do not say."""
    warnings: tuple[str, ...]

    @property
    def cells(self) -> tuple[Row, ...]:
        """The finest rows."""
        return tuple(row for row in self.rows if row.level == "cell")

    @property
    def total(self) -> Row:
        """All sites."""
        return next(row for row in self.rows if row.level == TOTAL)

    @property
    def share_in_cells(self) -> float:
        """Share of the detections that lie in a published cell."""
        return sum(row.n_detections for row in self.cells) / self.total.n_detections


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A frame whose tiles have lon and lat (degrees), and the reviews of a sample of it."""

    frame: pd.DataFrame
    reviews: pd.DataFrame
    level: float = 0.95


def h3_module() -> Any:
    """The library h3.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import h3  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtra("counting in H3 cells", "release") from None
    return h3


def cells_of(lon: Iterable[float], lat: Iterable[float]) -> list[str]:
    """The H3 cell of resolution 5 of each place, degrees WGS 84."""
    h3 = h3_module()
    return [h3.latlng_to_cell(float(y), float(x), FINEST) for x, y in zip(lon, lat, strict=True)]


def cells_of_detections(detections: gpd.GeoDataFrame) -> list[str]:
    """The cell of a point inside each detection."""
    points = shapely.point_on_surface(to_wgs84(detections.geometry.to_numpy(), detections.crs))
    return cells_of(shapely.get_x(points), shapely.get_y(points))


def count_cells(
    cells: Sequence[str], resolution: int | None = None, k: int = K, reviewed: Reviewed | None = None
) -> Counts:
    """Counts that give no place away.

    Args:
        cells: one cell of resolution 5 a site.
        resolution: 1 to 5; default: the finest whose published cells hold 80 % of the sites.
        reviewed: gives estimates with intervals; cells then need k estimated sites too.

    Raises:
        GeoslaveError: if there are fewer than k sites.
        EstimateError: if the frame has no places, or an estimate cannot be made.
        MissingExtra: without h3.
    """
    if resolution is not None:
        return _count(cells, resolution, k, reviewed)
    counts = None
    for finer in range(FINEST, COARSEST - 1, -1):
        counts = _count(cells, finer, k, reviewed)
        if counts.share_in_cells >= ENOUGH:
            break
    assert counts is not None
    return counts


def _count(cells: Sequence[str], resolution: int, k: int, reviewed: Reviewed | None) -> Counts:
    tree_of_found = _nested(cells, resolution)
    found = Counter(name for path in tree_of_found for name in path)
    estimates: dict[str, Estimate] = {}
    parent = dict(_parents(tree_of_found))
    if reviewed is not None:
        paths = _nested(_frame_cells(reviewed.frame), resolution)
        estimates = _estimates(reviewed, paths)
        parent |= _parents(paths)
    parent[TOTAL] = ""
    values = {name: _values(name, found, estimates) for name in parent}
    published = protect(Tree(parent, values), k)
    rows = tuple(_row(name, resolution, found[name], estimates.get(name)) for name in sorted(published))
    total = estimates.get(TOTAL)
    return Counts(
        resolution,
        k,
        tuple(sorted(rows, key=lambda row: (("total", "parent", "cell").index(row.level), row.cell))),
        None if total is None else total.level,
        "detections, not corrected for misses and false alarms" if total is None else total.assumptions,
        0 if total is None else total.n_reviewed,
        None if reviewed is None or "reviewer" not in reviewed.reviews else reviewed.reviews["reviewer"].nunique(),
        () if total is None else total.warnings,
    )


def _nested(cells: Sequence[str], resolution: int) -> list[tuple[str, str, str]]:
    """Cell, parent and total of each place."""
    h3 = h3_module()
    known = {
        cell: (h3.cell_to_parent(cell, resolution), h3.cell_to_parent(cell, resolution - 1), TOTAL)
        for cell in set(cells)
    }
    return [known[cell] for cell in cells]


def _parents(paths: Sequence[tuple[str, str, str]]) -> Mapping[str, str]:
    around: dict[str, str] = {}
    for cell, parent, total in set(paths):
        around |= {cell: parent, parent: total}
    return around


def _frame_cells(frame: pd.DataFrame) -> list[str]:
    if not {"lon", "lat"} <= set(frame):
        raise EstimateError("the frame has no columns lon and lat to find its tiles' cells: add them")
    place = frame[["lon", "lat"]].to_numpy(float)
    if not (np.isfinite(place).all() and (np.abs(place) <= (180, 90)).all()):
        raise EstimateError("the frame's lon and lat must be degrees in every row: check them")
    return cells_of(place[:, 0], place[:, 1])


def _estimates(reviewed: Reviewed, paths: Sequence[tuple[str, str, str]]) -> dict[str, Estimate]:
    """Estimates of every cell and parent of the frame, and of the total."""
    places = pd.DataFrame(paths, columns=["h3_cell", "h3_parent", "h3_total"], index=reviewed.frame.index)
    frame = reviewed.frame.assign(**places[["h3_cell", "h3_parent"]])
    estimates = {TOTAL: count_sites(frame, reviewed.reviews, level=reviewed.level)}
    for column in ("h3_cell", "h3_parent"):
        estimates |= count_by(frame, reviewed.reviews, column, level=reviewed.level)
    return estimates


def _values(name: str, found: Counter[str], estimates: Mapping[str, Estimate]) -> tuple[int, ...]:
    if not estimates:
        return (found[name],)
    return found[name], round(estimates[name].value) if name in estimates else 0


def _row(name: str, resolution: int, n: int, estimate: Estimate | None) -> Row:
    """Whole numbers only: decimals of a weighted estimate tell how many sites were seen in the sample."""
    figures = (None, None, None)
    if estimate is not None:
        figures = (round(estimate.value), int(np.floor(estimate.low)), int(np.ceil(estimate.high)))  # type: ignore[assignment]
    if name == TOTAL:
        return Row(TOTAL, TOTAL, None, None, n, *figures)
    h3 = h3_module()
    own = h3.get_resolution(name)
    area = round(h3.cell_area(name, unit="km^2"))
    return Row("cell" if own == resolution else "parent", name, own, area, n, *figures)
