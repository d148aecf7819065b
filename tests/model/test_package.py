"""A package is checked before it is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from geoslave.errors import ModelError
from geoslave.model.package import Confidence, list_packages, open_package
from tests.factories import bright_spec, write_bright_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bright_model(tmp_path / "bright")


def change(model: Path, **spec: object) -> None:
    path = model / "model.json"
    item = json.loads(path.read_text())
    item["properties"]["geoslave:spec"].update(spec)
    path.write_text(json.dumps(item))


def test_what_is_written_is_read(model: Path) -> None:
    package = open_package(model)
    assert package.spec == bright_spec()
    assert package.model_id.startswith("bright@1.0.0+")


def test_it_is_a_stac_item_with_mlm_fields(model: Path) -> None:
    item = json.loads((model / "model.json").read_text())
    assert item["type"] == "Feature" and "geometry" in item and item["links"] == []
    assert any("mlm/v1.5" in extension for extension in item["stac_extensions"])
    properties = item["properties"]
    assert properties["mlm:tasks"] == ["semantic-segmentation"]
    assert [band["name"] for band in properties["mlm:input"][0]["bands"]] == ["red", "green", "blue"]
    assert [of["name"] for of in properties["mlm:output"][0]["classification:classes"]] == ["brick_kiln"]
    assert [key for key, asset in item["assets"].items() if asset["roles"] == ["mlm:model"]] == ["weights", "onnx"]


def test_changed_or_missing_weights_are_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="hash differs"):
        open_package(model)
    weights.unlink()
    with pytest.raises(ModelError, match="missing"):
        open_package(model)


def test_a_later_format_is_refused_not_guessed_at(model: Path) -> None:
    change(model, format=99)
    with pytest.raises(ModelError, match=r"made by geoslave .*newer than this.*update"):
        open_package(model)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("bands", None, "bands"),
        ("halo", 17, "stride"),
        ("target", "dragon", "dragon"),
        ("thresholds", {"high": 0.2, "low": 0.4}, "must not exceed"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_wrong_description_names_the_field(model: Path, field: str, value: object, words: str) -> None:
    change(model, **{field: value})
    with pytest.raises(ModelError, match=words) as caught:
        open_package(model)
    assert "\n" not in str(caught.value)


def test_a_damaged_description(model: Path) -> None:
    (model / "model.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as a model description"):
        open_package(model)


def test_own_models_come_before_those_that_ship(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSLAVE_MODELS", str(model.parent))
    names = [folder.name for folder in list_packages()]
    assert names[0] == "bright" and open_package("bright").folder == model


STATISTIC = st.floats(0, 1)


@given(a=STATISTIC, b=STATISTIC, slope=st.floats(0.1, 5), intercept=st.floats(-5, 5))
def test_calibrated_confidence_keeps_the_order_and_the_range(
    a: float, b: float, slope: float, intercept: float
) -> None:
    low, high = sorted((a, b))
    confidence = Confidence(statistic="score_mean", slope=slope, intercept=intercept)
    first, second = confidence.apply(np.array([low, high]), np.array([1.0, 1.0]))
    assert 0 <= first <= second <= 1


def test_uncalibrated_confidence_is_the_score() -> None:
    mean, top = np.array([0.2, 0.4]), np.array([0.5, 0.9])
    assert Confidence(statistic="score_max").apply(mean, top).tolist() == [0.5, 0.9]
    assert Confidence(statistic="score_mean").apply(mean, top).tolist() == [0.2, 0.4]
    with pytest.raises(ValidationError):
        Confidence(statistic="area")
