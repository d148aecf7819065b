"""False alarms of a model per 100 km2 of kiln-free imagery it has not trained on.

    GEOSLAVE_DATA=... uv run --all-extras scripts/bench/false_alarms.py --model kiln-s2
    ... --quick    some of the chips, within a minute

The imagery: chips of the galleries that configs/kiln-s2.yaml holds out (mines_s2, label 0, not cloudy), each
as a scene of its own (statistics of 48 x 48 pixels, the hard case) and side by side as mosaics.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import yaml
from affine import Affine
from common import say
from odc.geo.geobox import GeoBox

from geoslave.detect import detect_scene
from geoslave.imagery.geotiff import write_geotiff
from geoslave.imagery.raster import Raster
from geoslave.model.package import ModelPackage, open_package
from geoslave.model.predict import load_network

ROOT = Path(__file__).resolve().parents[2]


def held_out_chips(data: Path) -> list[np.ndarray]:
    """Chips [n, y, x, band], one array for each gallery."""
    config = yaml.safe_load((ROOT / "configs" / "kiln-s2.yaml").read_text(encoding="utf-8"))
    table = pd.read_csv(data / "mines_s2" / "chips.csv")
    chips = np.load(data / "mines_s2" / "chips.npz")["x"]
    free = (table["label"] == 0) & ~table["cloudy"]
    galleries = config["backgrounds"][0]["held_out"]
    return [chips[table[free & (table["gallery"] == name)]["chip"].to_numpy()] for name in galleries]


def mosaic(chips: np.ndarray) -> np.ndarray:
    """Chips side by side, as square as it goes; the last row is filled up with the first chips."""
    columns = math.ceil(math.sqrt(len(chips)))
    whole = chips[np.arange(columns * math.ceil(len(chips) / columns)) % len(chips)]
    rows = [np.concatenate(list(whole[k : k + columns]), axis=1) for k in range(0, len(whole), columns)]
    return np.concatenate(rows, axis=0)


def alarms(package: ModelPackage, scenes: list[np.ndarray], folder: Path) -> tuple[int, float]:
    """(detections at the operating confidence, km2) over scenes [y, x, band]."""
    network = load_network(package, "onnx")
    count, km2 = 0, 0.0
    for pixels in scenes:
        grid = GeoBox(pixels.shape[:2], Affine(10, 0, 500_000, 0, -10, 9_500_000), "EPSG:32720")
        raster = Raster(np.ascontiguousarray(pixels.transpose(2, 0, 1)), np.ones(pixels.shape[:2], bool), grid)
        write_geotiff(raster, folder / "scene.tif", ("red", "green", "blue"), overwrite=True)
        found = detect_scene(folder / "scene.tif", package, network, folder).detections
        count += int((found["confidence"] >= package.spec.confidence.operating).sum())
        km2 += pixels.shape[0] * pixels.shape[1] * 1e-4
    return count, km2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="kiln-s2")
    parser.add_argument("--quick", action="store_true", help="some of the chips, within a minute")
    options = parser.parse_args()
    data = Path(os.environ.get("GEOSLAVE_DATA", ROOT.parent / "shared" / "data"))
    package = open_package(options.model)
    galleries = [chips[:40] if options.quick else chips for chips in held_out_chips(data)]
    with TemporaryDirectory() as name:
        single, single_km2 = alarms(package, [chip for chips in galleries for chip in chips], Path(name))
        joined, joined_km2 = alarms(package, [mosaic(chips) for chips in galleries], Path(name))
    say({
        "model": package.model_id,
        "operating": package.spec.confidence.operating,
        "single_alarms": single,
        "single_km2": round(single_km2, 1),
        "single_per_100km2": round(100 * single / single_km2, 2),
        "mosaic_alarms": joined,
        "mosaic_km2": round(joined_km2, 1),
        "mosaic_per_100km2": round(100 * joined / joined_km2, 2),
    })  # fmt: skip


if __name__ == "__main__":
    main()
