"""blocks.geojson: where the blocks of a run lie, and what became of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from geoslave.errors import OutputError
from geoslave.region.job import Job, known_records
from geoslave.region.layout import RegionFolder, whole_files

_BLOCKS_AT_ONCE = 5_000
"""Outlines in memory while the file is written."""


def write_blocks(region: RegionFolder, job: Job) -> None:
    """blocks.geojson: the blocks of a run in longitude and latitude, with what became of each."""
    draft = region.blocks.with_name(f".~{region.blocks.name}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(_blocks_head(job))
            before = "\n"
            for feature in _block_features(job):
                file.write(before + json.dumps(feature))
                before = ",\n"
            file.write("\n]}\n")
        draft.replace(region.blocks)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise OutputError(f"{region.blocks} cannot be written ({error.strerror}): free some space") from error


def _blocks_head(job: Job) -> str:
    """How blocks.geojson begins; it changes when blocks are done."""
    told = {"type": "FeatureCollection", "name": "blocks", "run": job.run.path.name, "done": job.run.count_done()}
    return json.dumps(told)[:-1] + ', "features": ['


def shows_blocks_of(region: RegionFolder, job: Job) -> bool:
    """True if blocks.geojson is of this run as it is now."""
    with suppress(OSError), region.blocks.open(encoding="utf-8") as file:
        return file.readline().rstrip("\n") == _blocks_head(job)
    return False


def _block_features(job: Job) -> Iterator[dict[str, Any]]:
    import numpy as np
    import shapely

    from geoslave.detections.measure import to_wgs84

    failed = {path.stem for path in whole_files(job.run.failures, "*.json")}
    for record in known_records(job).values():
        done = job.run.done_blocks(record.name)
        for start in range(0, len(record.blocks), _BLOCKS_AT_ONCE):
            blocks = [record.block(row, col) for row, col in record.blocks[start : start + _BLOCKS_AT_ONCE]]
            outlines = np.array([record.outline(block.core) for block in blocks], object)
            for block, shape in zip(blocks, to_wgs84(outlines, record.geobox.crs.proj), strict=True):
                failure = f"{record.name}-{block.name}" in failed
                state = "done" if block.name in done else "failed" if failure else "to do"
                told = {"grid": record.name, "block": block.name, "state": state}
                yield {"type": "Feature", "properties": told, "geometry": shapely.geometry.mapping(shape)}
