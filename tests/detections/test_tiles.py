"""PMTiles: every detection is in the tiles, where it was, with its attributes and its origin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pyogrio
import pytest
import shapely

from geoslave.detections.export import write_detections
from geoslave.detections.schema import empty
from geoslave.detections.tiles import ZOOMS, read_about, write_tiles
from geoslave.errors import GeoslaveError, OutputError
from tests.detections.test_export import kilns


def test_tiles_hold_every_detection_where_it_was(tmp_path: Path) -> None:
    table = kilns()
    path = write_tiles(
        table, tmp_path / "sites.pmtiles", provenance={"model_id": "m@1", "scene": "/home/somebody/x.tif"}
    )
    read = gpd.read_file(path)
    assert set(read["detection_id"]) == set(table["detection_id"])
    joined = read.dissolve("detection_id").to_crs(table.crs)
    for row in table.itertuples():
        tile = joined.loc[row.detection_id]
        assert tile["class_name"] == row.class_name and tile["confidence"] == pytest.approx(row.confidence)
        assert shapely.hausdorff_distance(tile.geometry.convex_hull, row.geometry.convex_hull) < 3  # metres
    about = read_about(path)
    assert about["model_id"] == "m@1" and "never evidence of a crime" in about["statement"]
    assert "somebody" not in str(about)
    told = pyogrio.read_info(path)["dataset_metadata"]
    assert (int(told["minzoom"]), int(told["maxzoom"])) == ZOOMS


def test_tiles_are_not_written_over_and_not_empty(tmp_path: Path) -> None:
    path = write_tiles(kilns(), tmp_path / "sites.pmtiles", provenance={})
    with pytest.raises(OutputError):
        write_tiles(kilns(), path, provenance={})
    with pytest.raises(GeoslaveError, match="no detection"):
        write_tiles(empty("EPSG:32645"), tmp_path / "none.pmtiles", provenance={})
    assert [p.name for p in tmp_path.iterdir()] == ["sites.pmtiles"]


def test_another_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.pmtiles").write_bytes(b"no tiles")
    with pytest.raises(GeoslaveError, match="no tiles of geoslave"):
        read_about(tmp_path / "x.pmtiles")


def test_the_command_writes_tiles(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    write_detections(kilns(), tmp_path / "kilns.gpkg", provenance={"model_id": "m@1"})
    status, out, said = run("export", tmp_path / "kilns.gpkg", "--out", tmp_path / "kilns.pmtiles")
    assert status == 0 and "4 detections" in out, said
    assert read_about(tmp_path / "kilns.pmtiles")["model_id"] == "m@1"
    assert run("export", tmp_path / "kilns.gpkg", "--out", tmp_path / "kilns.pmtiles")[0] == 1
