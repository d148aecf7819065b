"""Chips: every valid pixel in one, in its place, with masks and an index that agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from geoslave.errors import LabelError, OutputError, SceneError
from geoslave.imagery.raster import MemorySource, Raster
from geoslave.labels.chips import ChipIndex, cut_chips
from geoslave.labels.formats import read_labels

UTM = Affine(10, 0, 500_000, 0, -10, 2_600_000)


def scene(rows: int, cols: int, dtype="uint16", bands: int = 3, affine: Affine = UTM, invalid=None) -> MemorySource:
    rng = np.random.default_rng(rows * 1000 + cols)
    pixels = rng.integers(0, 255 if dtype == "uint8" else 4000, (bands, rows, cols)).astype(dtype)
    valid = np.ones((rows, cols), bool)
    if invalid is not None:
        valid[invalid] = False
    return MemorySource(Raster(pixels, valid, GeoBox((rows, cols), affine, 32645)))


def covered(source: MemorySource, result: ChipIndex) -> np.ndarray:
    """Pixels of the scene that a chip shows as valid; fails where a chip differs from the scene."""
    seen = np.zeros(source.raster.valid.shape, bool)
    for row in gpd.read_parquet(result.index).itertuples():
        with rasterio.open(result.folder / row.chip) as chip:
            assert chip.transform.almost_equals(source.geobox.affine @ Affine.translation(row.x_off, row.y_off))
            assert chip.crs.to_epsg() == 32645
            valid = chip.dataset_mask() > 0
            pixels = chip.read()
        truth = source.read(Window(row.x_off, row.y_off, row.width, row.height))
        np.testing.assert_array_equal(valid, truth.valid)
        np.testing.assert_array_equal(pixels[:, valid], truth.pixels[:, valid])
        assert row.valid_fraction == valid.mean()
        y, x = np.nonzero(valid)
        seen[y + row.y_off, x + row.x_off] = True
    return seen


@given(st.integers(1, 70), st.integers(1, 70), st.integers(8, 40), st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_valid_pixel_is_in_a_chip_and_in_its_place(tmp_path, rows, cols, size, data) -> None:
    overlap = data.draw(st.integers(0, size - 1).filter(lambda o: size - o > 4))
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    source = scene(rows, cols, invalid=np.s_[top : top + 20, left : left + 30])
    out = tmp_path / "chips"
    if not source.raster.valid.any():
        with pytest.raises(SceneError, match="no valid pixel"):
            cut_chips(source, out, size, overlap, overwrite=True)
        return
    result = cut_chips(source, out, size, overlap, overwrite=True)
    np.testing.assert_array_equal(covered(source, result), source.raster.valid)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_pixels_keep_their_type_and_bands_their_names(tmp_path, dtype: str) -> None:
    names = ("blue", "green", "red", "nir")
    result = cut_chips(scene(40, 40, dtype, bands=4), tmp_path / "c", 40, 0, band_names=names)
    with rasterio.open(next((result.folder / "chips").iterdir())) as chip:
        assert chip.dtypes == (dtype,) * 4 and chip.descriptions == names and chip.profile["tiled"]


def test_chips_without_a_valid_pixel_are_left_out_and_counted(tmp_path) -> None:
    told: list[tuple[int, int]] = []
    source = scene(64, 96, invalid=np.s_[:, 32:64])
    result = cut_chips(source, tmp_path / "c", 32, 0, progress=lambda *n: told.append(n))
    assert (result.n_written, result.n_empty) == (4, 2)
    assert len(list((tmp_path / "c" / "chips").iterdir())) == 4
    assert told[-1] == (6, 6)
    assert not (tmp_path / "c" / "masks").exists()
    index = gpd.read_parquet(result.index)
    assert index["mask"].isna().all() and index["n_sites"].isna().all()


def test_masks_show_sites_where_they_are(tmp_path) -> None:
    source = scene(64, 64, invalid=np.s_[:, :10])
    site = shapely.box(500_080, 2_599_800, 500_160, 2_599_900)  # columns 8..15, rows 10..19
    labels = gpd.GeoDataFrame({"class_name": ["kiln"]}, geometry=[site], crs=32645).to_crs(4326)
    result = cut_chips(source, tmp_path / "c", 32, 0, labels)
    index = gpd.read_parquet(result.index).set_index(["row", "col"])
    assert result.n_with_sites == 1 and index["n_sites"].tolist() == [1, 0, 0, 0]
    with rasterio.open(result.folder / index.loc[(0, 0), "mask"]) as file:
        mask = file.read(1)
        assert file.nodata == 255 and file.dtypes == ("uint8",)
    expected = np.zeros((32, 32), np.uint8)
    expected[10:20, 8:16] = 1
    expected[:, :10] = 255
    np.testing.assert_array_equal(mask, expected)
    assert index.loc[(0, 0), "label_share"] == pytest.approx(60 / (22 * 32))


def test_footprints_are_in_longitude_latitude_and_end_with_the_scene(tmp_path) -> None:
    source = scene(50, 50)
    index = gpd.read_parquet(cut_chips(source, tmp_path / "c", 32, 8, scene_id="S2 a/b").index)
    assert index.crs == 4326 and set(index["scene_id"]) == {"S2 a/b"}
    whole = gpd.GeoSeries([shapely.box(500_000, 2_599_500, 500_500, 2_600_000)], crs=32645)
    assert index.to_crs(32645).union_all().symmetric_difference(whole[0]).area < 1


def test_rotated_scenes_keep_their_rotation(tmp_path) -> None:
    source = scene(40, 40, affine=UTM @ Affine.rotation(30))
    assert covered(source, cut_chips(source, tmp_path / "c", 24, 4)).all()


@pytest.mark.parametrize("dtype, bands", [("uint8", 3), ("uint16", 4), ("float32", 1)])
def test_png_chips_are_eight_bit_and_georeferenced(tmp_path, dtype: str, bands: int) -> None:
    source = scene(40, 40, dtype, bands, invalid=np.s_[:5, :5])
    names = ("blue", "green", "red", "nir") if bands == 4 else None
    sites = gpd.GeoDataFrame(geometry=[shapely.box(500_100, 2_599_800, 500_200, 2_599_900)], crs=32645)
    result = cut_chips(source, tmp_path / "c", 40, 0, sites, format="png", band_names=names)
    path = result.folder / gpd.read_parquet(result.index)["chip"][0]
    with rasterio.open(path) as chip:
        assert chip.crs.to_epsg() == 32645 and chip.transform == UTM
        np.testing.assert_array_equal(chip.dataset_mask() > 0, source.raster.valid)
        shown = chip.read()
    assert shown.dtype == np.uint8 and len(shown) == (3 if bands > 1 else 1)
    if bands == 4:
        assert np.corrcoef(shown[0].ravel(), source.raster.pixels[2].ravel())[0, 1] > 0.9
    if dtype == "uint8":
        different = shown.astype(int) - source.raster.pixels
        assert np.abs(different[:, source.raster.valid]).max() <= 1
    world = [float(line) for line in path.with_suffix(".pgw").read_text().split()]
    assert world == [10, 0, 0, -10, 500_005, 2_599_995]
    with rasterio.open(result.folder / gpd.read_parquet(result.index)["mask"][0]) as mask:
        assert set(np.unique(mask.read(1))) == {0, 1, 255}


def test_png_chips_of_one_scene_share_one_stretch(tmp_path) -> None:
    dark = scene(32, 64)
    dark.raster.pixels[:, :, :32] //= 10
    index = gpd.read_parquet(cut_chips(dark, tmp_path / "c", 32, 0, format="png").index)
    means = []
    for name in index["chip"]:
        with rasterio.open(tmp_path / "c" / name) as chip:
            means.append(chip.read().mean())
    assert means[0] < means[1] / 3


@dataclass(frozen=True)
class Breaking:
    """A source that fails at its last chip."""

    source: MemorySource

    @property
    def geobox(self) -> GeoBox:
        return self.source.geobox

    def read(self, window: Window) -> Raster:
        if window.col_off > 0:
            raise OSError(28, "No space left on device")
        return self.source.read(window)


def test_a_run_that_breaks_leaves_nothing_behind(tmp_path) -> None:
    with pytest.raises(OutputError, match="No space left"):
        cut_chips(Breaking(scene(32, 64)), tmp_path / "c", 32, 0)
    assert list(tmp_path.iterdir()) == []


def test_folders_are_replaced_only_when_asked_and_only_if_they_hold_chips(tmp_path) -> None:
    out = tmp_path / "c"
    out.mkdir()
    cut_chips(scene(40, 40), out, 32, 0)
    with pytest.raises(OutputError, match="not empty"):
        cut_chips(scene(32, 32), out, 32, 0)
    assert cut_chips(scene(32, 32), out, 32, 0, overwrite=True).n_written == 1
    assert len(list((out / "chips").iterdir())) == 1 and list(tmp_path.iterdir()) == [out]
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "family.jpg").touch()
    with pytest.raises(OutputError, match="other things than chips"):
        cut_chips(scene(32, 32), photos, 32, 0, overwrite=True)
    with pytest.raises(OutputError, match="is a file"):
        cut_chips(scene(32, 32), photos / "family.jpg", 32, 0)


def test_what_cannot_be_cut_is_refused_before_anything_is_written(tmp_path) -> None:
    far = gpd.GeoDataFrame(geometry=[shapely.box(10, 10, 11, 11)], crs=4326)
    with pytest.raises(LabelError, match="none of the 1 labels"):
        cut_chips(scene(32, 32), tmp_path / "c", 32, 0, far)
    nowhere = MemorySource(Raster(np.zeros((1, 4, 4)), np.ones((4, 4), bool), GeoBox((4, 4), Affine.identity(), None)))
    with pytest.raises(SceneError, match="no CRS"):
        cut_chips(nowhere, tmp_path / "c")
    with pytest.raises(ValueError, match="overlap"):
        cut_chips(scene(32, 32), tmp_path / "c", 32, 32)
    assert list(tmp_path.iterdir()) == []


def test_a_real_chip_with_its_real_labels(tmp_path, data_dir: Path) -> None:
    with rasterio.open(data_dir / "kilns_s2" / "chips" / "23.7997_90.0408.tif") as file:
        geobox = GeoBox(file.shape, file.transform, file.crs.to_wkt())
        source = MemorySource(Raster(file.read(), np.ones(file.shape, bool), geobox))
    labels = read_labels(data_dir / "kilns_s2" / "kilns.geojson")
    result = cut_chips(source, tmp_path / "c", 64, 16, labels)
    index = gpd.read_parquet(result.index)
    assert result.n_with_sites == index["n_sites"].astype(bool).sum() == 3
    assert 0.001 < index["label_share"].max() < 0.1
