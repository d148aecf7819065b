"""`geoslave estimate change`, as people use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

Run = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]


def write(path: Path, columns: list[int], date: str | None = None) -> Path:
    """Sites of 60 m on the pixels of a made scene, one in every tenth column."""
    boxes = [shapely.box(500_000 + c * 100, 2_649_400, 500_060 + c * 100, 2_649_460) for c in columns]
    table = gpd.GeoDataFrame({"confidence": [0.9] * len(boxes)}, geometry=boxes, crs="EPSG:32645")
    (table if date is None else table.assign(date=date)).to_file(path)
    return path


def test_three_dates(run: Run, tmp_path: Path) -> None:
    a = write(tmp_path / "a.gpkg", [0, 3, 6], "2019-01-10")
    b, c = write(tmp_path / "b.gpkg", [0, 6], "2020-01-10"), write(tmp_path / "c.gpkg", [0, 9], "2021-01-10")
    out, plot = tmp_path / "sites.gpkg", tmp_path / "series.png"
    status, printed, err = run("estimate", "change", a, b, c, "--out", out, "--recall", "0.95,0.9,0.98", "--plot", plot)
    assert status == 0 and err == "" and "closed" in printed and plot.stat().st_size > 10_000
    sites = gpd.read_file(out)
    assert sorted(sites["status"]) == ["appeared", "closed", "not redetected", "persisted"]
    assert sites.loc[sites["status"] == "closed", "gone_by"].item() == "2020-01-10"
    status, printed, _ = run("estimate", "change", a, b, c, "--recall", "0.9", "--json")
    facts = json.loads(printed)
    change = facts["changes"][0]
    assert (change["found_first"], change["found_then"], change["found_both"]) == (3, 2, 2)
    assert change["persisted"]["value"] == pytest.approx(2 / 0.81)
    assert [row["found"] for row in facts["series"]] == [3, 2, 2]


def test_cloud_in_a_raster_is_no_absence(run: Run, make_scene: Make, tmp_path: Path) -> None:
    pixels = np.full((3, 100, 100), 90, np.uint8)
    clear = make_scene(pixels, name="clear.tif", nodata=0)
    pixels[:, :, 25:45] = 0
    cloudy = make_scene(pixels, name="cloudy.tif", nodata=0)
    a, b = write(tmp_path / "a.gpkg", [0, 3], "2019-01-10"), write(tmp_path / "b.gpkg", [0], "2020-01-10")
    command = ("estimate", "change", a, b, "--observed", clear, "--observed")
    assert json.loads(run(*command, cloudy, "--json")[1])["status"]["unobservable"] == 1
    assert json.loads(run(*command, clear, "--json")[1])["status"]["not redetected"] == 1


def test_without_recall_the_reader_is_told(run: Run, tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.gpkg", [0], "2019-01-10"), write(tmp_path / "b.gpkg", [0], "2020-01-10")
    status, _, err = run("estimate", "change", a, b)
    assert status == 0 and "misses look like changes" in err


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        ((), "give --date"),
        (("2020-01-01", "2019-01-01"), "order of date"),
        (("2020-01-01", "soon"), "'soon' is no date"),
    ],
)
def test_dates_must_make_sense(run: Run, tmp_path: Path, dates: tuple[str, ...], said: str) -> None:
    a, b = write(tmp_path / "a.gpkg", [0]), write(tmp_path / "b.gpkg", [0])
    status, _, err = run("estimate", "change", a, b, *(word for date in dates for word in ("--date", date)))
    assert status == 1 and said in err and len(err.strip().splitlines()) == 1


def test_usage_is_told(run: Run, tmp_path: Path) -> None:
    a = write(tmp_path / "a.gpkg", [0], "2019-01-10")
    assert run("estimate", "change", a)[0] == 2
    assert run("estimate", "change", a, a, "--recall", "much")[0] == 2
    assert run("estimate", "change", a, a, "--plot", tmp_path / "p.png")[0] == 2


def test_figures_are_kept_and_recall_is_taken_from_a_count(run: Run, tmp_path: Path) -> None:
    a = write(tmp_path / "a.gpkg", [0, 3, 6], "2019-01-10")
    b = write(tmp_path / "b.gpkg", [0, 6], "2020-01-10")
    rows = "".join(f"t{k},1\n" for k in range(40))
    (tmp_path / "frame.csv").write_text("tile_id,n_flagged\n" + rows + "".join(f"u{k},0\n" for k in range(40)))
    (tmp_path / "reviews.csv").write_text(
        "tile_id,n_sites\n" + rows + "".join(f"u{k},{k % 4 // 3}\n" for k in range(40))
    )
    count = ("estimate", "count", tmp_path / "frame.csv", tmp_path / "reviews.csv", "--out", tmp_path / "c.json")
    assert run(*count, "--rates")[0] == 0
    out = tmp_path / "change.json"
    status, printed, err = run("estimate", "change", a, b, "--recall", tmp_path / "c.json", "--counts", out, "--json")
    assert status == 0, err
    told = json.loads(out.read_text())
    assert told["kind"] == "change" and told["changes"][0]["persisted"]["value"] == pytest.approx(2 / 0.8**2)
    assert [one["file"] for one in told["provenance"]["inputs"]] == ["a.gpkg", "b.gpkg"]
    assert told["series"] == json.loads(printed)["series"]
    assert run(*count, "--overwrite")[0] == 0  # without recall
    status, _, err = run("estimate", "change", a, b, "--recall", tmp_path / "c.json")
    assert status == 1 and "has no recall" in err


def test_sites_under_cloud_are_told_beside_the_count(run: Run, make_scene: Make, tmp_path: Path) -> None:
    pixels = np.full((3, 100, 100), 90, np.uint8)
    clear = make_scene(pixels, name="clear.tif", nodata=0)
    pixels[:, :, 25:45] = 0
    cloudy = make_scene(pixels, name="cloudy.tif", nodata=0)
    a, b = write(tmp_path / "a.gpkg", [0, 3], "2019-01-10"), write(tmp_path / "b.gpkg", [0], "2020-01-10")
    command = ("estimate", "change", a, b, "--observed", clear, "--observed", cloudy, "--recall", "0.9", "--json")
    first, second = json.loads(run(*command)[1])["series"]
    assert not any("could not be seen" in warning for warning in first["sites"]["warnings"])
    assert any("1 known site" in warning and "could not be seen" in warning for warning in second["sites"]["warnings"])


def test_two_dates_without_a_site_are_no_change(run: Run, tmp_path: Path) -> None:
    a = write(tmp_path / "a.gpkg", [0])
    empty = gpd.read_file(a).iloc[:0]
    empty.to_file(tmp_path / "none.gpkg")
    dates = ("--date", "2019-01-01", "--date", "2020-01-01")
    none = tmp_path / "none.gpkg"
    status, printed, err = run("estimate", "change", none, none, *dates, "--recall", "0.9", "--json")
    assert status == 0, err
    assert json.loads(printed)["n_sites"] == 0 and json.loads(printed)["series"][0]["sites"]["value"] == 0
