"""Targets: presets say where their figures come from; a person's own file is checked by line and goes everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pytest
import shapely
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geoslave.errors import GeoslaveError
from geoslave.model.package import open_package
from geoslave.targets import TARGETS, Target, TargetError, get_target, read_target, target_files, target_yaml
from tests.factories import write_bright_model

Run = Callable[..., tuple[int, str, str]]
CAMP = {
    "name": "my_camp",
    "title": "camp at the creek",
    "area_m2": [1000, 90000],
    "length_m": [40, 600],
    "aspect": [1, 12],
    "typical_m": [150, 60],
    "merge_distance_m": 40,
}


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**CAMP, **changes}, sort_keys=False))
    return path


def test_the_missions_targets_are_there_and_guesses_are_marked() -> None:
    assert {"brick_kiln", "fish_camp", "mine", "charcoal"} <= set(TARGETS)
    assert TARGETS["brick_kiln"].sourced and not TARGETS["brick_kiln"].unsourced
    for name in ("fish_camp", "charcoal"):
        assert "typical_m" in TARGETS[name].unsourced
    assert TARGETS["fish_camp"].dates == 2 and TARGETS["charcoal"].gsd_m <= 0.5
    assert all(target.lookalikes and target.season for target in TARGETS.values())
    assert {path.stem for path in target_files()} == set(TARGETS)


def test_a_targets_yaml_reads_as_the_same_target(tmp_path: Path) -> None:
    for target in TARGETS.values():
        path = tmp_path / f"{target.name}.yaml"
        path.write_text(target_yaml(target))
        assert read_target(path) == target


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("nmae: a\n", "line 1", "did you mean 'name'?"),
        ("area_m2: [1000, 90000]\n", "", "'title' is missing"),
        ("lenght_m: [1, 2]\n", "line 1", "did you mean 'length_m'?"),
        ("area_m2: [a, 2]\n", "line 1", "area_m2"),
        ("name: A B\n", "line 1", "name"),
        ("name: a\nname: b\n", "line 2", "set in line 1 already"),
        ("name: [a\n", "line 2", "mend the YAML"),
        ("", "", "holds no settings"),
    ],
)
def test_an_error_names_the_line_and_what_was_meant(tmp_path: Path, text: str, line: str, said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(TargetError) as caught:
        read_target(path)
    assert line in str(caught.value) and said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"area_m2": [9, 3]}, "swap"),
        ({"aspect": [0.5, 3]}, "below 1"),
        ({"typical_m": [60, 150]}, "less than width"),
        ({"typical_m": [900, 60]}, "outside of length_m"),
        ({"sources": {"aera_m2": "x"}}, "did you mean 'area_m2'?"),
        ({"area_m2": [1, float("inf")]}, "area_m2"),
    ],
)
def test_figures_that_contradict_each_other_are_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(TargetError, match=said.replace("?", "[?]")):
        read_target(write(tmp_path / "own.yaml", **change))


@given(st.binary(max_size=200))
def test_no_file_whatever_gives_anything_but_a_line_for_people(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.yaml"
        path.write_bytes(content)
        with pytest.raises(GeoslaveError):
            read_target(path)


def test_commands_list_show_and_check(run: Run, tmp_path: Path) -> None:
    status, printed, _ = run("targets", "list")
    assert status == 0 and "fish_camp" in printed and "unsourced" in printed
    status, printed, _ = run("targets", "show", "fish_camp")
    assert status == 0 and "no source: a guess" in printed and "drying racks" in printed.lower()
    status, printed, _ = run("targets", "show", "brick_kiln", "--json")
    assert json.loads(printed)["sourced"] is True
    status, printed, _ = run("targets", "show", "fish_camp", "--yaml")
    (tmp_path / "copy.yaml").write_text(printed)
    assert read_target(tmp_path / "copy.yaml") == TARGETS["fish_camp"]
    status, printed, _ = run("targets", "check", write(tmp_path / "own.yaml"), "--json")
    assert status == 0 and "typical_m" in json.loads(printed)["unsourced"]
    status, _, said = run("targets", "check", write(tmp_path / "own.yaml", training={"stesp": 10}))
    assert status == 1 and "did you mean 'steps'?" in said
    status, _, said = run("targets", "show", "fishcamp")
    assert status == 1 and "did you mean 'fish_camp'" in said


def test_labels_take_the_size_of_a_persons_own_target(run: Run, tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("lon,lat\n89.5,22.1\n")
    out = tmp_path / "camps.gpkg"
    status, _, said = run("labels", "import", points, "--target", write(tmp_path / "own.yaml"), "--out", out)
    assert status == 0, said
    table = gpd.read_file(out)
    assert list(table["class_name"]) == ["my_camp"]
    assert table.to_crs(32645).area.iloc[0] == pytest.approx(150 * 60, rel=0.01)


def test_a_model_carries_a_target_that_is_no_preset(run: Run, tmp_path: Path) -> None:
    own = get_target(str(write(tmp_path / "own.yaml")))
    model = write_bright_model(tmp_path / "model", target="my_camp", own_target=own, classes=("my_camp",))
    (tmp_path / "own.yaml").unlink()
    assert open_package(model).spec.sought == own
    area = tmp_path / "aoi.geojson"
    area.write_text(gpd.GeoSeries([shapely.box(89, 22, 90, 23)], crs=4326).to_json())
    status, printed, said = run(
        "region", "init", "delta", "--aoi", area, "--model", model, "--regions", tmp_path, "--json"
    )
    assert status == 0, said
    from geoslave.region.config import read_config

    assert read_config(Path(json.loads(printed)["config"])).target == "my_camp"
    again = write(tmp_path / "own.yaml")
    status, _, said = run(
        "region", "init", "two", "--model", model, "--target", again, "--regions", tmp_path, "--aoi", area
    )
    assert status == 0, said
    status, _, said = run("region", "init", "three", "--target", again, "--regions", tmp_path)
    assert status == 1 and "looks for brick_kiln, not for my_camp" in said


def test_a_model_of_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="none of"):
        write_bright_model(tmp_path / "model", target="my_camp")
    assert isinstance(TARGETS["mine"], Target)
