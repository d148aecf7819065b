"""What people see: help with an example, answers for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import geopandas as gpd
import pytest
import rasterio

from geoslave.cli.main import COMMANDS, cli
from tests.factories import dark_field, with_kilns

Make = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def all_commands() -> list[list[str]]:
    paths = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        paths.append([name])
        if isinstance(command, click.Group):
            paths.extend([name, child] for child in command.commands)
    return paths


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_help_ends_in_an_example(path: list[str], run: Run) -> None:
    status, printed, _ = run(*path, "--help")
    assert status == 0
    end = printed[printed.rindex("Example:") :]
    assert f"geoslave {path[0]}" in end and "Options:" not in end


def test_help_answers_without_loading_heavy_libraries() -> None:
    code = (
        "import sys; from geoslave.cli.main import run; run(['--help']);"
        "print([m for m in ('torch', 'geopandas', 'rasterio', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_detect_does_not_load_torch(make_scene: Make, bright_model: Path, tmp_path: Path) -> None:
    scene = make_scene(with_kilns(dark_field((90, 90)), [(20, 30)]))
    code = (
        "import sys; from geoslave.cli.main import run;"
        f"run(['detect', {str(scene)!r}, '--model', {str(bright_model)!r}, '--out', {str(tmp_path / 'o.gpkg')!r}]);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "command", [["train", "config.yaml"], ["detect", "SCENE", "--backend", "torch", "--out", "o.gpkg"]]
)
def test_what_needs_an_absent_extra_says_so_in_one_line(
    command: list[str], make_scene: Make, bright_model: Path, tmp_path: Path
) -> None:
    """As on a machine without torch: its import is made to fail."""
    (tmp_path / "config.yaml").write_text("{}")
    scene = str(make_scene(dark_field((90, 90))))
    words = [scene if word == "SCENE" else word for word in command]
    if command[0] == "detect":
        words += ["--model", str(bright_model)]
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['segmentation_models_pytorch'] = None\n"
        f"from geoslave.cli.main import run; sys.exit(run({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "pip install 'geoslave[train]'" in done.stderr


def test_detect_answers_people_and_programs(make_scene: Make, bright_model: Path, run: Run, tmp_path: Path) -> None:
    scene = make_scene(with_kilns(dark_field((180, 200)), [(20, 30), (100, 100)]))
    status, printed, err = run("detect", scene, "--model", bright_model, "--out", tmp_path / "a.gpkg")
    assert status == 0 and err == ""
    assert "2 detections" in printed and "never evidence" in printed and str(tmp_path / "a.gpkg") in printed
    status, printed, _ = run("detect", scene, "--model", bright_model, "--out", tmp_path / "a.geojson", "--json")
    facts = json.loads(printed)
    assert facts["n_detections"] == 2 and facts["model_id"].startswith("bright@1.0.0+")


def test_low_confidence_is_kept_for_filtering_in_the_formats_made_for_it(
    make_scene: Make, bright_model: Path, run: Run, tmp_path: Path
) -> None:
    pixels = with_kilns(dark_field((180, 200)), [(20, 30), (100, 100)])
    pixels[:, 60:66, 150:162] = 134  # a faint one: seeds a detection, stays below the operating confidence
    scene = make_scene(pixels)
    counts = {}
    for ending in ("gpkg", "parquet", "geojson", "fgb"):
        out = tmp_path / f"layer.{ending}"
        status, printed, _ = run("detect", scene, "--model", bright_model, "--out", out, "--threshold", 0.3, "--json")
        assert status == 0
        counts[ending] = json.loads(printed)["n_detections"]
    assert counts == {"gpkg": 3, "parquet": 3, "geojson": 2, "fgb": 2}
    status, printed, _ = run(
        "export", tmp_path / "layer.gpkg", "--out", tmp_path / "e.geojson", "--min-confidence", 0.6
    )
    assert status == 0 and "2 detections" in printed and "1 below" in printed
    exported = json.loads((tmp_path / "e.geojson").read_text())
    direct = json.loads((tmp_path / "layer.geojson").read_text())
    assert exported["features"] == direct["features"]
    assert exported["geoslave"]["model_id"] == direct["geoslave"]["model_id"]


def test_chip_writes_chips_masks_and_an_index(make_scene: Make, run: Run, tmp_path: Path) -> None:
    pixels = with_kilns(dark_field((300, 300)), [(20, 30)])
    pixels[:, 140:, 140:] = 0
    scene = make_scene(pixels, nodata=0)
    sites = gpd.GeoDataFrame(
        {"class_name": ["brick_kiln"]}, geometry=gpd.points_from_xy([500_350], [2_649_775]).buffer(45), crs="EPSG:32645"
    )
    sites.to_crs(4326).to_file(tmp_path / "sites.geojson")
    out = tmp_path / "chips"
    status, printed, _ = run(
        "chip", scene, "--out", out, "--size", 96, "--overlap", 16, "--labels", tmp_path / "sites.geojson", "--json"
    )
    assert status == 0
    facts = json.loads(printed)
    index = gpd.read_parquet(out / "index.parquet")
    assert len(index) == facts["n_chips"] and facts["n_empty"] > 0
    assert {"valid_fraction", "label_share"} <= set(index.columns)
    marked = index[index["label_share"] > 0]
    assert len(marked) == 1
    with rasterio.open(out / marked["chip"].iloc[0]) as chip, rasterio.open(out / marked["mask"].iloc[0]) as mask:
        assert chip.crs == mask.crs and chip.transform == mask.transform
        assert (mask.read(1) == 1).sum() == pytest.approx(3.14 * 4.5**2, rel=0.2)


def test_models_are_listed_and_shown(run: Run, bright_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSLAVE_MODELS", str(bright_model.parent))
    status, printed, _ = run("models", "list", "--json")
    names = [model["name"] for model in json.loads(printed)["models"]]
    assert status == 0 and names[0] == "bright" and "kiln-s2" in names
    status, printed, _ = run("models", "show", "bright")
    assert status == 0 and "bright spots" in printed


def test_a_changed_weight_file_is_refused(tmp_path: Path, run: Run, make_scene: Make) -> None:
    from tests.factories import write_bright_model

    model = write_bright_model(tmp_path / "bright")
    with (model / "model.onnx").open("ab") as file:
        file.write(b"\0")
    status, _, err = run("detect", make_scene(dark_field((64, 64))), "--model", model, "--out", tmp_path / "o.gpkg")
    assert status == 1 and "hash differs" in err


def test_evaluate_prints_every_figure_with_its_interval(
    make_scene: Make, bright_model: Path, run: Run, tmp_path: Path
) -> None:
    corners = [(20, 30), (60, 90), (100, 150), (150, 40)]
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    make_scene(with_kilns(dark_field((180, 200)), corners), name="scenes/a.tif")
    sites = [(500_000 + (col + 5) * 10, 2_650_000 - (row + 2.5) * 10) for row, col in corners[:3]]
    points = gpd.GeoSeries(gpd.points_from_xy(*zip(*sites, strict=True)), crs="EPSG:32645").buffer(30)
    points.to_crs(4326).to_file(tmp_path / "sites.geojson")
    status, printed, _ = run(
        "evaluate", bright_model, "--scenes", scenes, "--labels", tmp_path / "sites.geojson", "--json"
    )
    facts = json.loads(printed)
    assert status == 0
    assert (facts["precision"], facts["recall"], facts["n_sites"], facts["n_detections"]) == (0.75, 1.0, 3, 4)
    for rate in ("precision", "recall", "f1", "average_precision", "false_alarms_per_100km2"):
        assert facts[f"{rate}_low"] <= facts[rate] <= facts[f"{rate}_high"]


def test_what_was_wrong_with_labels_is_told(make_scene: Make, run: Run, tmp_path: Path) -> None:
    scene = make_scene(dark_field((100, 100)))
    sites = gpd.GeoDataFrame(
        {"class_name": ["brick_kiln", "brick_kiln"]},
        geometry=[*gpd.points_from_xy([500_350], [2_649_775]).buffer(45), None],
        crs="EPSG:32645",
    )
    sites.to_file(tmp_path / "sites.gpkg")
    status, _, err = run("chip", scene, "--out", tmp_path / "chips", "--labels", tmp_path / "sites.gpkg")
    assert status == 0 and err.startswith("Note:") and "1" in err


def test_evaluate_takes_a_folder_of_chips(make_scene: Make, bright_model: Path, run: Run, tmp_path: Path) -> None:
    scene = make_scene(with_kilns(dark_field((180, 200)), [(20, 30), (100, 100)]))
    sites = gpd.GeoSeries(gpd.points_from_xy([500_350], [2_649_775]), crs="EPSG:32645").buffer(30)
    sites.to_crs(4326).to_file(tmp_path / "sites.geojson")
    assert run("chip", scene, "--out", tmp_path / "chips", "--size", 96)[0] == 0
    command = ["evaluate", bright_model, "--scenes", tmp_path / "chips", "--labels", tmp_path / "sites.geojson"]
    status, printed, _ = run(*command, "--json")
    facts = json.loads(printed)
    assert status == 0 and (facts["n_sites"], facts["n_hits"], facts["n_detections"]) == (1, 1, 2)


def test_exporting_again_keeps_what_was_left_out_before(
    make_scene: Make, bright_model: Path, run: Run, tmp_path: Path
) -> None:
    scene = make_scene(with_kilns(dark_field((180, 200)), [(20, 30), (100, 100)]))
    assert run("detect", scene, "--model", bright_model, "--out", tmp_path / "a.geojson")[0] == 0
    saved_again = json.dumps(json.loads((tmp_path / "a.geojson").read_text()))
    (tmp_path / "b.geojson").write_text(saved_again)
    for name in ("a", "b"):
        out = tmp_path / f"{name}2.GEOJSON"
        assert run("export", tmp_path / f"{name}.geojson", "--out", out)[0] == 0
        notes = json.loads(out.read_text())["geoslave"]
        assert notes["min_confidence"] == 0.6 and notes["model_id"].startswith("bright@")
    assert run("export", tmp_path / "a.geojson", "--out", tmp_path / "A.PARQUET")[0] == 0


def test_chips_of_reflectance_mean_the_same_as_their_scene(make_scene: Make, run: Run, tmp_path: Path) -> None:
    scene = make_scene(dark_field((100, 100)).astype("uint16") * 20)
    with rasterio.open(scene, "r+") as file:
        file.scales, file.offsets = (1e-4,) * 3, (-0.1,) * 3
    assert run("chip", scene, "--out", tmp_path / "chips")[0] == 0
    with rasterio.open(next((tmp_path / "chips" / "chips").glob("*.tif"))) as chip:
        assert chip.scales == (1e-4,) * 3 and chip.offsets == (-0.1,) * 3
