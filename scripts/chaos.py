"""Kill a region job at random moments, many times in a row, and compare what comes out byte for byte.

    uv run --all-extras scripts/chaos.py                       200 blocks, 50 kills, each of three engines
    uv run --all-extras scripts/chaos.py --engine dask --kills 10 --blocks 60

The driver is killed with kill -9 at a random moment: after a random number of blocks, or (one time in
five) while it starts. With processes and dask, workers are killed under a run too, and dask's scheduler
once. A job that is done before it was killed often enough is compared, thrown away and begun again.
The last line is one JSON object.
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
from dataclasses import dataclass, field
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
    kill_while_starting,
    layers,
    make_country,
    run_to_end,
)
from tests.factories import write_bright_model

ENGINES = ("serial", "processes", "dask")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=[*ENGINES, "all"], default="all")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    engines = ENGINES if asked.engine == "all" else (asked.engine,)
    with tempfile.TemporaryDirectory() as folder:
        region = make_country(Path(folder), write_bright_model(Path(folder) / "bright"), asked.blocks)
        blocks = run_to_end(region, "--workers", "0")["blocks"]
        expected = layers(region)
        facts: dict[str, object] = {"blocks": blocks, "kills": asked.kills}
        for engine in engines:
            forget(region)
            start = time.perf_counter()
            torment = Torment(region, engine, blocks, expected, random.Random(asked.seed), Path(folder))
            equal = torment.go(asked.kills)
            facts[f"{engine}_equal"] = equal
            facts[f"{engine}_workers_killed"] = torment.workers_killed
            facts[f"{engine}_jobs"] = torment.jobs
            facts[f"{engine}_s"] = round(time.perf_counter() - start, 1)
            print(f"{engine}: {'same bytes' if equal else 'DIFFERENT'}", flush=True)
    print(json.dumps(facts))
    sys.exit(0 if all(facts[f"{engine}_equal"] for engine in engines) else 1)


@dataclass
class Torment:
    """One engine, killed again and again."""

    region: RegionFolder
    engine: str
    blocks: int
    expected: dict[str, bytes]
    rng: random.Random
    folder: Path
    workers_killed: int = 0
    jobs: int = 1
    """Jobs that were begun: one, or more where it went on faster than it was killed."""
    _dask: Cluster | None = None
    _options: tuple[str, ...] = field(default=())

    def go(self, kills: int) -> bool:
        """Kill so often, then let it finish; True if the layers are those of an undisturbed run, each time."""
        equal = True
        with ExitStack() as stack:
            self._options = ("--workers", "0" if self.engine == "serial" else "2")
            if self.engine == "dask":
                self._use(stack.enter_context(cluster(self.folder)))
            done = 0
            for number in range(kills):
                if done == self.blocks:
                    kill_export(self.region, self.rng)
                    equal &= layers(self.region) == self.expected
                    forget(self.region)
                    self.jobs += 1
                    done = 0
                done = self._kill(number, kills, done)
                print(f"  {self.engine}: kill {number + 1} of {kills}, {done} of {self.blocks} blocks done", flush=True)
                if self._dask is not None and number == kills // 2:
                    self._kill_scheduler(stack, number)
            told = run_to_end(self.region, *self._options)
        complete = told["done"] == self.blocks and not told["failed"]
        return equal and complete and layers(self.region) == self.expected

    def _kill(self, number: int, kills: int, done: int) -> int:
        """Kill the driver once, some times after one of its workers; how many blocks are done then."""
        if self.engine != "serial" and number % 10 == 5:
            self.workers_killed += self._kill_a_worker()
            return len(list(self.region.path.glob("runs/*/objects/*/*.objects")))
        if self.rng.random() < 0.2:
            return kill_while_starting(self.region, self.rng, *self._options)
        # so many that the blocks last for the kills that are left; a few are done before the kill arrives
        most = max(0, 2 * (self.blocks - done) // (kills - number) - 4)
        return kill_driver(self.region, self.rng, most, *self._options)

    def _use(self, dask: Cluster) -> None:
        self._dask = dask
        self._options = ("--dask", dask.address)

    def _kill_a_worker(self) -> int:
        """Kill -9 a worker under a run, then the run; how many workers were there to be killed."""
        driver = subprocess.Popen(geoslave(self.region, "run", *self._options), **QUIET)
        killed = 0
        deadline = time.monotonic() + 60
        while not killed and driver.poll() is None and time.monotonic() < deadline:
            if self._dask is not None:
                time.sleep(self.rng.uniform(2, 4))
                self._dask.kill_worker(self.rng)
                killed = 1
                break
            with suppress(OSError):
                for child in Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()[:1]:
                    time.sleep(self.rng.uniform(0, 1.5))
                    os.kill(int(child), signal.SIGKILL)
                    killed = 1
            time.sleep(0.01)
        time.sleep(self.rng.uniform(0, 0.3))
        driver.kill()
        driver.wait()
        return killed

    def _kill_scheduler(self, stack: ExitStack, number: int) -> None:
        """Kill -9 the scheduler under a run, which must end and say so; then start another cluster."""
        assert self._dask is not None
        command = geoslave(self.region, "run", "--dask", self._dask.address)
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(3)
        self._dask.scheduler.kill()
        _, errors = driver.communicate(timeout=180)
        print(f"  dask: without its scheduler the run ended with status {driver.returncode}: {errors.strip()[-200:]}")
        other = self.folder / f"cluster{number}"
        other.mkdir()
        self._use(stack.enter_context(cluster(other)))


if __name__ == "__main__":
    main()
