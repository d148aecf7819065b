"""Layers and tables that say where their rows lie, as one labels table (see geoslave.labels.table).

GeoJSON, GeoPackage, FlatGeobuf, Shapefile, GeoParquet, KML, KMZ, and CSV of points. The format is
told by the file's first bytes, else by its ending. Labels that speak about images (YOLO, DOTA, COCO,
Label Studio, masks, chip tables) come in through `geoslave.labels.importing`.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geoslave.errors import LabelError
from geoslave.labels.table import (
    COLUMNS,
    DUPLICATE_M,
    Tally,
    footprints,
    lonlat_box,
    named,
    sites_of,
    upright,
    usable,
    weak_of,
)
from geoslave.targets import Target

__all__ = [
    "COLUMNS",
    "DUPLICATE_M",
    "READABLE",
    "LabelWarning",
    "labels_on",
    "read_labels",
    "read_layer",
    "sites_of",
    "weak_of",
]

READABLE = (".geojson", ".json", ".gpkg", ".fgb", ".shp", ".parquet", ".geoparquet", ".kml", ".kmz", ".csv")

_KML_STYLE = ("timestamp", "begin", "end", "altitudeMode", "tessellate", "extrude", "visibility", "drawOrder", "icon")
"""How Google Earth draws a placemark: nothing about the site."""
_LON = ("lon", "long", "longitude", "lng", "x")
_LAT = ("lat", "latitude", "y")
_STARTS = {b"SQLite format 3": ".gpkg", b"PAR1": ".parquet", b"fgb\x03": ".fgb", b"PK\x03\x04": ".kmz"}


class LabelWarning(UserWarning):
    """Labels were usable only after a repair; the message says which and how many."""


def read_labels(
    path: str | Path, target: Target | None = None, layer: str | None = None, weak: bool = False
) -> gpd.GeoDataFrame:
    """Read labels from a file as one labels table, in the file's CRS.

    Invalid outlines are repaired, rows without an outline left out; both are told by a
    `LabelWarning`. Points become a rectangle of the target's typical size, longer side east-west.

    Args:
        path: one of `READABLE`.
        target: what the labels are: the class where the file names none, the size of points.
        layer: of a file with several.
        weak: give all rows, also those that answer for a whole chip and those that say no or unsure.
            Without it only sites are given, because a chip's footprint is no site's outline.

    Raises:
        LabelError: if the file cannot be read, has no CRS, or holds no outline.
    """
    path = Path(path)
    tally = Tally(path.name)
    table = read_layer(path, tally, target, layer)
    if not weak:
        sites = sites_of(table)
        tally.leave_out("rows that are no sites (whole chips, or 'no' or 'unsure')", len(table) - len(sites))
        if sites.empty:
            raise LabelError(
                f"{path.name}: holds no outline of a site, only answers for whole chips, or 'no' and 'unsure'; "
                "give a file with at least one labelled site"
            )
        table = sites.reset_index(drop=True)
    if tally.sentences():
        warnings.warn(LabelWarning(f"{path.name}: {'; '.join(tally.sentences())}"), stacklevel=2)
    return table


def read_layer(
    path: Path,
    tally: Tally,
    target: Target | None = None,
    layer: str | None = None,
    crs: str | None = None,
    imagery: shapely.Geometry | None = None,
) -> gpd.GeoDataFrame:
    """A vector file or a CSV of points as a labels table in the file's CRS; what was done goes into `tally`.

    Args:
        crs: of a file that declares none (or only seems to declare one: GeoJSON in metres).
        imagery: longitude/latitude; a layer that misses it is tried with its axes swapped.

    Raises:
        LabelError: as `read_labels`.
    """
    table = _open(path, layer, tally)
    tally.n_read += len(table)
    table = _with_crs(table, path, crs)
    table = upright(usable(table, tally), tally, imagery)
    return named(footprints(table, tally, target), path.name, target)


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
            f"none of the {len(labels)} labels touches the scene: the labels cover {lonlat_box(labels)}, the scene "
            f"{lonlat_box(gpd.GeoSeries([geobox.extent.geom], crs=placed.crs))}; "
            "check that both are of the same place, and the labels' CRS"
        )
    return placed[here]


def layer_ending(path: Path) -> str:
    """The ending a file should have after its first bytes, else the one it has (lower case)."""
    with path.open("rb") as file:
        start = file.read(512)
    for magic, ending in _STARTS.items():
        if start.startswith(magic):
            return ending
    if start.lstrip().startswith((b"<?xml", b"<kml", b"\xef\xbb\xbf<?xml")) and b"<kml" in start.lower():
        return ".kml"
    return path.suffix.lower()


def lonlat_columns(table: pd.DataFrame) -> tuple[str | None, str | None]:
    """The names of the columns of longitude and latitude, None where there is none."""
    lower = {str(name).strip().lower(): name for name in table.columns}
    lon = next((lower[name] for name in _LON if name in lower), None)
    lat = next((lower[name] for name in _LAT if name in lower), None)
    return lon, lat


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV with commas, semicolons or tabs, in UTF-8 or as Excel writes it in western Europe (cp1252).

    Raises:
        LabelError: if it cannot be read; the message has the line where pandas knows it.
    """
    try:
        text = _decoded(path.read_bytes())
        separator = max(",;\t", key=text.partition("\n")[0].count)
        return pd.read_csv(io.StringIO(text), sep=separator)
    except (ValueError, OSError) as error:
        raise LabelError(_unreadable(path, "csv", error)) from error


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _degrees(values: pd.Series) -> NDArray[np.float64]:
    """Numbers with a decimal point or comma, NaN for anything else."""
    if not pd.api.types.is_numeric_dtype(values):
        values = values.astype("string").str.strip().str.replace(",", ".", regex=False)
    return np.asarray(pd.to_numeric(values, errors="coerce").to_numpy(float, na_value=np.nan))


def _with_crs(table: gpd.GeoDataFrame, path: Path, crs: str | None) -> gpd.GeoDataFrame:
    if crs is not None and (table.crs is None or _not_degrees(table)):
        try:
            return table.set_crs(crs, allow_override=True)
        except Exception as error:
            raise LabelError(f"'{crs}' is no CRS that is known; write it as EPSG:32645") from error
    if table.crs is None:
        raise LabelError(
            f"{path.name}: no CRS, so nobody can tell where the outlines lie; "
            "set it (--crs EPSG:N of `geoslave labels import`, ogr2ogr -a_srs EPSG:4326 OUT IN, "
            "or in QGIS: Layer > Set CRS)"
        )
    return table


def _not_degrees(table: gpd.GeoDataFrame) -> bool:
    """A layer of degrees (what GeoJSON is, whatever its numbers) with numbers far beyond them."""
    return bool(table.crs.is_geographic and np.nanmax(np.abs(table.total_bounds)) > 360)


def _open(path: Path, layer: str | None, tally: Tally) -> gpd.GeoDataFrame:
    if not path.exists():
        raise LabelError(f"{path}: there is no such file; check the path to the labels")
    if path.is_dir() or path.suffix.lower() not in READABLE:
        raise LabelError(
            f"{path.name}: not a labels file; give one of {', '.join(READABLE)}, "
            "or bring it in with  geoslave labels import"
        )
    ending = layer_ending(path)
    tally.format = ending[1:]
    try:
        if ending == ".csv":
            return _read_points(path)
        if ending in (".parquet", ".geoparquet"):
            return gpd.read_parquet(path)
        return _read_vector(path, layer, ending)
    except LabelError:
        raise
    except Exception as error:  # each reader has its own family of exceptions
        raise LabelError(_unreadable(path, ending[1:], error)) from error


def _unreadable(path: Path, kind: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if kind in ("geojson", "json"):
        with path.open("rb") as file:
            try:
                json.load(file)
            except json.JSONDecodeError as fault:
                reason = f"line {fault.lineno}, column {fault.colno}: {fault.msg}"
            except (ValueError, OSError):
                pass  # the reader's own reason stands
    return f"{path.name}: cannot be read as {kind} ({reason}); open it in QGIS and export it as GeoPackage"


def _read_vector(path: Path, layer: str | None, ending: str) -> gpd.GeoDataFrame:
    """Any format GDAL knows. Several layers are refused unless one is named."""
    name = path if ending != ".kmz" else _inside_kmz(path)
    layers = [str(layer) for layer, kind in pyogrio.list_layers(name) if kind is not None]
    folders = ending in (".kml", ".kmz")
    if layer is None and len(layers) > 1 and not folders:
        raise LabelError(f"{path.name}: has several layers ({', '.join(layers)}); say which one holds the labels")
    if layer is not None and layer not in layers:
        raise LabelError(f"{path.name}: no layer '{layer}'; it has {', '.join(layers)}")
    if folders and layer is None and layers:
        # a folder in Google Earth is a layer here: people sort one set of labels into several
        tables = [gpd.read_file(name, layer=each, engine="pyogrio") for each in layers]
        whole = gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=tables[0].crs)
        return whole.drop(columns=[column for column in _KML_STYLE if column in whole])
    # rings that are not closed are mended, not refused
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        table = gpd.read_file(name, layer=layer, engine="pyogrio", on_invalid="fix")
    if not isinstance(table, gpd.GeoDataFrame):
        raise LabelError(f"{path.name}: a table without outlines; export the layer with its geometry")
    return table


def _inside_kmz(path: Path) -> str:
    """The KML inside a KMZ, as GDAL names it. GDAL's own reader of KMZ loses the columns."""
    with zipfile.ZipFile(path) as archive:
        inside = [name for name in archive.namelist() if name.lower().endswith(".kml")]
    if not inside:
        raise LabelError(f"{path.name}: a zip archive without a .kml in it; unpack it and give the file inside")
    main = next((name for name in inside if name.lower() == "doc.kml"), inside[0])
    return f"/vsizip/{{{path.absolute()}}}/{main}"


def _read_points(path: Path) -> gpd.GeoDataFrame:
    """A CSV with one site a row and longitude/latitude columns in degrees."""
    table = read_csv(path)
    lon, lat = lonlat_columns(table)
    if lon is None or lat is None:
        raise LabelError(
            f"{path.name}: no columns for longitude and latitude among {', '.join(map(str, table.columns))}; "
            "name them lon and lat (degrees)"
        )
    x, y = (_degrees(table[name]) for name in (lon, lat))
    straight = (np.abs(x) > 180) | (np.abs(y) > 90)
    outside = np.flatnonzero(straight & ((np.abs(y) > 180) | (np.abs(x) > 90)))
    if len(outside):
        raise LabelError(
            f"{path.name}: row {outside[0] + 2} is not in degrees (lon {x[outside[0]]:g}, lat {y[outside[0]]:g}); "
            "convert the points to longitude/latitude"
        )
    points: NDArray[np.object_] = np.array(shapely.points(x, y), dtype=object)
    points[~(np.isfinite(x) & np.isfinite(y))] = None
    return gpd.GeoDataFrame(table.drop(columns=[lon, lat]), geometry=points, crs=4326)
