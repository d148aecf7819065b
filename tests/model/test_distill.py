"""Training a gate: what it learns from, how its threshold is chosen, what package comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from geoslave.cli.main import cli  # noqa: E402
from geoslave.errors import GeoslaveError, ModelError  # noqa: E402
from geoslave.labels.synthetic import render_scene  # noqa: E402
from geoslave.model.distill import (  # noqa: E402
    GateConfig,
    GateNet,
    Kept,
    draw_lessons,
    drawing_config,
    fit,
    load_gate_config,
    opening,
    reach,
    scores_of,
    site_scores,
    train_gate,
    write_gated,
)
from geoslave.model.gate import GATE_FILE, OnnxGate, opened_cells  # noqa: E402
from geoslave.model.package import open_package  # noqa: E402
from geoslave.model.trainingdata import load_data  # noqa: E402
from tests.factories import bright_spec, write_bright_model  # noqa: E402
from tests.model.test_gate import spec as gate_spec  # noqa: E402


class Bright:
    """A stand-in for a refined network: it finds what is brighter in red than nearly all of its scene."""

    device = "cpu"

    def __call__(self, batch: NDArray[np.float32], margins: Any = (0, 0, 0, 0)) -> NDArray[np.float32]:
        return (batch[:, :1] > 1.05).astype(np.float32)


def quiet(_what: str, _done: int, _total: int) -> None:
    """Nobody is told."""


@pytest.fixture
def config(tmp_path: Path) -> GateConfig:
    """Three rendered scenes with labels, twelve backgrounds of two galleries, a small package, a tiny gate."""
    tables = []
    for index, name in enumerate(("east", "middle", "west")):
        scene = render_scene(index, (96, 96), n_kilns=3, origin=(720_000.0 + 50_000 * index, 2_640_000.0))
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": 96, "height": 96, "crs": "EPSG:32645"}
        with rasterio.open(tmp_path / f"{name}.tif", "w", transform=scene.raster.geobox.affine, **profile) as file:
            file.write(scene.raster.pixels)
        tables.append(scene.sites)
    gpd.GeoDataFrame(pd.concat(tables), crs="EPSG:32645").to_crs(4326).to_file(tmp_path / "sites.geojson")
    np.savez(tmp_path / "chips.npz", x=np.random.default_rng(0).integers(0, 255, (12, 48, 48, 3), dtype=np.uint8))
    pd.DataFrame({"gallery": ["a", "b"] * 6}).to_csv(tmp_path / "chips.csv", index=False)
    recipe = {
        "name": "small",
        "scenes": [{"scenes": str(tmp_path), "labels": str(tmp_path / "sites.geojson")}],
        "backgrounds": [{"chips": str(tmp_path / "chips.npz"), "table": str(tmp_path / "chips.csv")}],
        "rendered": {"count": 1, "size": 64, "sites": 2, "lookalikes": 1},
        "batch": 4,
        "chip": 32,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    told = {
        "model": str(write_bright_model(tmp_path / "bright", halo=48, stride=8)),
        "recipe": str(tmp_path / "recipe.yaml"),
        "version": "2.0.0",
        "channels": [4, 4, 4],
        "chip": 32,
        "chips": 8,
        "epochs": 1,
        "batch": 4,
        "validation": {"scenes": ["east*"], "groups": ["a"]},
        "test": {"scenes": ["west*"]},
        "threads": 1,
    }
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(told))
    return load_gate_config(tmp_path / "gate.yaml")


def test_what_is_put_aside_is_not_drawn(config: GateConfig) -> None:
    data = load_data(drawing_config(config))
    assert [scene.name for scene in data.scenes] == ["middle.tif"]
    assert data.backgrounds is not None and len(data.backgrounds.chips) == 6


def test_the_same_lessons_give_the_same_gate_and_lessons_hold_what_the_network_said(config: GateConfig) -> None:
    package = open_package(config.model)
    lessons = draw_lessons(config, Bright(), package.spec, quiet)
    assert lessons.imagery.shape == (8, 3, 32, 32) and lessons.taught.shape == (8, 4, 4)
    brightest = lessons.pixels(np.arange(8))[:, 0].reshape(8, 4, 8, 4, 8).amax((2, 4))
    taught = lessons.scores(np.arange(8))[:, 0]
    assert torch.equal(taught == 1, brightest > 1.06) or (taught[brightest > 1.1] == 1).all()
    first, again = (fit(lessons, 3, config, quiet).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_gate_learns_where_the_network_finds_something(config: GateConfig) -> None:
    lessons = draw_lessons(config.model_copy(update={"chips": 48}), Bright(), open_package(config.model).spec, quiet)
    longer = config.model_copy(update={"epochs": 30, "batch": 8, "channels": (8, 8, 8)})
    gate = fit(lessons, 3, longer, quiet)
    with torch.inference_mode():
        scores = torch.sigmoid(gate(lessons.pixels(np.arange(48))))
    taught = lessons.scores(np.arange(48)) > 0.5
    assert taught.any() and (~taught).any()
    assert scores[taught].mean() > scores[~taught].mean() + 0.2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_the_threshold_keeps_the_share_of_sites_asked_for_and_is_the_highest_that_does(
    scores: list[float], recall: float
) -> None:
    kept = Kept(np.array(scores, np.float32), np.empty(0, np.float32))
    threshold = kept.threshold(recall)
    assert kept.recall(threshold) >= recall - 1e-9
    higher = [score for score in scores if score > threshold]
    assert not higher or kept.recall(min(higher)) < recall


def test_without_a_site_there_is_no_threshold() -> None:
    with pytest.raises(ModelError, match="finds nothing"):
        Kept(np.empty(0, np.float32), np.empty(0, np.float32)).threshold(0.99)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_a_sites_score_is_the_highest_threshold_at_which_all_of_it_is_opened(seed: int, margin: int) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.uniform(0.01, 0.99, (6, 7)).astype(np.float32)
    found = np.zeros((1, 48, 56), np.float32)
    top, left = rng.integers(0, 30, 2)
    found[0, top : top + 12, left : left + 7] = 0.9
    (score,) = site_scores(found, opening(cells, margin), bright_spec())
    for threshold, whole in ((score, True), (np.nextafter(score, np.float32(1)), False)):
        opened = opened_cells(cells, gate_spec(float(threshold), margin), (0, 0, 48, 56))
        assert opened.repeat(8, 0).repeat(8, 1)[found[0] > 0].all() == whole


def test_how_far_a_gate_sees_is_told_from_its_layers() -> None:
    torch.manual_seed(0)
    gate = scores_of(GateNet(1, (4, 4, 4)).eval())
    blank = np.zeros((1, 160, 160), np.float32)
    seen = np.zeros((160, 160), bool)
    for offset in range(160):
        for point in ((80, offset), (offset, 80)):
            one = blank.copy()
            one[0, point[0], point[1]] = 50
            seen[point] = gate(one)[10, 10] != gate(blank)[10, 10]
    rows, cols = np.nonzero(seen)
    told = reach(GateNet(1, (4, 4, 4)), GateNet.CELL)
    assert min(rows.min(), cols.min()) >= 80 - told and max(rows.max(), cols.max()) <= 87 + told
    assert max(80 - rows.min(), rows.max() - 87, 80 - cols.min(), cols.max() - 87) >= told - 2


def test_a_package_with_a_gate_is_the_model_with_a_gate(config: GateConfig, tmp_path: Path) -> None:
    package = open_package(config.model)
    result = train_gate(config, package, Bright(), quiet)
    assert result.chosen_on.recall(result.threshold) >= config.recall
    written = open_package(write_gated(package, result, config, tmp_path / "out"))
    assert written.checksum == package.checksum and written.spec.version == "2.0.0"
    gate = written.spec.gate
    assert gate is not None and gate.threshold == result.threshold and gate.metrics["test_sites"] > 0
    card = (written.folder / "README.md").read_text()
    assert "## The gate" in card and f"{gate.threshold:.4g}" in card
    imagery = np.random.default_rng(1).normal(0, 1, (3, 64, 96)).astype(np.float32)
    onnx = OnnxGate(written.folder / GATE_FILE, 1)(imagery)
    assert onnx.shape == (8, 12)
    assert np.allclose(onnx, scores_of(result.network)(imagery), atol=1e-5)


def test_the_command_refuses_to_overwrite_before_it_trains(config: GateConfig, tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["models", "gate", str(tmp_path / "gate.yaml"), "--out", config.model])
    assert isinstance(run.exception, ModelError) and "--overwrite" in str(run.exception)


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(json.dumps({"model": "m", "recipe": "r", "version": "1", "recal": 0.9}))
    with pytest.raises(GeoslaveError, match=r"line 1: 'recal' is no setting: did you mean 'recall'\?"):
        load_gate_config(tmp_path / "gate.yaml")
    (tmp_path / "gate.yaml").write_text("model: m\nrecipe: r\nversion: '1'\nvalidation:\n  scene: [a]\n")
    with pytest.raises(GeoslaveError, match="line 5: 'scene' is no setting of validation"):
        load_gate_config(tmp_path / "gate.yaml")
