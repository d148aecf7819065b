"""A region run as a STAC catalogue: whole, with relative links, valid by the published schemas, marked and on record.

The core schemas come with pystac, the validator is stac-validator's. The extensions' schemas are third parties' files
and not kept in git: scripts/fetch_schemas.py brings them into .tools/schemas (GEOSLAVE_SCHEMAS names another folder),
and then items are validated with them too; that test does not exist otherwise. Nothing is fetched by a test.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import rasterio.shutil
import shapely
from jsonschema import Draft7Validator
from stac_validator import fast_validator

from geoslave.detections.export import read_detections, read_provenance
from geoslave.errors import GeoslaveError, OutputError
from geoslave.model.mlm import MLM_SCHEMA, faults
from geoslave.region.layout import RegionFolder
from geoslave.region.run import Choice, run_region
from geoslave.region.setup import init_region
from geoslave.region.stac import _around, _box, _is_address, _local, _plain, export_catalogue
from geoslave.release.exportlog import read as read_log
from geoslave.release.lint import lint_folder
from geoslave.release.provenance import of_release
from tests.conftest import ROOT
from tests.region.conftest import change

MakeRegion = Callable[..., RegionFolder]
FOR = {"purpose": "visits of sites", "recipient": "Labour Department"}


def local_schemas() -> dict[str, Any]:
    """Schemas by their address: pystac's own copies, and the extensions' where they are at hand."""
    from_pystac = Path(str(pystac.__file__)).parent / "validation" / "jsonschemas"
    folders = [from_pystac, Path(os.environ.get("GEOSLAVE_SCHEMAS", ROOT / ".tools" / "schemas"))]
    found = {"http://json-schema.org/draft-07/schema": Draft7Validator.META_SCHEMA}
    for path in (path for folder in folders if folder.is_dir() for path in folder.rglob("*.json")):
        schema = json.loads(path.read_text("utf-8"))
        if "$id" in schema:
            found[schema["$id"].rstrip("#").replace("commonjson", "common.json")] = schema  # a slip in STAC 1.1.0
    return found


SCHEMAS = local_schemas()


@pytest.fixture(scope="module")
def module_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("catalogue")


@pytest.fixture
def region(make_region: MakeRegion) -> RegionFolder:
    made = make_region("delta")
    assert not run_region(made, Choice(workers=0)).failures
    return made


@pytest.fixture
def catalogue(region: RegionFolder, tmp_path: Path) -> Path:
    export_catalogue(region, tmp_path / "stac", log=tmp_path / "log.jsonl", with_scenes=True, **FOR)
    return tmp_path / "stac"


def objects(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every STAC object that can be reached from catalog.json by links."""
    todo, seen = [folder / "catalog.json"], set()
    while todo:
        path = todo.pop().resolve()
        if path in seen:
            continue
        seen.add(path)
        content = json.loads(path.read_text("utf-8"))
        yield path, content
        for link in content["links"]:
            if link["rel"] in ("child", "item", "root", "parent", "collection", "derived_from"):
                todo.append(path.parent / link["href"])


def broken(content: dict[str, Any], extensions: bool, place: Path) -> bool:
    """Whether stac-validator refuses an object; every schema comes from SCHEMAS, none is fetched."""
    path = place / "object.json"
    path.write_text(json.dumps(content if extensions else {**content, "stac_extensions": []}))
    validator = fast_validator.FastValidator(str(path), quiet=True)
    validator.run()
    return not validator.valid


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """stac-validator with our schemas alone."""

    def refuse(uri: str, *_: object, **__: object) -> Any:
        if uri.rstrip("#") in SCHEMAS:
            return SCHEMAS[uri.rstrip("#")]
        raise AssertionError(f"{uri} is not at hand, and nothing is fetched")

    monkeypatch.setattr(fast_validator, "fetch_schema", refuse)
    monkeypatch.setattr(fast_validator, "VALIDATOR_CACHE", {})
    monkeypatch.setattr(fast_validator, "SCHEMA_CACHE", {})


@pytest.mark.usefixtures("offline")
def test_every_object_is_valid_stac(catalogue: Path, tmp_path: Path) -> None:
    kinds = []
    for path, content in objects(catalogue):
        assert not broken(content, False, tmp_path), path.name
        kinds.append(content["type"])
    assert kinds.count("Catalog") == 1 and kinds.count("Collection") == 3
    assert kinds.count("Feature") == 2 + 2 + 1 + 1, "two scenes, two score maps, the detections, the model"
    item = next(content for _, content in objects(catalogue) if content["type"] == "Feature")
    assert broken({**item, "geometry": {"type": "Polygon"}}, False, tmp_path), "the validator sees faults"


if "https://stac-extensions.github.io/table/v1.2.0/schema.json" in SCHEMAS:

    @pytest.mark.usefixtures("offline")
    def test_extensions_are_valid_by_their_published_schemas(catalogue: Path, tmp_path: Path) -> None:
        used = set()
        for path, content in objects(catalogue):
            extensions = content.get("stac_extensions", [])
            used |= {*extensions}
            assert all(url in SCHEMAS for url in extensions if url != MLM_SCHEMA and "classification" not in url)
            if all(url in SCHEMAS for url in extensions):
                assert not broken(content, True, tmp_path), path.name
        assert len(used) >= 6
        item = json.loads((catalogue / "detections/detections.json").read_text())
        item["properties"]["table:columns"] = "many"
        assert broken(item, True, tmp_path), "the validator sees faults of an extension"


def test_the_model_is_an_item_of_machine_learning(catalogue: Path) -> None:
    item = json.loads((catalogue / "model/model.json").read_text())
    assert faults(item) == [] and MLM_SCHEMA in item["stac_extensions"]
    for asset in item["assets"].values():
        assert (catalogue / "model" / asset["href"]).is_file()


def test_links_and_files_are_there_and_relative_after_a_move(catalogue: Path, tmp_path: Path) -> None:
    moved = tmp_path / "another place" / "catalogue"
    moved.parent.mkdir()
    catalogue.replace(moved)
    for path, content in objects(moved):
        hrefs = [link["href"] for link in content["links"]]
        hrefs += [asset["href"] for asset in content.get("assets", {}).values()]
        for href in hrefs:
            assert not href.startswith("/") and "://" not in href, href
            assert (path.parent / href).is_file(), f"{path.name} leads to {href}"
    read = pystac.Catalog.from_file(str(moved / "catalog.json"))
    assert len(list(read.get_items(recursive=True))) == 6
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=moved).returncode == 0


def test_what_it_holds_is_what_the_run_found(catalogue: Path, region: RegionFolder, run: Callable[..., Any]) -> None:
    status, _, _ = run("region", "export", "delta", "--regions", region.path.parent)
    assert status == 0
    latest = region.latest_run()
    assert latest is not None
    exported = read_detections(latest.path / "detections.parquet")
    item = json.loads((catalogue / "detections/detections.json").read_text())
    for name in ("parquet", "gpkg", "fgb"):
        layer = read_detections(catalogue / "detections" / item["assets"][name]["href"])
        assert sorted(layer["detection_id"]) == sorted(exported["detection_id"]) and len(layer) > 5
    assert item["properties"]["table:row_count"] == len(exported)
    assert [column["name"] for column in item["properties"]["table:columns"]] == list(exported.columns)
    left = json.loads((catalogue / "scores/left_20200105.json").read_text())
    with rasterio.open(catalogue / "scores" / left["assets"]["scores"]["href"]) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.shape == (300, 250)
        scores = file.read(1)
    for block in sorted((latest.path / "scores/left_20200105").glob("*.tif")):
        with rasterio.open(block) as part:
            window = rasterio.windows.from_bounds(
                *part.bounds, rasterio.open(catalogue / "scores/left_20200105.tif").transform
            )
            rows, cols = (slice(*map(round, ends)) for ends in window.toranges())
            assert np.array_equal(scores[rows, cols], part.read(1))
    band = left["assets"]["scores"]["raster:bands"][0]
    assert band["nodata"] == 255 and round(254 * band["scale"], 9) == 1
    assert left["properties"]["datetime"].startswith("2020-01-05")


def test_a_scene_lies_where_it_says(catalogue: Path) -> None:
    item = json.loads((catalogue / "scenes/right_20200210.json").read_text())
    with rasterio.open(catalogue / "scenes" / item["assets"]["image"]["href"]) as file:
        box = gpd.GeoSeries.from_wkt([f"POINT ({file.bounds.left} {file.bounds.top})"], crs=file.crs).to_crs(4326)[0]
    assert item["bbox"][0] == pytest.approx(box.x, abs=2e-4) and item["bbox"][3] == pytest.approx(box.y, abs=2e-4)


def test_scenes_stay_at_home_unless_asked_for(region: RegionFolder, tmp_path: Path) -> None:
    export_catalogue(region, tmp_path / "light", log=tmp_path / "log.jsonl", **FOR)
    assert not list((tmp_path / "light/scenes").glob("*.tif"))
    told = "".join(path.read_text("utf-8") for path in (tmp_path / "light").rglob("*.json"))
    assert str(tmp_path) not in told and "file://" not in told


@pytest.mark.usefixtures("offline")
def test_a_scene_without_a_date_that_names_local_files(
    scenes: list[Path], bright_model: Path, make_region: MakeRegion, tmp_path: Path
) -> None:
    left = scenes[0].rename(scenes[0].with_name("left side.tif"))
    rasterio.shutil.copy(left, tmp_path / "left side.vrt", driver="VRT")
    region = init_region(
        tmp_path / "regions" / "plain", None, None, str(bright_model), [str(tmp_path / "left side.vrt")]
    )
    change(region, block=128, threads=1)
    assert not run_region(region, Choice(workers=0)).failures
    export_catalogue(region, tmp_path / "stac", log=tmp_path / "log.jsonl", with_scenes=True, **FOR)
    for path, content in objects(tmp_path / "stac"):
        assert not broken(content, False, tmp_path), path.name
    times = {pystac.read_file(str(path)).properties["datetime"] for path in (tmp_path / "stac/scores").glob("l*.json")}
    assert times == {region_start(region)}
    assert not list((tmp_path / "stac").rglob("*.vrt"))
    with rasterio.open(next((tmp_path / "stac/scenes").glob("*.tif"))) as copy, rasterio.open(left) as own:
        assert copy.driver == "GTiff" and (copy.read() == own.read()).all() and copy.files == [copy.name]


def region_start(region: RegionFolder) -> str:
    latest = region.latest_run()
    assert latest is not None
    return str(json.loads(latest.description.read_text("utf-8"))["started"])


def test_only_addresses_others_can_fetch_are_addresses() -> None:
    for local in ("/data/a.tif", "file:///home/ana/a.tif", "FILE:///a.tif", "/vsizip//home/ana/a.zip/a.tif"):
        assert not _is_address(local)
    assert _is_address("https://example.org/a.tif") and _is_address("/vsicurl/https://example.org/a.tif")
    assert _local("file:///home/jane%20doe/a.tif") == Path("/home/jane doe/a.tif")


def test_it_is_marked_as_precise_and_on_record(catalogue: Path, tmp_path: Path) -> None:
    for _, content in objects(catalogue):
        if content["type"] != "Feature" or content["id"] != "bright":
            told = content if content["type"] != "Feature" else content["properties"]
            assert told["geoslave:kind"] == "precise" and told["geoslave:recipient"] == "Labour Department"
    entry = read_log(tmp_path / "log.jsonl")[-1]
    assert entry["kind"] == "precise" and entry["purpose"] == "visits of sites"
    assert of_release(catalogue, tmp_path / "log.jsonl")["model_id"] == entry["provenance"]["model_id"]
    assert read_provenance(catalogue / "detections/detections.gpkg")["recipient"] == "Labour Department"
    assert "NOT FOR PUBLICATION" in (catalogue / "README.md").read_text()
    assert lint_folder(catalogue), "the linter would not let it pass as public"


def test_it_is_not_written_over_nor_without_a_purpose(region: RegionFolder, catalogue: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with pytest.raises(OutputError):
        export_catalogue(region, catalogue, log=log, **FOR)
    with pytest.raises(GeoslaveError, match="purpose"):
        export_catalogue(region, tmp_path / "other", log=log, purpose=" ", recipient="Labour Department")
    assert not (tmp_path / "other").exists() and len(read_log(log)) == 1


def test_a_damaged_score_map_is_refused(region: RegionFolder, tmp_path: Path) -> None:
    latest = region.latest_run()
    assert latest is not None
    next((latest.path / "scores").rglob("*.tif")).write_bytes(b"II*\0")
    with pytest.raises(GeoslaveError, match="damaged"):
        export_catalogue(region, tmp_path / "stac", log=tmp_path / "log.jsonl", **FOR)
    assert not (tmp_path / "stac").exists() and not (tmp_path / "log.jsonl").exists()


def test_the_command_needs_purpose_and_recipient(region: RegionFolder, tmp_path: Path, run: Callable[..., Any]) -> None:
    asked = ("region", "export", "delta", "--regions", region.path.parent, "--stac", tmp_path / "out" / "stac")
    assert run(*asked)[0] == 2
    assert run("region", "export", "delta", "--regions", region.path.parent, "--purpose", "visits")[0] == 2
    status, out, said = run(*asked, "--purpose", "visits", "--recipient", "Labour Department", "--json")
    assert status == 0, said
    told = json.loads(out)
    assert told["n_scenes"] == told["n_score_maps"] == 2 and Path(told["stac"], "catalog.json").is_file()
    assert "layers" not in told, "a catalogue alone was asked for"
    assert read_log(tmp_path / "out" / "release-log.jsonl")[-1]["release_id"] == told["release_id"]
    status, out, _ = run("provenance", told["stac"])
    assert status == 0 and "Labour Department" in out
    assert run("release", "check", told["stac"])[0] == 1


@pytest.mark.usefixtures("offline")
def test_a_composite_names_the_scenes_it_was_made_of(make_region: MakeRegion, tmp_path: Path) -> None:
    region = make_region("joined", composite="latest")
    assert not run_region(region, Choice(workers=0)).failures
    export_catalogue(region, tmp_path / "stac", log=tmp_path / "log.jsonl", **FOR)
    found = {path.relative_to(tmp_path / "stac").as_posix(): content for path, content in objects(tmp_path / "stac")}
    scenes = [name for name in found if name.startswith("scenes/") and "collection" not in name]
    maps = [name for name in found if name.startswith("scores/") and "collection" not in name]
    assert len(scenes) == 2 and len(maps) == 1
    sources = [link["href"] for link in found[maps[0]]["links"] if link["rel"] == "derived_from"]
    assert sorted(sources) == sorted([*(f"../{name}" for name in scenes), "../model/model.json"])
    for name, content in found.items():
        assert not broken(content, False, tmp_path), name
    assert str(tmp_path) not in json.dumps(found), "a path of this machine is in it"


def test_boxes_across_the_antimeridian_go_from_west_to_east() -> None:
    east, west = shapely.box(178, -18, 180, -16), shapely.box(-180, -18, -179, -16)
    assert _box(shapely.MultiPolygon([east, west])) == [178, -18, -179, -16]
    assert _box(shapely.box(10, 20, 30, 40)) == [10, 20, 30, 40]
    assert _around([[178, -18, -179, -16], [170, -20, 175, -19]]) == [-180, -20, 180, -16]
    assert _around([[1, 2, 3, 4], [2, 1, 5, 3]]) == [1, 1, 5, 4]


def test_names_become_files_and_stay_different() -> None:
    assert _plain("S2A_2024-01.tif") == "S2A_2024-01.tif"
    assert _plain("a/b") != _plain("a b") and "/" not in _plain("../../etc/passwd")
