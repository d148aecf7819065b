"""The folder for QGIS: moved, renamed, then opened, drawn and printed by a real QGIS."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from geoslave.detections import measure, qgis, qgislayers, schema
from geoslave.detections.export import read_detections, write_detections
from geoslave.detections.qgisproject import Companions, write_project
from geoslave.detections.qgisrasters import write_mosaic, write_picture
from geoslave.errors import GeoslaveError, OutputError
from geoslave.imagery.grades import GRADES
from geoslave.imagery.raster import Raster
from tests.detections.qgissession import open_project
from tests.detections.test_qgis import CENTRES, five_detections, qgis_python  # noqa: F401
from tests.imagery.test_catalog import serving

CRS = "EPSG:32643"
NEAR = {"extent": [499_800, 2_999_800, 501_800, 3_000_200], "size": [2000, 400]}
"""1 m a pixel around the five detections."""
Run = Callable[..., tuple[int, str, str]]


def raster(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Bands of 2 m pixels around the five detections."""
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "crs": CRS, "transform": Affine(2, 0, 499_800, 0, -2, 3_000_200), **options}
    with rasterio.open(path, "w", width=width, height=height, count=count, dtype=pixels.dtype, **profile) as file:
        file.write(pixels)
    return path


def inputs(folder: Path) -> tuple[Path, Path]:
    """A green scene that grows brighter to the right, and scores that are zero on its left half."""
    scene = np.zeros((3, 200, 1000), np.uint16)
    scene[0], scene[1], scene[2] = 400, np.linspace(600, 2000, 1000), 500
    scene[0] += np.arange(1000, dtype=np.uint16) // 4
    scores = np.zeros((1, 200, 1000), np.uint8)
    scores[:, :, 900:] = 254
    return (
        raster(folder / "scene.tif", scene, photometric="RGB"),
        raster(folder / "scores.tif", scores, nodata=255),
    )


def outlines() -> list[shapely.Polygon]:
    return list(five_detections().geometry)


def companions() -> Companions:
    """Blocks, verdicts, counts and changes of the five detections, in longitude and latitude or UTM."""
    halves = [shapely.box(499_800, 2_999_800, 500_800, 3_000_200), shapely.box(500_800, 2_999_800, 501_800, 3_000_200)]
    told = {
        "grid": "scene",
        "block": ["r000c000", "r000c001"],
        "status": ["done", "failed"],
        "n_objects": [3, None],
        "reason": [None, "/home/ana/scene.tif cannot be read"],
    }
    answers = {
        "task_id": list("abcd"),
        "answer": ["yes", "no", "unsure", "bad_imagery"],
        "probability": [0.9, 0.1, 0.5, np.nan],
        "n_votes": 3,
    }
    estimates = {
        "West": {"value": 120.0, "low": 100.0, "high": 150.0, "level": 0.95, "n_reviewed": 50, "method": "gamma"},
    }
    history = {
        "status": ["persisted", "appeared", "closed", "not redetected", "unobservable"],
        "first_seen": ["2019-01-01", "2021-01-01", "2019-01-01", "2019-01-01", "2019-01-01"],
        "last_seen": ["2023-01-01", "2023-01-01", "2019-01-01", "2021-01-01", "2021-01-01"],
        "gone_by": [None, None, "2021-01-01", "2023-01-01", None],
    }
    return Companions(
        blocks=gpd.GeoDataFrame(told, geometry=halves, crs=CRS).to_crs(4326),
        verdicts=gpd.GeoDataFrame(answers, geometry=outlines()[:4], crs=CRS).to_crs(4326),
        counts=qgislayers.counts_table(["West", "East"], estimates, gpd.GeoSeries(halves, crs=CRS)),
        changes=gpd.GeoDataFrame(history, geometry=outlines(), crs=CRS).to_crs(4326),
        area=gpd.GeoDataFrame(geometry=[shapely.union_all(halves)], crs=CRS).to_crs(4326),
    )


def moved(folder: Path) -> Path:
    """The folder elsewhere, under another name."""
    there = folder.parent / "elsewhere" / "brought (copy) & é"
    there.parent.mkdir()
    folder.rename(there)
    return there


def shows(picture: np.ndarray, x: float, colour: tuple[int, int, int], reach: int = 60) -> bool:
    """Whether a colour is drawn around a place on the middle line of `NEAR`."""
    column = round(x - 499_800)
    part = picture[:, max(0, column - reach) : column + reach]
    return bool((np.abs(part - colour).sum(axis=2) < 90).any())


@pytest.mark.qgis
def test_a_moved_folder_opens_with_every_layer_valid_and_drawn(qgis_python: str, tmp_path: Path) -> None:  # noqa: F811
    scene, scores = inputs(tmp_path)
    folder = tmp_path / "made here"
    write_project(
        five_detections(),
        folder,
        provenance={"scene": str(scene)},
        scores=[scores],
        scenes=[scene],
        title="Kilns & co",
        min_confidence=0.4,
        companions=companions(),
    )
    scene.unlink(), scores.unlink()
    there = moved(folder)
    views = {
        "sites": {**NEAR, "theme": "Detections"},
        "sure": {**NEAR, "theme": "Detections", "min_confidence": "0.6"},
        "scores": {**NEAR, "theme": "Scores"},
        "far": {"extent": [490_000, 2_990_000, 510_000, 3_010_000], "size": [800, 800], "theme": "Detections"},
        "counts": {**NEAR, "theme": "Counts"},
        "review": {**NEAR, "theme": "Review"},
        "run": {**NEAR, "theme": "Progress of the run"},
        "change 2019": {**NEAR, "theme": "Change", "day": "2019-06-01"},
        "change 2022": {**NEAR, "theme": "Change", "day": "2022-06-01"},
    }
    opened = open_project(qgis_python, there / "project.qgz", tmp_path, views, printed=True)
    told, pictures = opened.told, opened.pictures
    assert told["read"] and told["crs"] == CRS and told["title"] == "Kilns & co" and told["min_confidence"] == "0.4"
    assert "never evidence of a crime" in told["about"]
    assert list(told["groups"]) == ["Review", "Sites", "Change", "Run", "Counts by area", "Scores", "Imagery"]
    assert {name: layer["renderer"] for name, layer in told["layers"].items()} == {
        "Verdicts of reviewers": "RuleRenderer",
        "Detections by confidence (a score)": "graduatedSymbol",
        "Change between dates": "RuleRenderer",
        "Area of interest": "RuleRenderer",
        "Blocks by status": "RuleRenderer",
        "Estimated number of sites": "RuleRenderer",
        "Scores scores": "singlebandpseudocolor",
        "scene": "multibandcolor",
    }
    for name, layer in told["layers"].items():
        assert layer["valid"] and str(there) in layer["source"], (name, layer)
        assert layer.get("index", True), f"{name} has a spatial index"
    sites, change = told["layers"]["Detections by confidence (a score)"], told["layers"]["Change between dates"]
    assert sites["labels"] and sites["count"] == 5
    assert change["temporal"] == ["first_seen", "shown_until"]
    assert change["fields"]["first_seen"] == change["fields"]["shown_until"] == "Date"
    assert {"Overview", "Detections", "Counts", "Change", "Everything"} <= set(told["themes"])
    assert "Estimated number of sites" not in told["visible"] and "Blocks by status" in told["visible"]
    # detections in the colours of their grades, and the filter
    for (x, _), grade in zip(CENTRES, GRADES, strict=True):
        assert shows(pictures["sites"], x, grade.colour), grade.label
        assert shows(pictures["sure"], x, grade.colour) == (grade.low >= 0.6), grade.label
    # far away a kiln is 5 pixels long: a dot with its colour is there all the same
    dots = np.abs(pictures["far"] - GRADES[-1].colour).sum(axis=2) < 90
    assert dots.sum() >= 20
    # scores: clear where there is none, yellow where it is full
    left, right = pictures["scores"][350, 300], pictures["scores"][350, 1950]
    assert left[1] > left[0] - 40 and left[1] < 140, "no score: the scene shows"
    assert right[0] > 180 and right[1] > 180, "a full score lies over it"
    assert shows(pictures["review"], CENTRES[0][0], qgis.GREEN) and shows(
        pictures["review"], CENTRES[1][0], qgis.PURPLE
    )
    red = (pictures["run"][..., 0] > 200) & (pictures["run"][..., 1] < 130) & (pictures["run"][..., 2] < 150)
    assert red[20:60, 1100:1900].sum() > 50 > red[20:60, 100:900].sum(), "only the failed block is hatched"
    # the temporal controller: what had closed is gone, what had not yet appeared is not there
    blue, orange = (0, 175, 255), (255, 120, 0)
    assert shows(pictures["change 2019"], CENTRES[2][0], blue)
    assert not shows(pictures["change 2022"], CENTRES[2][0], blue)
    assert shows(pictures["change 2022"], CENTRES[1][0], orange)
    assert not shows(pictures["change 2019"], CENTRES[1][0], orange)
    # print
    assert set(told["layouts"]) == {"Map (A4)", "Counts (A4)", "Change (A4)"}
    for name, texts in told["layouts"].items():
        assert "INDICATOR, NOT EVIDENCE" in texts and "Kilns & co" in texts, name
        assert any("never evidence of a crime" in text for text in texts)
        page = pictures[name]
        assert page.shape[1] / page.shape[0] == pytest.approx(297 / 210, abs=0.01)
        assert np.abs(page[-4, :-4] - (40, 20, 34)).max() <= 3, "the foot of the page"
        legend = page[int(page.shape[0] * 0.12) : int(page.shape[0] * 0.5), int(page.shape[1] * 0.74) :]
        assert (legend.sum(axis=2) < 300).mean() > 0.005, "a legend is there"
    title = "".join(told["layouts"]["Map (A4)"])
    assert "5 detections" in title and "a score, not a probability" in title


@pytest.mark.qgis
def test_sites_on_both_sides_of_the_antimeridian_are_one_map(qgis_python: str, tmp_path: Path) -> None:  # noqa: F811
    lonlat = [(179.98, -16.5), (-179.98, -16.52)]
    shapes = np.array([shapely.box(x - 0.001, y - 0.001, x + 0.001, y + 0.001) for x, y in lonlat], object)
    table = five_detections().iloc[3:].reset_index(drop=True).drop(columns="geometry")
    table["detection_id"] = [schema.detection_id(x, y, "brick_kiln", None) for x, y in lonlat]
    table["area_m2"] = measure.areas_m2(shapes, "EPSG:4326")
    sites = gpd.GeoDataFrame(table, geometry=shapes, crs=4326)
    project = write_project(sites, tmp_path / "fiji", provenance={}, title="t")
    first = open_project(qgis_python, project, tmp_path)
    west, south, east, north = first.told["extent"]
    assert first.told["crs_valid"] and first.told["metres"] and "laea" in first.told["proj"]
    assert east - west < 20_000 and north - south < 20_000, "the map is as wide as the sites are apart"
    view = {"all": {"extent": first.told["extent"], "size": [800, 600], "theme": "Detections"}}
    picture = open_project(qgis_python, project, tmp_path, view).pictures["all"]
    for grade, half in ((GRADES[3], picture[:, :400]), (GRADES[4], picture[:, 400:])):
        assert (np.abs(half - grade.colour).sum(axis=2) < 90).sum() >= 20, grade.label


@pytest.mark.qgis
def test_many_rasters_are_one_layer(qgis_python: str, tmp_path: Path) -> None:  # noqa: F811
    def pictures(into: Path) -> list[Path]:
        made = []
        for k in range(13):
            box = GeoBox((20, 20), Affine(10, 0, 500_000 + 200 * k, 0, -10, 3_000_000), CRS)
            pixels = np.full((3, 20, 20), 100 + 10 * k, np.uint16)
            pixels[:, :10] = 4000
            valid = np.ones((20, 20), bool)
            valid[:, :5] = False
            made.append(write_picture(Raster(pixels, valid, box), ("red", "green", "blue"), into / f"s{k}.tif"))
        return made

    folder = tmp_path / "p"
    write_project(five_detections(), folder, provenance={}, companions=Companions(scenes=pictures))
    there = moved(folder)
    view = {"all": {"extent": [500_000, 2_999_800, 502_600, 3_000_000], "size": [1300, 100], "theme": "Detections"}}
    opened = open_project(qgis_python, there / "project.qgz", tmp_path, view)
    assert opened.told["groups"]["Imagery"] == ["all-1"] and opened.told["layers"]["all-1"]["valid"]
    picture = opened.pictures["all"]
    assert (picture[40, 80::100] > 200).all(), "each scene is there"
    assert (picture[40, 8::100] == 255).all() and (picture[90, 8::100] == 255).all(), "clear where nothing was seen"
    assert (picture[90, 80::100] < 60).all()


@pytest.mark.qgis
def test_verdicts_and_errors_carry_their_style(qgis_python: str, tmp_path: Path) -> None:  # noqa: F811
    from tests.detections.test_qgis import show

    verdicts = companions().verdicts
    assert verdicts is not None
    errors = verdicts.rename(columns={"answer": "outcome", "probability": "confidence"})
    errors["outcome"] = ["hit", "miss", "false alarm", "ignored"]
    for name, table, qml, wanted in (
        ("verdicts", verdicts, qgis.verdicts_qml(qgislayers.fields(verdicts)), qgis.GREEN),
        ("errors", errors, qgis.errors_qml(qgislayers.fields(errors)), qgis.OUTCOMES["hit"]),
    ):
        path = qgislayers.write_layer(table, tmp_path / f"{name}.gpkg", name, qml, name)
        told, picture = show(qgis_python, Path(f"{path}|layername={name}"), tmp_path / f"{name}.png")
        assert told["valid"] and told["renderer"] == "RuleRenderer" and told["aliases"]["n_votes"] in ("Votes", "")
        assert shows(picture, CENTRES[0][0], wanted), name


def test_nothing_in_the_folder_names_a_place_of_this_machine(tmp_path: Path) -> None:
    scene, scores = inputs(tmp_path)
    project = write_project(
        five_detections(),
        tmp_path / "p",
        provenance={"scene": str(scene)},
        scores=[scores, scores],
        scenes=[scene],
        title="t",
        companions=companions(),
    )
    with zipfile.ZipFile(project) as archive:
        text = archive.read("project.qgs").decode()
    assert "./detections.gpkg|layername=detections" in text and "=./" not in text.replace('source="./', "")
    for path in (tmp_path / "p").rglob("*"):
        content = text.encode() if path.suffix == ".qgz" else path.read_bytes() if path.is_file() else b""
        assert str(tmp_path).encode() not in content and b"/home/ana" not in content, path.name
    assert {path.name for path in (tmp_path / "p" / "scores").iterdir()} == {"scores.tif", "scores-2.tif"}
    with sqlite3.connect(tmp_path / "p" / "blocks.gpkg") as database:
        assert database.execute("SELECT reason FROM blocks").fetchall()[1] == ("scene.tif cannot be read",)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_project(five_detections(), tmp_path / name, provenance={}, companions=companions())
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_export_makes_a_project_of_what_is_confident(tmp_path: Path, run: Run) -> None:
    scene, scores = inputs(tmp_path)
    layer = write_detections(five_detections(), tmp_path / "kilns.gpkg", provenance={"model_id": "m"})
    chosen = ("--scores", scores, "--scene", scene, "--min-confidence", 0.5)
    status, printed, err = run("export", layer, "--qgis", tmp_path / "map", *chosen, "--json")
    assert status == 0 and json.loads(printed)["n_detections"] == 3, err
    assert len(read_detections(tmp_path / "map" / "detections.gpkg")) == 3
    assert {path.name for path in (tmp_path / "map").iterdir()} == {
        "project.qgz",
        "README.txt",
        "detections.gpkg",
        "scores",
        "imagery",
    }
    for wrong in (("--scene", scene), ("--scene", scene, "--out", tmp_path / "x.gpkg")):
        status, _, err = run("export", layer, *wrong)
        assert status == 2 and "--qgis" in err
    status, _, err = run("export", layer, "--qgis", tmp_path / "new", "--scene", layer)
    assert status == 1 and "kilns.gpkg" in err and not (tmp_path / "new").exists()


def test_export_takes_verdicts_counts_and_changes_along(tmp_path: Path, run: Run) -> None:
    layer = write_detections(five_detections(), tmp_path / "kilns.gpkg", provenance={})
    given = companions()
    assert given.verdicts is not None and given.changes is not None and given.counts is not None
    given.verdicts.to_file(tmp_path / "verdicts.gpkg", layer="verdicts")
    given.changes.to_file(tmp_path / "sites.gpkg", layer="sites")
    areas = given.counts[["area", "geometry"]].rename(columns={"area": "district"}).assign(aname="x")
    areas.to_file(tmp_path / "areas.geojson")
    estimate = {"value": 12.0, "low": 9.0, "high": 20.0, "level": 0.95, "n_reviewed": 40, "method": "gamma"}
    counts = {"total": estimate, "by": {"area": {"East": estimate, "(outside)": estimate}}}
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    beside = ("--verdicts", tmp_path / "verdicts.gpkg", "--changes", tmp_path / "sites.gpkg")
    counted = ("--counts", tmp_path / "counts.json", "--areas", tmp_path / "areas.geojson")
    status, _, err = run("export", layer, "--qgis", tmp_path / "map", *beside, *counted)
    assert status == 0, err
    made = gpd.read_file(tmp_path / "map" / "counts.gpkg", layer="counts").set_index("area")
    assert made.loc["East", ["sites", "low", "high"]].tolist() == [12, 9, 20] and np.isnan(made.loc["West", "sites"])
    assert len(gpd.read_file(tmp_path / "map" / "verdicts.gpkg", layer="verdicts")) == 4
    for wrong, word in (
        (("--out", tmp_path / "x.gpkg", *beside), "--qgis"),
        (("--qgis", tmp_path / "q", "--counts", tmp_path / "counts.json"), "--areas"),
        (("--qgis", tmp_path / "q", "--changes", tmp_path / "verdicts.gpkg"), "status"),
        (("--qgis", tmp_path / "q", "--verdicts", tmp_path / "sites.gpkg"), "answer"),
        (("--qgis", tmp_path / "q", *counted[:1], tmp_path / "areas.geojson", *counted[2:]), "estimate count"),
        (("--qgis", tmp_path / "q", *counted, "--area-name", "nom"), "nom"),
        (("--qgis", tmp_path / "q", *counted, "--area-name", "aname"), "none of the areas"),
    ):
        status, _, err = run("export", layer, *wrong)
        assert status in (1, 2) and word in err and not (tmp_path / "q").exists(), (wrong, err)


def test_what_estimate_writes_is_what_a_project_takes(tmp_path: Path, run: Run) -> None:
    layer = write_detections(five_detections(), tmp_path / "kilns.gpkg", provenance={})
    lon = np.linspace(74.99, 75.03, 40)
    frame = pd.DataFrame({"tile_id": [f"t{k}" for k in range(40)], "n_flagged": 0, "lon": lon, "lat": 27.1})
    frame.to_csv(tmp_path / "frame.csv", index=False)
    reviews = frame[["tile_id"]].iloc[::2].assign(n_sites=[k % 2 for k in range(20)], inclusion_probability=0.5)
    reviews.to_csv(tmp_path / "reviews.csv", index=False)
    halves = [shapely.box(74.9, 27, 75.01, 27.2), shapely.box(75.01, 27, 75.1, 27.2)]
    gpd.GeoDataFrame({"name": ["West", "East"]}, geometry=halves, crs=4326).to_file(tmp_path / "areas.geojson")
    counting = ("estimate", "count", tmp_path / "frame.csv", tmp_path / "reviews.csv", "--areas")
    status, _, err = run(*counting, tmp_path / "areas.geojson", "--out", tmp_path / "counts.json")
    assert status == 0, err
    earlier = five_detections().iloc[:3].assign(date="2020-01-02")
    write_detections(earlier, tmp_path / "before.gpkg", provenance={})
    changing = ("estimate", "change", tmp_path / "before.gpkg", layer, "--out", tmp_path / "sites.gpkg")
    status, _, err = run(*changing)
    assert status == 0, err
    beside = ("--counts", tmp_path / "counts.json", "--areas", tmp_path / "areas.geojson")
    status, _, err = run("export", layer, "--qgis", tmp_path / "map", *beside, "--changes", tmp_path / "sites.gpkg")
    assert status == 0, err
    counts = gpd.read_file(tmp_path / "map" / "counts.gpkg", layer="counts")
    assert counts["area"].tolist() == ["West", "East"] and (counts["low"] < counts["sites"]).all()
    changes = gpd.read_file(tmp_path / "map" / "changes.gpkg", layer="changes")
    assert changes["status"].value_counts().to_dict() == {"persisted": 3, "appeared": 2}


def test_a_folder_that_is_no_project_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists"):
        write_project(five_detections(), tmp_path / "p", provenance={})
    with pytest.raises(OutputError, match="holds no project"):
        write_project(five_detections(), tmp_path / "p", provenance={}, overwrite=True)
    assert (tmp_path / "p" / "thesis.txt").read_text() == "years of work"


def test_a_project_of_nothing_found_is_a_project(tmp_path: Path) -> None:
    project = write_project(schema.empty("EPSG:4326"), tmp_path / "p", provenance={}, title="none found")
    assert project.is_file() and len(read_detections(tmp_path / "p" / "detections.gpkg")) == 0


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [1, 2, 3, 900], list(range(5000))])
def test_every_count_falls_into_one_class(values: list[float]) -> None:
    edges = qgis.class_edges(values, 5)
    assert edges == sorted(set(edges)) and 2 <= len(edges) <= 6
    assert all(edges[0] <= value <= edges[-1] for value in values)


def test_a_mosaic_names_its_parts_relatively(tmp_path: Path) -> None:
    paths = []
    for k in range(2):
        path = tmp_path / f"{k}.tif"
        transform = Affine(10, 0, 500_000 + 40 * k, 0, -10, 3_000_000)
        pixels = np.full((1, 4, 4), 100 * (k + 1), np.uint8)
        paths.append(raster(path, pixels, transform=transform, nodata=255))
    with rasterio.open(write_mosaic(paths, tmp_path / "all.vrt")) as file:
        assert file.read(1).tolist() == [[100] * 4 + [200] * 4] * 4 and file.nodata == 255
    assert str(tmp_path) not in (tmp_path / "all.vrt").read_text()


def test_what_is_no_table_of_changes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeoslaveError, match="is not there"):
        qgislayers.read_changes(tmp_path / "none.gpkg")


def test_of_a_scene_at_an_address_a_small_picture_goes_along(tmp_path: Path, run: Run) -> None:
    layer = write_detections(five_detections(), tmp_path / "kilns.gpkg", provenance={})
    (tmp_path / "served").mkdir()
    inputs(tmp_path / "served")
    with serving("range_server.py", tmp_path / "served") as address:
        status, _, err = run("export", layer, "--qgis", tmp_path / "map", "--scene", f"{address}/scene.tif")
        assert status == 0, err
        status, _, err = run("export", layer, "--qgis", tmp_path / "none", "--scene", f"{address}/absent.tif")
        assert status == 1 and not (tmp_path / "none").exists()
    with rasterio.open(tmp_path / "map" / "imagery" / "scene.tif") as picture:
        assert picture.count == 3 and picture.dtypes[0] == "uint8"
    with zipfile.ZipFile(tmp_path / "map" / "project.qgz") as archive:
        assert address.encode() not in archive.read("project.qgs")
