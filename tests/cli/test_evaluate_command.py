"""`geoslave evaluate`, with a model and with a layer one has."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pytest
import rasterio
import shapely
from PIL import Image

from tests.factories import dark_field, with_kilns

Run = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]

CORNERS = [(20, 30), (60, 90), (100, 150), (150, 40)]


@pytest.fixture
def scenes(make_scene: Make, tmp_path: Path) -> Path:
    """A folder of one scene with four bright spots."""
    (tmp_path / "scenes").mkdir()
    make_scene(with_kilns(dark_field((180, 200)), CORNERS), name="scenes/a.tif")
    return tmp_path / "scenes"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Three of the spots and one place where there is none, in two regions."""
    return write_labels(
        tmp_path / "sites.geojson", [*CORNERS[:3], (60, 150)], region=["north", "north", "south", "south"]
    )


def write_labels(path: Path, corners: list[tuple[int, int]], **columns: object) -> Path:
    boxes = [
        shapely.box(500_000 + c * 10, 2_650_000 - r * 10 - 50, 500_000 + c * 10 + 100, 2_650_000 - r * 10)
        for r, c in corners
    ]
    gpd.GeoDataFrame(columns, geometry=boxes, crs="EPSG:32645").to_crs(4326).to_file(path)
    return path


def test_a_report_holds_figures_charts_thumbnails_and_every_object(
    scenes: Path, labels: Path, bright_model: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    command = ["evaluate", bright_model, "--scenes", scenes, "--labels", labels, "--by", "region", "--out", out]
    status, printed, _ = run(*command, "--json")
    facts = json.loads(printed)
    assert status == 0 and (facts["n_hits"], facts["n_missed"], facts["n_false_alarms"]) == (3, 1, 1)
    saved = json.loads((out / "evaluation.json").read_text())
    assert saved == {name: value for name, value in facts.items() if name not in ("out", "files")}
    assert saved["by"]["region"]["north"]["recall"] == 1 and saved["by"]["region"]["south"]["recall"] == 0.5
    # three spots are called and labelled, one is called only, one labelled only
    assert saved["pixel"]["recall"] == pytest.approx(3 / 4) and saved["pixel"]["iou"] == pytest.approx(3 / 5)
    # the missed spot shares its tile with one that was found
    assert (saved["tile"]["n_with_site"], saved["tile"]["sensitivity"]) == (3, 1)
    objects = gpd.read_file(out / "errors.gpkg")
    assert sorted(objects["outcome"]) == ["false alarm", "hit", "hit", "hit", "miss"]
    assert set(objects["contact_sheet"]) == {"H1", "H2", "H3", "M1", "A1"}
    for name in ("precision-recall.png", "reliability.png", "contact-sheet.png"):
        with Image.open(out / name) as picture:
            assert picture.width >= 800
    assert str(tmp_path) not in (out / "evaluation.json").read_text()
    before = (out / "evaluation.json").read_bytes()
    status, _, err = run(*command)
    assert status == 1 and "--overwrite" in err and (out / "evaluation.json").read_bytes() == before
    assert run(*command, "--overwrite")[0] == 0


def test_a_layer_gets_the_figures_of_the_model_that_made_it(
    scenes: Path, labels: Path, bright_model: Path, run: Run, tmp_path: Path
) -> None:
    layer, area = tmp_path / "found.gpkg", tmp_path / "area.geojson"
    assert run("detect", scenes / "a.tif", "--model", bright_model, "--out", layer)[0] == 0
    with rasterio.open(scenes / "a.tif") as scene:
        gpd.GeoSeries([shapely.box(*scene.bounds)], crs=scene.crs).to_crs(4326).to_file(area)
    by_model = json.loads(run("evaluate", bright_model, "--scenes", scenes, "--labels", labels, "--json")[1])
    command = ["evaluate", "--detections", layer, "--area", area, "--labels", labels, "--min-confidence", 0.6]
    status, printed, _ = run(*command, "--out", tmp_path / "report", "--json")
    facts = json.loads(printed)
    assert status == 0 and "contact-sheet.png" not in facts["files"]
    for name in ("precision", "recall", "average_precision", "n_sites", "n_detections"):
        assert facts[name] == by_model[name]
    assert facts["pixel"]["iou"] == pytest.approx(by_model["pixel"]["iou"], abs=0.02)
    status, printed, _ = run(*command, "--scenes", scenes, "--out", tmp_path / "pictures", "--json")
    assert status == 0 and (tmp_path / "pictures" / "contact-sheet.png").is_file()


def test_one_scene_is_as_good_as_a_folder_of_it(scenes: Path, labels: Path, bright_model: Path, run: Run) -> None:
    one, folder = (
        json.loads(run("evaluate", bright_model, "--scenes", place, "--labels", labels, "--json")[1])
        for place in (scenes / "a.tif", scenes)
    )
    assert one == folder


def test_outlines_without_a_confidence_count_alike(scenes: Path, labels: Path, run: Run, tmp_path: Path) -> None:
    layer = write_labels(tmp_path / "mine.geojson", CORNERS)
    area = write_labels(tmp_path / "area.geojson", [(-500, -500)])
    gpd.GeoSeries([shapely.box(5e5, 2_648_200, 502_000, 2.65e6)], crs=32645).to_crs(4326).to_file(area)
    status, printed, err = run("evaluate", "--detections", layer, "--area", area, "--labels", labels, "--json")
    facts = json.loads(printed)
    assert status == 0 and "no column 'confidence'" in err
    assert (facts["precision"], facts["recall"]) == (0.75, 0.75)


def test_no_detection_at_all_is_reported_with_figures(
    make_scene: Make, labels: Path, bright_model: Path, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "dull").mkdir()
    make_scene(dark_field((180, 200)), name="dull/a.tif")
    out = tmp_path / "report"
    status, printed, _ = run(
        "evaluate", bright_model, "--scenes", tmp_path / "dull", "--labels", labels, "--out", out, "--json"
    )
    facts = json.loads(printed)
    assert status == 0 and facts["precision"] is None and facts["recall"] == facts["pixel"]["recall"] == 0
    assert facts["reliability"]["ece"] is None and (out / "contact-sheet.png").is_file()


def test_subfolders_are_groups_of_scenes(make_scene: Make, bright_model: Path, run: Run, tmp_path: Path) -> None:
    from affine import Affine

    for name, east in (("here", 500_000), ("there", 600_000)):
        (tmp_path / "s" / name).mkdir(parents=True)
        pixels = with_kilns(dark_field((180, 200)), CORNERS if name == "here" else CORNERS[:1])
        make_scene(pixels, name=f"s/{name}/a.tif", transform=Affine(10, 0, east, 0, -10, 2_650_000))
    labels = write_labels(tmp_path / "l.geojson", CORNERS)
    status, printed, _ = run("evaluate", bright_model, "--scenes", tmp_path / "s", "--labels", labels, "--json")
    groups = json.loads(printed)["by"]["scene_group"]
    assert status == 0 and groups["here"]["precision"] == groups["here"]["recall"] == 1
    assert groups["there"]["precision"] == 0 and groups["there"]["recall"] is None


def test_missing_imagery_is_no_searched_ground(make_scene: Make, bright_model: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    pixels = with_kilns(dark_field((200, 200)), CORNERS)
    pixels[:, :, 120:] = 0
    make_scene(pixels, name="half/a.tif", nodata=0)
    labels = write_labels(tmp_path / "l.geojson", CORNERS)
    status, printed, _ = run("evaluate", bright_model, "--scenes", tmp_path / "half", "--labels", labels, "--json")
    facts = json.loads(printed)
    assert status == 0 and facts["area_km2"] == pytest.approx(2.4, rel=0.01)
    assert (facts["n_sites"], facts["n_sites_ignored"], facts["recall"]) == (3, 1, 1)


def test_bad_input_ends_in_one_line(
    scenes: Path, labels: Path, bright_model: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ["evaluate", bright_model, "--scenes", scenes, "--labels", labels]
    status, _, err = run(*known, "--by", "district")
    assert status == 1 and "no column 'district'" in err and "region" in err
    far = write_labels(tmp_path / "far.geojson", [(30_000, 30_000)])
    status, _, err = run(*known[:-1], far)
    assert status == 1 and "none of the 1 labels lies where was searched" in err
    (tmp_path / "empty").mkdir()
    status, _, err = run("evaluate", bright_model, "--scenes", tmp_path / "empty", "--labels", labels)
    assert status == 1 and "holds no raster" in err
    status, _, err = run("evaluate", bright_model, "--labels", labels)
    assert status == 2 and "--scenes" in err
    status, _, err = run("evaluate", "--detections", far, "--labels", labels)
    assert status == 2 and "--area" in err
    status, _, err = run("evaluate", "--detections", far, "--area", tmp_path / "no.geojson", "--labels", labels)
    assert status == 1 and "--area" in err and len(err.strip().splitlines()) <= 2
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = run(*known, "--out", tmp_path / "report")
    assert status == 1 and "geoslave[charts]" in err and not (tmp_path / "report").exists()
