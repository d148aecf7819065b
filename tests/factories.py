"""Things tests need that are too long for a fixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from geoslave.imagery.scaling import Scaling
from geoslave.model.package import Confidence, ModelSpec, Thresholds, describe

SMALL_RECIPE: dict[str, Any] = {
    "name": "small",
    "architecture": {"encoder": "tu-regnetx_002", "encoder_depth": 3, "decoder_channels": [16, 8], "upsample": 2},
    "rendered": {"count": 1, "size": 64, "sites": 2, "lookalikes": 1},
    "batch": 4,
    "chip": 32,
    "warm_up": 2,
    "steps": 4,
    "threads": 1,
}
"""A training of seconds, without the scenes it learns from."""


def bright_spec(**changes: Any) -> ModelSpec:
    """The description of the model below."""
    facts: dict[str, Any] = {
        "name": "bright",
        "version": "1.0.0",
        "title": "bright spots (a test)",
        "target": "brick_kiln",
        "classes": ("brick_kiln",),
        "bands": ("red", "green", "blue"),
        "gsd_m": 10.0,
        "scaling": Scaling(percentiles=(2, 98), min_range=0.25, clip=(-2, 5)),
        "tile": 64,
        "halo": 16,
        "stride": 16,
        "thresholds": Thresholds(high=0.5, low=0.3),
        "confidence": Confidence(operating=0.6),
        "architecture": {"name": "mean filter"},
        "licence": "Apache-2.0",
        "data": "none",
        **changes,
    }
    return ModelSpec(**facts)


def write_bright_model(folder: Path, **changes: Any) -> Path:
    """A package that scores sigmoid(3 * (mean of a 3 x 3 window and the bands) - 6).

    A kiln-sized bright spot on dark ground reaches the scaling's upper clip (5) inside.
    """
    folder.mkdir(parents=True)
    spec = bright_spec(**changes)
    bands = len(spec.bands)
    kernel = np.full((1, bands, 3, 3), 3 / (9 * bands), np.float32)
    bias = np.array([-6], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixels", "kernel", "bias"], ["logits"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", ["logits"], ["scores"]),
        ],
        "bright",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", bands, "h", "w"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    save_file({"kernel": kernel, "bias": bias}, folder / "model.safetensors")
    (folder / "README.md").write_text("# bright spots\n\nA model for tests.\n", encoding="utf-8")
    describe(folder, spec, parameters=kernel.size + 1)
    return folder


def dark_field(shape: tuple[int, int], *, seed: int = 0) -> np.ndarray:
    """Uint8 [3, y, x] of dull ground with noise, values 40 to 59."""
    return np.random.default_rng(seed).integers(40, 60, (3, *shape)).astype(np.uint8)


def with_kilns(pixels: np.ndarray, corners: list[tuple[int, int]], size: tuple[int, int] = (10, 5)) -> np.ndarray:
    """Bright rectangles of `size` (columns, rows) with their upper left corner at (row, column)."""
    bright = pixels.copy()
    for row, col in corners:
        bright[:, row : row + size[1], col : col + size[0]] = 250
    return bright
