"""What people have (GeoJSON, GeoPackage, FlatGeobuf, Shapefile, GeoParquet, KML, CSV of points) as one table.

The labels table is a GeoDataFrame with a CRS and the columns

* `geometry`     Polygon or MultiPolygon, valid
* `class_name`   what the site is, e.g. `brick_kiln`
* `certainty`    0..1, how sure the labeller was; 1 where the file does not say
* `source`       the file's name where the file does not say
* `date`         ISO date the label holds for, None where the file does not say

followed by whatever else the file has (region, patch_id, ...).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod

from geoslave.errors import LabelError
from geoslave.targets import Target

COLUMNS = ("class_name", "certainty", "source", "date")
"""What every labels table has, before `geometry` and the file's own columns."""

READABLE = (".geojson", ".json", ".gpkg", ".fgb", ".shp", ".parquet", ".geoparquet", ".kml", ".csv")

_SYNONYMS = {
    "class_name": ("class_name", "class", "label", "category", "type"),
    "certainty": ("certainty",),
    "source": ("source",),
    "date": ("date", "observed", "image_date"),
}
_LON = ("lon", "long", "longitude", "lng", "x")
_LAT = ("lat", "latitude", "y")
_POLYGONS = ("Polygon", "MultiPolygon")
_GEOD = Geod(ellps="WGS84")


class LabelWarning(UserWarning):
    """Labels were usable only after a repair; the message says which and how many."""


def read_labels(path: str | Path, target: Target | None = None, layer: str | None = None) -> gpd.GeoDataFrame:
    """Read labels from a file as one labels table (columns: see the module), in the file's CRS.

    Invalid outlines are repaired, rows without an outline left out; both are told by a
    `LabelWarning`. Points become a rectangle of the target's typical size, longer side east-west.

    Args:
        path: the format follows the ending (`READABLE`).
        target: what the labels are: the class where the file names none, the size of points.
        layer: of a file with several.

    Raises:
        LabelError: if the file cannot be read, has no CRS, or holds no outline.
    """
    path = Path(path)
    table = _open(path, layer)
    if table.crs is None:
        raise LabelError(
            f"{path.name}: no CRS, so nobody can tell where the outlines lie; "
            "set it (ogr2ogr -a_srs EPSG:4326 OUT IN, or in QGIS: Layer > Set CRS)"
        )
    table = _footprints(_usable(table, path), path, target)
    return _named(table, path, target)


def labels_on(labels: gpd.GeoDataFrame, geobox: GeoBox) -> gpd.GeoDataFrame:
    """The labels that touch a raster's grid, in the raster's CRS.

    Raises:
        LabelError: if the grid has no CRS, or no label touches it: a mask without a site would look
            like a place where somebody looked and found none.
    """
    if geobox.crs is None:
        raise LabelError("the raster has no CRS, so labels cannot be laid on it; assign one (gdal_edit.py -a_srs)")
    placed = labels.to_crs(geobox.crs.to_wkt())
    here = placed.geometry.intersects(geobox.extent.geom).to_numpy()
    if not here.any():
        raise LabelError(
            f"none of the {len(labels)} labels touches the scene: the labels cover {_lonlat_box(labels)}, the scene "
            f"{_lonlat_box(gpd.GeoSeries([geobox.extent.geom], crs=placed.crs))}; "
            "check that both are of the same place, and the labels' CRS"
        )
    return placed[here]


def _open(path: Path, layer: str | None) -> gpd.GeoDataFrame:
    if not path.exists():
        raise LabelError(f"{path}: there is no such file; check the path to the labels")
    ending = path.suffix.lower()
    if path.is_dir() or ending not in READABLE:
        raise LabelError(f"{path.name}: not a labels file; give one of {', '.join(READABLE)}")
    try:
        if ending == ".csv":
            return _read_points(path)
        if ending in (".parquet", ".geoparquet"):
            return gpd.read_parquet(path)
        return _read_vector(path, layer)
    except LabelError:
        raise
    except Exception as error:  # each reader has its own family of exceptions
        reason = " ".join(str(error).split())
        raise LabelError(
            f"{path.name}: cannot be read as {ending[1:]} ({reason}); open it in QGIS and export it as GeoPackage"
        ) from error


def _read_vector(path: Path, layer: str | None) -> gpd.GeoDataFrame:
    """Any format GDAL knows. Several layers are refused unless one is named."""
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if layer is None and len(layers) > 1 and path.suffix.lower() != ".kml":
        raise LabelError(f"{path.name}: has several layers ({', '.join(layers)}); say which one holds the labels")
    if layer is not None and layer not in layers:
        raise LabelError(f"{path.name}: no layer '{layer}'; it has {', '.join(layers)}")
    if path.suffix.lower() == ".kml" and layer is None:
        # a folder in Google Earth is a layer here: people sort one set of labels into several
        tables = [gpd.read_file(path, layer=name, engine="pyogrio") for name in layers]
        return gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=tables[0].crs)
    table = gpd.read_file(path, layer=layer, engine="pyogrio")
    if not isinstance(table, gpd.GeoDataFrame):
        raise LabelError(f"{path.name}: a table without outlines; export the layer with its geometry")
    return table


def _read_points(path: Path) -> gpd.GeoDataFrame:
    """A CSV with one site a row and longitude/latitude columns in degrees."""
    table = pd.read_csv(path)
    lower = {str(name).strip().lower(): name for name in table.columns}
    lon = next((lower[name] for name in _LON if name in lower), None)
    lat = next((lower[name] for name in _LAT if name in lower), None)
    if lon is None or lat is None:
        raise LabelError(
            f"{path.name}: no columns for longitude and latitude among {', '.join(map(str, table.columns))}; "
            "name them lon and lat (degrees)"
        )
    x, y = (pd.to_numeric(table[name], errors="coerce").to_numpy(float) for name in (lon, lat))
    outside = np.flatnonzero((np.abs(x) > 180) | (np.abs(y) > 90))
    if len(outside):
        raise LabelError(
            f"{path.name}: row {outside[0] + 2} is not in degrees (lon {x[outside[0]]:g}, lat {y[outside[0]]:g}); "
            "convert the points to longitude/latitude"
        )
    points: NDArray[np.object_] = np.array(shapely.points(x, y), dtype=object)
    points[np.isnan(x) | np.isnan(y)] = None
    return gpd.GeoDataFrame(table.drop(columns=[lon, lat]), geometry=points, crs=4326)


def _usable(table: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """Rows with an outline, repaired where it crosses itself; what was done is told."""
    geometry: NDArray[np.object_] = np.array(shapely.force_2d(table.geometry.to_numpy()), dtype=object)
    present = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
    broken = present & ~shapely.is_valid(geometry)
    if broken.any():
        geometry[broken] = [_repaired(outline) for outline in geometry[broken]]
        present &= ~shapely.is_empty(geometry)
    if not present.any():
        raise LabelError(f"{path.name}: holds no outline; give a file with at least one labelled site")
    notes = [
        f"{broken.sum()} outlines crossed themselves and were repaired" if broken.any() else "",
        f"{(~present).sum()} rows without an outline were left out" if not present.all() else "",
    ]
    if any(notes):
        warnings.warn(LabelWarning(f"{path.name}: {'; '.join(filter(None, notes))}"), stacklevel=3)
    return table.set_geometry(gpd.GeoSeries(geometry, index=table.index, crs=table.crs))[present]


def _repaired(outline: shapely.Geometry) -> shapely.Geometry:
    """The area of an invalid polygon; lines and points that the repair leaves over are dropped."""
    pieces = shapely.get_parts(shapely.make_valid(outline))
    areas = [piece for piece in pieces if piece.geom_type in _POLYGONS]
    return shapely.union_all(areas) if areas else shapely.Polygon()


def _footprints(table: gpd.GeoDataFrame, path: Path, target: Target | None) -> gpd.GeoDataFrame:
    """Points as rectangles of the target's typical size; lines are refused."""
    kinds = table.geometry.geom_type
    points = (kinds == "Point").to_numpy()
    other = sorted(set(kinds[~points]) - set(_POLYGONS))
    if other:
        raise LabelError(f"{path.name}: has {', '.join(other)}; labels are polygons, or points of a known target")
    if not points.any():
        return table
    if target is None:
        raise LabelError(
            f"{path.name}: has points; say what they are (a target such as brick_kiln) to give them a size"
        )
    lonlat = table.geometry[points].to_crs(4326)
    boxes = gpd.GeoSeries(_boxes(lonlat.x.to_numpy(), lonlat.y.to_numpy(), target), index=lonlat.index, crs=4326)
    geometry = np.asarray(table.geometry.array, dtype=object)
    geometry[points] = np.asarray(boxes.to_crs(table.crs).array, dtype=object)
    return table.set_geometry(gpd.GeoSeries(geometry, index=table.index, crs=table.crs))


def _boxes(lon: np.ndarray, lat: np.ndarray, target: Target) -> np.ndarray:
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


def _named(table: gpd.GeoDataFrame, path: Path, target: Target | None) -> gpd.GeoDataFrame:
    """The standard columns first, filled where the file has none, then the file's own."""
    own = {str(name).lower(): name for name in table.columns}
    found = {to: next((own[n] for n in names if n in own), None) for to, names in _SYNONYMS.items()}
    default = {
        "class_name": target.name if target else "site",
        "certainty": 1.0,
        "source": path.name,
        "date": None,
    }
    named = pd.DataFrame(index=table.index)
    for column in COLUMNS:
        values = table[found[column]] if found[column] is not None else pd.Series(None, table.index, dtype=object)
        if column == "certainty":
            values = pd.to_numeric(values, errors="coerce").clip(0, 1)
        elif column == "date":
            values = pd.to_datetime(values, errors="coerce", format="mixed").dt.strftime("%Y-%m-%d").astype(object)
        filler = default[column]
        named[column] = values.where(values.notna(), filler)
    rest = [c for c in table.columns if c not in found.values() and c != table.geometry.name]
    columns = pd.concat([named, table[rest]], axis=1)
    return gpd.GeoDataFrame(columns, geometry=table.geometry.array, crs=table.crs).reset_index(drop=True)


def _lonlat_box(layer: gpd.GeoDataFrame | gpd.GeoSeries) -> str:
    """Where a layer lies, in words."""
    west, south, east, north = layer.to_crs(CRS(4326)).total_bounds
    return f"{west:.3f}..{east:.3f} E, {south:.3f}..{north:.3f} N"
