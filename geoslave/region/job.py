"""A run as its folder describes it, opened. It loads no library of geodata before one is needed: see `gridrecord`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoslave.errors import GeoslaveError, ModelError
from geoslave.model.package import ModelPackage, open_package
from geoslave.region.config import RegionConfig
from geoslave.region.gridrecord import GridRecord
from geoslave.region.inputs import Input
from geoslave.region.layout import RunFolder, digest, read_json

if TYPE_CHECKING:
    import geopandas as gpd
    from shapely.geometry.base import BaseGeometry

    from geoslave.detect import Request


@dataclass
class Job:
    """A run as its folder describes it, opened: what every task of it needs."""

    run: RunFolder
    config: RegionConfig
    package: ModelPackage
    inputs: dict[str, Input]
    started: str
    _areas: dict[str, BaseGeometry | None] = field(default_factory=dict)

    @cached_property
    def aoi(self) -> gpd.GeoSeries | None:
        """The area of interest as it was when the run began."""
        if self.config.aoi is None:
            return None
        from geoslave.imagery.aoi import read_aoi

        return read_aoi(self.run.aoi)

    @property
    def request(self) -> Request:
        """What `geoslave detect` would be asked."""
        from geoslave.detect import Request

        return Request(threshold=self.config.threshold, date=self.config.date, aoi=self.aoi)

    @property
    def items(self) -> Path:
        """The STAC items as they were when the run began."""
        return self.run.path / "items"

    def area(self, record: GridRecord) -> BaseGeometry | None:
        """The area of interest on a grid, in its pixels."""
        if record.name not in self._areas:
            from geoslave.region.grids import area_on, ground

            area = ground(self.inputs[record.name], self.aoi, self.package.spec)
            self._areas[record.name] = area_on(area, record.geobox)
        return self._areas[record.name]

    def record(self, grid: str) -> GridRecord:
        """What is known of a grid.

        Raises:
            GeoslaveError: if its file is damaged.
        """
        told = read_json(self.run.grid(grid))
        if told is None:
            raise GeoslaveError(f"{self.run.grid(grid)} is damaged: run again, it is made again")
        return GridRecord.from_dict(told)


def open_job(run: RunFolder) -> Job:
    """Open a run by its folder.

    Raises:
        GeoslaveError: if its description is damaged, its area is gone, or its model was changed.
    """
    told = read_json(run.description)
    if told is None:
        raise GeoslaveError(f"{run.description} is missing or damaged: run again, it is made again")
    config = RegionConfig.read_again(told["config"])
    package = open_package(told["model"]["folder"])
    if told["model"]["sha256"] != package.checksum or told["model"].get("spec") != spec_mark(package, config.gate):
        raise ModelError(f"{package.folder} was replaced since the run began: run again, a new run begins with it")
    if config.aoi is not None and not run.aoi.is_file():
        raise GeoslaveError(f"{run.aoi} is gone, the area the run looked at: delete {run.path}, then run again")
    return Job(
        run=run,
        config=config,
        package=package,
        inputs={one["name"]: Input.from_dict(one) for one in told["inputs"]},
        started=told["started"],
    )


def known_records(job: Job) -> dict[str, GridRecord]:
    """The grids that were looked at, by name; damaged files are as if they were not there."""
    found = ((name, read_json(job.run.grid(name))) for name in job.inputs)
    return {name: GridRecord.from_dict(told) for name, told in found if told is not None}


def spec_facts(package: ModelPackage, gate: bool) -> dict[str, Any]:
    """What a result depends on of a model's description, as plain values; of its gate where that is used."""
    return package.spec.model_dump(mode="json", exclude=None if gate else {"gate"})


def spec_mark(package: ModelPackage, gate: bool) -> str:
    """Changes when `spec_facts` do."""
    return digest(spec_facts(package, gate))
