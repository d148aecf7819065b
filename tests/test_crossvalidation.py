"""Leave one region out: figures, resuming, refusals, and that a region is not in its own training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas as gpd
import numpy as np
import onnx
import pandas as pd
import pytest
import shapely
import yaml
from affine import Affine

pytest.importorskip("torch")

from geoslave import crossvalidation
from geoslave.crossvalidation import lay_out
from geoslave.detections.export import read_detections, read_provenance
from geoslave.errors import GeoslaveError
from geoslave.model.package import describe, open_package
from geoslave.model.recipe import TrainConfig, load_config
from geoslave.model.regions import slugs
from geoslave.model.trainingdata import load_data
from tests.factories import bright_spec, dark_field, with_kilns, write_bright_model

Make = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]

NORTH, GSD = 2_650_000, 10
WEST = {"East": 500_000, "West": 540_000, "Ångkor": 580_000}
SPOTS = [(20, 30), (60, 90), (100, 150), (150, 40), (30, 150), (120, 60)]
LABELLED = {"East": SPOTS[:5], "West": SPOTS[:3], "Ångkor": [*SPOTS[:4], (170, 170)]}
"""Every scene shows all six spots; one, three and two are not labelled, and of the labels in Ångkor one is empty."""


def _site(region: str, row: int, col: int) -> shapely.Polygon:
    left, top = WEST[region] + GSD * col, NORTH - GSD * row
    return shapely.box(left, top - 50, left + 100, top)


@pytest.fixture
def recipe(make_scene: Make, tmp_path: Path) -> Path:
    """Three scenes of three regions, with bright spots."""
    (tmp_path / "scenes").mkdir()
    tables = []
    for region, corners in LABELLED.items():
        transform = Affine(GSD, 0, WEST[region], 0, -GSD, NORTH)
        pixels = with_kilns(dark_field((200, 200), seed=len(tables)), SPOTS)
        make_scene(pixels, name=f"scenes/{len(tables)}.tif", transform=transform)
        boxes = [_site(region, *corner) for corner in corners]
        tables.append(gpd.GeoDataFrame({"district": [region] * len(boxes)}, geometry=boxes, crs="EPSG:32645"))
    pd.concat(tables).to_file(tmp_path / "sites.gpkg")
    return _write(tmp_path)


def _write(folder: Path, **changes: Any) -> Path:
    spec = bright_spec()
    source = {
        "scenes": str(folder / "scenes"),
        "labels": str(folder / "sites.gpkg"),
        "region_column": "district",
        **changes.pop("scenes", {}),
    }
    settings = {
        "name": "bright",
        "target": spec.target,
        "scenes": [{name: value for name, value in source.items() if value is not None}],
        "rendered": {"count": 0},
        "steps": 1,
        "publication": {"thresholds": spec.thresholds.model_dump(), "confidence": {"operating": 0.5}},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings, allow_unicode=True))
    return path


def write_network(folder: Path, config: TrainConfig) -> Path:
    """The bright model under another name and with another hash: a network of its own."""
    write_bright_model(folder)
    graph = onnx.load(folder / "model.onnx")
    graph.doc_string = config.name
    onnx.save(graph, folder / "model.onnx")
    describe(folder, bright_spec(name=config.name, confidence=config.publication.confidence), parameters=1)
    return folder


@dataclass
class Trainings:
    """Stands for training, which other tests know; a test may break one off."""

    names: list[str] = field(default_factory=list)
    breaks: str = ""

    def train(self, config: TrainConfig, *_: Any, **__: Any) -> Any:
        if config.name == self.breaks:
            raise KeyboardInterrupt
        self.names.append(config.name)
        return SimpleNamespace(config=config, seconds=1.0)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    stand_in = Trainings()
    monkeypatch.setattr(crossvalidation, "train", stand_in.train)
    monkeypatch.setattr(crossvalidation, "publish", lambda result, folder: write_network(folder, result.config))
    monkeypatch.setattr("geoslave.cli.train.draw", lambda *_: None)
    return stand_in


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its folder: charts and the contact sheet take a second, and have tests of their own."""
    monkeypatch.setattr(crossvalidation, "write_report", lambda _, folder, overwrite: folder.mkdir(exist_ok=overwrite))


def test_every_region_is_measured_by_a_network_without_it(
    recipe: Path, trainings: Trainings, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    status, printed, err = run("crossvalidate", recipe, "--out", out, "--json")
    assert status == 0, err
    facts = json.loads(printed)
    assert facts["complete"] and sorted(facts["models"]) == ["East", "West", "Ångkor"]
    assert (facts["n_hits"], facts["n_missed"], facts["n_false_alarms"]) == (12, 1, 6)
    region = facts["by"]["region"]
    assert {name: (region[name]["n_hits"], region[name]["n_false_alarms"]) for name in region} == {
        "East": (5, 1),
        "West": (3, 3),
        "Ångkor": (4, 2),
    }
    assert facts["f1_low"] <= facts["f1"] <= facts["f1_high"]
    other = facts["threshold_from_other_regions"]
    assert set(other["by"]) == set(region) and all(part["threshold"] > 0 for part in other["by"].values())
    assert json.loads((out / "report" / "evaluation.json").read_text())["f1"] == facts["f1"]
    for name in ("precision-recall.png", "reliability.png", "contact-sheet.png", "errors.gpkg"):
        assert (out / "report" / name).is_file()

    layer = read_detections(out / "held_out.gpkg")
    assert dict(layer["region"].value_counts()) == {"East": 6, "West": 6, "Ångkor": 6}
    for name, part in layer.groupby("region"):
        assert set(part["model_id"]) == {facts["models"][name]}
        assert f"without-{slugs([str(name)])[str(name)]}@" in facts["models"][name]
    verdicts = pd.read_csv(out / "held_out_verdicts.csv")
    assert dict(verdicts["answer"].value_counts()) == {"yes": 12, "no": 6}
    assert str(tmp_path) not in json.dumps(read_provenance(out / "held_out.gpkg"))
    assert json.loads((out / "crossvalidate.json").read_text())["complete"] is True


@pytest.mark.usefixtures("no_report")
def test_the_answer_ends_in_the_steps_that_follow_and_they_work(
    recipe: Path, trainings: Trainings, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, printed, err = run("crossvalidate", recipe, "--out", "cv")
    assert status == 0, err
    assert "12 of 13 sites found, 6 false alarms" in printed and "F1 at the others' best" in printed
    steps = [line.split()[1:] for line in printed.splitlines() if line.startswith("  geoslave ")]
    assert [step[0] for step in steps] == ["train", "calibrate"]
    write_network(Path(steps[0][steps[0].index("--out") + 1]), load_config(recipe))
    status, printed, err = run(*steps[1], "--json")
    assert status == 0, err
    facts = json.loads(printed)
    assert (facts["n"], facts["n_groups"]) == (18, 3) and facts["share"] == pytest.approx(12 / 18)
    assert facts["model_id"].startswith("bright@")


@pytest.mark.usefixtures("no_report")
def test_a_model_of_another_recipe_is_not_calibrated_with_it(
    recipe: Path, trainings: Trainings, run: Run, tmp_path: Path, bright_model: Path
) -> None:
    assert run("crossvalidate", recipe, "--out", tmp_path / "cv")[0] == 0
    spec = bright_spec(thresholds={"high": 0.7, "low": 0.6})
    folder = write_bright_model(tmp_path / "other")
    describe(folder, spec, parameters=1)
    words = ["calibrate", folder, "--detections", tmp_path / "cv" / "held_out.gpkg"]
    words += ["--verdicts", tmp_path / "cv" / "held_out_verdicts.csv", "--out", tmp_path / "new"]
    # the very network would be accepted by its hash: this one is another
    graph = onnx.load(folder / "model.onnx")
    graph.doc_string = "another"
    onnx.save(graph, folder / "model.onnx")
    describe(folder, spec, parameters=1)
    status, _, err = run(*words)
    assert status == 1 and "another recipe" in err and not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_report")
def test_it_goes_on_where_it_was_stopped_and_a_part_never_looks_whole(
    recipe: Path, trainings: Trainings, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    trainings.breaks = "bright-without-west"
    assert run("crossvalidate", recipe, "--out", out)[0] == 1
    assert trainings.names == ["bright-without-east"]
    sums = [out / name for name in ("held_out.gpkg", "held_out_verdicts.csv", "report")]
    assert not any(path.exists() for path in sums)
    assert json.loads((out / "crossvalidate.json").read_text())["complete"] is False
    first = (out / "held-out-east.gpkg").read_bytes()

    trainings.breaks = ""
    status, printed, _ = run("crossvalidate", recipe, "--out", out, "--only", "West", "--json")
    told = json.loads(printed)
    assert status == 0 and not told["complete"] and (told["done"], told["left"]) == (["East", "West"], ["Ångkor"])
    assert not any(path.exists() for path in sums)
    assert run("crossvalidate", recipe, "--out", out)[0] == 0
    assert trainings.names == ["bright-without-east", "bright-without-west", "bright-without-angkor"]
    assert all(path.exists() for path in sums) and (out / "held-out-east.gpkg").read_bytes() == first

    # all there: nothing is trained again, the figures are told again
    assert run("crossvalidate", recipe, "--out", out)[0] == 0 and len(trainings.names) == 3
    # a package that was trained anew is looked at with anew
    (out / "held-out-west.gpkg").unlink()
    assert run("crossvalidate", recipe, "--out", out)[0] == 0 and len(trainings.names) == 3

    trainings.breaks = "bright-without-east"
    assert run("crossvalidate", recipe, "--out", out, "--restart", "--only", "East")[0] == 1
    assert not any(path.exists() for path in sums) and not (out / "without-east").exists()
    assert (out / "held-out-west.gpkg").is_file()


@pytest.mark.usefixtures("no_report")
def test_results_of_another_recipe_are_refused(recipe: Path, trainings: Trainings, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "cv"
    assert run("crossvalidate", recipe, "--out", out)[0] == 0
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    other = _write(tmp_path, seed=7)
    status, _, err = run("crossvalidate", other, "--out", out)
    assert status == 1 and "another recipe" in err and "--restart" in err
    _write(tmp_path, publication={**yaml.safe_load(other.read_text())["publication"], "confidence": {"operating": 0.7}})
    assert run("crossvalidate", other, "--out", out)[0] == 1
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before
    _write(tmp_path, seed=7)
    assert run("crossvalidate", other, "--out", out, "--restart", "--only", "East")[0] == 0
    assert (out / "held-out-east.gpkg").is_file() and not (out / "held-out-west.gpkg").exists()

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    status, _, err = run("crossvalidate", other, "--out", tmp_path / "full", "--restart")
    assert status == 1 and "holds other things" in err and (tmp_path / "full" / "mine.txt").is_file()


def test_a_region_is_not_in_its_own_training(recipe: Path, make_scene: Make, tmp_path: Path) -> None:
    """Nor is its ground shown by a scene of another region that overlaps it."""
    middle = Affine(GSD, 0, WEST["East"] + 100 * GSD, 0, -GSD, NORTH)
    make_scene(dark_field((200, 200), seed=9), name="scenes/overlapping.tif", transform=middle)
    sites = gpd.read_file(tmp_path / "sites.gpkg")
    far = [shapely.box(x, NORTH - 1_000, x + 100, NORTH - 950) for x in (502_200, 502_400, 502_600, 502_800)]
    more = gpd.GeoDataFrame({"district": ["West"] * len(far)}, geometry=far, crs="EPSG:32645")
    pd.concat([sites, more]).to_file(tmp_path / "sites.gpkg")
    whole = lay_out(load_config(_write(tmp_path, outline_m=0)), tmp_path / "cv")
    of = {fold.region: [path.name for path in fold.scenes] for fold in whole.folds}
    assert of == {"West": ["1.tif", "overlapping.tif"], "East": ["0.tif"], "Ångkor": ["2.tif"]}
    for fold in whole.folds:
        scenes = {scene.name: scene for scene in load_data(fold.config).scenes}
        assert scenes and not set(scenes) & set(of[fold.region])
        assert {scene.region for scene in scenes.values()} == set(of) - {fold.region}
        if fold.region == "East":
            valid = scenes["overlapping.tif"].patch.valid
            assert not valid[:, :99].any() and valid[:, 101:].all()
        if fold.region == "West":
            valid = scenes["0.tif"].patch.valid
            assert valid[:, :99].all() and not valid[:, 101:].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scenes": {"region_column": None}}, "region_column"),
        ({"scenes": {"region_column": "county"}}, "county"),
        ({"scenes": {"held_out": ["West", "Ångkor"]}}, "two or more"),
        ({"validation": {"by": "region", "regions": ["West"]}}, "validation.regions"),
        ({"scenes": {"centre_in_name": True}}, "georeference"),
    ],
)
def test_a_recipe_that_cannot_be_parted_is_refused(recipe: Path, changes: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(GeoslaveError, match=words):
        lay_out(load_config(_write(tmp_path, **changes)), tmp_path / "cv")
    assert not (tmp_path / "cv").exists()


def test_unknown_regions_are_told(recipe: Path, run: Run, tmp_path: Path) -> None:
    status, _, err = run("crossvalidate", recipe, "--out", tmp_path / "cv", "--only", "North")
    assert status == 1 and "'North'" in err and "Ångkor" in err and not (tmp_path / "cv").exists()


def test_folders_of_regions_are_plain_and_differ() -> None:
    names = slugs(["Dhaka / East", "dhaka east", "ঢাকা", "খুলনা", "region"])
    assert len(set(names.values())) == 5
    assert all(part and set(part) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for part in names.values())


def test_likeness_tells_recipes_apart_and_not_weights(tmp_path: Path) -> None:
    spec = bright_spec()
    calibrated = spec.confidence.model_copy(update={"operating": 0.7, "calibrated": True})
    same = spec.model_copy(update={"name": "x", "version": "9", "halo": 64, "confidence": calibrated})
    assert spec.likeness() == same.likeness()
    folder = write_bright_model(tmp_path / "bright")
    assert open_package(folder).spec.likeness() == spec.likeness(), "nor does being written and read again"
    for changes in ({"gsd_m": 20.0}, {"classes": ("other",)}, {"architecture": {"name": "other"}}):
        assert spec.model_copy(update=changes).likeness() != spec.likeness()
    assert np.unique([s.likeness() for s in (spec, same)]).size == 1
