"""A region job end to end: what detect finds, whatever the blocks, the engine and the trouble on the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio.shutil
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoslave.detect import Request, detect_scenes
from geoslave.detections.export import read_detections
from geoslave.errors import GeoslaveError
from geoslave.files import free_bytes
from geoslave.grid import cells_within, partition
from geoslave.model.package import open_package
from geoslave.model.predict import load_network
from geoslave.region.blocks import looked_at, measure_grid
from geoslave.region.config import read_config
from geoslave.region.engine import Patience
from geoslave.region.layout import RegionFolder, RunFolder, locked, write_json
from geoslave.region.merge import merge
from geoslave.region.publish import export_region
from geoslave.region.run import Choice, Progress, Summary, known_records, prepare, run_region
from geoslave.region.setup import init_region
from geoslave.region.stamps import ReplacedScene
from geoslave.region.status import region_status
from geoslave.targets import TARGETS, get_target
from tests.conftest import UTM
from tests.factories import bright_spec, write_bright_model
from tests.region.conftest import MakeRegion, change

Run = Callable[..., tuple[int, str, str]]
SERIAL = Choice(workers=0, patience=Patience(attempts=2, first_wait_s=0.01))


def run_here(region: RegionFolder, **choice: object) -> Summary:
    return run_region(region, Choice(**{"workers": 0, "patience": SERIAL.patience, **choice}))


def found(region: RegionFolder) -> gpd.GeoDataFrame:
    job = prepare(region)
    return merge(job, known_records(job)).detections


def detected(scenes: list[Path], model: Path, tmp_path: Path, aoi: gpd.GeoSeries | None = None) -> gpd.GeoDataFrame:
    package = open_package(model)
    request = Request(aoi=aoi)
    layer, _ = detect_scenes([str(s) for s in scenes], package, load_network(package, "onnx", 1), tmp_path, request)
    return layer


def same(one: gpd.GeoDataFrame, other: gpd.GeoDataFrame) -> bool:
    plain = one.drop(columns="geometry").reset_index(drop=True)
    wkb = (one.geometry.to_wkb() == other.geometry.to_wkb()).all()
    return len(one) > 0 and bool(wkb) and plain.equals(other.drop(columns="geometry").reset_index(drop=True))


@pytest.mark.parametrize("block", [64, 128, 4096])
def test_a_region_finds_what_detect_finds(
    make_region: MakeRegion, scenes: list[Path], bright_model: Path, tmp_path: Path, block: int
) -> None:
    region = make_region(block=block)
    summary = run_here(region)
    assert not summary.failures and summary.blocks == summary.done_now
    assert same(found(region), detected(scenes, bright_model, tmp_path))


def test_a_region_of_a_persons_own_target_runs(scenes: list[Path], tmp_path: Path) -> None:
    own = get_target("brick_kiln").model_copy(update={"name": "my_site"})
    model = write_bright_model(tmp_path / "mine", target="my_site", own_target=own)
    region = init_region(tmp_path / "regions" / "mine", None, None, str(model), [str(scenes[0])])
    assert read_config(region.config).target == "my_site" and "my_site" not in TARGETS
    summary = run_here(region)
    assert not summary.failures and summary.done_now == summary.blocks > 0
    assert all(count > 5 for count in export_region(region).layers.values())


def test_an_area_chooses_as_detect_does(
    make_region: MakeRegion, scenes: list[Path], bright_model: Path, tmp_path: Path
) -> None:
    x, y = UTM @ (60, 40)
    area = gpd.GeoSeries([shapely.Point(x, y).buffer(1000), shapely.Point(x + 2500, y - 1500).buffer(300)], crs=32645)
    path = tmp_path / "area.geojson"
    area.to_crs(4326).to_file(path)
    region = make_region(aoi=path, block=64)
    summary = run_here(region)
    assert 0 < summary.blocks < 5 * 4 + 5 * 4
    from geoslave.imagery.aoi import read_aoi

    assert same(found(region), detected(scenes, bright_model, tmp_path, read_aoi(region.path / "aoi.geojson")))


def test_running_again_does_nothing_and_exports_the_same_bytes(make_region: MakeRegion) -> None:
    region = make_region()
    first = run_here(region)
    layers = {path.name: path.read_bytes() for path in export_region(region).layers}
    again = run_here(region)
    assert again.done_now == 0 and again.done_before == first.blocks and again.run == first.run
    assert {path.name: path.read_bytes() for path in export_region(region).layers} == layers
    assert set(layers) == {"detections.gpkg", "detections.geojson", "detections.parquet"}
    assert len(read_detections(first.run.path / "detections.gpkg")) > 10


def test_processes_find_the_same(make_region: MakeRegion) -> None:
    region, other = make_region("serial"), make_region("processes")
    run_here(region)
    assert not run_here(other, workers=2).failures
    assert same(found(region), found(other))
    records = sorted(path.name for path in (prepare(other).run.path / "objects").rglob("*.objects"))
    assert len(records) == run_here(other).done_before


def test_a_truncated_or_flipped_intermediate_is_made_again(make_region: MakeRegion) -> None:
    region = make_region()
    run = run_here(region).run
    before = {path: path.read_bytes() for kind in ("scores", "objects") for path in (run.path / kind).rglob("*.*")}
    spoilt = sorted(before)[::3]
    rng = np.random.default_rng(0)
    for n, path in enumerate(spoilt):
        content = bytearray(before[path])
        if n % 3 == 0:
            content = content[: len(content) // 2]
            content = [content, bytearray(), bytearray(len(before[path]))][n // 3 % 3]  # as a power cut leaves files
        else:
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        if n % 3 == 2:
            path.unlink()
        else:
            path.write_bytes(content)
    blocks = {path.parent.name + path.stem for path in spoilt}
    with pytest.raises(GeoslaveError, match="not done"):
        export_region(region)
    again = run_here(region)
    assert again.done_now == len(blocks) and not again.failures
    assert all(path.read_bytes() == before[path] for path in before if path.suffix == ".tif")
    grid = next(run.grids.glob("*.json"))
    grid.write_bytes(grid.read_bytes()[:-20])
    assert run_here(region).done_now == 0 and grid.read_bytes().endswith(b"}\n")


def test_a_changed_setting_begins_a_new_run_and_a_changed_speed_does_not(make_region: MakeRegion) -> None:
    region = make_region()
    first = run_here(region)
    change(region, workers=1, attempts=5)
    assert run_here(region).run == first.run
    change(region, threshold=0.7)
    second = run_here(region)
    assert second.run != first.run and second.done_now == second.blocks
    change(region, threshold=None)
    assert run_here(region).run == first.run


def damage(path: Path) -> None:
    """Overwrite an eighth of a file in its middle; its size and time stay, as when a disk fails."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(b"\xff" * (before.st_size // 8))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_scene_that_cannot_be_read_is_told_and_the_others_go_on(make_region: MakeRegion, scenes: list[Path]) -> None:
    region = make_region()
    damage(scenes[1])
    summary = run_here(region)
    assert set(summary.failures) == {"right_20200210"} and summary.done_now == summary.blocks > 0
    with pytest.raises(GeoslaveError, match=r"right_20200210.*damaged"):
        export_region(region)


def test_failing_blocks_are_told_and_the_others_go_on(make_region: MakeRegion, scenes: list[Path], run: Run) -> None:
    region = make_region(block=64)
    run_here(region, only=(0, 0, 1, 1))  # far away: the scenes are looked at, no block is done
    damage(scenes[1])
    summary = run_here(region)
    assert 0 < len(summary.failures) < 20 and summary.done_now == summary.blocks - len(summary.failures)
    assert all("damaged" in reason for reason in summary.failures.values())
    status = region_status(region)
    assert {one["name"] for one in status.failed} == set(summary.failures) and status.done == summary.done_now
    with pytest.raises(GeoslaveError, match=r"not done.*damaged"):
        export_region(region)
    exported = export_region(region, allow_gaps=True)
    assert set(exported.missing) == set(summary.failures)
    notes = json.loads((summary.run.path / "detections.geojson").read_text())["geoslave"]
    assert notes["blocks_missing"] == len(summary.failures)
    command = ("region", "run", "test", "--workers", 0, "--regions", region.path.parent)
    change(region, attempts=1)
    status_code, out, _ = run(*command, "--json")
    assert status_code == 1 and set(json.loads(out)["failed"]) == set(summary.failures)


def test_a_scene_that_is_replaced_while_running_is_noticed(make_region: MakeRegion, scenes: list[Path]) -> None:
    region = make_region()
    seen = 0

    def replace(_progress: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            content = scenes[1].read_bytes()
            scenes[1].unlink()
            scenes[1].write_bytes(content + b" ")

    summary = run_region(region, SERIAL, replace)
    assert summary.failures and all("was replaced" in reason for reason in summary.failures.values())
    again = run_here(region)
    assert again.run != summary.run and not again.failures and again.done_now == again.blocks


def test_a_tile_under_a_vrt_that_is_replaced_begins_a_new_run(scenes: list[Path], bright_model: Path) -> None:
    mosaic = scenes[0].with_name("mosaic_20200105.vrt")
    rasterio.shutil.copy(scenes[0], mosaic, driver="VRT")
    region = init_region(scenes[0].parent / "regions" / "vrt", None, None, str(bright_model), [str(mosaic)])
    first = run_here(region)
    assert first.done_now > 0 and run_here(region).run == first.run
    content = scenes[0].read_bytes()
    scenes[0].write_bytes(content + b" ")
    with pytest.raises(ReplacedScene, match="run again, a new one begins"):
        measure_grid({"run": str(first.run.path), "grid": "mosaic_20200105"})
    again = run_here(region)
    assert again.run != first.run and again.done_now == again.blocks and not again.failures


@given(
    shape=st.tuples(st.integers(20, 400), st.integers(20, 400)),
    stride=st.sampled_from([4, 16]),
    steps=st.tuples(st.integers(0, 4), st.integers(3, 6)),
)
def test_a_block_looks_no_further_than_the_files_it_is_checked_for(
    shape: tuple[int, int], stride: int, steps: tuple[int, int]
) -> None:
    spec = bright_spec(stride=stride, halo=steps[0] * stride, tile=steps[1] * stride)
    for block in partition(shape, 2 * spec.tile):
        seen = looked_at(block, spec)
        for chip in cells_within(shape, spec.tile, block.core, spec.halo, spec.stride):
            (top, bottom), (left, right) = chip.read.toranges()
            assert seen.row_off <= top and bottom <= seen.row_off + seen.height
            assert seen.col_off <= left and right <= seen.col_off + seen.width


def test_what_a_run_begins_with_is_on_the_disk_before_it_has_begun(
    make_region: MakeRegion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    area = tmp_path / "area.geojson"
    gpd.GeoSeries([shapely.Point(UTM @ (60, 40)).buffer(9000)], crs=32645).to_crs(4326).to_file(area)
    region = make_region(aoi=area)
    seen = []

    def settled(folder: Path) -> None:
        seen.append({path.name for path in folder.iterdir()})

    monkeypatch.setattr("geoslave.region.run.settle", settled)
    run = prepare(region).run
    assert seen == [{"aoi.geojson"}] and run.description.is_file()
    run.aoi.unlink()
    with pytest.raises(GeoslaveError, match="the area the run looked at: delete"):
        prepare(region)


def test_blocks_of_a_run_that_was_stopped_are_shown_as_done_by_the_next(make_region: MakeRegion) -> None:
    region = make_region()
    run_here(region, only=(0, 0, 1, 1))  # far away

    def shown() -> set[str]:
        return {one["properties"]["state"] for one in json.loads(region.blocks.read_text())["features"]}

    def stop(progress: Progress) -> None:
        if progress.stage == "blocks" and progress.done == progress.blocks:
            raise KeyboardInterrupt

    assert shown() == {"to do"}
    with pytest.raises(KeyboardInterrupt):
        run_region(region, SERIAL, stop)
    assert run_here(region).done_now == 0 and shown() == {"done"}


def test_a_failure_that_was_being_written_is_none(make_region: MakeRegion) -> None:
    region = make_region()
    run = run_here(region).run
    draft = run.failures / ".~0a1b2c3d-left_20200105-r000c000.json"
    write_json(draft, {"name": "left_20200105-r000c000", "reason": "x"})
    unfinished = run.objects("left_20200105", "r000c000").with_name(".~0a1b2c3d-r000c000.objects")
    unfinished.write_bytes(b"")
    status = region_status(region)
    assert not status.failed and status.done == status.blocks
    assert not run_here(region).failures and not draft.exists() and not unfinished.exists()


def test_only_a_box_now_and_the_rest_later(make_region: MakeRegion, run: Run) -> None:
    region = make_region(block=64)
    lonlat = gpd.GeoSeries([shapely.Point(UTM @ (40, 40)).buffer(200)], crs=32645).to_crs(4326).total_bounds
    box = ",".join(str(v) for v in lonlat)
    part = run("region", "run", "test", "--workers", 0, "--only", box, "--regions", region.path.parent, "--json")
    told = json.loads(part[1])
    assert part[0] == 0 and 0 < told["done"] < 9 and told["left_out"] > 20
    with pytest.raises(GeoslaveError, match="not done"):
        export_region(region)
    rest = run_here(region)
    assert rest.done_before == told["done"] and rest.done_now == told["left_out"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_stops_the_run_and_more_space_lets_it_go_on(
    small_disk: Path, make_region: MakeRegion, scenes: list[Path], bright_model: Path, tmp_path: Path, workers: int
) -> None:
    region = make_region(block=64)
    run_here(region, only=(0, 0, 1, 1))
    run = prepare(region).run
    other = small_disk / "other"
    other.write_bytes(b"x" * (free_bytes(small_disk) - (24 << 10)))
    with pytest.raises(GeoslaveError, match="the disk is full: free some space, then run again"):
        run_here(region, workers=workers)
    done = len(list(run.path.glob("objects/*/*.objects")))
    assert 0 < done < 30 and not list(small_disk.rglob(".~*"))
    other.unlink()
    summary = run_here(region)
    assert summary.done_before == done and not summary.failures
    assert same(found(region), detected(scenes, bright_model, tmp_path))


def test_a_second_run_of_a_region_is_told(make_region: MakeRegion) -> None:
    region = make_region()
    with locked(region), pytest.raises(GeoslaveError, match=f"being run already by process {os.getpid()}"):
        run_here(region)


def test_status_and_export_by_command(make_region: MakeRegion, run: Run, tmp_path: Path) -> None:
    region = make_region()
    where = ("--regions", region.path.parent)
    assert run("region", "status", "test", *where)[0] == 1
    status, out, _ = run("region", "run", "test", "--workers", 0, *where)
    assert status == 0 and "blocks are done" in out
    status, out, _ = run("region", "status", "test", "--json", *where)
    told = json.loads(out)
    assert status == 0 and told["stage"] == "done" and told["done"] == told["blocks"] > 0 and not told["running"]
    layer = tmp_path / "layer.gpkg"
    assert run("region", "export", "test", "--out", layer, *where)[0] == 0
    assert run("region", "export", "test", "--out", layer, *where)[0] == 1
    assert run("region", "export", "test", "--out", layer, "--overwrite", *where)[0] == 0
    blocks = json.loads(region.blocks.read_text())["features"]
    assert len(blocks) == told["blocks"] and {one["properties"]["state"] for one in blocks} == {"done"}
    events = [json.loads(line)["event"] for line in (RunFolder(region.runs / told["run"]).log).read_text().splitlines()]
    assert events[0] == "begin" and events[-1] == "end" and events.count("block") == told["blocks"]


def test_scores_on_disk_are_those_of_detect(
    make_region: MakeRegion, scenes: list[Path], bright_model: Path, tmp_path: Path
) -> None:
    import rasterio
    from rasterio.windows import from_bounds

    region = make_region()
    run = run_here(region).run
    package = open_package(bright_model)
    detect_scenes([str(scenes[0])], package, load_network(package, "onnx", 1), tmp_path, scores=tmp_path / "s.tif")
    with rasterio.open(tmp_path / "s.tif") as whole:
        for path in sorted((run.path / "scores" / "left_20200105").glob("*.tif")):
            with rasterio.open(path) as block:
                window = from_bounds(*block.bounds, whole.transform)
                assert (block.read() == whole.read(window=window)).all()
    shutil.rmtree(run.path)
