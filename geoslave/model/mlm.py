"""model.json as a STAC item with the Machine Learning Model extension (MLM v1.5.2), and its rules.

The fields follow the published specification (github.com/stac-extensions/mlm). Its JSON schema is a third party's file
and is not kept here; `faults` states its rules by hand, so that a package can be checked without a network. They were
compared, definition by definition, with the schema of the 1.5 series as published (whose pattern takes 1.5.0 to
1.5.2; of 1.5.2 alone no copy was to be had):

* an item: required fields, no `mlm:` field that the specification lacks, and on an asset none that speaks of the whole
  model; one asset or more with the role mlm:model, `mlm:artifact_type` with that role and only with it,
  `mlm:entrypoint` only with the role code;
* names, tasks, accelerators, frameworks and their versions, data types, hyperparameters: enumerations, patterns, and
  whole numbers where numbers are counted;
* inputs and outputs: a name; shape, dim_order and data type; `bands` in dim_order where bands are named and only there,
  `variables` likewise; bands described in `properties.bands` (and on an asset, as STAC 1.1 wants);
* classes (classification 1.1.0) and functions (processing 1.1.0) with the fields these extensions require.

Not checked: `value_scaling`, `resize_type`, collections, and variables' descriptions, of which our packages have none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoslave import __version__
from geoslave.model.gate import GATE_FILE

if TYPE_CHECKING:
    from geoslave.model.package import ModelSpec

MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
CLASSIFICATION_SCHEMA = "https://stac-extensions.github.io/classification/v1.1.0/schema.json"
SHA256_MULTIHASH = "1220"
"""Prefix of a SHA-256 in the STAC file extension (multihash code and length)."""
INPUT_AXES = ["batch", "bands", "height", "width"]
"""An input that names its bands calls their dimension so."""
OUTPUT_AXES = ["batch", "channel", "height", "width"]

_ONNX_MEDIA = "application/octet-stream; framework=onnx; profile=onnx"
_REQUIRED = ("mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output")
_MODEL_WIDE = ("mlm:name", "mlm:input", "mlm:output", "mlm:hyperparameters")
_KNOWN = {
    *_REQUIRED,
    *("mlm:framework", "mlm:framework_version", "mlm:memory_size", "mlm:total_parameters", "mlm:pretrained"),
    *("mlm:pretrained_source", "mlm:batch_size_suggestion", "mlm:accelerator", "mlm:accelerator_constrained"),
    *("mlm:accelerator_summary", "mlm:accelerator_count", "mlm:hyperparameters"),
}
_ON_ASSETS = (_KNOWN - set(_MODEL_WIDE)) | {"mlm:artifact_type", "mlm:compile_method", "mlm:entrypoint"}
_TASKS = {
    *("regression", "classification", "scene-classification", "detection", "object-detection", "segmentation"),
    *("semantic-segmentation", "instance-segmentation", "panoptic-segmentation", "similarity-search"),
    *("generative", "image-captioning", "super-resolution", "downscaling"),
}
_ACCELERATORS = {None, "amd64", "cuda", "xla", "amd-rocm", "intel-ipex-cpu", "intel-ipex-gpu", "macos-arm"}
_DATA_TYPES = {
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"),
    *("cint16", "cint32", "cfloat32", "cfloat64", "other"),
}
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]")
_CLASS_NAME = re.compile(r"[0-9A-Za-z\-_]+")
_LICENCE = re.compile(r"[\w\-.+]+")
_DIMENSION = re.compile(r"[a-z\-_]+")
_PARAMETER = re.compile(r"[0-9a-zA-Z_.\-]+")
_FRAMEWORK = re.compile(r"(?=[^\s._\-]).*[^\s._\-]")
_SEMANTIC_VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}(-[0-9A-Za-z\-.]+)?(\+[0-9A-Za-z\-.]+)?")
_COUNTS = {"mlm:memory_size": 0, "mlm:total_parameters": 0, "mlm:batch_size_suggestion": 0, "mlm:accelerator_count": 1}
"""Fields that hold a whole number, and the least of it."""


def mlm_name(name: str) -> str:
    """A name as the extension wants it: it starts with a letter and has three characters or more."""
    return name if _NAME.fullmatch(name) else f"model-{name}"


def stac_licence(licence: str) -> str:
    """An SPDX id as it is; a sentence becomes 'other' (the card has the sentence)."""
    return licence if _LICENCE.fullmatch(licence) else "other"


def stac_item(folder: Path, spec: ModelSpec, parameters: int) -> dict[str, Any]:
    """The item that describes a package; its weight files must lie in `folder`."""
    bands = [{"name": band} for band in spec.bands]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM_SCHEMA, FILE_SCHEMA, CLASSIFICATION_SCHEMA],
        "id": spec.name,
        "geometry": None,
        "properties": {
            "datetime": f"{spec.created or date(1970, 1, 1)}T00:00:00Z",
            "title": spec.title,
            "license": stac_licence(spec.licence),
            "version": spec.version,
            "bands": bands,
            **_mlm_properties(spec, parameters),
            "geoslave:version": __version__,
            "geoslave:spec": spec.model_dump(mode="json"),
        },
        "links": [],
        "assets": {
            "weights": _asset(
                folder / "model.safetensors", "application/octet-stream", "safetensors.torch.save_file", bands
            ),
            "onnx": _asset(
                folder / "model.onnx",
                "application/octet-stream; framework=onnx; profile=onnx",
                "torch.onnx.export",
                bands,
            ),
            "card": {"href": "./README.md", "type": "text/markdown", "roles": ["metadata"]},
            **({} if spec.gate is None else {"gate": _gate_asset(folder / GATE_FILE)}),
        },
    }


def _mlm_properties(spec: ModelSpec, parameters: int) -> dict[str, Any]:
    size = spec.tile + 2 * spec.halo
    low, high = spec.scaling.percentiles
    return {
        "mlm:name": mlm_name(spec.name),
        "mlm:architecture": str(spec.architecture.get("name", "U-Net")),
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "ONNX",
        "mlm:total_parameters": parameters,
        "mlm:pretrained": spec.started_from is not None,
        "mlm:pretrained_source": spec.started_from,
        "mlm:batch_size_suggestion": 1,
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        "mlm:hyperparameters": {"tile": spec.tile, "halo": spec.halo, "stride": spec.stride, **spec.architecture},
        "mlm:input": [
            {
                "name": "scaled imagery",
                "bands": [{"name": band} for band in spec.bands],
                "input": {"shape": [-1, len(spec.bands), size, size], "dim_order": INPUT_AXES, "data_type": "float32"},
                "pre_processing_function": {"format": "python", "expression": "geoslave.imagery.scaling:scale"},
                "description": f"the scene's percentiles {low:g} and {high:g} of each band (at least "
                f"{spec.scaling.min_range:g} of the display range apart) become -1 and 1; GSD {spec.gsd_m:g} m",
            }
        ],
        "mlm:output": [
            {
                "name": "scores",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, len(spec.classes), size, size],
                    "dim_order": OUTPUT_AXES,
                    "data_type": "float32",
                },
                "description": "a score in [0, 1] for each class and pixel; classes do not exclude each other",
                "classification:classes": [
                    {"value": index, "name": name, "description": name.replace("_", " ")}
                    for index, name in enumerate(spec.classes, start=1)
                ],
            }
        ],
    }


def _asset(path: Path, media_type: str, artifact: str, bands: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "href": f"./{path.name}",
        "type": media_type,
        "roles": ["mlm:model"],
        "mlm:artifact_type": artifact,
        "bands": bands,
        "file:checksum": SHA256_MULTIHASH + sha256(path),
        "file:size": path.stat().st_size,
    }


def _gate_asset(path: Path) -> dict[str, Any]:
    """It is not the model that the item describes: no role of MLM fits it."""
    return {
        "href": f"./{path.name}",
        "title": "where the model need look, one score for each cell of pixels",
        "type": _ONNX_MEDIA,
        "roles": ["geoslave:gate"],
        "file:checksum": SHA256_MULTIHASH + sha256(path),
        "file:size": path.stat().st_size,
    }


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def faults(item: Mapping[str, Any]) -> list[str]:
    """What an item does against the rules, each as one line; an item in order gives none."""
    return list(_item_faults(item))


def _item_faults(item: Mapping[str, Any]) -> Iterator[str]:
    for field in ("type", "stac_version", "id", "geometry", "properties", "links", "assets"):
        if field not in item:
            yield f"'{field}' is missing"
            return
    if item["type"] != "Feature":
        yield "'type' is not Feature"
    if MLM_SCHEMA not in item.get("stac_extensions", []):
        yield f"'stac_extensions' does not name {MLM_SCHEMA}"
    if item["geometry"] is not None and "bbox" not in item:
        yield "'bbox' is missing although there is a geometry"
    properties, assets = item["properties"], item["assets"]
    if "datetime" not in properties:
        yield "'datetime' is missing"
    if not _LICENCE.fullmatch(str(properties.get("license", "other"))):
        yield "'license' is no SPDX id and not 'other'"
    yield from _property_faults(properties)
    yield from _band_faults(properties)
    if "bands" in properties and not any("bands" in asset for asset in assets.values()):
        yield "'bands' stands in the properties but on no asset, which STAC 1.1 does not allow"
    yield from _asset_faults(assets)


def _property_faults(properties: Mapping[str, Any]) -> Iterator[str]:
    missing = [field for field in _REQUIRED if field not in properties]
    yield from (f"'{field}' is missing" for field in missing)
    yield from (f"'{key}' is no field of MLM" for key in properties if key.startswith("mlm:") and key not in _KNOWN)
    if missing:
        return
    if not _NAME.fullmatch(properties["mlm:name"]):
        yield "'mlm:name' must start with a letter, end with a letter or digit, and have three characters"
    yield from _task_faults("mlm:tasks", properties["mlm:tasks"])
    if properties.get("mlm:accelerator") not in _ACCELERATORS:
        yield "'mlm:accelerator' is none of those listed"
    if properties.get("mlm:pretrained") is False and properties.get("mlm:pretrained_source", "") is not None:
        yield "'mlm:pretrained_source' must be null for a model trained from scratch"
    if not _FRAMEWORK.fullmatch(str(properties.get("mlm:framework", "ONNX"))):
        yield "'mlm:framework' must begin and end with a letter or digit"
    if not _SEMANTIC_VERSION.fullmatch(str(properties.get("mlm:framework_version", "1.0.0"))):
        yield "'mlm:framework_version' must be three numbers, as 2.1.0"
    for field, least in _COUNTS.items():
        count = properties.get(field, least)
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            yield f"'{field}' must be a whole number of at least {least}"
    parameters = properties.get("mlm:hyperparameters", {"a": 1})
    if not parameters or not all(_PARAMETER.fullmatch(key) for key in parameters):
        yield "'mlm:hyperparameters' is empty or has a name with odd characters"
    for number, entry in enumerate(properties["mlm:input"]):
        yield from _structure_faults(f"mlm:input[{number}]", entry, "input")
        yield from _dimension_faults(f"mlm:input[{number}]", entry, "input")
        if "bands" not in entry and "variables" not in entry:
            yield f"mlm:input[{number}] names neither bands nor variables"
        yield from _expression_faults(f"mlm:input[{number}].pre_processing_function", entry)
    for number, entry in enumerate(properties["mlm:output"]):
        yield from _structure_faults(f"mlm:output[{number}]", entry, "result")
        yield from _dimension_faults(f"mlm:output[{number}]", entry, "result")
        yield from _task_faults(f"mlm:output[{number}].tasks", entry.get("tasks"))
        for of in entry.get("classification:classes", []):
            if not isinstance(of.get("value"), int) or not of.get("description"):
                yield f"mlm:output[{number}]: a class needs a whole number as value, and a description"
            if not _CLASS_NAME.fullmatch(of.get("name", "a")):
                yield f"mlm:output[{number}]: class name '{of['name']}' has odd characters"


def _task_faults(where: str, tasks: Any) -> Iterator[str]:
    if not isinstance(tasks, Sequence) or not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= _TASKS:
        yield f"'{where}' must hold tasks of the list, each once"


def _structure_faults(where: str, entry: Mapping[str, Any], key: str) -> Iterator[str]:
    structure = entry.get(key)
    if not entry.get("name") or not isinstance(structure, Mapping):
        yield f"{where} needs a name and '{key}'"
        return
    shape, axes = structure.get("shape", []), structure.get("dim_order", [])
    if not shape or len(shape) != len(axes) or any(not isinstance(n, int) or n < -1 for n in shape):
        yield f"{where}: shape and dim_order must be of one length, sizes whole numbers, -1 for any"
    if len(set(axes)) < len(axes) or not all(_DIMENSION.fullmatch(axis) for axis in axes):
        yield f"{where}: dim_order must hold distinct lower-case names"
    if structure.get("data_type") not in _DATA_TYPES:
        yield f"{where}: data_type is none of those listed"


def _dimension_faults(where: str, entry: Mapping[str, Any], key: str) -> Iterator[str]:
    """What is named has a dimension of its own, and what is not named has none; bands are names, or objects of three
    fields."""
    structure = entry.get(key)
    axes = structure.get("dim_order", []) if isinstance(structure, Mapping) else []
    for kind in ("bands", "variables"):
        if bool(entry.get(kind)) != (kind in axes):
            yield f"{where}: dim_order must hold '{kind}' where {kind} are named, and only there"
        for band in entry.get(kind, []):
            fields = {"name": band} if isinstance(band, str) else band
            extra = set(fields) - {"name", "format", "expression"}
            if not fields.get("name") or extra or ("format" in fields) != ("expression" in fields):
                yield f"{where}: each of {kind} has a name, may have a format with an expression, and nothing else"


def _expression_faults(where: str, entry: Mapping[str, Any]) -> Iterator[str]:
    function = entry.get("pre_processing_function")
    if function is not None and not (function.get("format") and "expression" in function):
        yield f"{where} needs a format and an expression"


def _band_faults(properties: Mapping[str, Any]) -> Iterator[str]:
    """Bands that an input names must be described in `properties.bands` (STAC 1.1)."""
    described = {band.get("name") for band in properties.get("bands", [])}
    for entry in properties.get("mlm:input", []):
        for band in entry.get("bands", []):
            name = band if isinstance(band, str) else band.get("name")
            if name not in described:
                yield f"band '{name}' of mlm:input is not described in properties.bands"


def _asset_faults(assets: Mapping[str, Any]) -> Iterator[str]:
    if not any("mlm:model" in asset.get("roles", []) for asset in assets.values()):
        yield "no asset has the role mlm:model"
    for key, asset in assets.items():
        if "href" not in asset:
            yield f"asset '{key}' has no href"
        if ("mlm:model" in asset.get("roles", [])) != ("mlm:artifact_type" in asset):
            yield f"asset '{key}': mlm:artifact_type goes with the role mlm:model, and only with it"
        if "mlm:entrypoint" in asset and "code" not in asset.get("roles", []):
            yield f"asset '{key}': mlm:entrypoint goes with the role code"
        for field in asset:
            if field.startswith("mlm:") and field not in _ON_ASSETS:
                yield f"asset '{key}': '{field}' does not belong on an asset"
