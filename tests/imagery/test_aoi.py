"""An area of interest is the polygons of one layer, and never a guess at which."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyogrio
import pytest
import shapely

from geoslave.errors import GeoslaveError
from geoslave.imagery.aoi import read_aoi

AREA = gpd.GeoDataFrame(geometry=[shapely.box(90, 20, 91, 21)], crs=4326)
PLACES = gpd.GeoDataFrame(geometry=[shapely.Point(90, 20)], crs=4326)


def test_of_several_layers_the_one_with_polygons_is_read(tmp_path: Path) -> None:
    """QGIS keeps places and styles in the same file, and the layer that was made first comes first."""
    path = tmp_path / "field.gpkg"
    PLACES.to_file(path, layer="camps")
    AREA.to_file(path, layer="area")
    pyogrio.write_dataframe(pd.DataFrame({"style": ["red"]}), path, layer="layer_styles", append=True)
    assert read_aoi(path).union_all().equals(AREA.union_all())


def test_several_layers_of_polygons_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "field.gpkg"
    AREA.to_file(path, layer="area")
    AREA.to_file(path, layer="searched")
    with pytest.raises(GeoslaveError, match=r"2 layers \(area, searched\)"):
        read_aoi(path)


def test_a_file_without_polygons_says_so(tmp_path: Path) -> None:
    PLACES.to_file(tmp_path / "camps.geojson")
    with pytest.raises(GeoslaveError, match="holds no polygon"):
        read_aoi(tmp_path / "camps.geojson")
