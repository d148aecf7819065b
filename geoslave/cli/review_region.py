"""What `geoslave review create` needs of a region's run: its detections, and the rasters they were found in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from geoslave.errors import GeoslaveError


@dataclass(frozen=True, slots=True)
class Found:
    """A run's detections and imagery."""

    detections: Path
    scenes: tuple[str, ...]
    bands: dict[str, int] | None
    crs: str | None
    nodata: str | None


def of_region(name: str) -> Found | None:
    """The latest run of a region, by the region's name or folder or the run's folder; None if it is none of these.

    Raises:
        GeoslaveError: if the region has no finished run, or its imagery is no raster that can be shown as it is.
    """
    from geoslave.region.config import read_config
    from geoslave.region.layout import RegionFolder, RunFolder, region_named

    path = Path(name)
    if (path / "run.json").is_file():
        region, run = RegionFolder(path.parent.parent), RunFolder(path)
    else:
        named = region_named(name)
        if named is None:
            return None
        region, latest = named, named.latest_run()
        if latest is None:
            raise GeoslaveError(f"{region.path} was not run yet: geoslave region run {region.name}")
        run = latest
    layer = run.path / "detections.gpkg"
    if not layer.is_file():
        raise GeoslaveError(f"{layer} is not there yet: make it with  geoslave region export {region.name}")
    config = read_config(region.config)
    nodata = None if config.nodata is None else str(config.nodata)
    return Found(layer, _rasters(run.path), dict(config.bands) or None, config.crs, nodata)


def _rasters(run: Path) -> tuple[str, ...]:
    """The rasters that went into a run, sorted."""
    told = json.loads((run / "run.json").read_text(encoding="utf-8"))
    found = {str(one["path"]) for one in told["inputs"] if one["path"]}
    used = {item for one in told["inputs"] for item in one["items"]}
    for file in sorted((run / "items").glob("*.json")):
        item = json.loads(file.read_text(encoding="utf-8"))
        if item["id"] in used:
            found |= _asset(item)
    if not found:
        raise GeoslaveError(f"{run}: nothing tells which rasters it was made of: name them with --scenes")
    return tuple(sorted(found))


def _asset(item: dict[str, object]) -> set[str]:
    """The one raster of an item that holds all of its bands."""
    assets = item.get("assets")
    hrefs = [str(one["href"]) for one in assets.values() if "href" in one] if isinstance(assets, dict) else []
    if len(hrefs) != 1:
        raise GeoslaveError(
            f"scene {item['id']} keeps its bands in {len(hrefs)} files, and a picture is made of one: make a composite "
            "or a VRT of them, and name it with --scenes"
        )
    return {hrefs[0].removeprefix("file://")}
