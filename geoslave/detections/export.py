"""Detections in the formats people use; and several scenes as one layer.

A file appears under its final name only when it is complete: everything is written in a temporary
folder beside it, which goes away whatever happens (a GeoPackage's journal with it).
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError
from scipy.spatial import cKDTree

from geoslave.detections import measure, qgis, schema
from geoslave.errors import GeoslaveError, OutputError
from geoslave.targets import Target

LAYER = "detections"
FORMATS = {
    ".geojson": "GeoJSON: longitude and latitude, for web maps and sharing",
    ".gpkg": "GeoPackage: the scene's own CRS, opens in QGIS with its style",
    ".fgb": "FlatGeobuf: fast to read, also over the network",
    ".parquet": "GeoParquet: for tables and notebooks",
}
_EPOCH = "1970-01-01T00:00:00.000Z"
_TURNED_TOGETHER = 10_000
"""Detections that are in memory as GeoJSON wants them."""


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """Make sure, before hours of work, that detections can be written to `path`.

    Raises:
        OutputError: if the ending is unknown, the folder is missing, or a file is there already.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: the ending chooses the format, use one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} is not there: make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {path.parent} cannot be written to: choose another")
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} is there already: choose another name, or overwrite it with --overwrite")
    for log in (path.with_name(path.name + "-wal"), path.with_name(path.name + "-journal")):
        # A new file beside the old one's log would be damaged by it.
        if log.exists() and log.stat().st_size:
            raise OutputError(f"{path} is open in another program ({log.name} is there): close it there first")
    return path


def write_detections(
    detections: gpd.GeoDataFrame, path: str | Path, *, provenance: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Write a detections table; the ending of `path` chooses the format (see FORMATS).

    The same table and provenance give the same bytes. Local paths and names of users are taken out
    of the provenance. GeoJSON and FlatGeobuf get a QGIS style beside them, unless one is there.

    Raises:
        GeoslaveError: if the table is not a detections table, or is of another planet and GeoJSON is asked for.
        OutputError: if the file is there already or cannot be written; then nothing is left behind.
    """
    path = check_output(path, overwrite)
    schema.validate(detections)
    table = schema.sort(detections)
    table = table[[*[c for c in table.columns if c != "geometry"], "geometry"]]
    table.attrs = {}
    notes = {"statement": schema.STATEMENT, **clean_provenance(provenance)}
    write = {".geojson": _geojson, ".gpkg": _gpkg, ".fgb": _fgb, ".parquet": _parquet}[path.suffix.lower()]
    with _appearing(path) as temporary:
        write(table, temporary, notes)
        _check_complete(temporary, len(table))
        if path.suffix.lower() in (".geojson", ".fgb"):
            _write_style(table, path, temporary.parent)
    return path


def read_detections(path: str | Path) -> gpd.GeoDataFrame:
    """Read a detections table from any of the four formats.

    Raises:
        GeoslaveError: if the file is missing, cannot be read, or holds something else.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise GeoslaveError(f"{path}: not a detections file, its ending must be one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise GeoslaveError(f"{path} is not there: check the name")
    try:
        if suffix == ".parquet":
            table = gpd.read_parquet(path)
        else:
            table = pyogrio.read_dataframe(path, layer=LAYER if suffix == ".gpkg" else None)
    except Exception as error:  # every reader has its own errors
        raise GeoslaveError(f"{path} cannot be read as detections: {' '.join(str(error).split())}") from error
    if isinstance(table, gpd.GeoDataFrame) and not len(table):
        return schema.empty(table.crs or "EPSG:4326")
    if not isinstance(table, gpd.GeoDataFrame):
        raise GeoslaveError(f"{path} holds no geometry: it is not a detections file")
    if table.active_geometry_name != "geometry":
        table = table.rename_geometry("geometry")
    table = _restore_types(table)
    try:
        schema.validate(table)
    except GeoslaveError as error:
        raise GeoslaveError(f"{path} is not a detections file: {error}") from error
    return schema.sort(table)


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Where a layer comes from, as `write_detections` was told; empty for a file that does not say."""
    path = Path(path)
    reader = {
        ".geojson": _geojson_notes,
        ".gpkg": _gpkg_notes,
        ".fgb": _fgb_notes,
        ".parquet": _parquet_notes,
    }.get(path.suffix.lower())
    try:
        notes = reader(path) if reader else {}
    except (OSError, ValueError, KeyError, sqlite3.Error, DataSourceError, pa.ArrowInvalid):
        return {}
    return notes if isinstance(notes, dict) else {}


def write_scores_style(path: str | Path) -> Path:
    """Write the style of a score map beside it; one that is there stays."""
    style = Path(path).with_suffix(".qml")
    if not style.exists():
        with _appearing(style) as temporary:
            temporary.write_text(qgis.scores_qml(), encoding="utf-8")
    return style


def typical_side_m(detections: gpd.GeoDataFrame) -> float:
    """Side of the middling site, in metres: at which scales a map shows outlines and labels follows it."""
    areas = detections["area_m2"].dropna() if "area_m2" in detections else ()
    return float(np.sqrt(np.median(areas))) if len(areas) else qgis.SIDE_M


def filter_detections(detections: gpd.GeoDataFrame, min_confidence: float) -> gpd.GeoDataFrame:
    """The detections with at least this confidence."""
    return detections[detections["confidence"] >= min_confidence].reset_index(drop=True)


def combine(tables: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """Detections of several scenes as one table: in their CRS if they share one, else in EPSG:4326.

    What has the same id (same place, class and day) is one detection: the most confident stays.

    Raises:
        GeoslaveError: if there is no table, or scenes of another planet would have to be mixed.
    """
    if not tables:
        raise GeoslaveError("there are no detections to combine: give at least one table")
    filled = [table for table in tables if len(table)]
    if not filled:
        return schema.empty(tables[0].crs)
    crs = filled[0].crs
    if any(table.crs != crs for table in filled):
        crs = "EPSG:4326"
        filled = [
            table.set_geometry(gpd.GeoSeries(measure.to_wgs84(table.geometry.to_numpy(), table.crs), table.index, crs))
            for table in filled
        ]
    table = schema.sort(gpd.GeoDataFrame(pd.concat(filled, ignore_index=True), geometry="geometry", crs=crs))
    return table.drop_duplicates("detection_id").reset_index(drop=True)


def merge_overlapping(detections: gpd.GeoDataFrame, merge_distance_m: float | Target) -> gpd.GeoDataFrame:
    """Keep one detection of each site that several scenes show.

    Two detections are of one site if they have the same class, come from different scenes, and
    overlap (intersection at least a tenth of their union, or half of the smaller one) or have their
    middles within `merge_distance_m`. What is whole goes before what is cut by an edge, then the most
    confident stays. Neighbours within one scene are never merged.
    """
    distance = merge_distance_m.merge_distance_m if isinstance(merge_distance_m, Target) else merge_distance_m
    scenes = pd.factorize(detections["scene_id"])[0]
    if len(detections) < 2 or scenes.max() == 0:
        return schema.sort(detections)
    first, second = _same_place(detections, distance)
    classes = pd.factorize(detections["class_name"])[0]
    alike = (scenes[first] != scenes[second]) & (classes[first] == classes[second])
    rank = np.empty(len(detections), int)
    order = np.lexsort((detections["detection_id"], -detections["confidence"], detections["truncated"]))
    rank[order] = np.arange(len(order))
    better = np.where(rank[first] < rank[second], first, second)[alike]
    worse = np.where(rank[first] < rank[second], second, first)[alike]
    kept = np.ones(len(detections), bool)
    for i in np.argsort(rank[better], kind="stable"):
        if kept[better[i]]:
            kept[worse[i]] = False
    return schema.sort(detections[kept])


def clean_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance without what tells of the person or the machine: paths become file names, user and host go."""
    return {str(key): _clean(value) for key, value in provenance.items() if str(key).lower() not in _PRIVATE}


_PRIVATE = {"user", "username", "user_name", "login", "host", "hostname", "home", "cwd", "working_directory", "email"}
_LOCAL_PATH = re.compile(
    r"""(?<![^\s'"=,;:(\[])(?!(?<=:)//)(?:file://)?(?:[A-Za-z]:[\\/]|[\\/]|~[^\s\\/]*[\\/])(?=\S)[^\s'",;)\]]*"""
)


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return clean_provenance(value)
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, os.PathLike):
        return Path(value).name
    if isinstance(value, str):
        if re.match(r"(?:file://|[A-Za-z]:[\\/]|[\\/]|~)", value):  # one path, which may hold spaces
            return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
        return _LOCAL_PATH.sub(lambda match: re.split(r"[\\/]", match[0].rstrip("\\/"))[-1], value)
    if isinstance(value, np.generic):
        return _clean(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, (bool, int, float, type(None))):
        return value
    return str(value)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A temporary path of the same name; what is there at the end appears beside and under `path` at once."""
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield folder / path.name
        for made in sorted(folder.iterdir(), key=lambda p: p.name != path.name):
            with made.open("rb+") as file:
                os.fsync(file.fileno())
            made.replace(path.parent / made.name)
    except (
        OSError,
        sqlite3.Error,
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        MemoryError,
    ) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no memory"
        cause = " ".join(cause.split())
        raise OutputError(f"{path} cannot be written ({cause}): free some space, or choose another place") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _check_complete(path: Path, n: int) -> None:
    """GDAL can meet a full disk without a word: count what is on it."""
    if path.suffix.lower() == ".geojson":
        return  # written by us, every error seen
    if path.suffix.lower() == ".parquet":
        found = pq.read_metadata(path).num_rows
    else:
        found = pyogrio.read_info(path, layer=LAYER, force_feature_count=True)["features"]
    if found != n:
        raise OSError(f"{found} of {n} detections arrived")


def _write_style(table: gpd.GeoDataFrame, path: Path, folder: Path) -> None:
    # QGIS would take the style for the raster's
    raster = any(path.with_suffix(ending).exists() for ending in (".tif", ".tiff", ".vrt", ".jp2"))
    if not raster and not path.with_suffix(".qml").exists():
        style = (folder / path.name).with_suffix(".qml")
        columns = [c for c in table.columns if c != "geometry"]
        style.write_text(qgis.detections_qml(columns, side_m=typical_side_m(table)), encoding="utf-8")


def _geojson(table: gpd.GeoDataFrame, path: Path, notes: dict[str, Any]) -> None:
    """RFC 7946, one feature on a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        head = json.dumps({"type": "FeatureCollection", "name": LAYER, "geoslave": notes}, ensure_ascii=False)
        file.write(head[:-1] + ', "features": [')
        for start in range(0, len(table), _TURNED_TOGETHER):
            part = table.iloc[start : start + _TURNED_TOGETHER]
            shapes = shapely.orient_polygons(measure.to_wgs84(part.geometry.to_numpy(), part.crs))
            for i, (row, shape) in enumerate(zip(_plain_rows(part), shapes, strict=True), start):
                _write_feature(file, row, shape, ",\n" if i else "\n")
        file.write("\n]}\n")


def _write_feature(file: TextIO, row: dict[str, Any], shape: Any, before: str) -> None:
    if shape.geom_type == "Polygon":
        geometry = {"type": "Polygon", "coordinates": _rings(shape)}
    else:
        geometry = {"type": "MultiPolygon", "coordinates": [_rings(part) for part in shape.geoms]}
    feature = {"type": "Feature", "id": row["detection_id"], "properties": row, "geometry": geometry}
    file.write(before + json.dumps(feature, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _rings(polygon: shapely.Polygon) -> list[list[list[float]]]:
    """Coordinates with seven decimals (a centimetre); adding 0 makes -0.0 to 0.0."""
    rings = [polygon.exterior, *polygon.interiors]
    return [(shapely.get_coordinates(ring).round(7) + 0.0).tolist() for ring in rings]


def _plain_rows(table: gpd.GeoDataFrame) -> list[dict[str, Any]]:
    """Rows as JSON knows them: what is missing, or no finite number, becomes null."""
    columns = [c for c in table.columns if c != "geometry"]
    values = [[_plain(value) for value in table[c].tolist()] for c in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _plain(value: Any) -> Any:
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def _gpkg(table: gpd.GeoDataFrame, path: Path, notes: dict[str, Any]) -> None:
    created = _timestamp(notes)
    with written_at(created):
        _write_ogr(_with_days(table), path, "GPKG", use_arrow=True, **gpkg_options(schema.STATEMENT))
    database = sqlite3.connect(path)
    try:
        with database:
            columns = ["fid", *(c for c in table.columns if c != "geometry")]
            style = qgis.detections_qml(columns, side_m=typical_side_m(table))
            qgis.add_style(database, LAYER, style, "confidence", created)
            _add_provenance(database, notes, created)
    finally:
        database.close()


@contextmanager
def written_at(created: str = _EPOCH) -> Iterator[None]:
    """GDAL takes this for the time: the same content gives the same bytes."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": created})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def gpkg_options(about: str) -> dict[str, Any]:
    """How geoslave writes GeoPackages: QGIS in Debian 12 warns at versions newer than 1.2."""
    layer = {"GEOMETRY_NAME": "geom", "SPATIAL_INDEX": "YES", "DESCRIPTION": about}
    return {"dataset_options": {"VERSION": "1.2"}, "layer_options": layer}


def _fgb(table: gpd.GeoDataFrame, path: Path, notes: dict[str, Any]) -> None:
    options = {"SPATIAL_INDEX": "YES", "TEMPORARY_DIR": str(path.parent), "DESCRIPTION": json.dumps(notes)}
    table = table.assign(date=table["date"].astype("object").where(table["date"].notna(), None))
    _write_ogr(table, path, "FlatGeobuf", layer_options=options)


def _write_ogr(table: gpd.GeoDataFrame, path: Path, driver: str, **options: Any) -> None:
    multi = (table.geometry.geom_type == "MultiPolygon").any()
    if multi:  # a layer has one type of geometry
        parts = [
            shape if shape.geom_type == "MultiPolygon" else shapely.multipolygons([shape]) for shape in table.geometry
        ]
        table = table.set_geometry(gpd.GeoSeries(parts, table.index, table.crs))
    pyogrio.write_dataframe(
        table, path, layer=LAYER, driver=driver, geometry_type="MultiPolygon" if multi else "Polygon", **options
    )


def _with_days(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Days as days and not as text, for formats that know them: QGIS's temporal controller wants them."""
    days = [None if pd.isna(day) else datetime.date.fromisoformat(str(day)) for day in table["date"]]
    return table.assign(date=pd.Series(days, table.index, dtype=pd.ArrowDtype(pa.date32())))


def _add_provenance(database: sqlite3.Connection, notes: dict[str, Any], created: str) -> None:
    database.execute("CREATE TABLE geoslave_provenance (id INTEGER PRIMARY KEY NOT NULL, key TEXT, value TEXT)")
    rows = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in notes.items()]
    database.executemany("INSERT INTO geoslave_provenance (key, value) VALUES (?, ?)", rows)
    qgis.list_table(database, "geoslave_provenance", created)


def _timestamp(notes: dict[str, Any]) -> str:
    """The provenance's `created` as a GeoPackage writes it, else a fixed one: the clock would change the bytes."""
    try:
        stamp = pd.Timestamp(notes["created"])
        stamp = stamp.tz_localize("UTC") if stamp.tz is None else stamp.tz_convert("UTC")
        return str(stamp.strftime("%Y-%m-%dT%H:%M:%S.")) + f"{stamp.microsecond // 1000:03d}Z"
    except (KeyError, ValueError, TypeError):
        return _EPOCH


def _parquet(table: gpd.GeoDataFrame, path: Path, notes: dict[str, Any]) -> None:
    _with_days(table).to_parquet(path, index=False, compression="zstd", schema_version="1.1.0")
    content = pq.read_table(path)
    noted = {**(content.schema.metadata or {}), b"geoslave": json.dumps(notes).encode()}
    pq.write_table(content.replace_schema_metadata(noted), path, compression="zstd")


def _geojson_notes(path: Path) -> Any:
    """From the first line, which holds all but the features; from the whole file if others saved it again."""
    with path.open(encoding="utf-8") as file:
        try:
            return json.loads(file.readline().rstrip() + "]}")["geoslave"]
        except (ValueError, KeyError):
            file.seek(0)
            return json.load(file)["geoslave"]


def _gpkg_notes(path: Path) -> Any:
    database = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
    try:
        return {key: _from_text(value) for key, value in database.execute("SELECT key, value FROM geoslave_provenance")}
    finally:
        database.close()


def _from_text(value: str) -> Any:
    """Undo `_add_provenance`: words stay words, everything else was JSON."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _fgb_notes(path: Path) -> Any:
    return json.loads(pyogrio.read_info(path)["layer_metadata"]["DESCRIPTION"])


def _parquet_notes(path: Path) -> Any:
    return json.loads((pq.read_schema(path).metadata or {})[b"geoslave"])


def _restore_types(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Undo what formats do to types: flags as numbers, days as timestamps, whole numbers for floats."""
    table = table.drop(columns=[c for c in ("id", "fid") if c in table.columns])
    for name, column in schema.COLUMNS.items():
        if name not in table.columns:
            continue
        if column.kind == "number" and pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].astype(float)
        elif column.kind == "flag":
            table[name] = table[name].astype(bool)
        elif column.kind == "date":
            days = table[name]
            text = days.dt.strftime("%Y-%m-%d") if pd.api.types.is_datetime64_any_dtype(days) else days
            table[name] = pd.Series([None if pd.isna(day) else str(day) for day in text], table.index, dtype="object")
    return table


def _same_place(detections: gpd.GeoDataFrame, distance_m: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of rows (first < second) that overlap or have their middles within a distance."""
    shapes = detections.geometry.to_numpy()
    middles = measure.cartesian_points(shapely.centroid(shapes), detections.crs)
    near = cKDTree(middles).query_pairs(distance_m, output_type="ndarray")
    a, b = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    a, b = a[a < b], b[a < b]
    common = shapely.area(shapely.intersection(shapes[a], shapes[b]))
    area = shapely.area(shapes)
    smaller = np.minimum(area[a], area[b])
    overlap = (common >= 0.1 * (area[a] + area[b] - common)) | (common >= 0.5 * smaller)
    pairs = np.unique(np.concatenate([near, np.column_stack([a, b])[overlap]]), axis=0).astype(np.intp)
    return pairs[:, 0], pairs[:, 1]
