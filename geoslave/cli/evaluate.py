"""`geoslave evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import (
    PATH,
    SHARE,
    answer,
    example,
    json_option,
    note,
    overwrite_option,
    progress,
    scene_options,
    warnings_told,
)

if TYPE_CHECKING:
    import geopandas as gpd

    from geoslave.evaluation import Report
    from geoslave.targets import Target

LAYER_CONFIDENCE = 0.5
"""The operating point of a layer that no model speaks for."""


@click.command(
    "evaluate",
    epilog=example(
        "geoslave evaluate kiln-s2 --scenes chips/ --labels kilns.geojson --by region --out report/",
        "geoslave evaluate --detections kilns.gpkg --area searched.geojson --labels known.geojson",
    ),
)
@click.argument("model", required=False)
@click.option("--scenes", type=PATH, help="A scene or a folder of scenes, all labelled; subfolders are groups.")
@click.option("--labels", type=PATH, required=True, help="The known sites; none missing where was searched.")
@click.option("--detections", type=PATH, help="A layer to evaluate in place of a model.")
@click.option("--area", type=PATH, help="With --detections: polygons that were searched, all of them labelled.")
@click.option("--by", multiple=True, metavar="COLUMN", help="Figures for each value of a labels' column, e.g. region.")
@click.option("--min-confidence", type=SHARE, help="Operating point. [default: the model's; 0.5 for a layer]")
@click.option("--out", type=PATH, help="A folder for figures, charts, a contact sheet and a layer of errors.")
@click.option("--target", metavar="NAME", help="What the labels are, where they are points. [default: the model's]")
@scene_options
@click.option("--threads", type=click.IntRange(1), help="Processor threads. [default: all cores]")
@overwrite_option
@json_option
def command(
    model: str | None,
    scenes: Path | None,
    labels: Path,
    detections: Path | None,
    area: Path | None,
    by: tuple[str, ...],
    min_confidence: float | None,
    out: Path | None,
    target: str | None,
    bands: dict[str, int] | None,
    crs: str | None,
    nodata: Any,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure MODEL, or a layer of detections, against labelled sites.

    A hit: the detection's representative point within 50 m of a labelled site, or an IoU of at least 0.1;
    each site is claimed once. Overlapping scenes are merged, sites labelled twice within 35 m count
    once, and what lies within 50 m of a scene's edge is ignored. Intervals are 95 %, from a bootstrap
    over spatial blocks.
    """
    from geoslave.detect import Request
    from geoslave.evaluation import check_folder, write_report

    _check_usage(model, scenes, detections, area)
    if out is not None:
        check_folder(out, overwrite)
    request = Request(numbers=bands, crs=crs, nodata=None if nodata == "none" else nodata, trust_all=nodata == "none")
    with progress(as_json) as step:
        if model is not None and scenes is not None:
            report = _of_model(model, scenes, labels, min_confidence, by, request, threads, target, out, step)
        else:
            assert detections is not None and area is not None  # usage was checked
            report = _of_layer(detections, area, scenes, labels, min_confidence, by, request, target)
    facts = report.facts
    if out is not None:
        written = write_report(report, out, overwrite)
        facts = {**facts, "out": str(out), "files": [path.name for path in written]}
    answer(as_json, facts, _lines(facts))


def _check_usage(model: str | None, scenes: Path | None, detections: Path | None, area: Path | None) -> None:
    if (model is None) == (detections is None):
        raise click.UsageError("give either a MODEL with --scenes, or --detections with --area")
    if model is not None and scenes is None:
        raise click.UsageError("MODEL needs --scenes: the folder of labelled scenes to look at")
    if model is not None and area is not None:
        raise click.UsageError("--area goes with --detections; a MODEL searches the whole of its --scenes")
    if detections is not None and area is None:
        raise click.UsageError("--detections needs --area: without what was searched, a false alarm rate means nothing")


def _of_model(
    model: str,
    scenes: Path,
    labels: Path,
    min_confidence: float | None,
    by: tuple[str, ...],
    request: Any,
    threads: int | None,
    target: str | None,
    out: Path | None,
    step: Any,
) -> Report:
    from geoslave.evaluation import evaluate_model
    from geoslave.imagery.scenefolder import find_scenes
    from geoslave.model.package import open_package
    from geoslave.model.predict import load_network
    from geoslave.targets import get_target

    package = open_package(model)
    sites = _labels(labels, get_target(target) if target else package.spec.sought, by)
    found = find_scenes(scenes)
    operating = package.spec.confidence.operating if min_confidence is None else min_confidence
    network = load_network(package, "onnx", threads)
    return evaluate_model(package, network, found, sites, operating, request, by=by, beside=out, progress=step)


def _of_layer(
    detections: Path,
    area: Path,
    scenes: Path | None,
    labels: Path,
    min_confidence: float | None,
    by: tuple[str, ...],
    request: Any,
    target: str | None,
) -> Report:
    from geoslave.evaluation import evaluate_layer, read_area
    from geoslave.imagery.geotiff import Reading
    from geoslave.imagery.scenefolder import find_scenes
    from geoslave.targets import get_target

    layer, meant = _layer(detections, target)
    sought = None if meant is None else get_target(meant)
    sites = _labels(labels, sought, by)
    operating = LAYER_CONFIDENCE if min_confidence is None else min_confidence
    reading = Reading(None, request.numbers, None, request.crs, request.nodata, request.trust_all)
    shown = () if scenes is None else find_scenes(scenes)
    return evaluate_layer(
        layer,
        detections.stem,
        read_area(area),
        sites,
        operating,
        by=by,
        scenes=shown,
        reading=reading,
        target=sought,
    )


def _labels(path: Path, target: Target | None, by: tuple[str, ...]) -> gpd.GeoDataFrame:
    """The labels; a column that is not there is told before hours of work."""
    from geoslave.detections.breakdown import column_of
    from geoslave.labels.formats import read_labels

    with warnings_told():
        sites = read_labels(path, target=target)
    for column in by:
        column_of(sites, column)
    return sites


def _layer(path: Path, target: str | None) -> tuple[gpd.GeoDataFrame, str | None]:
    """A layer of detections and what it was made to find; any layer of outlines will do."""
    from geoslave.detections.export import read_detections, read_provenance
    from geoslave.errors import GeoslaveError
    from geoslave.labels.formats import read_labels
    from geoslave.targets import get_target

    try:
        return read_detections(path), target or read_provenance(path).get("target")
    except GeoslaveError:
        with warnings_told():
            layer = read_labels(path, target=None if target is None else get_target(target))
    if "confidence" not in layer:
        note(f"{path.name} has no column 'confidence': every detection counts alike, average precision says little")
        return layer.assign(confidence=1.0), target
    return _with_confidence(layer, path), target


def _with_confidence(layer: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    import pandas as pd

    from geoslave.errors import GeoslaveError

    confidence = pd.to_numeric(layer["confidence"], errors="coerce").astype(float)
    if not confidence.between(0, 1).all():
        raise GeoslaveError(f"{path}: column 'confidence' must hold numbers between 0 and 1 in every row: mend it")
    return layer.assign(confidence=confidence)


# ---------------------------------------------------------------- what is printed


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [
        *rate_lines(facts),
        *_by_lines(facts["by"]),
        "  95 % intervals from a bootstrap over spatial blocks",
    ]
    if "files" in facts:
        lines.append(f"  {', '.join(facts['files'])}  ->  {facts['out']}")
    return lines


def rate_lines(facts: dict[str, Any]) -> list[str]:
    """Every figure of an evaluation with its interval, the whole first."""
    pixel, tile = facts["pixel"], facts["tile"]
    return [
        f"{facts['n_hits']} of {facts['n_sites']} sites found, {facts['n_false_alarms']} false alarms, "
        f"on {facts['counted_area_km2']:,.1f} km2, at a confidence of {facts['min_confidence']:.2f}",
        _rate("precision", facts, "precision"),
        _rate("recall", facts, "recall"),
        _rate("F1", facts, "f1"),
        _rate("average precision", facts, "average_precision"),
        _rate("false alarms per 100 km2", facts, "false_alarms_per_100km2", 1),
        _rate("count error (relative)", facts["count"], "relative_error"),
        _rate("calibration error (ECE)", facts["reliability"], "ece"),
        _rate(f"pixels: IoU ({pixel['of']})", pixel, "iou"),
        _rate("tiles: sensitivity", tile, "sensitivity"),
        _rate("tiles: specificity", tile, "specificity"),
    ]


def _rate(title: str, facts: dict[str, Any], name: str, digits: int = 3) -> str:
    return f"  {title:<28} {shown(facts, name, digits)}"


def shown(facts: dict[str, Any], name: str, digits: int) -> str:
    """A figure with its interval."""
    value, low, high = (facts[name + end] for end in ("", "_low", "_high"))
    if value is None:
        return "not defined here"
    interval = "" if low is None or high is None else f"  [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"


def _by_lines(parts: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """A small table for each way of taking the sites apart into more than one."""
    lines = []
    for name, groups in parts.items():
        if len(groups) < 2:
            continue
        lines += ["", f"  {'by ' + name:<22} {'sites':>5}  {'recall':<20} precision"]
        for group, facts in groups.items():
            precision = shown(facts, "precision", 2) if facts.get("precision") is not None else "-"
            recall = shown(facts, "recall", 2) if facts["recall"] is not None else "-"
            lines.append(f"  {group[:22]:<22} {facts['n_sites']:>5}  {recall:<20} {precision}")
    return [*lines, ""] if lines else []
