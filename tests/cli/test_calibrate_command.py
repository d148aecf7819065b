"""`geoslave calibrate`: from detections and verdicts, or labelled scenes, to a model whose confidence holds."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine

from geoslave.cli.main import run as run_command
from geoslave.detections.export import read_detections, read_provenance, write_detections
from geoslave.detections.schema import detection_id
from geoslave.model.package import open_package
from tests.factories import dark_field, with_kilns, write_bright_model

Make = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def layer_of(model: Path, path: Path, n: int = 300, seed: int = 0) -> Path:
    """A layer of n detections in six scenes, as the model would have made it."""
    generator = np.random.default_rng(seed)
    lon, lat = generator.uniform(88, 89, n), generator.uniform(23, 24, n)
    score = generator.uniform(0.3, 0.99, n).round(4)
    table = gpd.GeoDataFrame(
        {
            "detection_id": [detection_id(x, y, "brick_kiln", None) for x, y in zip(lon, lat, strict=True)],
            "class_name": "brick_kiln",
            "confidence": score,
            "calibrated": False,
            "score_mean": (score * 0.8).round(4),
            "score_max": score,
            "area_m2": 4800.0,
            "length_m": 100.0,
            "width_m": 48.0,
            "date": pd.Series([None] * n, dtype=object),
            "scene_id": [f"scene{k % 6}" for k in range(n)],
            "model_id": open_package(model).model_id,
            "truncated": False,
        },
        geometry=shapely.box(lon, lat, lon + 0.001, lat + 0.0005),
        crs=4326,
    )
    return write_detections(table, path, provenance={})


def verdicts_on(layer: Path, path: Path, seed: int = 1) -> Path:
    """An overconfident model: of detections with a score s, only s squared / 1.5 are sites."""
    table = read_detections(layer)
    hit = np.random.default_rng(seed).uniform(size=len(table)) < table["score_max"] ** 2 / 1.5
    table[["detection_id"]].assign(answer=np.where(hit, "yes", "no")).to_csv(path, index=False)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bright_model(tmp_path / "bright")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model calibrated once, for the tests that begin with one."""
    folder = tmp_path_factory.mktemp("made")
    model = write_bright_model(folder / "bright")
    layer = layer_of(model, folder / "layer.gpkg")
    verdicts = verdicts_on(layer, folder / "verdicts.csv")
    words = ["calibrate", model, "--detections", layer, "--verdicts", verdicts, "--out", folder / "new"]
    assert run_command([str(word) for word in words]) == 0
    return folder / "new"


@pytest.fixture
def calibrated(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "new"))


def test_verdicts_mend_the_confidence_and_the_model_says_so(model: Path, run: Run, tmp_path: Path) -> None:
    layer = layer_of(model, tmp_path / "layer.gpkg")
    verdicts = verdicts_on(layer, tmp_path / "verdicts.csv")
    before = (model / "model.json").read_bytes()
    words = ("calibrate", model, "--detections", layer, "--verdicts", verdicts, "--out", tmp_path / "new", "--json")
    status, printed, _ = run(*words)
    facts = json.loads(printed)
    assert status == 0 and facts["calibrated"] and facts["n"] == 300 and facts["n_groups"] == 6
    assert facts["after"]["ece"] < 0.08 < 0.15 < facts["before"]["ece"]
    assert facts["after"]["ece_low"] <= facts["after"]["ece"] <= facts["after"]["ece_high"]
    assert facts["after"]["brier"] < facts["before"]["brier"]
    assert (model / "model.json").read_bytes() == before
    card = (tmp_path / "new" / "README.md").read_text()
    assert "## Calibration" in card and "300 detections of verdicts.csv in 6 groups" in card
    assert (tmp_path / "new" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "reliability.png" in card
    status, _, err = run(*words)
    assert status == 1 and "--overwrite" in err


def test_detections_carry_the_calibrated_confidence_and_where_it_comes_from(
    model: Path, calibrated: Path, make_scene: Make, run: Run, tmp_path: Path
) -> None:
    scene = make_scene(with_kilns(dark_field((120, 120)), [(20, 30), (70, 60)]))
    made = {}
    for name, folder in (("before", model), ("after", calibrated)):
        status, printed, _ = run("detect", scene, "--model", folder, "--out", tmp_path / f"{name}.gpkg", "--json")
        assert status == 0
        made[name] = read_detections(tmp_path / f"{name}.gpkg")
    assert not made["before"]["calibrated"].any() and made["after"]["calibrated"].all()
    assert made["before"]["detection_id"].tolist() == made["after"]["detection_id"].tolist()
    assert (made["after"]["confidence"] < made["before"]["confidence"]).all()
    low, high = made["after"]["confidence_low"], made["after"]["confidence_high"]
    assert (low < made["after"]["confidence"]).all() and (made["after"]["confidence"] < high).all()
    assert "confidence_low" not in made["before"]
    assert json.loads(printed)["n_confident"] == 2, "the operating point moved along"
    spec = open_package(calibrated).spec
    expected = spec.confidence.apply(
        made["after"]["score_mean"].to_numpy(),
        made["after"]["score_max"].to_numpy(),
        made["after"]["area_m2"].to_numpy(),
        (made["after"]["length_m"] / made["after"]["width_m"]).to_numpy(),
    )
    assert made["after"]["confidence"].tolist() == pytest.approx(expected.tolist(), abs=2e-3)
    origin = read_provenance(tmp_path / "after.gpkg")
    assert origin["calibrated"] and "300 detections of verdicts.csv" in origin["confidence"]


def test_a_second_round_takes_the_first_ones_place_on_the_card(calibrated: Path, run: Run, tmp_path: Path) -> None:
    first = open_package(calibrated).model_id
    layer = layer_of(calibrated, tmp_path / "again.gpkg", n=40, seed=5)
    verdicts = verdicts_on(layer, tmp_path / "more.csv")
    words = ("--detections", layer, "--verdicts", verdicts, "--out", calibrated, "--overwrite")
    assert run("calibrate", calibrated, *words)[0] == 0
    card = (calibrated / "README.md").read_text()
    assert card.count("## Calibration") == 1 and "40 detections of more.csv" in card
    assert "building on: " in card and "300 detections of verdicts.csv" in card
    assert open_package(calibrated).spec.version.count("+cal") == 1
    assert open_package(calibrated).model_id != first


def test_few_verdicts_move_it_but_it_is_not_called_calibrated(model: Path, run: Run, tmp_path: Path) -> None:
    layer = layer_of(model, tmp_path / "layer.gpkg", n=6)
    verdicts = verdicts_on(layer, tmp_path / "v.csv")
    out = tmp_path / "few"
    words = ("calibrate", model, "--detections", layer, "--verdicts", verdicts, "--out", out, "--json")
    status, printed, err = run(*words)
    assert status == 0 and not json.loads(printed)["calibrated"]
    assert "are few" in err
    assert "Too few verdicts" in (out / "README.md").read_text()


def test_another_share_of_true_detections_alone(model: Path, calibrated: Path, run: Run, tmp_path: Path) -> None:
    status, printed, _ = run("calibrate", calibrated, "--share", 0.05, "--out", tmp_path / "rare", "--json")
    assert status == 0
    rare, usual = open_package(tmp_path / "rare").spec.confidence, open_package(calibrated).spec.confidence
    score = np.array([0.5, 0.9])
    assert (rare.apply(score, score) < usual.apply(score, score)).all()
    assert json.loads(printed)["operating_after"] < usual.operating
    status, _, err = run("calibrate", model, "--share", 0.05, "--out", tmp_path / "never")
    assert status == 1 and "is not calibrated" in err and not (tmp_path / "never").exists()


def test_labelled_scenes_instead_of_verdicts(model: Path, make_scene: Make, run: Run, tmp_path: Path) -> None:
    """Every second bright spot is a kiln; the scenes lie side by side."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    corners = [(r, c) for r in (20, 70, 120) for c in (20, 70, 120)]
    kilns, regions = [], []
    for k in range(4):
        origin = Affine(10, 0, 500_000 + 10_000 * k, 0, -10, 2_650_000)
        path = make_scene(with_kilns(dark_field((180, 180), seed=k), corners), f"s{k}.tif", transform=origin)
        path.rename(folder / path.name)
        for row, col in corners[k % 2 :: 2]:
            x, y = origin @ (col, row)
            kilns.append(shapely.box(x, y - 50, x + 100, y))
            regions.append("east" if k > 1 else "west")
    labels = tmp_path / "labels.gpkg"
    gpd.GeoDataFrame({"region": regions}, geometry=kilns, crs="EPSG:32645").to_file(labels)
    words = ("calibrate", model, "--scenes", folder, "--labels", labels, "--json")
    status, printed, err = run(*words, "--group", "region", "--out", tmp_path / "new")
    facts = json.loads(printed) if status == 0 else err
    assert status == 0, err
    assert facts["n"] == 36 and facts["n_groups"] == 2 and facts["share"] == 0.5
    assert facts["after"]["ece"] < 0.1 < facts["before"]["ece"]
    status, _, err = run(*words, "--group", "country", "--out", tmp_path / "other")
    assert status == 1 and "no column 'country'" in err and not (tmp_path / "other").exists()


def test_what_cannot_be_calibrated_with_is_named_and_leaves_nothing(model: Path, run: Run, tmp_path: Path) -> None:
    layer = layer_of(model, tmp_path / "layer.gpkg", n=6)
    other = write_bright_model(tmp_path / "other", name="other", bands=("red",))
    strange = tmp_path / "strange.csv"
    strange.write_text("detection_id,answer\nnobody,yes\n")
    out = tmp_path / "out"
    for asked, verdicts, words in (
        (model, strange, "none of its 1 verdicts"),
        (model, tmp_path / "absent.csv", "is not there"),
        (other, verdicts_on(layer, tmp_path / "v.csv"), "was made by bright@"),
    ):
        status, _, err = run("calibrate", asked, "--detections", layer, "--verdicts", verdicts, "--out", out)
        assert status == 1 and words in err and len(err.strip().splitlines()) == 1
        assert not out.exists()
    assert run("calibrate", model, "--detections", layer, "--out", out)[0] == 2


def test_without_matplotlib_the_model_is_made_without_a_plot(
    model: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    layer = layer_of(model, tmp_path / "layer.gpkg", n=30)
    verdicts = verdicts_on(layer, tmp_path / "v.csv")
    status, _, err = run("calibrate", model, "--detections", layer, "--verdicts", verdicts, "--out", tmp_path / "new")
    assert status == 0 and "geoslave[charts]" in err
    assert not (tmp_path / "new" / "reliability.png").exists()
