"""Scenes as items: found, kept, and the grids they are read on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pystac
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoslave.errors import GeoslaveError, SceneError
from geoslave.imagery import patient, stacsearch
from geoslave.imagery.assets import Calibration, band_assets, common_name, mask_asset
from geoslave.imagery.catalog import (
    changed_assets,
    choose_items,
    load_items,
    local_items,
    read_catalogue,
    save_items,
    search_items,
    with_projection,
    zone_grids,
    zone_parts,
)
from geoslave.imagery.items import day_of
from tests.scenes import make_product, reflectances

Make = Callable[..., Path]
TESTS = Path(__file__).parent.parent


@contextmanager
def serving(script: str, *arguments: object) -> Iterator[str]:
    """The address of a server of tests/ that runs in a process of its own."""
    command = [sys.executable, str(TESTS / script), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def bare_item(
    name: str, west: float, south: float, *, size: float = 0.5, epsg: int | None = 32645, **properties: object
) -> dict:
    """An item without pixels."""
    box = shapely.box(west, south, west + size, south + size)
    told = {"datetime": "2024-01-10T04:30:00Z", **properties}
    if epsg is not None:
        told["proj:epsg"] = epsg
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": shapely.geometry.mapping(box),
        "bbox": list(box.bounds),
        "properties": told,
        "links": [],
        "assets": {"visual": {"href": f"https://example.org/{name}.tif", "type": "image/tiff; application=geotiff"}},
    }


def item(*arguments: object, **options: object) -> pystac.Item:
    return pystac.Item.from_dict(bare_item(*arguments, **options))  # type: ignore[arg-type]


# ---------------------------------------------------------------- files


def test_a_folder_becomes_items_that_say_where_when_and_what(make_scene: Make, tmp_path: Path) -> None:
    pixels = np.full((3, 20, 30), 90, np.uint8)
    make_scene(pixels, "S2_20240310.tif")
    make_scene(pixels, "other.tif")
    other, scene = sorted(local_items([tmp_path]), key=lambda one: one.id, reverse=True)
    assert (scene.id, other.id) == ("S2_20240310", "other")
    assert day_of(scene) == date(2024, 3, 10) and day_of(other) is None
    assert scene.properties["proj:code"] == "EPSG:32645" and scene.properties["proj:shape"] == [20, 30]
    assert [band["name"] for band in scene.assets["image"].extra_fields["bands"]] == ["red", "green", "blue"]
    west, south, east, north = scene.bbox
    assert 86.99 < west < east < 87.01 and 23.9 < south < north < 24.0


def test_files_of_one_name_in_two_folders_are_two_scenes(make_scene: Make, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make_scene(np.ones((3, 8, 8), np.uint8), f"{folder}/tile.tif")
    assert [one.id for one in local_items([tmp_path])] == ["tile_1", "tile_2"]


def test_a_replaced_file_is_noticed(make_scene: Make) -> None:
    path = make_scene(np.ones((3, 8, 8), np.uint8))
    (scene,) = local_items([path])
    assert changed_assets(scene) == []
    make_scene(np.full((3, 9, 8), 7, np.uint8))
    assert changed_assets(scene) == ["image"]
    path.unlink()
    with pytest.raises(SceneError, match="not there any more"):
        changed_assets(scene)


def test_items_survive_being_kept_and_an_old_search_leaves_nothing(tmp_path: Path) -> None:
    save_items([item("old", 87, 24)], tmp_path)
    save_items([item("b/strange name", 87, 24), item("a", 88, 24)], tmp_path)
    kept = load_items(tmp_path)
    assert [one.id for one in kept] == ["a", "b/strange name"]
    assert kept[0].properties["proj:code"] == "EPSG:32645"
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_items(reversed(kept), tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_folder_without_scenes(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="holds no scene"):
        load_items(tmp_path)
    with pytest.raises(SceneError, match="holds no raster"):
        local_items([tmp_path])
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(SceneError, match=r"bad\.json"):
        load_items(tmp_path)


def test_odd_files_become_items_or_are_refused_with_a_reason(data_dir: Path) -> None:
    """Rasters from everywhere: no CRS, another moon, all the earth, palettes, no bytes."""
    items, refused = [], {}
    for path in sorted((data_dir / "edge_rasters").glob("*.tif*")):
        try:
            items += local_items([path])
        except SceneError as error:
            refused[path.name] = str(error)
    assert len(items) >= 20 and len(refused) >= 5
    assert all(name in reason for name, reason in refused.items())
    assert all(zone_grids([one], None, 10.0) for one in items if one.id != "riotiler_cog_fullearth")


# ---------------------------------------------------------------- catalogues


def test_a_static_catalogue_and_an_item_collection_give_the_same_items(tmp_path: Path) -> None:
    described = [bare_item("a", 87, 24), bare_item("b", 88, 24)]
    for one in described:
        one["assets"]["visual"]["href"] = f"./{one['id']}.tif"
    collection = tmp_path / "items.json"
    collection.write_text(json.dumps({"type": "FeatureCollection", "features": described}), encoding="utf-8")
    catalogue = pystac.Catalog("c", "scenes of a test")
    for one in described:
        made = pystac.Item.from_dict({**one, "collection": None})
        made.assets["visual"].href = str(tmp_path / f"{made.id}.tif")
        catalogue.add_item(made)
    catalogue.normalize_and_save(str(tmp_path / "static"), pystac.CatalogType.SELF_CONTAINED)
    for place in (collection, tmp_path / "static" / "catalog.json"):
        found = read_catalogue(place)
        assert [(one.id, Path(one.assets["visual"].href).name) for one in found] == [("a", "a.tif"), ("b", "b.tif")]
        assert all(Path(one.assets["visual"].href).parent == tmp_path for one in found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html>", "web page"),
        ('{"type": "Topology"}', "no STAC catalogue"),
        ('{"type": "FeatureCollection", "features": []}', "holds no item"),
        ('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}', "no STAC item"),
    ],
)
def test_what_is_no_catalogue(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "catalogue.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SceneError, match=said):
        read_catalogue(file)


# ---------------------------------------------------------------- a STAC API


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A STAC API with 250 scenes: a place a column, ten days each."""
    items = [
        bare_item(
            f"S2_{place:02d}_{day:02d}",
            80 + place,
            24,
            size=0.9,
            datetime=f"2024-01-{day:02d}T05:00:00Z",
            **{"eo:cloud_cover": float((7 * day + place) % 100), "s2:mgrs_tile": f"45X{place:02d}"},
        )
        for place in range(25)
        for day in range(1, 11)
    ]
    file = tmp_path_factory.mktemp("api") / "items.json"
    file.write_text(json.dumps(items), encoding="utf-8")
    with serving("stac_server.py", file) as address:
        yield address


JANUARY = (date(2024, 1, 1), date(2024, 1, 31))
EVERYWHERE = shapely.box(79, 23, 110, 26)


def test_every_page_of_a_search_is_followed_and_the_order_is_always_the_same(api: str) -> None:
    found = search_items(api, "sentinel-2-l2a", EVERYWHERE)
    assert len(found) == 250
    assert [one.id for one in found] == sorted(one.id for one in found)


def test_a_search_keeps_to_area_days_and_cloud(api: str) -> None:
    two_places = shapely.MultiPolygon([shapely.box(80.1, 24.1, 80.2, 24.2), shapely.box(83.1, 24.1, 83.2, 24.2)])
    found = search_items(api, "sentinel-2-l2a", two_places, (date(2024, 1, 2), date(2024, 1, 5)), max_cloud=30)
    # the scenes between lie in the hull that the server was asked for, not in the area
    assert {one.id[:5] for one in found} == {"S2_00", "S2_03"}
    assert all(2 <= one.datetime.day <= 5 for one in found if one.datetime)
    assert all(one.properties["eo:cloud_cover"] <= 30 for one in found)
    with urlopen(f"{api}/log") as answer:
        asked = json.loads(answer.read())["searches"][-1]
    assert asked["query"] == {"eo:cloud_cover": {"lte": 30}}


def test_a_limit_keeps_the_clearest_scenes_of_each_place(api: str) -> None:
    found = search_items(api, "sentinel-2-l2a", EVERYWHERE, limit=2)
    assert len(found) == 50
    first = [one for one in search_items(api, "sentinel-2-l2a", EVERYWHERE) if one.id.startswith("S2_00")]
    clearest = sorted(first, key=lambda one: one.properties["eo:cloud_cover"])[:2]
    assert {one.id for one in found if one.id.startswith("S2_00")} == {one.id for one in clearest}


def test_a_busy_server_is_asked_again(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacsearch, "PAUSES_S", (0.01,) * 5)
    urlopen(f"{api}/busy?times=3").read()
    assert len(search_items(api, "sentinel-2-l2a", EVERYWHERE)) == 250


def test_a_search_without_a_find_says_what_would_help(api: str) -> None:
    with pytest.raises(SceneError, match=r"there are 10 with more cloud, the clearest with 7 %"):
        search_items(api, "sentinel-2-l2a", shapely.box(80.1, 24.1, 80.2, 24.2), JANUARY, max_cloud=3)
    with pytest.raises(SceneError, match="2020-01-01 to 2020-02-01; try other dates"):
        search_items(api, "sentinel-2-l2a", EVERYWHERE, (date(2020, 1, 1), date(2020, 2, 1)))
    with pytest.raises(SceneError, match="no collection 'sentinel-2-l1c': take one of sentinel-2-l2a"):
        search_items(api, "sentinel-2-l1c", EVERYWHERE)
    with pytest.raises(GeoslaveError, match="dates are reversed"):
        search_items(api, "sentinel-2-l2a", EVERYWHERE, (date(2024, 2, 1), date(2024, 1, 1)))


def test_an_address_that_is_no_api(api: str) -> None:
    with pytest.raises(SceneError, match="no STAC API"):
        search_items(f"{api}/web?token=secret", "sentinel-2-l2a", EVERYWHERE)
    with pytest.raises(SceneError, match="cannot be asked") as error:
        search_items("http://me:secret@127.0.0.1:1/", "sentinel-2-l2a", EVERYWHERE)
    assert "secret" not in str(error.value)


def test_cloud_and_days_are_asked_of_local_items_too() -> None:
    items = [item("a", 87, 24, **{"eo:cloud_cover": 80}), item("b", 87, 24, **{"eo:cloud_cover": 3}), item("c", 87, 24)]
    assert [one.id for one in choose_items(items, max_cloud=10)] == ["b", "c"]
    assert choose_items(items, dates=(date(2024, 1, 11), None)) == []
    assert len(choose_items(items, shapely.box(87.2, 24.2, 87.3, 24.3))) == 3


# ---------------------------------------------------------------- bands


@pytest.mark.parametrize(
    ("called", "common"), [("red", "red"), ("B04", "red"), ("B8A", "nir08"), ("B04_10m", "red"), ("SCL", None)]
)
def test_bands_are_known_by_what_products_call_them(called: str, common: str | None) -> None:
    assert common_name(called) == common


def with_assets(properties: dict, **assets: dict) -> pystac.Item:
    described = bare_item("s", 87, 24, **properties)
    described["assets"] = {
        key: {"href": f"https://example.org/{key}.tif", "type": "image/tiff; application=geotiff", **fields}
        for key, fields in assets.items()
    }
    return pystac.Item.from_dict(described)


def test_a_band_is_found_by_any_catalogues_custom() -> None:
    stac_1_0 = with_assets({}, a={"eo:bands": [{"name": "B04", "common_name": "red"}]})
    stac_1_1 = with_assets({}, b={"bands": [{"name": "B04", "eo:common_name": "red"}]})
    by_key = with_assets({}, B04_20m={"gsd": 20}, B04_10m={"gsd": 10}, SCL_20m={})
    keys = [band_assets(one, ("red",))[0].key for one in (stac_1_0, stac_1_1, by_key)]
    assert keys == ["a", "b", "B04_10m"]
    mask = mask_asset(by_key)
    assert mask is not None and mask.href.endswith("SCL_20m.tif")


def test_single_bands_go_before_a_picture_and_pictures_serve_too() -> None:
    colours = [{"name": name, "common_name": name} for name in ("red", "green", "blue")]
    picture = {"eo:bands": colours}
    every = with_assets({}, visual=picture, red={}, green={}, blue={})
    assert [one.key for one in band_assets(every, ("red", "green", "blue"))] == ["red", "green", "blue"]
    (only,) = band_assets(with_assets({}, visual=picture, B11={}), ("blue", "red"))
    assert only.numbers == {"blue": 3, "red": 1}
    with pytest.raises(SceneError, match=r"no asset for nir \(its assets: blue, green, red, visual\)"):
        band_assets(every, ("red", "nir"))


@pytest.mark.parametrize(
    ("properties", "raster", "expected"),
    [
        ({}, {}, None),
        ({}, {"scale": 1e-4, "offset": -0.1}, Calibration(1e-4, -0.1)),
        # Planetary Computer declares nothing but the baseline
        ({"s2:processing_baseline": "05.11"}, {}, Calibration(1e-4, -0.1)),
        ({"s2:processing_baseline": "03.01"}, {"scale": 1e-4}, Calibration(1e-4, 0)),
        # Earth Search declares an offset that it has applied already
        (
            {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.11"},
            {"scale": 1e-4, "offset": -0.1},
            Calibration(1e-4, 0),
        ),
        (
            {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.11"},
            {"scale": 1e-4, "offset": -0.1},
            Calibration(1e-4, -0.1),
        ),
        # a true-colour picture is no reflectance
        ({"s2:processing_baseline": "05.11"}, {"data_type": "uint8"}, None),
    ],
)
def test_what_sentinel_2_numbers_mean(properties: dict, raster: dict, expected: Calibration | None) -> None:
    red = {"eo:bands": [{"common_name": "red"}], "raster:bands": [raster]}
    (asset,) = band_assets(with_assets(properties, red=red, green={}), ("red",))
    assert asset.calibration == (expected,)


# ---------------------------------------------------------------- grids


@given(
    west=st.floats(86.0, 88.0),
    south=st.floats(23.0, 25.0),
    width=st.floats(0.01, 1.0),
    height=st.floats(0.01, 1.0),
    anchor=st.sampled_from([1, 100, 2048]),
)
def test_an_area_chooses_but_never_moves(west: float, south: float, width: float, height: float, anchor: int) -> None:
    scenes = [item("a", 85, 22, size=5)]
    (grid,) = zone_grids(scenes, shapely.box(west, south, west + width, south + height), 10, anchor_px=anchor).values()
    assert grid.affine.c % (10 * anchor) == 0 and grid.affine.f % (10 * anchor) == 0
    assert grid.affine.a == 10 and grid.affine.e == -10
    corner = shapely.Point(west, south)
    x, y = ~grid.affine * Transformer.from_crs(4326, 32645, always_xy=True).transform(corner.x, corner.y)
    assert 127 <= x < grid.shape[1] and 0 <= y <= grid.shape[0] - 127


def test_a_zone_border_parts_the_area_once_and_grids_overlap_by_their_margin() -> None:
    scenes = [item("w", 89, 24, size=1.2, epsg=32645), item("e", 89.8, 24, size=1.2, epsg=32646)]
    area = shapely.box(89.5, 24.2, 90.5, 24.4)
    parts = zone_parts(scenes, area, 10)
    assert sum(part.area for part in parts.values()) == pytest.approx(area.area)
    assert parts["EPSG:32645"].bounds == pytest.approx((89.5, 24.2, 90.0, 24.4))
    grids = zone_grids(scenes, area, 10, margin_px=64)
    assert sorted(grids) == ["EPSG:32645", "EPSG:32646"]
    bounds = [grids[code].footprint("EPSG:4326").boundingbox for code in sorted(grids)]
    # each sees a halo (640 m) beyond the border, and the tilt of its grid there
    assert 90.0 + 0.006 < bounds[0].right < 90.02 and 90.0 - 0.02 < bounds[1].left < 90.0 - 0.006


def test_ground_beyond_the_last_zone_with_scenes_belongs_to_it() -> None:
    parts = zone_parts([item("w", 89, 24, size=1.5)], shapely.box(89.5, 24.2, 90.4, 24.4), 10)
    assert list(parts) == ["EPSG:32645"] and parts["EPSG:32645"].bounds[2] == 90.4


def test_scenes_in_degrees_are_brought_to_utm() -> None:
    assert list(zone_grids([item("d", 89.8, 24, epsg=4326)], None, 10)) == ["EPSG:32645", "EPSG:32646"]
    assert list(zone_grids([item("m", 10, 60, epsg=3857)], None, 10)) == ["EPSG:32632"]


def test_a_shared_lattice_is_kept(make_scene: Make, tmp_path: Path) -> None:
    odd = Affine(10, 0, 500_003, 0, -10, 2_650_007)
    make_scene(np.ones((3, 20, 20), np.uint8), "a.tif", transform=odd)
    make_scene(np.ones((3, 20, 20), np.uint8), "b.tif", transform=odd @ Affine.translation(33, 5))
    grid = zone_grids(local_items([tmp_path]), None, 10)["EPSG:32645"]
    assert patient.aligned(GeoBox((20, 20), odd, "EPSG:32645"), grid) is not None
    make_scene(np.ones((3, 20, 20), np.uint8), "c.tif")
    grid = zone_grids(local_items([tmp_path]), None, 10)["EPSG:32645"]
    assert grid.affine.c % 10 == 0 and grid.affine.f % 10 == 0


def test_items_that_do_not_say_their_projection(tmp_path: Path) -> None:
    product = make_product(tmp_path, "p", reflectances((64, 64)))
    for key in ("proj:epsg", "proj:shape", "proj:transform"):
        del product["properties"][key]
    silent = pystac.Item.from_dict(product)
    with pytest.raises(SceneError, match="does not say its projection"):
        zone_grids([silent], None, 10)
    told = with_projection(silent)
    assert list(zone_grids([told], None, 10)) == ["EPSG:32645"] and "proj:code" not in silent.properties


def test_an_area_elsewhere_than_the_scenes() -> None:
    with pytest.raises(SceneError, match="do not meet"):
        zone_grids([item("a", 87, 24)], shapely.box(24, 87, 24.5, 87.5), 10)
    with pytest.raises(SceneError, match="no scene"):
        zone_grids([], None, 10)
