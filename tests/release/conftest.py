"""A layer and a public release of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from geoslave.detections.export import write_detections
from tests.release.country import PROVENANCE, country


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 detections as a GeoPackage."""
    return write_detections(country(), tmp_path_factory.mktemp("layer") / "kilns.gpkg", provenance=PROVENANCE)


@pytest.fixture
def release(layer: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> Path:
    """A public release."""
    status, _, err = run("release", layer, "--out", tmp_path / "public", "--author", "Kiln Watch")
    assert status == 0, err
    return tmp_path / "public"
