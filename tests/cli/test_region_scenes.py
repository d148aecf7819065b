"""Scenes of a region by the command line, and on to the layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import yaml

from tests.imagery.test_catalog import serving
from tests.scenes import make_product, reflectances

Run = Callable[..., tuple[int, str, str]]
SIDE = 1536
KILNS = [(300, 320), (500, 640), (700, 410)]
"""Rows and columns of bright rectangles."""


def kiln_country(seed: int, step: int = 0) -> np.ndarray:
    pixels = reflectances((SIDE, SIDE), seed)
    for row, col in KILNS:
        pixels[:, row : row + 5, col : col + 10] = 9000
    return (pixels + step).astype(np.uint16)


@pytest.fixture
def region(tmp_path: Path, bright_model: Path, run: Run) -> Callable[..., Any]:
    """`geoslave region WORD r1 ...` for a region with an area inside the scenes."""
    x, y = 500_000, 2_650_000
    area = gpd.GeoSeries([shapely.box(x + 2700, y - 12_700, x + 12_700, y - 2700)], crs="EPSG:32645").to_crs(
        "OGC:CRS84"
    )
    area.to_file(tmp_path / "aoi.geojson")

    def call(word: str, *arguments: object) -> tuple[int, str, str]:
        return run("region", word, "r1", "--regions", tmp_path / "regions", *arguments)

    status, _, told = call("init", "--aoi", tmp_path / "aoi.geojson", "--model", bright_model)
    assert status == 0, told
    return call


def settings(tmp_path: Path, **changes: object) -> None:
    config = tmp_path / "regions" / "r1" / "region.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text(encoding="utf-8")), **changes}))


def test_from_a_search_to_a_layer(tmp_path: Path, region: Callable[..., Any]) -> None:
    """A cloud over one kiln on the newest day: the layer has them all, for hardly more than the blocks needed."""
    cloud = np.full((SIDE // 2, SIDE // 2), 4)
    cloud[140:170, 150:180] = 9
    with serving("range_server.py", tmp_path) as files:
        described = [
            make_product(tmp_path, "new", kiln_country(0), base=files, classes=cloud, taken="2024-02-01T05:00:00Z",
                         properties={"s2:processing_baseline": "05.10"}),
            make_product(tmp_path, "old", kiln_country(1), base=files, taken="2024-01-01T05:00:00Z",
                         properties={"s2:processing_baseline": "05.10"}),
            make_product(tmp_path, "grey", kiln_country(2), base=files, taken="2024-01-05T05:00:00Z", cloud=80),
        ]  # fmt: skip
        (tmp_path / "items.json").write_text(json.dumps(described), encoding="utf-8")
        with serving("stac_server.py", tmp_path / "items.json") as api:
            dates = ("--dates", "2023-11-01/2024-03-31")
            status, said, told = region("scenes", "--api", api, *dates, "--max-cloud", 20, "--json")
        assert status == 0, told
        facts = json.loads(said)
        assert (facts["n_scenes"], facts["first_day"], facts["crs"]) == (2, "2024-01-01", ["EPSG:32645"])
        settings(tmp_path, composite="latest", block=256)
        status, _, told = region("run", "--workers", 0)
        assert status == 0, told
        sent = int(urlopen(f"{files}/_sent").read())
    layer = tmp_path / "found.geojson"
    status, _, told = region("export", "--out", layer)
    assert status == 0, told
    found = gpd.read_file(layer).to_crs("EPSG:32645")
    places = {(int((2_650_000 - c.y) // 10), int((c.x - 500_000) // 10)) for c in found.geometry.centroid}
    assert len(found) == 3 and all(any(abs(r + 2 - y) < 3 and abs(c + 5 - x) < 3 for y, x in places) for r, c in KILNS)
    # the grid meets all blocks of the new scene, and under its cloud one of the old
    needed = sum(all_blocks(tmp_path / "new" / f"{band}.tif") for band in ("B02", "B03", "B04"))
    assert needed < sent < 1.2 * needed


def all_blocks(path: Path) -> int:
    """Bytes of the pixels, without overviews and header."""
    with rasterio.open(path) as file:
        return sum(file.block_size(1, *index) for index, _ in file.block_windows(1))


def test_scenes_are_replaced_or_added_to_only_when_asked(
    tmp_path: Path, region: Callable[..., Any], make_scene: Callable[..., Path]
) -> None:
    pixels = np.full((3, 900, 900), 90, np.uint8)
    (tmp_path / "tiles").mkdir()
    make_scene(pixels, "tiles/a_20240101.tif")
    other = make_scene(pixels, "b.tif")
    status, said, told = region("scenes", tmp_path / "tiles")
    assert status == 0, told
    assert "1 scene  ->" in said and "taken 2024-01-01" in said
    status, _, told = region("scenes", other)
    assert status == 1 and "--add" in told
    assert region("scenes", other, "--add")[0] == 0
    folder = tmp_path / "regions" / "r1" / "scenes"
    assert sorted(path.stem for path in folder.iterdir()) == ["a_20240101", "b"]
    assert region("scenes", other, "--overwrite")[0] == 0
    assert [path.stem for path in folder.iterdir()] == ["b"]


def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, region: Callable[..., Any], make_scene: Callable[..., Path]
) -> None:
    elsewhere = make_scene(
        np.ones((3, 50, 50), np.uint8), "far.tif", transform=rasterio.Affine(10, 0, 3e5, 0, -10, 1e6)
    )
    no_bands = make_product(tmp_path, "p", reflectances((900, 900)))
    del no_bands["assets"]["green"]
    (tmp_path / "item.json").write_text(json.dumps(no_bands), encoding="utf-8")
    cases = [
        ((), 2, "name the scenes"),
        ((elsewhere,), 1, "none of the scenes named meets"),
        ((tmp_path / "item.json",), 1, "no asset for green"),
        (("x.tif", "--dates", "2024"), 2, "no span of days"),
        (("--api", "http://127.0.0.1:1", "--dates", "2024-03-01/2024-01-01"), 1, "dates are reversed"),
        (("--api", "http://127.0.0.1:1",), 1, "cannot be asked"),
    ]  # fmt: skip
    for arguments, expected, text in cases:
        status, _, told = region("scenes", *arguments)
        assert (status, text in told) == (expected, True), (arguments, told)
        assert "Traceback" not in told
