"""`geoslave crossvalidate` with networks that are really trained, though hardly: broken off, and on again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest
import rasterio
import yaml

pytest.importorskip("torch")

from geoslave import crossvalidation
from geoslave.labels.synthetic import render_scene
from geoslave.model.package import open_package
from tests.factories import SMALL_RECIPE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two rendered scenes with labels in two regions, and a network that learns nothing in its four steps."""
    (tmp_path / "scenes").mkdir()
    tables = []
    for index, region in enumerate(("east", "west")):
        scene = render_scene(index, (96, 96), n_kilns=3, origin=(720_000.0 + 50_000 * index, 2_640_000.0))
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": 96, "height": 96, "crs": "EPSG:32645"}
        with rasterio.open(
            tmp_path / "scenes" / f"{region}.tif", "w", transform=scene.raster.geobox.affine, **profile
        ) as file:
            file.write(scene.raster.pixels)
        tables.append(scene.sites.assign(region=region))
    gpd.GeoDataFrame(pd.concat(tables), crs="EPSG:32645").to_crs(4326).to_file(tmp_path / "sites.geojson")
    labelled = {"scenes": str(tmp_path / "scenes"), "labels": str(tmp_path / "sites.geojson")}
    settings = {
        **SMALL_RECIPE,
        "scenes": [{**labelled, "region_column": "region"}],
        "workers": 0,
        "checkpoint_every": 2,
        "publication": {"metrics": {"f1": 0.99}, "card": "Finds everything."},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_broken_off_training_goes_on_and_the_rest_follows(
    recipe: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cv"
    publish = crossvalidation.publish

    def broken(result: Any, folder: Path) -> Path:
        if folder.name == "without-west":
            raise KeyboardInterrupt
        return publish(result, folder)

    with monkeypatch.context() as patch:
        patch.setattr(crossvalidation, "publish", broken)
        assert run("crossvalidate", recipe, "--out", out)[0] == 1
    assert (out / "held-out-east.gpkg").is_file() and not (out / "without-west").exists()
    weights = (out / "without-east" / "model.safetensors").read_bytes()

    status, printed, err = run("crossvalidate", recipe, "--out", out, "--json")
    assert status == 0, err
    assert "goes on after step 4 of 4" in err
    facts = json.loads(printed)
    assert facts["complete"] and set(facts["by"]["region"]) == {"east", "west"} and facts["n_scenes"] == 2
    assert (out / "without-east" / "model.safetensors").read_bytes() == weights
    for region in ("east", "west"):
        package = open_package(out / f"without-{region}")
        assert package.model_id == facts["models"][region] and package.spec.name == f"small-without-{region}"
        card = (package.folder / "README.md").read_text()
        assert package.spec.metrics == {} and "Finds everything" not in card and f"not seen {region}" in card
        training = out / f"without-{region}-training"
        assert (training / "training.png").is_file() and len((training / "log.csv").read_text().splitlines()) == 5
        assert not list(training.glob("checkpoint*"))
