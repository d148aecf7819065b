"""The demo: the whole path in one command, up to a count and its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A small demo and what it said."""
    from geoslave.demo import run_demo

    out = tmp_path_factory.mktemp("demo") / "demo"
    made = run_demo(out, seed=7, size=384, model="kiln-s2", overwrite=False, progress=lambda *_: None)
    return out, made.to_dict()


def test_it_leaves_every_file_it_names(demo: tuple[Path, dict]) -> None:
    out, told = demo
    assert told["synthetic"] and all((out / name).exists() for name in told["files"])


def test_the_count_can_be_made_again_from_its_tables(demo: tuple[Path, dict], run: Run) -> None:
    out, told = demo
    frame, reviews = pd.read_csv(out / "frame.csv"), pd.read_csv(out / "reviews.csv")
    assert len(frame) == 16 and frame["n_flagged"].sum() == told["n_detections"]
    assert set(frame.loc[frame["n_flagged"] > 0, "tile_id"]) <= set(reviews["tile_id"])
    assert reviews["n_sites"].sum() == told["n_sites"]  # as few tiles as here are all looked at
    status, printed, err = run("estimate", "count", out / "frame.csv", out / "reviews.csv", "--json")
    assert status == 0, err
    assert json.loads(printed)["total"]["value"] == told["count"]["value"] == told["n_sites"]
    assert run("provenance", out / "count.json")[0] == 0


def test_the_report_says_that_all_is_synthetic(demo: tuple[Path, dict]) -> None:
    text = (demo[0] / "report.html").read_text()
    assert "plays the reviewers" in text and "An indicator, not evidence" in text
    assert f"A count of {demo[1]['n_sites']} sites" in text and "Do not publish it" not in text
