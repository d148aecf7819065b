"""Detections against a register."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pytest
import shapely

from geoslave.detections.register import match_register

Run = Callable[..., tuple[int, str, str]]
M = 1 / 111_320


def kilns(*metres: float) -> gpd.GeoDataFrame:
    boxes = [shapely.box(x * M, 0, (x + 80) * M, 40 * M) for x in metres]
    return gpd.GeoDataFrame({"confidence": [0.9] * len(boxes)}, geometry=boxes, crs=4326)


def entries(*metres: float) -> gpd.GeoDataFrame:
    owners = [f"licence {k}" for k in range(len(metres))]
    return gpd.GeoDataFrame({"licence": owners}, geometry=[shapely.Point(x * M, 0) for x in metres], crs=4326)


def test_each_entry_vouches_for_one_site() -> None:
    table = match_register(kilns(0, 200, 5000), entries(190, 9000))
    assert list(table["status"]) == ["registered", "unregistered", "unregistered", "registered, not seen"]
    assert table["register_licence"].iloc[0] == "licence 0" and table["register_licence"].iloc[3] == "licence 1"
    assert table["distance_m"].iloc[0] <= 150 and table["distance_m"].iloc[1:].isna().all()


def test_two_sites_and_two_entries_are_all_matched() -> None:
    assert list(match_register(kilns(0, 200), entries(190, 290))["status"]) == ["registered"] * 2


def test_the_command_counts_from_both_lists(run: Run, tmp_path: Path) -> None:
    kilns(0, 1000, 2000).to_file(tmp_path / "kilns.gpkg")
    (tmp_path / "register.csv").write_text(f"licence,lon,lat\na,{10 * M},0\nb,{1010 * M},0\nc,1,1\n")
    out = tmp_path / "matched.geojson"
    status, printed, _ = run(
        "estimate", "registry", tmp_path / "kilns.gpkg", tmp_path / "register.csv", "--out", out, "--json"
    )
    facts = json.loads(printed)
    assert status == 0 and list(facts["status"].values()) == [2, 1, 1]
    assert facts["total"]["value"] == pytest.approx(4 * 4 / 3 - 1)
    assert len(gpd.read_file(out)) == 4


def test_registers_without_places_are_refused(run: Run, tmp_path: Path) -> None:
    kilns(0).to_file(tmp_path / "kilns.gpkg")
    for text, said in (("licence\na\n", "lon and lat"), ("lon,lat\n500,1\n", "row 2")):
        (tmp_path / "r.csv").write_text(text)
        status, _, err = run("estimate", "registry", tmp_path / "kilns.gpkg", tmp_path / "r.csv")
        assert status == 1 and said in err and len(err.strip().splitlines()) == 1
