"""The demo: a scene with known truth goes down the main path."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geoslave.detect import Request, SceneResult, detect_scene, provenance
from geoslave.detections.change import match_optimally
from geoslave.detections.evaluate import Evaluation, evaluate
from geoslave.detections.export import filter_detections, read_provenance, write_detections, write_scores_style
from geoslave.errors import OutputError
from geoslave.estimate.count import count_by, count_sites
from geoslave.estimate.rates import detector_rates
from geoslave.estimate.record import Input, count_record, write_record
from geoslave.estimate.record import origin as from_files
from geoslave.estimate.result import Estimate
from geoslave.estimate.reviewed import take_sample
from geoslave.files import scratch_folder
from geoslave.imagery.geotiff import open_scene, write_geotiff
from geoslave.imagery.preview import Layer, draw_scene, save_png
from geoslave.labels.chips import cut_chips
from geoslave.labels.synthetic import RenderedScene, render_scene
from geoslave.model.package import ModelPackage, open_package
from geoslave.model.predict import load_network
from geoslave.release.folder import today
from geoslave.release.report import Cover, Ground, write_report

Progress = Callable[[str, int, int], None]
FILES = (
    "scene.tif",
    "truth.geojson",
    "chips",
    "scores.tif",
    "detections.gpkg",
    "detections.geojson",
    "demo.png",
    "frame.csv",
    "reviews.csv",
    "count.json",
    "report.html",
)
TILE = 100
"""Pixels along a tile of the frame that is counted: 1 km."""
AUDIT = 60
"""Tiles without a detection that are looked at."""
REVIEWERS = (
    "SYNTHETIC: a rendered landscape, not a real place. The known truth of the rendering plays the reviewers, who "
    "therefore never err."
)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo found."""

    folder: Path
    evaluation: Evaluation
    model_id: str
    title: str
    count: Estimate
    """Kilns, as a sample of reviewed tiles tells."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "out": str(self.folder),
            "synthetic": True,
            "model_id": self.model_id,
            "files": list(FILES),
            **self.evaluation.to_dict(),
            "count": self.count.to_dict(),
        }


def run_demo(out: Path, *, seed: int, size: int, model: str, overwrite: bool, progress: Progress) -> DemoResult:
    """Render a scene, look for kilns in it and leave everything in a folder: all of it, or nothing.

    Raises:
        OutputError: if the folder is there already and `overwrite` is false, or holds other things.
    """
    _check_folder(out, overwrite)
    out = out.resolve()
    package = open_package(model)
    with scratch_folder(out) as scratch:
        draft = scratch / "demo"
        draft.mkdir()
        progress("rendering the scene", 0, 1)
        scene = render_demo_scene(draft, seed=seed, size=size)
        progress("rendering the scene", 1, 1)
        with open_scene(draft / "scene.tif") as source:
            cut_chips(source, draft / "chips", labels=scene.sites, scene_id="scene", band_names=source.bands)
        result = _detect(draft, package, progress)
        measured = _measure(scene, result, package)
        _draw(draft, scene, result, package)
        counted = _count(draft, scene, result, package, seed)
        if out.exists():
            out.replace(scratch / "replaced")
        draft.replace(out)
    return DemoResult(out, measured, package.model_id, package.spec.title, counted)


def render_demo_scene(folder: Path, *, seed: int, size: int) -> RenderedScene:
    """Render a scene of `size` pixels a side and write it, with its truth, into a folder that is there."""
    scene = render_scene(seed, (size, size))
    write_geotiff(scene.raster, folder / "scene.tif", ("red", "green", "blue"))
    scene.sites.to_crs("EPSG:4326").to_file(folder / "truth.geojson", driver="GeoJSON")
    return scene


def _check_folder(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir() or not {path.name for path in out.iterdir()} <= {*FILES, "detections.qml", "scores.qml"}:
        raise OutputError(f"{out} exists and holds other things than a demo: choose another --out")
    if not overwrite:
        raise OutputError(f"{out} exists: choose another --out, or ask for --overwrite")


def _detect(draft: Path, package: ModelPackage, progress: Progress) -> SceneResult:
    result = detect_scene(
        draft / "scene.tif",
        package,
        load_network(package, "onnx"),
        draft,
        scores=draft / "scores.tif",
        progress=progress,
    )
    origin = provenance(package, [result], Request(), synthetic=True)
    shown = filter_detections(result.detections, package.spec.confidence.operating)
    write_detections(result.detections, draft / "detections.gpkg", provenance=origin)
    write_detections(shown, draft / "detections.geojson", provenance=origin)
    write_scores_style(draft / "scores.tif")
    return result


def _measure(scene: RenderedScene, result: SceneResult, package: ModelPackage) -> Evaluation:
    footprint = gpd.GeoSeries([result.footprint], crs="EPSG:4326")
    return evaluate(result.detections, scene.sites, footprint, package.spec.confidence.operating)


def _draw(draft: Path, scene: RenderedScene, result: SceneResult, package: ModelPackage) -> None:
    shown = filter_detections(result.detections, package.spec.confidence.operating)
    picture = draw_scene(
        scene.raster,
        [Layer(shown, "detected"), Layer(scene.sites, "kilns (known truth)", "truth")],
        title="Brick kilns in a synthetic scene",
        subtitle=f"rendered by geoslave, looked at by {package.model_id}",
        notices=(
            "SYNTHETIC: a rendered landscape, not a real place.",
            "A detection is an indicator of a kind of site, never evidence of a crime.",
        ),
        insets=6,
    )
    save_png(picture, draft / "demo.png")


def _count(draft: Path, scene: RenderedScene, result: SceneResult, package: ModelPackage, seed: int) -> Estimate:
    """Count kilns as one would in earnest: review every flagged tile and an audit of the others; report it."""
    shown = filter_detections(result.detections, package.spec.confidence.operating)
    frame, truth = _tiles(scene, shown)
    frame.to_csv(draft / "frame.csv", index=False)
    reviews = _reviewed(frame, truth, seed)
    reviews.to_csv(draft / "reviews.csv", index=False)
    total = count_sites(frame, reviews)
    rates = detector_rates(frame, reviews)
    origin = read_provenance(draft / "detections.geojson")
    inputs = [Input("frame", draft / "frame.csv", {"synthetic": True}), Input("reviews", draft / "reviews.csv")]
    told = from_files(inputs, method=total.method, level=total.level, seed=seed, n_reviewed=total.n_reviewed)
    record = count_record(
        total, {"stratum": count_by(frame, reviews, "stratum")}, rates, take_sample(frame, reviews)[1], told
    )
    write_record(draft / "count.json", record)
    cover = Cover("Brick kilns in a synthetic scene", f"the demo of geoslave, seed {seed}", (), REVIEWERS, today())
    write_report(draft / "report.html", [record], cover, Ground(shown, origin, precise=True))
    return total


def _tiles(scene: RenderedScene, shown: gpd.GeoDataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame, a row a tile of 1 km; and the sites in each, and how many of them were found.

    A site that was found belongs to the tile of its detection: one that lies on an edge is in one tile only.
    """
    geobox = scene.raster.geobox
    seen, known = shown.to_crs(geobox.crs), scene.sites.to_crs(geobox.crs)
    wgs84 = [table.to_crs(4326).geometry.to_numpy() for table in (seen, known)]
    pairs = match_optimally(*wgs84)
    of_seen, of_known = (_tile_of(table, geobox) for table in (seen, known))
    of_known[pairs.b] = of_seen[pairs.a]
    rows, columns = (math.ceil(side / TILE) for side in geobox.shape)
    ids = [f"r{row:03d}c{column:03d}" for row in range(rows) for column in range(columns)]
    n = len(ids)
    counts = {
        "n_flagged": np.bincount(of_seen, minlength=n),
        "n_sites": np.bincount(of_known, minlength=n),
        "n_hits": np.bincount(of_seen[pairs.a], minlength=n),
    }
    table = pd.DataFrame({"tile_id": ids, **counts})
    return table[["tile_id", "n_flagged"]], table[["tile_id", "n_sites", "n_hits"]]


def _tile_of(table: gpd.GeoDataFrame, geobox: GeoBox) -> NDArray[np.intp]:
    """The number of the tile that holds the representative point of each outline."""
    points = table.geometry.representative_point()
    across, down = ~geobox.affine * (points.x.to_numpy(), points.y.to_numpy())
    rows, columns = (math.ceil(side / TILE) for side in geobox.shape)
    row, column = (np.asarray(pixels // TILE, np.intp) for pixels in (down, across))
    return np.clip(row, 0, rows - 1) * columns + np.clip(column, 0, columns - 1)


def _reviewed(frame: pd.DataFrame, truth: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Every flagged tile, and some of the others, as a reviewer who never errs sees them."""
    flagged = frame["n_flagged"].to_numpy() > 0
    blank = np.flatnonzero(~flagged)
    audit = np.random.default_rng(seed).choice(blank, min(AUDIT, len(blank)), replace=False)
    rows = np.sort(np.r_[np.flatnonzero(flagged), audit])
    return truth.iloc[rows].reset_index(drop=True)
