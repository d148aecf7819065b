"""Scenes by window: one validity mask, bands by name, the right grid, one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.windows import Window

from geoslave.errors import SceneError
from geoslave.imagery.geotiff import Reading, ground_sampling_distance, open_scene
from tests.factories import dark_field

Make = Callable[..., Path]
RGB = Reading(bands=("red", "green", "blue"), gsd_m=10.0)


def everything(path: Path, reading: Reading | None = None):
    with open_scene(path, reading) as scene:
        rows, cols = scene.geobox.shape
        return scene.read(Window(0, 0, cols, rows))


def test_a_nodata_value_in_every_band_is_invalid(make_scene: Make) -> None:
    pixels = dark_field((20, 30))
    pixels[:, :5] = 0
    raster = everything(make_scene(pixels, nodata=0))
    assert not raster.valid[:5].any() and raster.valid[5:].all()


def test_zero_in_one_band_is_a_dark_pixel_not_nodata(make_scene: Make) -> None:
    pixels = dark_field((20, 30))
    pixels[0, 7, 7] = 0
    assert everything(make_scene(pixels, nodata=0)).valid.all()


def test_minus_9999_in_one_band_is_invalid(make_scene: Make) -> None:
    pixels = dark_field((20, 30)).astype(np.int16)
    pixels[1, 3, 4] = -9999
    raster = everything(make_scene(pixels, nodata=-9999))
    assert not raster.valid[3, 4] and raster.valid.sum() == 599


def test_nan_is_invalid_declared_or_not(make_scene: Make) -> None:
    pixels = dark_field((20, 30)).astype(np.float32) / 200
    pixels[2, 0, 0] = np.nan
    pixels[2, 1, 1] = np.inf
    for declared in (None, np.nan):
        raster = everything(make_scene(pixels, name=f"{declared}.tif", nodata=declared))
        assert not raster.valid[0, 0] and not raster.valid[1, 1] and raster.valid.sum() == 598


def test_alpha_is_a_mask_and_no_band(make_scene: Make) -> None:
    pixels = np.concatenate([dark_field((20, 30)), np.full((1, 20, 30), 255, np.uint8)])
    pixels[3, :, :10] = 0
    raster = everything(make_scene(pixels, photometric="RGB", alpha="YES"))
    assert raster.pixels.shape[0] == 3
    assert not raster.valid[:, :10].any() and raster.valid[:, 10:].all()


@pytest.mark.parametrize("inside", [True, False])
def test_internal_and_side_car_masks(make_scene: Make, inside: bool) -> None:
    mask = np.ones((20, 30), bool)
    mask[4:8, 4:8] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
        path = make_scene(dark_field((20, 30)), mask=mask)
    assert path.with_name("scene.tif.msk").exists() is not inside
    assert (everything(path).valid == mask).all()


def test_an_undeclared_fill_is_found_and_said(make_scene: Make) -> None:
    pixels = dark_field((100, 100))
    pixels[:, :, :30] = 255
    path = make_scene(pixels)
    with open_scene(path) as scene:
        assert scene.validity.note is not None and "255" in scene.validity.note
        assert not scene.read(Window(0, 0, 30, 100)).valid.any()
    with open_scene(path, Reading(trust_all=True)) as scene:
        assert scene.read(Window(0, 0, 30, 100)).valid.all()


def test_the_real_scene_with_an_undeclared_fill(data_dir: Path) -> None:
    with open_scene(data_dir / "scenes" / "s2b_l1c_20181013_8band.tif") as scene:
        valid = scene.overview(512).valid
        assert scene.date is not None and scene.date.isoformat() == "2018-10-13"
    assert 0.2 < valid.mean() < 0.99


def test_saturated_clouds_inside_are_no_fill(make_scene: Make) -> None:
    pixels = dark_field((100, 100))
    pixels[:, 30:60, 30:60] = 255
    assert everything(make_scene(pixels)).valid.all()


def test_windows_over_the_edge_are_filled_as_invalid(make_scene: Make) -> None:
    path = make_scene(dark_field((20, 30)))
    with open_scene(path) as scene:
        whole = scene.read(Window(0, 0, 30, 20))
        over = scene.read(Window(-4, -3, 40, 30))
        away = scene.read(Window(100, 100, 8, 8))
    assert (over.pixels[:, 3:23, 4:34] == whole.pixels).all()
    assert over.valid.sum() == 600 and not away.valid.any()
    assert over.geobox.affine @ (4, 3) == whole.geobox.affine @ (0, 0)


@pytest.mark.parametrize("names", [("B04", "B03", "B02"), ("Red", "Green", "Blue"), ("B4 - red", "B3", "blue_band")])
def test_bands_by_description(make_scene: Make, names: tuple[str, ...]) -> None:
    pixels = np.stack([np.full((8, 8), v, np.uint16) for v in (100, 200, 300, 400)])
    path = make_scene(pixels, descriptions=("B08", *names))
    raster = everything(path, Reading(bands=("blue", "green", "red")))
    assert raster.pixels[:, 0, 0].tolist() == [400, 300, 200]


def test_bands_that_cannot_be_told(make_scene: Make) -> None:
    path = make_scene(np.ones((4, 8, 8), np.uint16))
    with pytest.raises(SceneError, match="--bands red=1,green=2,blue=3"):
        open_scene(path, RGB)
    with open_scene(path, Reading(bands=RGB.bands, numbers={"red": 3, "green": 2, "blue": 1})) as scene:
        assert scene.bands == ("red", "green", "blue")
    with pytest.raises(SceneError, match="no band 9"):
        open_scene(path, Reading(bands=RGB.bands, numbers={"red": 9, "green": 2, "blue": 1}))
    with pytest.raises(SceneError, match="too few bands"):
        open_scene(make_scene(np.ones((1, 8, 8), np.uint16), name="one.tif"), RGB)


def test_a_finer_scene_is_averaged_to_the_models_gsd(make_scene: Make) -> None:
    pixels = dark_field((200, 400))
    path = make_scene(pixels, transform=Affine(2.5, 0, 500_000, 0, -2.5, 2_650_000))
    raster = everything(path, RGB)
    assert tuple(raster.geobox.shape) == (50, 100)
    expected = pixels[0].reshape(50, 4, 100, 4).mean(axis=(1, 3))
    assert np.abs(raster.pixels[0] - expected).max() <= 1
    assert ground_sampling_distance(raster.geobox) == pytest.approx((10, 10), rel=2e-3)


def test_resampling_does_not_depend_on_the_window(make_scene: Make) -> None:
    path = make_scene(dark_field((310, 421)), transform=Affine(3, 0, 500_000, 0, -3, 2_650_000))
    with open_scene(path, RGB) as scene:
        rows, cols = scene.geobox.shape
        whole = scene.read(Window(0, 0, cols, rows)).pixels
        for x, y in ((0, 0), (17, 33), (64, 48)):
            part = scene.read(Window(x, y, 40, 40)).pixels
            # GDAL rounds averages that lie between two numbers either way
            assert np.abs(part.astype(int) - whole[:, y : y + 40, x : x + 40]).max() <= 1


def test_a_scene_up_to_twice_as_coarse_is_read_finer_and_a_coarser_one_refused(make_scene: Make) -> None:
    path = make_scene(dark_field((40, 40)), transform=Affine(18, 0, 500_000, 0, -18, 2_650_000))
    assert tuple(everything(path, RGB).geobox.shape) == (72, 72)
    coarse = make_scene(dark_field((40, 40)), name="c.tif", transform=Affine(30, 0, 500_000, 0, -30, 2_650_000))
    with pytest.raises(SceneError, match=r"30\.0 m, too coarse .* 10 m"):
        open_scene(coarse, RGB)


def test_sampling_distance_is_that_on_the_ground(make_scene: Make) -> None:
    """Mercator metres are no metres: at 60 degrees a pixel of 20 is 10 on the ground."""
    mercator = make_scene(dark_field((64, 64)), crs="EPSG:3857", transform=Affine(20, 0, 0, 0, -20, 8_399_738))
    with open_scene(mercator) as scene:
        assert ground_sampling_distance(scene.geobox) == pytest.approx((10, 10), rel=0.01)
    degrees = make_scene(
        dark_field((64, 64)), name="deg.tif", crs="EPSG:4326", transform=Affine(1e-4, 0, 89, 0, -1e-4, 60)
    )
    with open_scene(degrees) as scene:
        assert ground_sampling_distance(scene.geobox) == pytest.approx((11.14, 5.58), rel=0.01)


def test_ground_control_points_become_a_grid(make_scene: Make) -> None:
    points = [GroundControlPoint(row=r, col=c, x=89 + c * 1e-4, y=24 - r * 1e-4) for r in (0, 100) for c in (0, 100)]
    path = make_scene(dark_field((100, 100)), crs=None, transform=Affine.identity())
    with rasterio.open(path, "r+") as file:
        file.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    with open_scene(path, RGB) as scene:
        x, y = scene.geobox.affine @ (50, 50)
        assert (x, y) == pytest.approx((89.005, 23.995), abs=1e-3)
        assert scene.read(Window(20, 20, 30, 30)).valid.all()


def test_a_rotated_scene_keeps_its_rotation(make_scene: Make) -> None:
    rotated = Affine.translation(500_000, 2_650_000) @ Affine.rotation(30) @ Affine.scale(10, -10)
    with open_scene(make_scene(dark_field((64, 64)), transform=rotated), RGB) as scene:
        assert scene.geobox.affine.almost_equals(rotated)
        assert ground_sampling_distance(scene.geobox) == pytest.approx((10, 10), rel=0.01)


def test_statistics_are_the_scenes_not_the_windows(make_scene: Make) -> None:
    from geoslave.imagery.scaling import Scaling

    pixels = dark_field((300, 300))
    pixels[:, :, 150:] += 120
    path = make_scene(pixels)
    with open_scene(path) as scene:
        factor, summand = scene.scaling(Scaling())
    low, high = np.percentile(pixels[0], (2, 98))
    assert factor[0] * low + summand[0] == pytest.approx(-1, abs=0.02)
    assert factor[0] * high + summand[0] == pytest.approx(1, abs=0.02)


def test_all_nodata_has_one_clear_line(data_dir: Path) -> None:
    from geoslave.imagery.scaling import Scaling

    path = data_dir / "edge_rasters" / "all_nodata_4b_u16.tif"
    with open_scene(path, RGB) as scene, pytest.raises(SceneError, match="every pixel is nodata"):
        scene.scaling(Scaling())


def test_no_crs_is_refused_with_the_way_out(make_scene: Make) -> None:
    path = make_scene(dark_field((20, 20)), crs=None)
    with pytest.raises(SceneError, match="--crs EPSG"):
        open_scene(path)
    with open_scene(path, Reading(crs="EPSG:32645")) as scene:
        assert scene.geobox.crs.to_epsg() == 32645


def test_what_is_no_raster(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("not a raster")
    (tmp_path / "zero.tif").touch()
    for name, words in (
        ("absent.tif", "does not exist"),
        ("text.tif", "cannot be opened as a raster"),
        ("zero.tif", "is empty"),
        (".", "is a folder"),
    ):
        with pytest.raises(SceneError, match=words) as caught:
            open_scene(tmp_path / name)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_file_is_called_damaged(make_scene: Make) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (3, 300, 300)).astype(np.uint8)
    path = make_scene(pixels, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    whole = path.read_bytes()
    # directory first, as in a COG; then the end is missing

    cog = path.with_name("cog.tif")
    rasterio.shutil.copy(path, cog, driver="COG", compress="deflate", overviews="NONE")
    cog.write_bytes(cog.read_bytes()[: len(whole) // 2])
    with pytest.raises(SceneError, match="damaged"):
        everything(cog)


def test_a_complex_raster_says_what_to_give_instead(make_scene: Make) -> None:
    with pytest.raises(SceneError, match="complex"):
        open_scene(make_scene(np.ones((3, 8, 8), np.complex64)))
