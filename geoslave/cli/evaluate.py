"""`geoslave evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, progress, scene_options, warnings_told

if TYPE_CHECKING:
    from geoslave.detections.evaluate import Evaluation

RASTERS = (".tif", ".tiff", ".vrt", ".jp2")


@click.command("evaluate", epilog=example("geoslave evaluate kiln-s2 --scenes chips/ --labels kilns.geojson --json"))
@click.argument("model")
@click.option("--scenes", type=PATH, required=True, help="A folder of scenes, all of them labelled.")
@click.option("--labels", type=PATH, required=True, help="The known sites; none missing in these scenes.")
@click.option("--min-confidence", type=SHARE, help="Operating point. [default: the model's]")
@scene_options
@click.option("--threads", type=click.IntRange(1), help="Processor threads. [default: all cores]")
@json_option
def command(
    model: str,
    scenes: Path,
    labels: Path,
    min_confidence: float | None,
    bands: dict[str, int] | None,
    crs: str | None,
    nodata: Any,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure MODEL against labelled sites, by object.

    A hit: the detection's representative point within 50 m of a labelled site, or an IoU of at least 0.1;
    each site is claimed once. Overlapping scenes are merged, sites labelled twice within 35 m count
    once, and what lies within 50 m of a scene's edge is ignored. Intervals are 95 %, from a bootstrap
    over spatial blocks.
    """
    import geopandas as gpd

    from geoslave.detect import Request, detect_scenes
    from geoslave.detections.evaluate import evaluate
    from geoslave.labels.formats import read_labels
    from geoslave.model.package import open_package
    from geoslave.model.predict import load_network
    from geoslave.targets import get_target

    package = open_package(model)
    with warnings_told():
        sites = read_labels(labels, target=get_target(package.spec.target))
    paths = _rasters(scenes)
    request = Request(numbers=bands, crs=crs, nodata=None if nodata == "none" else nodata, trust_all=nodata == "none")
    operating = package.spec.confidence.operating if min_confidence is None else min_confidence
    with progress(as_json) as step:
        network = load_network(package, "onnx", threads)
        found, results = detect_scenes(paths, package, network, request=request, progress=step)
        footprints = gpd.GeoSeries([result.footprint for result in results], crs="EPSG:4326")
        measured = evaluate(found, sites, footprints, operating)
    facts = {"model_id": package.model_id, "n_scenes": len(results), **measured.to_dict()}
    answer(as_json, facts, _lines(measured))


def _rasters(folder: Path) -> list[str]:
    from geoslave.errors import SceneError

    if not folder.is_dir():
        raise SceneError(f"{folder} is no folder: give the folder that holds the labelled scenes")
    if (folder / "index.parquet").is_file() and (folder / "chips").is_dir():
        folder = folder / "chips"  # what `geoslave chip` leaves
    paths = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in RASTERS)
    if not paths:
        raise SceneError(f"{folder} holds no raster ({', '.join(RASTERS)}): give the folder that holds the scenes")
    return paths


def _lines(measured: Evaluation) -> list[str]:
    def rate(title: str, name: str, digits: int = 3) -> str:
        value, low, high = (getattr(measured, name + end) for end in ("", "_low", "_high"))
        if value is None:
            return f"  {title:<28} not defined here"
        interval = "" if low is None or high is None else f"  [{low:.{digits}f}, {high:.{digits}f}]"
        return f"  {title:<28} {value:.{digits}f}{interval}"

    return [
        f"{measured.n_hits} of {measured.n_sites} sites found, {measured.n_false_alarms} false alarms, "
        f"on {measured.counted_area_km2:,.1f} km2, at a confidence of {measured.min_confidence:.2f}",
        rate("precision", "precision"),
        rate("recall", "recall"),
        rate("F1", "f1"),
        rate("average precision", "average_precision"),
        rate("false alarms per 100 km2", "false_alarms_per_100km2", 1),
        "  95 % intervals from a bootstrap over spatial blocks",
    ]
