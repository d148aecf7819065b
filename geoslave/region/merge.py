"""From what blocks found to one layer: joined across blocks, placed, filtered, each site once.

Row by row of blocks, so that memory grows with the sites that are reported and not with the region.
The same place gives the same bytes whatever the size of blocks, the engine and the order of work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import shapely

from geoslave.detect import SceneResult, inside, place, provenance
from geoslave.detections.export import combine, merge_overlapping
from geoslave.detections.polygonize import BlockObjects, join_rows, missing_block
from geoslave.detections.schema import empty
from geoslave.errors import GeoslaveError
from geoslave.model.gate import gate_facts
from geoslave.region.gridrecord import GridRecord, block_name
from geoslave.region.job import Job
from geoslave.region.layout import read_json
from geoslave.region.records import read_record, unpack

_TOGETHER = 10_000
"""A table is made of so many objects, or a few more: few tables, and what making one takes does not grow."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """What a run has not done."""

    missing: tuple[str, ...]
    """Blocks that are not done, or whose files are damaged; grids that nobody could look at."""
    failed: Mapping[str, str]
    """Reasons of those that failed."""

    def __bool__(self) -> bool:
        return bool(self.missing)


@dataclass(frozen=True, slots=True)
class Merged:
    """A region's layer."""

    detections: gpd.GeoDataFrame
    provenance: dict[str, Any]
    gaps: Gaps
    notes: tuple[str, ...]


def find_gaps(job: Job, records: Mapping[str, GridRecord]) -> Gaps:
    """What has not been done, by the files that are there."""
    missing = [name for name in job.inputs if name not in records]
    for record in records.values():
        done = job.run.done_blocks(record.name)
        names = (block_name(row, col) for row, col in record.blocks)
        missing += [f"{record.name}-{name}" for name in names if name not in done]
    return Gaps(tuple(missing), _reasons(job, missing))


def merge(job: Job, records: Mapping[str, GridRecord], *, allow_gaps: bool = False) -> Merged:
    """The detections of a run.

    Raises:
        GeoslaveError: if blocks are missing or damaged and `allow_gaps` is false.
    """
    found = find_gaps(job, records)
    if found and not allow_gaps:
        raise GeoslaveError(_told(found))
    damaged: list[str] = []
    tables, results = [], []
    for record in records.values():
        if record.status == "ok":
            tables.append(_grid_detections(job, record, damaged))
        results.append(_result(record))
    gaps = Gaps(tuple(dict.fromkeys([*found.missing, *damaged])), found.failed)
    if gaps and not allow_gaps:
        raise GeoslaveError(_told(gaps))
    layer = combine(tables) if tables else empty("EPSG:4326")
    layer = merge_overlapping(layer, job.package.spec.sought)
    more: dict[str, Any] = {"created": job.started, "run": job.run.path.name}
    more |= gate_facts(job.package, used=job.config.gate)
    if gaps:
        more["blocks_missing"] = len(gaps.missing)
    notes = tuple(note for record in records.values() for note in record.notes)
    return Merged(layer, provenance(job.package, results, job.request, **more), gaps, notes)


def _grid_detections(job: Job, record: GridRecord, damaged: list[str]) -> gpd.GeoDataFrame:
    spec = job.package.spec
    area = job.area(record)
    tables = []
    for number, name in enumerate(spec.classes):
        objects = join_rows(_rows(job, record, number, damaged))
        for finished in _batches(objects):
            table = place(finished, record.geobox, job.package, name, record.scene_id, record.taken)
            tables.append(table if area is None else inside(table, area, record.geobox))
    return combine(tables) if tables else empty(record.geobox.crs.proj)


def _batches(rows: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """Several rows' objects together."""
    together: list[Any] = []
    for finished in rows:
        together += finished
        if len(together) >= _TOGETHER:
            yield together
            together = []
    yield together


def _rows(
    job: Job, record: GridRecord, number: int, damaged: list[str]
) -> Iterator[tuple[int, Iterator[BlockObjects]]]:
    """For `join_rows`: the blocks of a class, with missing ones beside those that are there."""
    wanted: dict[int, set[int]] = {}
    for row, col in record.blocks:
        wanted.setdefault(row, set()).add(col)
    last_row, last_col = ((side - 1) // record.block_px for side in record.shape)
    reached = {near for row in wanted for near in (row - 1, row, row + 1) if 0 <= near <= last_row}
    for row in sorted(reached):
        here = wanted.get(row, set())
        beside = {near for col in here for near in (col - 1, col + 1) if 0 <= near <= last_col}
        beside |= wanted.get(row - 1, set()) | wanted.get(row + 1, set())
        bottom = min((row + 1) * record.block_px, record.shape[0])
        yield bottom, _blocks(job, record, row, sorted(here | beside), here, number, damaged)


def _blocks(
    job: Job, record: GridRecord, row: int, cols: list[int], here: set[int], number: int, damaged: list[str]
) -> Iterator[BlockObjects]:
    for col in cols:
        content = read_record(job.run, record.name, block_name(row, col)) if col in here else None
        if content is None:
            if col in here:
                damaged.append(f"{record.name}-{block_name(row, col)}")
            yield missing_block(record.block(row, col).core, record.shape)
        else:
            yield unpack(content[1])[number]


def _result(record: GridRecord) -> SceneResult:
    """What provenance asks of a scene."""
    return SceneResult(
        detections=empty("EPSG:4326"),
        scene_id=record.scene_id,
        date=record.taken,
        n_chips=0,
        n_empty=0,
        footprint=shapely.Polygon(),
        notes=record.notes,
        outside=record.status == "outside",
    )


def _reasons(job: Job, missing: list[str]) -> dict[str, str]:
    told = ((name, read_json(job.run.failed(name))) for name in missing)
    return {name: str(one["reason"]) for name, one in told if one is not None}


def _told(gaps: Gaps) -> str:
    count = len(gaps.missing)
    first = gaps.missing[0]
    why = f": {gaps.failed[first]}" if first in gaps.failed else ""
    return (
        f"{count} block{'s are' if count > 1 else ' is'} not done ({first}{why}): run again, "
        "or take the gaps with --allow-gaps (the layer's provenance will say so)"
    )
