"""A region of two overlapping scenes with kilns on seams of blocks, small enough for seconds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from geoslave.region.layout import RegionFolder
from geoslave.region.setup import init_region
from tests.conftest import UTM
from tests.factories import dark_field, with_kilns

Make = Callable[..., Path]
MakeRegion = Callable[..., RegionFolder]


def country(shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    """Dark ground with many kilns, some of them on seams (multiples of 64) and one in every corner of four."""
    rng = np.random.default_rng(seed)
    corners = [(int(y), int(x)) for y in range(14, shape[0] - 20, 48) for x in rng.integers(3, shape[1] - 14, 2)]
    corners += [(y - 2, x - 5) for y in range(128, shape[0] - 8, 128) for x in range(128, shape[1] - 8, 128)]
    return with_kilns(dark_field(shape, seed=seed), corners)


@pytest.fixture
def scenes(make_scene: Make) -> list[Path]:
    """Two scenes that share 80 columns, one with a gap of missing imagery."""
    whole = country((300, 420))
    whole[:, 100:130, 30:60] = 0
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "nodata": 0}
    left = make_scene(whole[:, :, :250], name="left_20200105.tif", **tiles)
    right = make_scene(
        whole[:, :, 170:], name="right_20200210.tif", transform=UTM @ Affine.translation(170, 0), **tiles
    )
    return [left, right]


@pytest.fixture
def make_region(tmp_path: Path, bright_model: Path, scenes: list[Path]) -> MakeRegion:
    """`make_region(name, setting=value, ...)`: a region of the two scenes with blocks of 128 pixels."""

    def make(name: str = "test", aoi: Path | None = None, **settings: object) -> RegionFolder:
        region = init_region(tmp_path / "regions" / name, aoi, None, str(bright_model), [str(s) for s in scenes])
        lines = {"block": 128, "threads": 1, **settings}
        change(region, **lines)
        return region

    return make


def change(region: RegionFolder, **settings: object) -> None:
    """Set settings in a region.yaml."""
    import yaml

    told = yaml.safe_load(region.config.read_text())
    region.config.write_text(yaml.safe_dump({**told, **settings}))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Regions on a disk of a few hundred kilobytes."""
    folder = tmp_path / "regions"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        message = f"NO SMALL DISK: a tmpfs cannot be mounted ({mounted.stderr.decode().strip()})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
