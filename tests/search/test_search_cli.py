"""geoslave search index, query and status, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pytest
import shapely

from tests.factories import dark_field, with_kilns
from tests.search.test_search_embedder import write_vector_model

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scene(make_scene: Callable[..., Path]) -> Path:
    return make_scene(with_kilns(dark_field((160, 160)), [(20, 30), (70, 90), (100, 20), (130, 130)]))


@pytest.fixture
def like(tmp_path: Path) -> Path:
    point = gpd.GeoDataFrame(geometry=[shapely.Point(500_350, 2_649_775)], crs=32645).to_crs(4326)
    path = tmp_path / "like.geojson"
    point.to_file(path)
    return path


def make(run: Run, scene: Path, tmp_path: Path) -> Path:
    model = tmp_path / "means"
    if not model.exists():
        write_vector_model(model)
    index = tmp_path / "index"
    options = ("--embedder", model, "--chip", 24, "--core", 16, "--json")
    status, out, err = run("search", "index", "--scenes", scene, "--out", index, *options)
    assert status == 0, err
    told = json.loads(out)
    assert told["chips"] == 100
    return index


def test_from_a_scene_to_a_ranked_layer(run: Run, scene: Path, like: Path, tmp_path: Path) -> None:
    from geoslave.detections.export import read_detections

    index = make(run, scene, tmp_path)
    out = tmp_path / "ranked.gpkg"
    status, text, err = run("search", "query", index, "--like", like, "--out", out, "--limit", 12, "--json")
    assert status == 0, err
    assert json.loads(text)["chips"] == 12
    layer = read_detections(out)
    first = layer.sort_values("rank").iloc[:8].to_crs(32645).geometry
    kilns = [shapely.Point(500_950, 2_649_275), shapely.Point(500_250, 2_648_975), shapely.Point(501_350, 2_648_675)]
    assert all(first.intersects(kiln.buffer(60)).any() for kiln in kilns)
    assert layer["confidence"].between(0, 1).all()


def test_places_in_a_csv_are_taken_as_in_a_layer(run: Run, scene: Path, like: Path, tmp_path: Path) -> None:
    index = make(run, scene, tmp_path)
    point = gpd.read_file(like).geometry.iloc[0]
    csv = tmp_path / "like.csv"
    csv.write_text(f"lon,lat\n{point.x},{point.y}\n")
    best = []
    for given in (like, csv):
        out = tmp_path / f"{given.suffix[1:]}.parquet"
        status, _, err = run("search", "query", index, "--like", given, "--out", out, "--limit", 5)
        assert status == 0, err
        best.append(gpd.read_parquet(out)["detection_id"].tolist())
    assert best[0] == best[1]


def test_chips_are_as_wide_as_a_persons_own_target_says(run: Run, scene: Path, tmp_path: Path) -> None:
    from geoslave.search.index import open_index
    from geoslave.targets import get_target, target_yaml

    own = tmp_path / "own.yaml"
    own.write_text(target_yaml(get_target("mine").model_copy(update={"name": "my_site", "chip_m": 240.0})))
    model = write_vector_model(tmp_path / "means")
    given = ("--scenes", scene, "--out", tmp_path / "index", "--embedder", model, "--target", own)
    status, _, err = run("search", "index", *given)
    assert status == 0, err
    assert open_index(tmp_path / "index").settings.chip_px == 24


def test_damage_is_told_by_status_and_mended_as_it_says(run: Run, scene: Path, tmp_path: Path) -> None:
    index = make(run, scene, tmp_path)
    content = bytearray((index / "vectors.npy").read_bytes())
    content[-3] ^= 1
    (index / "vectors.npy").write_bytes(content)
    assert "damaged (vectors.npy): make it anew with --overwrite" in run("search", "status", index)[1]
    options = ("--embedder", tmp_path / "means", "--chip", 24, "--core", 16, "--overwrite")
    assert run("search", "index", "--scenes", scene, "--out", index, *options)[0] == 0
    assert "damaged" not in run("search", "status", index)[1]


def test_ranked_chips_become_review_tasks(run: Run, scene: Path, like: Path, tmp_path: Path) -> None:
    index = make(run, scene, tmp_path)
    out, tasks = tmp_path / "ranked.geojson", tmp_path / "look"
    told = run("search", "query", index, "--like", like, "--out", out, "--limit", 3, "--tasks", tasks, "--kind", "camp")
    assert told[0] == 0, told[2]
    assert "3 tasks" in told[1]
    assert (tasks / "review.sqlite").is_file()
    assert len(list((tasks / "pictures").glob("*.png"))) == 9


def test_counter_examples_and_bad_examples(run: Run, scene: Path, like: Path, tmp_path: Path) -> None:
    index = make(run, scene, tmp_path)
    out = tmp_path / "ranked.parquet"
    status, _, err = run("search", "query", index, "--like", like, "--unlike", like, "--out", out)
    assert status == 1
    assert "both an example and a counter-example" in err
    far = tmp_path / "far.geojson"
    gpd.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=4326).to_file(far)
    status, _, err = run("search", "query", index, "--like", far, "--out", out)
    assert (status, out.exists()) == (1, False)
    assert "outside of the index" in err
    (tmp_path / "words.geojson").write_text("words")
    assert run("search", "query", index, "--like", tmp_path / "words.geojson", "--out", out)[0] == 1
    assert run("search", "query", tmp_path, "--like", like, "--out", out)[0] == 1


def test_a_region_is_indexed_in_its_folder(run: Run, scene: Path, tmp_path: Path) -> None:
    regions = tmp_path / "regions"
    folder = regions / "delta"
    folder.mkdir(parents=True)
    text = f"target: brick_kiln\nmodel: kiln-s2\naoi: null\nscenes: [{scene}]\n"
    (folder / "region.yaml").write_text(text, encoding="utf-8")
    model = write_vector_model(tmp_path / "means")
    given = ("search", "index", "delta", "--regions", regions, "--embedder", model, "--json")
    status, out, err = run(*given)
    assert status == 0, err
    told = json.loads(out)
    assert told["folder"] == str(folder / "search")
    status, out, err = run("search", "status", folder, "--json")
    assert status == 0, err
    assert json.loads(out)["chips"] == told["chips"] == 25  # 480 m for a kiln: a step of 32 pixels
    assert run(*given)[0] == 0


def test_without_a_word_about_it_an_imagenet_network_looks(run: Run, scene: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    status, out, err = run("search", "index", "--scenes", scene, "--out", index, "--json")
    assert status == 0, err
    told = json.loads(run("search", "status", index, "--json")[1])
    assert told["embedder"] == "imagenet-lite0"
    assert json.loads(out)["chips"] == told["chips"] == 25


def test_an_index_of_another_embedder_is_gone_on_with(run: Run, scene: Path, tmp_path: Path) -> None:
    given = ("search", "index", "--scenes", scene, "--out", tmp_path / "index", "--json")
    assert run(*given, "--embedder", "plain")[0] == 0
    before = (tmp_path / "index" / "vectors.npy").read_bytes()
    status, out, err = run(*given)
    assert status == 0, err
    assert json.loads(out)["notes"] == ["the index was finished before"]
    assert (tmp_path / "index" / "vectors.npy").read_bytes() == before
    status, _, err = run(*given, "--embedder", "imagenet-lite0")
    assert status == 1 and "another embedder" in err


def test_a_region_is_seen_at_its_models_resolution_and_in_bands_it_has(run: Run, scene: Path, tmp_path: Path) -> None:
    from geoslave.search.index import open_index
    from tests.factories import write_bright_model

    for name, facts in {"finer": {"gsd_m": 20.0}, "red": {"bands": ("red",)}}.items():
        folder = tmp_path / "regions" / name
        folder.mkdir(parents=True)
        model = write_bright_model(tmp_path / name, **facts)
        text = f"target: brick_kiln\nmodel: {model}\naoi: null\nscenes: [{scene}]\n"
        (folder / "region.yaml").write_text(text, encoding="utf-8")
        for _ in range(2):  # the second time it is there already
            status, _, err = run("search", "index", name, "--regions", tmp_path / "regions")
            assert status == 0, err
    finer, red = (open_index(tmp_path / "regions" / name) for name in ("finer", "red"))
    assert (finer.facts["embedder"]["name"], finer.facts["reading"]["gsd_m"]) == ("imagenet-lite0", 20)
    assert red.facts["embedder"]["bands"] == ["red"]


def test_status_tells_of_campaigns(run: Run, scene: Path, like: Path, tmp_path: Path) -> None:
    from geoslave.search.campaign import start_campaign
    from geoslave.search.index import open_index

    index = make(run, scene, tmp_path)
    campaign = start_campaign(open_index(index), "camps", gpd.read_file(like), page_size=5)
    for chip in campaign.page().chip_ids:
        campaign.answer(chip, "no")
    status, out, _ = run("search", "status", index / "camps", "--json")
    told = json.loads(out)["campaigns"]["camps"]
    assert (status, told["clicks"], told["found"], told["remaining"]["audited"]) == (0, 5, 1, 1)
    assert "camps: 5 clicks" in run("search", "status", index)[1]
    assert run("search", "status", index / "others")[0] == 1


def test_what_cannot_be_is_said_at_once(run: Run, scene: Path, tmp_path: Path) -> None:
    assert run("search", "index")[0] == 2
    assert run("search", "index", "--scenes", scene)[0] == 2
    status, _, err = run("search", "index", "--scenes", scene, "--out", tmp_path / "i", "--chip", 16, "--core", 32)
    assert status == 2
    assert "larger than the chip" in err
    assert run("search", "index", "--scenes", tmp_path / "no.tif", "--out", tmp_path / "i")[0] == 1
