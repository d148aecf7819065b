"""region.yaml: errors that name the line and what was meant; a folder that holds one run at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from geoslave.errors import GeoslaveError, OutputError
from geoslave.region.config import ConfigError, RegionConfig, json_schema, read_config, template
from geoslave.region.layout import RegionFolder, is_running, locked, read_json, write_json, write_whole

Run = Callable[..., tuple[int, str, str]]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "region.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("target: brick_kiln\nmodle: kiln-s2\n", "line 2", "did you mean 'model'?"),
        ("target: brick_kilns\nmodel: x\n", "line 1", "did you mean 'brick_kiln'?"),
        ("target: mine\nmodel: x\ncomposite: medain\n", "line 3", "did you mean 'median'?"),
        ("target: mine\nmodel: x\nblock: big\n", "line 3", "block:"),
        ("target: mine\nmodel: x\nscenes:\n- a.tif\n- [b]\n", "line 5", "scenes:"),
        ("target: mine\nmodel: x\nmodel: y\n", "line 3", "set in line 2 already"),
        ("target: mine\nmodel: [x\n", "line 3", "mend the YAML"),
        ("target: mine\n", "", "'model' is missing"),
        ("", "", "holds no settings"),
    ],
)
def test_an_error_names_the_line_and_what_was_meant(tmp_path: Path, text: str, line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, text))
    assert line in str(caught.value) and said in str(caught.value) and "\n" not in str(caught.value)


def test_the_template_says_every_setting_and_its_commented_values_are_the_defaults(tmp_path: Path) -> None:
    text = template("brick_kiln", "kiln-s2", ["a.tif"])
    config = read_config(write(tmp_path, text))
    assert config == RegionConfig(target="brick_kiln", model="kiln-s2", scenes=("a.tif",))
    # the same with the # before settings taken away
    lines = [
        line.removeprefix("# ") if line.removeprefix("# ").split(":")[0] in RegionConfig.model_fields else line
        for line in text.splitlines()
    ]
    assert read_config(write(tmp_path, "\n".join(lines))) == config


def test_the_published_schema_accepts_the_template_and_refuses_what_we_refuse() -> None:
    schema = json_schema()
    good = yaml.safe_load(template("brick_kiln", "kiln-s2"))
    jsonschema.validate(good, schema)
    for wrong in ({"modle": "x"}, {"composite": "medain"}, {"block": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **wrong}, schema)


def test_the_schema_in_the_documents_is_the_one_in_force() -> None:
    published = Path(__file__).resolve().parents[2] / "docs" / "region.schema.json"
    assert json.loads(published.read_text()) == json_schema()


def test_init_makes_a_region_that_can_be_read(run: Run, bright_model: Path, tmp_path: Path) -> None:
    aoi = tmp_path / "area.geojson"
    aoi.write_text(json.dumps({"type": "Polygon", "coordinates": [[[87, 23], [88, 23], [88, 24], [87, 24], [87, 23]]]}))
    options = ("--aoi", aoi, "--model", bright_model, "--scenes", "tiles/*.tif", "--regions", tmp_path / "r")
    status, out, err = run("region", "init", "bihar", *options, "--json")
    assert (status, err) == (0, "")
    config = read_config(Path(json.loads(out)["config"]))
    assert config.target == "brick_kiln" and Path(config.scenes[0]).is_absolute()
    assert (tmp_path / "r" / "bihar" / "aoi.geojson").is_file()
    assert run("region", "init", "bihar", *options)[0] == 1
    status, _, err = run("region", "init", "b", "--model", bright_model, "--target", "mines", "--regions", tmp_path)
    assert status == 1 and "did you mean 'mine'?" in err
    status, _, err = run("region", "run", "bhiar", "--regions", tmp_path / "r")
    assert status == 1 and "bihar" in err


def test_a_second_run_is_told_and_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    region = RegionFolder(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from geoslave.region.layout import *\n"
        "with locked(RegionFolder(Path(sys.argv[1]))):\n print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        assert is_running(region)
        with pytest.raises(GeoslaveError, match=f"process {other.pid}"), locked(region):
            pass
    finally:
        other.kill()
        other.wait()
    assert not is_running(region)
    with locked(region):
        assert is_running(region)


def test_a_changed_or_cut_file_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.json"
    write_json(path, {"b": 1.5, "a": ["ü", None]})
    assert read_json(path) == {"b": 1.5, "a": ["ü", None]}
    content = path.read_bytes()
    for spoiled in (content[:-9], content.replace(b"1.5", b"1.7"), b""):
        path.write_bytes(spoiled)
        assert read_json(path) is None


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "inside").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / "x", b"a file cannot replace a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
