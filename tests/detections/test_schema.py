"""The detections table and its check."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from geoslave.detections import schema
from geoslave.errors import GeoslaveError


def table(**changes: Any) -> gpd.GeoDataFrame:
    columns: dict[str, Any] = {
        "detection_id": ["a", "b"],
        "class_name": ["brick_kiln", "brick_kiln"],
        "confidence": [0.9, 0.4],
        "calibrated": [False, False],
        "score_mean": [0.9, 0.4],
        "score_max": [1.0, 0.5],
        "area_m2": [5000.0, 4000.0],
        "length_m": [100.0, 90.0],
        "width_m": [50.0, 45.0],
        "date": ["2024-01-02", None],
        "scene_id": ["s", "s"],
        "model_id": ["m", "m"],
        "truncated": [False, True],
    }
    columns |= changes
    return gpd.GeoDataFrame(columns, geometry=[shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)], crs="EPSG:32643")


def test_a_table_and_an_empty_one_pass() -> None:
    schema.validate(table())
    nothing = schema.empty("EPSG:4326")
    schema.validate(nothing)
    assert list(nothing.columns) == [*schema.COLUMNS, "geometry"] and nothing.crs == "EPSG:4326"


@pytest.mark.parametrize("name", list(schema.COLUMNS))
def test_a_missing_column_is_named(name: str) -> None:
    with pytest.raises(GeoslaveError, match=f"'{name}'"):
        schema.validate(table().drop(columns=name))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("detection_id", ["a", "a"]),
        ("class_name", ["brick_kiln", None]),
        ("scene_id", [1, 2]),
        ("confidence", [0.5, 1.2]),
        ("confidence", [0.5, np.nan]),
        ("confidence", ["high", "low"]),
        ("score_mean", [-0.1, 0.3]),
        ("calibrated", [0, 1]),
        ("truncated", ["yes", "no"]),
        ("area_m2", [-1.0, 5.0]),
        ("date", ["2 January 2024", None]),
        ("date", ["2024-02-30", None]),
    ],
)
def test_a_wrong_column_is_named(name: str, values: list[Any]) -> None:
    with pytest.raises(GeoslaveError, match=f"'{name}'"):
        schema.validate(table(**{name: values}))


def test_geometry_must_be_placed_polygons() -> None:
    with pytest.raises(GeoslaveError, match=r"'geometry'.*CRS"):
        schema.validate(table().set_crs(None, allow_override=True))
    points = table()
    points["geometry"] = points.geometry.centroid
    with pytest.raises(GeoslaveError, match=r"'geometry'.*polygon"):
        schema.validate(points)


def test_ids_come_from_place_class_and_day() -> None:
    one = schema.detection_id(88.123456, 22.5, "brick_kiln", "2024-01-02")
    assert one == schema.detection_id(88.1234560001, 22.5, "brick_kiln", "2024-01-02")
    others = [
        schema.detection_id(88.12347, 22.5, "brick_kiln", "2024-01-02"),
        schema.detection_id(88.123456, 22.5, "mine", "2024-01-02"),
        schema.detection_id(88.123456, 22.5, "brick_kiln", None),
    ]
    assert len({one, *others}) == 4
    assert schema.detection_id(-0.0, -1e-9, "mine", None) == schema.detection_id(0.0, 0.0, "mine", None)


def test_every_column_can_be_read_by_people() -> None:
    assert all(column.alias and column.meaning for column in schema.COLUMNS.values())
    assert "never evidence" in schema.STATEMENT
