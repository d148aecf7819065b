"""`import geoslave` in a notebook: quick, a handful of calls, tables and arrays, displays that escape their texts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import geoslave
from geoslave import display
from geoslave.errors import GeoslaveError, OutputError
from tests.factories import dark_field, with_kilns

Make = Callable[..., Path]


@pytest.fixture
def scene(make_scene: Make) -> Path:
    return make_scene(with_kilns(dark_field((200, 240)), [(40, 50), (120, 160)]), name="place_20240203.tif")


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, geoslave; dir(geoslave);"
        "heavy = {'numpy', 'pandas', 'geopandas', 'torch', 'xarray', 'onnxruntime'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_and_wrong_ones_are_told() -> None:
    for name in geoslave.__all__:
        assert getattr(geoslave, name) is not None
    assert "find_sites" in dir(geoslave)
    with pytest.raises(AttributeError, match="find_sites"):
        geoslave.find_kilns  # noqa: B018  the look-up is what is tested


def test_types_for_editors_name_what_is_there() -> None:
    stub = Path(geoslave.__file__).with_suffix(".pyi").read_text()
    named = {name for line in stub.splitlines() if " import " in line for name in line.split(" import ")[1].split(", ")}
    assert named == {name for name in geoslave.__all__ if name != "__version__"}


def test_submodules_stay_reachable() -> None:
    """A function named as a module would be replaced by it on the next import."""
    import importlib
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(geoslave.__path__)}
    assert not modules & set(geoslave.__all__)
    assert importlib.import_module("geoslave.detect").__name__ == "geoslave.detect"


def test_a_scene_is_an_array_with_its_place(scene: Path) -> None:
    view = geoslave.open_scene(scene)
    pixels = view.pixels(rows=slice(40, 45), cols=slice(50, 60))
    assert isinstance(pixels, xr.DataArray) and pixels.dims == ("band", "y", "x") and pixels.shape == (3, 5, 10)
    assert (pixels == 250).all() and bool(pixels.valid.all())
    assert float(pixels.x[0]) == 500_000 + 10 * 50 + 5 and pixels.odc.geobox.crs.epsg == 32645
    assert view.overview(60).shape == (3, 50, 60)
    assert view.date is not None and view.date.isoformat() == "2024-02-03"


def test_a_scene_larger_than_memory_asks_for_a_window(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoslave.api.scenes._LARGEST", 1000)
    with pytest.raises(GeoslaveError, match="rows and cols"):
        geoslave.open_scene(scene).pixels()


def test_sites_are_what_the_command_finds(scene: Path, bright_model: Path, tmp_path: Path, run: Callable) -> None:  # type: ignore[type-arg]
    found = geoslave.find_sites(scene, bright_model, scores=tmp_path / "scores.tif")
    status, _, said = run("detect", scene, "--model", bright_model, "--out", tmp_path / "cli.gpkg")
    assert status == 0, said
    written = geoslave.read_layer(tmp_path / "cli.gpkg")
    assert isinstance(found.detections, gpd.GeoDataFrame) and len(found.sure) == 2
    assert list(found.detections["detection_id"]) == list(written["detection_id"])
    assert written.attrs["provenance"]["model_sha256"] == found.provenance["model_sha256"]
    scores = found.scores()
    assert scores.dims == ("class", "y", "x") and float(scores.max()) > 0.9
    saved = geoslave.read_layer(found.save(tmp_path / "mine.parquet"))
    assert list(saved["detection_id"]) == list(found.detections["detection_id"])
    with pytest.raises(OutputError):
        found.save(tmp_path / "mine.parquet")


def test_figures_are_those_of_the_command(scene: Path, bright_model: Path, tmp_path: Path) -> None:
    found = geoslave.find_sites(scene, bright_model)
    known = found.sure[["geometry"]]
    known.to_file(tmp_path / "known.gpkg")
    report = geoslave.evaluate(bright_model, scene, tmp_path / "known.gpkg")
    assert report.figures.loc["recall", "value"] == 1 and report.facts["n_hits"] == 2
    assert set(report.errors["outcome"]) == {"hit"}
    area = gpd.GeoSeries([report.report.searched.footprints.geometry.iloc[0]], crs=4326)
    again = geoslave.evaluate_layer(found.sure, area, tmp_path / "known.gpkg")
    assert again.figures.loc["precision", "value"] == 1
    with pytest.raises(GeoslaveError, match="taken apart"):
        report.by("moon")


def country() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(5)
    sites = rng.poisson(0.3, 2000)
    hits = rng.binomial(sites, 0.7)
    names = [f"t{k}" for k in range(2000)]
    frame = pd.DataFrame({"tile_id": names, "n_flagged": hits, "part": np.repeat(["<b>x</b>", "y"], 1000)})
    return frame, pd.DataFrame({"tile_id": names, "n_sites": sites, "n_hits": hits})


def test_a_count_goes_from_plan_to_interval(tmp_path: Path) -> None:
    frame, truth = country()
    plan = geoslave.plan_review(frame, reviews=400)
    assert plan.sample["n_sites"].isna().all() and plan.table["reviews"].sum() == len(plan.sample) == 400
    reviews = plan.sample.drop(columns=["n_sites", "n_hits"]).merge(truth, on="tile_id")
    frame.to_csv(tmp_path / "frame.csv", index=False)
    reviews.to_csv(tmp_path / "reviews.csv", index=False)
    count = geoslave.count_sites(frame, reviews, by=["part"], rates=True)
    assert count.total.low <= truth["n_sites"].sum() <= count.total.high
    assert geoslave.count_sites(tmp_path / "frame.csv", tmp_path / "reviews.csv").total == count.total
    parts = count.table.xs("part", level="by")["value"]
    assert parts.sum() == pytest.approx(count.total.value)
    assert count.rates["recall"].low < 0.7 < count.rates["recall"].high


def test_displays_escape_what_they_show() -> None:
    frame, truth = country()
    shown = geoslave.count_sites(frame, truth, by=["part"])._repr_html_()
    assert "<b>x</b>" not in shown and "&lt;b&gt;x" in shown
    bars = [display.Bar('"><script>alert(1)</script>', 3, 1, float("inf"))]
    for piece in (display.intervals(bars), display.table(["<i>"], [["<i>"]]), display.line("<i>")):
        assert "<script" not in piece and "<i>" not in piece


def test_displays_hold_a_picture_and_ask_no_server(scene: Path, bright_model: Path) -> None:
    found = geoslave.find_sites(scene, bright_model)
    for shown in (geoslave.open_scene(scene)._repr_html_(), found._repr_html_()):
        assert "data:image/jpeg;base64," in shown
        assert "http" not in shown and "<script" not in shown
    assert "never evidence of a crime" in found._repr_html_()


def test_a_rendered_scene_is_not_written_over(tmp_path: Path) -> None:
    demo = geoslave.render_demo(tmp_path / "demo", size=256)
    assert demo.scene.is_file() and demo.truth.is_file() and len(demo.sites) >= 1
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["scene.tif", "truth.geojson"]
    with pytest.raises(OutputError):
        geoslave.render_demo(tmp_path / "demo", size=256)


def test_models_are_listed() -> None:
    models = geoslave.list_models()
    assert {"kiln-s2", "mine-s2"} <= set(models.index) and models.loc["kiln-s2", "bands"] == "red, green, blue"
