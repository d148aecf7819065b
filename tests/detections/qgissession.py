"""Opens projects in a real QGIS (a Python of its own): what it tells of them, and what it draws."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SCRIPT = r"""
import json, os, sys
from qgis.core import (QgsApplication, QgsCoordinateReferenceSystem, QgsCoordinateTransform, QgsDateTimeRange,
                       QgsExpressionContext, QgsExpressionContextUtils, QgsLayoutExporter, QgsLayoutItemLabel,
                       QgsMapRendererParallelJob, QgsMapSettings, QgsProject, QgsRectangle)
from qgis.PyQt.QtCore import QDate, QDateTime, QSize, QTime, Qt
task = json.loads(sys.argv[1])
app = QgsApplication([], False); app.initQgis()
project = QgsProject.instance()
told = {"read": project.read(task["project"])}
root = project.layerTreeRoot(); themes = project.mapThemeCollection()
told["crs"] = project.crs().authid(); told["crs_valid"] = project.crs().isValid()
told["metres"] = project.crs().mapUnits() == 0; told["proj"] = project.crs().toProj()
told["title"] = project.title(); told["about"] = project.metadata().abstract()
told["min_confidence"] = QgsExpressionContextUtils.projectScope(project).variable("min_confidence")
told["groups"] = {g.name(): [l.name() for l in g.findLayers()] for g in root.findGroups()}
told["themes"] = {n: [l.name() for l in themes.mapThemeVisibleLayers(n)] for n in themes.mapThemes()}
told["visible"] = [l.name() for l in root.checkedLayers()]
told["layers"] = {}
for layer in root.layerOrder():
    facts = {"valid": layer.isValid(), "crs": layer.crs().authid(), "renderer": layer.renderer().type(),
             "source": layer.source()}
    if hasattr(layer, "featureCount"):
        facts["count"] = layer.featureCount(); facts["labels"] = layer.labelsEnabled()
        time = layer.temporalProperties()
        facts["temporal"] = [time.startField(), time.endField()] if time.isActive() else None
        facts["fields"] = {f.name(): f.typeName() for f in layer.fields()}
        facts["index"] = layer.hasSpatialIndex() == 2
    told["layers"][layer.name()] = facts
def settings_for(view):
    settings = QgsMapSettings()
    shown = themes.mapThemeVisibleLayers(view["theme"]) if view.get("theme") else root.checkedLayers()
    settings.setLayers(shown); settings.setDestinationCrs(project.crs())
    box = QgsRectangle(*view["extent"])
    if view.get("lonlat"):
        change = QgsCoordinateTransform(QgsCoordinateReferenceSystem("EPSG:4326"), project.crs(), project)
        box = change.transformBoundingBox(box)
    settings.setExtent(box); settings.setOutputSize(QSize(*view["size"])); settings.setOutputDpi(view.get("dpi", 192))
    if view.get("day"):
        day = QDateTime(QDate.fromString(view["day"], "yyyy-MM-dd"), QTime(0, 0), Qt.UTC)
        settings.setIsTemporal(True); settings.setTemporalRange(QgsDateTimeRange(day, day.addDays(1)))
    QgsExpressionContextUtils.setProjectVariable(project, "min_confidence", view.get("min_confidence", "0"))
    context = QgsExpressionContext()
    context.appendScope(QgsExpressionContextUtils.projectScope(project))
    context.appendScope(QgsExpressionContextUtils.mapSettingsScope(settings))
    settings.setExpressionContext(context)
    return settings
for name, view in task.get("views", {}).items():
    job = QgsMapRendererParallelJob(settings_for(view)); job.start(); job.waitForFinished()
    job.renderedImage().save(os.path.join(task["out"], name + ".png"))
told["layouts"] = {}
for layout in project.layoutManager().printLayouts():
    told["layouts"][layout.name()] = [i.currentText() for i in layout.items() if isinstance(i, QgsLayoutItemLabel)]
    if task.get("print"):
        options = QgsLayoutExporter.ImageExportSettings(); options.dpi = 100
        done = QgsLayoutExporter(layout).exportToImage(os.path.join(task["out"], layout.name() + ".png"), options)
        assert done == QgsLayoutExporter.Success, done
    extent = layout.referenceMap().extent()
    told["extent"] = [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]
print("TOLD" + json.dumps(told)); sys.stdout.flush()
os._exit(0)  # QGIS may crash while it shuts down
"""


@dataclass(frozen=True)
class Opened:
    """What QGIS tells of a project, and its pictures [y, x, rgb] by name."""

    told: dict[str, Any]
    pictures: dict[str, np.ndarray]


def open_project(
    python: str, project: Path, out: Path, views: dict[str, dict[str, Any]] | None = None, *, printed: bool = False
) -> Opened:
    """Open a project; `views` are maps to draw: extent, size, and if wished theme, day, min_confidence, lonlat."""
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "HOME": str(out), "PYTHONPATH": ""}
    task = {"project": str(project), "out": str(out), "views": views or {}, "print": printed}
    done = subprocess.run(
        [python, "-c", SCRIPT, json.dumps(task)], capture_output=True, text=True, timeout=200, env=environment
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert told, done.stderr[-2000:]
    names = [*task["views"], *(json.loads(told[0][4:])["layouts"] if printed else ())]
    pictures = {name: np.asarray(Image.open(out / f"{name}.png").convert("RGB")).astype(int) for name in names}
    return Opened(json.loads(told[0][4:]), pictures)
