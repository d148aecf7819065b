"""A gate for the model of `factories`: bright cells are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from geoslave.model.gate import GATE_FILE, GateSpec
from geoslave.model.mlm import sha256
from geoslave.model.package import describe
from tests.factories import bright_spec, write_bright_model

CELL = 8


def write_gated_model(folder: Path, *, threshold: float = 0.5, margin: int = 1, **changes: Any) -> Path:
    """The package of `write_bright_model` with a gate: sigmoid of the brightest pixel of each cell, less 2."""
    write_bright_model(folder, **changes)
    bands = len(bright_spec(**changes).bands)
    kernel = np.full((1, bands, 1, 1), 1 / bands, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixels", "kernel", "bias"], ["mean"], kernel_shape=[1, 1]),
            helper.make_node("MaxPool", ["mean"], ["highest"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
            helper.make_node("Sigmoid", ["highest"], ["scores"]),
        ],
        "bright",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", bands, "h", "w"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1, "r", "c"])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.array([-2], np.float32), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / GATE_FILE)
    gate = GateSpec(
        sha256=sha256(folder / GATE_FILE), cell=CELL, reach=0, margin=margin, threshold=threshold, recall=0.99
    )
    describe(folder, bright_spec(gate=gate, **changes))
    return folder
