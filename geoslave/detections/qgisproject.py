"""A folder that opens in QGIS with a double click: detections and what belongs to them, with relative paths only.

    project.qgz      groups of layers, map themes, a filter, a print layout
    README.txt       how to use it, and what it is not
    detections.gpkg  verdicts.gpkg  changes.gpkg  counts.gpkg  blocks.gpkg   (each carries its style)
    scores/  imagery/

The project is written without QGIS, as QGIS 3.22 reads it. Moving or renaming the folder keeps it working.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from geoslave.detections import export, qgis
from geoslave.detections.qgislayers import dated_changes, fields, write_layer
from geoslave.detections.qgisrasters import copy_rasters, opened, scene_style, write_mosaic
from geoslave.detections.qgissymbols import inside_of
from geoslave.detections.qgisxml import Group, Layer, Project, Theme, project_xml
from geoslave.detections.schema import STATEMENT
from geoslave.errors import OutputError
from geoslave.files import refuse_existing, scratch_folder

PROJECT = "project.qgz"
MANY = 12
"""More rasters than this become one layer per CRS."""

Rasters = Sequence[Path] | Callable[[Path], Sequence[Path]]
"""Files to be copied, or what makes them in a folder."""


@dataclass(frozen=True, slots=True)
class Companions:
    """What a project shows besides detections; nothing is needed."""

    blocks: gpd.GeoDataFrame | None = None
    """grid, block, status (done, empty, failed, to do), n_objects, reason."""
    verdicts: gpd.GeoDataFrame | None = None
    """Of `geoslave review consensus`: answer, probability, n_votes."""
    counts: gpd.GeoDataFrame | None = None
    """`qgislayers.counts_table`."""
    changes: gpd.GeoDataFrame | None = None
    """`detections.change.follow`."""
    area: gpd.GeoDataFrame | None = None
    """The area of interest."""
    scores: Rasters = ()
    scenes: Rasters = ()
    """Copied; a function makes pictures in natural colours (`qgisrasters.write_picture`)."""
    facts: Sequence[str] = field(default_factory=tuple)
    """More words for the title block."""


def write_project(
    detections: gpd.GeoDataFrame,
    folder: Path,
    *,
    provenance: Mapping[str, Any],
    scores: Rasters = (),
    scenes: Rasters = (),
    title: str = "Detections",
    min_confidence: float = 0.0,
    companions: Companions | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the folder; score maps and scenes are copied into it. Returns the project's file.

    Args:
        scores, scenes: short for those of `companions`.
        min_confidence: what the project hides at first (its variable `min_confidence`); all detections are there.

    Raises:
        GeoslaveError: if the table is no detections table.
        SceneError: if a raster cannot be read.
        OutputError: if the folder is there already, or cannot be written.
    """
    refuse_existing(folder, overwrite)
    if folder.exists() and not (folder / PROJECT).is_file():
        raise OutputError(f"{folder} holds no project: --overwrite replaces projects only, choose another name")
    more = companions or Companions()
    try:
        with scratch_folder(folder) as scratch:
            draft = scratch / folder.name
            draft.mkdir()
            export.write_detections(detections, draft / "detections.gpkg", provenance=provenance)
            groups = _vectors(detections, more, draft)
            groups += _rasters(draft, scores or more.scores, scenes or more.scenes)
            project = Project(
                title=title,
                lines=_lines(detections, provenance, more),
                statement=STATEMENT,
                crs=_project_crs(detections, groups),
                groups=_in_order(groups),
                themes=_themes(groups),
                variables={"min_confidence": f"{min_confidence:g}"},
                span=_span(more.changes),
            )
            _write_qgz(draft / PROJECT, project_xml(project))
            (draft / "README.txt").write_text(_readme(title, min_confidence, groups), encoding="utf-8")
            if folder.exists():
                folder.replace(scratch / "old")
            draft.replace(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error}): choose another place") from error
    return folder / PROJECT


# ---------------------------------------------------------------- layers

_ORDER = ("Review", "Sites", "Change", "Run", "Counts by area", "Scores", "Imagery")


def _in_order(groups: Sequence[Group]) -> list[Group]:
    return sorted((group for group in groups if group.layers), key=lambda group: _ORDER.index(group.name))


def _vectors(detections: gpd.GeoDataFrame, more: Companions, draft: Path) -> list[Group]:
    side = export.typical_side_m(detections)
    groups = [Group("Sites", [_sites(detections, side)])]
    if more.verdicts is not None:
        qml = qgis.verdicts_qml(fields(more.verdicts), side)
        groups.append(Group("Review", [_table(more.verdicts, draft, "verdicts", "Verdicts of reviewers", qml)]))
    if more.changes is not None:
        table = dated_changes(more.changes)
        qml = qgis.changes_qml(fields(table), side)
        layer = _table(table, draft, "changes", "Change between dates", qml, visible=False)
        groups.append(Group("Change", [layer]))
    run = []
    if more.area is not None:
        run.append(_table(more.area, draft, "area", "Area of interest", qgis.area_qml(), frames=True))
    if more.blocks is not None:
        qml = qgis.blocks_qml(fields(more.blocks))
        run.append(_table(more.blocks, draft, "blocks", "Blocks by status", qml, frames=True))
    groups.append(Group("Run", run))
    if more.counts is not None:
        qml = qgis.counts_qml(more.counts["sites"].tolist(), fields(more.counts))
        layer = _table(more.counts, draft, "counts", "Estimated number of sites", qml, visible=False)
        groups.append(Group("Counts by area", [layer]))
    return groups


def _sites(detections: gpd.GeoDataFrame, side: float) -> Layer:
    qml = qgis.detections_qml(["fid", *(c for c in detections.columns if c != "geometry")], side_m=side)
    calibrated = bool(len(detections)) and bool(detections["calibrated"].all())
    return Layer(
        name="Detections by confidence" if calibrated else "Detections by confidence (a score)",
        source=f"./detections.gpkg|layername={export.LAYER}",
        kind="vector",
        crs=detections.crs,
        style=inside_of(qml),
        points=_corners(detections),
        frames=True,
    )


def _table(
    table: gpd.GeoDataFrame,
    draft: Path,
    name: str,
    shown: str,
    qml: str,
    *,
    visible: bool = True,
    frames: bool = False,
) -> Layer:
    write_layer(table, draft / f"{name}.gpkg", name, qml, name)
    source = f"./{name}.gpkg|layername={name}"
    return Layer(shown, source, "vector", table.crs, inside_of(qml), _corners(table), visible=visible, frames=frames)


def _corners(table: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """Corners of what it holds, [n, 2] in its CRS."""
    boxes = shapely.bounds(table.geometry.to_numpy())
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    return np.concatenate([boxes[:, :2], boxes[:, 2:], boxes[:, [0, 3]], boxes[:, [2, 1]]])


def _rasters(draft: Path, scores: Rasters, scenes: Rasters) -> list[Group]:
    maps = [layer for path in _made(scores, draft / "scores") for layer in _score_layers(path)]
    return [Group("Scores", maps), Group("Imagery", [_scene(path) for path in _made(scenes, draft / "imagery")])]


def _made(rasters: Rasters, into: Path) -> list[Path]:
    """What a project names: copies of files; or what is made, which is one layer where it is much."""
    return _merged(rasters(into), into) if callable(rasters) else copy_rasters(rasters, into)


def _merged(paths: Sequence[Path], into: Path) -> list[Path]:
    """The rasters, or where they are many, one layer per CRS and kind."""
    if len(paths) <= MANY:
        return list(paths)
    alike: dict[tuple[Any, ...], list[Path]] = {}
    alone = []
    for path in paths:
        with opened(path) as file:
            key = (file.crs.to_wkt(), file.count, file.dtypes[0], round(abs(file.transform.a), 6))
            if file.transform.is_rectilinear and file.transform.e < 0 < file.transform.a:
                alike.setdefault(key, []).append(path)
            else:  # rotated: no part of a mosaic
                alone.append(path)
    mosaics = [write_mosaic(parts, into / f"all-{number}.vrt") for number, parts in enumerate(alike.values(), start=1)]
    return [*mosaics, *alone]


def _score_layers(path: Path) -> list[Layer]:
    """A layer for each class."""
    with opened(path) as file:
        names = [title or path.stem for title in file.descriptions]
        crs, points = file.crs, _raster_corners(file)
    return [
        Layer(
            name=f"Scores {path.stem}" if len(names) == 1 else f"Scores {name} {path.stem}",
            source=f"./{path.parent.name}/{path.name}",
            kind="raster",
            crs=crs,
            style=inside_of(qgis.scores_qml(band=band)),
            points=points,
            frames=True,
            part=band,
        )
        for band, name in enumerate(names, start=1)
    ]


def _scene(path: Path) -> Layer:
    with opened(path) as file:
        return Layer(
            name=path.stem,
            source=f"./{path.parent.name}/{path.name}",
            kind="raster",
            crs=file.crs,
            style=scene_style(file),
            points=_raster_corners(file),
            frames=True,
            in_legend=False,
        )


def _raster_corners(file: Any) -> NDArray[np.float64]:
    """Points along the edge of a raster, [n, 2] in its CRS."""
    steps = np.linspace(0, 1, 9)
    edge = [(x, y) for x in steps for y in (0, 1)] + [(x, y) for y in steps for x in (0, 1)]
    return np.array([file.transform @ (x * file.width, y * file.height) for x, y in edge])


# ---------------------------------------------------------------- the project


def _project_crs(detections: gpd.GeoDataFrame, groups: Sequence[Group]) -> pyproj.CRS:
    """The detections' own, if lengths are lengths in it; else one of equal area about the middle of everything.

    The latter holds for several UTM zones, and across the antimeridian.
    """
    own = pyproj.CRS.from_user_input(detections.crs)
    if own.is_projected:
        return own
    xyz = []
    for layer in (layer for group in groups for layer in group.layers if layer.frames and len(layer.points)):
        project = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(layer.crs), "OGC:CRS84", always_xy=True)
        lon, lat = np.radians(np.stack(project.transform(*layer.points.T)))
        here = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
        xyz.append(here[:, np.isfinite(here).all(axis=0)].mean(axis=1))
    x, y, z = np.mean(xyz, axis=0) if xyz else (1.0, 0.0, 0.0)
    lon, lat = round(float(np.degrees(np.arctan2(y, x))), 2), round(float(np.degrees(np.arctan2(z, np.hypot(x, y)))), 2)
    text = f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m +type=crs"
    named = pyproj.CRS.from_user_input(text).to_json_dict() | {"name": f"Equal area about {lat:g}, {lon:g}"}
    return pyproj.CRS.from_json_dict(named)


def _lines(detections: gpd.GeoDataFrame, provenance: Mapping[str, Any], more: Companions) -> list[str]:
    """The title block's second line."""
    dates = sorted(str(day) for day in detections["date"].dropna()) if len(detections) else []
    dates = dates or [str(provenance[key]) for key in ("first_date", "last_date") if provenance.get(key)]
    models = sorted(set(detections["model_id"])) if len(detections) else []
    calibrated = bool(len(detections)) and bool(detections["calibrated"].all())
    lines = [
        f"{len(detections):,} detections, shown from a confidence of [% round(100 * to_real(@min_confidence)) %] %",
        "confidence is calibrated" if calibrated else "confidence is a score, not a probability",
    ]
    if dates:
        lines.append(f"images of {dates[0]}" if dates[0] == dates[-1] else f"images {dates[0]} to {dates[-1]}")
    if models:
        lines.append("model " + ", ".join(models[:2]) + (" and others" if len(models) > 2 else ""))
    return [*lines, *more.facts]


def _themes(groups: Sequence[Group]) -> list[Theme]:
    """Choices of layers that QGIS offers under the eye."""
    by_group = {group.name: [layer.key for layer in group.layers] for group in groups}
    imagery, sites, run = by_group.get("Imagery", []), by_group["Sites"], by_group.get("Run", [])
    visible = [layer.key for group in groups for layer in group.layers if layer.visible]
    themes = [Theme("Overview", visible, "Map (A4)"), Theme("Detections", [*sites, *imagery])]
    for name, title, under, layout in (
        ("Review", "Review", sites, None),
        ("Change", "Change", [], "Change (A4)"),
        ("Scores", "Scores", [], None),
        ("Run", "Progress of the run", sites, None),
        ("Counts by area", "Counts", [key for key in run if "area" in key], "Counts (A4)"),
    ):
        if by_group.get(name):
            themes.append(Theme(title, [*by_group[name], *under, *imagery], layout))
    return [*themes, Theme("Everything", [key for keys in by_group.values() for key in keys])]


def _span(changes: gpd.GeoDataFrame | None) -> tuple[str, str] | None:
    """First and last day of a history."""
    if changes is None or not len(changes):
        return None
    names = [name for name in ("first_seen", "last_seen", "first_seen_after", "gone_by") if name in changes]
    days = sorted(str(pd.Timestamp(str(day)).date()) for name in names for day in changes[name].dropna())
    return days[0], days[-1]


def _readme(title: str, min_confidence: float, groups: Sequence[Group]) -> str:
    layers = "".join(f"  {group.name}: {', '.join(layer.name for layer in group.layers[:4])}\n" for group in groups)
    text = f"""{title}
{"=" * len(title)}

Open project.qgz with QGIS (3.22 or later). All files lie in this folder and are named relatively: move it,
rename it, zip it as a whole.

LAYERS
{layers}
SHOWING ONLY WHAT IS SURE
  Project > Properties > Variables > min_confidence (now {min_confidence:g}): detections below it are hidden on the map,
  in labels and in print. 0 shows all of them. Or untick grades in the legend of the layer.
  The eye above the list of layers offers choices: Overview, Detections, Scores, ...

CHANGE
  The layer "Change between dates" follows QGIS's temporal controller (the clock): each site shows from the day
  it was first seen until the day it was found absent.

PRINT
  Project > Layouts: Map (A4), and one for counts and change where there are some.

KEEP IT SAFE
  {STATEMENT}
  This folder holds precise places. Do not publish it; `geoslave release` makes what can be public.
"""
    return text if any(group.name == "Change" and group.layers for group in groups) else _without(text, "CHANGE")


def _without(text: str, section: str) -> str:
    return re.sub(rf"{section}\n(?:  .*\n)+\n", "", text)


def _write_qgz(path: Path, project: str) -> None:
    """The project zipped, as QGIS does; the same project gives the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo("project.qgs", (1980, 1, 1, 0, 0, 0))
        member.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(member, project)
