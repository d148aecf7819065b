"""The score maps of a run's blocks, checked and joined to one map a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import rasterio
from rasterio.windows import Window

from geoslave.errors import GeoslaveError
from geoslave.imagery.geotiff import gdal_environment
from geoslave.imagery.scorefile import publish_scores, score_file
from geoslave.region.gridrecord import GridRecord
from geoslave.region.job import Job
from geoslave.region.records import read_record, scores_whole


def scored_blocks(job: Job, record: GridRecord) -> list[tuple[Window, Path]]:
    """Core and score map of each block that is done and has one.

    Raises:
        GeoslaveError: if one is damaged.
    """
    found = []
    for row, col in record.blocks if record.status == "ok" else ():
        block = record.block(row, col)
        path = job.run.scores(record.name, block.name)
        told = read_record(job.run, record.name, block.name) if path.is_file() else None
        if told is None:  # a gap, which the layer tells of
            continue
        if not scores_whole(path, told[0]["scores_sha256"]):
            raise GeoslaveError(f"block {block.name} of {record.name} is damaged: run again, it is made again")
        found.append((block.core, path))
    return found


def join_scores(record: GridRecord, blocks: Sequence[tuple[Window, Path]], path: Path, classes: Sequence[str]) -> None:
    """Write the blocks' score maps as one cloud-optimized GeoTIFF, a block in memory at a time."""
    with TemporaryDirectory(prefix=".geoslave-", dir=path.parent) as scratch:
        making = Path(scratch) / "scores.tif"
        with gdal_environment(), score_file(making, record.geobox, classes, record.block_px) as file:
            for core, part in blocks:
                with rasterio.open(part) as block:
                    file.write_stored(block.read(), core)
        publish_scores(making, path)
