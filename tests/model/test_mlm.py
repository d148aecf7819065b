"""model.json against the rules of STAC MLM v1.5, stated by hand, and against its schema where that is at hand.

The schema is a third party's file and not kept here. Put it and those it refers to into a folder, name the folder
in GEOSLAVE_SCHEMAS, and the last test validates with them; it does not exist otherwise (in CI a skip is a failure).
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geoslave.model.mlm import MLM_SCHEMA, faults, mlm_name, stac_licence
from tests.factories import write_bright_model


@pytest.fixture(scope="module")
def item(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_bright_model(tmp_path_factory.mktemp("mlm") / "bright", licence="free for those who ask nicely")
    read: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return read


def test_a_package_keeps_the_rules(item: dict[str, Any]) -> None:
    assert faults(item) == []
    assert item["properties"]["license"] == "other"


def break_bands(item: dict[str, Any]) -> None:
    del item["properties"]["bands"]


def break_pretrained(item: dict[str, Any]) -> None:
    del item["properties"]["mlm:pretrained_source"]


def break_artifact(item: dict[str, Any]) -> None:
    del item["assets"]["onnx"]["mlm:artifact_type"]


def break_prefix(item: dict[str, Any]) -> None:
    item["properties"]["mlm:colour"] = "blue"


def break_shape(item: dict[str, Any]) -> None:
    item["properties"]["mlm:output"][0]["result"]["shape"] = [-1, 1, 64]


def break_task(item: dict[str, Any]) -> None:
    item["properties"]["mlm:tasks"] = ["looking"]


def break_asset(item: dict[str, Any]) -> None:
    item["assets"]["onnx"]["mlm:name"] = "x"


def break_role(item: dict[str, Any]) -> None:
    for asset in item["assets"].values():
        asset["roles"] = ["data"]
        asset.pop("mlm:artifact_type", None)


def break_asset_bands(item: dict[str, Any]) -> None:
    for asset in item["assets"].values():
        asset.pop("bands", None)


def break_input(item: dict[str, Any]) -> None:
    del item["properties"]["mlm:input"]


def break_dimension(item: dict[str, Any]) -> None:
    item["properties"]["mlm:input"][0]["input"]["dim_order"] = ["batch", "channel", "height", "width"]


def break_output_dimension(item: dict[str, Any]) -> None:
    item["properties"]["mlm:output"][0]["result"]["dim_order"] = ["batch", "bands", "height", "width"]


def break_band(item: dict[str, Any]) -> None:
    item["properties"]["mlm:input"][0]["bands"][0]["colour"] = "red"


def break_entrypoint(item: dict[str, Any]) -> None:
    item["assets"]["onnx"]["mlm:entrypoint"] = "run.py"


def break_count(item: dict[str, Any]) -> None:
    item["properties"]["mlm:total_parameters"] = "many"


def break_version(item: dict[str, Any]) -> None:
    item["properties"]["mlm:framework_version"] = "1.17"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_bands, "properties.bands"),
        (break_pretrained, "pretrained_source"),
        (break_artifact, "artifact_type"),
        (break_prefix, "mlm:colour"),
        (break_shape, "dim_order must be of one length"),
        (break_task, "mlm:tasks"),
        (break_asset, "does not belong on an asset"),
        (break_role, "no asset has the role"),
        (break_asset_bands, "on no asset"),
        (break_input, "'mlm:input' is missing"),
        (break_dimension, "dim_order must hold 'bands'"),
        (break_output_dimension, "mlm:output[0]: dim_order must hold 'bands' where bands are named, and only there"),
        (break_band, "nothing else"),
        (break_entrypoint, "role code"),
        (break_count, "'mlm:total_parameters' must be a whole number"),
        (break_version, "three numbers"),
    ],
)
def test_each_broken_rule_is_named(item: dict[str, Any], damage: Callable[[dict[str, Any]], None], words: str) -> None:
    broken = copy.deepcopy(item)
    damage(broken)
    assert any(words in fault for fault in faults(broken))


def test_names_and_licences_are_made_to_fit() -> None:
    assert mlm_name("kiln-s2") == "kiln-s2" and mlm_name("3d") == "model-3d"
    assert stac_licence("CC-BY-NC-4.0") == "CC-BY-NC-4.0" and stac_licence("ask us") == "other"


if "GEOSLAVE_SCHEMAS" in os.environ:

    def test_the_published_schema_agrees(item: dict[str, Any]) -> None:
        """GEOSLAVE_SCHEMAS: a folder of schema files, found by their own `$id`; nothing is fetched."""
        from jsonschema import Draft7Validator
        from referencing import Registry, Resource
        from referencing.jsonschema import DRAFT7

        schemas = [json.loads(path.read_text()) for path in Path(os.environ["GEOSLAVE_SCHEMAS"]).rglob("*.json")]
        by_id = {schema["$id"].rstrip("#"): schema for schema in schemas if "$id" in schema}
        registry = Registry().with_resources(
            (name, Resource.from_contents(schema, default_specification=DRAFT7)) for name, schema in by_id.items()
        )
        errors = list(Draft7Validator(by_id[MLM_SCHEMA], registry=registry).iter_errors(item))
        assert errors == []
