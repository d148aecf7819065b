"""A block that does nothing but say so: what is left is what the scheduler costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rasterio.windows import Window

from geoslave.detections.polygonize import missing_block
from geoslave.region.layout import RunFolder
from geoslave.region.records import pack, write_record

SIDE = 16
_NOTHING = pack([missing_block(Window(SIDE, SIDE, SIDE, SIDE), (3 * SIDE, 3 * SIDE))])


def empty_block(task: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a block in which nothing was found."""
    facts = {
        "block": f"r{task['row']:03d}c{task['col']:03d}",
        "n_chips": 0,
        "n_empty": 1,
        "n_pixels": SIDE * SIDE,
        "n_objects": 0,
        "scores_sha256": None,
        "seconds": 0.0,
    }
    run = RunFolder(Path(task["run"]))
    write_record(run, task["grid"], str(facts["block"]), facts, _NOTHING)
    return facts
