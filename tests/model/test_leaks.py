"""No site that is tested on stands in a chip that is trained on, although chips overlap: on training's own path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from affine import Affine

pytest.importorskip("torch")

from geoslave.errors import LabelError
from geoslave.labels.split import SpatialBlocks
from geoslave.model.placed import TrainScene
from geoslave.model.recipe import TrainConfig
from geoslave.model.sampling import draw_batch
from geoslave.model.trainingdata import load_data

CRS = "EPSG:32645"
WEST, NORTH, GSD = 500_000, 2_650_000, 10
CHIP, STRIDE, CHIPS = 48, 24, 4
"""Chips overlap by half."""
LONGEST_M = 80
BLOCKS: dict[str, Any] = {"by": "blocks", "block_m": 300, "buffer_m": LONGEST_M, "share": 0.3}
TESTED = 251
"""Grey value that only sites to be tested on have."""
SMALL: dict[str, Any] = {
    "name": "small",
    "gsd_m": GSD,
    "outline_m": 0,
    "architecture": {"encoder": "tu-regnetx_002", "encoder_depth": 3, "decoder_channels": [16, 8], "upsample": 2},
    "rendered": {"count": 0},
    "batch": 4,
    "chip": 32,
    "steps": 1,
    "warm_up": 1,
    "threads": 1,
    "workers": 0,
}


def _site(row: int, col: int) -> shapely.Polygon:
    """A site of 80 m by 40 m; row and column in pixels."""
    left, top = WEST + GSD * col, NORTH - GSD * row
    return shapely.box(left, top - 40, left + LONGEST_M, top)


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    """16 overlapping chips of one place with sites all over; those in blocks for testing have a grey of their own."""
    side = STRIDE * (CHIPS - 1) + CHIP
    corners = [(row, col) for row in range(3, side - 6, 9) for col in range(1, side - 9, 11)]
    outlines = gpd.GeoSeries([_site(*corner) for corner in corners], crs=CRS)
    blocks = SpatialBlocks(BLOCKS["block_m"], BLOCKS["buffer_m"], BLOCKS["share"])
    points = outlines.to_crs(4326).representative_point()
    tested = [blocks.is_test(*blocks.row_column(point.x, point.y)) for point in points]
    assert 3 < sum(tested) < len(tested) - 3
    grey = np.random.default_rng(0).integers(40, 90, (side, side), dtype=np.uint8)
    for (row, col), is_tested in zip(corners, tested, strict=True):
        grey[row : row + 4, col : col + 8] = TESTED if is_tested else 200
    for row, col in np.ndindex(CHIPS, CHIPS):
        _write(tmp_path / "chips" / f"chip-{row}-{col}.tif", grey, row * STRIDE, col * STRIDE)
    region = np.where(outlines.centroid.x < WEST + GSD * side / 2, "west", "east")
    table = gpd.GeoDataFrame({"class_name": "brick_kiln", "region": region}, geometry=outlines, crs=CRS)
    table.to_file(tmp_path / "sites.gpkg")
    return tmp_path


def _write(path: Path, grey: np.ndarray, row: int, col: int) -> None:
    path.parent.mkdir(exist_ok=True)
    piece = np.repeat(grey[None, row : row + CHIP, col : col + CHIP], 3, axis=0)
    transform = Affine(GSD, 0, WEST + GSD * col, 0, -GSD, NORTH - GSD * row)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=3, width=CHIP, height=CHIP, crs=CRS, transform=transform
    ) as file:
        file.write(piece)


def _recipe(folder: Path, validation: dict[str, Any], **scenes: Any) -> dict[str, Any]:
    source = {"scenes": str(folder / "chips"), "labels": str(folder / "sites.gpkg"), "edge_m": 0, **scenes}
    return {**SMALL, "scenes": [source], "validation": validation}


def _config(folder: Path, validation: dict[str, Any], **scenes: Any) -> TrainConfig:
    return TrainConfig.model_validate(_recipe(folder, validation, **scenes))


def _shown(scenes: Sequence[TrainScene]) -> shapely.Geometry:
    """The ground that scenes show in training, pixel by pixel, in the chips' CRS."""
    pixels = []
    for scene in scenes:
        row, col = (STRIDE * int(number) for number in scene.name[5:8].split("-"))
        rows, cols = np.nonzero(scene.patch.valid)
        left, top = WEST + GSD * (col + cols), NORTH - GSD * (row + rows)
        pixels.append(shapely.box(left, top - GSD, left + GSD, top))
    return shapely.union_all(np.concatenate(pixels))


def test_no_pixel_of_a_site_to_be_tested_on_is_shown_in_training(chips: Path) -> None:
    config = _config(chips, BLOCKS)
    data = load_data(config)
    assert data.validation.scenes and any(len(scene.sites) for scene in data.scenes)
    for scene in data.scenes:
        assert not (scene.patch.pixels[:, scene.patch.valid] == TESTED).any()
        assert not (scene.patch.pixels == TESTED).any()
    for step in range(3):
        assert draw_batch(data, config, step).truth.any()


def test_without_the_buffer_sites_leak_and_training_is_refused(chips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(chips, {**BLOCKS, "buffer_m": 0})
    with pytest.raises(LabelError, match=r"sites put aside .* reach into what is trained on.*buffer_m"):
        load_data(config)
    monkeypatch.setattr("geoslave.model.aside._refuse_leaks", lambda *_: None)
    assert any((scene.patch.pixels == TESTED).any() for scene in load_data(config).scenes), "so the buffer is needed"


def test_the_command_says_so_and_writes_no_model(chips: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    recipe = chips / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(_recipe(chips, {**BLOCKS, "buffer_m": 0})))
    status, _, err = run("train", recipe, "--out", chips / "model")
    assert status == 1
    assert "validation.buffer_m" in err and "Traceback" not in err
    assert not (chips / "model").exists()


def test_a_region_held_out_is_not_shown_by_chips_of_another_that_overlap_it(chips: Path) -> None:
    """Leave one region out: by `held_out` for a test elsewhere, by `validation` for one on the way."""
    sites = gpd.read_file(chips / "sites.gpkg")
    watched = load_data(_config(chips, {"by": "region", "regions": ["east"]}, region_column="region"))
    held_out = load_data(_config(chips, {"by": "none"}, region_column="region", held_out=["east"]))
    aside = shapely.union_all([placed.footprint for placed in watched.validation.scenes])
    ground = gpd.GeoSeries([aside], crs=4326).to_crs(CRS).iloc[0]
    tested = sites.geometry[sites.representative_point().within(ground)]
    assert len(tested)
    for data in (watched, held_out):
        assert {scene.region for scene in data.scenes} == {"west"}
        shown = _shown(data.scenes)
        assert shown.area > 0 and shown.intersection(ground).area < GSD**2 / 100
        assert shown.intersection(tested.union_all()).area < GSD**2 / 100


def test_scenes_left_out_for_the_test_are_not_shown_by_others_either(chips: Path) -> None:
    config = _config(chips, {"by": "none"}, leave_out=["chip-?-[01]*"])
    edge = WEST + GSD * (STRIDE + CHIP)
    reaching_out = gpd.read_file(chips / "sites.gpkg").geometry
    middle = reaching_out.representative_point().x
    reaching_out = reaching_out[(middle < edge) & (reaching_out.bounds.maxx > edge)]
    shown = _shown(load_data(config).scenes)
    assert len(reaching_out)
    assert shown.bounds[0] >= edge and shown.intersection(reaching_out.union_all()).area == 0
    (chips / "chips" / "chip-0-0.tif").write_bytes(b"no image")
    assert len(load_data(config).scenes) == CHIPS * (CHIPS - 2)


def test_answers_about_chips_that_overlap_those_put_aside_are_not_learned(chips: Path) -> None:
    rows = [
        {"kind": "chip", "presence": "yes" if (row + col) % 3 == 0 else "no", "village": f"v{col}",
         "geometry": shapely.box(left := WEST + GSD * STRIDE * col, (top := NORTH - GSD * STRIDE * row) - GSD * CHIP,
                                 left + GSD * CHIP, top)}
        for row, col in np.ndindex(CHIPS, CHIPS)
    ]  # fmt: skip
    gpd.GeoDataFrame(rows, crs=CRS).to_crs(4326).to_file(chips / "answers.gpkg")
    answers = {"scenes": str(chips / "chips"), "files": "*-0-0.tif", "labels": str(chips / "answers.gpkg")}
    side = STRIDE * (CHIPS - 1) + CHIP
    whole = np.random.default_rng(0).integers(40, 90, (3, side, side), dtype=np.uint8)
    with rasterio.open(
        chips / "chips" / "chip-0-0.tif", "w", driver="GTiff", dtype="uint8", count=3, width=side, height=side,
        crs=CRS, transform=Affine(GSD, 0, WEST, 0, -GSD, NORTH),
    ) as file:  # fmt: skip
        file.write(whole)
    given = {**SMALL, "chip": CHIP, "weak_labels": [{**answers, "group_column": "village"}]}
    for changes in (
        {"validation": {"groups": ["v3"]}},
        {"weak_labels": [{**given["weak_labels"][0], "held_out": ["v3"]}]},
    ):
        data = load_data(TrainConfig.model_validate({**given, **changes}))
        assert len(data.weak[0].chips) == CHIPS * 2  # column 3 is tested on, and column 2 shows half of it
