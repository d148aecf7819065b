"""The model that ships, on real imagery."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from geoslave.detect import Request, detect_scene
from geoslave.detections.polygonize import polygonize
from geoslave.grid import partition
from geoslave.imagery.geotiff import open_scene
from geoslave.imagery.raster import SCORE_STEPS
from geoslave.model.package import ModelPackage, open_package
from geoslave.model.predict import Predictor, load_network, predict_cells

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return open_package("kiln-s2")


@pytest.fixture
def mosaic(data_dir: Path, make_scene: Make) -> Path:
    """The real kiln chips side by side, as one scene of 640 x 768 pixels in UTM."""
    chips = []
    for path in sorted((data_dir / "kilns_s2" / "chips").glob("*.tif")):
        with rasterio.open(path) as file:
            chips.append(file.read())
    columns = 6
    rows = math.ceil(len(chips) / columns)
    whole = np.zeros((3, rows * 128, columns * 128), np.uint8)
    for index, chip in enumerate(chips):
        row, col = divmod(index, columns)
        whole[:, row * 128 : row * 128 + 128, col * 128 : col * 128 + 128] = chip
    return make_scene(whole, transform=Affine(10, 0, 500_000, 0, -10, 2_650_000))


def scores(scene_path: Path, package: ModelPackage, core: int, origin: tuple[int, int]) -> NDArray[np.uint8]:
    spec = package.spec
    with open_scene(scene_path, Request().reading(spec)) as scene:
        factor, summand = scene.scaling(spec.scaling)
        predictor = Predictor(load_network(package, "onnx"), factor, summand, spec.scaling.clip)
        whole = np.zeros(tuple(scene.geobox.shape), np.uint8)
        for chip in predict_cells(scene, predictor, partition(whole.shape, core, spec.halo, spec.stride, origin)):
            c = chip.cell.core
            assert chip.scores is not None
            stored = np.rint(chip.scores.pixels[0] * SCORE_STEPS)
            whole[c.row_off : c.row_off + c.height, c.col_off : c.col_off + c.width] = stored
    return whole


def test_it_ships_small_with_the_licence_of_its_imagery(package: ModelPackage) -> None:
    size = sum(path.stat().st_size for path in package.folder.iterdir())
    assert size < 20_000_000
    card = (package.folder / "README.md").read_text(encoding="utf-8")
    for words in ("never evidence", "CC BY-NC 4.0", "Copernicus", "false alarms"):
        assert words in card
    assert {path.name for path in package.folder.iterdir()} == {
        "model.json", "model.onnx", "model.safetensors", "README.md", "reliability.png", "gate.onnx",
    }  # fmt: skip


def test_shifting_the_chip_grid_changes_no_score_by_more_than_two(package: ModelPackage, mosaic: Path) -> None:
    step = package.spec.stride
    reference = scores(mosaic, package, 1024 // step * step, (0, 0))
    assert (reference > 127).sum() > 100
    for core, origin in ((8 * step, (0, 0)), (8 * step, (-step, -3 * step)), (16 * step, (-5 * step, -step))):
        shifted = scores(mosaic, package, core, origin)
        assert np.abs(shifted.astype(int) - reference).max() <= 2


def test_blocks_of_any_size_give_the_same_detections(package: ModelPackage, mosaic: Path) -> None:
    stored = scores(mosaic, package, 512, (0, 0))

    def read(window: rasterio.windows.Window) -> NDArray[np.uint8]:
        rows = slice(window.row_off, window.row_off + window.height)
        return stored[rows, window.col_off : window.col_off + window.width]

    low, high = (round(t * SCORE_STEPS) for t in (package.spec.thresholds.low, package.spec.thresholds.high))
    whole = polygonize(read, stored.shape, low, high, block=10_000)
    assert len(whole) > 25
    for block in (7, 64, 200):
        assert polygonize(read, stored.shape, low, high, block=block) == whole


def test_it_finds_nothing_in_dull_scenes(package: ModelPackage, make_scene: Make, tmp_path: Path) -> None:
    """Forest, water, haze: a scene without contrast is not stretched until something shows."""
    rng = np.random.default_rng(0)
    for name, level in (("forest", (28, 42, 36)), ("water", (20, 30, 45)), ("haze", (120, 125, 130))):
        noise = rng.normal(0, 2.5, (3, 400, 400))
        pixels = np.clip(np.array(level)[:, None, None] + noise, 1, 255).astype(np.uint8)
        result = detect_scene(make_scene(pixels, name=f"{name}.tif"), package, load_network(package, "onnx"), tmp_path)
        confident = result.detections["confidence"] >= package.spec.confidence.operating
        assert not confident.any(), name
