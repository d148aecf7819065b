"""Detections against an official register: registered, unregistered, registered but not seen."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd

from geoslave.detections.change import match_optimally
from geoslave.detections.match import lonlat

REGISTERED, UNREGISTERED, NOT_SEEN = "registered", "unregistered", "registered, not seen"
WITHIN_M = 150.0
"""Registers give an address or a gate more often than the site's middle."""


def match_register(
    detections: gpd.GeoDataFrame, register: gpd.GeoDataFrame, max_distance_m: float = WITHIN_M
) -> gpd.GeoDataFrame:
    """Match one to one, as many as possible, then the nearest.

    Returns:
        One row a place in EPSG:4326: `status`, `distance_m` between the two (missing where there is one), the row
        numbers `detection_row` and `register_row` from 0 (-1: none), and the register's columns as `register_<name>`.
        Places seen have the detection's outline.

    Raises:
        GeoslaveError: if a layer has no CRS.
    """
    seen, listed = lonlat(detections, "detections"), lonlat(register, "register")
    pairs = match_optimally(seen, listed, max_distance_m)
    alone = np.setdiff1d(np.arange(len(seen)), pairs.a)
    missed = np.setdiff1d(np.arange(len(listed)), pairs.b)
    none = np.full
    table = pd.DataFrame(
        {
            "status": np.repeat([REGISTERED, UNREGISTERED, NOT_SEEN], [len(pairs.a), len(alone), len(missed)]),
            "distance_m": np.r_[np.round(pairs.distance_m, 1), none(len(alone) + len(missed), np.nan)],
            "detection_row": np.r_[pairs.a, alone, none(len(missed), -1)],
            "register_row": np.r_[pairs.b, none(len(alone), -1), missed],
        }
    )
    said = register.drop(columns=register.geometry.name).reset_index(drop=True).add_prefix("register_")
    said = said.reindex(table["register_row"].where(table["register_row"] >= 0)).reset_index(drop=True)
    geometry = np.concatenate([seen[pairs.a], seen[alone], listed[missed]])
    return gpd.GeoDataFrame(pd.concat([table, said], axis=1), geometry=list(geometry), crs=4326)
