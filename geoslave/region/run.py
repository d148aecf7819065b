"""Running a region: what is not done yet is handed to an engine; running again is resuming."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoslave import __version__
from geoslave.errors import GeoslaveError, ModelError
from geoslave.model.package import ModelPackage, open_package
from geoslave.region.blockmap import shows_blocks_of, write_blocks
from geoslave.region.config import RegionConfig, read_config
from geoslave.region.engine import (
    DaskEngine,
    Engine,
    Function,
    Lanes,
    Outcome,
    Patience,
    ProcessEngine,
    SerialEngine,
)
from geoslave.region.gridrecord import GridRecord, block_name, window_box
from geoslave.region.inputs import Input, addressed_files, block_side, find_inputs
from geoslave.region.job import Job, known_records, open_job, spec_facts, spec_mark
from geoslave.region.layout import (
    FORMAT,
    RegionFolder,
    RunFolder,
    digest,
    locked,
    read_json,
    settle,
    sha256,
    whole_files,
    write_json,
    write_whole,
)
from geoslave.region.records import Done, finished
from geoslave.region.stamps import stamps

if TYPE_CHECKING:
    import geopandas as gpd
    from shapely.geometry.base import BaseGeometry

_TELL_EVERY_S = 1.0
"""progress.json is renewed this often."""
_RATE_OVER_S = 300
"""The rate is that of so long a time."""
_CHECKED_TOGETHER = 256
"""Blocks that are checked by one thread before it hands them over."""
_CHECKERS = 8
_WORTH_A_THREAD_S = 2e-4
"""Blocks that take longer to check are checked by several threads: their files are waited for, or large. Of small
ones that are in memory already, threads spend more time on each other than on the files."""

_MEASURE_GRID, _RUN_BLOCK = "geoslave.region.blocks:measure_grid", "geoslave.region.blocks:run_block"
"""Loaded by who does the work: the driver of a cluster or of processes only hands it out."""

Block = tuple[str, int, int]
"""Grid, row, column."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a run goes, beside what region.yaml says."""

    workers: int | None = None
    """Processes; 0 works in this one. None: region.yaml's, else one per core."""
    dask: str | None = None
    """Address of a scheduler."""
    only: tuple[float, float, float, float] | None = None
    """West, south, east, north: blocks elsewhere are left for later."""
    patience: Patience | None = None
    """None takes region.yaml's."""
    gate: bool = True
    """False looks everywhere closely, whatever region.yaml says."""


@dataclass(slots=True)
class Progress:
    """How far a run is. Kept in progress.json."""

    stage: str = "starting"
    """starting, grids, blocks, done, stopped."""
    blocks: int = 0
    done: int = 0
    failed: int = 0
    objects: int = 0
    """Objects above the threshold in the blocks done; those on seams are counted in each block."""
    pixels_done: int = 0
    mpx_s: float = 0.0
    """Lately, in this run."""
    seconds_left: float | None = None
    workers: int = 0
    last_error: str | None = None
    updated: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended."""

    run: RunFolder
    blocks: int
    """In all, of those chosen this time."""
    done_before: int
    done_now: int
    failures: Mapping[str, str]
    """Reason by grid or block."""
    left_out: int
    """Blocks outside of `only` that are still to be done."""
    objects: int
    seconds: float
    notes: tuple[str, ...] = ()
    gate: bool = False
    """The model's gate chose where it looked closely."""


Watch = Callable[[Progress], None]


def run_region(
    region: RegionFolder, choice: Choice | None = None, watch: Watch | None = None, function: Function | None = None
) -> Summary:
    """Do what is not done yet of a region. A failing block is recorded, the others go on.

    Args:
        function: what does a block, in the place of `blocks.run_block`: for benchmarks and tests.

    Raises:
        GeoslaveError: if it cannot begin, or must stop (the disk is full, the scheduler is gone); what is done stays.
    """
    choice = choice or Choice()
    with locked(region):
        began = time.monotonic()
        job = prepare(region, look=True, gate=choice.gate)
        log = _Log(job.run.log)
        job.run.remove_drafts()
        tell = _Teller(job.run, watch or (lambda _progress: None))
        log("begin", run=job.run.path.name, version=__version__, workers=choice.workers, dask=choice.dask)
        try:
            with ExitStack() as ending:
                summary = _Running(job, choice, log, tell, function, ending).go(began)
        except BaseException as error:
            job.run.remove_drafts()  # of workers that were ended in the middle of a block
            tell.stop(error)
            log("stop", why=str(error) or type(error).__name__)
            raise
        if summary.done_now or summary.failures or not shows_blocks_of(region, job):
            with suppress(GeoslaveError):  # a picture of the blocks is worth no failure
                write_blocks(region, job)
        log("end", done=summary.done_now, failed=len(summary.failures), seconds=round(summary.seconds, 1))
        return summary


def prepare(region: RegionFolder, *, look: bool = False, gate: bool = True) -> Job:
    """The run that region.yaml, area, scenes and model ask for: the one that is there, or a new one.

    Args:
        look: ask the servers of STAC items whether their files are still those of last time.
        gate: False leaves the model's gate out, whatever region.yaml says.

    Raises:
        GeoslaveError: if any of them cannot be used.
    """
    config = read_config(region.config)
    config = config if gate else config.model_copy(update={"gate": False})
    package = _package(region, config)
    aoi_file = None if config.aoi is None else region.path / config.aoi
    aoi_bytes = b"" if aoi_file is None else _content(aoi_file)
    inputs = find_inputs(region, config, package.spec, partial(_area, aoi_file))
    mark = digest(
        FORMAT,
        {**config.of_the_result(), "model": None, "aoi": sha256(aoi_bytes), "scenes": None},
        [package.checksum, spec_facts(package, config.gate)],
        [one.to_dict() | {"path": None} for one in inputs],
        block_side(config, package.spec),
        *_versions(region, addressed_files(region, config, package.spec, inputs), look),
    )
    run = region.run(mark)
    told = read_json(run.description)
    if told is None or "spec" not in told["model"]:  # none, or of an earlier version: what is done stays
        _begin(region, run, config, package, inputs, aoi_file)
    elif aoi_file is not None and run.aoi.is_file() and run.aoi.read_bytes() != aoi_bytes:
        write_whole(run.aoi, aoi_bytes)  # it was damaged: the run's name tells what it held
    return open_job(run)


def _area(aoi_file: Path | None) -> gpd.GeoSeries | None:
    if aoi_file is None:
        return None
    from geoslave.imagery.aoi import read_aoi

    return read_aoi(aoi_file)


def _content(aoi_file: Path) -> bytes:
    try:
        return aoi_file.read_bytes()
    except OSError:
        _area(aoi_file)  # tells why
        raise


def _versions(region: RegionFolder, files: Sequence[str], look: bool) -> list[dict[str, str]]:
    """What servers call the versions of files at addresses, as kept in the region's folder."""
    if not files:
        return []
    kept: dict[str, str] = (read_json(region.addresses) or {}).get("stamps", {})
    known = {} if look else {file: kept[file] for file in files if file in kept}
    known |= stamps((file for file in files if file not in known), kept)
    if known != kept:
        write_json(region.addresses, {"stamps": known})
    return [known]


def check_blocks(run: RunFolder, blocks: Sequence[Block]) -> Iterator[Done | None]:
    """For each block in turn, what it counts for if it is done and whole: every checksum is looked at."""
    parts = [blocks[start : start + _CHECKED_TOGETHER] for start in range(0, len(blocks), _CHECKED_TOGETHER)]

    def check(part: Sequence[Block]) -> list[Done | None]:
        return [finished(run, grid, block_name(row, col)) for grid, row, col in part]

    began = time.perf_counter()
    first = [done for part in parts[:1] for done in check(part)]
    seconds = time.perf_counter() - began
    yield from first
    if seconds < _WORTH_A_THREAD_S * len(first):
        yield from chain.from_iterable(map(check, parts[1:]))
        return
    with ThreadPoolExecutor(_CHECKERS) as pool:
        yield from chain.from_iterable(pool.map(check, parts[1:]))


@dataclass(slots=True)
class _Running:
    """One run that is going on."""

    job: Job
    choice: Choice
    log: _Log
    tell: _Teller
    function: Function | None
    ending: ExitStack
    failures: dict[str, str] = field(default_factory=dict)
    _engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Where work runs; a job with nothing left to do never asks."""
        if self._engine is None:
            self._engine = self.ending.enter_context(closing(_engine(self.job, self.choice)))
        return self._engine

    def go(self, began: float) -> Summary:
        records = self._measure_grids()
        chosen, left_out = self._choose(records)
        pending = []
        for block, done in zip(chosen, check_blocks(self.job.run, chosen), strict=True):
            if done is None:
                pending.append(block)
            else:
                self.tell.count(done)
        self._forget_failures(chosen)
        workers = self.engine.workers if pending else 0
        self.tell.begin_blocks(len(chosen), sum(_pixels(records[b[0]], b) for b in pending), workers)
        self.log("blocks", chosen=len(chosen), done=len(chosen) - len(pending), pending=len(pending))
        done_now = self._run_blocks(pending) if pending else 0
        self.tell.end()
        return Summary(
            run=self.job.run,
            blocks=len(chosen),
            done_before=len(chosen) - len(pending),
            done_now=done_now,
            failures=dict(self.failures),
            left_out=left_out,
            objects=self.tell.progress.objects,
            seconds=time.monotonic() - began,
            notes=tuple(note for record in records.values() for note in record.notes),
            gate=self.job.config.gate and self.job.package.spec.gate is not None,
        )

    def _measure_grids(self) -> dict[str, GridRecord]:
        records = known_records(self.job)
        tasks = [{"run": self._folder, "grid": name} for name in self.job.inputs if name not in records]
        self.tell.begin_grids(len(tasks))
        if not tasks:
            return records
        for outcome in self.engine.map_unordered(_MEASURE_GRID, tasks):
            name = outcome.task["grid"]
            if outcome.error is not None:
                self._failed(name, outcome)
            else:
                self.job.run.failed(name).unlink(missing_ok=True)
        return known_records(self.job)

    def _choose(self, records: Mapping[str, GridRecord]) -> tuple[list[Block], int]:
        """Blocks to be done in this run, and how many others there are to do."""
        chosen, left_out = [], 0
        for record in records.values():
            within = None if self.choice.only is None else _only_on(self.choice.only, record)
            for row, col in record.blocks:
                if within is not None and not within.intersects(window_box(record.block(row, col).core)):
                    left_out += not self.job.run.objects(record.name, block_name(row, col)).exists()
                    continue
                chosen.append((record.name, row, col))
        return chosen, left_out

    def _forget_failures(self, chosen: Sequence[Block]) -> None:
        """What failed before and is done by now, or will be tried again, is no failure."""
        standing = {path.stem for path in whole_files(self.job.run.failures, "*.json")}
        for block in chosen if standing else ():
            if (name := _name(block)) in standing:
                self.job.run.failed(name).unlink(missing_ok=True)

    def _run_blocks(self, pending: Sequence[Block]) -> int:
        threads = _threads(self.job.config, self.engine, self.choice)

        def task(block: Block) -> dict[str, Any]:
            grid, row, col = block
            place = {"run": self._folder, "grid": grid, "row": row, "col": col}
            return {**place, "threads": threads, "name": _name(block)}

        tasks = Lanes(_lanes(pending, self.engine.workers), task)
        done = 0
        with closing(_closable(self.engine.map_unordered(self.function or _RUN_BLOCK, tasks))) as outcomes:
            for outcome in outcomes:
                if outcome.error is None:
                    done += 1
                    self.tell.count(Done(outcome.value["n_objects"], outcome.value["n_pixels"]), new=True)
                    self.log("block", name=outcome.task["name"], attempts=outcome.attempts, **outcome.value)
                    continue
                self._failed(outcome.task["name"], outcome)
                if outcome.kind == "OutputError":
                    raise GeoslaveError(str(outcome.error))
        if done:
            settle(self.job.run.path)
        return done

    def _failed(self, name: str, outcome: Outcome) -> None:
        reason = str(outcome.error)
        self.failures[name] = reason
        self.tell.failure(f"{name}: {reason}")
        facts = {"name": name, "reason": reason, "kind": outcome.kind, "attempts": outcome.attempts}
        self.log("failed", **facts)
        with suppress(GeoslaveError):  # of a full disk the run itself tells
            write_json(self.job.run.failed(name), {**facts, "time": _now()})

    @property
    def _folder(self) -> str:
        return str(self.job.run.path.absolute())


class _Teller:
    """Counts, and tells others: the caller at once, the disk every second."""

    def __init__(self, run: RunFolder, watch: Watch) -> None:
        self.progress = Progress()
        self._run = run
        self._watch = watch
        self._pending_pixels = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_pixels = 0
        self._written = 0.0

    def begin_grids(self, count: int) -> None:
        self.progress.stage = "grids" if count else "starting"
        self._tell(at_once=True)

    def begin_blocks(self, count: int, pending_pixels: int, workers: int) -> None:
        self.progress.stage, self.progress.blocks, self.progress.workers = "blocks", count, workers
        self._pending_pixels = pending_pixels
        self._recent.append((time.monotonic(), 0))
        self._tell(at_once=True)

    def count(self, block: Done, *, new: bool = False) -> None:
        """A block is done."""
        self.progress.done += 1
        self.progress.objects += block.objects
        self.progress.pixels_done += block.pixels
        if new:
            self._pending_pixels -= block.pixels
            self._rate(block.pixels)
            self._tell()

    def failure(self, told: str) -> None:
        self.progress.failed += 1
        self.progress.last_error = told
        self._tell()

    def end(self) -> None:
        self.progress.stage, self.progress.seconds_left = "done", None
        self._tell(at_once=True)

    def stop(self, error: BaseException) -> None:
        self.progress.stage, self.progress.seconds_left = "stopped", None
        if isinstance(error, Exception):
            self.progress.last_error = str(error)
        self._tell(at_once=True)

    def _rate(self, pixels: int) -> None:
        now = time.monotonic()
        self._recent.append((now, pixels))
        self._recent_pixels += pixels
        while len(self._recent) > 2 and now - self._recent[0][0] > _RATE_OVER_S:
            self._recent.popleft()
            self._recent_pixels -= self._recent[0][1]  # the oldest one left marks the beginning only
        rate = self._recent_pixels / max(now - self._recent[0][0], 1e-6)
        self.progress.mpx_s = round(rate / 1e6, 3)
        self.progress.seconds_left = round(self._pending_pixels / rate, 1) if rate else None

    def _tell(self, *, at_once: bool = False) -> None:
        self._watch(self.progress)
        now = time.monotonic()
        if not at_once and now - self._written < _TELL_EVERY_S:
            return
        self._written = now
        self.progress.updated = _now()
        with suppress(GeoslaveError):  # a full disk stops the blocks, not their count
            write_json(self._run.progress, asdict(self.progress), durable=False)


class _Log:
    """One line of JSON for everything that happens. A full disk does not stop it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: str, **facts: Any) -> None:
        line = json.dumps({"time": _now(), "event": event, **facts}, ensure_ascii=False, default=str)
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _engine(job: Job, choice: Choice) -> Engine:
    config = job.config
    patience = choice.patience or Patience(attempts=config.attempts, timeout_s=config.timeout_s)
    if choice.dask is not None:
        return DaskEngine(choice.dask, patience)
    workers = config.workers if choice.workers is None else choice.workers
    if workers == 0:
        return SerialEngine(patience)
    from geoslave.model.predict import usable_cores

    return ProcessEngine(workers or usable_cores(), patience, job.run.workers_log, ahead="geoslave.region.blocks")


def _threads(config: RegionConfig, engine: Engine, choice: Choice) -> int:
    """Of the network in each worker; on a cluster each of its threads is a worker."""
    if config.threads is not None:
        return config.threads
    from geoslave.model.predict import usable_cores

    return 1 if choice.dask is not None else max(1, usable_cores() // engine.workers)


def _package(region: RegionFolder, config: RegionConfig) -> ModelPackage:
    inside = region.path / config.model
    package = open_package(inside if (inside / "model.json").is_file() else config.model)
    if package.spec.target != config.target:
        raise ModelError(
            f"{region.config}: the model {config.model} looks for {package.spec.target}, not for {config.target}: "
            "change one of them"
        )
    return package


def _begin(
    region: RegionFolder,
    run: RunFolder,
    config: RegionConfig,
    package: ModelPackage,
    inputs: Sequence[Input],
    aoi_file: Path | None,
) -> None:
    """Make a run's folder; its description comes last."""
    import numpy as np

    _area(aoi_file)  # tells now what is wrong with it
    run.path.mkdir(parents=True, exist_ok=True)
    if aoi_file is not None:
        write_whole(run.aoi, aoi_file.read_bytes())
    if any(one.items for one in inputs):
        _keep_items(region, config, run.path / "items")
    settle(run.path)  # a run that says it has begun has all it began with, after a power cut too
    write_json(
        run.description,
        {
            "format": FORMAT,
            "region": region.name,
            "config": config.model_dump(mode="json"),
            "model": {
                "folder": str(package.folder.absolute()),
                "id": package.model_id,
                "sha256": package.checksum,
                "spec": spec_mark(package, config.gate),
            },
            "inputs": [one.to_dict() for one in inputs],
            "started": _now(),
            "versions": {"geoslave": __version__, "python": platform.python_version(), "numpy": np.__version__},
        },
    )


def _keep_items(region: RegionFolder, config: RegionConfig, folder: Path) -> None:
    """The STAC items as they are now: `scenes/` may change while the run goes on."""
    from geoslave.imagery.catalog import local_items, save_items
    from geoslave.region.inputs import list_scenes

    shutil.rmtree(folder, ignore_errors=True)
    if config.scenes:
        save_items(local_items(list_scenes(region, config.scenes)), folder)
    else:
        shutil.copytree(region.scenes, folder)


def _lanes(blocks: Sequence[Block], workers: int) -> Iterator[Sequence[Block]]:
    """Blocks of one grid together, for one worker each: it opens fewer scenes, and what two blocks share is read once.

    Where there are fewer grids than workers, grids are parted into runs of blocks.
    """
    grids = [list(together) for _, together in groupby(blocks, key=lambda block: block[0])]
    parts = -(-workers // max(1, len(grids)))
    for grid in grids:
        size = -(-len(grid) // parts)
        yield from (grid[start : start + size] for start in range(0, len(grid), size))


def _only_on(only: tuple[float, float, float, float], record: GridRecord) -> BaseGeometry:
    """A box in longitude and latitude in a grid's pixels."""
    import geopandas as gpd
    import shapely

    from geoslave.imagery.aoi import aoi_on

    area = aoi_on(gpd.GeoSeries([shapely.box(*only)], crs="OGC:CRS84"), record.geobox)
    shapely.prepare(area)
    return area


def _name(block: Block) -> str:
    """What a block is called in the whole run."""
    return f"{block[0]}-{block_name(block[1], block[2])}"


def _pixels(record: GridRecord, block: Block) -> int:
    core = record.block(block[1], block[2]).core
    return int(core.width * core.height)


def _closable(outcomes: Iterator[Outcome]) -> Any:
    """Generators can be closed: what is under way is dropped then."""
    return outcomes


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
