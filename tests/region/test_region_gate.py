"""A region's run with a gate: the same sites, another run than one without, the same scores on any engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from geoslave.cli.main import cli
from geoslave.errors import ModelError
from geoslave.model.package import Thresholds, describe
from geoslave.region.layout import RegionFolder, read_json, write_json
from geoslave.region.publish import export_region
from geoslave.region.run import Choice, run_region
from geoslave.region.setup import init_region
from tests.factories import bright_spec, dark_field, with_kilns, write_bright_model
from tests.gates import write_gated_model


def made(folder: Path, scene: Path, model: Path, block: int = 64) -> RegionFolder:
    region = init_region(folder, None, None, str(model), [str(scene)])
    region.config.write_text(region.config.read_text() + f"\nblock: {block}\nthreads: 1\n")
    return region


def scene_of(make_scene):  # type: ignore[no-untyped-def]
    pixels = with_kilns(dark_field((256, 320)), [(30, 40), (62, 60), (120, 250), (190, 128)])
    pixels[:, 150:155, 60:70] = 120  # faint: a score, but no opening
    return make_scene(pixels, name="kilns_20240105.tif")


def score_maps(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted((run / "scores").rglob("*.tif"))}


def test_scores_with_a_gate_are_the_same_for_every_engine_and_every_size_of_block(make_scene, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = write_gated_model(tmp_path / "bright", halo=32, stride=16)
    scene = scene_of(make_scene)
    runs = {}
    for name, workers, block in (("serial", 0, 64), ("processes", 2, 64), ("large", 0, 128)):
        summary = run_region(made(tmp_path / "regions" / name, scene, model, block), Choice(workers=workers))
        assert summary.gate
        runs[name] = summary.run.path
    assert score_maps(runs["serial"]) == score_maps(runs["processes"])
    assert np.array_equal(mosaic_of(runs["serial"], scene), mosaic_of(runs["large"], scene))


def mosaic_of(run: Path, scene: Path) -> np.ndarray:
    """The score maps of a run on the scene's grid."""
    with rasterio.open(scene) as file:
        whole, inverse = np.full(file.shape, 255, np.uint8), ~file.transform
    for path in (run / "scores").rglob("*.tif"):
        with rasterio.open(path) as file:
            col, row = (round(value) for value in inverse @ (file.transform.c, file.transform.f))
            whole[row : row + file.height, col : col + file.width] = file.read(1)
    return whole


def test_no_gate_is_a_run_of_its_own_that_looks_everywhere(make_scene, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = write_gated_model(tmp_path / "bright", halo=32, stride=16)
    scene = scene_of(make_scene)
    region = made(tmp_path / "regions" / "bihar", scene, model)
    told, layers = {}, {}
    for flags in ((), ("--no-gate",)):
        where = ("--regions", str(tmp_path / "regions"), "--json")
        ran = CliRunner().invoke(cli, ["region", "run", "bihar", "--workers", "0", *flags, *where])
        assert ran.exit_code == 0, ran.output
        told[flags] = json.loads(ran.stdout)
        out = tmp_path / f"sites{len(flags)}.geojson"
        done = CliRunner().invoke(cli, ["region", "export", "bihar", "--out", str(out), *where])
        assert done.exit_code == 0, done.output
        layers[flags] = json.loads(out.read_text())
    with_gate, without = told[()], told[("--no-gate",)]
    assert with_gate["gate"] and not without["gate"]
    assert with_gate["run"] != without["run"]
    places = [sorted(json.dumps(one["geometry"]) for one in layer["features"]) for layer in layers.values()]
    assert places[0] == places[1] and len(places[0]) >= 3
    closed = mosaic_of(region.runs / with_gate["run"], scene)
    open_ = mosaic_of(region.runs / without["run"], scene)
    assert (closed[150:155, 60:70] == 0).all() and (open_[150:155, 60:70] > 0).all()


def test_a_model_without_a_gate_runs_as_it_did(make_scene, tmp_path) -> None:  # type: ignore[no-untyped-def]
    region = made(tmp_path / "regions" / "bihar", scene_of(make_scene), write_bright_model(tmp_path / "bright"))
    runs = [run_region(region, Choice(workers=0, gate=gate)) for gate in (True, False)]
    assert not runs[0].gate and runs[0].run.path == runs[1].run.path and runs[1].done_now == 0


def test_a_model_whose_description_was_changed_is_another_model(make_scene, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = write_bright_model(tmp_path / "bright")
    region = made(tmp_path / "regions" / "bihar", scene_of(make_scene), model)
    first = run_region(region, Choice(workers=0))
    described = (model / "model.json").read_text()
    describe(model, bright_spec(thresholds=Thresholds(high=0.6, low=0.3)))
    with pytest.raises(ModelError, match="was replaced since the run began"):
        export_region(region)
    (model / "model.json").write_text(described)
    assert export_region(region).n_confident > 0
    shutil.rmtree(model)
    write_gated_model(model)  # a gate is added: the run looked everywhere
    with pytest.raises(ModelError, match="was replaced since the run began"):
        export_region(region)
    second = run_region(region, Choice(workers=0))
    assert second.gate and second.run != first.run and export_region(region).n_confident > 0


def test_a_run_begun_by_an_earlier_version_goes_on(make_scene, tmp_path) -> None:  # type: ignore[no-untyped-def]
    region = made(tmp_path / "regions" / "bihar", scene_of(make_scene), write_bright_model(tmp_path / "bright"))
    run = run_region(region, Choice(workers=0)).run
    told = read_json(run.description)
    assert told is not None
    told["model"] = {**told["model"], "gate": None}
    del told["model"]["spec"]
    write_json(run.description, told)
    again = run_region(region, Choice(workers=0))
    assert again.run == run and again.done_now == 0 < again.done_before
