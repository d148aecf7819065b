"""What QGIS's plugin Deepness reads from a model.onnx, read the way the plugin reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import shapely
from scipy import ndimage

from geoslave.imagery.scaling import Scaling, SceneStatistics, coefficients, radiometry, scale
from geoslave.labels.synthetic import render_scene
from geoslave.model.deepness import TYPICAL_LOW, TYPICAL_WIDTH, add_metadata, deepness_metadata
from geoslave.model.library import verify_package
from geoslave.model.package import open_package, write_package
from tests.factories import bright_spec, write_bright_model

FACTS = {"bands": ("red", "green", "blue"), "gsd_m": 10.0, "tile": 704, "halo": 48, "threshold": 0.35}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = write_bright_model(tmp_path / "bright") / "model.onnx"
    add_metadata(path, deepness_metadata(classes=("brick_kiln",), scaling=Scaling(), **FACTS))
    return path


def test_the_plugin_reads_its_keys(file: Path) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    read = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert read["model_type"] == "Segmentor"
    assert read["class_names"] == {"0": "background", "1": "brick_kiln"}
    assert (read["resolution"], read["tile_size"], read["tiles_overlap"]) == (1000, 800, 12)
    assert read["seg_thresh"] == 0.35
    assert len(read["standardization_mean"]) == len(read["standardization_std"]) == 3
    outputs = session.get_outputs()
    assert len(outputs) == 1 and outputs[0].shape[2] == outputs[0].shape[3], "the plugin refuses others"


def test_chips_that_are_not_square_still_work_and_score_the_same(file: Path, tmp_path: Path) -> None:
    plain = write_bright_model(tmp_path / "plain") / "model.onnx"
    pixels = np.random.default_rng(0).normal(size=(2, 3, 48, 80)).astype(np.float32)
    scores = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})[0]
        for path in (file, plain)
    ]
    assert scores[0].shape == (2, 1, 48, 80)
    np.testing.assert_array_equal(*scores)


def test_writing_twice_keeps_each_key_once(file: Path) -> None:
    add_metadata(file, {"resolution": "500"})
    props = onnx.load(str(file)).metadata_props
    assert sorted({p.key for p in props}) == sorted(p.key for p in props)
    assert {p.key: p.value for p in props}["resolution"] == "500"


def test_a_typical_scene_comes_out_as_geoslave_scales_it() -> None:
    scaling = Scaling()
    read = {k: json.loads(v) for k, v in deepness_metadata(classes=("a",), scaling=scaling, **FACTS).items()}
    pixels = np.random.default_rng(1).integers(0, 256, (3, 20, 20)).astype(np.uint8)
    unit = radiometry("uint8", (1.0,) * 3, (0.0,) * 3, 255)
    typical = SceneStatistics((TYPICAL_LOW,) * 3, (TYPICAL_LOW + TYPICAL_WIDTH,) * 3)
    ours = scale(pixels, np.ones((20, 20), bool), *coefficients(unit, typical, scaling), (-9, 9))
    mean, std = (np.array(read[f"standardization_{name}"])[:, None, None] for name in ("mean", "std"))
    np.testing.assert_allclose((pixels / 255 - mean) / std, ours, atol=1e-5)


def test_a_package_written_after_training_carries_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    network = torch.nn.Conv2d(3, 1, 3, padding=1)
    folder = write_package(tmp_path / "tiny", bright_spec(name="tiny"), network, "# tiny 1.0.0: a test\n")
    package = open_package(folder)
    session = onnxruntime.InferenceSession(str(package.onnx), providers=["CPUExecutionProvider"])
    read = session.get_modelmeta().custom_metadata_map
    assert json.loads(read["class_names"])["1"] == "brick_kiln" and json.loads(read["tile_size"]) == 64 + 2 * 16
    checks = {check.name: check.passed for check in verify_package(package)}
    assert checks == {"hashes": True, "MLM v1.5.2": True, "card": True, "ONNX": True, "torch": None}


def test_several_classes_become_maps_of_scores() -> None:
    read = deepness_metadata(classes=("mine", "camp"), scaling=Scaling(), **FACTS)
    assert json.loads(read["model_type"]) == "Regressor"
    assert json.loads(read["class_names"]) == {"0": "mine", "1": "camp"}
    assert "seg_thresh" not in read


# --- the plugin, re-enacted ----------------------------------------------------------------------


class Deepness:
    """What the plugin does with a model and an 8-bit layer, step by step, as its published source does; without QGIS.

    Its rules: one input; one output of four dimensions, called square; class names numbered from 0 without a gap, and
    two classes for one channel; a resolution in centimetres; tiles that overlap by per cent of their side, filled up
    with zeros at the layer's end; pixels / 255, less the mean, over the deviation; what stays below the threshold is
    background, what does not is class 1; a median filter.
    """

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (self.input,), (output,) = self.session.get_inputs(), self.session.get_outputs()
        assert len(output.shape) == 4 and output.shape[2] == output.shape[3]
        self.meta = {k: json.loads(v) for k, v in self.session.get_modelmeta().custom_metadata_map.items()}
        names = sorted(self.meta["class_names"].items(), key=lambda item: int(item[0]))
        assert [int(key) for key, _ in names] == list(range(len(names)))
        assert len(names) == (2 if output.shape[1] == 1 else output.shape[1])
        self.names = [name for _, name in names]
        assert str(self.meta["model_type"]).capitalize() == "Segmentor"

    def mask(self, image: np.ndarray) -> np.ndarray:
        """Class of each pixel [y, x] of an image [y, x, band] at the model's resolution."""
        side = int(self.meta["tile_size"])
        overlap = int(round(side * int(self.meta["tiles_overlap"]) / 100 / 2) * 2)
        stride, half = side - overlap, overlap // 2
        rows, cols = image.shape[:2]
        classes = np.zeros((rows, cols), np.uint8)
        padded = np.pad(image, ((half, side), (half, side), (0, 0)))
        for row in range(0, rows, stride):
            for col in range(0, cols, stride):
                answer = self._tile(padded[row : row + side, col : col + side])[half : side - half, half : side - half]
                inside = classes[row : row + stride, col : col + stride]
                inside[:] = answer[: inside.shape[0], : inside.shape[1]]
        size = int(self.meta["seg_small_segment"]) // 2 * 2 + 1
        return ndimage.median_filter(classes, size)

    def _tile(self, tile: np.ndarray) -> np.ndarray:
        batch = np.float32(tile[None, :, :, : self.input.shape[-3]] * 1.0 / 255.0)
        batch = (batch - np.float32(self.meta["standardization_mean"])) / np.float32(self.meta["standardization_std"])
        (result,) = self.session.run(None, {self.input.name: np.transpose(batch, (0, 3, 1, 2))})
        result[result < self.meta["seg_thresh"]] = 0.0
        return (result[0, 0] != 0).astype(np.uint8)


def test_the_shipped_kiln_model_finds_kilns_in_the_plugin() -> None:
    plugin = Deepness(open_package("kiln-s2").onnx)
    assert plugin.names == ["background", "brick_kiln"] and plugin.meta["resolution"] == 1000
    assert plugin.meta["geoslave_bands"] == ["red", "green", "blue"]
    scene = render_scene(7, (320, 320), 10.0, 12)
    mask = plugin.mask(np.moveaxis(scene.raster.pixels, 0, 2)).astype(bool)
    columns, rows = ~scene.raster.geobox.affine @ np.array(
        [shapely.get_x(scene.sites.representative_point()), shapely.get_y(scene.sites.representative_point())]
    )
    near = ndimage.binary_dilation(mask, iterations=2)
    found = near[rows.astype(int), columns.astype(int)]
    assert len(found) >= 6 and found.mean() >= 0.5
    assert 0 < mask.mean() < 0.1, "it marks kilns, not the country"


def test_tiles_of_the_plugin_leave_no_seams() -> None:
    """A tile's middle does not depend on where the tile lies: the overlap is as wide as the network sees."""
    plugin = Deepness(open_package("kiln-s2").onnx)
    image = np.moveaxis(render_scene(7, (320, 320), 10.0, 12).raster.pixels, 0, 2)
    whole = plugin.mask(image)
    plugin.meta["tile_size"], plugin.meta["tiles_overlap"] = 256, -(-200 * 48 // 256)
    assert (plugin.mask(image) != whole).mean() < 0.002
