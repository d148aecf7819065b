"""Training on rendered scenes: it learns, it repeats, and it says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio

torch = pytest.importorskip("torch")

from geoslave.errors import GeoslaveError, LabelError  # noqa: E402
from geoslave.labels.synthetic import render_scene  # noqa: E402
from geoslave.model.augment import IGNORE, Augmentation, Patch, blotches, cut, paste  # noqa: E402
from geoslave.model.losses import segmentation_loss  # noqa: E402
from geoslave.model.recipe import Loss, Rendered, TrainConfig, load_config  # noqa: E402
from geoslave.model.train import Progress, train  # noqa: E402
from geoslave.model.trainingdata import load_data  # noqa: E402
from tests.factories import SMALL_RECIPE  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rendered scenes with labels in two regions, and twelve backgrounds of two galleries."""
    tables = []
    for index, region in enumerate(("east", "west")):
        origin = (720_000.0 + 50_000 * index, 2_640_000.0)
        scene = render_scene(index, (96, 96), n_kilns=3, origin=origin)
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": 96, "height": 96, "crs": "EPSG:32645"}
        transform = scene.raster.geobox.affine
        with rasterio.open(tmp_path / f"{region}.tif", "w", transform=transform, **profile) as file:
            file.write(scene.raster.pixels)
        tables.append(scene.sites.assign(region=region))
    gpd.GeoDataFrame(pd.concat(tables), crs="EPSG:32645").to_crs(4326).to_file(tmp_path / "sites.geojson")
    chips = np.random.default_rng(0).integers(0, 255, (12, 48, 48, 3), dtype=np.uint8)
    np.savez(tmp_path / "chips.npz", x=chips)
    table = pd.DataFrame({"label": [0] * 10 + [1] * 2, "gallery": ["a", "b"] * 6})
    table.to_csv(tmp_path / "chips.csv", index=False)
    return tmp_path


def _config(folder: Path, **changes: Any) -> TrainConfig:
    scenes = {"scenes": str(folder), "labels": str(folder / "sites.geojson"), "region_column": "region"}
    pool = {"chips": str(folder / "chips.npz"), "table": str(folder / "chips.csv"), "where": {"label": 0}}
    return TrainConfig.model_validate({**SMALL_RECIPE, "scenes": [scenes], "backgrounds": [pool], **changes})


def test_same_seed_same_weights(folder: Path) -> None:
    config = _config(folder)
    first, again = train(config), train(config)
    assert first.losses == again.losses
    for ours, theirs in zip(first.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_it_learns(folder: Path) -> None:
    seen: list[Progress] = []
    result = train(_config(folder, steps=60, batch=8, chip=48), on_step=seen.append)
    assert len(seen) == 60
    assert np.mean(result.losses[-10:]) < 0.8 * np.mean(result.losses[:10])
    assert not result.network.training
    assert (result.n_scenes, result.n_backgrounds) == (2, 10)


def test_held_out_regions_and_groups_are_not_read(folder: Path) -> None:
    config = _config(folder)
    scenes = config.scenes[0].model_copy(update={"held_out": ("east",)})
    pool = config.backgrounds[0].model_copy(update={"held_out": ("b",)})
    data = load_data(config.model_copy(update={"scenes": (scenes,), "backgrounds": (pool,)}))
    assert [scene.region for scene in data.scenes] == ["west"]
    assert data.backgrounds is not None
    assert len(data.backgrounds.chips) == 5


def test_truth_is_burnt_where_the_sites_are(folder: Path) -> None:
    for scene in load_data(_config(folder)).scenes:
        assert len(scene.sites) == 3
        assert all(scene.patch.truth[round(row), round(col)] == 1 for row, col in scene.sites)
        assert (scene.patch.truth[:5] == IGNORE).all()
        assert set(np.unique(scene.patch.truth)) == {0, 1, IGNORE}


def test_cut_moves_pixels_and_truth_together() -> None:
    rng = np.random.default_rng(3)
    truth = np.zeros((60, 60), np.uint8)
    truth[20:40, 28:32] = 1
    whole = Patch(np.stack([truth] * 3).astype(np.float32), truth, np.ones((60, 60), bool))
    for _ in range(20):
        chip = cut(whole, (30, 30), 40, rng, Augmentation())
        sure = chip.valid & (chip.truth != IGNORE)
        assert ((chip.pixels[0] > 0.5) == (chip.truth == 1))[sure].mean() > 0.97
    outside = cut(whole, (200, 200), 40, rng, Augmentation())
    assert not outside.valid.any()
    assert (outside.truth == IGNORE).all()


def test_paste_shows_the_middle_of_the_piece() -> None:
    rng = np.random.default_rng(5)
    onto = Patch(np.zeros((3, 40, 40), np.float32), np.zeros((40, 40), np.uint8), np.ones((40, 40), bool))
    piece = Patch(np.ones((3, 20, 20), np.float32), np.ones((20, 20), np.uint8), np.ones((20, 20), bool))
    pasted = paste(onto, piece, (10, 12), rng)
    assert pasted.pixels[0, 10, 12] == 1
    assert pasted.truth[10, 12] == 1
    assert pasted.truth[39, 39] == 0
    assert not onto.truth.any()


def test_blotches_leave_what_lies_below_visible() -> None:
    rng = np.random.default_rng(2)
    pixels = rng.random((3, 48, 40), np.float32)
    always = Augmentation(blotches=1.0)
    for _ in range(10):
        hazy = blotches(pixels, rng, always)
        assert hazy.shape == pixels.shape
        assert np.corrcoef(hazy.ravel(), pixels.ravel())[0, 1] > 0.2
    assert blotches(pixels, rng, Augmentation(blotches=0.0)) is pixels


def test_ignored_pixels_cost_nothing() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.uint8)
    truth[:, :4] = IGNORE
    logits = torch.zeros(1, 1, 8, 8)
    wild = logits.clone()
    wild[:, :, :4] = 9
    assert torch.equal(segmentation_loss(logits, truth, Loss()), segmentation_loss(wild, truth, Loss()))


def test_what_is_wrong_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    path = folder / "config.yaml"
    for text, words in [
        ("name: [", "YAML"),
        ("name: a\nsteps: 0", "steps"),
        ("name: a\nbogus: 1", "bogus"),
        ("name: a\nscenes: [{scenes: '${NOWHERE}/x', labels: y}]", "NOWHERE"),
    ]:
        path.write_text(text)
        with pytest.raises(GeoslaveError, match=words):
            load_config(path)
    scenes = _config(folder).scenes[0].model_copy(update={"held_out": ("east", "west")})
    with pytest.raises(LabelError, match="nothing to learn"):
        load_data(_config(folder).model_copy(update={"scenes": (scenes,), "rendered": Rendered(count=0)}))
