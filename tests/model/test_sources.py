"""What chips are drawn from: several classes, masks, YOLO files, weak chips, and what is put aside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image

torch = pytest.importorskip("torch")

from geoslave.errors import GeoslaveError, LabelError  # noqa: E402
from geoslave.model.augment import IGNORE, Augmentation, coarsen, stripes  # noqa: E402
from geoslave.model.losses import pooled_logits, segmentation_loss, weak_loss  # noqa: E402
from geoslave.model.package import open_package  # noqa: E402
from geoslave.model.publish import publish  # noqa: E402
from geoslave.model.recipe import Loss, TrainConfig, Weak, load_config  # noqa: E402
from geoslave.model.sampling import draw_batch  # noqa: E402
from geoslave.model.train import train  # noqa: E402
from geoslave.model.trainingdata import load_data  # noqa: E402
from geoslave.model.validation import Figures, auc  # noqa: E402

Make = Callable[..., Path]
CRS = "EPSG:32645"
CONFIGS = Path(__file__).parents[2] / "configs"
SMALL: dict[str, Any] = {
    "name": "small",
    "target": "building",
    "gsd_m": 1,
    "outline_m": 0,
    "architecture": {"encoder": "tu-regnetx_002", "encoder_depth": 3, "decoder_channels": [16, 8], "upsample": 2},
    "batch": 6,
    "chip": 32,
    "warm_up": 2,
    "steps": 2,
    "threads": 1,
    "workers": 0,
}
SITES = {"hut": [(10, 12, 8), (50, 20, 8)], "hall": [(30, 44, 14)]}
"""Class: (row, column, side) of squares on a scene of 64 pixels of 1 m."""


def _square(row: float, col: float, side: float, east: float = 0) -> shapely.Polygon:
    return shapely.box(500_000 + east + col, 2_650_000 - row - side, 500_000 + east + col + side, 2_650_000 - row)


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Three tiles side by side, each with the same huts and hall; an outline file and a mask for each."""
    (tmp_path / "tiles").mkdir()
    (tmp_path / "masks").mkdir()
    rows = []
    for number in range(3):
        rng = np.random.default_rng(number)
        pixels = rng.integers(40, 90, (3, 64, 64), dtype=np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        for value, (name, squares) in enumerate(SITES.items(), start=1):
            for row, col, side in squares:
                pixels[value - 1, row : row + side, col : col + side] = 220
                mask[row : row + side, col : col + side] = value
                certainty = 0.4 if (name, number, row) == ("hut", 0, 10) else 1.0
                rows.append({"class": name, "certainty": certainty, "geometry": _square(row, col, side, 64 * number)})
        _write(tmp_path / "tiles" / f"tile-{number}.tif", pixels, 64 * number)
        _write(tmp_path / "masks" / f"tile-{number}.tif", mask[None], 64 * number)
    gpd.GeoDataFrame(rows, crs=CRS).to_file(tmp_path / "sites.gpkg")
    return tmp_path


def _write(path: Path, pixels: np.ndarray, east: float) -> None:
    transform = Affine(1, 0, 500_000 + east, 0, -1, 2_650_000)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": len(pixels), "width": 64, "height": 64}
    with rasterio.open(path, "w", crs=CRS, transform=transform, **profile) as file:
        file.write(pixels)


def _config(tiles: Path, scenes: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    source = {"scenes": str(tiles / "tiles"), "labels": str(tiles / "sites.gpkg"), "edge_m": 0, **(scenes or {})}
    return TrainConfig.model_validate({**SMALL, "scenes": [source], "classes": ["hut", "hall"], **changes})


def _masked(tiles: Path, **changes: Any) -> TrainConfig:
    return _config(tiles, {"labels": None, "masks": str(tiles / "masks")}, **changes)


def test_every_class_has_its_number_in_the_truth(tiles: Path) -> None:
    scene = load_data(_config(tiles)).scenes[1]
    assert (scene.patch.truth[10:18, 12:20] == 1).all()
    assert (scene.patch.truth[30:44, 44:58] == 2).all()
    assert sorted(scene.site_class.tolist()) == [0, 0, 1]
    assert (scene.patch.truth != 0).sum() == 2 * 64 + 14 * 14


def test_without_classes_every_label_is_the_target(tiles: Path) -> None:
    scene = load_data(_config(tiles, classes=[])).scenes[1]
    assert set(np.unique(scene.patch.truth)) == {0, 1}


def test_classes_that_are_not_named_and_unsure_labels_are_not_learned(tiles: Path) -> None:
    scene = load_data(_config(tiles, classes=["hut"])).scenes[1]
    assert (scene.patch.truth[30:44, 44:58] == IGNORE).all()
    doubtful = load_data(_config(tiles, {"certainty": 0.5})).scenes[0]
    assert (doubtful.patch.truth[10:18, 12:20] == IGNORE).all()
    assert len(doubtful.sites) == 2


def test_unsure_outlines_are_not_learned(tiles: Path) -> None:
    gpd.GeoSeries([_square(50, 20, 8, 64)], crs=CRS).to_file(tiles / "unsure.geojson")
    scenes = load_data(_config(tiles, {"unsure": str(tiles / "unsure.geojson")})).scenes
    assert (scenes[1].patch.truth[50:58, 20:28] == IGNORE).all()
    assert (scenes[2].patch.truth[50:58, 20:28] == 1).all()


def test_sites_that_touch_are_parted_by_a_gap(tiles: Path) -> None:
    pair = [_square(10, 10, 20), _square(10, 30, 20)]
    gpd.GeoDataFrame({"class": ["hut", "hut"]}, geometry=pair, crs=CRS).to_file(tiles / "pair.gpkg")
    changes = {"labels": str(tiles / "pair.gpkg"), "leave_out": ["tile-[12]*"]}
    (touching,) = load_data(_config(tiles, changes, classes=[])).scenes
    (parted,) = load_data(_config(tiles, changes, classes=[], gap_m=2)).scenes
    assert (touching.patch.truth[20, 10:50] == 1).all()
    assert parted.patch.truth[20, 28:32].tolist() == [1, 0, 0, 1]
    assert (parted.patch.truth[20, 10:29] == 1).all()


def test_masks_say_the_same_as_outlines(tiles: Path) -> None:
    by_mask, by_outline = load_data(_masked(tiles)), load_data(_config(tiles))
    for ours, theirs in zip(by_mask.scenes, by_outline.scenes, strict=True):
        np.testing.assert_array_equal(ours.patch.truth, theirs.patch.truth)


def test_wrong_masks_are_one_clear_error(tiles: Path) -> None:
    mask = tiles / "masks" / "tile-1.tif"
    with rasterio.open(mask, "w", driver="GTiff", dtype="uint8", count=1, width=60, height=64) as file:
        file.write(np.zeros((1, 64, 60), np.uint8))
    with pytest.raises(LabelError, match=r"tile-1.tif is 60 x 64 pixels, its scene 64 x 64"):
        load_data(_masked(tiles))
    mask.unlink()
    with pytest.raises(LabelError, match=r"tile-1.tif has no mask"):
        load_data(_masked(tiles))


def test_masks_and_label_files_without_a_site_are_told_as_such(tiles: Path) -> None:
    for path in sorted((tiles / "masks").iterdir()):
        _write(path, np.zeros((1, 64, 64), np.uint8), 64 * int(path.stem[-1]))
        (tiles / f"{path.stem}.txt").touch()
    with pytest.raises(LabelError, match=r"no file of .*masks holds a site"):
        load_data(_masked(tiles))
    with pytest.raises(LabelError, match="holds a site"):
        load_data(_config(tiles, {"labels": None, "yolo": str(tiles)}))


def test_yolo_boxes_and_corners_about_the_centre_in_the_name(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    pixels = np.full((3, 64, 64), 60, np.uint8)
    with rasterio.open(tmp_path / "images" / "24.5_89.25.png", "w", driver="PNG", dtype="uint8", count=3, width=64,
                       height=64) as file:  # fmt: skip
        file.write(pixels)
    label = tmp_path / "labels" / "24.5_89.25.txt"
    label.write_text("0 0.25 0.5 0.125 0.25\n1 0.5 0.5 0.75 0.5 0.75 0.625 0.5 0.625\n")
    source = {"files": "*.png", "scenes": str(tmp_path / "images"), "yolo": str(tmp_path / "labels"),
              "centre_in_name": True, "labels": None}  # fmt: skip
    config = _config(tmp_path, source, gsd_m=10, classes=["a", "b"])
    (scene,) = load_data(config).scenes
    assert (scene.patch.truth[24:40, 12:20] == 1).all()
    assert (scene.patch.truth[32:40, 32:48] == 2).all()
    assert (scene.patch.truth != 0).sum() == 16 * 8 * 2
    assert len(load_data(_config(tmp_path, source, gsd_m=10, classes=[])).scenes[0].sites) == 2
    label.write_text("0 0.5 0.5\n")
    with pytest.raises(LabelError, match="line 1"):
        load_data(config)
    label.unlink()
    with pytest.raises(LabelError, match="no label file"):
        load_data(config)


def test_labels_elsewhere_are_refused(tiles: Path) -> None:
    far = gpd.read_file(tiles / "sites.gpkg").translate(50_000, 0)
    gpd.GeoDataFrame({"class": "hut"}, index=far.index, geometry=far, crs=CRS).to_file(tiles / "far.gpkg")
    with pytest.raises(LabelError, match="none of the labels"):
        load_data(_config(tiles, {"labels": str(tiles / "far.gpkg")}))
    with pytest.raises(LabelError, match="no label is of class tower"):
        load_data(_config(tiles, classes=["tower"]))
    with pytest.raises(LabelError, match="no site of class tower"):
        load_data(_config(tiles, classes=["hut", "tower"]))


def test_what_is_put_aside_is_never_shown(tiles: Path) -> None:
    """A scene that overlaps one put aside shows nothing of the overlap."""
    with rasterio.open(tiles / "tiles" / "tile-1.tif") as file:
        pixels = file.read()
    _write(tiles / "tiles" / "shifted.tif", pixels, 64 + 40)  # its left 24 columns lie on tile 1
    data = load_data(_config(tiles, validation={"by": "list", "scenes": ["tile-1.*"]}))
    assert [placed.scene.name for placed in data.validation.scenes] == ["tile-1.tif"]
    assert data.validation.sites is not None and len(data.validation.sites) == 3
    shifted = next(scene for scene in data.scenes if scene.name == "shifted.tif")
    assert not shifted.patch.valid[:, :24].any() and not shifted.patch.pixels[:, :, :24].any()
    assert shifted.patch.valid[:, 25:].all()


def test_blocks_put_aside_are_blanked_with_their_buffer(tiles: Path) -> None:
    settings = {"by": "blocks", "block_m": 30, "buffer_m": 6, "share": 0.25}
    config = _config(tiles, validation=settings, classes=[], seed=3)
    data = load_data(config)
    tested = shapely.union_all([placed.footprint for placed in data.validation.scenes])
    metres = gpd.GeoSeries([tested], crs=4326).to_crs(CRS).iloc[0]
    for scene in data.scenes:
        east = 64 * int(scene.name[5])
        shown = [shapely.Point(500_000 + east + x + 0.5, 2_650_000 - y - 0.5)
                 for y, x in np.argwhere(scene.patch.valid)[::7]]  # fmt: skip
        assert shapely.distance(np.array(shown), metres).min() > 5


def test_chips_of_several_classes_train_a_network_of_as_many_outputs(tiles: Path) -> None:
    result = train(_config(tiles, validation={"by": "list", "scenes": ["tile-2*"], "every": 1, "edge_m": 0}))
    with torch.no_grad():
        assert result.network(torch.zeros(1, 3, 32, 32)).shape[1] == 2
    assert [look["step"] for look in result.looks] == [1, 2]
    assert result.best is not None and 0 <= result.best <= 1


def test_each_class_is_drawn_as_often(tiles: Path) -> None:
    config = _config(tiles, batch=60, shares={"site": 1, "scene": 0}, augmentation={"paste_decoy": 0}, chip=32)
    truth = draw_batch(load_data(config), config, 0).truth
    share = [float((truth == k).any(axis=(1, 2)).mean()) for k in (1, 2)]
    assert min(share) > 0.35


def test_several_classes_are_punished_each_for_its_own() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.uint8)
    truth[:, :4] = 1
    truth[:, 4:6] = 2
    right = torch.stack([(truth == k).float() * 20 - 10 for k in (1, 2)], dim=1)
    swapped = right.flip(1)
    assert segmentation_loss(right, truth, Loss()) < 0.05
    assert segmentation_loss(swapped, truth, Loss()) > 1


# --- weak chips ----------------------------------------------------------------------------------


@pytest.fixture
def weak(tmp_path: Path) -> dict[str, Any]:
    """60 chips of six groups; where the label is 1 there is a bright square somewhere."""
    rng = np.random.default_rng(0)
    chips = rng.integers(40, 90, (60, 32, 32, 3), dtype=np.uint8)
    label = np.arange(60) % 5 == 0
    for k in np.flatnonzero(label):
        row, col = rng.integers(2, 22, 2)
        chips[k, row : row + 8, col : col + 8] = (240, 200, 120)
    chips[1] = chips[31]  # group "b" holds a chip of group "f"... to the byte
    np.savez(tmp_path / "weak.npz", x=chips)
    groups = np.repeat(list("abcdef"), 10)
    pd.DataFrame({"label": label.astype(int), "gallery": groups}).to_csv(tmp_path / "weak.csv", index=False)
    return {"chips": str(tmp_path / "weak.npz"), "table": str(tmp_path / "weak.csv")}


def _weak_config(weak: dict[str, Any], **changes: Any) -> TrainConfig:
    groups = {"groups": ["d"], "every": 40}
    return TrainConfig.model_validate({**SMALL, "weak_chips": [weak], "validation": groups, "gsd_m": 10, **changes})


def test_weak_chips_are_drawn_half_with_and_half_without(weak: dict[str, Any]) -> None:
    config = _weak_config(weak, batch=200)
    batch = draw_batch(load_data(config), config, 0)
    assert 0.4 < (batch.weak[:, 0] == 1).mean() < 0.6
    assert (batch.truth == IGNORE).all()


def test_a_guess_says_which_pixels_of_a_weak_chip_are_meant(tmp_path: Path) -> None:
    chips = np.full((40, 32, 32, 3), (40, 69, 77), np.uint8)  # forest
    chips[:, 8:14, 8:20] = (160, 135, 115)  # bare ground, of a mine or of a road
    label = np.arange(40) % 2
    np.savez(tmp_path / "weak.npz", x=chips)
    pd.DataFrame({"label": label, "gallery": label.astype(str)}).to_csv(tmp_path / "weak.csv", index=False)
    weak = {"chips": str(tmp_path / "weak.npz"), "table": str(tmp_path / "weak.csv"), "guess": "bare_ground"}
    config = TrainConfig.model_validate({**SMALL, "weak_chips": [weak], "gsd_m": 10, "batch": 40})
    batch = draw_batch(load_data(config), config, 0)
    told = batch.truth == 1
    assert told[batch.weak[:, 0] == 1].sum((1, 2)).min() == 6 * 12
    assert (batch.truth[batch.weak[:, 0] == 0] == 0).all()


@pytest.fixture
def answered_scenes(tmp_path: Path) -> dict[str, Any]:
    """Two scenes and a yes or no about squares of 32 pixels of them; where it is yes there is a bright square."""
    rng = np.random.default_rng(0)
    rows = []
    (tmp_path / "scenes").mkdir()
    for number in range(2):
        pixels = rng.integers(40, 90, (3, 128, 128), dtype=np.uint8)
        west, north = 300_000 + 5_000 * number, 2_700_000
        for row, col in np.ndindex(4, 4):
            yes = (row + col) % 3 == 0
            if yes:
                pixels[:, 32 * row + 10 : 32 * row + 18, 32 * col + 8 : 32 * col + 16] = 240
            left, top = west + 320 * col, north - 320 * row
            rows.append({"kind": "chip", "presence": "yes" if yes else "no", "class_name": "brick_kiln",
                         "geometry": shapely.box(left, top - 320, left + 320, top)})  # fmt: skip
        with rasterio.open(
            tmp_path / "scenes" / f"s{number}.tif",
            "w",
            driver="GTiff",
            width=128,
            height=128,
            count=3,
            dtype="uint8",
            crs="EPSG:32645",
            transform=Affine(10, 0, west, 0, -10, north),
        ) as file:
            file.write(pixels)  # fmt: skip
    outside = {**rows[0], "geometry": shapely.box(0, 0, 320, 320)}
    gpd.GeoDataFrame([*rows, outside], crs="EPSG:32645").to_crs(4326).to_file(tmp_path / "answers.gpkg")
    return {"scenes": str(tmp_path / "scenes"), "labels": str(tmp_path / "answers.gpkg")}


def test_answers_about_pieces_of_scenes_are_weak_chips(answered_scenes: dict[str, Any]) -> None:
    given = {**SMALL, "weak_labels": [answered_scenes], "gsd_m": 10, "validation": {"groups": ["s1.tif"], "every": 9}}
    data = load_data(TrainConfig.model_validate(given))
    for pool in (data.weak[0], data.validation.weak[0]):
        assert pool.chips.shape[0] == 16 and max(pool.chips.shape[1:3]) <= 32
        bright = pool.chips[:, 10:18, 8:16].mean((1, 2, 3)) > 0.8
        np.testing.assert_array_equal(bright, pool.label == 1)


def test_answers_that_are_of_no_use_are_one_clear_error(answered_scenes: dict[str, Any], tmp_path: Path) -> None:
    table = gpd.read_file(answered_scenes["labels"])
    table[-1:].to_file(tmp_path / "elsewhere.gpkg")
    table.assign(kind="outline").to_file(tmp_path / "outlines.gpkg")
    for changes, words in [
        ({"labels": str(tmp_path / "elsewhere.gpkg")}, "lies whole on a scene"),
        ({"labels": str(tmp_path / "outlines.gpkg")}, "no yes or no about a whole chip"),
        ({"group_column": "village"}, "no column 'village'"),
    ]:
        given = {**SMALL, "weak_labels": [{**answered_scenes, **changes}], "gsd_m": 10}
        with pytest.raises(LabelError, match=words):
            load_data(TrainConfig.model_validate(given))


def test_groups_put_aside_are_not_trained_on_nor_are_their_twins(weak: dict[str, Any]) -> None:
    data = load_data(_weak_config(weak))
    assert len(data.validation.weak[0].chips) == 10
    assert len(data.weak[0].chips) == 49


def test_weak_labels_alone_teach_where_the_site_is(weak: dict[str, Any]) -> None:
    config = _weak_config(weak, steps=80, batch=12, validation={"groups": ["d"], "every": 80, "patience": 0})
    result = train(config)
    assert result.best is not None and result.best > 0.9


def test_training_stops_when_nothing_gets_better_and_keeps_the_best(
    weak: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _weak_config(weak, steps=20, validation={"groups": ["d"], "every": 1, "patience": 2})
    figures = iter([0.6, 0.9, 0.7, 0.8, 0.95])
    monkeypatch.setattr("geoslave.model.train.validate", lambda *_: Figures(auc=next(figures)))
    told: list[str] = []
    result = train(config, tell=told.append)
    assert len(result.losses) == 4 and result.best == 0.9
    assert "stopped after step 4" in told[-1]


@pytest.mark.parametrize("pooling", ["top", "lse", "power"])
def test_pooling_lies_between_mean_and_maximum(pooling: str) -> None:
    settings = Weak.model_validate({"pooling": pooling})
    logits = torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(4, 16, 16, dtype=torch.bool)
    valid[0, :8] = False
    pooled = pooled_logits(logits, valid, settings)
    for k in range(4):
        inside = logits[k][:, valid[k]]
        assert (pooled[k] >= inside.mean(1)).all() and (pooled[k] <= inside.amax(1)).all()
    wild = logits.clone()
    wild[0, :, :8] = 25
    assert torch.allclose(pooled_logits(wild, valid, settings), pooled, atol=1e-5)


def test_weak_loss_asks_for_a_site_of_plausible_size() -> None:
    weak, valid = torch.ones(1, 1, dtype=torch.int8), torch.ones(1, 16, 16, dtype=torch.bool)
    spot, flood = torch.full((1, 1, 16, 16), -8.0), torch.full((1, 1, 16, 16), 8.0)
    spot[..., 4:8, 4:8] = 8
    plain, sized = Weak(), Weak(size=(0.01, 0.2), size_weight=1.0)
    assert torch.isclose(weak_loss(spot, valid, weak, sized), weak_loss(spot, valid, weak, plain), atol=1e-3)
    assert weak_loss(flood, valid, weak, sized) > weak_loss(flood, valid, weak, plain) + 0.5


def test_wrong_weak_labels_are_one_clear_error(weak: dict[str, Any], tmp_path: Path) -> None:
    for changes, words in [
        ({"where": {"label": 0}}, "the same label"),
        ({"label_column": "mine"}, "no column 'mine'"),
        ({"class_name": "ship"}, "'ship' is none of"),
    ]:
        with pytest.raises(LabelError, match=words):
            load_data(_weak_config({**weak, **changes}))
    with pytest.raises(LabelError, match="is of group z"):
        load_data(_weak_config(weak, validation={"groups": ["z"]}))
    np.savez(tmp_path / "weak.npz", x=np.zeros((60, 48, 48, 3), np.uint8))
    with pytest.raises(LabelError, match="make it as large"):
        load_data(_weak_config(weak))


def test_auc_is_the_chance_of_the_right_order() -> None:
    score, positive = np.array([0.1, 0.4, 0.4, 0.8], np.float32), np.array([False, False, True, True])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert auc(score, positive) == pytest.approx(np.mean(pairs))


# --- the rest ------------------------------------------------------------------------------------


def test_recipes_that_do_not_fit_together_are_refused(tiles: Path) -> None:
    for changes in (
        {"target": "castle"},
        {"rendered": {"count": 2}},
        {"chip": 33},
        {"pretrained": "imagenet", "start_from": "kiln-s2"},
        {"validation": {"by": "list"}},
        {"classes": ["hut", "hut"]},
    ):
        with pytest.raises(ValueError):
            _config(tiles, **changes)
    with pytest.raises(ValueError, match="one of 'labels'"):
        _config(tiles, {"masks": "masks"})


def test_running_out_of_memory_names_the_setting(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 GB")

    monkeypatch.setattr("geoslave.model.train.batch_loss", full)
    with pytest.raises(GeoslaveError, match=r"'batch: 3' and 'accumulate: 2'.*'chip'"):
        train(_config(tiles))


def test_a_loss_that_is_no_number_names_the_setting(tiles: Path) -> None:
    with pytest.raises(GeoslaveError, match="learning_rate"):
        train(_config(tiles, learning_rate=1e30, warm_up=0, steps=4))


def test_accumulated_batches_are_one_step(tiles: Path) -> None:
    assert len(train(_config(tiles, accumulate=2, batch=3)).losses) == 2


def test_weights_that_cannot_be_fetched_are_done_without(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import geoslave.model.train as module

    build = module.build_network

    def offline(architecture: Any, n_bands: int, n_classes: int, pretrained: str | None = None) -> Any:
        if pretrained:
            raise OSError("no route to host")
        return build(architecture, n_bands, n_classes)

    monkeypatch.setattr(module, "build_network", offline)
    told: list[str] = []
    ours = train(_config(tiles, pretrained="imagenet"), tell=told.append)
    assert told == ["weights of imagenet cannot be fetched (no route to host): training from scratch"]
    assert ours.losses == train(_config(tiles)).losses and ours.started_from is None


def test_a_package_says_what_its_weights_had_learned_before(tiles: Path, tmp_path: Path) -> None:
    lite = {"encoder": "tu-tf_efficientnet_lite0", "encoder_depth": 4, "decoder_channels": [16, 8, 8]}
    config = _config(tiles, pretrained="imagenet", architecture=lite, steps=2)
    train(config, tmp_path / "work")
    gone_on = train(config, tmp_path / "work")
    spec = open_package(publish(gone_on, tmp_path / "model")).spec
    assert spec.started_from == gone_on.started_from == "ImageNet"
    told = json.loads((tmp_path / "model" / "model.json").read_text())["properties"]
    assert (told["mlm:pretrained"], told["mlm:pretrained_source"]) == (True, "ImageNet")
    assert "ImageNet" in (tmp_path / "model" / "README.md").read_text()


def test_a_package_can_be_started_from(tiles: Path) -> None:
    spec = {"name": "Unet", "encoder": "tu-regnetx_002", "encoder_depth": 4, "decoder_channels": [96, 48, 32]}
    config = _config(tiles, start_from="kiln-s2", architecture={**spec, "upsample": 2}, bands=["red", "green", "blue"])
    told: list[str] = []
    assert train(config, tell=told.append).started_from == f"kiln-s2 {open_package('kiln-s2').spec.version}"
    assert told == [f"starts from kiln-s2 {open_package('kiln-s2').spec.version}; new to it: class hut, class hall"]
    with pytest.raises(GeoslaveError, match="another architecture"):
        train(_config(tiles, start_from="kiln-s2"))


def test_stripes_and_coarser_imagery_keep_what_is_there() -> None:
    rng = np.random.default_rng(4)
    pixels = np.cumsum(np.cumsum(rng.standard_normal((3, 48, 40)), 1), 2).astype(np.float32)
    for change in (stripes, coarsen):
        changed = change(pixels, rng, Augmentation(stripes=1.0, coarsen=1.0))
        assert changed.shape == pixels.shape and not np.array_equal(changed, pixels)
        assert np.corrcoef(changed.ravel(), pixels.ravel())[0, 1] > 0.95
        assert change(pixels, rng, Augmentation()) is pixels


RECIPES = [path for path in sorted(CONFIGS.glob("*.yaml")) if not path.stem.endswith(("-unsure", "-gate"))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_that_ship_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GEOSLAVE_DATA", "SENTINELKILNDB"):
        monkeypatch.setenv(name, str(tmp_path))
    assert load_config(path).name == path.stem


def test_the_layout_of_sentinelkilndb_is_trained_on_at_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chips = sorted((data_dir / "kilns_s2" / "chips").glob("*.tif"))
    for part, some in (("train", chips[:6]), ("val", chips[12:14])):
        for folder in ("images", "labels"):
            (tmp_path / part / folder).mkdir(parents=True)
        for chip in some:
            with rasterio.open(chip) as file:
                Image.fromarray(file.read().transpose(1, 2, 0)).save(tmp_path / part / "images" / f"{chip.stem}.png")
            label = data_dir / "kilns_s2" / "labels_yolo_obb" / f"{chip.stem}.txt"
            (tmp_path / part / "labels" / label.name).write_text(label.read_text())
    monkeypatch.setenv("SENTINELKILNDB", str(tmp_path))
    data = load_data(load_config(CONFIGS / "kiln-sentinelkilndb.yaml"))
    assert len(data.scenes) == 6 and len(data.validation.scenes) == 2
    kilns = gpd.read_file(data_dir / "kilns_s2" / "kilns.geojson").to_crs(32646)
    for placed in data.validation.scenes:
        for outline in placed.sites.to_crs(32646).geometry:
            assert kilns.distance(outline.centroid).min() < 15  # metres: the name rounds the centre
