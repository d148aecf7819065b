"""Scenes by window: one validity mask, bands by name, the right grid, one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.windows import Window

from geoslave.errors import SceneError
from geoslave.imagery.geotiff import Reading, Scene, ground_sampling_distance, open_scene, scene_name, write_geotiff
from geoslave.imagery.scaling import Scaling
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


@pytest.mark.parametrize(("side", "told"), [(7, True), (5, False)])
def test_imagery_cut_off_for_display_is_said(make_scene: Make, side: int, told: bool) -> None:
    pixels = dark_field((90, 90))
    pixels[1, 30 : 30 + side, 30 : 30 + side] = 255
    with open_scene(make_scene(pixels)) as scene:
        remarks = scene.remarks()
    assert len(remarks) == told
    assert not told or ("0.6% of a band's pixels" in remarks[0] and "not stretched" in remarks[0])


def test_reflectances_are_never_cut_off(make_scene: Make) -> None:
    with open_scene(make_scene(np.full((3, 40, 40), 9_000, np.uint16))) as scene:
        assert scene.remarks() == ()


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
    pixels = dark_field((300, 300))
    pixels[:, :, 150:] += 120
    path = make_scene(pixels)
    with open_scene(path) as scene:
        factor, summand = scene.scaling(Scaling())
    low, high = np.percentile(pixels[0], (2, 98))
    assert factor[0] * low + summand[0] == pytest.approx(-1, abs=0.02)
    assert factor[0] * high + summand[0] == pytest.approx(1, abs=0.02)


def test_all_nodata_has_one_clear_line(data_dir: Path) -> None:
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


PLANET = ("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir")


@pytest.mark.parametrize(
    ("names", "rgb"),
    [
        (PLANET, (6, 4, 2)),
        (("Coastal Blue", "Blue", "Green", "Yellow", "Red", "Red Edge"), (5, 3, 2)),
        (("Red Edge", "Red", "Green", "Blue"), (2, 3, 4)),
        (("red mask", "red", "B3, wavelength 560 nm", "Coastal aerosol", "blue_band"), (2, 3, 5)),
    ],
)
def test_a_band_of_exactly_that_name_goes_first(make_scene: Make, names: tuple[str, ...], rgb: tuple[int, ...]) -> None:
    pixels = np.stack([np.full((8, 8), 100 + n, np.uint16) for n in range(1, len(names) + 1)])
    raster = everything(make_scene(pixels, descriptions=names), Reading(bands=("red", "green", "blue")))
    assert tuple(raster.pixels[:, 0, 0] - 100) == rgb


def test_names_nobody_wants_are_refused(make_scene: Make) -> None:
    path = make_scene(dark_field((20, 20)))
    with pytest.raises(SceneError, match="called rde; wanted are red, green, blue: mend --bands"):
        open_scene(path, Reading(bands=RGB.bands, numbers={"rde": 1, "green": 2, "blue": 1}))


@pytest.mark.parametrize("size", [3.0, 10.0, 15.0])
@pytest.mark.parametrize("fill", [-9999.0, 0.0])
def test_nodata_said_by_the_user_stays_out_of_averages(make_scene: Make, size: float, fill: float) -> None:
    pixels = dark_field((100, 120)).astype(np.float32)
    pixels[:, :, :31] = fill
    grid = Affine(size, 0, 500_000, 0, -size, 2_650_000)
    silent = everything(make_scene(pixels, transform=grid), Reading(gsd_m=10, nodata=fill))
    said = everything(make_scene(pixels, name="said.tif", transform=grid, nodata=fill), Reading(gsd_m=10))
    assert (silent.valid == said.valid).all() and 0.5 < silent.valid.mean() < 0.9
    assert silent.pixels[:, silent.valid].min() >= 39 and silent.pixels.max() < 60
    assert np.abs(silent.pixels - said.pixels)[:, silent.valid].max() < 0.01


def test_an_undeclared_fill_stays_out_of_averages(make_scene: Make) -> None:
    pixels = dark_field((700, 700))
    pixels[:, :, :100] = 255
    path = make_scene(pixels, transform=Affine(3, 0, 500_000, 0, -3, 2_650_000))
    raster = everything(path, RGB)
    assert raster.pixels.max() < 60 and raster.valid.mean() == pytest.approx(6 / 7, abs=0.01)
    with open_scene(path, RGB) as scene:
        part = scene.read(Window(25, 60, 90, 40))
    assert (part.pixels == raster.pixels[:, 60:100, 25:115]).all()


def test_a_value_the_type_cannot_hold_is_no_nodata(make_scene: Make) -> None:
    pixels = dark_field((20, 30))
    pixels[0, 5, 5] = 241
    path = make_scene(pixels)
    for nodata in (-9999, 0.5, 1e9, np.inf):
        assert everything(path, Reading(nodata=nodata)).valid.all()
    assert everything(path, Reading(nodata=-9999, gsd_m=20)).valid.all()


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_zeros_around_are_fill_in_any_type(make_scene: Make, kind: type) -> None:
    pixels = dark_field((100, 100)).astype(kind)
    pixels[:, :, :30] = 0
    raster = everything(make_scene(pixels))
    assert not raster.valid[:, :30].any() and raster.valid[:, 30:].all()


def spy_on_reads(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """The windows of files that are read from now on."""
    windows: list[Window] = []
    original = Scene._read

    def read(scene: Scene, window: Window, *rest: Any) -> Any:
        windows.append(window)
        return original(scene, window, *rest)

    monkeypatch.setattr(Scene, "_read", read)
    return windows


TILED = {"tiled": True, "blockxsize": 256, "blockysize": 256}


@pytest.mark.parametrize("options", [{"nodata": 0, **TILED}, {"nodata": 0}, TILED])
def test_few_valid_pixels_in_a_large_scene_are_found(make_scene: Make, options: dict[str, object]) -> None:
    pixels = np.zeros((1, 5200, 5200), np.uint8)
    pixels[:, 70:330, 70:330] = 100
    path = make_scene(pixels, compress="deflate", **options)
    with open_scene(path) as scene:
        factor, summand = scene.scaling(Scaling())
        pixels, valid = scene.sample()
    assert factor[0] * 100 + summand[0] == pytest.approx(-1, abs=0.02)
    assert valid.sum() > 1000 and (pixels[:, valid] == 100).all()


def test_a_large_scene_of_few_rows_is_sampled_inside_it(make_scene: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = spy_on_reads(monkeypatch)
    path = make_scene(np.full((1, 20, 1_280_000), 100, np.uint8), compress="deflate")
    with open_scene(path) as scene:
        assert scene.sample()[1].size > 100_000
    assert all(w.row_off >= 0 and w.row_off + w.height <= 20 for w in windows)


def test_opening_a_large_scene_decodes_little_of_it(make_scene: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((1, 5200, 5200), 100, np.uint8)
    pixels[:, :, :1000] = 255
    windows = spy_on_reads(monkeypatch)
    with open_scene(make_scene(pixels, compress="deflate", **TILED)) as scene:
        assert scene.validity.nodata == (255.0,)
        opened = len(windows)
        scene.scaling(Scaling())
    assert sum(w.width * w.height for w in windows) < 1.1e6 and len(windows) == opened


def test_alpha_and_mask_beside_ground_control_points(make_scene: Make) -> None:
    points = [GroundControlPoint(row=r, col=c, x=89 + c * 1e-4, y=24 - r * 1e-4) for r in (0, 100) for c in (0, 100)]
    place = {"crs": None, "transform": Affine.identity()}
    alpha = np.full((1, 100, 100), 255, np.uint8)
    alpha[:, :, :50] = 0
    rgba = make_scene(np.concatenate([dark_field((100, 100)), alpha]), photometric="RGB", alpha="YES", **place)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        masked = make_scene(dark_field((100, 100)), name="masked.tif", mask=alpha[0] > 0, **place)
    for path in (rgba, masked):
        with rasterio.open(path, "r+") as file:
            file.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
        with open_scene(path, RGB) as scene:
            rows, cols = scene.geobox.shape
            valid = scene.read(Window(0, 0, cols, rows)).valid
        assert valid[5:-5, cols // 2 + 5 : -5].all() and not valid[:, : cols // 2 - 5].any()


@pytest.mark.parametrize("nodata", [None, 0, -9999])
def test_ground_control_points_without_crs_take_the_one_said(make_scene: Make, nodata: float | None) -> None:
    points = [
        GroundControlPoint(row=r, col=c, x=500_000 + 10 * c, y=2_650_000 - 10 * r) for r in (0, 100) for c in (0, 100)
    ]
    path = make_scene(dark_field((100, 100)), crs=None, transform=Affine.identity())
    with rasterio.open(path, "r+") as file:
        file.gcps = (points, rasterio.crs.CRS())
    with pytest.raises(SceneError, match="--crs EPSG"):
        open_scene(path, RGB)
    with open_scene(path, Reading(RGB.bands, gsd_m=10.0, crs="EPSG:32645", nodata=nodata)) as scene:
        assert scene.geobox.crs.to_epsg() == 32645
        assert scene.geobox.affine @ (50, 50) == pytest.approx((500_500, 2_649_500), abs=20)
        assert scene.read(Window(20, 20, 30, 30)).valid.all()


def test_the_date_is_when_the_scene_was_taken_not_when_the_file_was_made(make_scene: Make) -> None:
    path = make_scene(dark_field((20, 20)), name="S2_20181013.tif")
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2024:05:06 07:08:09")
    with open_scene(path) as scene:
        assert str(scene.date) == "2018-10-13"
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2018-10-12T04:00:00Z")
    with open_scene(path) as scene:
        assert str(scene.date) == "2018-10-12"
    path = make_scene(dark_field((20, 20)), name="scene.tif")
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2024:05:06 07:08:09")
    with open_scene(path) as scene:
        assert scene.date is None


def test_names_of_scenes() -> None:
    for path, name in (
        ("/data/a.b.tif", "a.b"),
        ("https://h/d/a.tif?sig=SECRET/x.y#z", "a"),
        ("/vsicurl/https://user:pw@h/a.tif?sig=SECRET", "a"),
        ("s3://bucket/a.tif", "a"),
        ('NETCDF:"/d/x.nc":v', "x_v"),
        ("GTIFF_DIR:1:/d/plain.tif", "1_plain"),
        ("C:\\d\\a.tif", Path("C:\\d\\a.tif").stem),
    ):
        assert scene_name(path) == name


def test_secrets_in_an_address_are_not_printed() -> None:
    with pytest.raises(SceneError, match=r"http://127\.0\.0\.1:9/a\.tif cannot be opened") as caught:
        open_scene("http://127.0.0.1:9/a.tif?sig=SECRET&x=1")
    assert "SECRET" not in str(caught.value)


def test_subdatasets_are_opened_by_gdals_names(make_scene: Make) -> None:
    path = make_scene(dark_field((20, 30)), name="plain.tif")
    with open_scene(f"GTIFF_DIR:1:{path}", RGB) as scene:
        assert scene.scene_id == "1_plain" and scene.read(Window(0, 0, 30, 20)).valid.all()
    with pytest.raises(SceneError, match="cannot be opened"):
        open_scene("GTIFF_DIR:1:absent.tif")
    with pytest.raises(SceneError, match="does not exist"):
        open_scene("Z:absent.tif")


def test_scale_and_offset_are_kept_in_what_is_written(make_scene: Make, tmp_path: Path) -> None:
    path = make_scene(np.full((3, 8, 8), 300, np.uint16), descriptions=("red", "green", "blue"))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4, 2e-4, 3e-4), (0.0, -0.1, -0.2)
    with open_scene(path, Reading(bands=("blue", "green"))) as scene:
        assert scene.scales == (3e-4, 2e-4) and scene.offsets == (-0.2, -0.1)
        raster = scene.read(Window(0, 0, 8, 8))
        write_geotiff(raster, tmp_path / "a.tif", scene.bands, scales=scene.scales, offsets=scene.offsets)
        write_geotiff(raster, tmp_path / "b.tif", scene.bands)
    with open_scene(tmp_path / "a.tif") as scene, open_scene(tmp_path / "b.tif") as bare:
        assert scene.scales == (3e-4, 2e-4) and scene.offsets == (-0.2, -0.1)
        assert bare.scales == (1, 1) and bare.offsets == (0, 0)
