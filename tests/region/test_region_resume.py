"""Running a finished job again: little is loaded, everything is checked, nobody is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest
import shapely

from geoslave.grid import partition
from geoslave.region.gridrecord import block_at, block_name
from geoslave.region.job import known_records
from geoslave.region.run import Choice, check_blocks, prepare, run_region
from tests.conftest import UTM
from tests.region.conftest import MakeRegion

SLOW_TO_LOAD = {"geopandas", "pandas", "rasterio", "odc.geo", "scipy", "onnxruntime", "torch", "distributed", "pystac"}
_RUN_AND_TELL = """
import json, sys
from geoslave.cli.main import run
status = run(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]))
"""


@pytest.fixture
def area(tmp_path: Path) -> Path:
    path = tmp_path / "area.geojson"
    gpd.GeoSeries([shapely.Point(UTM @ (60, 40)).buffer(1500)], crs=32645).to_crs(4326).to_file(path)
    return path


@pytest.mark.parametrize("with_area", [False, True])
def test_a_finished_job_is_found_finished_without_loading_what_finds_sites(
    make_region: MakeRegion, area: Path, with_area: bool
) -> None:
    region = make_region(aoi=area if with_area else None)
    before = run_region(region, Choice(workers=0))
    command = ("region", "run", region.name, "--regions", str(region.path.parent), "--json")
    told = subprocess.run(
        [sys.executable, "-c", _RUN_AND_TELL, *command], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    facts, (status, loaded) = (json.loads(line) for line in told)
    assert status == 0 and facts["done_now"] == 0 and facts["done"] == before.blocks > 0
    assert not SLOW_TO_LOAD & set(loaded)


def test_a_finished_job_asks_no_cluster(make_region: MakeRegion) -> None:
    region = make_region()
    run_region(region, Choice(workers=0))
    again = run_region(region, Choice(dask="tcp://127.0.0.1:1"))  # where nobody answers
    assert again.done_now == 0 and again.done_before == again.blocks


@pytest.mark.parametrize("threads_from", [0.0, 1e9])
def test_what_is_spoilt_is_found_by_one_thread_and_by_several(
    make_region: MakeRegion, monkeypatch: pytest.MonkeyPatch, threads_from: float
) -> None:
    monkeypatch.setattr("geoslave.region.run._CHECKED_TOGETHER", 3)
    monkeypatch.setattr("geoslave.region.run._WORTH_A_THREAD_S", threads_from)
    region = make_region(block=64)
    run = run_region(region, Choice(workers=0)).run
    (grid, record), *_ = known_records(prepare(region)).items()
    blocks = [(grid, row, col) for row, col in record.blocks]
    spoilt = blocks[1::4]
    for _, row, col in spoilt:
        path = run.objects(grid, block_name(row, col))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    told = list(check_blocks(run, blocks))
    assert [block for block, done in zip(blocks, told, strict=True) if done is None] == spoilt
    assert run_region(region, Choice(workers=0)).done_now == len(spoilt) > 3


def test_a_runs_copy_of_its_area_is_mended(make_region: MakeRegion, area: Path) -> None:
    region = make_region(aoi=area)
    run = prepare(region).run
    run.aoi.write_bytes(run.aoi.read_bytes()[:-20])
    job = prepare(region)
    assert job.run == run and run.aoi.read_bytes() == (region.path / "aoi.geojson").read_bytes()
    assert job.aoi is not None and len(job.aoi) == 1


def test_blocks_are_called_as_their_cells() -> None:
    for cell in partition((300, 11_000), 10):
        assert block_name(cell.row, cell.col) == cell.name == block_at((300, 11_000), 10, cell.row, cell.col).name
