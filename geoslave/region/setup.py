"""A new region: its folder, its area, its settings."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd

from geoslave.errors import GeoslaveError
from geoslave.files import refuse_existing
from geoslave.imagery.aoi import read_aoi
from geoslave.model.package import open_package
from geoslave.region.config import json_schema, read_config, template
from geoslave.region.layout import RegionFolder, write_whole
from geoslave.settings import suggestion
from geoslave.targets import TARGETS, get_target, is_target_file, target_yaml


def init_region(
    folder: Path, aoi: Path | None, target: str | None, model: str, scenes: Sequence[str], *, overwrite: bool = False
) -> RegionFolder:
    """Make a region's folder with a commented region.yaml and its area in longitude and latitude.

    Raises:
        GeoslaveError: if the name, the area, the target or the model is not usable, or the region is there.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", folder.name):
        raise GeoslaveError(f"'{folder.name}' is no name for a region: use letters, digits, - and _ only")
    region = RegionFolder(folder)
    refuse_existing(region.config, overwrite)
    package = open_package(model)
    if target is None:
        target = package.spec.target
    elif is_target_file(target):
        target = get_target(target).name
    elif target not in TARGETS and target != package.spec.target:
        raise GeoslaveError(f"--target: '{target}' is no target{suggestion(target, list(TARGETS))}")
    if target != package.spec.target:
        raise GeoslaveError(
            f"--target: the model {model} looks for {package.spec.target}, not for {target}: choose another model"
        )
    area = None if aoi is None else read_aoi(aoi)
    folder.mkdir(parents=True, exist_ok=True)
    if area is not None:
        write_whole(folder / "aoi.geojson", _geojson(area))
    if target not in TARGETS:
        own = (folder / "target.yaml").absolute()
        write_whole(own, target_yaml(package.spec.sought).encode())
        target = str(own)
    named = Path(model).resolve() if (Path(model) / "model.json").is_file() else model
    text = template(target, str(named), [_absolute(scene) for scene in scenes], None if aoi is None else "aoi.geojson")
    write_whole(folder / "region.schema.json", json.dumps(json_schema(), indent=2).encode())
    write_whole(region.config, text.encode())
    read_config(region.config)
    return region


def _geojson(area: gpd.GeoSeries) -> bytes:
    """An area in longitude and latitude, as others read it."""
    return gpd.GeoSeries(area.to_numpy(), crs="EPSG:4326").to_json(drop_id=True).encode()


def _absolute(scene: str) -> str:
    """A path that does not depend on the folder a command is called in; addresses stay."""
    if "://" in scene or scene.startswith("/vsi") or re.match(r"[A-Za-z][A-Za-z0-9_]+:", scene):
        return scene
    return str(Path(scene).absolute())
