"""Shared fixtures: rasters and scenes made on the spot, a model that needs no training, the real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings

# machines differ in speed, laws do not
settings.register_profile("geoslave", deadline=None)
settings.load_profile("geoslave")

ROOT = Path(__file__).resolve().parent.parent
UTM = Affine(10, 0, 500_000, 0, -10, 2_650_000)
"""10 m pixels in UTM 45 or 46 N, about 24 degrees north."""


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real imagery: GEOSLAVE_DATA, else ../shared/data. In CI its absence is a failure."""
    folder = Path(os.environ.get("GEOSLAVE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        message = f"REAL DATA ABSENT: {folder} is not there; set GEOSLAVE_DATA to the folder of test imagery"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture
def make_scene(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GeoTIFF: `make_scene(pixels[band, y, x], name=..., any rasterio profile option)`."""

    def write(
        pixels: Any, name: str = "scene.tif", *, mask: Any = None, descriptions: Any = (), **options: Any
    ) -> Path:
        pixels = np.asarray(pixels)
        profile = {"crs": "EPSG:32645", "transform": UTM, "driver": "GTiff", "photometric": None, **options}
        if profile["photometric"] is None:
            profile["photometric"] = "RGB" if pixels.shape[0] == 3 and pixels.dtype == np.uint8 else "MINISBLACK"
        path = tmp_path / name
        count, rows, cols = pixels.shape
        with rasterio.open(path, "w", width=cols, height=rows, count=count, dtype=pixels.dtype, **profile) as file:
            file.write(pixels)
            if mask is not None:
                file.write_mask(mask)
            for number, text in enumerate(descriptions, start=1):
                file.set_band_description(number, text)
        return path

    return write


@pytest.fixture(scope="session")
def bright_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose score is how bright a pixel is, the mean of 3 x 3 pixels: no training, exact answers."""
    from tests.factories import write_bright_model

    return write_bright_model(tmp_path_factory.mktemp("models") / "bright")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI the data and every program are there: a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("skipped tests count as failures in CI", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a geoslave command in this process: (exit status, standard output, standard error)."""
    from geoslave.cli.main import run as run_command

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run_command([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call
