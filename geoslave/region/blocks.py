"""The tasks of a region job: finding out what a grid is like, and doing one block.

Both are top-level functions of plain values, so that any engine can run them. A worker opens the
model once, and a scene once for all the blocks it does of it.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from geoslave.detect import stored_thresholds
from geoslave.detections.polygonize import BlockObjects, label_block
from geoslave.errors import SceneError
from geoslave.grid import Cell
from geoslave.imagery.geotiff import SMALL_CACHE, gdal_environment
from geoslave.imagery.patient import RemoteScene
from geoslave.imagery.raster import SCORE_NODATA, encode_scores, window_geobox
from geoslave.model.gate import gated
from geoslave.model.package import ModelSpec
from geoslave.model.predict import Network, Predictor, load_network, predict_cells
from geoslave.region.gridrecord import GridRecord
from geoslave.region.grids import chips, measure, open_input
from geoslave.region.job import Job, open_job, spec_mark
from geoslave.region.layout import RunFolder, sha256, write_json, write_whole
from geoslave.region.records import pack, scores_geotiff, write_record
from geoslave.region.stamps import drop_older, refuse_replaced


def measure_grid(task: dict[str, Any]) -> dict[str, Any]:
    """Find out what a grid is like and write it down.

    Args:
        task: {"run": folder, "grid": name}
    """
    job = _worker(task).job
    record = measure(job.inputs[task["grid"]], job.config, job.package.spec, job.aoi, job.items)
    write_json(job.run.grid(task["grid"]), record.to_dict())
    return {"grid": record.name, "blocks": len(record.blocks)}


def run_block(task: dict[str, Any]) -> dict[str, Any]:
    """Score a block, find its objects, and write both.

    Args:
        task: {"run": folder, "grid": name, "row", "col": of the block, "threads": for the network}

    Returns:
        the facts that its record holds.
    """
    began = time.perf_counter()
    worker = _worker(task)
    job, record = worker.job, worker.record(task["grid"])
    block = record.block(task["row"], task["col"])
    stamps = record.stamps_under(looked_at(block, job.package.spec))
    try:
        refuse_replaced(stamps, on_disk_only=True)
        stored, n_chips, n_empty = _scores(worker, record, block, task.get("threads"))
        refuse_replaced(stamps)
    except BaseException as error:
        worker.close_source()  # what failed once is opened anew
        if isinstance(error, SceneError):
            refuse_replaced(stamps)  # that it is another file is the better reason
        raise
    high, low = stored_thresholds(job.package.spec, job.request)
    found = [label_block(values, block.core, record.shape, low, high) for values in stored]
    facts = {
        "block": block.name,
        "n_chips": n_chips,
        "n_empty": n_empty,
        "n_pixels": int(block.core.width * block.core.height),
        "n_objects": sum(_reaching(objects) for objects in found),
        "scores_sha256": _keep_scores(job, record, block, stored),
        "seconds": round(time.perf_counter() - began, 3),
    }
    write_record(job.run, record.name, block.name, facts, pack(found))
    return facts


def looked_at(block: Cell, spec: ModelSpec) -> Window:
    """What the chips of a block read, at most: its pixels and their halo, in whole steps of the network."""
    core, margin = block.core, spec.halo + spec.stride
    return Window(core.col_off - margin, core.row_off - margin, core.width + 2 * margin, core.height + 2 * margin)


def _scores(
    worker: _Worker, record: GridRecord, block: Cell, threads: int | None
) -> tuple[NDArray[np.uint8], int, int]:
    """(stored scores [class, y, x] of a block's core, chips looked at, chips without a valid pixel)."""
    spec = worker.job.package.spec
    core = block.core
    stored = np.full((len(spec.classes), core.height, core.width), SCORE_NODATA, np.uint8)
    cells = chips(record, block, spec, worker.job.area(record))
    n_empty = 0
    with gdal_environment(worker.cache):
        source = worker.source(record)
        predictor = Predictor(worker.network(threads), *record.coefficients, spec.scaling.clip)
        for chip in predict_cells(source, predictor, cells):
            if chip.scores is None:
                n_empty += 1
                continue
            top, left = chip.cell.core.row_off - core.row_off, chip.cell.core.col_off - core.col_off
            rows, cols = slice(top, top + chip.cell.core.height), slice(left, left + chip.cell.core.width)
            stored[:, rows, cols] = encode_scores(chip.scores)
    return stored, len(cells) - n_empty, n_empty


def _keep_scores(job: Job, record: GridRecord, block: Cell, stored: NDArray[np.uint8]) -> str | None:
    """Write the score map of a block; its checksum. None if none is wanted or there is no score."""
    if not job.config.keep_scores or (stored == SCORE_NODATA).all():
        return None
    content = scores_geotiff(stored, window_geobox(record.geobox, block.core), job.package.spec.classes)
    # its checksum is in the record: what a power cut takes is noticed
    write_whole(job.run.scores(record.name, block.name), content, durable=False)
    return sha256(content)


def _reaching(objects: BlockObjects) -> int:
    """Objects that reach the threshold, those of several blocks counted in each."""
    return len(objects.whole) + int((objects.pieces.score_max >= objects.high).sum())


class _Worker:
    """What a worker keeps between tasks of one run. One per thread: scenes are not safe to share."""

    def __init__(self, run: str) -> None:
        self.job = open_job(RunFolder(Path(run)))
        self.cache = SMALL_CACHE
        self._open: tuple[str, Any] | None = None
        self._record: GridRecord | None = None

    def record(self, grid: str) -> GridRecord:
        if self._record is None or self._record.name != grid:
            self._record = self.job.record(grid)
        return self._record

    def source(self, record: GridRecord) -> Any:
        """The open imagery of a grid."""
        grid = record.name
        if self._open is None or self._open[0] != grid:
            self.close_source()
            drop_older(record.stamps)
            spec = self.job.package.spec
            source = open_input(self.job.inputs[grid], self.job.config, spec, self.job.items)
            self._open = (grid, source)
            if hasattr(source, "cache_bytes"):
                # what lies behind a network is kept for the next row of blocks, else for the next row of chips
                side = record.block_px if isinstance(source, RemoteScene) else spec.tile
                self.cache = source.cache_bytes(side + 2 * spec.halo)
        return self._open[1]

    def close_source(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            opened[1].close()

    def network(self, threads: int | None) -> Network:
        """The model's network, one for all threads of this process."""
        package, config = self.job.package, self.job.config
        spec = spec_mark(package, config.gate)
        key = json.dumps([str(package.folder), package.checksum, spec, config.gate, config.backend, threads])
        with _LOADING:
            if key not in _NETWORKS:
                _NETWORKS.clear()
                network = load_network(self.job.package, self.job.config.backend, threads)
                _NETWORKS[key] = gated(network, self.job.package, threads, use=self.job.config.gate)
            return _NETWORKS[key]


_NETWORKS: dict[str, Network] = {}
_LOADING = threading.Lock()
_OF_THREAD = threading.local()


def _worker(task: dict[str, Any]) -> _Worker:
    """This thread's worker for the task's run."""
    kept: tuple[str, _Worker] | None = getattr(_OF_THREAD, "worker", None)
    if kept is None or kept[0] != task["run"]:
        if kept is not None:
            kept[1].close_source()
        kept = (task["run"], _Worker(task["run"]))
        _OF_THREAD.worker = kept
    return kept[1]
