"""The whole story on the command line: create, votes from Zooniverse, consensus, labels, calibration."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from geoslave.detections.verdicts import read_verdicts
from geoslave.estimate.tables import checked_frame, checked_reviews, read_table
from geoslave.labels.table import COLUMNS
from geoslave.review.store import open_store
from geoslave.review.tasks import Mark, Vote
from tests.conftest import UTM
from tests.factories import dark_field, with_kilns

Run = Callable[..., tuple[int, str, str]]
CORNERS = [(30, 40), (100, 150), (220, 60), (230, 230)]


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """Four detections, of which two are sites."""
    from geoslave.detections.export import write_detections

    boxes = [shapely.box(col, row, col + 10, row + 5) for row, col in CORNERS]
    ground = [shapely.transform(box, lambda xy: np.column_stack(UTM @ (xy[:, 0], xy[:, 1]))) for box in boxes]
    told: dict[str, Any] = {
        "detection_id": [f"d{k}" for k in range(4)],
        "class_name": "brick_kiln",
        "confidence": [0.9, 0.5, 0.6, 0.1],
        "calibrated": False,
        "score_mean": 0.5,
        "score_max": 0.5,
        "area_m2": 5_000.0,
        "length_m": 100.0,
        "width_m": 50.0,
        "date": "2026-01-15",
        "scene_id": "scene",
        "model_id": "bright-1",
        "truncated": False,
    }
    table = gpd.GeoDataFrame(told, geometry=ground, crs=32645)
    return write_detections(table, tmp_path / "kilns.gpkg", provenance={})


@pytest.fixture
def review(run: Run, tmp_path: Path, layer: Path, make_scene: Callable[..., Path]) -> Path:
    scene = make_scene(with_kilns(dark_field((300, 300)), CORNERS))
    folder = tmp_path / "review"
    status, out, err = run("review", "create", layer, "--scenes", scene, "--out", folder, "--json")
    assert status == 0, err
    assert json.loads(out)["validate"] == 4
    return folder


def cast(folder: Path, answers: dict[str, str]) -> None:
    """Three people say the same of each detection; what is searched is empty."""
    with open_store(folder / "review.sqlite") as store:
        places = {place.task_id: place for place in store.places()}
        for name in ("a", "b", "c"):
            reviewer = store.add_reviewer(name)
            while task := store.lease(reviewer):
                word = answers.get(str(places[task.task_id].detection_id), "no")
                store.vote(Vote(task.task_id, reviewer, word, key=str(uuid4())))


def test_verdicts_feed_calibration_and_training(run: Run, review: Path, tmp_path: Path) -> None:
    cast(review, {"d0": "yes", "d1": "yes", "d2": "no", "d3": "bad_imagery"})
    status, out, err = run("review", "consensus", review, "--out", tmp_path / "v", "--json")
    assert status == 0, err
    facts = json.loads(out)
    assert facts["answers"] == {"yes": 2, "no": 1, "bad_imagery": 1}
    verdicts = read_verdicts(tmp_path / "v" / "verdicts.csv").set_index("detection_id")
    assert set(verdicts.index) == {"d0", "d1", "d2"}
    assert verdicts.loc["d0", "probability"] > 0.9 and verdicts.loc["d2", "probability"] < 0.1
    layer = gpd.read_file(tmp_path / "v" / "verdicts.gpkg", layer="verdicts")
    assert layer.crs.to_epsg() == 4326 and len(layer) == 4
    status, out, err = run("labels", "from-review", review, "--out", tmp_path / "l.gpkg", "--json")
    assert status == 0, err
    labels = gpd.read_file(tmp_path / "l.gpkg")
    assert set(COLUMNS) <= set(labels.columns)
    counts = json.loads(out)["counts"]
    assert counts["outline yes"] == 2 and counts["outline no"] == 1 and counts["outline unsure"] == 1
    status, out, err = run("review", "verify", review)
    assert status == 0 and "the chain holds" in out


def test_searched_tiles_feed_estimate(run: Run, tmp_path: Path, layer: Path, make_scene: Callable[..., Path]) -> None:
    scene = make_scene(with_kilns(dark_field((300, 300)), CORNERS))
    folder = tmp_path / "audit"
    design = ("--design", "census+audit", "-n", "5", "--tile", "500")
    status, _, err = run("review", "create", layer, "--scenes", scene, "--out", folder, *design)
    assert status == 0, err
    with open_store(folder / "review.sqlite") as store:
        store.set_setting("retirement", {"votes": 2, "most": 10})
        for name in ("a", "b"):
            reviewer = store.add_reviewer(name)
            while task := store.lease(reviewer):
                near = task.pictures[0]
                flagged = task.pool == "work"
                shake = 3.0 if name == "a" else 0.0
                marks = (Mark(near.width / 2 + shake, near.height / 2, near.path),) if flagged else ()
                store.vote(Vote(task.task_id, reviewer, "yes" if marks else "no", marks, key=str(uuid4())))
    status, out, err = run("review", "consensus", folder, "--out", tmp_path / "v", "--json")
    assert status == 0, err
    assert json.loads(out)["sites"] == 4
    frame = checked_frame(read_table(folder / "frame.csv"))
    reviews = checked_reviews(read_table(tmp_path / "v" / "tiles.csv"), frame)
    assert reviews.groupby("n_flagged")["n_sites"].sum().to_dict() == {0: 0.0, 1: 4.0}
    assert (1 / reviews["inclusion_probability"]).sum() == pytest.approx(len(frame))
    status, _, err = run("labels", "from-review", folder, "--out", tmp_path / "l.gpkg")
    assert status == 0, err
    kinds = gpd.read_file(tmp_path / "l.gpkg").groupby(["kind", "presence"]).size().to_dict()
    assert kinds == {("chip", "no"): 5, ("point", "yes"): 4}


def test_zooniverse_there_and_back(run: Run, review: Path, tmp_path: Path) -> None:
    status, out, err = run("review", "export", review, "--to", "zooniverse", "--out", tmp_path / "set", "--json")
    assert status == 0, err
    with (tmp_path / "set" / "manifest.csv").open() as file:
        ids = [row["#task_id"] for row in csv.DictReader(file)]
    assert len(ids) == json.loads(out)["tasks"]
    rows = [
        {
            "classification_id": f"{k}{n}",
            "user_id": str(n),
            "annotations": json.dumps([{"task": "T0", "value": "Yes"}]),
            "subject_data": json.dumps({"1": {"#task_id": task_id}}),
        }
        for k, task_id in enumerate(ids)
        for n in range(1, 4)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "c.csv", index=False)
    status, out, err = run("review", "import", review, tmp_path / "c.csv", "--from", "zooniverse", "--json")
    assert status == 0, err
    assert json.loads(out)["votes"] == len(rows)
    status, out, _ = run("review", "import", review, tmp_path / "c.csv", "--from", "zooniverse")
    assert status == 0 and out.startswith("0 votes") and "imported before" in out


def test_outlines_leave_the_house_only_with_a_purpose_that_is_kept(run: Run, review: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.geojson"
    asked = ("review", "export", review, "--to", "mapswipe", "--outlines", "--out", out)
    assert run(*asked)[0] == 2 and not out.exists()
    assert run(*asked, "--purpose", "a mapathon", "--recipient", "a partner")[0] == 0
    assert len(json.loads(out.read_text())["features"]) == 4
    with open_store(review / "review.sqlite") as store:
        (entry,) = store.setting("exports")
    assert (entry["purpose"], entry["recipient"], entry["outlines"]) == ("a mapathon", "a partner", 4)


def test_errors_are_one_line_and_say_what_to_do(run: Run, review: Path, tmp_path: Path) -> None:
    for arguments in (
        ("review", "consensus", review, "--out", tmp_path / "v"),
        ("review", "verify", tmp_path / "nowhere"),
        ("review", "import", review, tmp_path / "nowhere.csv", "--from", "zooniverse"),
        ("review", "create", tmp_path / "nowhere.gpkg", "--scenes", tmp_path, "--out", tmp_path / "x"),
        ("labels", "from-review", tmp_path / "nowhere", "--out", tmp_path / "l.gpkg"),
    ):
        status, _, err = run(*arguments)
        assert status == 1 and err.startswith("Error:") and len(err.strip().splitlines()) == 1, arguments
    assert run("review", "import", review, tmp_path, "--from", "zooniverse", "--answer", "so=what")[0] == 2
    with open_store(review / "review.sqlite") as store, store._database.writing() as db:
        db.exec_driver_sql("UPDATE chain SET seq = 5")
    status, _, err = run("review", "verify", review)
    assert status == 1 and "chain" in err
