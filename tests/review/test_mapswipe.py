"""MapSwipe: pictures without places, outlines as it takes them, and results in both of its forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geoslave.review import mapswipe
from geoslave.review.tasks import Picture, Place, ReviewError, Task
from geoslave.review.zooniverse import Tally

RING = ((5.0, 5.0), (30.0, 5.0), (30.0, 20.0), (5.0, 5.0))
PICTURE = Picture("pictures/a1.png", "near", 64, 64, outline=(RING,))
TASK = Task("t1", "validate", "flagged", 0.5, pictures=(PICTURE,))
SEARCH = Task("s1", "search", "flagged 0", 0.5, pictures=(PICTURE,))


def read(path: Path, text: str) -> tuple[list[Any], Tally]:
    path.write_text(text, encoding="utf-8")
    tally = Tally()
    return list(mapswipe.read_votes(path, {"t1": TASK}, tally)), tally


def test_a_project_of_pictures_tells_no_place(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / PICTURE.path)
    assert mapswipe.export_images([TASK, SEARCH], tmp_path, tmp_path / "out", "https://example.org/p/") == 1
    told = json.loads((tmp_path / "out" / "images.json").read_text())
    (image,) = told["images"]
    assert image["coco_url"] == "https://example.org/p/a1.png" and image["task_id"] == "t1"
    assert told["annotations"][0]["bbox"] == [5.0, 5.0, 25.0, 15.0]
    assert (tmp_path / "out" / "a1.png").is_file()
    with pytest.raises(ReviewError, match="no such task"):
        mapswipe.export_images([SEARCH], tmp_path, tmp_path / "other")


def test_outlines_are_simple_polygons_in_longitude_and_latitude(tmp_path: Path) -> None:
    with_hole = "((0 0, 100 0, 100 100, 0 0), (50 20, 60 20, 60 30, 50 20))"
    wkt = f"MULTIPOLYGON ({with_hole}, ((500 500, 501 500, 501 501, 500 500)))"
    place = Place("t1", "EPSG:32645", {}, wkt)
    mapswipe.export_outlines([TASK], {"t1": place}, tmp_path / "p.geojson")
    (feature,) = json.loads((tmp_path / "p.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "Polygon" and len(feature["geometry"]["coordinates"]) == 1
    ring = feature["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1] and len(ring) == 4 and -180 <= ring[0][0] <= 180
    assert feature["properties"] == {"id": "t1", "task_id": "t1"}


def test_results_of_single_volunteers(tmp_path: Path) -> None:
    rows = ("p,ann,t1,2026-01-02T03:04:05Z,1", "p,bob,t1,,0", "p,cy,zz,,1", "p,di,t1,,9")
    text = "\n".join(("project_id,user_id,task_id,timestamp,result", *rows, ""))
    votes, tally = read(tmp_path / "r.csv", text)
    assert [vote.answer for vote in votes] == ["yes", "no"]
    assert votes[0].created_at.isoformat() == "2026-01-02T03:04:05+00:00"
    assert tally.left == {"tasks of another review": 1, "answers that are not understood": 1}


def test_aggregated_results_are_as_many_votes_as_they_say(tmp_path: Path) -> None:
    text = "task_id,0_count,1_count,2_count,3_count,total_count,agreement\nt1,1,5,2,0,8,0.39\nt1,x,,,,,\n"
    votes, tally = read(tmp_path / "r.csv", text)
    assert sorted(vote.answer for vote in votes) == ["no", *["unsure"] * 2, *["yes"] * 5]
    assert len({vote.reviewer_id for vote in votes}) == len({vote.key for vote in votes}) == 8
    assert tally.left["counts that are not understood"] == 1


def test_aggregated_results_as_geojson_and_other_files(tmp_path: Path) -> None:
    feature = {"type": "Feature", "properties": {"task_id": "t1", "1_count": 3, "0_count": 0}, "geometry": None}
    votes, _ = read(tmp_path / "r.geojson", json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert [vote.answer for vote in votes] == ["yes"] * 3
    for name, text in (("r.geojson", "{}"), ("r.csv", "a,b\n1,2\n"), ("r.geojson", '{"features": [3]}')):
        with pytest.raises(ReviewError):
            read(tmp_path / name, text)
