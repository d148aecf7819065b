"""Tables that accompany detections in a QGIS project, and GeoPackages that carry their style."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio

from geoslave.detections import export, qgis
from geoslave.detections.schema import STATEMENT
from geoslave.errors import GeoslaveError

CHANGE_COLUMNS = ("status", "first_seen", "last_seen")
_DAYS = ("first_seen", "last_seen", "first_seen_after", "gone_by", "shown_until")


def write_layer(table: gpd.GeoDataFrame, path: Path, layer: str, qml: str, name: str) -> Path:
    """Write a table into a GeoPackage (a new one, or one more layer of it) with its style.

    Paths of this machine in texts become file names; nested values become JSON.

    Args:
        qml: the style (`geoslave.detections.qgis`).
        name: of the style, as QGIS shows it.
    """
    plain = _plain(table)
    options: dict[str, Any] = export.gpkg_options(STATEMENT)
    if path.exists():
        options.pop("dataset_options")
    kinds = set(table.geometry.dropna().geom_type)
    polygons = bool(kinds) and kinds <= {"Polygon", "MultiPolygon"}
    with export.written_at():
        pyogrio.write_dataframe(
            plain,
            path,
            layer=layer,
            driver="GPKG",
            append=path.exists(),
            geometry_type="MultiPolygon" if polygons or not kinds else None,
            promote_to_multi=polygons,
            use_arrow=any(isinstance(dtype, pd.ArrowDtype) for dtype in plain.dtypes),
            **options,
        )
    qgis.embed_style(path, layer, qml, name)
    return path


def fields(table: gpd.GeoDataFrame) -> list[str]:
    """A layer's fields in a GeoPackage, in their order."""
    return ["fid", *(str(column) for column in table.columns if column != table.active_geometry_name)]


def read_table(path: Path, layer: str, needed: Sequence[str], what: str) -> gpd.GeoDataFrame:
    """A vector file that must have some columns.

    Raises:
        GeoslaveError: if it is missing, cannot be read, or lacks a column or a CRS.
    """
    if not path.is_file():
        raise GeoslaveError(f"{path} is not there: check the name")
    try:
        if path.suffix.lower() == ".parquet":
            table = gpd.read_parquet(path)
        else:
            there = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
            table = gpd.read_file(path, layer=layer if layer in there else there[0])
    except Exception as error:  # every reader has its own errors
        raise GeoslaveError(f"{path} cannot be read as {what}: {' '.join(str(error).split())}") from error
    missing = [column for column in needed if column not in table]
    if missing or not isinstance(table, gpd.GeoDataFrame):
        raise GeoslaveError(f"{path} holds no {what}: it has no column {', '.join(missing) or 'of geometry'}")
    if table.crs is None:
        raise GeoslaveError(f"{path} has no CRS: say where it is, e.g. with ogr2ogr -a_srs")
    return table


def read_verdicts(path: Path) -> gpd.GeoDataFrame:
    """Verdicts of `geoslave review consensus` (verdicts.gpkg).

    Raises:
        GeoslaveError: if the file holds none.
    """
    table = read_table(path, "verdicts", ("answer",), "verdicts")
    return table[table.geometry.notna()].reset_index(drop=True)


def read_changes(path: Path) -> gpd.GeoDataFrame:
    """Sites with their history (`geoslave estimate change --out`).

    Raises:
        GeoslaveError: if the file holds something else.
    """
    return read_table(path, "sites", CHANGE_COLUMNS, "changes")


def dated_changes(changes: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Days as days, which QGIS's temporal controller wants.

    `shown_until` is the day of the first absence; empty for what is there or could not be seen any more.
    """
    table = changes.assign(shown_until=changes.get("gone_by"))
    for name in _DAYS:
        if name in table:
            days = [_day(value) for value in table[name]]
            table[name] = pd.Series(days, table.index, dtype=pd.ArrowDtype(pa.date32()))
    return table


def read_counts(path: Path, areas: Path, area_name: str | None = None) -> gpd.GeoDataFrame:
    """Counts of `geoslave estimate count --areas --out` on their polygons; the polygons' order.

    Args:
        path: its JSON.
        areas: the polygons it was counted within.
        area_name: their column of names; None takes the one that holds most of the counts' names.

    Returns:
        columns area, sites, low, high, level, n_reviewed, method; empty where an area has no estimate.

    Raises:
        GeoslaveError: if the files do not belong together.
    """
    groups = _groups(path)
    polygons = read_table(areas, "", (), "areas")
    others = polygons.drop(columns=polygons.active_geometry_name)
    name = area_name or max(
        others.columns, key=lambda column: others[column].astype(str).isin(groups).sum(), default=""
    )
    if name not in others:
        raise GeoslaveError(f"{areas} has no column '{name or 'of names'}': say --area-name, one of its columns")
    names = others[name].astype(str)
    if not names.isin(groups).any():
        raise GeoslaveError(f"{path} counts none of the areas in {areas}: give the polygons that it was counted within")
    return counts_table(names, groups, polygons.geometry)


def counts_table(
    names: Sequence[str], groups: Mapping[str, Mapping[str, Any]], shapes: gpd.GeoSeries
) -> gpd.GeoDataFrame:
    """Counts by area as a layer.

    Args:
        names: of the areas.
        groups: name -> value, low, high, level, n_reviewed, method (an `Estimate`).
        shapes: the areas, in the order of `names`.
    """
    told = [groups.get(name, {}) for name in names]
    columns = {
        "area": list(names),
        "sites": _floats(told, "value"),
        "low": _floats(told, "low"),
        "high": _floats(told, "high"),
        "level": _floats(told, "level"),
        "n_reviewed": pd.array([one.get("n_reviewed") for one in told], dtype="Int64"),
        "method": [one.get("method") for one in told],
    }
    return gpd.GeoDataFrame(columns, geometry=shapes.to_numpy(), crs=shapes.crs)


def _floats(told: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [np.nan if one.get(name) is None else float(one[name]) for one in told]


def _groups(path: Path) -> dict[str, Any]:
    """Name of an area -> its estimate."""
    if not path.is_file():
        raise GeoslaveError(f"{path} is not there: check the name")
    try:
        by = json.loads(path.read_text(encoding="utf-8"))["by"]
        groups = by["area"] if "area" in by else next(iter(by.values()))
        assert all("value" in one for one in groups.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, AssertionError):
        raise GeoslaveError(
            f"{path} holds no counts by area: make it with  geoslave estimate count ... --areas FILE --out {path.name}"
        ) from None
    return dict(groups)


def _day(value: Any) -> datetime.date | None:
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return pd.Timestamp(str(value)).date()


def _plain(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Texts without paths of this machine; what GeoPackage cannot hold, as text."""
    made = table.rename_geometry("geometry") if table.active_geometry_name != "geometry" else table.copy()
    made = made.drop(columns=[name for name in made.columns if str(name).lower() in ("fid", "ogc_fid")])
    for name in made.columns:
        if name != "geometry" and (made[name].dtype == object or isinstance(made[name].dtype, pd.StringDtype)):
            made[name] = pd.Series([_text(value) for value in made[name]], made.index, dtype=object)
    return made


def _text(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    cleaned = export.clean_provenance({"value": value})["value"]
    return json.dumps(cleaned, ensure_ascii=False) if isinstance(cleaned, (list, dict)) else cleaned
