"""`geoslave search review` and `train`: begun from a layer, one process at a time, refused with a line for people."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml

from geoslave.cli.search_review import doubts
from geoslave.search.labels import Marks
from geoslave.targets import get_target
from tests.search.search_scene import begin, shared

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def places(tmp_path: Path) -> Path:
    _, sites = shared()
    path = tmp_path / "ten.csv"
    points = sites.representative_point()
    path.write_text("lon,lat\n" + "".join(f"{p.x},{p.y}\n" for p in points.iloc[:3]))
    return path


def served(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "geoslave.cli.main", "search", "review", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http://127.0.0.1" in line, process.communicate()[1]
    return process, line.split()[-1]


def test_a_campaign_begins_with_places_is_served_and_goes_on_after_a_stop(places: Path, tmp_path: Path) -> None:
    index, _ = shared()
    own = tmp_path / "own.yaml"
    facts = {"name": "my_kiln", "title": "my kiln", "area_m2": [500, 20000], "length_m": [40, 200], "aspect": [1, 4],
             "typical_m": [90, 45], "merge_distance_m": 40}  # fmt: skip
    own.write_text(yaml.safe_dump(facts))
    name = f"c{uuid4().hex[:8]}"
    port = 20_000 + int(name[1:4], 16)
    process, address = served(index.folder / name, "--like", places, "--target", own, "--port", port)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                told = httpx.get(f"{address}/api/target", timeout=20).json()
                break
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.1)
        assert told["name"] == "my_kiln" and told["can_train"]
        second = subprocess.run(
            [sys.executable, "-m", "geoslave.cli.main", "search", "review", str(index.folder / name)],
            capture_output=True,
            text=True,
        )
        assert second.returncode == 1 and "open already" in second.stderr
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert "Go on with" in said
    folder = index.folder / "campaigns" / name
    assert sum(len(marks) for marks in Marks(folder).current().values()) == 3
    assert yaml.safe_load((folder / "target.yaml").read_text())["name"] == "my_kiln"


def test_what_cannot_begin_is_told_in_one_line(run: Run, places: Path, tmp_path: Path) -> None:
    index, _ = shared()
    status, _, said = run("search", "review", index.folder / "new", "--like", places)
    assert status == 2 and "--target" in said
    status, _, said = run("search", "review", index.folder / "new", "--like", places, "--target", "fishcamp")
    assert status == 1 and "did you mean 'fish_camp'" in said
    status, _, said = run("search", "review", index.folder / "new")
    assert status == 1 and "no campaign 'new'" in said
    status, _, said = run("search", "review", tmp_path / "new", "--like", places, "--target", "mine")
    assert status == 1 and "there is no index" in said
    far = tmp_path / "far.csv"
    far.write_text("lon,lat\n10,50\n")
    status, _, said = run("search", "review", index.folder / "new", "--like", far, "--target", "mine")
    assert status == 1 and "outside of the index" in said
    assert not (index.folder / "campaigns" / "new" / "campaign.json").exists()


def test_a_training_with_too_little_says_what_is_missing(run: Run) -> None:
    campaign = begin()
    status, _, said = run("search", "train", campaign.folder, "--json")
    assert status == 1 and "too little to train with" in said and "more chips without a site" in said
    assert not (campaign.folder / "model").exists()
    (campaign.folder / "draft.json").write_text(json.dumps({"nonsense": 1}))
    status, _, again = run("search", "train", campaign.folder, "--target", "fish_camp")
    assert status == 1 and again == said


def test_imagery_that_cannot_show_a_target_is_told_of() -> None:
    index, _ = shared()
    assert doubts(index, get_target("brick_kiln")) == []
    assert "0.5 m or finer" in doubts(index, get_target("charcoal"))[0]
    assert "another season" in doubts(index, get_target("fish_camp"))[0]
