"""Labels in the formats people have end in one table; what cannot be used says why."""

from __future__ import annotations

import geopandas as gpd
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from geoslave.errors import LabelError
from geoslave.labels.formats import COLUMNS, LabelWarning, labels_on, read_labels
from geoslave.targets import get_target

KILN = shapely.box(89.0, 24.0, 89.001, 24.0005)
BOW = shapely.Polygon([(89, 24), (89.001, 24.001), (89.001, 24), (89, 24.001)])


def sites(*outlines: shapely.Geometry, **columns: object) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=list(outlines), crs=4326).assign(**columns)


@pytest.mark.parametrize("name", ["k.geojson", "k.gpkg", "k.fgb", "k.shp", "k.parquet", "k.kml"])
def test_every_format_gives_the_same_table(tmp_path, name: str) -> None:
    path = tmp_path / name
    table = sites(KILN, KILN, region=["a", "b"])
    table["class"] = "Zigzag"
    if name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        table.to_file(path, driver="KML" if name.endswith(".kml") else None)
    labels = read_labels(path)
    assert list(labels.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert labels["class_name"].tolist() == ["Zigzag", "Zigzag"]
    assert labels["region"].tolist() == ["a", "b"]
    assert labels["certainty"].tolist() == [1, 1] and labels["source"][0] == name and labels["date"].isna().all()
    assert labels.geometry.iloc[0].equals_exact(KILN, 1e-9) or labels.geometry.iloc[0].equals(KILN)


def test_the_real_labels_keep_their_columns(data_dir) -> None:
    labels = read_labels(data_dir / "kilns_s2" / "kilns.geojson", get_target("brick_kiln"))
    assert len(labels) == 41
    assert set(labels["class_name"]) == {"Zigzag", "FCBK"}
    assert {"region", "patch_id"} <= set(labels.columns)


def test_points_of_a_csv_get_the_targets_size(tmp_path) -> None:
    path = tmp_path / "k.csv"
    path.write_text("name,Longitude,Latitude,date,certainty\na,89.5,24.1,2024-01-31,0.5\nb,89.6,24.2,,\n")
    labels = read_labels(path, get_target("brick_kiln"))
    metres = labels.to_crs(32645)
    assert metres.area.to_numpy() == pytest.approx([4800, 4800], rel=0.01)
    assert labels["class_name"].tolist() == ["brick_kiln"] * 2
    assert labels["date"].tolist() == ["2024-01-31", None] and labels["certainty"].tolist() == [0.5, 1]
    assert labels["name"].tolist() == ["a", "b"]


def test_outlines_that_cross_themselves_are_repaired_and_told(tmp_path) -> None:
    path = tmp_path / "k.gpkg"
    sites(BOW, KILN, None).to_file(path)
    with pytest.warns(LabelWarning, match=r"1 outlines that crossed.*1 rows without"):
        labels = read_labels(path)
    assert len(labels) == 2 and labels.geometry.is_valid.all() and labels.to_crs(32645).area.min() > 0


def bad_files(folder) -> dict[str, str]:
    """Name of a file that cannot be used -> what its message must say."""
    sites(KILN).to_file(folder / "nowhere.shp")
    (folder / "nowhere.prj").unlink()
    sites().to_file(folder / "empty.geojson", driver="GeoJSON")
    sites(shapely.Point(89, 24)).to_file(folder / "points.geojson")
    sites(shapely.LineString([(89, 24), (89, 25)])).to_file(folder / "lines.geojson")
    sites(KILN).to_file(folder / "two.gpkg", layer="a")
    sites(KILN).to_file(folder / "two.gpkg", layer="b")
    (folder / "text.geojson").write_text("kilns are here")
    (folder / "zero.gpkg").touch()
    (folder / "bad.parquet").write_bytes(b"PAR1")
    (folder / "names.csv").write_text("name\na\n")
    (folder / "metres.csv").write_text("lon,lat\n500000,2600000\n")
    (folder / "blank.csv").touch()
    (folder / "kilns.docx").touch()
    (folder / "folder").mkdir()
    return {
        "nowhere.shp": "no CRS.*a_srs",
        "empty.geojson": "no outline",
        "points.geojson": "target",
        "lines.geojson": "LineString",
        "two.gpkg": "several layers.*a, b",
        "text.geojson": "cannot be read",
        "zero.gpkg": "cannot be read",
        "bad.parquet": "cannot be read",
        "names.csv": "lon and lat",
        "metres.csv": "row 2.*degrees",
        "blank.csv": "cannot be read",
        "kilns.docx": "not a labels file",
        "folder": "not a labels file",
        "absent.gpkg": "no such file",
    }


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path) -> None:
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(LabelError, match=message) as error:
            read_labels(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_layer_that_is_not_there_is_named(tmp_path) -> None:
    sites(KILN).to_file(tmp_path / "k.gpkg", layer="a")
    with pytest.raises(LabelError, match="no layer 'b'; it has a"):
        read_labels(tmp_path / "k.gpkg", layer="b")


def test_labels_are_laid_on_a_raster_in_another_crs() -> None:
    labels = sites(KILN, shapely.box(50, 24, 50.001, 24.001), class_name="kiln")
    x, y = gpd.GeoSeries([KILN.centroid], crs=4326).to_crs(32645)[0].coords[0]
    geobox = GeoBox((100, 100), Affine(10, 0, x - 500, 0, -10, y + 500), 32645)
    here = labels_on(labels, geobox)
    assert here.index.tolist() == [0] and here.crs == 32645


def test_labels_of_another_place_are_refused() -> None:
    geobox = GeoBox((10, 10), Affine(10, 0, 500_000, 0, -10, 100_000), 32645)
    with pytest.raises(LabelError, match=r"none of the 1 labels.*89.000\.\.89.001 E"):
        labels_on(sites(KILN), geobox)
    with pytest.raises(LabelError, match="no CRS"):
        labels_on(sites(KILN), GeoBox((10, 10), Affine.identity(), None))
