"""The detections table: its columns, what they mean, and a check that a table keeps to them.

One row is one site as one scene shows it. The table is a GeoDataFrame in the scene's own CRS, with
polygons (multipolygons only where the antimeridian splits one). Further columns may follow the ones
named here; they must be flat (numbers, text, booleans).
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd

from geoslave.errors import GeoslaveError

STATEMENT = (
    "A detection is an indicator of a kind of site, never evidence of a crime, of forced labour, or of anything "
    "about the people who are there. Verify before you act, and weigh the harm a published place can do."
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the detections table."""

    kind: Literal["text", "number", "flag", "date"]
    alias: str
    """The name people read in QGIS."""
    meaning: str
    share: bool = False
    """A number in [0, 1], never missing."""


COLUMNS: dict[str, Column] = {
    "detection_id": Column("text", "Detection", "Made from place, class and date: the same after a rerun"),
    "class_name": Column("text", "Kind of site", "What the model was trained to find, e.g. brick_kiln"),
    "confidence": Column(
        "number",
        "Confidence",
        "0 to 1. If calibrated: the share of such detections that people confirm. If not: a score, "
        "good for ranking, no probability; the layer's provenance says which",
        share=True,
    ),
    "calibrated": Column("flag", "Confidence is calibrated", "True if confidence was fitted on reviewed sites"),
    "score_mean": Column("number", "Mean score", "Mean of the model's scores over the object, 0 to 1", share=True),
    "score_max": Column("number", "Highest score", "Highest of the model's scores in the object, 0 to 1", share=True),
    "area_m2": Column("number", "Area (m²)", "Area on the ellipsoid of the outline, square metres"),
    "length_m": Column("number", "Length (m)", "Longer side of the smallest rotated box, metres"),
    "width_m": Column("number", "Width (m)", "Shorter side of the smallest rotated box, metres"),
    "date": Column("date", "Date of image", "Day the imagery was taken, YYYY-MM-DD; empty if not known"),
    "scene_id": Column("text", "Scene", "The scene it was seen in"),
    "model_id": Column("text", "Model", "The model package that made the scores, with its version"),
    "truncated": Column(
        "flag", "Cut by the edge", "True if it touches the scene's edge or missing imagery: it may be larger than shown"
    ),
}
"""The columns in their order, without the last one, `geometry`."""

_DTYPES = {"text": "object", "number": "float64", "flag": "bool", "date": "object"}


def empty(crs: Any) -> gpd.GeoDataFrame:
    """A detections table without rows, in any CRS that pyproj understands."""
    columns = {name: pd.Series([], dtype=_DTYPES[column.kind]) for name, column in COLUMNS.items()}
    return gpd.GeoDataFrame(columns, geometry=gpd.GeoSeries([], crs=crs), crs=crs)


def detection_id(lon: float, lat: float, class_name: str, date: str | None) -> str:
    """An id made from content, so that a rerun gives the same one and votes on it survive.

    `lon` and `lat` are degrees of a point inside the outline; six decimals (a decimetre) count.
    """
    place = f"{lon + 0.0:.6f},{lat + 0.0:.6f}".replace("-0.000000", "0.000000")
    return hashlib.sha256(f"{place},{class_name},{date or ''}".encode()).hexdigest()[:16]


def validate(detections: gpd.GeoDataFrame) -> None:
    """Check that a table is a detections table.

    Raises:
        GeoslaveError: that names the column and what is wrong with it.
    """
    if not isinstance(detections, gpd.GeoDataFrame):
        raise GeoslaveError("detections must be a GeoDataFrame: read them with geoslave.detections.export")
    for name, column in COLUMNS.items():
        if name not in detections.columns:
            raise GeoslaveError(f"detections have no column '{name}' ({column.meaning}): add it")
        _check_column(name, column, detections[name])
    if detections["detection_id"].duplicated().any():
        twice = detections.loc[detections["detection_id"].duplicated(), "detection_id"].iloc[0]
        raise GeoslaveError(f"column 'detection_id' holds {twice} twice: combine() merges what is seen twice")
    _check_geometry(detections)


def sort(detections: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Most confident first, equals by id: the one order of a detections table."""
    ordered = detections.sort_values(["confidence", "detection_id"], ascending=[False, True], kind="stable")
    return ordered.reset_index(drop=True)


def _check_column(name: str, column: Column, values: pd.Series) -> None:
    if len(values) == 0:
        return
    if column.kind == "number":
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            raise GeoslaveError(f"column '{name}' must hold numbers, not {values.dtype}")
        number = values.to_numpy(float)
        if column.share and not ((number >= 0) & (number <= 1)).all():
            raise GeoslaveError(f"column '{name}' must lie between 0 and 1 in every row")
        if (number < 0).any():
            raise GeoslaveError(f"column '{name}' must not be negative")
    elif column.kind == "flag":
        if not pd.api.types.is_bool_dtype(values):
            raise GeoslaveError(f"column '{name}' must hold true or false, not {values.dtype}")
    elif column.kind == "text":
        if not values.map(lambda value: isinstance(value, str) and value != "").all():
            raise GeoslaveError(f"column '{name}' must hold text in every row")
    elif not values.dropna().astype(str).map(_is_day).all():
        raise GeoslaveError(f"column '{name}' must hold days as YYYY-MM-DD, or nothing")


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _check_geometry(detections: gpd.GeoDataFrame) -> None:
    if detections.active_geometry_name != "geometry":
        raise GeoslaveError("column 'geometry' must be the geometry of the table")
    if detections.crs is None:
        raise GeoslaveError("column 'geometry' has no CRS: set it with detections.set_crs(...)")
    shapes = detections.geometry
    if not np.isin(shapes.geom_type.to_numpy(), ["Polygon", "MultiPolygon"]).all() or shapes.is_empty.any():
        raise GeoslaveError("column 'geometry' must hold a polygon in every row")
