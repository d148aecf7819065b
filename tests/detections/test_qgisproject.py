"""The folder for QGIS: moved, renamed, then opened and drawn by a real QGIS."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from geoslave.detections.export import read_detections, write_detections
from geoslave.detections.qgisproject import write_project
from geoslave.errors import OutputError
from geoslave.imagery.grades import GRADES
from tests.detections.test_qgis import five_detections, qgis_python  # noqa: F401

SCRIPT = """
import json, os, sys
from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsProject, QgsRectangle
from qgis.PyQt.QtCore import QSize
task = json.loads(sys.argv[1])
app = QgsApplication([], False); app.initQgis()
project = QgsProject.instance()
told = {"read": project.read(task["project"])}
root = project.layerTreeRoot()
told["crs"] = project.crs().authid(); told["title"] = project.title(); told["about"] = project.metadata().abstract()
told["groups"] = {g.name(): [l.name() for l in g.findLayers()] for g in root.findGroups()}
layers = root.layerOrder()
told["layers"] = [
    {"name": l.name(), "valid": l.isValid(), "crs": l.crs().authid(), "renderer": l.renderer().type(),
     "source": l.source()}
    for l in layers
]
settings = QgsMapSettings()
settings.setLayers(layers); settings.setDestinationCrs(project.crs())
settings.setExtent(QgsRectangle(499_800, 2_999_800, 501_800, 3_000_200)); settings.setOutputSize(QSize(2000, 400))
settings.setOutputDpi(192)
job = QgsMapRendererParallelJob(settings); job.start(); job.waitForFinished()
job.renderedImage().save(task["picture"])
print("TOLD" + json.dumps(told)); sys.stdout.flush()
os._exit(0)  # QGIS may crash while it shuts down
"""


def raster(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Bands of 2 m pixels around the five detections."""
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "crs": "EPSG:32643", "transform": Affine(2, 0, 499_800, 0, -2, 3_000_200), **options}
    with rasterio.open(path, "w", width=width, height=height, count=count, dtype=pixels.dtype, **profile) as file:
        file.write(pixels)
    return path


def inputs(folder: Path) -> tuple[Path, Path]:
    """A green scene that grows brighter to the right, and scores that are zero on its left half."""
    scene = np.zeros((3, 200, 1000), np.uint16)
    scene[0], scene[1], scene[2] = 400, np.linspace(600, 2000, 1000), 500
    scene[0] += np.arange(1000, dtype=np.uint16) // 4
    scores = np.zeros((1, 200, 1000), np.uint8)
    scores[:, :, 900:] = 254
    return (
        raster(folder / "scene.tif", scene, photometric="RGB"),
        raster(folder / "scores.tif", scores, nodata=255),
    )


def opened(python: str, project: Path, picture: Path) -> tuple[dict[str, Any], np.ndarray]:
    """What QGIS tells of a project, and its picture [y, x, rgb]."""
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "HOME": str(picture.parent), "PYTHONPATH": ""}
    task = json.dumps({"project": str(project), "picture": str(picture)})
    done = subprocess.run([python, "-c", SCRIPT, task], capture_output=True, text=True, timeout=120, env=environment)
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert told, done.stderr[-2000:]
    return json.loads(told[0][4:]), np.asarray(Image.open(picture).convert("RGB")).astype(int)


@pytest.mark.qgis
def test_a_moved_folder_opens_with_every_layer_valid_and_drawn(qgis_python: str, tmp_path: Path) -> None:  # noqa: F811
    scene, scores = inputs(tmp_path)
    folder = tmp_path / "made here"
    write_project(five_detections(), folder, provenance={}, scores=[scores], scenes=[scene], title="Kilns & co")
    scene.unlink(), scores.unlink()
    moved = tmp_path / "elsewhere" / "brought (copy)"
    moved.parent.mkdir()
    folder.rename(moved)
    told, picture = opened(qgis_python, moved / "project.qgz", tmp_path / "picture.png")
    assert told["read"] and told["crs"] == "EPSG:32643" and told["title"] == "Kilns & co"
    assert "never evidence of a crime" in told["about"]
    assert list(told["groups"]) == ["Sites", "Scores", "Imagery"]
    assert all(layer["valid"] and layer["crs"] == "EPSG:32643" for layer in told["layers"]), told["layers"]
    assert [layer["renderer"] for layer in told["layers"]] == [
        "graduatedSymbol",
        "singlebandpseudocolor",
        "multibandcolor",
    ]
    assert all(str(moved) in layer["source"] for layer in told["layers"])
    left, right = picture[350, 300], picture[350, 1950]
    assert left[1] > left[0] - 40 and left[1] < 140, "no score: the scene shows"
    assert right[0] > 180 and right[1] > 180, "a full score lies over it"
    pink = picture[:, 1640:1760]
    assert (np.abs(pink - GRADES[-1].colour).sum(axis=2) < 90).any(), "the most confident is drawn"


def test_the_project_names_no_place_of_this_machine(tmp_path: Path) -> None:
    scene, scores = inputs(tmp_path)
    project = write_project(
        five_detections(), tmp_path / "p", provenance={}, scores=[scores, scores], scenes=[scene], title="t"
    )
    with zipfile.ZipFile(project) as archive:
        text = archive.read("project.qgs").decode()
    assert str(tmp_path) not in text and "./detections.gpkg|layername=detections" in text
    assert {path.name for path in (tmp_path / "p" / "scores").iterdir()} == {"scores.tif", "scores-2.tif"}


def test_export_makes_a_project_of_what_is_confident(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    scene, scores = inputs(tmp_path)
    layer = write_detections(five_detections(), tmp_path / "kilns.gpkg", provenance={"model_id": "m"})
    chosen = ("--scores", scores, "--scene", scene, "--min-confidence", 0.5)
    status, printed, err = run("export", layer, "--qgis", tmp_path / "map", *chosen, "--json")
    assert status == 0 and json.loads(printed)["n_detections"] == 3, err
    assert len(read_detections(tmp_path / "map" / "detections.gpkg")) == 3
    assert {path.name for path in (tmp_path / "map").iterdir()} == {
        "project.qgz",
        "README.txt",
        "detections.gpkg",
        "scores",
        "imagery",
    }
    for wrong in (("--scene", scene), ("--scene", scene, "--out", tmp_path / "x.gpkg")):
        status, _, err = run("export", layer, *wrong)
        assert status == 2 and "--qgis" in err
    status, _, err = run("export", layer, "--qgis", tmp_path / "new", "--scene", layer)
    assert status == 1 and "kilns.gpkg" in err and not (tmp_path / "new").exists()


def test_a_folder_that_is_no_project_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists"):
        write_project(five_detections(), tmp_path / "p", provenance={})
    with pytest.raises(OutputError, match="holds no project"):
        write_project(five_detections(), tmp_path / "p", provenance={}, overwrite=True)
    assert (tmp_path / "p" / "thesis.txt").read_text() == "years of work"
