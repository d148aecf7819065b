"""What geoslave writes, opened and drawn by a real QGIS (as a subprocess: it has a Python of its own)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image

from geoslave.detections import export, measure, qgis, schema
from geoslave.imagery.preview import confidence_colour

PYTHON = "/usr/bin/python3"
CENTRES = [(500_000.0 + 400 * i, 3_000_000.0) for i in range(5)]
"""One detection a grade, 400 m apart, in EPSG:32643."""

SCRIPT = """
import json, sys
from qgis.core import (QgsApplication, QgsCoordinateReferenceSystem, QgsMapRendererParallelJob, QgsMapSettings,
                       QgsRasterLayer, QgsRectangle, QgsVectorLayer)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor
task = json.loads(sys.argv[1])
app = QgsApplication([], False); app.initQgis()
if task["kind"] == "vector":
    layer = QgsVectorLayer(task["source"], "d", "ogr")
else:
    layer = QgsRasterLayer(task["source"], "s")
told = {"valid": layer.isValid(), "renderer": layer.renderer().type()}
if task["kind"] == "vector":
    told["attribute"] = layer.renderer().classAttribute() if told["renderer"] == "graduatedSymbol" else None
    told["labels"] = [r.label() for r in layer.renderer().ranges()] if told["attribute"] else []
    told["aliases"] = {f.name(): layer.attributeAlias(i) for i, f in enumerate(layer.fields())}
    told["tip"] = layer.mapTipTemplate(); told["display"] = layer.displayExpression()
    told["count"] = layer.featureCount()
settings = QgsMapSettings()
settings.setLayers([layer]); settings.setBackgroundColor(QColor(*task["background"]))
settings.setDestinationCrs(QgsCoordinateReferenceSystem("EPSG:32643"))
settings.setExtent(QgsRectangle(*task["extent"])); settings.setOutputSize(QSize(*task["size"]))
settings.setOutputDpi(192)
job = QgsMapRendererParallelJob(settings); job.start(); job.waitForFinished()
job.renderedImage().save(task["picture"])
print("TOLD" + json.dumps(told))
sys.stdout.flush()
import os; os._exit(0)  # QGIS may crash while it shuts down
"""


@pytest.fixture(scope="session")
def qgis_python() -> str:
    """A Python that has QGIS. In CI its absence is a failure."""
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True).returncode:
        message = "QGIS ABSENT: nothing was opened in it; install it with  apt-get install python3-qgis"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return PYTHON


def show(python: str, source: Path, picture: Path, **task: Any) -> tuple[dict[str, Any], np.ndarray]:
    """What QGIS tells of a layer, and its picture [y, x, rgb]: 1 m a pixel around the detections."""
    task = {
        "kind": "vector",
        "background": [40, 60, 45],
        "extent": [499_800, 2_999_800, 501_800, 3_000_200],
        "size": [2000, 400],
        "source": str(source),
        "picture": str(picture),
    } | task
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "HOME": str(picture.parent), "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-c", SCRIPT, json.dumps(task)], capture_output=True, text=True, timeout=120, env=environment
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert told, done.stderr[-2000:]
    return json.loads(told[0][4:]), np.asarray(Image.open(picture).convert("RGB")).astype(int)


def pixel(x: float, y: float) -> tuple[int, int]:
    """Row and column of a place in the picture."""
    return int(3_000_200 - y), int(x - 499_800)


def five_detections() -> gpd.GeoDataFrame:
    """Kilns of 100 x 50 m, confidence 0.1, 0.3, ... 0.9."""
    shapes = np.array([shapely.box(x - 50, y - 25, x + 50, y + 25) for x, y in CENTRES], object)
    confidence = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    length, width = measure.sides_m(shapes, "EPSG:32643")
    return gpd.GeoDataFrame(
        {
            "detection_id": [schema.detection_id(75 + i, 27, "brick_kiln", "2024-01-02") for i in range(5)],
            "class_name": "brick_kiln",
            "confidence": confidence,
            "calibrated": False,
            "score_mean": confidence,
            "score_max": confidence,
            "area_m2": measure.areas_m2(shapes, "EPSG:32643"),
            "length_m": length,
            "width_m": width,
            "date": "2024-01-02",
            "scene_id": "scene",
            "model_id": "model",
            "truncated": False,
        },
        geometry=shapes,
        crs="EPSG:32643",
    )


@pytest.mark.qgis
@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".fgb"])
@pytest.mark.parametrize("background", [(35, 50, 40), (225, 215, 195)], ids=["dark", "light"])
def test_the_style_loads_by_itself_and_shows_the_grades(
    qgis_python: str, tmp_path: Path, ending: str, background: tuple[int, int, int]
) -> None:
    path = export.write_detections(five_detections(), tmp_path / f"detections{ending}", provenance={})
    source = Path(f"{path}|layername=detections") if ending == ".gpkg" else path
    told, picture = show(qgis_python, source, tmp_path / "picture.png", background=background)
    assert told["valid"] and told["count"] == 5
    assert told["renderer"] == "graduatedSymbol" and "confidence" in told["attribute"]
    assert told["labels"][-1] == "80 – 100 % (most confident)"
    assert told["aliases"]["confidence"] == "Confidence"
    assert told["aliases"]["area_m2"] == "Area (m²)"
    assert "indicator, not evidence" in told["tip"] and "confidence" in told["display"]
    for (x, y), grade in zip(CENTRES, qgis.GRADES, strict=True):
        row, column = pixel(x - 50, y)
        outline = picture[row, column - 4 : column + 5]
        assert np.abs(outline - grade.colour).sum(axis=1).min() <= 90, (grade.label, outline)
        row, column = pixel(x, y)
        inside = picture[row, column]
        assert 5 < np.abs(inside - background).sum() < 160, "the fill must let the imagery through"
    row, column = pixel(CENTRES[0][0] + 200, CENTRES[0][1])
    assert tuple(picture[row, column]) == background


@pytest.mark.qgis
def test_scores_are_drawn_with_a_ramp_and_nodata_is_clear(qgis_python: str, tmp_path: Path) -> None:
    scores = np.zeros((200, 1000), np.uint8)
    scores[:, 400:600], scores[:, 600:800], scores[:, 800:] = 127, 254, 255
    path = tmp_path / "scores.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=1000,
        height=200,
        count=1,
        dtype="uint8",
        nodata=255,
        crs="EPSG:32643",
        transform=Affine(2, 0, 499_800, 0, -2, 3_000_200),
    ) as file:
        file.write(scores, 1)
    path.with_suffix(".qml").write_text(qgis.scores_qml(), encoding="utf-8")
    told, picture = show(qgis_python, path, tmp_path / "picture.png", kind="raster", background=(40, 60, 45))
    assert told == {"valid": True, "renderer": "singlebandpseudocolor"}
    clear = (40, 60, 45)
    assert np.abs(picture[200, 400] - clear).max() <= 2, "no score: the imagery shows"
    assert np.abs(picture[200, 1800] - clear).max() <= 2, "missing imagery is clear"
    assert picture[200, 1400, 0] > 180 and picture[200, 1400, 2] < 90, "a full score is yellow"
    assert picture[200, 1000, 1] > picture[200, 1000, 0] + 40, "a middling score is green"


def test_pictures_and_qgis_show_a_confidence_alike() -> None:
    for grade in qgis.GRADES:
        assert confidence_colour((grade.low + grade.high) / 2) == grade.colour


def test_the_most_confident_can_be_told_without_colours() -> None:
    widths = [grade.width_mm for grade in qgis.GRADES]
    assert widths == sorted(widths) and len(set(widths)) == 5
    assert [grade.low for grade in qgis.GRADES[1:]] == [grade.high for grade in qgis.GRADES[:-1]]
