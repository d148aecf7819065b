"""Region jobs whose scenes lie behind a network: one that fails, and one where files are replaced."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import rasterio
from affine import Affine

from geoslave.errors import SceneError
from geoslave.imagery import geotiff, patient
from geoslave.region import stamps
from geoslave.region.engine import Patience
from geoslave.region.layout import RegionFolder
from geoslave.region.publish import export_region
from geoslave.region.run import Choice, Summary, run_region
from geoslave.region.setup import init_region
from geoslave.region.stamps import stamp
from tests.conftest import UTM
from tests.imagery.test_catalog import serving
from tests.region.conftest import change, country
from tests.scenes import make_product, reflectances, write_cog

SIDE = 768


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses in tests."""
    monkeypatch.setattr(patient, "PAUSES_S", (0.01,) * 6)
    monkeypatch.setattr(stamps, "PAUSES_S", (0.01,) * 6)
    monkeypatch.setitem(geotiff.GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", 0.05)
    monkeypatch.setitem(geotiff.GDAL_OPTIONS, "CPL_VSIL_CURL_CHUNK_SIZE", 16384)  # many requests
    monkeypatch.setenv("CPL_VSIL_CURL_CACHE_SIZE", "65536")
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_LIMIT", "1000")


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder with two COGs that overlap and two Sentinel-2 products."""
    folder = tmp_path / "served"
    for number in range(2):
        place = UTM @ Affine.translation(number * (SIDE - 90), 0)
        pixels = country((SIDE, SIDE), seed=number + 1)
        _padded(write_cog(folder / f"scene{number}_2020010{number + 1}.tif", pixels, place, nodata=0), 1_300_000)
    described = []
    for number in range(2):
        bands = reflectances((SIDE // 2, SIDE // 2), number)
        bands[:, 100:105, 250:260] = bands[:, 300:305, 150:160] = 9000
        classes = np.full((SIDE // 4, SIDE // 4), 4)
        classes[10 : 30 + 50 * number, 10:60] = 9
        day = f"2024-01-0{number + 1}T04:30:00Z"
        described.append(make_product(folder, f"s{number}", bands, classes=classes, base="BASE", taken=day))
        _padded(folder / f"s{number}" / "B03.tif", 400_000)
    (folder / "items.json").write_text(json.dumps(described))
    return folder


def make_region(folder: Path, name: str, model: Path, address: str, served: Path, composite: str) -> RegionFolder:
    """A region of what is served there: its scenes by address, or its items."""
    scenes = [f"{address}/{path.name}" for path in sorted(served.glob("*.tif"))] if composite == "single" else []
    region = init_region(folder / name, None, None, str(model), scenes)
    change(region, block=128, threads=1, composite=composite)
    for item in json.loads((served / "items.json").read_text().replace("BASE", address)):
        region.scenes.mkdir(exist_ok=True)
        (region.scenes / f"{item['id']}.json").write_text(json.dumps(item))
    return region


def run_here(region: RegionFolder, watch: Callable[[object], None] | None = None) -> Summary:
    return run_region(region, Choice(workers=0, patience=Patience(attempts=3, first_wait_s=0.01)), watch)


def results(region: RegionFolder) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """Score maps by place, and the layer's features."""
    (layer,) = (path for path in export_region(region, allow_gaps=False).layers if path.suffix == ".geojson")
    run = region.latest_run()
    assert run is not None
    scores = {path.relative_to(run.path).as_posix(): path.read_bytes() for path in run.path.glob("scores/*/*.tif")}
    return scores, json.loads(layer.read_text())["features"]


def run_afresh(region: RegionFolder) -> tuple[int, int, int]:
    """(failures, blocks done now, blocks) of a run in a process of its own.

    GDAL looks but once how large its cache of answers is: a test before would leave it so large that few are asked for.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run_hastily, region).result()


def _run_hastily(region: RegionFolder) -> tuple[int, int, int]:
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        summary = run_here(region)
    return len(summary.failures), summary.done_now, summary.blocks


@pytest.mark.parametrize(("composite", "seed"), [("single", 5), ("median", 5)])
def test_a_network_that_fails_gives_the_same_result(
    tmp_path: Path,
    served: Path,
    bright_model: Path,
    hasty: None,
    composite: str,
    seed: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Stalls, cuts, 429, 503 and garbage in 5 % of all answers."""
    with serving("range_server.py", served) as address:
        sound = make_region(tmp_path / "sound", "r", bright_model, address, served, composite)
        assert not run_here(sound).failures
    capfd.readouterr()
    with serving("faulty_server.py", served, seed, 0.05) as address:
        region = make_region(tmp_path / "faulty", "r", bright_model, address, served, composite)
        failures, done, blocks = run_afresh(region)
        faults = Counter(json.loads(urlopen(f"{address}/_faults").read()))
    assert not failures and done == blocks >= 16
    found, expected = results(region), results(sound)
    assert found == expected and len(expected[1]) >= 2
    assert faults.total() >= 8 and len(faults) >= 4
    assert "ERROR" not in capfd.readouterr().err  # what GDAL tried again concerns nobody


@pytest.mark.parametrize(("composite", "versions"), [("single", True), ("single", False), ("latest", True)])
def test_a_remote_scene_that_is_replaced_while_running_is_noticed(
    tmp_path: Path, served: Path, bright_model: Path, hasty: None, composite: str, versions: bool
) -> None:
    """By its ETag, or (without) by its header: the size stays the same."""
    file = served / "scene0_20200101.tif" if composite == "single" else served / "s0" / "B03.tif"
    seen = 0

    def replace(_progress: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 6:
            _replace(file)

    with serving("range_server.py", served, *([] if versions else ["--no-versions"])) as address:
        region = make_region(tmp_path / "regions", "r", bright_model, address, served, composite)
        summary = run_here(region, replace)
        assert summary.failures and summary.done_now > 0
        assert all("was replaced" in reason for reason in summary.failures.values())
        again = run_here(region)
        assert again.run != summary.run and not again.failures and again.done_now == again.blocks
        assert run_here(region).run == again.run


def _replace(file: Path) -> None:
    """Other pixels, with as many bytes."""
    size = file.stat().st_size
    with rasterio.open(file) as scene:
        pixels, place, crs = scene.read(), scene.transform, str(scene.crs)
    write_cog(file, np.roll(pixels, 5, axis=2), place, crs, nodata=0)
    _padded(file, size)


def _padded(file: Path, size: int) -> None:
    content = file.read_bytes()
    assert len(content) < size
    file.write_bytes(content + b" " * (size - len(content)))


def test_a_server_that_fails_for_a_moment_is_asked_again_and_an_absent_file_is_not(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "PAUSES_S", (0.01,) * 12)
    with serving("faulty_server.py", served, 0, 0.6, "503", "429") as address:
        marks = {stamp(f"{address}/scene0_20200101.tif") for _ in range(10)}
        assert json.loads(urlopen(f"{address}/_faults").read())
    assert len(marks) == 1
    monkeypatch.setattr(stamps, "PAUSES_S", (600,))
    with serving("range_server.py", served) as address, pytest.raises(SceneError, match="does not answer"):
        stamp(f"{address}/absent.tif")


def test_what_blocks_share_is_fetched_once(tmp_path: Path, bright_model: Path) -> None:
    """A COG by its address, whose blocks of 256 lie across the job's blocks of 640, each read with a halo."""
    side = 2560
    path = write_cog(tmp_path / "served" / "scene.tif", country((side, side)), UTM, nodata=0)
    with serving("range_server.py", tmp_path / "served") as address:
        region = init_region(tmp_path / "regions" / "r", None, None, str(bright_model), [f"{address}/scene.tif"])
        change(region, block=640, threads=1)
        assert not run_region(region, Choice(workers=1)).failures
        sent = int(urlopen(f"{address}/_sent").read())
    needed = _bytes_of_blocks(path)
    assert needed < sent < 1.2 * needed


def _bytes_of_blocks(path: Path) -> int:
    """Of the pixels alone, without overviews and header."""
    with rasterio.open(path) as file:
        return sum(file.block_size(1, *index) for index, _ in file.block_windows(1))
