"""A region's run is reviewed without naming its scenes again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geoslave.cli.review_region import of_region
from geoslave.errors import GeoslaveError


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    region = tmp_path / "bihar"
    run = region / "runs" / "2026-03-01_abc"
    run.mkdir(parents=True)
    (region / "region.yaml").write_text("target: brick_kiln\nmodel: kiln-s2\nbands: {red: 3, green: 2, blue: 1}\n")
    write_run(run, [{"path": "/tiles/b.tif", "items": []}, {"path": "/tiles/a.tif", "items": []}])
    (run / "detections.gpkg").touch()
    return run


def write_run(run: Path, inputs: list[dict[str, object]]) -> None:
    (run / "run.json").write_text(json.dumps({"inputs": inputs}))


@pytest.mark.parametrize("depth", [0, 2], ids=["the run's folder", "the region's folder"])
def test_a_run_tells_its_detections_its_scenes_and_how_they_are_read(run_folder: Path, depth: int) -> None:
    named = (run_folder, *run_folder.parents)[depth]
    found = of_region(str(named))
    assert found is not None
    assert found.detections == run_folder / "detections.gpkg"
    assert found.scenes == ("/tiles/a.tif", "/tiles/b.tif")
    assert found.bands == {"red": 3, "green": 2, "blue": 1}


def test_scenes_of_a_composite_come_from_the_items_that_were_used(run_folder: Path) -> None:
    write_run(run_folder, [{"path": None, "items": ["a", "b"]}])
    (run_folder / "items").mkdir()
    for name in "abc":
        item = {"id": name, "assets": {"data": {"href": f"/scenes/{name}.tif"}}}
        (run_folder / "items" / f"{name}.json").write_text(json.dumps(item))
    found = of_region(str(run_folder))
    assert found is not None and found.scenes == ("/scenes/a.tif", "/scenes/b.tif")
    split = {"id": "a", "assets": {"red": {"href": "/r.tif"}, "green": {"href": "/g.tif"}}}
    (run_folder / "items" / "a.json").write_text(json.dumps(split))
    with pytest.raises(GeoslaveError, match=r"2 files.*--scenes"):
        of_region(str(run_folder))


def test_what_is_not_finished_is_told(run_folder: Path, tmp_path: Path) -> None:
    assert of_region(str(tmp_path)) is None
    (run_folder / "detections.gpkg").unlink()
    with pytest.raises(GeoslaveError, match="make it with  geoslave region export bihar"):
        of_region(str(run_folder))
    (run_folder / "run.json").unlink()
    with pytest.raises(GeoslaveError, match="not run yet"):
        of_region(str(run_folder.parents[1]))
