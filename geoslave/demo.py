"""The demo: a scene with known truth goes down the main path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd

from geoslave.detect import Request, SceneResult, detect_scene, provenance
from geoslave.detections.evaluate import Evaluation, evaluate
from geoslave.detections.export import filter_detections, write_detections, write_scores_style
from geoslave.errors import OutputError
from geoslave.files import scratch_folder
from geoslave.imagery.geotiff import open_scene, write_geotiff
from geoslave.imagery.preview import Layer, draw_scene, save_png
from geoslave.labels.chips import cut_chips
from geoslave.labels.synthetic import RenderedScene, render_scene
from geoslave.model.package import ModelPackage, open_package
from geoslave.model.predict import load_network

Progress = Callable[[str, int, int], None]
FILES = ("scene.tif", "truth.geojson", "chips", "scores.tif", "detections.gpkg", "detections.geojson", "demo.png")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo found."""

    folder: Path
    evaluation: Evaluation
    model_id: str
    title: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "out": str(self.folder),
            "synthetic": True,
            "model_id": self.model_id,
            "files": list(FILES),
            **self.evaluation.to_dict(),
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
        if out.exists():
            out.replace(scratch / "replaced")
        draft.replace(out)
    return DemoResult(out, measured, package.model_id, package.spec.title)


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
