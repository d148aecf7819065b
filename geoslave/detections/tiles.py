"""Detections as PMTiles: one file of vector tiles that a web page reads by range, without a map server.

Tiles are for looking. Outlines are rounded to the tile's grid (under a metre at the deepest zoom) and cut
at tiles' edges; what is to be computed with is a layer (`geoslave.detections.export`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyogrio

from geoslave.detections import schema
from geoslave.detections.export import clean_provenance
from geoslave.errors import GeoslaveError
from geoslave.files import atomic_file

ENDING = ".pmtiles"
LAYER = "detections"
ZOOMS = (5, 14)
"""Zooms the tiles are made for; web maps enlarge the deepest."""


def write_tiles(
    detections: gpd.GeoDataFrame, path: Path, *, provenance: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Write detections as tiles in Web Mercator; the statement and the provenance stand in the description.

    Raises:
        GeoslaveError: if the table is no detections table, has no row, or this GDAL cannot write PMTiles.
        OutputError: if the file is there already or cannot be written.
    """
    schema.validate(detections)
    if "w" not in pyogrio.list_drivers(write=True).get("PMTiles", ""):
        raise GeoslaveError("this GDAL cannot write PMTiles (it takes 3.8 or newer): write .fgb, which maps read too")
    if not len(detections):
        raise GeoslaveError(f"no detection to be shown in {path.name}: lower --min-confidence")
    table = schema.sort(detections).to_crs("EPSG:3857")
    flags = {name: table[name].astype(int) for name in table.columns if table[name].dtype == bool}
    about = {"statement": schema.STATEMENT, **clean_provenance(provenance)}
    options = {"NAME": LAYER, "DESCRIPTION": json.dumps(about, ensure_ascii=False)}
    options |= {"MINZOOM": str(ZOOMS[0]), "MAXZOOM": str(ZOOMS[1])}
    with atomic_file(path, overwrite=overwrite) as draft:
        try:
            pyogrio.write_dataframe(
                table.assign(**flags), draft, driver="PMTiles", layer=LAYER, dataset_options=options
            )
        except pyogrio.errors.DataSourceError as error:
            raise OSError(None, str(error)) from error
    return path


def read_about(path: Path) -> dict[str, Any]:
    """The statement and the provenance that a file of tiles holds.

    Raises:
        GeoslaveError: if it is none of ours.
    """
    try:
        told = json.loads(pyogrio.read_info(path)["dataset_metadata"]["description"])
    except (pyogrio.errors.DataSourceError, KeyError, TypeError, ValueError) as error:
        raise GeoslaveError(f"{path} holds no tiles of geoslave: check the name") from error
    return dict(told)
