"""Training from a campaign: refused with what is missing, taught only what people answered, uncertain places asked."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from geoslave.imagery.raster import Raster
from geoslave.model.pretrained import PACKAGED
from geoslave.search.labels import label_table
from geoslave.search.training import (
    FEWEST_NEGATIVES,
    FEWEST_SITES,
    TooLittle,
    chip_mask,
    plan,
    recipe,
    train_campaign,
    unsure_chips,
    write_training_set,
)
from geoslave.targets import get_target
from tests.search.search_scene import begin, shared, truth

KILN = get_target("brick_kiln")


def labels(rows: list[tuple[str, str, shapely.Geometry]], crs: str = "EPSG:32645") -> gpd.GeoDataFrame:
    table = pd.DataFrame([(kind, presence, "c") for kind, presence, _ in rows], columns=["kind", "presence", "chip_id"])
    return gpd.GeoDataFrame(table, geometry=[shape for *_, shape in rows], crs=crs)


def cell() -> Raster:
    """64 pixels of 10 m; the frame is the middle 32."""
    geobox = GeoBox((64, 64), Affine(10, 0, 500_000, 0, -10, 2_600_000), "EPSG:32645")
    return Raster(np.ones((3, 64, 64), np.uint8), np.ones((64, 64), bool), geobox)


FRAME = shapely.box(500_160, 2_599_520, 500_480, 2_599_840)
MIDDLE = shapely.Point(500_320, 2_599_680)


def test_a_chip_without_a_site_is_empty_in_its_frame_and_unknown_round_it() -> None:
    mask = chip_mask(cell(), labels([("chip", "no", FRAME)]), 32, KILN, 10.0)
    assert (mask[16:48, 16:48] == 0).all() and (mask == 0).sum() == 32 * 32


def test_of_a_chip_with_a_site_nobody_placed_nothing_is_learned() -> None:
    assert (chip_mask(cell(), labels([("chip", "yes", FRAME)]), 32, KILN, 10.0) == 255).all()
    assert (chip_mask(cell(), labels([("chip", "unsure", FRAME)]), 32, KILN, 10.0) == 255).all()


def test_a_point_is_sure_as_wide_as_the_site_is_narrow_and_unknown_as_far_as_it_is_long() -> None:
    rectangle = MIDDLE.buffer(1).envelope
    mask = chip_mask(cell(), labels([("point", "yes", rectangle)]), 32, KILN, 10.0)
    length, width = KILN.typical_m
    assert (mask == 1).sum() * 100 == pytest.approx(np.pi * (width / 2) ** 2, rel=0.15)
    inside = (mask[16:48, 16:48] != 0).sum() * 100
    assert inside == pytest.approx(np.pi * (length / 2) ** 2, rel=0.15)
    assert mask[16, 16] == 0 and mask[0, 0] == 255


def test_a_drawn_outline_is_learned_as_it_was_drawn_also_beyond_the_frame() -> None:
    outline = shapely.box(500_100, 2_599_600, 500_260, 2_599_700)
    mask = chip_mask(cell(), labels([("outline", "yes", outline)]), 32, KILN, 10.0)
    assert 16 * 10 <= (mask == 1).sum() <= 18 * 12
    assert (mask[:, :16] == 1).any()


def test_too_little_says_what_is_missing_before_anything_is_computed(tmp_path: Path) -> None:
    index, _ = shared()
    campaign = begin()
    table = label_table(index.chips, campaign.known(), {}, KILN)
    planned = plan(table)
    assert not planned.ready and len(planned.missing) == 2
    with pytest.raises(TooLittle) as caught:
        train_campaign(index, table, KILN, tmp_path, name="x", answered=campaign.known())
    said = str(caught.value)
    assert f"at least {FEWEST_SITES}" in said and f"at least {FEWEST_NEGATIVES}" in said
    assert "wait for a point" in said and not any(tmp_path.iterdir())


def test_rasters_hold_the_answered_chips_with_their_masks_and_the_scenes_statistics(tmp_path: Path) -> None:
    index, sites = shared()
    answers = dict(list(truth(index, sites).items())[:40])
    marks = {
        str(chip): [point]
        for chip, point in zip(
            index.chips["chip_id"].iloc[index.chips.sindex.query(sites.representative_point().array)[1]],
            sites.representative_point(),
            strict=False,
        )
    }
    table = label_table(index.chips, answers, marks, KILN)
    learned, aside = write_training_set(index, table, KILN, tmp_path / "set")
    assert aside == 0 and learned == int((table["kind"] == "point").sum())
    (path,) = (tmp_path / "set" / "train").glob("*.tif")
    with rasterio.open(path) as file, rasterio.open(tmp_path / "set" / "train_masks" / path.name) as mask_file:
        mask = mask_file.read(1)
        assert (mask_file.height, mask_file.width) == (file.height, file.width)
        pixels, valid = file.read(), file.read_masks(1) > 0
    with index.source(str(index.chips["scene_id"].iloc[0])) as scene:
        whole = scene.overview(256)
    low, high = (np.percentile(a[:, v], (2, 98), axis=1) for a, v in ((pixels, valid), (whole.pixels, whole.valid)))
    assert np.abs(low - high).max() <= 20  # of 255: the scaling that the network meets on the scene
    negatives = sum(said == "no" for said in answers.values())
    assert (mask == 1).any() and (mask == 0).sum() >= negatives * 32 * 32 * 0.9


def test_a_recipe_starts_from_what_the_target_says_and_obeys_the_caller(tmp_path: Path) -> None:
    index, _ = shared()
    by_target = recipe(KILN, tmp_path, index, name="a")
    assert Path(by_target["start_from"]).name == "kiln-s2" and by_target["architecture"]["upsample"] == 2
    scratch = recipe(KILN, tmp_path, index, name="a", start_from="none", steps=7)
    assert "start_from" not in scratch and scratch["steps"] == 7 and scratch["warm_up"] <= 7
    seen_the_world = recipe(KILN, tmp_path, index, name="a", start_from="imagenet")
    assert seen_the_world["pretrained"] == "imagenet" and "start_from" not in seen_the_world
    assert seen_the_world["architecture"]["encoder"] == PACKAGED  # the one whose weights are there without a model hub
    own = KILN.model_copy(update={"name": "my_kiln", "training": {"chip": 64}})
    mine = recipe(own, tmp_path, index, name="a")
    assert mine["chip"] == 64 and mine["own_target"]["name"] == "my_kiln" and "start_from" not in mine


def test_the_least_sure_detections_on_chips_nobody_answered_are_asked_first() -> None:
    index, _ = shared()
    middles = index.chips.geometry.iloc[:5].representative_point()
    shapes = [point.buffer(1e-4) for point in middles]
    found = gpd.GeoDataFrame({"confidence": [0.9, 0.52, 0.3, 0.5, 0.55]}, geometry=shapes, crs=4326)
    ids = list(index.chips["chip_id"].iloc[:5])
    asked = unsure_chips(index, found, 0.5, {ids[3]: "yes"})
    assert [one["chip"] for one in asked] == [ids[1], ids[4], ids[2], ids[0]]
    assert shapely.from_wkt(asked[0]["outline"]).intersects(middles.iloc[1])
