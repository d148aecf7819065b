"""A folder that opens in QGIS with a double click: detections, score maps and scenes, with relative paths only.

The project is written without QGIS, as QGIS 3.22 reads it. Moving or renaming the folder keeps it working.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import geopandas as gpd
import numpy as np
import pyproj
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import transform_bounds

from geoslave.detections import export, qgis
from geoslave.detections.schema import STATEMENT
from geoslave.errors import OutputError, SceneError
from geoslave.files import refuse_existing, scratch_folder

PROJECT = "project.qgz"
_COLOURS = {"red": {"red", "b4", "b04"}, "green": {"green", "b3", "b03"}, "blue": {"blue", "b2", "b02"}}
"""Words in bands' descriptions."""
_CUT = (2, 98)
"""Percentiles of a scene's bands that become black and white."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the project."""

    name: str
    source: str
    """Relative to the folder."""
    kind: str
    """"vector" or "raster"."""
    crs: Any
    style: str
    """XML inside the layer's element."""
    bounds: tuple[float, float, float, float]
    """West, south, east, north in its CRS."""

    @property
    def key(self) -> str:
        """Its id in the project."""
        return re.sub(r"\W", "_", self.source)


def write_project(
    detections: gpd.GeoDataFrame,
    folder: Path,
    *,
    provenance: Mapping[str, Any],
    scores: Sequence[Path] = (),
    scenes: Sequence[Path] = (),
    title: str = "Detections",
    overwrite: bool = False,
) -> Path:
    """Write the folder; score maps and scenes are copied into it. Returns the project's file.

    Raises:
        GeoslaveError: if the table is no detections table.
        SceneError: if a raster cannot be read.
        OutputError: if the folder is there already, or cannot be written.
    """
    refuse_existing(folder, overwrite)
    if folder.exists() and not (folder / PROJECT).is_file():
        raise OutputError(f"{folder} holds no project: --overwrite replaces projects only, choose another name")
    try:
        with scratch_folder(folder) as scratch:
            draft = scratch / folder.name
            draft.mkdir()
            export.write_detections(detections, draft / "detections.gpkg", provenance=provenance)
            groups = {
                "Sites": [_sites(detections)],
                "Scores": [_scores(path) for path in _copied(scores, draft / "scores")],
                "Imagery": [_scene(path) for path in _copied(scenes, draft / "imagery")],
            }
            _write_qgz(draft / PROJECT, _project(groups, title))
            if folder.exists():
                folder.replace(scratch / "old")
            draft.replace(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error}): choose another place") from error
    return folder / PROJECT


def _copied(paths: Sequence[Path], into: Path) -> list[Path]:
    """Copies of rasters under names that differ."""
    copies = []
    for path in paths:
        if not path.is_file():
            raise SceneError(f"{path} is not there: check the name")
        into.mkdir(exist_ok=True)
        copy = into / path.name
        number = 2
        while copy.exists():
            copy = into / f"{path.stem}-{number}{path.suffix}"
            number += 1
        shutil.copyfile(path, copy)
        copies.append(copy)
    return copies


def _sites(detections: gpd.GeoDataFrame) -> Layer:
    style = _inside(qgis.detections_qml(["fid", *(c for c in detections.columns if c != "geometry")]))
    bounds = tuple(detections.total_bounds) if len(detections) else (0.0, 0.0, 0.0, 0.0)
    source = f"./detections.gpkg|layername={export.LAYER}"
    return Layer("Detections by confidence", source, "vector", detections.crs, style, bounds)


def _scores(path: Path) -> Layer:
    with _opened(path) as file:
        return Layer(
            f"Scores {path.stem}",
            f"./{path.parent.name}/{path.name}",
            "raster",
            file.crs,
            _inside(qgis.scores_qml()),
            tuple(file.bounds),
        )


def _scene(path: Path) -> Layer:
    with _opened(path) as file:
        return Layer(
            path.stem,
            f"./{path.parent.name}/{path.name}",
            "raster",
            file.crs,
            _colours(file, _colour_bands(file)),
            tuple(file.bounds),
        )


def _opened(path: Path) -> Any:
    try:
        file = rasterio.open(path)
    except rasterio.errors.RasterioError as error:
        raise SceneError(f"{path.name} cannot be read as a raster ({error}): check the file") from error
    if file.crs is None:
        file.close()
        raise SceneError(f"{path.name} has no CRS: QGIS could not place it, add one with gdal_edit.py -a_srs")
    return file


def _colour_bands(file: Any) -> tuple[int, int, int]:
    """Band numbers of red, green and blue, as the file says; else the first band as grey."""
    said = [kind.name for kind in file.colorinterp]
    titles = [str(title or "").lower() for title in file.descriptions]
    found = []
    for name, codes in _COLOURS.items():
        by_title = [i for i, title in enumerate(titles) if codes & set(re.split(r"[^a-z0-9]+", title))]
        where = [i for i, kind in enumerate(said) if kind == name] or by_title
        found.append(where[0] + 1 if where else 0)
    red, green, blue = found if all(found) else (1, 1, 1)
    return red, green, blue


def _colours(file: Any, bands: Sequence[int]) -> str:
    """A scene in natural colours, each band stretched between its percentiles."""
    stretched = ""
    for name, band in zip(("red", "green", "blue"), bands, strict=True):
        low, high = _percentiles(file, band)
        stretched += (
            f"<{name}ContrastEnhancement><minValue>{low:g}</minValue><maxValue>{high:g}</maxValue>"
            f"<algorithm>StretchToMinimumMaximum</algorithm></{name}ContrastEnhancement>"
        )
    red, green, blue = bands
    return (
        f'<pipe><rasterrenderer type="multibandcolor" redBand="{red}" greenBand="{green}" blueBand="{blue}" '
        f'alphaBand="-1" opacity="1">{stretched}</rasterrenderer>'
        '<rasterresampler zoomedInResampler="cubic" zoomedOutResampler="bilinear" maxOversampling="2"/></pipe>'
    )


def _percentiles(file: Any, band: int) -> tuple[float, float]:
    scale = max(file.shape) / 512
    shape = tuple(max(1, round(side / max(scale, 1))) for side in file.shape)
    pixels = file.read(band, out_shape=shape, masked=True, resampling=Resampling.nearest).compressed()
    pixels = pixels[np.isfinite(pixels) & (pixels != 0)]
    if not len(pixels):
        return 0.0, 1.0
    low, high = np.percentile(pixels, _CUT)
    return float(low), float(max(high, low + 1e-6))


# ---------------------------------------------------------------- the project file


def _project(groups: Mapping[str, Sequence[Layer]], title: str) -> str:
    layers = [layer for members in groups.values() for layer in members]
    crs = layers[0].crs
    tree = "".join(_group(name, members) for name, members in groups.items() if members)
    order = "".join(f'<layer id="{layer.key}"/>' for layer in layers)
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        f'<qgis projectname={quoteattr(title)} version="3.22.16-Białowieża">\n'
        f"<title>{escape(title)}</title>\n"
        f"<projectCrs>{_srs(crs)}</projectCrs>\n"
        f"<layer-tree-group><customproperties/>{tree}</layer-tree-group>\n"
        f'<mapcanvas name="theMapCanvas" annotationsVisible="1"><units>meters</units>{_extent(layers, crs)}'
        f"<rotation>0</rotation><destinationsrs>{_srs(crs)}</destinationsrs></mapcanvas>\n"
        f"<projectlayers>{''.join(map(_map_layer, layers))}</projectlayers>\n"
        f"<layerorder>{order}</layerorder>\n"
        f"<projectMetadata><title>{escape(title)}</title><abstract>{escape(STATEMENT)}</abstract></projectMetadata>\n"
        '<properties><Paths><Absolute type="bool">false</Absolute></Paths><SpatialRefSys>'
        f'<ProjectCrs type="QString">{_authid(crs)}</ProjectCrs>'
        '<ProjectionsEnabled type="int">1</ProjectionsEnabled></SpatialRefSys></properties>\n'
        "</qgis>\n"
    )


def _group(name: str, layers: Sequence[Layer]) -> str:
    inside = "".join(
        f'<layer-tree-layer id="{layer.key}" name={quoteattr(layer.name)} source={quoteattr(layer.source)} '
        f'providerKey="{_provider(layer)}" checked="Qt::Checked" expanded="1"/>'
        for layer in layers
    )
    return f'<layer-tree-group name="{name}" checked="Qt::Checked" expanded="1">{inside}</layer-tree-group>'


def _map_layer(layer: Layer) -> str:
    geometry = ' geometry="Polygon" wkbType="Polygon"' if layer.kind == "vector" else ""
    return (
        f'<maplayer type="{layer.kind}"{geometry} autoRefreshEnabled="0" hasScaleBasedVisibilityFlag="0">'
        f"<id>{layer.key}</id><datasource>{escape(layer.source)}</datasource>"
        f"<layername>{escape(layer.name)}</layername><srs>{_srs(layer.crs)}</srs>"
        f'<provider encoding="UTF-8">{_provider(layer)}</provider>{layer.style}</maplayer>\n'
    )


def _provider(layer: Layer) -> str:
    return "ogr" if layer.kind == "vector" else "gdal"


def _srs(crs: Any) -> str:
    known = pyproj.CRS.from_user_input(crs)
    return (
        f'<spatialrefsys nativeFormat="Wkt"><wkt>{escape(known.to_wkt())}</wkt>'
        f"<authid>{_authid(crs)}</authid><description>{escape(known.name)}</description></spatialrefsys>"
    )


def _authid(crs: Any) -> str:
    authority = pyproj.CRS.from_user_input(crs).to_authority()
    return ":".join(authority) if authority else ""


def _extent(layers: Sequence[Layer], crs: Any) -> str:
    """Everything, with a margin, in the project's CRS."""
    boxes = [
        transform_bounds(
            pyproj.CRS.from_user_input(layer.crs).to_wkt(), pyproj.CRS.from_user_input(crs).to_wkt(), *layer.bounds
        )
        for layer in layers
        if layer.bounds != (0.0, 0.0, 0.0, 0.0)
    ] or [(0.0, 0.0, 1.0, 1.0)]
    west, south = (min(box[k] for box in boxes) for k in (0, 1))
    east, north = (max(box[k] for box in boxes) for k in (2, 3))
    x, y = (east - west) * 0.05, (north - south) * 0.05
    corners = {"xmin": west - x, "ymin": south - y, "xmax": east + x, "ymax": north + y}
    return f"<extent>{''.join(f'<{name}>{value}</{name}>' for name, value in corners.items())}</extent>"


def _inside(qml: str) -> str:
    """What stands within a style's outermost element."""
    found = re.search(r"<qgis[^>]*>(.*)</qgis>", qml, re.S)
    assert found is not None
    return found[1]


def _write_qgz(path: Path, project: str) -> None:
    """The project zipped, as QGIS does; the same project gives the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo("project.qgs", (1980, 1, 1, 0, 0, 0))
        member.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(member, project)
