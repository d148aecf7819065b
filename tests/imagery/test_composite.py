"""Many scenes read as one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from geoslave.errors import EmptyScene, SceneError
from geoslave.imagery import composite as composite_module
from geoslave.imagery import geotiff, patient
from geoslave.imagery.catalog import local_items, save_items, search_items, zone_grids
from geoslave.imagery.composite import Composite, median_of_valid, open_composite
from geoslave.imagery.geotiff import Reading, open_scene
from geoslave.imagery.raster import Raster
from geoslave.imagery.scaling import Scaling
from tests.imagery.test_catalog import serving
from tests.scenes import make_product, reflectances, write_cog

RGB = Reading(bands=("red", "green", "blue"))
SIDE = 96
GRID = GeoBox((SIDE, SIDE), Affine(10, 0, 500_000, 0, -10, 2_650_000), "EPSG:32645")
EVERYTHING = Window(0, 0, SIDE, SIDE)
HALF_CLOUDY = np.where(np.arange(SIDE // 2)[:, None] < SIDE // 4, 9, 4) * np.ones((SIDE // 2, SIDE // 2), int)
"""Cloud over the upper half."""


def product(folder: Path, name: str, value: int, **options: Any) -> pystac.Item:
    """A scene of one stored number."""
    pixels = np.full((3, SIDE, SIDE), value, np.uint16)
    return pystac.Item.from_dict(make_product(folder, name, pixels, **options))


def read(
    items: list[pystac.Item], method: Any, window: Window = EVERYTHING, grid: GeoBox = GRID, **options: Any
) -> Raster:
    with open_composite(items, grid, RGB, method, **options) as source:
        return source.read(window)


# ---------------------------------------------------------------- which pixel


def test_the_newest_and_the_clearest_pixel(tmp_path: Path) -> None:
    items = [
        product(tmp_path, "old", 1000, taken="2024-01-01T04:30:00Z", cloud=1),
        product(tmp_path, "new", 2000, taken="2024-02-01T04:30:00Z", cloud=50, classes=HALF_CLOUDY),
    ]
    latest = read(items, "latest")
    assert (latest.pixels[:, SIDE // 2 :] == 2000).all()
    assert (latest.pixels[:, : SIDE // 2] == 1000).all()  # under the new one's cloud
    assert latest.valid.all()
    assert (read(items, "least_cloudy").pixels == 1000).all()


def test_cloud_without_another_scene_is_not_seen(tmp_path: Path) -> None:
    cloudy = [product(tmp_path, "s", 1000, classes=HALF_CLOUDY)]
    raster = read(cloudy, "single")
    assert not raster.valid[: SIDE // 2].any() and raster.valid[SIDE // 2 :].all()
    assert (raster.pixels[:, : SIDE // 2] == 0).all()
    assert read(cloudy, "single", unseen=frozenset({0})).valid.all()


def test_a_median_leaves_clouds_out_and_counts_a_day_once(tmp_path: Path) -> None:
    items = [product(tmp_path, f"d{n}", 1000 + 100 * n, taken=f"2024-01-0{n}T04:30:00Z") for n in (1, 2, 3)]
    bright = product(tmp_path, "cloud", 9000, taken="2024-01-04T04:30:00Z", classes=HALF_CLOUDY)
    # the neighbouring tile of the third day shows the same ground once more
    twin = product(tmp_path, "d3b", 1300, taken="2024-01-03T04:30:14Z")
    raster = read([*items, bright, twin], "median")
    assert (raster.pixels[:, : SIDE // 2] == 1200).all()
    assert (raster.pixels[:, SIDE // 2 :] == 1250).all()  # an even number: the mean of the middle two


def test_composites_do_not_depend_on_the_order_or_the_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    items = [
        pystac.Item.from_dict(
            make_product(
                tmp_path, f"p{n}", reflectances((SIDE, SIDE), n), classes=rng.choice([4, 9], (SIDE // 2, SIDE // 2)),
                taken=f"2024-01-{1 + n // 2:02d}T04:30:00Z", cloud=float(n % 2), origin=(500_000 + 160 * n, 2_650_000),
            )
        )
        for n in range(5)
    ]  # fmt: skip
    for method in ("single", "latest", "least_cloudy", "median"):
        whole = read(items, method)
        backward = read(items[::-1], method)
        assert np.array_equal(whole.pixels, backward.pixels) and np.array_equal(whole.valid, backward.valid)
        monkeypatch.setattr(composite_module, "MEDIAN_SIDE", 32)
        monkeypatch.setattr(composite_module, "MEDIAN_SQUARES", 2)
        part = read(items, method, Window(20, 30, 40, 50))
        assert np.array_equal(part.pixels, whole.pixels[:, 30:80, 20:60])
        assert np.array_equal(part.valid, whole.valid[30:80, 20:60])


@given(hnp.arrays(np.float32, (6, 2, 3, 2), elements=st.floats(0, 1e4, width=32)), st.integers(0, 2**36 - 1))
def test_the_median_is_numpys_over_what_was_seen(values: np.ndarray, gaps: int) -> None:
    hidden = np.array([gaps >> n & 1 for n in range(36)], bool).reshape(6, 1, 3, 2)
    stack = np.where(hidden, np.nan, values).astype(np.float32)
    valid, median = median_of_valid(stack)
    assert np.array_equal(valid, ~hidden.all(axis=(0, 1)))
    expected = np.nanmedian(stack[..., valid], axis=0)
    assert np.allclose(median[:, valid], expected, rtol=1e-6)
    assert not median[:, ~valid].any()


# ---------------------------------------------------------------- what the numbers mean


def test_old_and_new_processing_baselines_mean_the_same(tmp_path: Path) -> None:
    new = product(tmp_path, "new", 2500, properties={"s2:processing_baseline": "05.10"}, classes=HALF_CLOUDY)
    old = product(
        tmp_path,
        "old",
        1500,
        properties={"s2:processing_baseline": "03.01"},
        raster={"scale": 1e-4},
        taken="2021-01-01T04:30:00Z",
    )
    taken_off = product(
        tmp_path,
        "off",
        1500,
        properties={"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True},
        raster={"scale": 1e-4, "offset": -0.1},
        taken="2023-01-01T04:30:00Z",
    )
    for older in (old, taken_off):
        raster = read([older, new], "latest")
        assert raster.pixels.dtype == np.uint16 and (raster.pixels == 2500).all()
    scaled = []
    for scenes in ([new, old], [old]):
        with open_composite(scenes, GRID, RGB, "median") as source:
            factor, summand = source.scaling(Scaling())
            scaled.append(float(source.read(EVERYTHING).pixels[0, 0, 0] * factor[0] + summand[0]))
    assert scaled[0] == pytest.approx(scaled[1], abs=1e-4)


def test_one_scaling_for_a_source_whatever_the_grid(tmp_path: Path) -> None:
    items = [
        pystac.Item.from_dict(make_product(tmp_path, f"p{n}", reflectances((SIDE, SIDE), n) + 300 * n))
        for n in range(3)
    ]
    corner = GRID[:16, :16]
    with open_composite(items, GRID, RGB, "latest") as whole, open_composite(items, corner, RGB, "latest") as part:
        for one, other in zip(whole.scaling(Scaling()), part.scaling(Scaling()), strict=True):
            assert np.array_equal(one, other)


def test_a_single_file_is_scaled_as_it_always_was(make_scene: Any) -> None:
    rng = np.random.default_rng(0)
    path = make_scene(rng.integers(20, 250, (3, 80, 90)).astype(np.uint8))
    items = local_items([path])
    with open_scene(path, RGB) as scene, open_composite(items, scene.geobox, RGB) as source:
        for one, other in zip(scene.scaling(Scaling()), source.scaling(Scaling()), strict=True):
            assert np.array_equal(one, other)
        window = Window(-5, 7, 60, 90)
        ours, theirs = source.read(window), scene.read(window)
        assert np.array_equal(ours.pixels, theirs.pixels) and np.array_equal(ours.valid, theirs.valid)
        assert source.scene_id == scene.scene_id


def test_clouds_everywhere_have_no_statistics(tmp_path: Path) -> None:
    closed = product(tmp_path, "closed", 5000, classes=np.full((SIDE // 2, SIDE // 2), 9))
    with open_composite([closed], GRID, RGB) as source:
        assert not source.read(EVERYTHING).valid.any()
        with pytest.raises(EmptyScene, match="search other dates"):
            source.scaling(Scaling())


def test_pictures_and_reflectance_do_not_mix(tmp_path: Path, make_scene: Any) -> None:
    make_scene(np.full((3, SIDE, SIDE), 90, np.uint8), "a.tif")
    beside = GRID.affine @ Affine.translation(50, 0)
    make_scene(np.full((3, SIDE, SIDE), 900, np.uint16), "b.tif", photometric="RGB", transform=beside)
    wide = GeoBox((SIDE, 2 * SIDE), GRID.affine, GRID.crs)
    with (
        open_composite(local_items([tmp_path]), wide, RGB) as source,
        pytest.raises(SceneError, match="leave one kind out"),
    ):
        source.read(Window(0, 0, 150, 50))


# ---------------------------------------------------------------- on which grid


def test_pixels_on_the_grid_are_the_files_own(tmp_path: Path) -> None:
    pixels = reflectances((SIDE, SIDE))
    scene = pystac.Item.from_dict(make_product(tmp_path, "p", pixels))
    shifted = GeoBox((120, 130), GRID.affine @ Affine.translation(-12, -20), GRID.crs)
    raster = read([scene], "single", Window(0, 0, 130, 120), shifted)
    assert np.array_equal(raster.pixels[:, 20 : 20 + SIDE, 12 : 12 + SIDE], pixels)
    assert raster.valid.sum() == SIDE * SIDE


def test_finer_files_are_averaged_and_coarser_ones_interpolated(tmp_path: Path) -> None:
    ramp = np.broadcast_to(1000 + 10 * np.arange(SIDE), (3, SIDE, SIDE)).astype(np.uint16)
    fine = pystac.Item.from_dict(make_product(tmp_path, "fine", ramp, gsd=5.0))
    half = read([fine], "single").pixels[0, 10, :40]
    assert np.array_equal(half, 1005 + 20 * np.arange(40))
    coarse = pystac.Item.from_dict(make_product(tmp_path, "coarse", ramp, gsd=20.0))
    double = read([coarse], "single").pixels[0, 10, 4:80].astype(float)
    assert np.abs(double - (1000 + 5 * np.arange(4, 80) - 2.5)).max() <= 1
    with pytest.raises(SceneError, match="too coarse"):
        read([pystac.Item.from_dict(make_product(tmp_path, "30m", ramp, gsd=30.0))], "single")


def test_a_neighbouring_zone_fills_what_the_own_does_not_show(tmp_path: Path) -> None:
    # 90 degrees east: the border of the zones 45 and 46, at 24 degrees north
    own = product(tmp_path, "own", 1000, origin=(804_000, 2_658_000), epsg=32645, taken="2023-01-01T04:30:00Z")
    other = product(tmp_path, "other", 2000, origin=(194_000, 2_658_500), epsg=32646)
    grid = GeoBox((2 * SIDE, 2 * SIDE), Affine(10, 0, 803_500, 0, -10, 2_658_500), "EPSG:32645")
    raster = read([own, other], "latest", Window(0, 0, 2 * SIDE, 2 * SIDE), grid)
    assert set(np.unique(raster.pixels[0, raster.valid])) <= {1000, 2000}
    assert (raster.pixels[0, 50 : 50 + SIDE, 50 : 50 + SIDE] == 1000).all()  # its own pixels first, though older
    alone = read([other], "latest", Window(0, 0, 2 * SIDE, 2 * SIDE), grid)
    assert alone.valid.any() and np.array_equal(raster.valid, alone.valid | (raster.pixels[0] == 1000))


def test_nodata_takes_no_part_in_resampling(tmp_path: Path) -> None:
    pixels = np.full((3, SIDE, SIDE), 1000, np.uint16)
    pixels[:, :, :31] = 0
    fine = pystac.Item.from_dict(make_product(tmp_path, "fine", pixels, gsd=5.0))
    raster = read([fine], "single")
    assert set(np.unique(raster.pixels[:, raster.valid])) == {1000}
    assert not raster.valid[:, :15].any() and raster.valid[: SIDE // 2, 16 : SIDE // 2].all()


# ---------------------------------------------------------------- over a network


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses in tests."""
    monkeypatch.setattr(patient, "PAUSES_S", (0.01,) * 6)
    monkeypatch.setitem(geotiff.GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", 0.05)
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_LIMIT", "1000")


def remote(described: dict[str, Any], address: str) -> pystac.Item:
    return pystac.Item.from_dict(json.loads(json.dumps(described).replace("BASE", address)))


def tiles(grid: GeoBox, side: int = 256) -> Iterator[Window]:
    for y in range(0, grid.shape[0], side):
        for x in range(0, grid.shape[1], side):
            yield Window(x, y, side, side)


def test_a_search_costs_hardly_more_than_the_blocks_needed(tmp_path: Path) -> None:
    """From the API to the pixels: what crosses the network stays below 1.2 times the blocks of the area."""
    side = 1536
    with serving("range_server.py", tmp_path) as files:
        described = [
            make_product(
                tmp_path, f"s{n}", reflectances((side, side), n), base=files, taken=f"2024-01-0{n + 1}T04:30:00Z"
            )
            for n in range(2)
        ]
        (tmp_path / "items.json").write_text(json.dumps(described), encoding="utf-8")
        x, y = 500_000 + 2560, 2_650_000 - 2560
        inside = shapely.box(x + 1400, y - 7600, x + 7600, y - 1400)
        area = shapely.transform(inside, lambda xy: np.column_stack(_lonlat(xy)))
        with serving("stac_server.py", tmp_path / "items.json") as api:
            items = search_items(api, "sentinel-2-l2a", area)
        (grid,) = zone_grids(items, area, 10, margin_px=0).values()
        with open_composite(items, grid, RGB, "median") as source:
            rasters = [source.read(window) for window in tiles(grid)]
        sent = int(urlopen(f"{files}/_sent").read())
    assert len(items) == 2 and all(raster.valid.any() for raster in rasters)
    needed = sum(_blocks(tmp_path / f"s{n}" / f"{band}.tif", grid) for n in range(2) for band in ("B02", "B03", "B04"))
    assert needed < sent < 1.2 * needed


def _lonlat(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from pyproj import Transformer

    return Transformer.from_crs(32645, "OGC:CRS84", always_xy=True).transform(xy[:, 0], xy[:, 1])


def _blocks(path: Path, grid: GeoBox) -> int:
    """Bytes of the blocks that a grid meets."""
    with rasterio.open(path) as file:
        col, row = ~file.transform @ (grid.affine.c, grid.affine.f)
        rows = range(int(row) // 256, -(-int(row + grid.shape[0]) // 256))
        cols = range(int(col) // 256, -(-int(col + grid.shape[1]) // 256))
        return sum(file.block_size(1, i, j) for i in rows for j in cols)


def test_a_network_that_fails_gives_the_same_pixels(tmp_path: Path, hasty: None) -> None:
    """Stalls, cuts, 429, 503 and garbage in a quarter of all answers."""
    side = 1280
    pixels = reflectances((side, side))
    described = make_product(tmp_path, "s", pixels, classes=np.full((side // 2, side // 2), 4), base="BASE")
    with serving("faulty_server.py", tmp_path, 6, 0.25) as address:
        scene = remote(described, address)
        (grid,) = zone_grids([scene], None, 10, margin_px=0).values()
        with open_composite([scene], grid, RGB) as source:
            found = np.zeros((3, *grid.shape), np.uint16)
            for window in tiles(grid):
                part = source.read(window).pixels
                rows, cols = slice(window.row_off, window.row_off + 256), slice(window.col_off, window.col_off + 256)
                found[:, rows, cols] = part[:, : found[:, rows, cols].shape[1], : found[:, rows, cols].shape[2]]
        faults = json.loads(urlopen(f"{address}/_faults").read())
    top, left = patient.aligned(GRID[:1, :1], grid) or (0, 0)
    assert np.array_equal(found[:, top : top + side, left : left + side], pixels)
    assert sum(faults.values()) >= 5 and len(faults) >= 3


def test_a_server_that_only_sends_garbage_is_given_up(tmp_path: Path, hasty: None) -> None:
    described = make_product(tmp_path, "s", reflectances((64, 64)), base="BASE")
    with serving("faulty_server.py", tmp_path, 1, 1.0, "garbage") as address:
        scene = remote(described, address.replace("://", "://me:secret@"))
        with pytest.raises(SceneError, match=r"B04\.tif cannot be opened .* \(given up after 7 tries\)") as error:
            open_composite([scene], GRID, RGB)
    assert "secret" not in str(error.value)


def test_a_file_that_is_absent_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient, "PAUSES_S", (600,))
    described = make_product(tmp_path, "s", reflectances((64, 64)), base="BASE")
    (tmp_path / "s" / "B03.tif").unlink()
    with serving("range_server.py", tmp_path) as address, pytest.raises(SceneError, match=r"B03\.tif cannot be opened"):
        open_composite([remote(described, address)], GRID, RGB)


def test_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_S3_ENDPOINT": f"{host}:{port}",
            "AWS_HTTPS": "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }
        for key, value in settings.items():
            monkeypatch.setenv(key, value)
        store = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        store.create_bucket(Bucket="scenes")
        pixels = reflectances((SIDE, SIDE))
        described = make_product(tmp_path, "p", pixels, base="s3://scenes")
        for file in (tmp_path / "p").iterdir():
            store.upload_file(str(file), "scenes", f"p/{file.name}")
        raster = read([pystac.Item.from_dict(described)], "single")
        assert np.array_equal(raster.pixels, pixels)
        described["assets"]["red"]["href"] = "s3://scenes/p/absent.tif"
        with pytest.raises(SceneError, match=r"s3://scenes/p/absent\.tif cannot be opened"):
            read([pystac.Item.from_dict(described)], "single")
    finally:
        server.stop()


# ---------------------------------------------------------------- from disk and back


def test_no_more_files_are_open_than_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composite_module, "MOST_OPEN", 2)
    items = [product(tmp_path, f"p{n}", 1000 + n, origin=(500_000 + 960 * n, 2_650_000)) for n in range(5)]
    grid = GeoBox((SIDE, 5 * SIDE), GRID.affine, GRID.crs)
    with open_composite(items, grid, RGB) as source:
        raster = source.read(Window(0, 0, 5 * SIDE, SIDE))
        assert _open_items(source) == 2
        again = source.read(Window(0, 0, 5 * SIDE, SIDE))
    assert np.array_equal(np.unique(raster.pixels), [1000, 1001, 1002, 1003, 1004])
    assert np.array_equal(raster.pixels, again.pixels)


def _open_items(source: Composite) -> int:
    return sum(any(file.scene._scene is not None for file in member._files) for member in source._members)


def test_what_a_composite_is_called_and_when_it_was(tmp_path: Path) -> None:
    items = [product(tmp_path, f"p{n}", 1000, taken=f"2024-0{n}-01T04:30:00Z") for n in (1, 2)]
    with open_composite(items[:1], GRID, RGB) as one, open_composite(items, GRID, RGB, "median") as both:
        assert (one.scene_id, one.date) == ("p1", date(2024, 1, 1))
        assert both.scene_id.startswith("median_2_") and both.date == date(2024, 2, 1)
    with open_composite(items[::-1], GRID, RGB, "median") as turned:
        assert turned.scene_id == both.scene_id


def test_what_makes_no_composite(tmp_path: Path) -> None:
    scene = product(tmp_path, "p", 1000)
    with pytest.raises(SceneError, match="no scene to read"):
        open_composite([], GRID, RGB)
    with pytest.raises(SceneError, match="take one of single, latest, least_cloudy, median"):
        open_composite([scene], GRID, RGB, "mean")  # type: ignore[arg-type]
    with pytest.raises(SceneError, match="no asset for swir16"):
        open_composite([scene], GRID, Reading(bands=("red", "swir16")))


def test_a_file_of_several_bands_with_a_mask(tmp_path: Path) -> None:
    pixels = np.concatenate([reflectances((SIDE, SIDE)), np.full((1, SIDE, SIDE), 4000, np.uint16)])
    path = write_cog(tmp_path / "four_20240101.tif", pixels, GRID.affine)
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        for number, name in enumerate(("red", "green", "blue", "nir"), start=1):
            file.set_band_description(number, name)
    save_items(local_items([path]), tmp_path / "scenes")
    from geoslave.imagery.catalog import load_items

    with open_composite(load_items(tmp_path / "scenes"), GRID, Reading(bands=("nir", "red"))) as source:
        raster = source.read(EVERYTHING)
        assert source.bands == ("nir", "red") and source.date == date(2024, 1, 1)
    assert np.array_equal(raster.pixels, pixels[[3, 0]])


def test_the_median_is_that_of_odc_stac(tmp_path: Path) -> None:
    """Another implementation: odc-stac loads the same items with xarray, grouped by solar day."""
    from odc.stac import load

    items = [
        pystac.Item.from_dict(
            make_product(tmp_path, f"p{n}", reflectances((SIDE, SIDE), n), taken=f"2024-01-0{n + 1}T04:30:00Z",
                         origin=(500_000 + 160 * n, 2_650_000 - 80 * n))
        )
        for n in range(4)
    ]  # fmt: skip
    theirs = load(items, bands=["red", "green", "blue"], geobox=GRID, groupby="solar_day", dtype="float32", nodata=0)
    median = theirs.where(theirs != 0).median("time").to_dataarray().to_numpy()
    ours = read(items, "median")
    assert np.array_equal(ours.valid, np.isfinite(median[0]))
    assert np.array_equal(ours.pixels[:, ours.valid], median[:, ours.valid])
