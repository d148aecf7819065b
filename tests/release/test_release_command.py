"""`geoslave release` and `geoslave provenance`, as people use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import h3
import numpy as np
import pandas as pd
import pytest
import shapely
import yaml

from geoslave.detections.export import read_detections, read_provenance, write_detections
from geoslave.release.cells import cells_of_detections, count_cells
from geoslave.release.lint import lint_folder
from tests.release.country import country

Run = Callable[..., tuple[int, str, str]]


def test_a_release_holds_true_counts_of_five_and_more_and_nothing_of_a_site(
    layer: Path, release: Path, run: Run
) -> None:
    sites = read_detections(layer)
    rows = pd.read_csv(release / "cells.csv")
    about = json.loads((release / "release.json").read_text())
    resolution = about["resolution"]
    truth = pd.Series([h3.cell_to_parent(c, resolution) for c in cells_of_detections(sites)]).value_counts()
    shown = rows[rows["level"] == "cell"].set_index("h3_cell")["n_detections"]
    assert len(shown) > 3 and (shown == truth[shown.index]).all() and shown.min() >= 5
    assert rows.loc[rows["level"] == "total", "n_detections"].item() == len(sites) == 300
    status, printed, _ = run("release", "check", release, "--layer", layer)
    assert status == 0 and "nothing found" in printed
    everything = " ".join(path.read_text() for path in release.iterdir())
    assert "S2A_" not in everything and not any(name in everything for name in sites["detection_id"])


def test_its_papers_can_be_read(release: Path) -> None:
    readme = (release / "README.md").read_text()
    assert "A hexagon that is absent is not empty" in readme and "never evidence of a crime" in readme
    cited = yaml.safe_load((release / "CITATION.cff").read_text())
    assert cited["authors"] == [{"name": "Kiln Watch"}] and cited["license"] == "CC-BY-4.0"
    drawn = gpd.read_file(release / "cells.geojson")
    assert (drawn.geometry.to_crs(32644).area / 1e6 / drawn["area_km2"]).between(0.97, 1.03).all()


def test_a_release_leads_back_to_its_scenes_only_through_the_log(release: Path, layer: Path, run: Run) -> None:
    status, printed, _ = run("provenance", release, "--json")
    traced = json.loads(printed)
    assert status == 0 and traced["scenes"] == ["S2A_MSIL2A_20250301_T44RKQ"]
    assert traced["model_sha256"] == "ab" * 32 and traced["threshold_high"] == 0.5
    (release.parent / "release-log.jsonl").rename(release.parent / "elsewhere")
    status, printed, _ = run("provenance", release, "--json")
    assert status == 0 and "scenes" not in json.loads(printed) and json.loads(printed)["n_scenes"] == 1


def test_a_detection_leads_back_to_its_model_and_scene(layer: Path, run: Run) -> None:
    name = read_detections(layer)["detection_id"].iloc[7]
    status, printed, _ = run("provenance", name, "--in", layer, "--json")
    traced = json.loads(printed)
    assert status == 0 and traced["detection_id"] == name
    assert traced["scene_id"].startswith("S2A_") and traced["model_sha256"] == "ab" * 32
    assert 0 <= traced["confidence"] <= 1 and traced["truncated"] is False
    assert traced["confidence_means"] == "the model's score, not calibrated"
    status, _, err = run("provenance", "0" * 16, "--in", layer)
    assert status == 1 and "none of kilns.gpkg holds it" in err


def test_a_finer_release_and_a_coarser_one_agree_in_every_parent() -> None:
    """Their difference would tell of slivers between cells of two resolutions."""
    cells = cells_of_detections(country())
    fine, coarse = count_cells(cells, 5), count_cells(cells, 4)
    parents = {row.cell: row.n_detections for row in fine.rows if row.level == "parent"}
    same = {row.cell: row.n_detections for row in coarse.cells}
    assert parents.keys() & same.keys()
    assert all(parents[cell] == same[cell] for cell in parents.keys() & same.keys())


def test_precise_places_need_a_purpose_a_recipient_and_a_record(layer: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("release", layer, "--out", tmp_path / "exact", "--precise", "--purpose", "visits")
    assert status == 2 and "--recipient" in err and not (tmp_path / "exact").exists()
    asked = ("--precise", "--purpose", "site visits", "--recipient", "Labour Dept")
    for name in ("exact", "again"):
        status, _, err = run("release", layer, "--out", tmp_path / name, *asked)
        assert status == 0, err
    assert len(read_detections(tmp_path / "exact" / "sites.gpkg")) == 300
    assert read_provenance(tmp_path / "exact" / "sites.geojson")["recipient"] == "Labour Dept"
    assert "NOT FOR PUBLICATION" in (tmp_path / "exact" / "README.md").read_text()
    status, printed, _ = run("release", "check", tmp_path / "exact")
    assert status == 1 and "precise export for one recipient" in printed
    log = tmp_path / "release-log.jsonl"
    status, printed, _ = run("release", "log", log)
    assert status == 0 and printed.count("Labour Dept") == 2
    log.write_text(log.read_text().replace("site visits", "sight seeing", 1))
    status, _, err = run("release", "log", log)
    assert status == 1 and "line 1 was changed" in err
    status, _, err = run("release", layer, "--out", tmp_path / "third", *asked)
    assert status == 1 and not (tmp_path / "third").exists(), "nothing leaves on a broken record"


def test_lines_taken_out_of_the_log_are_missed(layer: Path, tmp_path: Path, run: Run) -> None:
    for name in ("a", "b", "c"):
        run("release", layer, "--out", tmp_path / name, "--author", "Kiln Watch")
    log = tmp_path / "release-log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[2])
    status, _, err = run("release", "log", log)
    assert status == 1 and "line 2 was changed, or one before it taken out" in err


def test_estimates_come_with_intervals_and_are_protected_too(layer: Path, tmp_path: Path, run: Run) -> None:
    sites = read_detections(layer)
    points = gpd.GeoSeries(shapely.centroid(sites.geometry.to_numpy()), crs=sites.crs).to_crs(4326)
    tile = (points.x * 20).astype(int).astype(str) + "x" + (points.y * 20).astype(int).astype(str)
    flagged = tile.value_counts()
    frame = pd.DataFrame(
        {
            "tile_id": flagged.index,
            "n_flagged": flagged.to_numpy(),
            "lon": points.x.groupby(tile).first()[flagged.index].to_numpy(),
            "lat": points.y.groupby(tile).first()[flagged.index].to_numpy(),
        }
    )
    frame.to_csv(tmp_path / "frame.csv", index=False)
    frame[["tile_id"]].assign(n_sites=frame["n_flagged"], reviewer="Asha").to_csv(tmp_path / "reviews.csv", index=False)
    reviewed = ("--frame", tmp_path / "frame.csv", "--reviews", tmp_path / "reviews.csv")
    status, printed, err = run("release", layer, "--out", tmp_path / "r", "--author", "A", *reviewed, "--json")
    assert status == 0, err
    assert json.loads(printed)["estimate"] == 300
    about = json.loads((tmp_path / "r" / "release.json").read_text())
    assert about["n_reviewers"] == 1 and about["n_reviewed"] == len(frame)
    assert not any("Asha" in path.read_text() for path in (tmp_path / "r").iterdir())
    rows = pd.read_csv(tmp_path / "r" / "cells.csv")
    assert (rows["estimate"] >= 5).all() and (rows["n_detections"] >= 5).all()
    assert (rows["low"] <= rows["estimate"]).all() and (rows["estimate"] <= rows["high"]).all()
    assert "95% interval" in (tmp_path / "r" / "README.md").read_text() and lint_folder(tmp_path / "r") == []


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--out", "new"), 2, "--author"),
        (("--out", "new", "--author", "A", "--min-confidence", "0.9999"), 1, "nothing to release"),
        (("--out", "new", "--author", "A", "--purpose", "x"), 2, "belong to --precise"),
        (("--out", "new", "--author", "A", "--log", "new/log.jsonl"), 2, "keep it elsewhere"),
        (("--out", "taken", "--author", "A"), 1, "exists"),
        (("--out", "taken", "--author", "A", "--overwrite"), 1, "holds no release"),
    ],
)
def test_what_cannot_be_is_said(
    layer: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple, status: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    got, _, err = run("release", layer, *arguments)
    assert got == status and told in err and not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".~*")), "nothing is left behind"


def test_no_site_can_be_placed_better_than_its_cell(layer: Path, release: Path, tmp_path: Path, run: Run) -> None:
    """Every site moved anywhere within its cell: the public files stay the same to the byte."""
    sites, rng = read_detections(layer), np.random.default_rng(1)
    moved = [elsewhere(cell, rng) for cell in cells_of_detections(sites)]
    points = gpd.GeoSeries(gpd.points_from_xy(*zip(*moved, strict=True)), crs=4326).to_crs(sites.crs)
    assert (points.distance(sites.geometry) > 1000).mean() > 0.8, "they did move"
    write_detections(sites.set_geometry(points.buffer(30)), tmp_path / "moved.gpkg", provenance=read_provenance(layer))
    status, _, err = run("release", tmp_path / "moved.gpkg", "--out", tmp_path / "other", "--author", "Kiln Watch")
    assert status == 0, err
    for path in release.iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def elsewhere(cell: str, rng: np.random.Generator) -> tuple[float, float]:
    """A random place of a cell of resolution 5: longitude, latitude."""
    small = list(h3.cell_to_children(cell, 8))
    while True:
        lat, lon = h3.cell_to_latlng(small[rng.integers(len(small))])
        if h3.latlng_to_cell(lat, lon, 5) == cell:
            return lon, lat
