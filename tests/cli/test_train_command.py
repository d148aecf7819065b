"""`geoslave train`: from a recipe to a package, with a log and a picture, and on again after a break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

pytest.importorskip("torch")

Run = Callable[..., tuple[int, str, str]]

RECIPE: dict[str, Any] = {
    "name": "small",
    "architecture": {"encoder": "tu-regnetx_002", "encoder_depth": 3, "decoder_channels": [16, 8], "upsample": 2},
    "rendered": {"count": 2, "size": 96, "sites": 3, "lookalikes": 1},
    "batch": 4,
    "chip": 32,
    "warm_up": 2,
    "steps": 4,
    "threads": 1,
    "checkpoint_every": 2,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_a_recipe_becomes_a_package_with_a_log_and_a_picture(recipe: Path, run: Run, tmp_path: Path) -> None:
    status, out, err = run("train", recipe, "--out", tmp_path / "model", "--json")
    assert status == 0, err
    facts = json.loads(out)
    assert facts["steps"] == 4
    assert (tmp_path / "model" / "model.onnx").is_file()
    assert len(Path(facts["log"]).read_text().splitlines()) == 5
    assert Image.open(facts["picture"]).width > 1000
    assert not list((tmp_path / "model-training").glob("checkpoint*"))
    assert list((tmp_path / "model-training" / "tensorboard").iterdir())


def test_a_broken_off_training_goes_on_and_says_so(
    recipe: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("geoslave.model.publish.publish", broken)
        assert run("train", recipe, "--out", tmp_path / "model")[0] != 0
    assert not (tmp_path / "model").exists()
    checkpoint = tmp_path / "model-training" / "checkpoint.safetensors"

    recipe.write_text(yaml.safe_dump({**RECIPE, "seed": 5}))
    before = checkpoint.read_bytes()
    status, _, err = run("train", recipe, "--out", tmp_path / "model")
    assert status == 1 and "another configuration" in err and "--restart" in err
    assert checkpoint.read_bytes() == before

    recipe.write_text(yaml.safe_dump({**RECIPE, "publication": {"title": "may change"}}))
    status, _, err = run("train", recipe, "--out", tmp_path / "model")
    assert status == 0 and "goes on after step 4 of 4" in err
    assert "may change" in (tmp_path / "model" / "README.md").read_text()
