"""Labels for training from what reviewers said, hard negatives included.

A labels table (see `geoslave.labels.table`): a confirmed detection is an outline with presence yes, a
refused one an outline with presence no (a hard negative: it looked like a site to the model), one nobody
is sure of is unsure and left out of gain and loss. A detection whose outline lies beside its site is
unsure too: there is one, but not where the outline is. Sites found in searches are points with the
target's typical footprint; a searched tile without any is a chip with presence no.
"""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from geoslave.review.tasks import ReviewError
from geoslave.review.verdicts import Outcome
from geoslave.targets import Target

LEAST_CERTAINTY = 0.8
"""A verdict this sure either way is a label; what lies between is unsure."""
SOURCE = "review"


def labels_from(outcome: Outcome, target: Target, certainty: float = LEAST_CERTAINTY) -> gpd.GeoDataFrame:
    """The labels table of a review, in longitude/latitude.

    Args:
        certainty: from 0.5 to 1; verdicts less sure than this are unsure.

    Raises:
        ReviewError: if nothing was decided.
    """
    parts = [_detections(outcome.verdicts, target, certainty), _sites(outcome.sites, target)]
    parts += [_empty_tiles(outcome.tiles, target, certainty)]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise ReviewError("the review has no verdicts yet: nobody's vote would become a label")
    table = pd.concat(parts, ignore_index=True)
    return gpd.GeoDataFrame(table.assign(source=SOURCE), geometry="geometry", crs=4326)


def _detections(verdicts: gpd.GeoDataFrame, target: Target, certainty: float) -> pd.DataFrame:
    if verdicts.empty:
        return pd.DataFrame()
    probability = verdicts["probability"].to_numpy(float)
    presence = np.where(probability >= certainty, "yes", np.where(probability <= 1 - certainty, "no", "unsure"))
    beside = 2 * verdicts["n_offset"].to_numpy(float) > verdicts["n_votes"].to_numpy(float)
    presence[beside & (presence == "yes")] = "unsure"
    told = verdicts["class_name"].astype(object).where(verdicts["class_name"].astype(bool), target.name)
    return pd.DataFrame(
        {
            "class_name": told,
            "certainty": np.nan_to_num(np.maximum(probability, 1 - probability), nan=0.5),
            "date": verdicts["date"],
            "kind": "outline",
            "presence": presence,
            "detection_id": verdicts["detection_id"],
            "geometry": verdicts.geometry,
        }
    )


def _sites(sites: gpd.GeoDataFrame, target: Target) -> pd.DataFrame:
    sites = sites[sites["counts"].astype(bool)]
    if sites.empty:
        return pd.DataFrame()
    boxes = [_footprint(point.x, point.y, target) for point in sites.geometry]
    told = {"class_name": target.name, "certainty": sites["share"], "date": sites["date"], "kind": "point"}
    return pd.DataFrame(told | {"presence": "yes", "geometry": boxes})


def _empty_tiles(tiles: gpd.GeoDataFrame, target: Target, certainty: float) -> pd.DataFrame:
    if tiles.empty:
        return pd.DataFrame()
    empty = tiles[(tiles["n_sites"] == 0) & (tiles["probability"] <= 1 - certainty)]
    told = {"class_name": target.name, "certainty": 1 - empty["probability"], "date": empty["date"], "kind": "chip"}
    return pd.DataFrame(told | {"presence": "no", "geometry": empty.geometry})


def _footprint(lon: float, lat: float, target: Target) -> BaseGeometry:
    """A rectangle of the target's typical size about a point."""
    local = CRS.from_proj4(f"+proj=aeqd +lon_0={lon} +lat_0={lat} +datum=WGS84 +units=m")
    length, width = target.typical_m
    to_lonlat = Transformer.from_crs(local, 4326, always_xy=True)
    box = shapely.box(-length / 2, -width / 2, length / 2, width / 2)
    return shapely.transform(box, lambda xy: np.column_stack(to_lonlat.transform(xy[:, 0], xy[:, 1])))
