"""The main path, end to end, with a model that needs no training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.warp import reproject
from rasterio.windows import Window

from geoslave.detect import Request, detect_scene, detect_scenes
from geoslave.errors import GeoslaveError
from geoslave.grid import partition
from geoslave.imagery.geotiff import open_scene
from geoslave.imagery.raster import SCORE_NODATA
from geoslave.model.package import open_package
from geoslave.model.predict import Predictor, load_network, predict_cells
from tests.conftest import UTM
from tests.factories import dark_field, with_kilns, write_bright_model

Make = Callable[..., Path]
CORNERS = [(20, 30), (61, 58), (61, 70), (150, 5), (128, 187)]
"""Upper left corners of kilns of 100 x 50 m; the second lies across a corner of four chips, the third 20 m east."""


@pytest.fixture
def kiln_scene(make_scene: Make) -> Path:
    return make_scene(with_kilns(dark_field((180, 200)), CORNERS), nodata=0)


def find(path: Path, model: Path, tmp_path: Path, **request):
    package = open_package(model)
    return detect_scene(path, package, load_network(package, "onnx"), tmp_path, Request(**request))


def test_every_kiln_is_found_once_where_it_is(kiln_scene: Path, bright_model: Path, tmp_path: Path) -> None:
    found = find(kiln_scene, bright_model, tmp_path).detections
    truth = gpd.GeoSeries(
        [shapely.box(*(UTM @ (col, row + 5)), *(UTM @ (col + 10, row))) for row, col in CORNERS], crs="EPSG:32645"
    )
    assert len(found) == len(CORNERS)
    for site in truth:
        hits = found.geometry.intersection(site).area / site.area
        assert (hits > 0.75).sum() == 1
    assert found["area_m2"].between(3_000, 6_500).all()
    assert found["length_m"].between(80, 125).all() and found["width_m"].between(40, 70).all()
    assert found["detection_id"].is_unique
    assert not found["calibrated"].any()


def test_chips_without_valid_pixels_never_reach_the_network(make_scene: Make, bright_model: Path) -> None:
    pixels = with_kilns(dark_field((128, 256)), [(20, 30)])
    pixels[:, :, 128:] = 0
    package = open_package(bright_model)
    onnx = load_network(package, "onnx")
    asked = []

    class Counting:
        device = "cpu"

        def __call__(self, batch: np.ndarray, margins: tuple[int, int, int, int] = (0, 0, 0, 0)) -> np.ndarray:
            asked.append(batch.shape)
            return onnx(batch, margins)

    with open_scene(make_scene(pixels, nodata=0), Request().reading(package.spec)) as scene:
        factor, summand = scene.scaling(package.spec.scaling)
        predictor = Predictor(Counting(), factor, summand, package.spec.scaling.clip)
        chips = list(predict_cells(scene, predictor, partition((128, 256), 64, 16, 16)))
    assert len(chips) == 8 and len(asked) == 4
    assert sum(chip.scores is None for chip in chips) == 4


def test_nothing_is_found_on_nodata_and_the_score_map_says_so(
    make_scene: Make, bright_model: Path, tmp_path: Path
) -> None:
    pixels = with_kilns(dark_field((128, 256)), [(20, 30), (90, 180)])
    pixels[:, 80:, 160:] = 255  # brighter than any kiln, but declared as nodata
    path = make_scene(pixels, nodata=255)
    package = open_package(bright_model)
    result = detect_scene(path, package, load_network(package, "onnx"), tmp_path, scores=tmp_path / "s.tif")
    assert len(result.detections) == 1
    with rasterio.open(tmp_path / "s.tif") as scores:
        assert scores.nodata == SCORE_NODATA and scores.overviews(1) == []
        assert scores.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        stored = scores.read(1)
    assert (stored[80:, 160:] == SCORE_NODATA).all() and (stored[:80] <= 254).all()


def test_scores_do_not_depend_on_where_chips_fall(kiln_scene: Path, bright_model: Path) -> None:
    package = open_package(bright_model)
    network = load_network(package, "onnx")
    maps = []
    with open_scene(kiln_scene, Request().reading(package.spec)) as scene:
        factor, summand = scene.scaling(package.spec.scaling)
        predictor = Predictor(network, factor, summand, package.spec.scaling.clip)
        for core, origin in ((64, (0, 0)), (64, (-16, -48)), (512, (0, 0))):
            whole = np.zeros(scene.geobox.shape, np.float32)
            for chip in predict_cells(scene, predictor, partition(whole.shape, core, 16, 16, origin)):
                c = chip.cell.core
                whole[c.row_off : c.row_off + c.height, c.col_off : c.col_off + c.width] = chip.scores.pixels[0]
            maps.append(whole)
    assert np.abs(maps[0] - maps[1]).max() < 1e-6
    assert np.abs(maps[0] - maps[2]).max() < 1e-6


def test_the_same_input_gives_the_same_bytes_but_for_dates(
    kiln_scene: Path, bright_model: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    texts = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.geojson"
        assert run("detect", kiln_scene, "--model", bright_model, "--out", out)[0] == 0
        content = json.loads(out.read_text())
        content["geoslave"].pop("created")
        texts.append(json.dumps(content))
    assert texts[0] == texts[1]


def test_an_area_of_interest_chooses_and_never_moves(kiln_scene: Path, bright_model: Path, tmp_path: Path) -> None:
    whole = find(kiln_scene, bright_model, tmp_path).detections
    # cuts through the second kiln: its representative point is inside, so it comes out whole
    x, y = UTM @ (64, 64)
    area = gpd.GeoSeries([shapely.box(x - 200, y - 5, x + 40, y + 1000)], crs="EPSG:32645").to_crs("OGC:CRS84")
    inside = find(kiln_scene, bright_model, tmp_path, aoi=area).detections
    assert 0 < len(inside) < len(whole)
    same = whole.set_index("detection_id").loc[inside["detection_id"]]
    assert (same.geometry.to_wkb().to_numpy() == inside.geometry.to_wkb().to_numpy()).all()
    assert same["score_mean"].tolist() == inside["score_mean"].tolist()


def test_an_area_far_from_every_scene_is_an_error(kiln_scene: Path, bright_model: Path, tmp_path: Path) -> None:
    area = gpd.GeoSeries([shapely.box(10, 10, 11, 11)], crs="OGC:CRS84")
    package = open_package(bright_model)
    with pytest.raises(GeoslaveError, match="misses every scene"):
        detect_scenes([str(kiln_scene)], package, load_network(package), tmp_path / "x.gpkg", Request(aoi=area))


def test_overlapping_scenes_give_one_layer(make_scene: Make, bright_model: Path, tmp_path: Path) -> None:
    whole = with_kilns(dark_field((180, 200)), CORNERS)
    left = make_scene(whole[:, :, :120], name="left.tif")
    right = make_scene(whole[:, :, 40:], name="right.tif", transform=UTM @ Affine.translation(40, 0))
    package = open_package(bright_model)
    layer, results = detect_scenes([str(left), str(right)], package, load_network(package, "onnx"), tmp_path / "x.gpkg")
    assert len(results) == 2
    assert len(layer) == len(CORNERS)


def test_scenes_of_one_name_keep_apart(make_scene: Make, bright_model: Path, tmp_path: Path) -> None:
    whole = with_kilns(dark_field((180, 200)), CORNERS)
    paths = []
    for folder in ("monday", "tuesday"):
        (tmp_path / folder).mkdir()
        paths.append(str(make_scene(whole, name=f"{folder}/tile.tif")))
    package = open_package(bright_model)
    layer, results = detect_scenes(paths, package, load_network(package, "onnx"), tmp_path / "x.gpkg")
    assert [result.scene_id for result in results] == ["monday_tile", "tuesday_tile"]
    assert len(layer) == len(CORNERS)
    with pytest.raises(GeoslaveError, match="given twice"):
        detect_scenes([paths[0], paths[0]], package, load_network(package), tmp_path / "x.gpkg")


def test_a_date_comes_from_the_name_or_the_user(make_scene: Make, bright_model: Path, tmp_path: Path) -> None:
    path = make_scene(with_kilns(dark_field((180, 200)), CORNERS), name="S2B_MSIL2A_20230214T043829_T45QXG.tif")
    assert set(find(path, bright_model, tmp_path).detections["date"]) == {"2023-02-14"}


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32646"])
def test_the_same_ground_in_another_crs_has_the_same_kilns(
    make_scene: Make, bright_model: Path, tmp_path: Path, crs: str
) -> None:
    pixels = with_kilns(dark_field((180, 200)), CORNERS)
    native = make_scene(pixels)
    truth = find(native, bright_model, tmp_path).detections.to_crs("EPSG:32645")
    with rasterio.open(native) as file:
        moved, transform = reproject(file.read(), src_transform=file.transform, src_crs=file.crs, dst_crs=crs)
    found = find(make_scene(moved, name="moved.tif", crs=crs, transform=transform, nodata=0), bright_model, tmp_path)
    there = found.detections.to_crs("EPSG:32645")
    assert len(there) == len(truth)
    for outline, area in zip(truth.geometry, truth["area_m2"], strict=True):
        nearest = there.geometry.centroid.distance(outline.centroid)
        assert nearest.min() < 15
        assert there["area_m2"].iloc[int(nearest.argmin())] == pytest.approx(area, rel=0.25)


def test_a_scene_smaller_than_a_chip(make_scene: Make, tmp_path: Path) -> None:
    model = write_bright_model(tmp_path / "m" / "bright", tile=1024, halo=64)
    found = find(make_scene(with_kilns(dark_field((31, 120)), [(10, 20)])), model, tmp_path).detections
    assert len(found) == 1


def test_a_site_on_the_edge_is_called_truncated(make_scene: Make, bright_model: Path, tmp_path: Path) -> None:
    found = find(make_scene(with_kilns(dark_field((90, 90)), [(40, 83), (10, 10)])), bright_model, tmp_path).detections
    by_place = found.assign(x=found.centroid.x).sort_values("x")
    assert by_place["truncated"].tolist() == [False, True]


def test_both_backends_agree(data_dir: Path) -> None:
    from geoslave.model.predict import TOLERANCE

    package = open_package("kiln-s2")
    chip = sorted((data_dir / "kilns_s2" / "chips").glob("*.tif"))[0]
    with open_scene(chip, Request().reading(package.spec)) as scene:
        factor, summand = scene.scaling(package.spec.scaling)
        raster = scene.read(Window(0, 0, 128, 128))
    by_onnx, by_torch = (
        Predictor(load_network(package, backend), factor, summand, package.spec.scaling.clip)(raster).pixels
        for backend in ("onnx", "torch")
    )
    assert by_onnx.max() > 0.2
    assert np.abs(by_onnx - by_torch).max() < TOLERANCE


@pytest.mark.parametrize("box", [(-180, -90, 180, 90), (60, 5, 180, 60)], ids=["the world", "half of Asia"])
def test_an_area_far_larger_than_the_scene_changes_nothing(
    kiln_scene: Path, bright_model: Path, tmp_path: Path, box: tuple[float, ...]
) -> None:
    area = gpd.GeoSeries([shapely.box(*box)], crs="OGC:CRS84")
    found = find(kiln_scene, bright_model, tmp_path, aoi=area).detections
    assert len(found) == len(CORNERS)


def test_an_area_across_the_antimeridian(make_scene: Make, bright_model: Path, tmp_path: Path) -> None:
    """The scene lies on both sides; the area is given in two parts, as RFC 7946 wants it."""
    place = Affine(10, 0, 168_000, 0, -10, 1_100_000)
    scene = make_scene(with_kilns(dark_field((180, 400)), [(20, 30), (90, 330)]), crs="EPSG:32601", transform=place)
    both = gpd.GeoSeries([shapely.box(179.9, 9, 180, 11), shapely.box(-180, 9, -179.9, 11)], crs="OGC:CRS84")
    result = find(scene, bright_model, tmp_path, aoi=both)
    assert len(result.detections) == 2
    assert result.footprint.area < 0.01
    for side in (both[:1], both[1:]):
        assert len(find(scene, bright_model, tmp_path, aoi=side).detections) == 1


def test_evaluating_across_the_antimeridian_ends(
    make_scene: Make, bright_model: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "scenes").mkdir()
    place = Affine(10, 0, 168_000, 0, -10, 1_100_000)
    scene = with_kilns(dark_field((180, 400)), [(20, 30), (90, 330)])
    make_scene(scene, name="scenes/a.tif", crs="EPSG:32601", transform=place)
    x, y = place @ (35, 22)
    site = gpd.GeoSeries([shapely.Point(x, y).buffer(30)], crs="EPSG:32601").to_crs("OGC:CRS84")
    site.to_file(tmp_path / "sites.geojson")
    command = ["evaluate", bright_model, "--scenes", tmp_path / "scenes", "--labels", tmp_path / "sites.geojson"]
    status, printed, err = run(*command, "--json")
    assert status == 0, err
    facts = json.loads(printed)
    assert facts["area_km2"] == pytest.approx(1.8 * 4.0, rel=0.05)
    assert (facts["n_sites"], facts["n_hits"]) == (1, 1)


def test_a_blank_scene_among_others_costs_nothing(make_scene: Make, bright_model: Path, tmp_path: Path) -> None:
    full = make_scene(with_kilns(dark_field((180, 200)), CORNERS), name="full.tif", nodata=0)
    blank = make_scene(np.zeros((3, 180, 200), np.uint8), name="blank.tif", nodata=0)
    package = open_package(bright_model)
    network = load_network(package, "onnx")
    layer, results = detect_scenes([str(full), str(blank)], package, network, tmp_path / "x.gpkg")
    assert len(layer) == len(CORNERS)
    assert "no valid pixel" in results[1].notes[0]
    for alone in ([str(blank)], [str(blank), str(make_scene(np.zeros((3, 9, 9), np.uint8), name="b2.tif", nodata=0))]):
        with pytest.raises(GeoslaveError, match="every pixel is nodata"):
            detect_scenes(alone, package, network, tmp_path / "x.gpkg")


def test_names_of_scenes_are_unique_and_hold_no_secrets(tmp_path: Path) -> None:
    from geoslave.detect import scene_ids

    assert scene_ids(["A/x/s.tif", "B/x/s.tif", "C/y/s.tif", "t.tif"]) == ["x_s_1", "x_s_2", "y_s", "t"]
    assert scene_ids(["https://h/a.tif?sig=SECRET&sv=1.0"]) == ["a"]
    (tmp_path / "real.tif").touch()
    (tmp_path / "nice_20200101.tif").symlink_to(tmp_path / "real.tif")
    assert scene_ids([str(tmp_path / "nice_20200101.tif")]) == ["nice_20200101"]
