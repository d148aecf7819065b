"""`geoslave labels import`: one table, a report for people and for programs, one line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pytest

from geoslave.cli.labels import FORMATS
from geoslave.labels import importing

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two patches in SentinelKilnDB's layout that show the same kiln, and one that was found empty."""
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "24.0000_89.0000.txt").write_text("2 0.52 0.50 0.56 0.50 0.56 0.54 0.52 0.54\n")
    (folder / "24.0000_89.0010.txt").write_text("2 0.44 0.50 0.48 0.50 0.48 0.54 0.44 0.54\n")
    (folder / "24.1000_89.0000.txt").write_text("")
    return folder


def test_the_report_says_what_was_done(run: Run, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "kilns.gpkg"
    status, printed, _ = run("labels", "import", labels, "--out", out, "--class", "Zigzag", "--negatives")
    assert status == 0
    assert printed.splitlines()[0] == f"2 labels  ->  {out}"
    assert "labels (yolo): 2 read" in printed and "classes: Zigzag 2" in printed
    assert "kinds: outline 1, chip 1; site there: yes 1, no 1" in printed
    assert "labelled more than once: 1 (centres within 35 m), merged" in printed
    assert len(gpd.read_file(out)) == 2


def test_the_report_as_json(run: Run, labels: Path, tmp_path: Path) -> None:
    status, printed, _ = run("labels", "import", labels, "--out", tmp_path / "k.geojson", "--keep-duplicates", "--json")
    facts = json.loads(printed)
    assert status == 0 and facts["n_labels"] == facts["n_read"] == 2 and facts["duplicates_kept"]
    assert facts["sources"][0]["format"] == "yolo" and facts["n_duplicates"] == 1
    assert facts["bounds"] == pytest.approx([89.0, 24.0, 89.0, 24.0], abs=0.01)


def test_nothing_is_overwritten_and_nothing_half_written(run: Run, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "k.gpkg"
    out.write_text("precious")
    cases = [
        ((labels, "--out", out), "exists"),
        ((labels, "--out", tmp_path / "k.docx"), "written as .gpkg"),
        ((tmp_path / "absent", "--out", tmp_path / "new.gpkg"), "no such file"),
        ((labels, "--out", tmp_path / "new.gpkg", "--target", "castle"), "no target 'castle'"),
        ((labels, "--out", tmp_path / "new.gpkg", "--format", "coco"), "no coco export"),
        ((labels, "--out", tmp_path / "new.gpkg", "--class", "a", "--class", "b"), "class 2 is beyond"),
    ]
    before = set(tmp_path.rglob("*"))
    for arguments, message in cases:
        status, _, err = run("labels", "import", *arguments)
        lines = err.splitlines()
        assert status == 1 and len(lines) == 1 and lines[0].startswith("Error: ") and message in err, err
    assert set(tmp_path.rglob("*")) == before and out.read_text() == "precious"
    status, _, _ = run("labels", "import", labels, "--out", out, "--overwrite")
    assert status == 0 and len(gpd.read_file(out)) == 1
    for wrong in ((), (labels, "--gsd", "nan"), (labels, "--gsd", "0"), (labels, "--merge-distance", "inf")):
        assert run("labels", "import", *wrong, "--out", out, "--overwrite")[0] == 2


def test_the_command_knows_every_format() -> None:
    assert list(FORMATS) == ["auto", *importing.FORMATS]
