"""Metadata with which QGIS's plugin Deepness runs a model.onnx by itself.

The plugin (PUTvision/qgis-plugin-deepness) reads JSON values from the ONNX file's metadata. It sends
pixels / 255 through (value - mean) / std, the same for every scene, where geoslave takes each scene's
own percentiles: mean and std stand for a **typical** scene (`TYPICAL_LOW`, `TYPICAL_WIDTH`), so scores
in Deepness differ from geoslave's, most on dull or bright scenes, and are good for a look, not for
figures. It wants 8-bit imagery (Sentinel-2 true colour), bands in the order of `geoslave_bands`.

With one class the model is a Segmentor: what reaches `seg_thresh` is a site. Deepness gives several
classes to the strongest, without a background; such a model is a Regressor there: a map of scores a class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from geoslave.errors import MissingExtra
from geoslave.imagery.scaling import Scaling

TYPICAL_LOW = 0.05
TYPICAL_WIDTH = 0.53
"""Percentile 2, and 98 less 2, of Sentinel-2 true colour of kiln country in display units: medians of 30 chips."""


def deepness_metadata(
    *,
    classes: tuple[str, ...],
    bands: tuple[str, ...],
    gsd_m: float,
    tile: int,
    halo: int,
    threshold: float,
    scaling: Scaling,
) -> dict[str, str]:
    """The plugin's keys with their values as JSON.

    Args:
        tile, halo: in pixels; the plugin's tile holds both, its overlap is at least two halos.
        threshold: score from which a pixel is of a site.
    """
    width = max(TYPICAL_WIDTH, scaling.min_range)
    side = tile + 2 * halo
    values: dict[str, object] = {
        "model_type": "Segmentor" if len(classes) == 1 else "Regressor",
        "class_names": dict(enumerate(("background", *classes) if len(classes) == 1 else classes)),
        "resolution": gsd_m * 100,
        "tile_size": side,
        "tiles_overlap": -(-200 * halo // side),
        "standardization_mean": [TYPICAL_LOW + width / 2] * len(bands),
        "standardization_std": [width / 2] * len(bands),
        "geoslave_bands": list(bands),
    }
    if len(classes) == 1:
        values |= {"seg_thresh": threshold, "seg_small_segment": 1}
    else:
        values["reg_output_scaling"] = 1.0
    return {key: json.dumps(value) for key, value in values.items()}


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Write metadata into an ONNX file, and call its answers square, which the plugin insists on.

    Only the names of the output's free sides change: any height and width still works.

    Raises:
        MissingExtra: without the package onnx.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtra("writing ONNX", "train") from None
    model = onnx.load(str(path))
    kept = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    for key, value in {**kept, **metadata}.items():
        model.metadata_props.add(key=key, value=value)
    for output in model.graph.output:
        for side in output.type.tensor_type.shape.dim[2:]:
            if not side.HasField("dim_value"):
                side.dim_param = "side"
    onnx.save(model, str(path))
