"""A review that people voted in is counted in one step."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import shapely

from geoslave.review.store import open_store
from geoslave.review.tasks import Mark, Picture, Place, Task, Vote

Run = Callable[..., tuple[int, str, str]]
REVIEWERS = ("ana", "ben", "cem")


def add(
    folder: Path, kind: str, pool: str, stratum: str, chance: float, truths: Sequence[int | None], silent: int = 0
) -> None:
    """Tasks of one stratum: for each the sites in it (None: nobody can say), the last `silent` without a vote."""
    folder.mkdir(exist_ok=True)
    tasks, places, votes = [], [], []
    for k, sites in enumerate(truths):
        name = f"{kind[0]}{stratum.replace(' ', '-')}-{k}"
        picture = Picture(f"{name}.png", "near", 100, 100)
        tasks.append(Task(name, kind, stratum, chance, pool=pool, pictures=(picture,)))  # type: ignore[arg-type]
        grid = {picture.path: (1e-4, 0.0, 80.0 + k / 50, 0.0, -1e-4, 20.01)}
        tile = shapely.box(80 + k / 50, 20, 80.01 + k / 50, 20.01).wkt
        own = {"detection_id": f"d-{name}"} if kind == "validate" else {"tile_id": f"{stratum} {k}"}
        places.append(Place(name, "EPSG:4326", grid, tile, lon=80.005 + k / 50, lat=20.005, **own))
        marks = tuple(Mark(20 + 30 * n, 50, picture.path) for n in range(sites or 0)) if kind == "search" else ()
        said = "bad_imagery" if sites is None else "yes" if sites else "no"
        if k < len(truths) - silent:
            votes += [Vote(name, who, said, marks=marks, key=f"{name}-{who}") for who in REVIEWERS]
    with open_store(folder / "review.sqlite") as store:
        store.add_tasks(tasks, places)
        store.import_votes(votes)


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """Every flagged tile (20, of which 12 hold sites, one of them two), and 100 of 200 others (2 with a site)."""
    folder = tmp_path / "audit"
    add(folder, "search", "work", "flagged 1", 1.0, [2, *[1] * 11, *[0] * 8])
    add(folder, "search", "unflagged", "flagged 0", 0.5, [1, 1, *[0] * 98])
    frame = [(f"flagged 1 {k}", 1, "flagged 1") for k in range(20)]
    frame += [(f"flagged 0 {k}", 0, "flagged 0") for k in range(200)]
    pd.DataFrame(frame, columns=["tile_id", "n_flagged", "stratum"]).to_csv(folder / "frame.csv", index=False)
    return folder


def test_tiles_with_their_chances_and_votes(audit: Path, run: Run, tmp_path: Path) -> None:
    status, printed, err = run(
        "estimate", "count", "--review", audit, "--rates", "--json", "--out", tmp_path / "count.json"
    )
    assert status == 0, err
    facts = json.loads(printed)
    assert facts["total"]["value"] == pytest.approx(13 + 4, abs=1) and facts["total"]["low"] <= 17
    assert facts["sample"]["reviewed"] == 120 and facts["sample"]["tiles"] == 220
    assert facts["provenance"]["n_reviewers"] == 3 and len(facts["provenance"]["votes_head"]) == 64
    assert any("not into recall" in warning for warning in facts["recall"]["warnings"])
    assert run("provenance", tmp_path / "count.json")[1].startswith("kind")


def test_the_tables_of_a_consensus_say_the_same(audit: Path, run: Run, tmp_path: Path) -> None:
    assert run("review", "consensus", audit, "--out", tmp_path / "said")[0] == 0
    status, printed, err = run("estimate", "count", audit / "frame.csv", tmp_path / "said" / "tiles.csv", "--json")
    assert status == 0, err
    assert json.loads(printed)["total"]["value"] == pytest.approx(17, abs=1)


def test_a_coordinator_has_the_last_word(run: Run, tmp_path: Path) -> None:
    """Of 40 tiles 10 hold a site, by everybody's word; nobody can tell of two, and of two all say the wrong thing."""
    review = tmp_path / "review"
    add(review, "search", "work", "flagged 1", 1.0, [None, None, 1, 0, *[1] * 9, *[0] * 27])
    frame = pd.DataFrame({"tile_id": [f"flagged 1 {k}" for k in range(40)], "n_flagged": 1, "stratum": "flagged 1"})
    frame.to_csv(review / "frame.csv", index=False)
    with open_store(review / "review.sqlite") as store:
        chief = store.add_reviewer("Chief", "coordinator")
        for k, said in enumerate(("yes", "no", "no", "yes")):
            store.settle(f"sflagged-1-{k}", chief, said)
    status, printed, err = run("estimate", "count", "--review", review, "--json")
    assert status == 0, err
    assert json.loads(printed)["total"]["value"] == pytest.approx(11, abs=0.2)
    assert run("review", "consensus", review, "--out", tmp_path / "said")[0] == 0
    tables = (review / "frame.csv", tmp_path / "said" / "tiles.csv", "--votes", tmp_path / "said" / "votes.csv")
    status, printed, err = run("estimate", "count", *tables, "--json")
    assert status == 0, err
    assert json.loads(printed)["total"]["value"] == pytest.approx(11, abs=0.2)


def test_areas_come_from_the_places_of_the_tasks(audit: Path, run: Run, tmp_path: Path) -> None:
    halves = [shapely.box(79, 19, 80.199, 21), shapely.box(80.199, 19, 90, 21)]
    gpd.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs=4326).to_file(tmp_path / "halves.gpkg")
    status, printed, err = run("estimate", "count", "--review", audit, "--areas", tmp_path / "halves.gpkg", "--json")
    assert status == 0, err
    parts = json.loads(printed)["by"]["area"]
    assert parts["west"]["value"] + parts["east"]["value"] == pytest.approx(17, abs=1.5)
    assert parts["west"]["value"] > parts["east"]["value"]


def test_unanswered_tasks_are_refused_unless_told(audit: Path, run: Run) -> None:
    add(audit, "search", "work", "flagged 2", 1.0, [2, 0, None, 1], silent=1)
    frame = pd.read_csv(audit / "frame.csv")
    more = pd.DataFrame({"tile_id": [f"flagged 2 {k}" for k in range(4)], "n_flagged": 2, "stratum": "flagged 2"})
    pd.concat([frame, more]).to_csv(audit / "frame.csv", index=False)
    status, _, err = run("estimate", "count", "--review", audit)
    assert status == 1 and "2 of 124 tasks were not answered" in err
    status, _, err = run("estimate", "count", "--review", audit, "--gaps", "stratum")
    assert status == 0 and "missing at random" in err


def test_detections_and_tiles_without_one(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "validated"
    add(folder, "validate", "work", "confidence 0.2-0.4", 0.5, [1, 0] * 10)
    add(folder, "validate", "work", "confidence 0.8-1.0", 1.0, [1] * 20)
    status, printed, err = run("estimate", "count", "--review", folder, "--json")
    assert status == 0, err
    total = json.loads(printed)["total"]
    assert total["value"] == pytest.approx(40, abs=1.5) and any("missed are" in text for text in total["warnings"])
    add(folder, "search", "unflagged", "unflagged", 0.1, [1, *[0] * 49])
    status, printed, err = run("estimate", "count", "--review", folder, "--json")
    assert status == 0, err
    total = json.loads(printed)["total"]
    assert total["value"] == pytest.approx(50, abs=4) and any("census+audit" in text for text in total["warnings"])


def test_a_triage_counts_nothing(run: Run, tmp_path: Path) -> None:
    add(tmp_path / "triage", "validate", "work", "triage: first 4 of 90", 1.0, [1, 1, 0, 1])
    status, _, err = run("estimate", "count", "--review", tmp_path / "triage")
    assert status == 1 and "chosen on purpose" in err and len(err.strip().splitlines()) == 1


def test_what_is_missing_is_told(audit: Path, run: Run, tmp_path: Path) -> None:
    assert run("estimate", "count")[0] == 2
    assert run("estimate", "count", audit / "frame.csv")[0] == 2
    (audit / "frame.csv").unlink()
    assert "no frame.csv" in run("estimate", "count", "--review", audit)[2]
    assert "is not there" in run("estimate", "count", "--review", tmp_path / "none")[2]
