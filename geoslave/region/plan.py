"""What a region job will take: blocks, ground, disk, memory and time, from a short measurement here.

A few chips, spread over the region, go the whole way; each step is timed for itself. Two openings of
one scene part fetching from decoding: the second finds its bytes in memory.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from geoslave.detect import stored_thresholds
from geoslave.detections.polygonize import label_block
from geoslave.errors import GeoslaveError
from geoslave.files import free_bytes
from geoslave.grid import Cell
from geoslave.imagery.geotiff import gdal_environment, ground_sampling_distance
from geoslave.imagery.raster import Scores, encode_scores, window_geobox
from geoslave.model.gate import gated
from geoslave.model.predict import Network, Predictor, load_network, usable_cores
from geoslave.region.blockmap import write_blocks
from geoslave.region.blocks import measure_grid
from geoslave.region.engine import Patience, SerialEngine
from geoslave.region.gridrecord import GridRecord
from geoslave.region.grids import chips, open_input
from geoslave.region.job import Job, known_records
from geoslave.region.layout import RegionFolder, locked, write_whole
from geoslave.region.records import pack, scores_geotiff
from geoslave.region.run import prepare

_SAMPLES = 4
"""Chips that are timed."""
_SEEN = 24
"""Scenes whose overview tells the share of valid ground."""
_LABEL_BYTES = 14
"""Memory that outlining a block takes for each pixel: scores, mask, labels and their corners."""
_RECORD_BYTES = 400
"""Of a block that found nothing."""

Step = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds that a chip takes, step by step, in one worker."""

    fetch: float
    """Waiting for bytes from the disk or the network."""
    decode: float
    """Unpacking and scaling."""
    network: float
    """The model, on a worker's threads."""
    write: float
    """Encoding, outlining, writing."""

    @property
    def bottleneck(self) -> str:
        """What to improve first."""
        slowest = max(("fetch", "decode", "network", "write"), key=lambda name: getattr(self, name))
        return {
            "fetch": "fetching: a faster disk or network, or more workers than cores, would help",
            "decode": "decoding: imagery in tiled, lightly compressed files would help",
            "network": "the model: a GPU, more cores or a smaller network would help",
            "write": "writing: a faster disk would help",
        }[slowest]

    def chip_seconds(self, workers: int, cores: int, threads: int) -> float:
        """Seconds a chip, all workers together. Reading goes on beside the model, unless all cores are busy."""
        alone = max(self.fetch + self.decode, self.network) + self.write
        busy = self.decode + self.network * threads + self.write
        return max(alone / workers, busy / cores)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a region job will take."""

    grids: int
    skipped: int
    """Scenes outside of the area, or without a valid pixel."""
    blocks: int
    blocks_done: int
    chips: int
    """To be looked at; of the blocks that are not done."""
    mpx: float
    ground_km2: float
    """Of all blocks, overlaps counted in each scene."""
    valid_share: float
    """Of it with valid imagery."""
    steps: Steps
    workers: int
    threads: int
    cores: int
    hours: float
    hours_by_workers: dict[int, float]
    """On machines like this with a core for each worker."""
    disk_gb: float
    free_gb: float
    memory_mb: float
    """Per worker."""
    machine_mb: float
    bottleneck: str
    warnings: tuple[str, ...]
    workers_by: int | None = None
    """Workers with a core each that finish by the date asked for; 0: it cannot be."""


def plan_region(
    region: RegionFolder, workers: int | None = None, by: datetime | None = None, progress: Step | None = None
) -> Plan:
    """Look at every scene, time a few chips, and reckon.

    Args:
        by: when it should be finished (with a time zone).

    Raises:
        GeoslaveError: if nothing can be looked at, or a run is going on.
    """
    step = progress or (lambda _stage, _done, _total: None)
    with locked(region):
        job = prepare(region)
        failed = _measure(job, step)
        records = [record for record in known_records(job).values() if record.status == "ok"]
        if not records:
            why = next(iter(failed.values()), "the area of interest misses every scene, or no pixel is valid")
            raise GeoslaveError(f"region {region.name}: no scene can be looked at ({why})")
        write_blocks(region, job)
        cores = usable_cores()
        workers = workers or job.config.workers or cores
        threads = job.config.threads or max(1, cores // workers)
        steps, score_bytes, found_bytes = _time_chips(job, records, threads, step)
        return _reckon(job, records, failed, steps, (score_bytes, found_bytes), (workers, threads, cores), by)


def _measure(job: Job, step: Step) -> dict[str, str]:
    """Look at the scenes nobody looked at yet; reasons of those that cannot be used."""
    records = known_records(job)
    folder = str(job.run.path.absolute())
    tasks = [{"run": folder, "grid": name} for name in job.inputs if name not in records]
    failed = {}
    for done, outcome in enumerate(SerialEngine(Patience(attempts=2)).map_unordered(measure_grid, tasks), start=1):
        if outcome.error is not None:
            failed[str(outcome.task["grid"])] = outcome.error
        step("looking at scenes", done, len(tasks))
    return failed


def _time_chips(job: Job, records: Sequence[GridRecord], threads: int, step: Step) -> tuple[Steps, float, float]:
    """(seconds a chip, bytes of scores a pixel, bytes of objects a pixel), means over a few chips."""
    network = load_network(job.package, job.config.backend, threads)
    network = gated(network, job.package, threads, use=job.config.gate)
    places = _places(job, records)
    timed: list[tuple[float, ...]] = []
    for number, (record, cell) in enumerate(places, start=1):
        timed.append(_time_chip(job, record, cell, network))
        step("timing chips", number, len(places))
    seen = [row for row in timed if row[2] > 0] or timed  # chips of nodata never reach the network
    mean = np.mean(seen, axis=0)
    return Steps(*(float(value) for value in mean[:4])), float(mean[4]), float(mean[5])


def _places(job: Job, records: Sequence[GridRecord]) -> list[tuple[GridRecord, Cell]]:
    """Chips in the middle of blocks that are spread over the region."""
    blocks = [(record, row, col) for record in records for row, col in record.blocks]
    chosen = sorted({int(n) for n in (np.arange(_SAMPLES) + 0.5) * len(blocks) / _SAMPLES})
    places = []
    for number in chosen:
        record, row, col = blocks[number]
        inside = chips(record, record.block(row, col), job.package.spec, job.area(record))
        if inside:
            places.append((record, inside[len(inside) // 2]))
    return places


def _time_chip(job: Job, record: GridRecord, cell: Cell, network: Network) -> tuple[float, ...]:
    spec = job.package.spec
    predictor = Predictor(network, *record.coefficients, spec.scaling.clip)
    seconds = []
    for _ in range(2):
        with gdal_environment(), open_input(job.inputs[record.name], job.config, spec, job.items) as source:
            began = time.perf_counter()
            raster = source.read(cell.read)
            scaled = predictor.scaled(raster)
            seconds.append(time.perf_counter() - began)
    rows, cols = cell.core_in_read
    if not raster.valid[rows, cols].any():
        return max(0.0, seconds[0] - seconds[1]), seconds[1], 0.0, 0.0, 0.0, 0.0
    margins = (rows.start, cols.start, scaled.shape[-2] - rows.stop, scaled.shape[-1] - cols.stop)
    network(scaled, margins)
    began = time.perf_counter()
    answers = network(scaled, margins)[0]
    model = time.perf_counter() - began
    began = time.perf_counter()
    valid = raster.valid[rows, cols]
    stored = encode_scores(Scores(np.where(valid, answers, np.float32(0)), valid, raster.geobox[rows, cols]))
    high, low = stored_thresholds(spec, job.request)
    found = pack([label_block(values, cell.core, record.shape, low, high) for values in stored])
    content = scores_geotiff(stored, window_geobox(record.geobox, cell.core), spec.classes)
    with tempfile.TemporaryDirectory(prefix=".~", dir=job.run.path) as folder:
        write_whole(Path(folder) / "chip.tif", content, durable=False)  # as a run's
    write = time.perf_counter() - began
    pixels = cell.core.width * cell.core.height
    kept = len(content) / pixels if job.config.keep_scores else 0.0
    objects = max(0, len(found) - _RECORD_BYTES) / pixels
    return max(0.0, seconds[0] - seconds[1]), seconds[1], model, write, kept, objects


def _reckon(
    job: Job,
    records: Sequence[GridRecord],
    failed: dict[str, str],
    steps: Steps,
    bytes_a_pixel: tuple[float, float],
    machine: tuple[int, int, int],
    by: datetime | None,
) -> Plan:
    workers, threads, cores = machine
    spec = job.package.spec
    pixels, ground = 0, 0.0
    for record in records:
        cores_of_blocks = [record.block(row, col).core for row, col in record.blocks]
        here = sum(int(core.width * core.height) for core in cores_of_blocks)
        down, across = ground_sampling_distance(record.geobox)
        pixels, ground = pixels + here, ground + here * down * across / 1e6
    blocks = sum(len(record.blocks) for record in records)
    done = job.run.count_done()
    valid = _valid_share(job, records)
    left = 1 - done / blocks
    n_chips = math.ceil(pixels * left / spec.tile**2)
    looked = n_chips * valid
    seconds = looked * steps.chip_seconds(workers, cores, threads)
    one_core = looked * steps.chip_seconds(1, 1, 1) * (1 if threads == 1 else threads)
    disk = pixels * left * sum(bytes_a_pixel) + blocks * left * _RECORD_BYTES
    side = records[0].block_px
    memory = _peak_rss_mb() + side * side * _LABEL_BYTES / 2**20
    machine_mb = _machine_mb()
    free = free_bytes(job.run.path)
    warnings = [f"{name}: {reason}" for name, reason in failed.items()] + _strips(job, records)
    if disk > 0.9 * free:
        warnings.append(f"the disk has {free / 1e9:.1f} GB free, {disk / 1e9:.1f} GB are needed: keep_scores: false")
    if memory * workers > 0.9 * machine_mb:
        warnings.append(
            f"{workers} workers want {memory * workers / 1024:.1f} GB of memory: use fewer, or smaller blocks"
        )
    return Plan(
        grids=len(records),
        skipped=len(job.inputs) - len(records) - len(failed),
        blocks=blocks,
        blocks_done=done,
        chips=n_chips,
        mpx=pixels / 1e6,
        ground_km2=ground,
        valid_share=valid,
        steps=steps,
        workers=workers,
        threads=threads,
        cores=cores,
        hours=seconds / 3600,
        hours_by_workers={n: one_core / n / 3600 for n in (1, 2, 4, 8, 16, 64, 256)},
        disk_gb=disk / 1e9,
        free_gb=free / 1e9,
        memory_mb=memory,
        machine_mb=machine_mb,
        bottleneck=steps.bottleneck,
        warnings=tuple(warnings),
        workers_by=None if by is None else _workers_by(one_core, by),
    )


def _workers_by(one_core_seconds: float, by: datetime) -> int:
    """Workers with a core each that are done by then; 0 if it has passed."""
    available = (by - datetime.now(by.tzinfo)).total_seconds()
    return math.ceil(one_core_seconds / available) if available > 0 else 0


def _valid_share(job: Job, records: Sequence[GridRecord]) -> float:
    """The valid share of the blocks' ground, from overviews of some scenes."""
    spec = job.package.spec
    chosen = {int(n) for n in np.linspace(0, len(records) - 1, min(_SEEN, len(records)))}
    valid = seen = 0
    for number in sorted(chosen):
        record = records[number]
        with gdal_environment(), open_input(job.inputs[record.name], job.config, spec, job.items) as source:
            if not hasattr(source, "overview"):
                continue
            there = source.overview(512).valid
        fy, fx = (small / large for small, large in zip(there.shape, record.shape, strict=True))
        for row, col in record.blocks:
            core = record.block(row, col).core
            rows = slice(int(core.row_off * fy), max(1, math.ceil((core.row_off + core.height) * fy)))
            cols = slice(int(core.col_off * fx), max(1, math.ceil((core.col_off + core.width) * fx)))
            valid += int(np.count_nonzero(there[rows, cols]))
            seen += there[rows, cols].size
    return valid / seen if seen else 1.0


def _strips(job: Job, records: Sequence[GridRecord]) -> list[str]:
    """What to say of scenes kept in strips across several blocks, each of which unpacks them anew; looks at some."""
    found, most = [], 0
    chosen = {int(n) for n in np.linspace(0, len(records) - 1, min(_SEEN, len(records)))}
    for record in (records[number] for number in sorted(chosen)):
        path = job.inputs[record.name].path
        if path is None or not Path(path).is_file():
            continue
        with rasterio.open(path) as file:
            if file.block_shapes[0][1] >= file.width and record.shape[1] > record.block_px and file.compression:
                found.append(record.name)
                most = max(most, -(-record.shape[1] // record.block_px))
    if not found:
        return []
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [
        f"{found[0]}{more}: kept in strips, which up to {most} blocks beside each other unpack anew: "
        "make tiles of them with  gdal_translate -of COG IN OUT"
    ]


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20


def _machine_mb() -> float:
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def plan_facts(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    steps = {name: round(getattr(plan.steps, name), 4) for name in Steps.__slots__}
    fields = {name: getattr(plan, name) for name in Plan.__slots__ if name != "steps"}
    rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in fields.items()}
    rounded["hours_by_workers"] = {str(n): round(hours, 6) for n, hours in plan.hours_by_workers.items()}
    return {**rounded, "seconds_a_chip": steps}
