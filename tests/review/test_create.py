"""Tasks made from detections and scenes: what is drawn, with what chance, and where pictures lie."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoslave.errors import OutputError
from geoslave.review import designs
from geoslave.review.create import Made, Options, create_review
from geoslave.review.store import open_store
from geoslave.review.tasks import Place, ReviewError, Task
from tests.conftest import UTM
from tests.factories import dark_field, with_kilns

CORNERS = [(30, 40), (100, 150), (220, 60), (230, 230)]


def table(n: int) -> pd.DataFrame:
    confidence = np.linspace(0.02, 0.99, n)
    return pd.DataFrame({"detection_id": [f"d{k}" for k in range(n)], "confidence": confidence, "area_m2": 5e3})


@pytest.fixture
def scene(make_scene: Callable[..., Path]) -> Path:
    return make_scene(with_kilns(dark_field((300, 300)), CORNERS), name="S2_20260115.tif")


def detections() -> gpd.GeoDataFrame:
    """The bright rectangles of the scene, and one that lies elsewhere."""
    boxes = [shapely.box(col, row, col + 10, row + 5) for row, col in [*CORNERS, (5_000, 5_000)]]
    ground = [shapely.transform(box, lambda xy: np.column_stack(UTM @ (xy[:, 0], xy[:, 1]))) for box in boxes]
    told: dict[str, Any] = {
        "detection_id": [f"d{k}" for k in range(5)],
        "class_name": "brick_kiln",
        "confidence": [0.9, 0.5, 0.6, 0.1, 0.5],
        "area_m2": 5_000.0,
        "scene_id": "S2_20260115",
        "school_m": [900.0, 1200.0, 5000.0, 300.0, 100.0],
    }
    return gpd.GeoDataFrame(told, geometry=ground, crs=32645)


def made(folder: Path, scene: Path, **options: Any) -> tuple[Made, list[Task], dict[str, Place]]:
    before = options.pop("before", ())
    gold = options.pop("gold", None)
    told = create_review(detections(), [str(scene)], folder, Options(**options), before=before, gold=gold)
    with open_store(folder / "review.sqlite") as store:
        return told, list(store.tasks()), {place.task_id: place for place in store.places()}


def test_pictures_show_the_site_where_the_outline_says(tmp_path: Path, scene: Path) -> None:
    told, tasks, places = made(tmp_path / "r", scene, unflagged_share=0.0)
    assert (told.tasks, told.validate, told.pictures) == (4, 4, 12)
    assert any("lie on none of the scenes" in note for note in told.notes)
    for task in tasks:
        assert [picture.zoom for picture in task.pictures] == ["near", "middle", "far"]
        assert {picture.date for picture in task.pictures} == {"2026-01-15"}
        near = task.pictures[0]
        file = tmp_path / "r" / near.path
        assert file.stat().st_size < 1_000_000
        with Image.open(file) as image:
            assert (image.format, image.size) == ("PNG", (near.width, near.height))
            pixels = np.asarray(image.convert("L"), float)
        x, y = np.array(near.outline[0]).mean(axis=0)
        assert pixels[int(y), int(x)] > 180 > pixels[int(y), 60]
        a, b, c, d, e, f = places[task.task_id].grids[near.path]
        ground = shapely.Point(a * x + b * y + c, d * x + e * y + f)
        assert shapely.from_wkt(places[task.task_id].outline).contains(ground)
        assert re.fullmatch("[0-9a-f]{16}", task.task_id) and re.fullmatch("pictures/[0-9a-f]{16}.png", near.path)


def test_a_second_date_lies_on_the_same_grid(tmp_path: Path, scene: Path, make_scene: Callable[..., Path]) -> None:
    finer = np.kron(dark_field((300, 300), seed=1), np.ones((1, 2, 2), np.uint8))
    older = make_scene(finer, name="S2_20190115.tif", transform=UTM @ UTM.scale(0.5))
    _, tasks, places = made(tmp_path / "r", scene, unflagged_share=0.0, before=[str(older)])
    for task in tasks:
        now, then = task.pictures[0], task.pictures[1]
        assert (now.when, then.when, then.date) == ("now", "before", "2019-01-15")
        assert now.outline == then.outline
        grids = places[task.task_id].grids
        assert grids[now.path] == pytest.approx(grids[then.path])


def test_urgent_rules_come_first_and_then_what_is_useful(tmp_path: Path, scene: Path) -> None:
    _, tasks, places = made(tmp_path / "r", scene, urgent=("school_m<800",), unflagged_share=0.0)
    urgent = [task for task in tasks if task.tier == 0]
    assert [places[task.task_id].detection_id for task in urgent] == ["d3"]
    with pytest.raises(ReviewError, match="temple_m"):
        made(tmp_path / "other", scene, urgent=("temple_m<800",))
    assert not (tmp_path / "other").exists()


def test_a_census_shows_every_flagged_tile_and_some_others_with_their_chance(tmp_path: Path, scene: Path) -> None:
    told, tasks, places = made(tmp_path / "r", scene, design="census+audit", n=3, tile_m=500.0)
    flagged = [task for task in tasks if task.pool == "work"]
    blank = [task for task in tasks if task.pool == "unflagged"]
    assert told.search == len(tasks) == 7 and len(flagged) == 4 and len(blank) == 3
    assert {task.inclusion_probability for task in flagged} == {1.0}
    frame = pd.read_csv(tmp_path / "r" / "frame.csv")
    assert len(frame) == 36 and frame["n_flagged"].sum() == 4
    assert {task.inclusion_probability for task in blank} == {3 / 32}
    assert {places[task.task_id].tile_id for task in tasks} <= set(frame["tile_id"])
    assert {task.stratum for task in tasks} == {"flagged 0", "flagged 1"}


def test_gold_is_mixed_in_and_some_of_it_teaches(tmp_path: Path, scene: Path) -> None:
    known = detections().iloc[:4][["geometry"]].assign(presence=["yes", "yes", "no", "maybe"])
    told, tasks, _ = made(tmp_path / "r", scene, gold=known)
    gold = [task for task in tasks if task.gold]
    assert sorted(task.gold or "" for task in gold) == ["no", "yes", "yes"]
    assert told.tutorial == 2 and sum(task.tutorial != "" for task in gold) == 2


def test_a_failure_leaves_nothing_and_a_folder_is_not_overwritten(tmp_path: Path, scene: Path) -> None:
    empty = detections().iloc[:0]
    with pytest.raises(ReviewError, match="draws nothing"):
        create_review(empty, [str(scene)], tmp_path / "r", Options(unflagged_share=0.0))
    assert [path.name for path in tmp_path.iterdir()] == [scene.name]
    (tmp_path / "r").mkdir()
    with pytest.raises(OutputError, match="exists"):
        made(tmp_path / "r", scene)


@pytest.mark.parametrize("wrong", [{"design": "best"}, {"kind": "search"}, {"design": "random", "urgent": ("a<1",)}])
def test_options_that_contradict_are_told(tmp_path: Path, scene: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ReviewError):
        made(tmp_path / "r", scene, **wrong)


@settings(max_examples=25)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_inclusion_probabilities_add_up_to_the_population(size: int, n: int, seed: int) -> None:
    """The law of Horvitz and Thompson: each stratum's weights sum to its size."""
    rng = np.random.default_rng(seed)
    drawn = designs.stratified(table(size), n, rng)
    assert len(drawn) == min(n, size) and drawn["detection_id"].is_unique
    whole = designs.stratified(table(size), None, rng)["stratum"].value_counts()
    weights = (1 / drawn["inclusion_probability"]).groupby(drawn["stratum"]).sum()
    assert weights.to_numpy() == pytest.approx(whole[weights.index].to_numpy())
    tiles = pd.DataFrame({"tile_id": range(size), "n_flagged": rng.poisson(0.3, size)})
    census = designs.census(tiles, n, rng)
    weights = (1 / census["inclusion_probability"]).groupby(census["stratum"]).sum()
    assert weights.sum() == pytest.approx(size)


def test_stratified_takes_as_many_of_each_confidence_as_it_can() -> None:
    drawn = designs.stratified(table(100), 50, np.random.default_rng(0))
    assert drawn["stratum"].value_counts().tolist() == [10] * 5
    assert designs.even_shares(pd.Series({"a": 3, "b": 100}), 20) == {"a": 3, "b": 17}


def test_a_triage_asks_about_the_doubtful_first() -> None:
    order = designs.triage(table(101), 30)
    assert order["confidence"].iloc[0] == pytest.approx(0.505, abs=0.02)
    assert order["tier"].tolist() == sorted(order["tier"])
    new = designs.triage(table(101).assign(change=["new"] + ["same"] * 100), 101)
    assert new.index[new["detection_id"] == "d0"][0] < order.shape[0] + 60
