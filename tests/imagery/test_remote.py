"""A cloud-optimized GeoTIFF behind HTTP: only what is needed is fetched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import geopandas as gpd
import numpy as np
import pytest
import rasterio.shutil
import shapely

from geoslave.detect import Request, detect_scenes
from geoslave.imagery.geotiff import open_scene
from geoslave.model.package import open_package
from geoslave.model.predict import load_network
from tests.factories import dark_field, with_kilns

Make = Callable[..., Path]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where `tmp_path` is served."""
    script = Path(__file__).parent.parent / "range_server.py"
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.terminate()
    process.wait(timeout=10)


def bytes_sent(address: str) -> int:
    with urlopen(f"{address}/_sent") as answer:
        return int(answer.read())


def test_an_area_of_a_remote_scene_costs_a_fraction_of_it(
    address: str, make_scene: Make, bright_model: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels = dark_field((3000, 3000)) + rng.integers(0, 9, (3, 3000, 3000)).astype(np.uint8)
    scene = make_scene(with_kilns(pixels, [(1500, 1500)]))
    cog = tmp_path / "cog.tif"
    rasterio.shutil.copy(scene, cog, driver="COG", compress="DEFLATE", blocksize=256)
    size = cog.stat().st_size
    x, y = 500_000 + 15_050, 2_650_000 - 15_025
    area = gpd.GeoSeries([shapely.box(x - 300, y - 300, x + 300, y + 300)], crs="EPSG:32645").to_crs("OGC:CRS84")
    package = open_package(bright_model)
    layer, results = detect_scenes(
        [f"{address}/cog.tif"], package, load_network(package, "onnx"), tmp_path / "o.gpkg", Request(aoi=area)
    )
    assert len(layer) == 1 and results[0].scene_id == "cog"
    assert bytes_sent(address) < size / 8


def test_a_remote_scene_that_is_not_there(address: str) -> None:
    from geoslave.errors import SceneError

    with pytest.raises(SceneError, match="cannot be opened"):
        open_scene(f"{address}/absent.tif")
