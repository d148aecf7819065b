"""A region's run as a folder for QGIS, opened by a real QGIS after the region is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio

from geoslave.region.layout import write_json
from geoslave.region.run import Choice, run_region
from geoslave.region.setup import init_region
from tests.cli.test_review_command import cast, layer, review  # noqa: F401
from tests.detections.qgissession import open_project
from tests.detections.test_qgis import qgis_python  # noqa: F401
from tests.region.conftest import MakeRegion, change, make_region, scenes  # noqa: F401
from tests.region.test_region_zones import around

Run = Callable[..., tuple[int, str, str]]
PLACES = [(89.99, 23.95), (90.0, 23.952), (90.008, 23.949)]


@pytest.mark.qgis
@pytest.mark.parametrize("composite", ["single", "latest"])
def test_a_region_of_two_zones_opens_anywhere(
    qgis_python: str,  # noqa: F811
    make_scene: Callable[..., Path],
    bright_model: Path,
    tmp_path: Path,
    run: Run,
    composite: str,
) -> None:
    pytest.importorskip("odc.stac")
    paths = [str(around(zone, PLACES, make_scene)) for zone in (45, 46)]
    region = init_region(tmp_path / "regions" / "border", None, None, str(bright_model), paths)
    change(region, block=128, composite=composite)
    assert not run_region(region, Choice(workers=0)).failures
    status, printed, err = run(
        "region", "export", "border", "--regions", tmp_path / "regions", "--qgis", tmp_path / "map", "--json"
    )
    assert status == 0, err
    assert json.loads(printed)["n_detections"] == len(PLACES) and "layers" not in json.loads(printed)
    there = tmp_path / "stick" / "for the ministry"
    there.parent.mkdir()
    (tmp_path / "map").rename(there)
    shutil.rmtree(tmp_path / "regions")
    for path in paths:
        Path(path).unlink()
    view = {"all": {"extent": [89.985, 23.945, 90.012, 23.957], "lonlat": True, "size": [900, 500], "theme": "Scores"}}
    opened = open_project(qgis_python, there / "project.qgz", tmp_path, view)
    told = opened.told
    assert all(one["valid"] for one in told["layers"].values()), told["layers"]
    assert told["layers"]["Detections by confidence (a score)"]["count"] == len(PLACES)
    assert len(told["groups"]["Scores"]) == len(told["groups"]["Imagery"]) == 2
    crs = {told["layers"][name]["crs"] for name in told["groups"]["Imagery"]}
    assert crs == {"EPSG:32645", "EPSG:32646"} and told["metres"]
    yellow = (opened.pictures["all"] - (253, 231, 37)).__abs__().sum(axis=2) < 150
    assert yellow.sum() > 100, "full scores are yellow"
    for path in there.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path.name


def test_blocks_say_what_became_of_them(make_region: MakeRegion, tmp_path: Path, run: Run) -> None:  # noqa: F811
    region = make_region()
    run_region(region, Choice(workers=0))
    folder = region.latest_run()
    assert folder is not None
    records = sorted((folder.path / "objects").glob("*/*.objects"))
    for record in records[:2]:
        record.unlink()
    failed = f"{records[0].parent.name}-{records[0].stem}"
    reason = f"{tmp_path}/left.tif: the server is busy (left:/home/ana/left.tif, {Path.home()}/jane doe/x.tif)"
    write_json(folder.failed(failed), {"name": failed, "reason": reason})
    options = ("--regions", region.path.parent)
    status, _, err = run("region", "export", "test", "--qgis", *options)
    assert status == 1 and "--allow-gaps" in err
    status, out, err = run("region", "export", "test", "--qgis", "--allow-gaps", *options)
    assert status == 0 and "2 blocks are missing" in out, err
    blocks = gpd.read_file(folder.path / "qgis" / "blocks.gpkg", layer="blocks")
    assert set(blocks["status"]) <= {"done", "empty", "failed", "to do"}
    assert (blocks["status"] == "failed").sum() == (blocks["status"] == "to do").sum() == 1
    assert blocks.loc[blocks["status"] == "failed", "reason"].iloc[0] == (
        "left.tif: the server is busy (left:left.tif, jane doe/x.tif)"
    )
    assert (blocks.loc[blocks["status"] == "done", "n_objects"] > 0).all()
    # made again, it is renewed; with more than a project asked for, both are there
    status, out, err = run(
        "region", "export", "test", "--qgis", "--no-scenes", "--out", tmp_path / "x.gpkg", "--allow-gaps", *options
    )
    assert status == 0 and (tmp_path / "x.gpkg").is_file(), err
    assert not (folder.path / "qgis" / "imagery").exists() and (folder.path / "qgis" / "scores").exists()
    assert run("region", "export", "test", "--no-scores", *options)[0] == 2


def test_score_maps_of_blocks_become_one_map(make_region: MakeRegion, tmp_path: Path, run: Run) -> None:  # noqa: F811
    region = make_region()
    run_region(region, Choice(workers=0))
    folder = region.latest_run()
    assert folder is not None
    options = ("--regions", region.path.parent)
    assert run("region", "export", "test", "--qgis", tmp_path / "m", *options)[0] == 0
    for path in (tmp_path / "m" / "scores").glob("*.tif"):
        with rasterio.open(path) as whole:
            assert whole.nodata == 255 and whole.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
            seen = np.zeros(whole.shape, bool)
            for tile in (folder.path / "scores" / path.stem).glob("*.tif"):
                with rasterio.open(tile) as part:
                    window = whole.window(*part.bounds).round_offsets().round_lengths()
                    assert (whole.read(window=window) == part.read()).all()
                    seen[window.toslices()] = True
            assert seen.any() and (whole.read(1)[~seen] == 255).all()
    with rasterio.open(next((tmp_path / "m" / "imagery").glob("*.tif"))) as picture:
        assert picture.count == 3 and (picture.dataset_mask() == 0).any(), "missing imagery is clear"


def test_a_damaged_score_map_is_told_as_such(make_region: MakeRegion, tmp_path: Path, run: Run) -> None:  # noqa: F811
    region = make_region()
    run_region(region, Choice(workers=0))
    folder = region.latest_run()
    assert folder is not None
    next((folder.path / "scores").rglob("*.tif")).write_bytes(b"II*\0")
    status, _, err = run("region", "export", "test", "--qgis", tmp_path / "m", "--regions", region.path.parent)
    assert status == 1 and "damaged: run again" in err and not (tmp_path / "m").exists()


def test_a_review_as_it_stands_is_shown(review: Path, layer: Path, tmp_path: Path, run: Run) -> None:  # noqa: F811
    cast(review, {"d0": "yes", "d1": "yes", "d2": "no", "d3": "bad_imagery"})
    status, _, err = run("export", layer, "--qgis", tmp_path / "m", "--verdicts", review)
    assert status == 0, err
    shown = gpd.read_file(tmp_path / "m" / "verdicts.gpkg", layer="verdicts").set_index("detection_id")
    assert shown["answer"].to_dict() == {"d0": "yes", "d1": "yes", "d2": "no", "d3": "bad_imagery"}
    assert run("review", "consensus", review, "--out", tmp_path / "v")[0] == 0
    command = ("export", layer, "--qgis", tmp_path / "m2", "--verdicts")
    assert run(*command, tmp_path / "v" / "verdicts.gpkg")[0] == 0
    status, _, err = run(*command, tmp_path / "none")
    assert status == 1 and "review" in err
