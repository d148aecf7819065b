"""`geoslave estimate frame`: of a region's run, with its gaps, on to a count."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import shapely

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def region(tmp_path: Path) -> Path:
    """A region's folder after a run in which one of two blocks failed."""
    folder = tmp_path / "regions" / "made"
    run = folder / "runs" / "2026-03-01_abc"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "progress.json").write_text("{}")
    (folder / "region.yaml").write_text("")
    halves = [shapely.box(85 + k * 0.3, 25, 85.3 + k * 0.3, 25.2) for k in range(2)]
    blocks = gpd.GeoDataFrame({"state": ["done", "failed"]}, geometry=halves, crs=4326)
    blocks.to_file(folder / "blocks.geojson", driver="GeoJSON")
    sites = [shapely.Point(85.01 + k * 0.01, 25.1).buffer(3e-4) for k in range(20)]
    confidence = [0.9] * 15 + [0.2] * 5
    gpd.GeoDataFrame({"confidence": confidence}, geometry=sites, crs=4326).to_file(run / "detections.gpkg")
    return folder


def test_a_failed_block_stops_the_count(region: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "frame.csv"
    status, printed, err = run("estimate", "frame", region, "--min-confidence", "0.5", "--out", out)
    assert status == 0 and " with a detection" in printed and "failed" in err
    frame = pd.read_csv(out)
    assert frame["n_flagged"].sum() == 15
    frame.assign(n_sites=frame["n_flagged"])[["tile_id", "n_sites"]].to_csv(tmp_path / "reviews.csv", index=False)
    status, _, err = run("estimate", "count", out, tmp_path / "reviews.csv")
    assert status == 1 and "tiles that were not searched" in err
    status, printed, _ = run("estimate", "count", out, tmp_path / "reviews.csv", "--gaps", "stratum", "--json")
    names = [stratum["name"] for stratum in json.loads(printed)["sample"]["strata"]]
    assert status == 0 and "not searched" in names


def tell(region: Path, **told: str) -> None:
    """What the layer of detections says of its origin."""
    with sqlite3.connect(next(region.glob("runs/*/detections.gpkg"))) as database:
        database.execute("CREATE TABLE IF NOT EXISTS geoslave_provenance (key TEXT, value TEXT)")
        database.executemany("INSERT INTO geoslave_provenance VALUES (?, ?)", told.items())


def test_a_region_is_found_by_its_name(region: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, printed, err = run("estimate", "frame", "made", "--out", "frame.csv")
    assert status == 0 and "frame.csv" in printed, err
    assert "no region that was run" in run("estimate", "frame", "mode", "--out", "other.csv")[2]


def test_detections_and_blocks_of_two_states_are_refused(region: Path, run: Run, tmp_path: Path) -> None:
    tell(region, run="2026-03-01_abc", blocks_missing="1")
    assert run("estimate", "frame", region, "--out", tmp_path / "a.csv")[0] == 0
    blocks = gpd.read_file(region / "blocks.geojson").assign(state="done")
    blocks.to_file(region / "blocks.geojson", driver="GeoJSON")
    status, _, err = run("estimate", "frame", region, "--out", tmp_path / "b.csv")
    assert status == 1 and "export it again" in err and not (tmp_path / "b.csv").exists()
    told = (region / "blocks.geojson").read_text()
    features = json.dumps(json.loads(told)["features"])[1:]
    head = '{"type": "FeatureCollection", "name": "blocks", "run": "2026-02-01_old", "features": ['
    (region / "blocks.geojson").write_text(f"{head}\n{features}}}\n")
    status, _, err = run("estimate", "frame", region, "--out", tmp_path / "b.csv")
    assert status == 1 and "blocks of 2026-02-01_old" in err


def test_a_layer_of_another_run_is_refused(region: Path, run: Run, tmp_path: Path) -> None:
    tell(region, run="2026-02-01_old")
    status, _, err = run("estimate", "frame", region, "--out", tmp_path / "b.csv")
    assert status == 1 and "export it again" in err


def test_what_lacks_is_told(region: Path, run: Run, tmp_path: Path) -> None:
    layer = next(region.glob("runs/*/detections.gpkg"))
    out = tmp_path / "f.csv"
    assert run("estimate", "frame", layer, "--out", out)[0] == 2
    assert run("estimate", "frame", layer, "--ground", region / "blocks.geojson", "--out", out, "--json")[0] == 0
    layer.unlink()
    assert "region export" in run("estimate", "frame", region, "--out", tmp_path / "g.csv")[2]
    assert "no region that was run" in run("estimate", "frame", tmp_path, "--out", tmp_path / "g.csv")[2]
