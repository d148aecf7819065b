"""Bad input never costs data: a valid result, or status 1 with one clear line and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from tests.factories import dark_field, with_kilns, write_bright_model

Make = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]
GEOSLAVE = [sys.executable, "-m", "geoslave.cli.main"]


def assert_one_line_and_nothing_left(status: int, err: str, folder: Path, before: set[Path]) -> None:
    assert status == 1
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("Error: "), err
    assert "Traceback" not in err
    assert set(folder.rglob("*")) == before


def edge_rasters() -> list[str]:
    folder = Path(os.environ.get("GEOSLAVE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    return sorted(path.name for path in (folder / "edge_rasters").glob("*")) or ["(absent)"]


@pytest.mark.parametrize("name", edge_rasters())
@pytest.mark.parametrize("bands", [None, "red=1,green=1,blue=1"])
@pytest.mark.parametrize("ending", ["gpkg", "geojson"])
def test_each_awkward_raster(
    name: str, bands: str | None, ending: str, data_dir: Path, bright_model: Path, run: Run, tmp_path: Path
) -> None:
    out, scores = tmp_path / f"out.{ending}", tmp_path / "scores.tif"
    more = [] if bands is None else ["--bands", bands]
    status, printed, err = run(
        "detect", data_dir / "edge_rasters" / name, "--model", bright_model, "--out", out, "--scores", scores, *more
    )
    if status != 0:
        assert_one_line_and_nothing_left(status, err, tmp_path, set())
        return
    assert str(out) in printed
    layer = gpd.read_file(out)
    assert layer.crs is not None and layer.geometry.is_valid.all()
    assert {path.name for path in tmp_path.iterdir()} <= {out.name, "out.qml", "scores.tif", "scores.qml"}


def test_a_model_of_the_rasters_own_resolution_finds_its_way_through_them(
    data_dir: Path, run: Run, tmp_path: Path
) -> None:
    """The rasters above mostly fail for their resolution; here only what is really impossible may."""
    outcomes = {}
    for index, name in enumerate(edge_rasters()):
        folder = tmp_path / str(index)
        folder.mkdir()
        for gsd in (0.5, 5, 300, 3_000, 60_000):
            model = tmp_path / f"models{gsd}" / "bright"
            if not model.exists():
                write_bright_model(model, gsd_m=gsd, target="mine")
            status, _, err = run(
                "detect",
                data_dir / "edge_rasters" / name,
                "--model",
                model,
                "--out",
                folder / "out.gpkg",
                "--bands",
                "red=1,green=1,blue=1",
            )
            if status == 0:
                outcomes[name] = "written"
                break
            assert_one_line_and_nothing_left(status, err, folder, set())
            outcomes[name] = err
    assert sum(outcome == "written" for outcome in outcomes.values()) >= 20
    for name, outcome in outcomes.items():
        known = ("written", "no CRS", "palette", "every pixel is nodata", "0 bytes", "not on Earth", "complex")
        assert any(words in outcome for words in known), (name, outcome)


@pytest.fixture
def scene(make_scene: Make) -> Path:
    return make_scene(with_kilns(dark_field((180, 200)), [(20, 30), (100, 100)]))


def test_wrong_inputs(scene: Path, make_scene: Make, bright_model: Path, run: Run, tmp_path: Path) -> None:
    text = tmp_path / "text.tif"
    text.write_text("this is no raster")
    one_band = make_scene(dark_field((50, 50))[:1], name="one.tif")
    short = make_scene(np.random.default_rng(0).integers(1, 255, (3, 200, 200)).astype(np.uint8), name="short.tif")
    short.write_bytes(short.read_bytes()[:40_000])
    out = tmp_path / "results" / "out.gpkg"
    out.parent.mkdir()
    before = set(tmp_path.rglob("*"))
    for source, words in (
        (tmp_path / "absent.tif", "does not exist"),
        (tmp_path, "is a folder"),
        (text, "cannot be opened"),
        (short, "short.tif"),
        (one_band, "too few bands"),
    ):
        status, _, err = run("detect", source, "--model", bright_model, "--out", out)
        assert_one_line_and_nothing_left(status, err, tmp_path, before)
        assert words in err and "out.gpkg" not in err
    for options, words in (
        (["--model", "no-such-model"], "no model 'no-such-model'"),
        (["--model", tmp_path], "no model package"),
        (["--model", bright_model, "--aoi", tmp_path / "absent.geojson"], "does not exist"),
        (["--model", bright_model, "--aoi", text], "cannot be read as an area"),
    ):
        status, _, err = run("detect", scene, "--out", out, *options)
        assert_one_line_and_nothing_left(status, err, tmp_path, before)
        assert words in err


def test_areas_of_interest(scene: Path, bright_model: Path, run: Run, tmp_path: Path) -> None:
    inside = gpd.GeoSeries([shapely.box(500_000, 2_649_500, 500_700, 2_650_000)], crs="EPSG:32645")
    inside.to_crs("EPSG:3857").to_file(tmp_path / "other_crs.gpkg")
    inside.translate(90_000).to_file(tmp_path / "misses.gpkg")
    before = set(tmp_path.rglob("*"))
    status, _, err = run(
        "detect", scene, "--model", bright_model, "--out", tmp_path / "no.gpkg", "--aoi", tmp_path / "misses.gpkg"
    )
    assert_one_line_and_nothing_left(status, err, tmp_path, before)
    status, printed, err = run(
        "detect",
        scene,
        "--model",
        bright_model,
        "--out",
        tmp_path / "yes.gpkg",
        "--aoi",
        tmp_path / "other_crs.gpkg",
        "--json",
    )
    assert (status, err) == (0, "")
    assert json.loads(printed)["n_detections"] == 1


def test_outputs_are_not_overwritten_unless_asked(scene: Path, bright_model: Path, run: Run, tmp_path: Path) -> None:
    out, scores = tmp_path / "out.gpkg", tmp_path / "scores.tif"
    command = ["detect", scene, "--model", bright_model, "--out", out, "--scores", scores]
    assert run(*command)[0] == 0
    content = out.read_bytes(), scores.read_bytes()
    assert "--overwrite" in run(*command)[2]
    out.unlink()
    status, _, err = run(*command)
    assert status == 1 and "scores.tif" in err and not out.exists()
    out.write_bytes(content[0])
    assert run(*command, "--overwrite")[0] == 0
    assert scores.read_bytes() == content[1]


def test_bad_usage_ends_with_2(scene: Path, bright_model: Path, run: Run, tmp_path: Path) -> None:
    for arguments in (
        ["detect", scene],
        ["detect", scene, "--out", tmp_path / "o.gpkg", "--bands", "red"],
        ["detect", scene, "--out", tmp_path / "o.gpkg", "--threshold", "7"],
        ["detect", scene, "--out", tmp_path / "o.gpkg", "--nodata", "empty"],
        ["detect", scene, "--out", tmp_path / "o.gpkg", "--threshold", "nan"],
        ["detect", scene, "--out", tmp_path / "o.gpkg", "--min-confidence", "nan"],
        ["chip", scene, "--out", tmp_path / "c", "--size", "64", "--overlap", "64"],
        ["nonsense"],
    ):
        status, _, err = run(*arguments)
        assert status == 2 and "Traceback" not in err
    status, _, err = run("detect", scene, "--model", bright_model, "--out", tmp_path / "o.shp")
    assert status == 1 and ".gpkg" in err


def test_overwriting_never_takes_what_is_not_ours(scene: Path, run: Run, tmp_path: Path) -> None:
    for name in ("chips", "model", "demo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    config = tmp_path / "config.yaml"
    config.write_text("name: x\nsteps: 1\n")
    before = set(tmp_path.rglob("*"))
    for command in (
        ["chip", scene, "--out", tmp_path / "chips", "--overwrite"],
        ["train", config, "--out", tmp_path / "model", "--overwrite"],
        ["demo", "--out", tmp_path / "demo", "--overwrite"],
    ):
        status, _, err = run(*command)
        assert_one_line_and_nothing_left(status, err, tmp_path, before)
        assert "other things" in err


def test_chips_are_replaced_through_a_link(scene: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for more in ([], ["--overwrite"]):
        assert run("chip", scene, "--out", tmp_path / "link", *more)[0] == 0
        assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "index.parquet").is_file()
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        message = f"NO SMALL DISK: a tmpfs cannot be mounted ({mounted.stderr.decode().strip()})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("free_kb", "ending"), [(4, "gpkg"), (64, "gpkg"), (32, "geojson"), (12, "parquet"), (32, "fgb")]
)
def test_a_full_disk(
    free_kb: int, ending: str, make_scene: Make, bright_model: Path, run: Run, small_disk: Path
) -> None:
    """With 4 kB there is no room for scores, with more there is none for the layer."""
    rng = np.random.default_rng(0)
    corners = [(int(r), int(c)) for r, c in zip(rng.integers(0, 790, 220), rng.integers(0, 780, 220), strict=True)]
    scene = make_scene(with_kilns(dark_field((800, 800)), corners))
    (small_disk / "other").write_bytes(b"x" * ((512 - free_kb) << 10))
    before = set(small_disk.rglob("*"))
    status, _, err = run("detect", scene, "--model", bright_model, "--out", small_disk / f"out.{ending}")
    assert_one_line_and_nothing_left(status, err, small_disk, before)
    assert "cannot be written" in err or "disk is full" in err or "No space" in err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_leaves_nothing(
    sent: signal.Signals, make_scene: Make, bright_model: Path, tmp_path: Path
) -> None:
    scene = make_scene(np.zeros((3, 9_000, 9_000), np.uint8) + 50, compress="deflate", tiled=True)
    out = tmp_path / "results" / "out.gpkg"
    out.parent.mkdir()
    process = subprocess.Popen(
        [*GEOSLAVE, "detect", str(scene), "--model", str(bright_model), "--out", str(out), "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts the tests in the background has them ignore Ctrl-C, and their children too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(out.parent.glob(".~*/*.tif")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert_one_line_and_nothing_left(process.returncode, err, out.parent, set())
    assert "stopped" in err
