"""Killing region jobs at random moments: used by a short test and by scripts/chaos.py."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from affine import Affine

from geoslave.region.layout import RegionFolder
from geoslave.region.publish import export_region
from geoslave.region.setup import init_region
from tests.conftest import UTM
from tests.factories import dark_field, with_kilns

QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def make_country(folder: Path, model: Path, blocks: int, side: int = 64) -> RegionFolder:
    """A region of two scenes with about `blocks` blocks of `side` pixels, kilns across their seams."""
    rows = max(1, round((blocks / 2) ** 0.5))
    shape = (rows * side, -(-blocks // (2 * rows)) * side)
    paths = []
    for number in range(2):
        rng = np.random.default_rng(number)
        corners = [(int(y), int(x)) for y in range(10, shape[0] - 12, 40) for x in rng.integers(2, shape[1] - 12, 3)]
        corners += [(y - 2, x - 5) for y in range(side, shape[0], 2 * side) for x in range(side, shape[1], side)]
        path = folder / f"scene{number}_2020010{number + 1}.tif"
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": shape[0], "width": shape[1]}
        place = UTM @ Affine.translation(number * (shape[1] - 20), 0)
        with rasterio.open(path, "w", **profile, crs="EPSG:32645", transform=place, nodata=0, tiled=True,
                           blockxsize=64, blockysize=64, photometric="RGB") as file:  # fmt: skip
            file.write(with_kilns(dark_field(shape, seed=number), corners))
        paths.append(str(path))
    region = init_region(folder / "regions" / "chaos", None, None, str(model), paths)
    told = yaml.safe_load(region.config.read_text())
    region.config.write_text(yaml.safe_dump({**told, "block": side, "threads": 1, "attempts": 6}))
    return region


def geoslave(region: RegionFolder, verb: str, *options: str) -> list[str]:
    """A command line."""
    where = ("--regions", str(region.path.parent))
    return [sys.executable, "-m", "geoslave.cli.main", "region", verb, region.name, *where, *options]


def run_to_end(region: RegionFolder, *options: str) -> dict[str, Any]:
    """A run that nobody disturbs; what it says."""
    done = subprocess.run(geoslave(region, "run", "--json", *options), capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise AssertionError(f"the run failed: {done.stdout} {done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def layers(region: RegionFolder) -> dict[str, bytes]:
    """The exported layers."""
    return {path.name: path.read_bytes() for path in sorted(export_region(region).layers)}


def forget(region: RegionFolder) -> None:
    """Take away what a run made but for its description, which holds its date."""
    run = region.latest_run()
    assert run is not None
    for path in sorted(run.path.rglob("*"), reverse=True):
        if path != run.description:
            path.rmdir() if path.is_dir() else path.unlink()


def kill_driver(region: RegionFolder, rng: random.Random, most: int, *options: str) -> int:
    """Start a run and kill -9 it after some blocks; how many were done by then."""
    run = region.latest_run()
    assert run is not None
    before = _done(run.path)
    wanted = before + rng.randint(0, most)
    driver = subprocess.Popen(geoslave(region, "run", *options), **QUIET)
    deadline = time.monotonic() + 120
    while driver.poll() is None and time.monotonic() < deadline:
        if _done(run.path) >= wanted and (wanted > before or (run.path / "progress.json").exists()):
            break
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.05))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return _done(run.path)


def kill_while_starting(region: RegionFolder, rng: random.Random, *options: str) -> int:
    """Start a run and kill -9 it within its first seconds; how many blocks are done."""
    run = region.latest_run()
    assert run is not None
    driver = subprocess.Popen(geoslave(region, "run", *options), **QUIET)
    time.sleep(rng.uniform(0, 2))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return _done(run.path)


def kill_export(region: RegionFolder, rng: random.Random) -> None:
    """Kill -9 an export somewhere."""
    export = subprocess.Popen(geoslave(region, "export"), **QUIET)
    time.sleep(rng.uniform(0.5, 3))
    export.send_signal(signal.SIGKILL)
    export.wait()


class Cluster:
    """A dask scheduler and workers, each a process of its own on this machine."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self._environment = {**os.environ, "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "0"}
        command = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file")
        self.scheduler = self._start(*command, str(self._file))
        self.workers = [self._worker() for _ in range(workers)]
        while not self._file.exists():
            time.sleep(0.05)
        self.address: str = json.loads(self._file.read_text())["address"]

    def kill_worker(self, rng: random.Random) -> None:
        """Kill -9 one of the workers; another takes its place."""
        number = rng.randrange(len(self.workers))
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = self._worker()

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()

    def _worker(self) -> subprocess.Popen[bytes]:
        return self._start(
            "worker", "--scheduler-file", str(self._file), "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--local-directory", str(self._folder),
        )  # fmt: skip

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "dask", *command], env=self._environment, **QUIET)


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """A cluster that ends with the block."""
    made = Cluster(folder, workers)
    try:
        yield made
    finally:
        made.close()


def _done(run: Path) -> int:
    return sum(1 for _ in (run / "objects").glob("*/*.objects"))
