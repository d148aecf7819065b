"""Scenes of several zones, and scenes that are STAC items, end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from pyproj import Transformer

from geoslave.errors import GeoslaveError
from geoslave.region.blocks import measure_grid
from geoslave.region.layout import RegionFolder
from geoslave.region.merge import merge
from geoslave.region.run import Choice, known_records, prepare, run_region
from geoslave.region.setup import init_region
from tests.factories import dark_field
from tests.region.conftest import MakeRegion, change

pytest.importorskip("odc.stac")

Make = Callable[..., Path]
NORTH = 2_650_000


def around(zone: int, places: list[tuple[float, float]], make_scene: Make) -> Path:
    """A scene of a UTM zone about the meridian of 90 degrees east, with kilns at (longitude, latitude)."""
    project = Transformer.from_crs(4326, 32600 + zone, always_xy=True)
    x, y = project.transform(90, 23.95)
    place = Affine(10, 0, round(x, -2) - 1500, 0, -10, round(y, -2) + 1500)
    pixels = dark_field((300, 300), seed=zone)
    for lon, lat in places:
        col, row = ~place @ project.transform(lon, lat)
        pixels[:, round(row) - 3 : round(row) + 3, round(col) - 5 : round(col) + 5] = 250
    return make_scene(pixels, name=f"z{zone}_20200101.tif", crs=f"EPSG:{32600 + zone}", transform=place, nodata=0)


def find(region: RegionFolder) -> list[tuple[float, float]]:
    summary = run_region(region, Choice(workers=0))
    assert not summary.failures
    job = prepare(region)
    layer = merge(job, known_records(job)).detections.to_crs(4326)
    return sorted((round(p.x, 3), round(p.y, 3)) for p in layer.representative_point())


def test_a_site_on_the_border_of_two_zones_is_counted_once(
    make_scene: Make, bright_model: Path, tmp_path: Path
) -> None:
    places = [(89.99, 23.95), (90.0, 23.952), (90.0001, 23.945), (89.9996, 23.957), (90.008, 23.949)]
    scenes = [str(around(zone, places, make_scene)) for zone in (45, 46)]
    region = init_region(tmp_path / "border", None, None, str(bright_model), scenes)
    change(region, block=128, composite="latest")
    found = find(region)
    assert len(prepare(region).inputs) == 2
    assert len(found) == len(places)
    near = shapely.STRtree(shapely.points(found))
    for place in places:
        assert len(near.query(shapely.Point(place), predicate="dwithin", distance=0.001)) == 1


def test_items_of_files_give_what_the_files_give(make_region: MakeRegion, scenes: list[Path]) -> None:
    from geoslave.imagery.catalog import local_items, save_items

    files, items = make_region("files"), make_region("items")
    save_items(local_items([str(scene) for scene in scenes]), items.scenes)
    change(items, scenes=[])
    expected = find(files)
    assert len(expected) > 10 and find(items) == expected


def test_an_item_of_the_run_that_is_lost_is_told(make_region: MakeRegion, scenes: list[Path]) -> None:
    from geoslave.imagery.catalog import local_items, save_items

    region = make_region("items", composite="median")
    save_items(local_items([str(scene) for scene in scenes]), region.scenes)
    change(region, scenes=[])
    run = prepare(region).run
    next((run.path / "items").glob("right*.json")).unlink()  # as a power cut may
    with pytest.raises(GeoslaveError, match="lacks right_20200210, of this run: delete"):
        measure_grid({"run": str(run.path), "grid": "zone_EPSG_32645"})


def test_a_tile_under_a_vrt_of_a_composite_that_is_replaced_begins_a_new_run(
    make_region: MakeRegion, scenes: list[Path]
) -> None:
    mosaic = scenes[0].with_name("mosaic_20200105.vrt")
    rasterio.shutil.copy(scenes[0], mosaic, driver="VRT")
    region = make_region("mosaic", composite="latest", scenes=[str(mosaic)])
    first = prepare(region).run
    measure_grid({"run": str(first.path), "grid": "zone_EPSG_32645"})
    record = known_records(prepare(region))["zone_EPSG_32645"]
    assert set(record.stamps) == {str(mosaic), str(scenes[0])}
    scenes[0].write_bytes(scenes[0].read_bytes() + b" ")
    assert prepare(region).run != first


def test_bands_in_files_of_their_own_are_one_scene(make_region: MakeRegion, scenes: list[Path], tmp_path: Path) -> None:
    import pystac

    from geoslave.imagery.catalog import local_items, save_items

    files, items = make_region("files"), make_region("items")
    made = []
    for item in local_items([str(scene) for scene in scenes]):
        with rasterio.open(next(iter(item.assets.values())).href) as scene:
            profile = {**scene.profile, "count": 1, "photometric": "MINISBLACK", "interleave": "band"}
            item.assets = {}
            for number, name in enumerate(("red", "green", "blue"), start=1):
                path = tmp_path / f"{item.id}_{name}.tif"
                with rasterio.open(path, "w", **profile) as file:
                    file.write(scene.read(number), 1)
                bands = [{"name": name, "eo:common_name": name, "common_name": name, "data_type": "uint8", "nodata": 0}]
                item.assets[name] = pystac.Asset(
                    str(path), media_type=pystac.MediaType.COG, roles=["data"],
                    extra_fields={"eo:bands": bands, "raster:bands": bands},
                )  # fmt: skip
        item.properties.pop("geoslave:file", None)
        made.append(item)
    save_items(made, items.scenes)
    change(items, scenes=[])
    expected, found = find(files), find(items)
    # where a pixel is missing is told by each band's file for itself, so edges of gaps may differ
    assert len(expected) > 10 and len(set(found) ^ set(expected)) <= 2
    assert np.abs(len(found) - len(expected)) <= 1
