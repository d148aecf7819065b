"""A manifest Zooniverse takes, and exports as they really come: with duplicates, strangers and broken rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geoslave.errors import OutputError
from geoslave.review import zooniverse
from geoslave.review.store import Store
from geoslave.review.tasks import Picture, ReviewError, Task
from geoslave.review.zooniverse import Tally

HEADER = [
    *("classification_id", "user_name", "user_id", "user_ip", "workflow_id", "workflow_name", "workflow_version"),
    *("created_at", "gold_standard", "expert", "metadata", "annotations", "subject_data", "subject_ids"),
]
PICTURE = Picture("pictures/a1.png", "near", 64, 64, outline=(((5.0, 5.0), (30.0, 5.0), (30.0, 30.0), (5.0, 5.0)),))


def task(task_id: str = "t1", kind: Any = "validate") -> Task:
    return Task(task_id, kind, "flagged", 0.5, pictures=(PICTURE,))


def row(number: object, said: Any, task_id: str = "t1", **cells: str) -> dict[str, str]:
    value = [{"task": "T0", "task_label": "Is there a kiln?", "value": said}]
    subject = {"9001": {"retired": None, "#task_id": task_id, "image_1": "a1.png"}}
    held = {
        "classification_id": str(number),
        "user_name": f"user{number}",
        "user_id": f"7{number}",
        "user_ip": "abc",
        "workflow_id": "55",
        "workflow_version": "3.14",
        "created_at": "2026-02-01 10:20:30 UTC",
        "annotations": json.dumps(value),
        "subject_data": json.dumps(subject),
    }
    return dict.fromkeys(HEADER, "") | held | cells


def write(path: Path, rows: list[dict[str, str]], tail: str = "") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)
        file.write(tail)
    return path


def read(path: Path, *tasks: Task, **options: Any) -> tuple[list[Any], Tally]:
    tally = Tally()
    known = {one.task_id: one for one in tasks or (task(),)}
    return list(zooniverse.read_votes(path, known, tally, **options)), tally


def test_a_manifest_keeps_to_zooniverses_rules_and_tells_nothing_but_an_opaque_id(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / PICTURE.path)
    assert zooniverse.export([task()], tmp_path, tmp_path / "set") == 1
    assert zooniverse.check_manifest(tmp_path / "set") == []
    (line,) = csv.DictReader((tmp_path / "set" / "manifest.csv").open())
    assert line == {"#task_id": "t1", "image_1": "a1.png"}
    pixels = np.asarray(Image.open(tmp_path / "set" / "a1.png"))
    assert (pixels[5, 5:30] != 90).any(), "the outline is drawn in"
    assert (np.asarray(Image.open(tmp_path / PICTURE.path)) == 90).all(), "the review's own picture stays"
    with pytest.raises(OutputError, match="exists"):
        zooniverse.export([task()], tmp_path, tmp_path / "set")
    (tmp_path / "set" / "a1.png").write_bytes(b"x" * (zooniverse.LARGEST_BYTES + 1))
    assert "larger than 1048576" in zooniverse.check_manifest(tmp_path / "set")[0]
    (tmp_path / "set" / "a1.png").write_bytes(b"")
    assert "missing or empty" in zooniverse.check_manifest(tmp_path / "set")[0]


def test_a_missing_picture_leaves_no_half_set(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        zooniverse.export([task()], tmp_path, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_votes_come_back_with_who_and_when_but_no_name(tmp_path: Path) -> None:
    votes, tally = read(write(tmp_path / "c.csv", [row(1, "Yes"), row(2, "No."), row(3, "Not sure")]))
    assert [vote.answer for vote in votes] == ["yes", "no", "unsure"]
    assert votes[0].created_at.isoformat() == "2026-02-01T10:20:30+00:00"
    assert "user" not in votes[0].reviewer_id
    assert (tally.n_read, tally.n_votes, tally.n_people, tally.left) == (3, 3, 3, {})


def test_what_is_broken_is_left_out_and_told(tmp_path: Path) -> None:
    rows = [
        row(1, "Yes"),
        row(1, "Yes"),
        row(2, "Yes", annotations='[{"task": "T0", "va'),
        row(3, "Yes", subject_data="null"),
        row(4, "Yes", task_id="of another project"),
        row(5, "A giraffe"),
        row("", "Yes"),
        row(6, "No", annotations='"' + "[" * 40_000),
        row(7, "No", workflow_version="2.1"),
        row(8, {"select": 1}),
    ]
    votes, tally = read(write(tmp_path / "c.csv", rows, tail="9,only,three\r\n\r\n\0\0\r\n"))
    assert [vote.key for vote in votes] == ["zooniverse-1", "zooniverse-7"]
    assert tally.left == {
        "the same classification again": 1,
        "cells that are no JSON": 2,
        "subjects without our task id": 1,
        "tasks of another review": 1,
        "answers that are not understood": 2,
        "no classification_id": 1,
        "too few or too many cells": 1,
    }
    assert tally.versions == {"55 v3.14": 1, "55 v2.1": 1}
    assert tally.n_read == tally.n_votes + sum(tally.left.values())


def test_people_without_an_id_are_told_apart_as_well_as_can_be(tmp_path: Path) -> None:
    nobody = {"user_id": "", "user_name": "", "user_ip": ""}
    same = {"user_id": "", "user_name": "not-logged-in-1", "user_ip": "x"}
    rows = [row(1, "Yes", **nobody), row(2, "Yes", **nobody), row(3, "Yes", **same), row(4, "Yes", "t2", **same)]
    votes, _ = read(write(tmp_path / "c.csv", rows), task(), task("t2"))
    people = [vote.reviewer_id for vote in votes]
    assert len(set(people)) == 3 and people[2] == people[3]


def test_drawn_shapes_become_marks_and_an_empty_drawing_a_no(tmp_path: Path) -> None:
    drawn = [{"x": 10.5, "y": 20, "tool": 0, "frame": 0}, {"x": 5, "y": 5, "width": 10, "height": 4, "frame": 0}]
    beside = [{"x": 900, "y": 1, "frame": 0}, {"x": "?", "y": 1}, {"x": 1, "y": 1, "frame": 7}]
    rows = [row(1, [*drawn, *beside]), row(2, []), row(3, [*beside])]
    votes, tally = read(write(tmp_path / "c.csv", rows), task(kind="search"))
    assert [(mark.x, mark.y) for mark in votes[0].marks] == [(10.5, 20), (10, 7)]
    assert [vote.answer for vote in votes] == ["yes", "no"]
    assert tally.left == {"answers that are not understood": 1}


def test_own_words_and_one_workflow(tmp_path: Path) -> None:
    rows = [row(1, "Looks like a kiln"), row(2, "Yes", workflow_id="56")]
    votes, tally = read(write(tmp_path / "c.csv", rows), answers={"looks like a kiln": "yes"}, workflow="55")
    assert [vote.key for vote in votes] == ["zooniverse-1"]
    assert tally.left == {"another workflow": 1}


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\0\0\0"])
def test_another_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ReviewError, match="no classification export"):
        read(tmp_path / "c.csv")
    with pytest.raises(ReviewError, match="not there"):
        read(tmp_path / "nowhere.csv")


def test_a_large_export_goes_into_the_store_once(store: Store, tmp_path: Path) -> None:
    tasks = [task(f"t{k}") for k in range(40)]
    store.add_tasks(tasks)
    rows = [row(k, "Yes" if k % 3 else "No", f"t{k % 40}") for k in range(400)]
    rows += [row(k, "Yes", f"t{k % 40}") for k in range(30)] + [row(9999, "Yes", annotations="{")]
    known = {one.task_id: one for one in tasks}
    path = write(tmp_path / "c.csv", rows)
    tally = Tally()
    assert store.import_votes(zooniverse.read_votes(path, known, tally)) == (400, {})
    assert tally.left == {"the same classification again": 30, "cells that are no JSON": 1}
    assert store.import_votes(zooniverse.read_votes(path, known, Tally())) == (0, {"imported before": 400})
    assert store.verify().votes == 400
    assert {standing["n_votes"] for standing in store.standings().values()} == {10}
