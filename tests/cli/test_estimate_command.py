"""`geoslave estimate ...`, as people use it: design, review, count, compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import shapely

from tests.estimate.tables import region, reviewed

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def job(tmp_path: Path, run: Run) -> tuple[Path, Path, pd.DataFrame]:
    """A frame, the reviews of a sample of it, and the truth."""
    truth = region(2000)
    truth["lon"], truth["lat"] = 80 + truth.index % 50 * 0.01, 20 + truth.index // 50 * 0.01
    truth.drop(columns=["sites", "hits"]).to_csv(tmp_path / "frame.csv", index=False)
    status, printed, _ = run(
        "estimate", "design", tmp_path / "frame.csv", "--reviews", 600, "--out", tmp_path / "sample.csv"
    )
    assert status == 0 and "600 tiles to review" in printed and "half-width" in printed
    drawn = pd.read_csv(tmp_path / "sample.csv", dtype={"tile_id": str})
    reviewed(drawn, truth).to_csv(tmp_path / "reviews.csv", index=False)
    return tmp_path / "frame.csv", tmp_path / "reviews.csv", truth


def test_design_review_count(job: tuple[Path, Path, pd.DataFrame], run: Run, tmp_path: Path) -> None:
    frame, reviews, truth = job
    status, printed, _ = run(
        "estimate", "count", frame, reviews, "--by", "district", "--rates", "--json", "--out", tmp_path / "count.json"
    )
    facts = json.loads(printed)
    assert status == 0 and facts == json.loads((tmp_path / "count.json").read_text())
    assert facts["total"]["low"] <= truth["sites"].sum() <= facts["total"]["high"]
    assert facts["total"]["method"] == "gamma" and "Fay-Feuer" in facts["total"]["assumptions"]
    assert set(facts["by"]["district"]) == {"north", "south"}
    assert facts["recall"]["low"] < truth["hits"].sum() / truth["sites"].sum() < facts["recall"]["high"]
    status, printed, err = run("estimate", "count", frame, reviews)
    assert status == 0 and "sites, 95% interval, from 600 reviewed tiles" in printed and err == ""


def test_warnings_of_parts_and_of_what_votes_do_not_reach_are_seen(run: Run, tmp_path: Path) -> None:
    tiles = pd.DataFrame({"tile_id": [f"t{k}" for k in range(400)], "n_flagged": 0})
    tiles["district"] = ["north", "south", *(f"d{k}" for k in range(6))] * 50
    found = tiles.iloc[:320].assign(n_sites=lambda one: (one["district"] == "north").astype(int))
    found["n_zigzag"], found["probability"] = found["n_sites"], found["n_sites"] * 0.9
    said = found["n_sites"].map({0: "no", 1: "yes"})
    cast = [found[["tile_id"]].assign(reviewer=who, answer=said) for who in "ab"]
    frame, reviews, certain, votes = (tmp_path / f"{name}.csv" for name in ("frame", "reviews", "certain", "votes"))
    tiles.to_csv(frame, index=False)
    found.drop(columns=["district", "n_flagged"]).to_csv(reviews, index=False)
    found.drop(columns=["district", "n_flagged", "probability"]).to_csv(certain, index=False)
    pd.concat(cast).to_csv(votes, index=False)
    status, _, err = run("estimate", "count", frame, certain, "--by", "district")
    told = "district d0, d1, d2, d3, d4 and 2 others: no reviewed tile holds a site"
    assert status == 0 and err.count("no reviewed tile") == 1 and told in err
    for given, carried in (((certain, "--votes", votes), "votes"), ((reviews,), "probability"), ((certain,), "none")):
        out = ("--out", tmp_path / f"{carried}.json")
        status, _, err = run("estimate", "count", frame, *given, "--by-class", "--rates", *out)
        assert status == 0, err
        assert json.loads(out[1].read_text())["provenance"]["reviewers_err"] == carried
        assert ("class zigzag: reviewers' errors are not carried" in err) == (carried != "none")
        assert ("not into recall" in err) == (carried != "none")
    err = run("estimate", "count", frame, certain, "--votes", votes, "--method", "difference")[2]
    assert "the votes were not used" in err


def test_counts_within_polygons(job: tuple[Path, Path, pd.DataFrame], run: Run, tmp_path: Path) -> None:
    frame, reviews, truth = job
    halves = gpd.GeoDataFrame(
        {"name": ["west", "east"]},
        geometry=[shapely.box(79, 19, 80.245, 22), shapely.box(80.245, 19, 82, 22)],
        crs=4326,
    )
    halves.to_crs(32644).to_file(tmp_path / "halves.gpkg")
    status, printed, _ = run("estimate", "count", frame, reviews, "--areas", tmp_path / "halves.gpkg", "--json")
    parts = json.loads(printed)["by"]["area"]
    assert status == 0 and set(parts) == {"west", "east"}
    west = truth.loc[truth["lon"] < 80.245, "sites"].sum()
    assert parts["west"]["low"] <= west <= parts["west"]["high"]


def test_compare_names_the_difference(job: tuple[Path, Path, pd.DataFrame], run: Run) -> None:
    status, printed, _ = run("estimate", "compare", job[0], job[1], "--by", "district")
    assert status == 0 and "recall by district" in printed and "p = " in printed


def test_accuracy_of_a_matrix(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("map,water,land\nwater,66,4\nland,2,300\n")
    (tmp_path / "a.csv").write_text("class_name,area\nland,900\nwater,100\n")
    status, printed, _ = run("estimate", "accuracy", tmp_path / "m.csv", "--mapped", tmp_path / "a.csv", "--json")
    facts = json.loads(printed)
    assert status == 0 and facts["classes"]["water"]["users"]["value"] == pytest.approx(66 / 70)


def test_chapman_is_told_with_its_assumptions(run: Run) -> None:
    status, printed, err = run("estimate", "chapman", 346, 184, 49)
    assert status == 0 and "1,283" in printed and "independent" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.assign(n_sites=-1), "whole number"),
        (lambda t: t.assign(n_sites=""), "not answered"),
        (lambda t: t.assign(inclusion_probability=3), "at most 1"),
        (lambda t: pd.concat([t, t[:3]]), "duplicate"),
        (lambda t: t[:0], "no rows"),
    ],
)
def test_bad_reviews_end_in_one_line(
    job: tuple[Path, Path, pd.DataFrame], run: Run, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    change(pd.read_csv(job[1])).to_csv(job[1], index=False)
    status, printed, err = run("estimate", "count", job[0], job[1])
    assert status == 1 and printed == ""
    assert err.startswith("Error: ") and said in err and len(err.strip().splitlines()) == 1


def test_outputs_are_not_overwritten_unasked(job: tuple[Path, Path, pd.DataFrame], run: Run, tmp_path: Path) -> None:
    before = (tmp_path / "sample.csv").read_bytes()
    command = ("estimate", "design", job[0], "--reviews", 300, "--out", tmp_path / "sample.csv")
    assert run(*command)[0] == 1 and (tmp_path / "sample.csv").read_bytes() == before
    assert run(*command, "--overwrite")[0] == 0


def test_a_drawn_sample_keeps_its_design(job: tuple[Path, Path, pd.DataFrame], tmp_path: Path) -> None:
    told = json.loads((tmp_path / "sample.design.json").read_text())
    assert told["kind"] == "design" and told["seed"] == 0 and told["designs"][0]["n_reviews"] == 600
    assert told["provenance"]["inputs"][0]["file"] == "frame.csv"


def test_every_answer_on_disk_says_where_it_comes_from(
    job: tuple[Path, Path, pd.DataFrame], run: Run, tmp_path: Path
) -> None:
    assert run("estimate", "compare", *job[:2], "--by", "district", "--out", tmp_path / "compare.json")[0] == 0
    (tmp_path / "m.csv").write_text("map,water,land\nwater,66,4\nland,2,300\n")
    (tmp_path / "a.csv").write_text("class_name,area\nland,900\nwater,100\n")
    units = (tmp_path / "m.csv", "--mapped", tmp_path / "a.csv")
    assert run("estimate", "accuracy", *units, "--out", tmp_path / "accuracy.json")[0] == 0
    for name, files in (("compare", ["frame.csv", "reviews.csv"]), ("accuracy", ["m.csv", "a.csv"])):
        status, printed, _ = run("provenance", tmp_path / f"{name}.json", "--json")
        facts = json.loads(printed)
        assert status == 0 and [one["file"] for one in facts["inputs"]] == files
        assert all(len(one["sha256"]) == 64 for one in facts["inputs"]) and facts["geoslave_version"]
    assert run("provenance", tmp_path / "compare.json")[1].count("sha256") == 2


def test_places_that_are_no_degrees_are_refused(job: tuple[Path, Path, pd.DataFrame], run: Run, tmp_path: Path) -> None:
    gpd.GeoDataFrame({"name": ["a"]}, geometry=[shapely.box(79, 19, 82, 22)], crs=4326).to_file(tmp_path / "a.gpkg")
    frame = pd.read_csv(job[0])
    for lon, lat in ((999.0, 20.0), ("east", 20.0), (80.0, -91.0)):
        frame.assign(lon=lon, lat=lat).to_csv(job[0], index=False)
        status, _, err = run("estimate", "count", job[0], job[1], "--areas", tmp_path / "a.gpkg")
        assert status == 1 and "must be degrees" in err
