"""The report: all in one file, nothing loaded, nothing given away, everything said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoslave.detections.export import write_detections
from geoslave.errors import EstimateError, GeoslaveError, OutputError
from geoslave.release.report import Cover, Ground, page, write_report
from geoslave.release.report_pdf import find_browser, print_pdf
from geoslave.release.report_svg import class_edges, nice_ticks
from tests.release.country import PROVENANCE, country

EVIL = '<script>alert(1)</script> & "Ana" http://example.org/x.js'
ALONE = {"meta", "circle", "rect", "path", "polygon", "polyline", "br"}


def figure(value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {
        "value": value,
        "low": low,
        "high": high,
        "level": 0.95,
        "method": "gamma",
        "n_reviewed": 800,
        "warnings": [],
        **more,
    }


def count(**by: dict[str, float]) -> dict[str, Any]:
    parts = {name: {key: figure(n, n * 0.8, n * 1.3) for key, n in groups.items()} for name, groups in by.items()}
    return {
        "kind": "count",
        "total": figure(571.16, 541.6, 627.1, warnings=["only few tiles were reviewed"]),
        "by": parts,
        "recall": figure(0.825, 0.772, 0.862),
        "precision": figure(0.84, 0.81, 0.86),
        "sample": {
            "tiles": 3000,
            "reviewed": 800,
            "strata": [{"name": "flagged 0", "tiles": 3000, "reviewed": 800, "with_sites": 7}],
        },
        "provenance": {
            "geoslave_version": "0.1.0",
            "made": "2026-03-01T00:00:00Z",
            "method": "gamma",
            "seed": 4,
            "n_reviewed": 800,
            "n_reviewers": 6,
            "inputs": [{"role": "frame", "file": "frame.csv", "sha256": "cd" * 32}],
        },
    }


def change() -> dict[str, Any]:
    series = [
        {"date": f"{year}-01-20", "found": 250 + year % 7, "unobservable": 3, "sites": figure(300, 270, 340)}
        for year in range(2018, 2023)
    ]
    row = {name: figure(9, 0, 30) for name in ("persisted", "closed", "opened", "net")}
    status = {"persisted": 224, "appeared": 37, "not redetected": 30, "closed": 9, "unobservable": 0}
    changes = [{"from": "2018-01-20", "to": "2019-01-20", **row}]
    return {"kind": "change", "absences_needed": 4, "status": status, "series": series, "changes": changes}


class _Reader(HTMLParser):
    """Every tag with its attributes; tags must close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_nothing_is_loaded_and_every_text_is_escaped() -> None:
    told = count(district={EVIL: 300.0, "south": 271.0})
    told["total"]["warnings"] = [EVIL]
    areas = gpd.GeoDataFrame({"name": [EVIL]}, geometry=[shapely.box(79, 25, 82, 27)], crs=4326)
    cover = Cover(EVIL, EVIL, (EVIL,), EVIL, date(2026, 3, 2))
    text = page([told, change()], cover, Ground(country(), {**PROVENANCE, "model_id": EVIL}, areas))
    reader = read(text)
    assert "<script" not in text and not {"script", "iframe", "link", "object"} & {tag for tag, _ in reader.tags}
    for _, attributes in reader.tags:
        assert not {"src", "href", "xlink:href", "srcset", "onload"} & set(attributes)
        assert "url(" not in (attributes.get("style") or "")
    assert "@import" not in text and "url(" not in text
    policy = next(given["content"] for tag, given in reader.tags if given.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


def test_the_figures_their_method_and_their_origin_are_said() -> None:
    text = page([count(), change()], Cover("Kilns", written=date(2026, 3, 2)), Ground(country(), PROVENANCE))
    for words in (
        "571", "95% interval 542 to 627", "800 reviewed tiles of 3,000", "0.82", "Fay and Feuer", "An indicator, not",
        "never evidence of a crime", "Only few tiles were reviewed", "closed only after 4 observable absences",
        "frame.csv", "cd" * 32, "kiln-s2 0.2.0", "ab" * 32, "2025-03-01", "800 tiles, by 6 people", "seed 4",
        "What these figures cannot tell", "Sites over time", "9 (0 to 30)", "2026-03-02",
    ):  # fmt: skip
        assert words in text, words
    assert "T44RKQ" not in text  # the name of a scene is a place


def test_no_place_is_given_away_unless_asked_for() -> None:
    found = country()
    points = found.geometry.to_crs(4326).representative_point()
    told = count(area={"A": 300.0, "B": 264.0, "C": 3.0, "D": 4.0})
    shapes = [shapely.box(79 + k, 25, 80 + k, 27) for k in range(4)]
    areas = gpd.GeoDataFrame({"name": list("ABCD")}, geometry=shapes, crs=4326)
    text = page([told], Cover("Kilns"), Ground(found, PROVENANCE, areas))
    for point in points:
        assert f"{point.x:.3f}" not in text and f"{point.y:.3f}" not in text
    assert text.count("<circle") < 20 and "withheld" in text
    assert "3 (2 to 4)" not in text and "4 (3 to 5)" not in text
    assert not set(found["detection_id"]) & set(re.findall(r"[0-9a-f]{16}", text))
    open_text = page([told], Cover("Kilns"), Ground(found, PROVENANCE, areas, precise=True))
    assert open_text.count("<circle") > len(found) and "Do not publish it" in open_text
    assert "3 (2 to 4)" in open_text and "T44RKQ" in open_text


def test_a_few_detections_have_no_map() -> None:
    text = page([count()], Cover("Kilns"), Ground(country(3), PROVENANCE))
    assert "No map" in text and "H3" not in text


def test_strata_named_after_places_are_protected_too() -> None:
    told = count(stratum={"north": 300.0, "west": 262.0, "east": 2.0, "south": 4.0})
    told["sample"]["strata"] = [{"name": "east", "tiles": 10, "reviewed": 10, "with_sites": 2}]
    text = page([told], Cover("Kilns"), Ground())
    assert "2 (2 to 3)" not in text and "<th>with sites<" not in text
    plain = count(stratum={"flagged 0": 300.0, "flagged 1": 262.0, "flagged 2": 9.0, "flagged 5+": 2.0})
    assert "2 (2 to 3)" in page([plain], Cover("Kilns"), Ground())


def test_strata_named_like_ours_are_places_all_the_same() -> None:
    told = count(stratum={"allahabad": 300.0, "randomgram": 262.0, "flagged hill": 3.0, "confidence bay": 4.0})
    text = page([told], Cover("Kilns"), Ground())
    assert "3 (2 to 4)" not in text and "withheld" in text


@pytest.mark.parametrize("method", ["wald", "difference", "ppi", "Chapman, Sadinle's interval"])
def test_a_sample_without_a_site_is_no_census(method: str) -> None:
    told = count()
    told["total"] = figure(0, 0, 0, method=method)
    text = page([told], Cover("Kilns"), Ground())
    assert "none was left out" not in text and "all were reviewed" not in text
    told["total"] = figure(7, 7, 7)
    assert "none was left out" in page([told], Cover("Kilns"), Ground())


def test_how_reviewers_may_err_is_said() -> None:
    told = count()
    for carried, said, cites in (
        ("votes", "what all votes say", True),
        ("probability", "probability that the reviews give", False),
        ("none", "What reviewers found in a tile is what is there", False),
    ):
        told["provenance"]["reviewers_err"] = carried
        text = page([told], Cover("Kilns"), Ground())
        assert said in text and ("Joseph, L." in text) == cites
        assert ("and from reviewers who err" in text) == (carried != "none")


def comparison(by: str, hits: dict[str, int]) -> dict[str, Any]:
    groups = {name: figure(0.41 + k / 100, 0.2, 0.6) for k, name in enumerate(hits)}
    one = {"measure": "recall", "by": by, "p_value": 0.2, "differs": False, "groups": groups, "hits": hits}
    return {"kind": "comparison", "comparisons": [one]}


def test_rates_of_places_with_few_sites_are_withheld() -> None:
    told = comparison("district", {"north": 50, "south": 2})
    text = page([told], Cover("Kilns"), Ground())
    assert "0.41 (0.20 to 0.60)" in text and "0.42 (0.20 to 0.60)" not in text and "fewer than 5 confirmed" in text
    assert "0.42 (0.20 to 0.60)" in page([told], Cover("Kilns"), Ground(precise=True))
    assert "0.42 (0.20 to 0.60)" in page([comparison("season", {"dry": 50, "wet": 2})], Cover("Kilns"), Ground())
    del told["comparisons"][0]["hits"]  # of an earlier version: nobody knows
    assert "0.41 (0.20 to 0.60)" not in page([told], Cover("Kilns"), Ground())


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EstimateError, match="no figure"):
        page([{"kind": "design"}], Cover("x"), Ground())
    with pytest.raises(EstimateError, match="not whole"):
        write_report(tmp_path / "r.html", [{"kind": "count", "total": {}}], Cover("x"))
    assert not (tmp_path / "r.html").exists()
    write_report(tmp_path / "r.html", [count()], Cover("x"))
    with pytest.raises(OutputError, match="exists"):
        write_report(tmp_path / "r.html", [count()], Cover("x"))


def test_a_pdf_without_a_browser_says_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOSLAVE_CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(GeoslaveError, match="open the HTML file in a browser"):
        find_browser()
    (tmp_path / "broken").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "broken").chmod(0o755)
    monkeypatch.setenv("GEOSLAVE_CHROMIUM", str(tmp_path / "broken"))
    with pytest.raises(OutputError, match="could not print"):
        print_pdf(tmp_path / "r.html", tmp_path / "r.pdf")
    assert not (tmp_path / "r.pdf").exists()


@given(st.floats(1e-3, 1e7))
def test_ticks_are_few_round_and_reach_the_end(end: float) -> None:
    ticks = nice_ticks(end)
    assert ticks[0] == 0 and ticks[-1] >= end * (1 - 1e-6) and 2 <= len(ticks) <= 8


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_no_class_of_colour_is_empty(values: list[int]) -> None:
    edges = class_edges(values)
    assert len(edges) <= 4 and edges == sorted(edges)
    limits = [min(values), *edges, max(values) + 1]
    for low, high in pairwise(limits):
        assert any(low <= value < high for value in values)


def test_the_whole_path_of_a_user(
    layer: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"t{k},{int(k < 40)}\n" for k in range(400))
    (tmp_path / "frame.csv").write_text("tile_id,n_flagged\n" + rows)
    seen = "".join(f"t{k},{int(k < 36)}\n" for k in range(340))
    (tmp_path / "reviews.csv").write_text("tile_id,n_sites\n" + seen)
    files = (tmp_path / "frame.csv", tmp_path / "reviews.csv")
    assert run("estimate", "count", *files, "--by", "stratum", "--rates", "--out", tmp_path / "c.json")[0] == 0
    out = tmp_path / "r.html"
    status, printed, err = run("estimate", "report", tmp_path / "c.json", "--detections", layer, "--out", out)
    assert status == 0 and err == "" and "r.html" in printed
    text = out.read_text()
    assert "Brick kilns: how many, and how sure" in text and "H3" in text and "frame.csv" in text
    folder = tmp_path / "made" / "runs" / "2026-03-01_abc"
    folder.mkdir(parents=True)
    (tmp_path / "made" / "region.yaml").write_text("")
    (folder / "run.json").write_text("{}")
    again = ("--out", tmp_path / "again.html", "--detections", tmp_path / "made")
    assert "region export" in run("estimate", "report", tmp_path / "c.json", *again)[2]
    (folder / "detections.gpkg").write_bytes(layer.read_bytes())
    assert run("estimate", "report", tmp_path / "c.json", *again)[0] == 0
    assert (tmp_path / "again.html").read_text() == text
    assert run("estimate", "report", tmp_path / "c.json", "--out", out)[0] == 1  # there already
    assert run("estimate", "report", files[0], "--out", tmp_path / "n.html")[0] == 1  # no figures
    assert run("estimate", "report", tmp_path / "c.json", "--out", tmp_path / "n.pdf")[0] == 2
    shown = ("--detections", layer, "--precise")
    assert run("estimate", "report", tmp_path / "c.json", "--out", tmp_path / "p.html", *shown)[0] == 2
    why = ("--purpose", "an inspection", "--recipient", "the inspectorate")
    assert run("estimate", "report", tmp_path / "c.json", "--out", tmp_path / "p.html", *shown, *why)[0] == 0
    assert "an inspection" in (tmp_path / "release-log.jsonl").read_text()
    monkeypatch.setenv("GEOSLAVE_CHROMIUM", str(tmp_path / "none"))
    pdf = ("--out", tmp_path / "q.html", "--pdf", tmp_path / "q.pdf")
    assert "needs Chromium" in run("estimate", "report", tmp_path / "c.json", *pdf)[2]
    assert not (tmp_path / "q.html").exists()


def test_the_map_shows_what_the_model_stands_by(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    found = country(60)
    found["confidence"] = [0.9] * 40 + [0.1] * 20
    layer = tmp_path / "kilns.gpkg"
    write_detections(found, layer, provenance={**PROVENANCE, "min_confidence": 0.0, "operating_confidence": 0.6})
    (tmp_path / "c.json").write_text(json.dumps(count()))
    asked = ("estimate", "report", tmp_path / "c.json", "--detections", layer, "--out")
    assert run(*asked, tmp_path / "own.html")[0] == 0
    assert "of 40 lie" in (tmp_path / "own.html").read_text()
    assert run(*asked, tmp_path / "all.html", "--min-confidence", "0")[0] == 0
    assert "of 60 lie" in (tmp_path / "all.html").read_text()


def test_printed_as_pdf(tmp_path: Path) -> None:
    try:
        find_browser()
    except GeoslaveError:
        pytest.skip("no Chromium on this machine")
    write_report(tmp_path / "r.html", [count()], Cover("Kilns"))
    print_pdf(tmp_path / "r.html", tmp_path / "r.pdf")
    made = (tmp_path / "r.pdf").read_bytes()
    assert made.startswith(b"%PDF") and len(made) > 10_000
