"""Kill a region job at random moments, many times in a row, and compare what comes out byte for byte.

    uv run --all-extras scripts/chaos.py                       200 blocks, 50 kills, all three engines
    uv run --all-extras scripts/chaos.py --engine dask --kills 10 --blocks 60

The driver is killed with kill -9 after a random number of blocks; with processes and dask, workers are
killed too, and the scheduler once. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from geoslave.region.layout import RegionFolder
from tests.chaos import (
    QUIET,
    Cluster,
    cluster,
    forget,
    geoslave,
    kill_driver,
    kill_export,
    layers,
    make_country,
    run_to_end,
)
from tests.factories import write_bright_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["serial", "processes", "dask", "all"], default="all")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    engines = ["serial", "processes", "dask"] if asked.engine == "all" else [asked.engine]
    with tempfile.TemporaryDirectory() as folder:
        region = make_country(Path(folder), write_bright_model(Path(folder) / "bright"), asked.blocks)
        blocks = run_to_end(region, "--workers", "0")["blocks"]
        expected = layers(region)
        facts: dict[str, object] = {"blocks": blocks, "kills": asked.kills}
        for engine in engines:
            forget(region)
            start = time.perf_counter()
            workers_killed = torment(region, engine, asked.kills, blocks, random.Random(asked.seed), Path(folder))
            facts[f"{engine}_equal"] = layers(region) == expected
            facts[f"{engine}_workers_killed"] = workers_killed
            facts[f"{engine}_s"] = round(time.perf_counter() - start, 1)
            print(f"{engine}: {'same bytes' if facts[f'{engine}_equal'] else 'DIFFERENT'}", flush=True)
    print(json.dumps(facts))
    sys.exit(0 if all(facts[f"{engine}_equal"] for engine in engines) else 1)


def torment(region: RegionFolder, engine: str, kills: int, blocks: int, rng: random.Random, folder: Path) -> int:
    """Kill until it has been killed so often, then let it finish; how many workers were killed on the way."""
    most = max(1, 2 * blocks // kills)
    workers_killed = 0
    with ExitStack() as stack:
        options: tuple[str, ...] = ("--workers", "0" if engine == "serial" else "2")
        dask: Cluster | None = None
        if engine == "dask":
            dask = stack.enter_context(cluster(folder))
            options = ("--dask", dask.address)
        for number in range(kills):
            done = kill_driver(region, rng, most, *options)
            print(f"  {engine}: kill {number + 1} of {kills}, {done} of {blocks} blocks done", flush=True)
            if done == blocks:
                kill_export(region, rng)
            if number % 10 == 5:
                workers_killed += kill_a_worker(region, dask, options, rng)
            if dask is not None and number == kills // 2:
                dask = kill_scheduler(stack, dask, region, folder, number)
                options = ("--dask", dask.address)
        told = run_to_end(region, *options)
        assert told["done"] == blocks and not told["failed"]
    return workers_killed


def kill_a_worker(region: RegionFolder, dask: Cluster | None, options: tuple[str, ...], rng: random.Random) -> int:
    """Kill -9 a worker under a run, then the run."""
    driver = subprocess.Popen(geoslave(region, "run", *options), **QUIET)
    time.sleep(rng.uniform(2, 4))
    killed = 0
    if dask is not None:
        dask.kill_worker(rng)
        killed = 1
    else:
        with suppress(OSError):
            for child in Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()[:1]:
                os.kill(int(child), signal.SIGKILL)
                killed = 1
    time.sleep(0.3)
    driver.kill()
    driver.wait()
    return killed


def kill_scheduler(stack: ExitStack, dask: Cluster, region: RegionFolder, folder: Path, number: int) -> Cluster:
    """Kill -9 the scheduler under a run, which must end and say so; then start another cluster."""
    driver = subprocess.Popen(geoslave(region, "run", "--dask", dask.address), stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    dask.scheduler.kill()
    _, errors = driver.communicate(timeout=180)
    print(f"  dask: without its scheduler the run ended with status {driver.returncode}: {errors.strip()[-200:]}")
    other = folder / f"cluster{number}"
    other.mkdir()
    return stack.enter_context(cluster(other))


if __name__ == "__main__":
    main()
