"""A whole evaluation: look at labelled scenes, or take a layer one has, and write figures and pictures.

It joins the rooms and holds no science of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoslave import charts
from geoslave.detect import Request, SceneResult, detect_scenes, scene_footprint
from geoslave.detections import pixels, qgis
from geoslave.detections.assess import (
    FALSE_ALARM,
    HIT,
    MISS,
    assess,
    outcomes,
    refuse_elsewhere,
    refuse_far,
    reliability_of,
    weights,
)
from geoslave.detections.evaluate import Comparison, compare
from geoslave.detections.ground import EDGE_M
from geoslave.detections.match import DUPLICATE_M, MAX_DISTANCE_M
from geoslave.detections.qgislayers import fields, write_layer
from geoslave.errors import GeoslaveError, OutputError
from geoslave.files import atomic_file, refuse_existing, scratch_folder
from geoslave.imagery.aoi import read_aoi
from geoslave.imagery.contact import SIDE, Group, Thumbnail, contact_sheet
from geoslave.imagery.geotiff import Reading, gdal_environment, open_scene
from geoslave.imagery.preview import Colour, Layer, draw_place
from geoslave.imagery.raster import SCORE_STEPS
from geoslave.imagery.scenefolder import SceneOnDisk
from geoslave.imagery.scoremosaic import merged_scores, unseen
from geoslave.model.package import ModelPackage
from geoslave.model.predict import Network
from geoslave.targets import Target

FILES = ("evaluation.json", "precision-recall.png", "reliability.png", "contact-sheet.png", "errors.gpkg")
"""What an evaluation leaves in its folder; the contact sheet only where there are scenes."""
MOST_SHOWN = 10
"""Thumbnails in each group of the contact sheet."""
_FEW_SCENES = 20  # so many are groups of their own

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Searched:
    """A layer of detections and what it was found in."""

    detections: gpd.GeoDataFrame
    footprints: gpd.GeoDataFrame
    """In longitude/latitude, one row a scene (columns `scene_id`, `group`) or area."""
    scenes: tuple[SceneOnDisk, ...]
    """In the order of `footprints`; none for a layer without scenes."""
    reading: Reading
    name: str
    """Of the model or the layer."""
    rules: Mapping[str, float] = field(default_factory=dict)
    """What makes a hit, a duplicate and a margin (`rules_for`)."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found."""

    comparison: Comparison
    facts: dict[str, Any]
    searched: Searched


def evaluate_model(
    package: ModelPackage,
    network: Network,
    scenes: Sequence[SceneOnDisk],
    labels: gpd.GeoDataFrame,
    min_confidence: float,
    request: Request,
    *,
    by: Sequence[str] = (),
    beside: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Report:
    """Run a model over labelled scenes and compare; pixels are those of the score maps.

    Args:
        beside: an output; score maps go into a hidden folder next to it while they are needed. None:
            the system's folder for temporary files.

    Raises:
        GeoslaveError: if a scene cannot be used, or no label lies in any.
    """
    reading = request.reading(package.spec)
    refuse_far(labels, _boxes(scenes, reading))
    with scratch_folder(beside or Path(gettempdir()) / "geoslave") as work:
        found, results = detect_scenes(
            [scene.path for scene in scenes],
            package,
            network,
            request=request,
            beside=work / "blocks",
            scores=work / "scores",
            progress=progress,
        )
        maps = sorted((work / "scores").glob("*.tif"))
        named, footprints = looked_at(scenes, results, work / "scores")
        rules = rules_for(package.spec.sought)
        searched = Searched(found, footprints, named, reading, package.spec.name, rules)
        comparison, facts = _compared(searched, labels, min_confidence, by)
        low = max(1, round(min(package.spec.thresholds.low, package.spec.thresholds.high) * SCORE_STEPS))
        if request.threshold is not None:
            low = min(low, round(request.threshold * SCORE_STEPS))
        facts["pixel"] = pixels.by_pixel(merged_scores(maps), labels, comparison.ground, low, weights(comparison))
    return Report(comparison, {"model_id": package.model_id, "n_scenes": len(scenes), **facts}, searched)


def evaluate_layer(
    detections: gpd.GeoDataFrame,
    name: str,
    area: gpd.GeoSeries,
    labels: gpd.GeoDataFrame,
    min_confidence: float,
    *,
    by: Sequence[str] = (),
    scenes: Sequence[SceneOnDisk] = (),
    reading: Reading | None = None,
    target: Target | None = None,
) -> Report:
    """Compare a layer one has; pixels are the areas of its outlines.

    Args:
        area: the polygons that were searched.
        target: what the sites are; None: as large as brick kilns.
        scenes: for the pictures alone.

    Raises:
        GeoslaveError: if no label lies in the area.
    """
    reading = reading or Reading()
    columns = {"scene_id": [""] * len(area), "group": ["area"] * len(area)}
    table = gpd.GeoDataFrame(columns, geometry=area.to_numpy(), crs=area.crs)
    rules = {} if target is None else rules_for(target)
    searched = Searched(detections, table, tuple(scenes), reading, name, rules)
    comparison, facts = _compared(searched, labels, min_confidence, by)
    shown = comparison.found[comparison.shown]
    facts["pixel"] = pixels.by_outline(shown, labels, comparison.ground, weights(comparison))
    return Report(comparison, {"model_id": _only(detections, "model_id"), "n_scenes": None, **facts}, searched)


def rules_for(target: Target) -> dict[str, float]:
    """Distances of `compare` that suit a target: those for kilns, less where sites are smaller or stand closer."""
    return {
        "duplicate_m": min(DUPLICATE_M, target.merge_distance_m),
        "max_distance_m": min(MAX_DISTANCE_M, target.merge_distance_m),
        "edge_m": min(EDGE_M, target.typical_m[0]),
    }


def read_area(path: Path) -> gpd.GeoSeries:
    """The polygons that were searched.

    Raises:
        GeoslaveError: that speaks of --area.
    """
    try:
        return read_aoi(path)
    except GeoslaveError as error:
        raise GeoslaveError(str(error).replace("--aoi", "--area")) from None


def check_folder(folder: Path, overwrite: bool) -> None:
    """Make sure, before hours of work, that a report can be written.

    Raises:
        OutputError: if the folder is a file, cannot be written to, or holds a report already.
        MissingExtra: without matplotlib.
    """
    charts.require()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: give a folder to --out")
    for name in FILES:
        refuse_existing(folder / name, overwrite)


def write_report(report: Report, folder: Path, overwrite: bool = False) -> list[Path]:
    """Write figures, charts, the contact sheet and the layer of errors; the figures last.

    Raises:
        OutputError: if a file is there already, or cannot be written.
    """
    c, facts = report.comparison, report.facts
    title = f"{report.searched.name}: {{}}"
    counted = f"{facts['n_sites']} sites, {facts['n_detections']} detections on {facts['counted_area_km2']:,.0f} km²"
    charts.draw_precision_recall(
        folder / "precision-recall.png",
        {report.searched.name: _curve(facts)},
        _operating(facts),
        title.format("precision and recall"),
        subtitle=f"by object; {counted}",
        overwrite=overwrite,
    )
    reliable = reliability_of(c)
    charts.draw_reliability(
        folder / "reliability.png",
        {report.searched.name: reliable.bins},
        title.format("is the confidence reliable?"),
        subtitle=_reliability_words(reliable.ece, reliable.ece_low, reliable.ece_high, reliable.n),
        overwrite=overwrite,
    )
    errors = outcomes(c)
    written = ["precision-recall.png", "reliability.png"]
    if report.searched.scenes:
        errors = _draw_sheet(report, errors, folder / "contact-sheet.png", overwrite)
        written.append("contact-sheet.png")
    _write_errors(errors, folder / "errors.gpkg", overwrite)
    with atomic_file(folder / "evaluation.json", overwrite=overwrite) as draft:
        draft.write_text(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return [folder / name for name in (*written, "errors.gpkg", "evaluation.json")]


# ---------------------------------------------------------------- figures


def _compared(
    searched: Searched, labels: gpd.GeoDataFrame, min_confidence: float, by: Sequence[str]
) -> tuple[Comparison, dict[str, Any]]:
    comparison = compare(searched.detections, labels, searched.footprints, min_confidence, **searched.rules)
    refuse_elsewhere(comparison)
    names = searched.footprints["group"].unique()
    grouped = len(names) > 1 and (len(names) <= _FEW_SCENES or len(names) < len(searched.footprints))
    return comparison, assess(comparison, by, searched.footprints if grouped else None)


def looked_at(
    scenes: Sequence[SceneOnDisk], results: Sequence[SceneResult], scores: Path
) -> tuple[tuple[SceneOnDisk, ...], gpd.GeoDataFrame]:
    """Scenes with a valid pixel, and where they have them: what the model could not see was not searched."""
    named, outlines = [], []
    for scene, result in zip(scenes, results, strict=True):
        score_map = scores / f"{result.scene_id}-scores.tif"
        if not score_map.is_file():
            continue
        outline = shapely.difference(result.footprint, unseen(score_map))
        if not outline.is_empty:
            named.append(replace(scene, scene_id=result.scene_id))
            outlines.append(outline)
    columns = {"scene_id": [scene.scene_id for scene in named], "group": [scene.group for scene in named]}
    return tuple(named), gpd.GeoDataFrame(columns, geometry=outlines, crs=4326)


def _only(table: gpd.GeoDataFrame, column: str) -> str | None:
    """The one value of a column, if there is one."""
    values = set(table[column].dropna()) if column in table else set()
    return str(values.pop()) if len(values) == 1 else None


def _curve(facts: dict[str, Any]) -> charts.Curve:
    points, band = facts["curve"], facts["precision_band"]
    return charts.Curve(
        [p["recall"] for p in points],
        [p["precision"] for p in points],
        band["recall"] if band else (),
        band["precision_low"] if band else (),
        band["precision_high"] if band else (),
        f"average precision {_with_interval(facts, 'average_precision')}",
    )


def _operating(facts: dict[str, Any]) -> charts.OperatingPoint | None:
    if facts["precision"] is None or facts["recall"] is None:
        return None

    def interval(name: str) -> tuple[float, float] | None:
        low, high = facts[f"{name}_low"], facts[f"{name}_high"]
        return None if low is None or high is None else (low, high)

    return charts.OperatingPoint(
        facts["min_confidence"], facts["recall"], facts["precision"], interval("recall"), interval("precision")
    )


def _with_interval(facts: dict[str, Any], name: str) -> str:
    value, low, high = (facts[name + end] for end in ("", "_low", "_high"))
    if value is None:
        return "not defined"
    return f"{value:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def _reliability_words(ece: float | None, low: float | None, high: float | None, n: int) -> str:
    if ece is None:
        return "no detection to judge it by"
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"expected calibration error {ece:.2f}{interval}, {n} detections of all confidences"


# ---------------------------------------------------------------- errors and pictures


def _write_errors(errors: gpd.GeoDataFrame, path: Path, overwrite: bool) -> None:
    """The layer of objects as a GeoPackage that opens in QGIS with its style."""
    with atomic_file(path, overwrite=overwrite) as draft:
        write_layer(errors, draft, "errors", qgis.errors_qml(fields(errors)), "hits, misses, false alarms")


def _draw_sheet(report: Report, errors: gpd.GeoDataFrame, path: Path, overwrite: bool) -> gpd.GeoDataFrame:
    """Draw the contact sheet; returns the errors with the names that thumbnails have on it."""
    chosen = {kind: _chosen(errors, kind) for kind in (HIT, MISS, FALSE_ALARM)}
    names = pd.Series(None, errors.index, dtype=object)
    groups = []
    for kind, (letter, title, note, colour) in _GROUPS.items():
        rows = chosen[kind]
        names[rows] = [f"{letter}{k}" for k in range(1, len(rows) + 1)]
        n = int((errors["outcome"] == kind).sum())
        shown = "" if len(rows) == n else f"{len(rows)} of {n} shown, "
        thumbnails = _thumbnails(report, errors, rows, names)
        groups.append(Group(f"{title} ({n})", f"{shown}{note}" if n else "", colour, thumbnails))
    facts = report.facts
    page = contact_sheet(
        groups,
        f"{report.searched.name}: hits, misses and false alarms",
        f"at a confidence of {facts['min_confidence']:.2f}; {facts['n_sites']} labelled sites on "
        f"{facts['counted_area_km2']:,.0f} km2. A detection is an indicator, never evidence of a crime.",
        (("detections", "detection"), ("truth", "label")),
    )
    with atomic_file(path, overwrite=overwrite) as draft:
        page.save(draft, "PNG", optimize=True)
    return errors.assign(contact_sheet=names)


_GROUPS: dict[str, tuple[str, str, str, Colour]] = {
    HIT: ("H", "Hits", "from the surest to the least sure", qgis.OUTCOMES[HIT]),
    MISS: ("M", "Misses", "those the model saw least of first", qgis.OUTCOMES[MISS]),
    FALSE_ALARM: (
        "A",
        "False alarms",
        "the surest first; some may be sites nobody labelled",
        qgis.OUTCOMES[FALSE_ALARM],
    ),
}


def _chosen(errors: gpd.GeoDataFrame, kind: str) -> list[int]:
    """Rows to show: errors that weigh most first, hits spread over all confidences."""
    mine = errors[errors["outcome"] == kind]
    if kind == MISS:
        order = mine.assign(weaker=mine["confidence"].fillna(-1)).sort_values(
            ["weaker", "area_m2"], ascending=[True, False], kind="stable"
        )
        return list(order.index[:MOST_SHOWN])
    order = mine.sort_values("confidence", ascending=False, kind="stable")
    if kind == HIT and len(order) > MOST_SHOWN:
        order = order.iloc[np.linspace(0, len(order) - 1, MOST_SHOWN).round().astype(int)]
    return list(order.index[:MOST_SHOWN])


def _thumbnails(report: Report, errors: gpd.GeoDataFrame, rows: list[int], names: pd.Series) -> tuple[Thumbnail, ...]:
    c, searched = report.comparison, report.searched
    layers = (
        Layer.detections(c.detections[c.shown]),
        Layer.truth(gpd.GeoDataFrame(geometry=c.labelled, crs=4326)),
    )
    across = _across(c)
    made = []
    with gdal_environment():
        outlines = _scene_outlines(searched)
        for row in rows:
            point = errors.geometry[row].representative_point()
            number = _best_scene(searched, outlines, point, errors.get("scene_id", pd.Series(dtype=object)).get(row))
            picture = _picture(searched, number, (point.x, point.y), across, layers)
            caption, detail = _captions(errors.loc[row])
            made.append(Thumbnail(picture, names[row], caption, detail))
    return tuple(made)


def _across(c: Comparison) -> float:
    """Metres across a thumbnail: about six typical sites, so that their surroundings show."""
    sizes = shapely.minimum_bounding_radius(gpd.GeoSeries(c.labelled, crs=4326).to_crs(c.sites.estimate_utm_crs()))
    return float(np.clip(12 * np.median(sizes), 60, 5_000))


def _scene_outlines(searched: Searched) -> NDArray[np.object_]:
    """Outlines of the scenes in longitude/latitude."""
    if list(searched.footprints["scene_id"]) == [scene.scene_id for scene in searched.scenes]:
        return np.asarray(searched.footprints.geometry.array, dtype=object)
    return np.asarray(_boxes(searched.scenes, searched.reading).array, dtype=object)


def _boxes(scenes: Sequence[SceneOnDisk], reading: Reading) -> gpd.GeoSeries:
    """Where scenes lie, in longitude/latitude, without looking at their pixels."""
    boxes = []
    with gdal_environment():
        for scene in scenes:
            with open_scene(scene.path, reading) as file:
                boxes.append(scene_footprint(file))
    return gpd.GeoSeries(boxes, crs=4326)


def _best_scene(searched: Searched, outlines: NDArray[np.object_], point: shapely.Point, scene_id: Any) -> int:
    """The scene a detection was seen in, else the one in which the place is farthest from the edge."""
    for number, scene in enumerate(searched.scenes):
        if scene.scene_id == scene_id:
            return number
    inside = shapely.distance(shapely.boundary(outlines), point)
    inside[~shapely.contains(outlines, point)] *= -1
    return int(np.argmax(inside))


def _picture(
    searched: Searched, number: int, centre: tuple[float, float], across_m: float, layers: tuple[Layer, ...]
) -> Any:
    with open_scene(searched.scenes[number].path, searched.reading) as scene:
        names = list(scene.bands)
        colour = all(band in names for band in ("red", "green", "blue"))
        bands = [names.index(band) for band in ("red", "green", "blue")] if colour else None
        return draw_place(scene, scene.overview(512), centre, across_m, layers, bands, SIDE)


def _captions(row: pd.Series) -> tuple[str, str]:
    """What stands under a thumbnail: a line, and a smaller one."""
    if row["outcome"] == MISS:
        seen = "nothing seen" if pd.isna(row["confidence"]) else f"below, at {row['confidence']:.2f}"
        return seen, " · ".join(str(row[k]) for k in ("class_name", "region") if k in row and pd.notna(row[k]))
    caption = f"confidence {row['confidence']:.2f}"
    if row["outcome"] == HIT:
        away = f"{row['distance_m']:.0f} m from" if row["distance_m"] >= 0.5 else "middle inside"
        return caption, f"IoU {row['iou']:.2f}, {away} the label"
    return caption, str(row.get("scene_id") or "")
