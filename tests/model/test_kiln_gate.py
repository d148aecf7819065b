"""The gate that ships with kiln-s2, on real imagery."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geoslave.detect import detect_scene
from geoslave.model.gate import gated
from geoslave.model.package import ModelPackage, open_package
from geoslave.model.predict import load_network


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return open_package("kiln-s2")


@pytest.fixture
def unseen(data_dir: Path, make_scene: Callable[..., Path]) -> Path:
    """The chips that the gate was not trained on, two wide."""
    paths = sorted((data_dir / "kilns_s2" / "chips").glob("23.[02]*.tif"))
    whole = np.zeros((3, math.ceil(len(paths) / 2) * 128, 256), np.uint8)
    for index, path in enumerate(paths):
        row, col = divmod(index, 2)
        with rasterio.open(path) as file:
            whole[:, row * 128 : row * 128 + 128, col * 128 : col * 128 + 128] = file.read()
    return make_scene(whole, transform=Affine(10, 0, 500_000, 0, -10, 2_650_000))


def test_it_keeps_the_kilns_and_their_scores_and_adds_no_alarm(
    package: ModelPackage, unseen: Path, tmp_path: Path
) -> None:
    found, maps = {}, {}
    for use in (True, False):
        network = gated(load_network(package, "onnx", 1), package, 1, use=use)
        scores = tmp_path / f"{use}.tif"
        sites = detect_scene(unseen, package, network, tmp_path, scores=scores).detections
        found[use] = sites[sites["confidence"] >= package.spec.confidence.operating]
        with rasterio.open(scores) as file:
            maps[use] = file.read(1).astype(int)
    assert len(found[False]) >= 5
    near = found[True].geometry.centroid.union_all()
    assert (found[False].geometry.centroid.distance(near) < 20).all()
    opened = maps[True] > 0
    assert np.abs(maps[True] - maps[False])[opened].max() <= 1  # steps of 1/254, as wherever chips fall
    assert opened.mean() < 0.3


def test_its_card_says_what_the_gate_costs_and_loses(package: ModelPackage) -> None:
    gate = package.spec.gate
    assert gate is not None and gate.recall >= 0.99
    card = (package.folder / "README.md").read_text(encoding="utf-8")
    for words in ("## The gate", f"{gate.threshold:.4g}", f"{gate.recall:.1%}", "--no-gate", "speed"):
        assert words in card
