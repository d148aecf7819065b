"""Killed at random moments, a region job ends with the same bytes. scripts/chaos.py does it 50 times."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from geoslave.region.layout import RegionFolder
from geoslave.region.run import Choice, run_region
from tests.chaos import (
    QUIET,
    cluster,
    forget,
    geoslave,
    kill_driver,
    layers,
    make_country,
)


@pytest.fixture
def region(tmp_path: Path, bright_model: Path) -> RegionFolder:
    return make_country(tmp_path, bright_model, 24)


def undisturbed(region: RegionFolder) -> dict[str, bytes]:
    run_region(region, Choice(workers=0))
    expected = layers(region)
    assert len(expected["detections.geojson"]) > 5_000
    forget(region)
    return expected


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_killed_driver_loses_nothing(region: RegionFolder, workers: str) -> None:
    expected = undisturbed(region)
    rng = random.Random(int(workers))
    progress = [kill_driver(region, rng, 8, "--workers", workers) for _ in range(3)]
    summary = run_region(region, Choice(workers=int(workers)))
    assert 0 < progress[-1] <= summary.blocks and not summary.failures
    assert layers(region) == expected
    run = region.latest_run()
    assert run is not None and not list(run.path.rglob(".~*"))


def test_on_a_cluster_drivers_and_workers_may_be_killed(region: RegionFolder, tmp_path: Path) -> None:
    expected = undisturbed(region)
    rng = random.Random(5)
    with cluster(tmp_path) as dask:
        kill_driver(region, rng, 6, "--dask", dask.address)
        driver = subprocess.Popen(geoslave(region, "run", "--dask", dask.address), **QUIET)
        time.sleep(3)
        dask.kill_worker(rng)
        assert driver.wait(120) == 0
    assert layers(region) == expected


def test_a_worker_process_that_is_killed_is_replaced(region: RegionFolder) -> None:
    expected = undisturbed(region)
    driver = subprocess.Popen(geoslave(region, "run", "--workers", "1"), **QUIET)
    killed = 0
    while driver.poll() is None and killed < 2:
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        for child in children:
            time.sleep(0.4)
            with suppress(ProcessLookupError):  # the run has ended
                os.kill(int(child), signal.SIGKILL)
                killed += 1
        time.sleep(0.02)
    assert driver.wait(120) == 0 and killed > 0
    assert layers(region) == expected


def test_a_stopped_run_ends_cleanly_and_goes_on_later(region: RegionFolder) -> None:
    expected = undisturbed(region)
    run = region.latest_run()
    assert run is not None
    driver = subprocess.Popen(geoslave(region, "run", "--workers", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list((run.path / "objects").glob("*/*.objects")) and driver.poll() is None:
        time.sleep(0.01)
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=30)
    assert driver.returncode == 1 and errors.decode().strip().startswith("Error: stopped")
    assert not list(run.path.rglob(".~*"))
    assert not run_region(region, Choice(workers=0)).failures
    assert layers(region) == expected
