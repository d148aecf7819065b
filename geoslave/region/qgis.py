"""A region's run as a folder for QGIS: detections, blocks, score maps and small pictures of the scenes.

Scenes stay where they are, however many and however far: the folder holds pictures of them, so small
together that it can be handed over. Nothing in it names a place of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoslave.detections.measure import to_wgs84
from geoslave.detections.qgisproject import Companions, write_project
from geoslave.detections.qgisrasters import free_name, write_picture
from geoslave.errors import GeoslaveError
from geoslave.imagery.catalog import load_items
from geoslave.imagery.geotiff import gdal_environment
from geoslave.imagery.raster import Raster
from geoslave.region.gridrecord import GridRecord
from geoslave.region.grids import open_input
from geoslave.region.job import Job
from geoslave.region.layout import RegionFolder, read_json
from geoslave.region.publish import merge_latest
from geoslave.region.records import read_record
from geoslave.region.scoremaps import join_scores, scored_blocks

FOLDER = "qgis"
"""Within a run's folder, where no other is asked for."""
PICTURE_SIDE = 4096
"""Pixels on the longer side of a scene's picture, at most."""
PICTURES_PX = 150_000_000
"""Of all pictures together."""
_SMALLEST_SIDE = 256


@dataclass(frozen=True, slots=True)
class Handed:
    """A project that was written."""

    project: Path
    run: str
    n_detections: int
    min_confidence: float
    """What it hides at first."""
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def export_project(
    region: RegionFolder,
    folder: Path | None = None,
    *,
    min_confidence: float | None = None,
    companions: Companions | None = None,
    scores: bool = True,
    scenes: bool = True,
    allow_gaps: bool = False,
    overwrite: bool = False,
) -> Handed:
    """Write the project of the run that was worked on last.

    Args:
        folder: none means one in the run's folder, renewed if there.
        min_confidence: what the project hides at first; none means what the model stands by. All are in it.
        companions: verdicts, counts and changes to show beside.
        scores, scenes: whether to take score maps and pictures of scenes along.

    Raises:
        GeoslaveError: if there is no run, or blocks are missing and `allow_gaps` is false.
        OutputError: if the folder is there already or cannot be written.
    """
    job, records, merged = merge_latest(region, allow_gaps)
    operating = job.package.spec.confidence.operating if min_confidence is None else min_confidence
    notes = list(merged.notes)
    if scores and not any((job.run.path / "scores").glob("*/*.tif")):
        scores = False
        notes.append("the run kept no score maps (keep_scores: false): the project has none")
    ready = [record for record in records.values() if record.status == "ok"]
    blocks = block_table(job, records)
    facts = [f"{len(merged.gaps.missing)} blocks missing"] if merged.gaps else []
    project = write_project(
        merged.detections,
        folder or job.run.path / FOLDER,
        provenance={**merged.provenance, "min_confidence": 0.0},
        title=f"{region.name}: {job.package.spec.title}",
        min_confidence=operating,
        companions=replace(
            companions or Companions(),
            blocks=blocks if len(blocks) else None,
            area=_area(job),
            scores=(lambda into: list(_score_maps(job, ready, into))) if scores else (),
            scenes=(lambda into: list(_pictures(job, ready, into, notes))) if scenes else (),
            facts=facts,
        ),
        overwrite=overwrite or folder is None,
    )
    return Handed(project, job.run.path.name, len(merged.detections), operating, merged.gaps.missing, tuple(notes))


def block_table(job: Job, records: Mapping[str, GridRecord]) -> gpd.GeoDataFrame:
    """The blocks of a run in longitude and latitude: grid, block, status, n_objects, reason.

    `status` is done, empty (done, and nothing reached the threshold), failed, or to do.
    """
    rows: list[dict[str, Any]] = []
    shapes: list[Any] = []
    private = _places_of_this_machine(job)
    for record in records.values():
        blocks = [record.block(row, col) for row, col in record.blocks]
        if not blocks:
            continue
        rows += [_block_facts(job, record.name, block.name, private) for block in blocks]
        outlines = np.array([record.outline(block.core) for block in blocks], object)
        shapes += list(to_wgs84(outlines, record.geobox.crs.proj))
    columns = ["grid", "block", "status", "n_objects", "reason"]
    table = gpd.GeoDataFrame(rows, columns=columns, geometry=shapes, crs="EPSG:4326")
    return table.astype({"n_objects": "Int64"})


def _block_facts(job: Job, grid: str, block: str, private: Sequence[str]) -> dict[str, Any]:
    told = read_record(job.run, grid, block)
    if told is not None:
        n_objects = int(told[0]["n_objects"])
        return {"grid": grid, "block": block, "status": "done" if n_objects else "empty", "n_objects": n_objects}
    failure = read_json(job.run.failed(f"{grid}-{block}"))
    reason = None if failure is None else _without(str(failure["reason"]), private)
    return {"grid": grid, "block": block, "status": "to do" if reason is None else "failed", "reason": reason}


def _places_of_this_machine(job: Job) -> list[str]:
    """Folders a reason of failure may name, the longest first; a name with a space ends no path in a text."""
    paths = [str(given.path) for given in job.inputs.values() if given.path is not None]
    items = load_items(job.items) if job.items.is_dir() else []
    paths += [asset.href for item in items for asset in item.assets.values()]
    local = {Path(path.removeprefix("file://")).parent for path in paths if "://" not in path.removeprefix("file://")}
    region = job.run.path.absolute().parent.parent
    folders = {str(one) for one in (*local, region, region.parent, Path.home(), Path.cwd()) if len(str(one)) > 1}
    return sorted(folders, key=len, reverse=True)


def _without(text: str, folders: Sequence[str]) -> str:
    for folder in folders:
        text = re.sub(rf"(?:file://)?{re.escape(folder)}[\\/]", "", text)
    return text


def _area(job: Job) -> gpd.GeoDataFrame | None:
    """The area of interest as a layer."""
    if job.aoi is None:
        return None
    return gpd.GeoDataFrame({"name": ["area of interest"]}, geometry=[job.aoi.union_all()], crs=job.aoi.crs)


def _score_maps(job: Job, records: Sequence[GridRecord], into: Path) -> Iterator[Path]:
    """The blocks' scores as one cloud-optimized GeoTIFF for each grid."""
    into.mkdir(exist_ok=True)
    for record in records:
        blocks = scored_blocks(job, record)
        if blocks:
            target = free_name(into, record.name, ".tif")
            join_scores(record, blocks, target, job.package.spec.classes)
            yield target


def _pictures(job: Job, records: Sequence[GridRecord], into: Path, notes: list[str]) -> Iterator[Path]:
    """A picture of each grid's imagery; one that cannot be read is noted."""
    into.mkdir(exist_ok=True)
    side = int(min(PICTURE_SIDE, max(_SMALLEST_SIDE, sqrt(PICTURES_PX / max(1, len(records))))))
    for record in records:
        try:
            with gdal_environment():
                raster, names = _overview(job, record, side)
            yield write_picture(raster, names, free_name(into, record.name, ".tif"))
        except (GeoslaveError, RasterioError, OSError) as error:
            notes.append(f"{record.name} has no picture in the project: {' '.join(str(error).split())}")


def _overview(job: Job, record: GridRecord, side: int) -> tuple[Raster, tuple[str, ...]]:
    """A grid's imagery with at most `side` pixels on its longer side, and the names of its bands."""
    given = job.inputs[record.name]
    if given.path is None:
        box = record.geobox
        shrink = max(1.0, max(box.shape) / side)
        shape = (max(1, round(box.shape[0] / shrink)), max(1, round(box.shape[1] / shrink)))
        affine = box.affine @ box.affine.scale(box.shape[1] / shape[1], box.shape[0] / shape[0])
        given = replace(given, geobox=(shape, tuple(affine)[:6], str(box.crs)))
    with open_input(given, job.config, job.package.spec, job.items) as source:
        whole = Window(0, 0, source.geobox.shape[1], source.geobox.shape[0])
        raster = source.read(whole) if given.path is None else source.overview(side)
        return raster, tuple(source.bands)
