"""The frame of a count: the searched ground cut into tiles, each with its detections and whether it was searched.

Tiles are squares of equal area on one grid of the whole earth (EPSG:6933, Brodzik et al. 2012), anchored at its
origin: the same place has the same tile, whatever extent was asked for. Ground that failed or was not run keeps
its tiles and says so, for an estimate must not take it for empty.
"""

from __future__ import annotations

from collections.abc import Mapping

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from geoslave.detections.match import lonlat
from geoslave.errors import GeoslaveError

TILE_M = 1_000.0
"""Side of a tile: reviewers can search it in one look, and it seldom holds more than a few sites."""
EQUAL_AREA = "EPSG:6933"
STATES = {"done": "ok", "ok": "ok", "failed": "failed", "to do": "not_run", "not_run": "not_run", "missing": "missing"}
"""What a block's state says of its ground, in the words of `geoslave.estimate.tables`."""
_BEST = ("ok", "failed", "missing", "not_run")
"""Where blocks overlap, ground that one of them searched is searched."""

Tiles = NDArray[np.int64]


def make_frame(
    detections: gpd.GeoDataFrame,
    ground: gpd.GeoDataFrame,
    tile_m: float = TILE_M,
    aoi: shapely.Geometry | None = None,
) -> pd.DataFrame:
    """Tiles whose middle lies on the ground, and those that hold a detection.

    Args:
        detections: their `confidence`, if they have it, gives `score` and `expected_hits`.
        ground: polygons; a column `state` (done, failed, to do) says what became of each, else all was searched.
        aoi: in longitude/latitude: only tiles whose middle lies in it.

    Returns:
        One row a tile: tile_id, n_flagged, score, expected_hits, status, lon, lat (its middle, WGS 84).

    Raises:
        GeoslaveError: without ground, with an unknown state, or if a layer has no CRS.
    """
    states = _states(ground)
    areas = gpd.GeoSeries(lonlat(ground, "the ground"), crs=4326).to_crs(EQUAL_AREA)
    status = _searched(areas, states, tile_m, aoi)
    points = shapely.point_on_surface(lonlat(detections, "detections"))
    found = _tile_at(shapely.get_x(points), shapely.get_y(points), tile_m)
    flagged = pd.DataFrame({"x": found[:, 0], "y": found[:, 1], "confidence": _confidence(detections)})
    held = flagged.groupby(["x", "y"])["confidence"].agg(["size", "max", "sum"])
    # a detection at the edge, in a tile whose middle lies outside, was found on searched ground
    index = status.index.union(held.index)
    frame = pd.DataFrame({"status": status.reindex(index).fillna("ok")}, index=index)
    frame["n_flagged"] = held["size"].reindex(index).fillna(0).astype(int)
    frame["score"] = held["max"].reindex(index).fillna(0.0).round(4)
    frame["expected_hits"] = held["sum"].reindex(index).fillna(0.0).round(4)
    x, y = (index.get_level_values(k).to_numpy(float) for k in (0, 1))
    lon, lat = _to_lonlat((x + 0.5) * tile_m, (y + 0.5) * tile_m)
    frame["tile_id"] = [f"x{int(a)}y{int(b)}" for a, b in zip(x, y, strict=True)]
    frame["lon"], frame["lat"] = np.round(lon, 6), np.round(lat, 6)
    columns = ["tile_id", "n_flagged", "score", "expected_hits", "status", "lon", "lat"]
    return frame.reset_index(drop=True)[columns]


def gaps(frame: pd.DataFrame) -> Mapping[str, int]:
    """How many tiles of a frame were not searched, by why."""
    told = frame["status"].value_counts()
    return {str(name): int(n) for name, n in told.items() if name != "ok"}


def _states(ground: gpd.GeoDataFrame) -> NDArray[np.object_]:
    if not len(ground):
        raise GeoslaveError("there is no ground to make a frame of: give polygons of what was searched")
    if "state" not in ground:
        return np.full(len(ground), "ok", object)
    told = ground["state"].astype(str).str.strip().str.lower()
    odd = told[~told.isin(STATES)]
    if len(odd):
        raise GeoslaveError(f"a block's state is '{odd.iloc[0]}': it must be one of {', '.join(STATES)}")
    return told.map(STATES).to_numpy(object)


def _searched(
    areas: gpd.GeoSeries, states: NDArray[np.object_], tile_m: float, aoi: shapely.Geometry | None
) -> pd.Series:
    """The status of each tile whose middle lies on the ground, by its number east and north."""
    parts = []
    for shape, state in zip(areas, states, strict=True):
        tiles = _middles_in(shape, tile_m)
        if len(tiles):
            parts.append(pd.DataFrame({"x": tiles[:, 0], "y": tiles[:, 1], "rank": _BEST.index(str(state))}))
    if not parts:
        raise GeoslaveError(f"no tile of {tile_m:g} m has its middle on the ground: take smaller tiles")
    best = pd.concat(parts).groupby(["x", "y"])["rank"].min()
    if aoi is not None:
        x, y = (best.index.get_level_values(k).to_numpy(float) for k in (0, 1))
        lon, lat = _to_lonlat((x + 0.5) * tile_m, (y + 0.5) * tile_m)
        shapely.prepare(aoi)
        best = best[shapely.contains_xy(aoi, lon, lat)]
    return best.map(lambda rank: _BEST[rank])


def _middles_in(shape: shapely.Geometry, tile_m: float) -> Tiles:
    """Numbers [n, 2] of the tiles whose middle a polygon holds."""
    west, south, east, north = np.floor(shapely.bounds(shape) / tile_m).astype(np.int64)
    columns, rows = np.meshgrid(np.arange(west, east + 1), np.arange(south, north + 1))
    shapely.prepare(shape)
    inside = shapely.contains_xy(shape, (columns + 0.5) * tile_m, (rows + 0.5) * tile_m)
    return np.stack([columns[inside], rows[inside]], axis=1)


def _tile_at(lon: NDArray[np.float64], lat: NDArray[np.float64], tile_m: float) -> Tiles:
    x, y = Transformer.from_crs(4326, EQUAL_AREA, always_xy=True).transform(lon, lat)
    return np.floor(np.stack([np.asarray(x), np.asarray(y)], axis=1).reshape(-1, 2) / tile_m).astype(np.int64)


def _to_lonlat(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lon, lat = Transformer.from_crs(EQUAL_AREA, 4326, always_xy=True).transform(x, y)
    return np.asarray(lon), np.asarray(lat)


def _confidence(detections: gpd.GeoDataFrame) -> NDArray[np.float64]:
    if "confidence" not in detections:
        return np.ones(len(detections))
    return detections["confidence"].to_numpy(float)
