"""Blocks without a network: what is left is what the scheduler, the folder and the merge cost."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from geoslave.detections.polygonize import label_block, missing_block
from geoslave.region.gridrecord import GridRecord
from geoslave.region.layout import RunFolder, read_json
from geoslave.region.records import pack, write_record

SIDE = 16
_NOTHING = pack([missing_block(Window(SIDE, SIDE, SIDE, SIDE), (3 * SIDE, 3 * SIDE))])

SITES = ((2, 2), (10, 20), (20, 27), (29, 14))
"""Where kilns begin in a block of `SITES_SIDE`: two inside, one across the right seam, one across the lower."""
SITES_SIDE = 32
_KILN = (5, 10)


def empty_block(task: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a block in which nothing was found."""
    return _write(task, SIDE, 0, _NOTHING)


def block_of_sites(task: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a block with four kilns, two of them shared with its neighbours."""
    record = _record(task["run"], task["grid"])
    core = record.block(task["row"], task["col"]).core
    found = label_block(_country()[: core.height, : core.width], core, record.shape, 76, 127)
    return _write(task, SITES_SIDE, len(SITES), pack([found]))


@cache
def _country() -> np.ndarray:
    """Stored scores of a block; kilns across its seams come in again on the other side."""
    scores = np.zeros((SITES_SIDE, SITES_SIDE), np.uint8)
    for top, left in SITES:
        rows, cols = (np.arange(start, start + n) % SITES_SIDE for start, n in zip((top, left), _KILN, strict=True))
        scores[np.ix_(rows, cols)] = 240
    return scores


@cache
def _record(run: str, grid: str) -> GridRecord:
    told = read_json(RunFolder(Path(run)).grid(grid))
    assert told is not None
    return GridRecord.from_dict(told)


def _write(task: dict[str, Any], side: int, n_objects: int, found: bytes) -> dict[str, Any]:
    facts = {
        "block": f"r{task['row']:03d}c{task['col']:03d}",
        "n_chips": 0,
        "n_empty": 1,
        "n_pixels": side * side,
        "n_objects": n_objects,
        "scores_sha256": None,
        "seconds": 0.0,
    }
    write_record(RunFolder(Path(task["run"])), task["grid"], str(facts["block"]), facts, found)
    return facts
