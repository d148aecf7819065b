"""How fast QGIS finds and draws detections in a box of a large layer that geoslave wrote.

    python scripts/bench/qgis_pan.py            100,000 detections
    python scripts/bench/qgis_pan.py --quick    5,000

Boxes are those of a screen at 1 : 25,000 about detections chosen at random, and of the whole layer's
tenth. Times are of a real QGIS (its own Python), a new request each; the first query, which opens the
file, is told apart. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from common import say

from geoslave.detections import export, schema

PYTHON = "/usr/bin/python3"
SIDE_M = 400_000
"""Of the square that the detections lie in."""
IN_QGIS = r"""
import json, os, statistics, sys, time
from qgis.core import (QgsApplication, QgsExpressionContext, QgsExpressionContextUtils, QgsFeatureRequest,
                       QgsMapRendererSequentialJob, QgsMapSettings, QgsRectangle, QgsVectorLayer, Qgis)
from qgis.PyQt.QtCore import QSize
task = json.loads(sys.argv[1])
app = QgsApplication([], False); app.initQgis()
layer = QgsVectorLayer(task["source"], "d", "ogr")
assert layer.isValid() and layer.featureCount() == task["n"], layer.featureCount()
def ask(box):
    start = time.perf_counter()
    n = sum(1 for _ in layer.getFeatures(QgsFeatureRequest().setFilterRect(QgsRectangle(*box))))
    return 1000 * (time.perf_counter() - start), n
first, _ = ask(task["boxes"][0])
near = [ask(box) for box in task["boxes"]]
wide, found = ask(task["tenth"])
def draw(box):
    settings = QgsMapSettings(); settings.setLayers([layer]); settings.setDestinationCrs(layer.crs())
    settings.setExtent(QgsRectangle(*box)); settings.setOutputSize(QSize(1600, 900))
    context = QgsExpressionContext()
    context.appendScope(QgsExpressionContextUtils.mapSettingsScope(settings)); settings.setExpressionContext(context)
    start, busy = time.perf_counter(), time.process_time()
    job = QgsMapRendererSequentialJob(settings); job.start(); job.waitForFinished()
    return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - busy)
drawn = [draw(box)[0] for box in task["boxes"][:10]]
whole, whole_busy = draw(task["all"])
times = sorted(t for t, _ in near)
print("TOLD" + json.dumps({
    "qgis": Qgis.QGIS_VERSION, "spatial_index": layer.hasSpatialIndex() == 2, "first_ms": first,
    "median_ms": statistics.median(times), "p95_ms": times[int(0.95 * (len(times) - 1))], "longest_ms": times[-1],
    "found_in_box": statistics.mean(n for _, n in near), "tenth_ms": wide, "found_in_tenth": found,
    "draw_median_ms": statistics.median(drawn), "draw_all_ms": whole, "draw_all_cpu_ms": whole_busy}))
sys.stdout.flush(); os._exit(0)
"""


def detections(n: int, seed: int = 0) -> gpd.GeoDataFrame:
    """Kilns of 100 x 50 m in clusters, as kilns stand."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, SIDE_M, (max(1, n // 200), 2))
    xy = centres[rng.integers(0, len(centres), n)] + rng.normal(0, 6_000, (n, 2))
    x, y = 300_000 + xy[:, 0], 2_500_000 + xy[:, 1]
    shapes = shapely.box(x - 50, y - 25, x + 50, y + 25)
    confidence = rng.beta(1.2, 1.0, n).round(3)
    return gpd.GeoDataFrame(
        {
            "detection_id": [
                schema.detection_id(a / 1e5, b / 1e5, "brick_kiln", None) for a, b in zip(x, y, strict=True)
            ],
            "class_name": "brick_kiln",
            "confidence": confidence,
            "calibrated": True,
            "score_mean": confidence,
            "score_max": confidence,
            "area_m2": 5000.0,
            "length_m": 100.0,
            "width_m": 50.0,
            "date": "2024-01-02",
            "scene_id": "scene",
            "model_id": "model",
            "truncated": False,
        },
        geometry=shapes,
        crs="EPSG:32645",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 detections")
    n = 5_000 if parser.parse_args().quick else 100_000
    table = detections(n)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detections.gpkg"
        start = time.perf_counter()
        export.write_detections(table, path, provenance={})
        seconds = time.perf_counter() - start
        told = in_qgis(path, table, Path(folder))
        size = path.stat().st_size
    facts = {"detections": n, "write_s": round(seconds, 2), "file_mb": round(size / 1e6, 1)}
    facts |= {key: round(value, 2) if isinstance(value, float) else value for key, value in told.items()}
    print(f"{n:,} detections in QGIS {told['qgis']}: a box of a screen with {told['found_in_box']:.0f} detections")
    print(f"  query  median {told['median_ms']:.1f} ms, 95 % below {told['p95_ms']:.1f} ms")
    print(f"  a tenth of the layer ({told['found_in_tenth']:,}) {told['tenth_ms']:.0f} ms")
    print(f"  drawn  {told['draw_median_ms']:.0f} ms; all of it {told['draw_all_ms']:.0f} ms")
    say(facts)


def in_qgis(path: Path, table: gpd.GeoDataFrame, home: Path) -> dict[str, object]:
    """Times from a QGIS of its own process."""
    rng = np.random.default_rng(1)
    middles = shapely.get_coordinates(shapely.centroid(table.geometry.to_numpy()))
    chosen = middles[rng.choice(len(middles), 200)]
    # 1600 x 900 pixels at 96 dpi and 1 : 25,000
    width, height = 1600 * 0.0254 / 96 * 25_000, 900 * 0.0254 / 96 * 25_000
    west, south, east, north = table.total_bounds
    share = 0.1**0.5
    task = {
        "source": f"{path}|layername={export.LAYER}",
        "n": len(table),
        "boxes": [(x - width / 2, y - height / 2, x + width / 2, y + height / 2) for x, y in chosen.tolist()],
        "tenth": [west, south, west + share * (east - west), south + share * (north - south)],
        "all": [west, south, east, north],
    }
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "HOME": str(home), "PYTHONPATH": ""}
    done = subprocess.run([PYTHON, "-c", IN_QGIS, json.dumps(task)], capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    if not lines:
        sys.exit(f"QGIS did not answer (apt-get install python3-qgis): {done.stderr[-1000:]}")
    answer: dict[str, object] = json.loads(lines[0][4:])
    return answer


if __name__ == "__main__":
    main()
