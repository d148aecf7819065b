"""A region's layers: merged, filtered as `geoslave detect` filters, written in the formats asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geoslave.detections.export import check_output, filter_detections, write_detections
from geoslave.region.gridrecord import GridRecord
from geoslave.region.job import Job, known_records, open_job
from geoslave.region.layout import RegionFolder
from geoslave.region.merge import Merged, merge

DEFAULTS = (".gpkg", ".geojson", ".parquet")
KEEP_ALL = (".gpkg", ".parquet")
"""Formats that keep detections of low confidence, to be filtered later."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    run: str
    layers: dict[Path, int]
    """Detections in each file."""
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    operating: float
    n_confident: int


def merge_latest(region: RegionFolder, allow_gaps: bool) -> tuple[Job, Mapping[str, GridRecord], Merged]:
    """The run that was worked on last: its job, its grids, and its detections.

    Raises:
        GeoslaveError: if there is none, or blocks are missing and `allow_gaps` is false.
    """
    job = open_job(region.ran())
    records = known_records(job)
    return job, records, merge(job, records, allow_gaps=allow_gaps)


def export_region(
    region: RegionFolder,
    outputs: Sequence[Path] = (),
    min_confidence: float | None = None,
    *,
    allow_gaps: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write the layers of the run that was worked on last.

    Args:
        outputs: none means detections.gpkg, .geojson and .parquet in the run's folder, renewed if there.

    Raises:
        GeoslaveError: if there is no run, or blocks are missing and `allow_gaps` is false.
        OutputError: if a file is there already or cannot be written.
    """
    run = region.ran()
    own = not outputs
    paths = [run.path / f"detections{ending}" for ending in DEFAULTS] if own else list(outputs)
    for path in paths:
        check_output(path, overwrite or own)
    job = open_job(run)
    merged = merge(job, known_records(job), allow_gaps=allow_gaps)
    operating = job.package.spec.confidence.operating
    layers = {}
    for path in paths:
        lowest = min_confidence
        if lowest is None:
            lowest = 0.0 if path.suffix.lower() in KEEP_ALL else operating
        kept = filter_detections(merged.detections, lowest)
        told = {**merged.provenance, "min_confidence": lowest}
        write_detections(kept, path, provenance=told, overwrite=overwrite or own)
        layers[path] = len(kept)
    confident = int((merged.detections["confidence"] >= operating).sum())
    return Exported(run.path.name, layers, merged.gaps.missing, merged.notes, operating, confident)
