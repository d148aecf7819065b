"""Shared fixtures: rasters made in memory, and the way to the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
