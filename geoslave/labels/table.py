"""The labels table: what people know about places, whatever file it came in.

A GeoDataFrame with a CRS and the columns

* `geometry`     Polygon or MultiPolygon, valid
* `class_name`   what the site is, e.g. `brick_kiln`
* `certainty`    0..1, how sure the labeller was; 1 where the file does not say
* `source`       the file's name where the file does not say
* `date`         ISO date the label holds for, None where the file does not say
* `kind`         how much the geometry tells, see below
* `presence`     `yes`, `no` or `unsure`: is there such a site

followed by whatever else the file has (region, image, class_id, ...). The kinds:

* `outline`  drawn around the site: place and shape are right.
* `point`    somebody set a point, and a rectangle of the target's typical size stands for the site:
             the place is right, the shape is not.
* `chip`     the footprint of a whole image about which one answer was given: *weak*. `yes` says that at
             least one site lies somewhere in it, `no` that none does.

So `sites_of` gives what a mask may be burnt from and a detection may be matched with, `weak_of` what a
loss over a pooled score can learn from. `unsure` rows are for nothing but being left out of both
gain and loss; outlines with presence `no` are places where somebody looked and refused a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from geoslave.errors import LabelError
from geoslave.targets import Target

COLUMNS = ("class_name", "certainty", "source", "date", "kind", "presence")
"""What every labels table has, before `geometry` and the file's own columns."""
KINDS = ("outline", "point", "chip")
PRESENCES = ("yes", "no", "unsure")
DUPLICATE_M = 35.0
"""Two labels whose centres are this close are one site (kilns of overlapping patches lie 3 to 30 m apart)."""

_SYNONYMS = {
    "class_name": ("class_name", "class", "label", "category", "type"),
    "certainty": ("certainty",),
    "source": ("source",),
    "date": ("date", "observed", "image_date"),
    "kind": ("kind",),
    "presence": ("presence",),
}
_CHOICES = {"kind": KINDS, "presence": PRESENCES}
_POLYGONS = ("Polygon", "MultiPolygon")
_GEOD = Geod(ellps="WGS84")

Shapes = NDArray[np.object_]


@dataclass(slots=True)
class Tally:
    """What happened to one source while it was read; grows line by line."""

    name: str
    format: str = ""
    n_read: int = 0
    repaired: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def repair(self, what: str, n: int) -> None:
        """`n` things were mended; `what` names them in the plural."""
        if n:
            self.repaired[what] = self.repaired.get(what, 0) + int(n)

    def leave_out(self, what: str, n: int) -> None:
        """`n` things are not in the table; `what` names them, and why, in the plural."""
        if n:
            self.left_out[what] = self.left_out.get(what, 0) + int(n)

    def note(self, text: str) -> None:
        """Something else a person should know; said once."""
        if text not in self.notes:
            self.notes.append(text)

    def sentences(self) -> list[str]:
        """What was done, for people."""
        return [
            *(f"repaired: {n} {what}" for what, n in self.repaired.items()),
            *(f"left out: {n} {what}" for what, n in self.left_out.items()),
            *self.notes,
        ]

    def losses(self) -> str:
        """What was left out, in one line; empty where nothing was."""
        return "; ".join(f"left out: {n} {what}" for what, n in self.left_out.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "source": self.name,
            "format": self.format,
            "n_read": self.n_read,
            "repaired": dict(self.repaired),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


def sites_of(labels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The rows that are sites: outlines and points where there is one."""
    return labels[labels["kind"].isin(("outline", "point")) & (labels["presence"] == "yes")]


def weak_of(labels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The rows that answer for a whole chip."""
    return labels[labels["kind"] == "chip"]


def usable(table: gpd.GeoDataFrame, tally: Tally) -> gpd.GeoDataFrame:
    """Rows with an area or a point, in two dimensions, repaired where an outline crosses itself.

    Raises:
        LabelError: if no row is left.
    """
    geometry: Shapes = np.array(shapely.force_2d(table.geometry.to_numpy()), dtype=object)
    present = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
    tally.leave_out("rows without an outline", (~present).sum())
    odd = present & ~_finite(geometry)
    tally.leave_out("rows with coordinates that are no numbers", odd.sum())
    present &= ~odd
    geometry, lines = _areas_and_points(geometry, present)
    tally.leave_out(f"rows that are neither areas nor points ({_kinds(lines)})", len(lines))
    present &= ~shapely.is_missing(geometry)
    broken = present & ~shapely.is_valid(geometry)
    geometry[broken] = [_repaired(outline) for outline in geometry[broken]]
    flat = broken & shapely.is_empty(geometry)
    tally.repair("outlines that crossed themselves", (broken & ~flat).sum())
    tally.leave_out("outlines without an area", flat.sum())
    present &= ~flat
    if not present.any():
        why = f" that can be used ({tally.losses()})" if len(table) else ""
        raise LabelError(f"{tally.name}: holds no outline{why}; give a file with at least one labelled site")
    return table.set_geometry(gpd.GeoSeries(geometry, index=table.index, crs=table.crs))[present]


def upright(table: gpd.GeoDataFrame, tally: Tally, imagery: shapely.Geometry | None = None) -> gpd.GeoDataFrame:
    """The table with longitude and latitude in their places.

    They are swapped back where a latitude is beyond 90 degrees and the swapped place exists, and
    where the layer misses `imagery` (longitude/latitude) but the swapped one touches it.

    Raises:
        LabelError: if nothing in a layer of degrees is a place on earth.
    """
    geometry: Shapes = np.array(table.geometry.array, dtype=object)
    if CRS.from_user_input(table.crs).is_geographic:
        beyond, mendable = _beyond(geometry), ~_beyond(swapped(geometry))
        lost = beyond & ~mendable
        if lost.all():
            x, y = shapely.get_coordinates(geometry)[0]
            raise LabelError(
                f"{tally.name}: its CRS counts in degrees, but the first place is {x:g}, {y:g}; "
                "name the CRS it is really in (--crs EPSG:N)"
            )
        tally.leave_out("places beyond 180 degrees of longitude or 90 of latitude", lost.sum())
        table, geometry, beyond = table[~lost], geometry[~lost], beyond[~lost]
        turn = _to_turn(geometry, beyond)
        geometry[turn] = swapped(geometry[turn])
        tally.repair("places with longitude and latitude swapped (a latitude was beyond 90)", turn.sum())
    if imagery is not None and not _touches(geometry, table.crs, imagery):
        other = swapped(geometry)
        if _touches(other, table.crs, imagery):
            geometry = other
            tally.repair("places with x and y swapped (only so they meet the imagery)", len(geometry))
    return table.set_geometry(gpd.GeoSeries(geometry, index=table.index, crs=table.crs))


def swapped(geometry: Shapes) -> Shapes:
    """Every x as y and every y as x."""
    return np.asarray(shapely.transform(geometry.copy(), lambda xy: xy[:, ::-1]))


def footprints(table: gpd.GeoDataFrame, tally: Tally, target: Target | None) -> gpd.GeoDataFrame:
    """Points as rectangles of the target's typical size, longer side east-west; `kind` says which were points.

    Raises:
        LabelError: if there are points and no target.
    """
    table = _own_words(table)
    points = (table.geometry.geom_type == "Point").to_numpy()
    if "kind" not in {str(name).lower() for name in table.columns} and points.any():
        table = table.assign(kind=np.where(points, "point", "outline"))
    if not points.any():
        return table
    if target is None:
        raise LabelError(
            f"{tally.name}: has points; say what they are (a target such as brick_kiln) to give them a size"
        )
    lonlat = table.geometry[points].to_crs(4326)
    boxes = gpd.GeoSeries(_boxes(lonlat.x.to_numpy(), lonlat.y.to_numpy(), target), index=lonlat.index, crs=4326)
    geometry: Shapes = np.array(table.geometry.array, dtype=object)
    geometry[points] = np.asarray(boxes.to_crs(table.crs).array, dtype=object)
    return table.set_geometry(gpd.GeoSeries(geometry, index=table.index, crs=table.crs))


def named(table: gpd.GeoDataFrame, source: str, target: Target | None) -> gpd.GeoDataFrame:
    """The standard columns first, filled where the file has none, then the file's own.

    A `kind` or `presence` that does not speak our words is the file's own: it is kept as `kind_in_file`.
    A class that is a number is no name: it is kept as `class_id`.
    """
    table = _numbered_classes(_own_words(table))
    own = {str(name).lower(): name for name in table.columns}
    found = {to: next((own[n] for n in names if n in own), None) for to, names in _SYNONYMS.items()}
    default: Mapping[str, Any] = {
        "class_name": target.name if target else "site",
        "certainty": 1.0,
        "source": source,
        "date": None,
        "kind": "outline",
        "presence": "yes",
    }
    columns = pd.DataFrame(index=table.index)
    for column in COLUMNS:
        values = table[found[column]] if found[column] is not None else pd.Series(None, table.index, dtype=object)
        if column == "certainty":
            values = pd.to_numeric(values, errors="coerce").clip(0, 1)
        elif column == "date":
            values = pd.to_datetime(values, errors="coerce", format="mixed").dt.strftime("%Y-%m-%d").astype(object)
        elif column == "class_name":
            values = values.map(lambda value: value if pd.isna(value) else str(value).strip() or None)
        columns[column] = values.where(values.notna(), default[column])
    rest = [c for c in table.columns if c not in found.values() and c != table.geometry.name]
    whole = pd.concat([columns, table[rest]], axis=1)
    return gpd.GeoDataFrame(whole, geometry=table.geometry.array, crs=table.crs).reset_index(drop=True)


def merge_duplicates(
    labels: gpd.GeoDataFrame, within_m: float = DUPLICATE_M, drawn_on: NDArray[np.object_] | None = None
) -> tuple[gpd.GeoDataFrame, int, int]:
    """Sites labelled more than once, once.

    Outlines and points whose centres lie within `within_m`, directly or through others, are one site,
    unless both were drawn on the same image: who drew two there saw two. Of each group an outline
    goes before a point and the largest before the others, because a site cut by one patch's edge is
    whole in the next. Chips and rows of different presence are never merged. The order of rows stays.

    Args:
        drawn_on: per row what it was drawn on, None where nobody knows.

    Returns:
        The labels that stay; how many were merged away; in how many groups the classes disagreed.
    """
    n = len(labels)
    if n < 2 or within_m <= 0:
        return labels, 0, 0
    i, j = cKDTree(_earth_centred(labels)).query_pairs(within_m, output_type="ndarray").T.reshape(2, -1)
    presence, chip = labels["presence"].to_numpy(object), (labels["kind"] == "chip").to_numpy()
    same = (presence[i] == presence[j]) & ~chip[i] & ~chip[j]
    if drawn_on is not None:
        known = np.array([value is not None for value in drawn_on], bool)
        same &= ~(known[i] & known[j] & (drawn_on[i] == drawn_on[j]))
    graph = coo_matrix((np.ones(int(same.sum())), (i[same], j[same])), shape=(n, n))
    group = connected_components(graph, directed=False)[1]
    size = labels.geometry.to_crs("EPSG:6933").area.to_numpy()
    order = np.lexsort((np.arange(n), -size, (labels["kind"] != "outline").to_numpy(), group))
    first = np.r_[True, group[order][1:] != group[order][:-1]]
    kept = np.sort(order[first])
    classes = labels.groupby(group)["class_name"].nunique()
    return labels.iloc[kept], n - len(kept), int((classes > 1).sum())


def lonlat_box(layer: gpd.GeoDataFrame | gpd.GeoSeries) -> str:
    """Where a layer lies, in words."""
    west, south, east, north = layer.to_crs(CRS(4326)).total_bounds
    return f"{west:.3f}..{east:.3f} E, {south:.3f}..{north:.3f} N"


def _own_words(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """`kind` and `presence` are ours only where every value is one of our words."""
    for column, words in _CHOICES.items():
        name = next((c for c in table.columns if str(c).lower() == column), None)
        if name is not None and not table[name].dropna().isin(words).all():
            table = table.rename(columns={name: f"{column}_in_file"})
    return table


def _numbered_classes(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    lower = {str(name).lower(): name for name in table.columns}
    column = next((lower[name] for name in _SYNONYMS["class_name"] if name in lower), None)
    if column is None or "class_id" in lower or table[column].dropna().empty:
        return table
    numbered = pd.to_numeric(table[column].dropna(), errors="coerce").notna().all()
    return table.rename(columns={column: "class_id"}) if numbered else table


def _finite(geometry: Shapes) -> NDArray[np.bool_]:
    xy, row = shapely.get_coordinates(geometry, return_index=True)
    odd = np.bincount(row, weights=~np.isfinite(xy).all(axis=1), minlength=len(geometry))
    return np.asarray(odd == 0)


def _areas_and_points(geometry: Shapes, present: NDArray[np.bool_]) -> tuple[Shapes, list[str]]:
    """Of each row its area, else its point (the middle of several); None for the rest, whose kinds are told."""
    geometry = geometry.copy()
    geometry[~present] = None
    others = []
    for row in np.flatnonzero(present):
        shape = geometry[row]
        if shape.geom_type in (*_POLYGONS, "Point"):
            continue
        parts = shapely.get_parts(shape)
        areas = [part for part in parts if part.geom_type in _POLYGONS]
        if areas:
            geometry[row] = shapely.multipolygons([p for area in areas for p in shapely.get_parts(area)])
        elif all(part.geom_type == "Point" for part in parts):
            geometry[row] = shape.centroid
        else:
            others.append(shape.geom_type)
            geometry[row] = None
    return geometry, others


def _kinds(names: list[str]) -> str:
    return ", ".join(sorted(set(names)))


def _repaired(outline: shapely.Geometry) -> shapely.Geometry:
    """The area of an invalid polygon; lines and points that the repair leaves over are dropped."""
    pieces = shapely.get_parts(shapely.make_valid(outline))
    areas = [piece for piece in pieces if piece.geom_type in _POLYGONS]
    return shapely.union_all(areas) if areas else shapely.Polygon()


def _beyond(geometry: Shapes) -> NDArray[np.bool_]:
    """Rows that are no place in degrees; longitudes up to 360 are."""
    west, south, east, north = shapely.bounds(geometry).T
    return np.asarray((south < -90) | (north > 90) | (west < -360) | (east > 360))


def _to_turn(geometry: Shapes, beyond: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows to swap, where `beyond` must be: all of the layer, if these lie with the others as they stand."""
    if not beyond.any() or beyond.all():
        return beyond
    centre = np.median(shapely.get_coordinates(shapely.centroid(geometry[~beyond])), axis=0)
    odd = shapely.get_coordinates(shapely.centroid(geometry[beyond]))
    as_they_stand = np.hypot(*(odd - centre).T).mean()
    turned = np.hypot(*(odd[:, ::-1] - centre).T).mean()
    whole = as_they_stand < turned and not _beyond(swapped(geometry)).any()
    return np.ones(len(beyond), bool) if whole else beyond


def _touches(geometry: Shapes, crs: Any, imagery: shapely.Geometry) -> bool:
    try:
        lonlat = gpd.GeoSeries(geometry, crs=crs).to_crs(4326)
    except ProjError:
        return False
    return bool(lonlat.intersects(imagery).any())


def _boxes(lon: NDArray[np.float64], lat: NDArray[np.float64], target: Target) -> NDArray[np.object_]:
    """Rectangles of the target's typical length (east-west) and width in metres, by geodesics."""
    half_length, half_width = target.typical_m[0] / 2, target.typical_m[1] / 2
    n = len(lon)
    corners = []
    for east, north in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        bearing = np.degrees(np.arctan2(east * half_length, north * half_width))
        reach = np.hypot(half_length, half_width)
        x, y, _ = _GEOD.fwd(lon, lat, np.full(n, bearing), np.full(n, reach))
        corners.append(np.stack([x, y], axis=1))
    return np.asarray(shapely.polygons(np.stack(corners, axis=1)))


def _earth_centred(labels: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """Centroids as earth-centred x, y, z in metres [n, 3]: near places are near, everywhere on earth."""
    centre = shapely.centroid(labels.geometry.to_crs(4326).to_numpy())
    to_metres = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    return np.column_stack(to_metres.transform(shapely.get_x(centre), shapely.get_y(centre), np.zeros(len(labels))))
