"""Files of detections: readable everywhere, whole or not there, the same bytes again; and several scenes as one."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely

from geoslave.detections import export, measure, schema
from geoslave.errors import GeoslaveError, OutputError
from geoslave.targets import get_target

ENDINGS = [".geojson", ".gpkg", ".fgb", ".parquet"]
PROVENANCE = {
    "geoslave": "0.1.0",
    "created": "2024-05-01T10:00:00Z",
    "model": "/home/maria/models/kiln-s2",
    "command": "geoslave detect /home/maria/my scenes/a.tif --out='C:\\Users\\maria\\out.gpkg'",
    "scenes": ["/data/maria/a.tif", "https://example.org/scenes/b.tif"],
    "user": "maria",
    "thresholds": {"low": 0.3, "high": 0.5},
}


def table(
    shapes: list[Any], crs: Any = "EPSG:32643", scene: str = "scene", confidence: list[float] | None = None, **more: Any
) -> gpd.GeoDataFrame:
    geometry = np.array(shapes, object)
    length, width = measure.sides_m(geometry, crs)
    points = measure.lonlat_points(shapely.point_on_surface(geometry), crs)
    sure = confidence or [round(max(0.9 - 0.1 * i, 0.01), 2) for i in range(len(shapes))]
    columns = {
        "detection_id": [schema.detection_id(x, y, "brick_kiln", scene) for x, y in points],
        "class_name": "brick_kiln",
        "confidence": sure,
        "calibrated": False,
        "score_mean": sure,
        "score_max": sure,
        "area_m2": measure.areas_m2(geometry, crs).round(1),
        "length_m": length.round(1),
        "width_m": width.round(1),
        "date": ["2024-01-02", *[None] * (len(shapes) - 1)],
        "scene_id": scene,
        "model_id": "model",
        "truncated": [i % 2 == 1 for i in range(len(shapes))],
    } | more
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=crs)


def kilns(n: int = 4) -> gpd.GeoDataFrame:
    """Outlines with a hole, clockwise as well as not."""
    x = 500_000.0
    shapes: list[Any] = [shapely.box(x + 200 * i, 3e6, x + 200 * i + 100, 3e6 + 50, ccw=i % 2 == 0) for i in range(n)]
    shapes[0] = shapes[0].difference(shapely.box(x + 20, 3e6 + 20, x + 80, 3e6 + 30))
    return table(shapes)


def same_attributes(a: gpd.GeoDataFrame, b: gpd.GeoDataFrame) -> bool:
    columns = [*schema.COLUMNS]
    return (
        a[columns]
        .astype(object)
        .where(a[columns].notna(), None)
        .equals(b[columns].astype(object).where(b[columns].notna(), None))
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_read_back_is_what_was_written(tmp_path: Path, ending: str) -> None:
    detections = kilns()
    path = export.write_detections(detections, tmp_path / f"out{ending}", provenance=PROVENANCE)
    back = export.read_detections(path)
    schema.validate(back)
    assert same_attributes(back, detections)
    if ending == ".geojson":
        assert back.crs == "EPSG:4326"
        away = back.to_crs(detections.crs).geometry.hausdorff_distance(detections.geometry)
        assert away.max() < 0.02, "seven decimals are a centimetre"
    else:
        assert back.crs == detections.crs
        assert back.geometry.normalize().equals(detections.geometry.normalize())


@pytest.mark.parametrize("ending", ENDINGS)
def test_polygons_in_two_parts_and_dates_all_unknown_are_written(tmp_path: Path, ending: str) -> None:
    detections = kilns().assign(date=None)
    parts = [shapely.multipolygons([s, shapely.box(0, 0, 5, 5)]) if i else s for i, s in enumerate(detections.geometry)]
    detections = detections.set_geometry(gpd.GeoSeries(parts, crs=detections.crs))
    back = export.read_detections(export.write_detections(detections, tmp_path / f"o{ending}", provenance={}))
    assert same_attributes(back, detections)
    assert [shapely.get_num_geometries(s) for s in back.geometry] == [1, 2, 2, 2]


def test_the_date_is_a_day_where_the_format_has_days(tmp_path: Path) -> None:
    path = export.write_detections(kilns(), tmp_path / "o.gpkg", provenance={})
    info = pyogrio.read_info(path, layer="detections")
    assert dict(zip(info["fields"], info["ogr_types"], strict=True))["date"] == "OFTDate"
    path = export.write_detections(kilns(), tmp_path / "o.parquet", provenance={})
    assert str(pq.read_schema(path).field("date").type) == "date32[day]"


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_found_is_a_valid_file(tmp_path: Path, ending: str) -> None:
    path = export.write_detections(schema.empty("EPSG:32643"), tmp_path / f"out{ending}", provenance={})
    back = export.read_detections(path)
    schema.validate(back)
    assert len(back) == 0
    if ending == ".geojson":
        assert json.loads(path.read_text())["features"] == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_detections_in_any_order_give_the_same_bytes(tmp_path: Path, ending: str) -> None:
    one = export.write_detections(kilns(), tmp_path / f"one{ending}", provenance={"seed": 1}).read_bytes()
    mixed = kilns().iloc[[2, 0, 3, 1]].reset_index(drop=True)
    (tmp_path / "later").mkdir()
    two = export.write_detections(mixed, tmp_path / "later" / f"one{ending}", provenance={"seed": 1}).read_bytes()
    assert one == two


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_output_that_is_there_stays_unless_overwritten(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    path.write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        export.write_detections(kilns(), path, provenance={})
    assert path.read_text() == "precious"
    export.write_detections(kilns(), path, provenance={}, overwrite=True)
    assert len(export.read_detections(path)) == 4


def test_an_unknown_ending_lists_the_four(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.geojson, \.gpkg, \.fgb, \.parquet"):
        export.write_detections(kilns(), tmp_path / "out.shp", provenance={})
    with pytest.raises(OutputError, match="not there: make it"):
        export.write_detections(kilns(), tmp_path / "none" / "out.gpkg", provenance={})
    assert list(tmp_path.iterdir()) == []


def test_a_geopackage_that_another_program_writes_to_is_left_alone(tmp_path: Path) -> None:
    path = export.write_detections(kilns(), tmp_path / "out.gpkg", provenance={})
    path.with_name("out.gpkg-wal").write_bytes(b"pages")
    with pytest.raises(OutputError, match="open in another program"):
        export.write_detections(kilns(), path, provenance={}, overwrite=True)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_failure_leaves_nothing_new_and_the_old_file(
    tmp_path: Path, ending: str, stop: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"out{ending}"
    path.write_text("old")

    def fail(*_: Any) -> None:
        raise stop

    monkeypatch.setattr(export, "_check_complete", fail)  # when all bytes are on the disk, before they appear
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        export.write_detections(kilns(), path, provenance={}, overwrite=True)
    if isinstance(stop, OSError):
        assert "No space left" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_text() == "old"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_real_limit_on_the_file_size_is_noticed(tmp_path: Path, ending: str) -> None:
    """The system cuts writing off (as a full disk does), in a process of its own."""
    source = export.write_detections(kilns(300), tmp_path / "in.parquet", provenance={})
    folder = tmp_path / "out"
    folder.mkdir()
    limit = {".geojson": 20_000, ".gpkg": 130_000, ".fgb": 40_000, ".parquet": 8_000}[ending]
    code = (
        "import resource, sys\n"
        "from geoslave.detections import export\n"
        "from geoslave.errors import OutputError\n"
        "table = export.read_detections(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n    export.write_detections(table, sys.argv[2], provenance={})\n"
        "except OutputError as error:\n    print('REFUSED', error)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(folder / f"out{ending}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "REFUSED" in done.stdout and "cannot be written" in done.stdout, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_path_and_no_name_of_a_person_leaves_the_house(tmp_path: Path, ending: str) -> None:
    path = export.write_detections(kilns(), tmp_path / f"out{ending}", provenance=PROVENANCE)
    content = path.read_bytes()
    assert b"maria" not in content and str(tmp_path).encode() not in content
    if ending == ".geojson":
        notes = json.loads(content)["geoslave"]
    elif ending == ".gpkg":
        with sqlite3.connect(path) as database:
            rows = dict(database.execute("SELECT key, value FROM geoslave_provenance"))
        notes = {k: json.loads(v) if v[0] in "[{" else v for k, v in rows.items()}
    elif ending == ".fgb":
        notes = json.loads(pyogrio.read_info(path)["layer_metadata"]["DESCRIPTION"])
    else:
        notes = json.loads(pq.read_schema(path).metadata[b"geoslave"])
    assert "never evidence of a crime" in notes["statement"]
    assert notes["model"] == "kiln-s2"
    assert notes["scenes"] == ["a.tif", "https://example.org/scenes/b.tif"]
    assert notes["thresholds"] == {"low": 0.3, "high": 0.5}


def test_a_path_behind_a_colon_is_one_and_an_address_is_none() -> None:
    told = {
        "a": "left:/home/ana/x.tif is cut",
        "b": "see https://example.org/x/y.tif",
        "c": "at file:///home/ana/x.tif",
    }
    cleaned = export.clean_provenance(told)
    assert cleaned == {"a": "left:x.tif is cut", "b": told["b"], "c": "at x.tif"}


def test_geojson_keeps_to_its_standard(tmp_path: Path) -> None:
    detections = kilns()
    detections["note"] = [np.nan, np.inf, 1.5, -2.0]
    collection = json.loads(
        export.write_detections(detections, tmp_path / "o.geojson", provenance={}).read_text(),
        parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"),
    )
    assert collection["type"] == "FeatureCollection" and "crs" not in collection
    for feature in collection["features"]:
        assert feature["id"] == feature["properties"]["detection_id"]
        outer, *holes = [shapely.LinearRing(ring) for ring in feature["geometry"]["coordinates"]]
        assert outer.is_ccw and not any(hole.is_ccw for hole in holes)
        for lon, lat in outer.coords:
            assert lon == round(lon, 7) and lat == round(lat, 7) and 74 < lon < 76 and 26 < lat < 28
        assert all(not isinstance(value, (dict, list)) for value in feature["properties"].values())
    first = collection["features"][0]["properties"]
    assert (first["date"], first["truncated"], first["note"]) == ("2024-01-02", False, None)
    assert collection["features"][1]["properties"]["date"] is None


@pytest.mark.parametrize(
    ("crs", "shape"),
    [
        ("EPSG:32660", shapely.box(590_000, 8_000_000, 620_000, 8_010_000)),
        ("EPSG:4326", shapely.box(179.9, -18, 180.1, -17.9)),
        ("EPSG:4326", shapely.box(-180.1, -18, -179.9, -17.9)),
    ],
)
def test_geojson_is_split_at_the_antimeridian(tmp_path: Path, crs: str, shape: Any) -> None:
    path = export.write_detections(table([shape], crs), tmp_path / "o.geojson", provenance={})
    (feature,) = json.loads(path.read_text())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    west, east = sorted((shapely.Polygon(p[0]) for p in feature["geometry"]["coordinates"]), key=lambda p: -p.bounds[0])
    assert west.bounds[2] == 180 and west.bounds[0] > 179
    assert east.bounds[0] == -180 and east.bounds[2] < -179
    assert west.exterior.is_ccw and east.exterior.is_ccw
    parts = measure.areas_m2(np.array([west, east], object), "EPSG:4326").sum()
    assert parts == pytest.approx(measure.areas_m2(np.array([shape], object), crs)[0], rel=2e-3)
    assert len(export.read_detections(path)) == 1


def test_a_scene_from_0_to_360_degrees_comes_to_the_right_place(tmp_path: Path) -> None:
    path = export.write_detections(
        table([shapely.box(271, 10, 271.001, 10.001)], "EPSG:4326"), tmp_path / "o.geojson", provenance={}
    )
    assert export.read_detections(path).total_bounds == pytest.approx([-89, 10, -88.999, 10.001])


def test_another_planet_has_no_geojson_but_a_geopackage(tmp_path: Path) -> None:
    moon = table([shapely.box(10, 10, 10.01, 10.01)], "IAU_2015:30100")
    with pytest.raises(GeoslaveError, match="not on Earth"):
        export.write_detections(moon, tmp_path / "o.geojson", provenance={})
    assert list(tmp_path.iterdir()) == []
    export.write_detections(moon, tmp_path / "o.gpkg", provenance={})
    assert len(export.read_detections(tmp_path / "o.gpkg")) == 1
    with pytest.raises(GeoslaveError, match="not on Earth"):
        export.combine([moon, kilns()])


def test_a_geopackage_has_style_version_and_fixed_times(tmp_path: Path) -> None:
    path = export.write_detections(kilns(), tmp_path / "o.gpkg", provenance={"created": "2024-05-01"})
    with sqlite3.connect(path) as database:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        contents = database.execute("SELECT table_name, data_type, last_change FROM gpkg_contents").fetchall()
        style = database.execute("SELECT f_table_name, f_geometry_column, useAsDefault FROM layer_styles").fetchall()
    assert version == 10200
    assert sorted(contents) == [
        ("detections", "features", "2024-05-01T00:00:00.000Z"),
        ("geoslave_provenance", "attributes", "2024-05-01T00:00:00.000Z"),
        ("layer_styles", "attributes", "2024-05-01T00:00:00.000Z"),
    ]
    assert style == [("detections", "geom", 1)]


def test_a_style_that_somebody_made_stays(tmp_path: Path) -> None:
    (tmp_path / "o.qml").write_text("mine")
    export.write_detections(kilns(), tmp_path / "o.fgb", provenance={})
    assert (tmp_path / "o.qml").read_text() == "mine"
    (tmp_path / "o.qml").unlink()
    export.write_detections(kilns(), tmp_path / "o.fgb", provenance={}, overwrite=True)
    assert "graduatedSymbol" in (tmp_path / "o.qml").read_text()


def test_files_that_are_no_detections_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(GeoslaveError, match="is not there"):
        export.read_detections(tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("hello")
    with pytest.raises(GeoslaveError, match="cannot be read"):
        export.read_detections(tmp_path / "text.gpkg")
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326").to_file(tmp_path / "o.geojson")
    with pytest.raises(GeoslaveError, match="'detection_id'"):
        export.read_detections(tmp_path / "o.geojson")


def test_filtering_keeps_the_confident() -> None:
    assert export.filter_detections(kilns(), 0.75)["confidence"].tolist() == [0.9, 0.8]


# --- several scenes ---


def test_one_crs_stays_and_several_become_longitude_and_latitude() -> None:
    a = kilns()
    b = table([shapely.box(600_000, 3e6, 600_100, 3e6 + 50)], "EPSG:32644", "other")
    assert export.combine([a, schema.empty("EPSG:3857")]).crs == "EPSG:32643"
    both = export.combine([a, b])
    schema.validate(both)
    assert both.crs == "EPSG:4326" and len(both) == 5
    assert both["confidence"].is_monotonic_decreasing
    assert export.combine([schema.empty("EPSG:3857")]).crs == "EPSG:3857"
    assert len(export.combine([a, a])) == 4, "the same place, class and day is one detection"


def box(x: float, y: float = 0.0, width: float = 100.0) -> Any:
    return shapely.box(500_000 + x, 3e6 + y, 500_000 + x + width, 3e6 + y + 50)


@pytest.mark.parametrize("crs", ["EPSG:32643", "EPSG:4326"])
def test_a_site_that_two_scenes_show_is_one(crs: str) -> None:
    a = table([box(0), box(1000)], scene="a", confidence=[0.6, 0.9], truncated=False)
    b = table([box(20, 10), box(1010)], scene="b", confidence=[0.8, 0.7], truncated=False)
    merged = export.merge_overlapping(export.combine([a, b]).to_crs(crs), get_target("brick_kiln"))
    assert sorted(zip(merged["scene_id"], merged["confidence"], strict=True)) == [("a", 0.9), ("b", 0.8)]


def test_neighbours_in_one_scene_and_other_classes_stay() -> None:
    a = table([box(0, 0, 30), box(32, 0, 30)], scene="a", truncated=False)
    assert len(export.merge_overlapping(a, 50)) == 2
    other = table([box(0, 0, 30)], scene="b", class_name="mine")
    assert len(export.merge_overlapping(export.combine([a, other]), 50)) == 3
    far = table([box(300)], scene="b")
    assert len(export.merge_overlapping(export.combine([a, far]), 50)) == 3


def test_a_whole_outline_goes_before_one_cut_by_the_edge() -> None:
    cut = table([box(0, 0, 15)], scene="a", confidence=[0.95], truncated=True)
    whole = table([box(0)], scene="b", confidence=[0.6], truncated=False)
    (kept,) = export.merge_overlapping(export.combine([cut, whole]), 20).to_dict("records")
    assert kept["scene_id"] == "b"


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_files_can_be_read_by_others_as_usual(tmp_path: Path) -> None:
    """The temporary folder is private; what comes out of it must not be."""
    path = export.write_detections(kilns(), tmp_path / "o.gpkg", provenance={})
    (tmp_path / "usual").write_text("")
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("ending", list(export.FORMATS))
def test_provenance_is_read_back(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"layer{ending}"
    notes = {"model_id": "kiln-s2@1.0.0+ab", "threshold_high": 0.5, "scenes": ["a", "b"], "first_date": None}
    export.write_detections(schema.empty("EPSG:32645"), path, provenance=notes)
    read = export.read_provenance(path)
    assert {key: read[key] for key in notes} == notes
    assert read["statement"] == schema.STATEMENT
    (tmp_path / "other.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    assert export.read_provenance(tmp_path / "other.geojson") == {}
