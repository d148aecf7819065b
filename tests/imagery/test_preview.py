"""The picture of a place: outlines where they are, colours that mean something, a scale that holds."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image

from geoslave.errors import OutputError
from geoslave.imagery.preview import TRUTH, Layer, confidence_colour, draw_scene, save_png, scale_bar
from geoslave.imagery.raster import MemorySource, Raster

UTM = Affine(10, 0, 500_000, 0, -10, 2_600_000)
MAP_TOP = 36 - 6 + 50 + 14
MARGIN = 36


def scene(rows: int = 100, cols: int = 100, affine: Affine = UTM, crs: object = 32645, bands: int = 3) -> Raster:
    pixels = np.full((bands, rows, cols), 90, np.uint8)
    pixels[:, ::2] = 110
    return Raster(pixels, np.ones((rows, cols), bool), GeoBox((rows, cols), affine, crs))


def sites(*outlines: shapely.Geometry, **columns: object) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=list(outlines), crs=32645).assign(**columns)


BIG = shapely.box(500_300, 2_599_300, 500_700, 2_599_700)


def near(image: Image.Image, x: float, y: float, colour: tuple[int, int, int], radius: int = 4) -> bool:
    """Whether a map pixel close to (x, y) has about this colour."""
    top, left = round(MAP_TOP + y) - radius, round(MARGIN + x) - radius
    area = np.asarray(image)[top : top + 2 * radius + 1, left : left + 2 * radius + 1].astype(int)
    return bool((np.abs(area - colour).max(axis=-1) < 40).any())


@pytest.mark.parametrize("crs", [32645, 4326, 3857])
def test_outlines_are_drawn_where_the_sites_are_whatever_their_crs(crs: int) -> None:
    layer = Layer.detections(sites(BIG, confidence=[0.9]).to_crs(crs))
    image = draw_scene(scene(), [layer], side=1000, insets=0)
    assert all(near(image, x, y, confidence_colour(0.9)) for x, y in [(300, 500), (700, 500), (500, 300), (500, 700)])
    assert not near(image, 500, 500, confidence_colour(0.9), radius=100)


def test_known_sites_have_another_colour() -> None:
    image = draw_scene(scene(), [Layer.truth(sites(BIG))], side=1000)
    assert near(image, 300, 500, TRUTH, radius=12) and not near(image, 300, 500, confidence_colour(1), radius=12)


def test_a_site_smaller_than_a_pixel_is_still_seen() -> None:
    tiny = shapely.box(502_500, 2_597_500, 502_501, 2_597_501)
    image = draw_scene(scene(1000, 1000), [Layer.detections(sites(tiny, confidence=[0.9]))], side=1000, insets=0)
    assert near(image, 250 + 13, 250, confidence_colour(0.9))


def test_doubtful_detections_look_different_and_the_surest_lies_on_top() -> None:
    assert len({confidence_colour(c) for c in (0, 0.25, 0.5, 0.75, 1)}) == 5
    both = sites(BIG, BIG, confidence=[0.95, 0.1])
    image = draw_scene(scene(), [Layer.detections(both)], side=1000, insets=0)
    assert near(image, 300, 500, confidence_colour(0.95)) and not near(image, 300, 500, confidence_colour(0.1))


def test_what_was_not_seen_is_hatched() -> None:
    raster = scene()
    raster.pixels[:] = 0
    raster.valid[:, 50:] = False
    shown = np.asarray(draw_scene(raster, side=1000))[MAP_TOP + 20 : MAP_TOP + 980, MARGIN : MARGIN + 1000]
    assert len(np.unique(shown[:, 520:980].reshape(-1, 3), axis=0)) == 2
    assert shown[:, 20:480].max() < shown[:, 520:980].min()


@pytest.mark.parametrize(
    "per_pixel, longest, text", [(1, 260, "200 m"), (10, 260, "2 km"), (0.13, 200, "20 m"), (1, 50, "50 m")]
)
def test_scale_bars_are_round(per_pixel: float, longest: float, text: str) -> None:
    length, label = scale_bar(per_pixel, longest)
    assert label == text and length <= longest
    number, unit = label.split()
    assert length * per_pixel == pytest.approx(float(number) * (1000 if unit == "km" else 1))


def bar_length(image: Image.Image) -> int:
    """Dark pixels in the row of the scale bar."""
    row = np.asarray(image)[MAP_TOP - 20, : image.width - MARGIN - 60].max(axis=-1)
    return int((row < 60).sum())


def test_the_scale_is_right_in_a_geographic_crs_far_from_the_equator() -> None:
    # at 60 N a degree of longitude is half as long: the map is half as wide as its pixels say
    raster = scene(100, 100, Affine(0.001, 0, 25, 0, -0.001, 60), 4326)
    image = draw_scene(raster, side=800)
    shown = np.asarray(image)[MAP_TOP + 100]
    assert (shown.min(axis=-1) < 245).sum() == pytest.approx(400, abs=8)
    metres_per_pixel = 0.1 * 111_412 / 800
    assert bar_length(image) == pytest.approx(scale_bar(metres_per_pixel, 178)[0], abs=7)


def test_insets_show_the_surest_detections_from_the_full_resolution() -> None:
    fine = scene(400, 400)
    fine.pixels[:, 195:205, 195:205] = 255
    coarse = Raster(fine.pixels[:, ::8, ::8], fine.valid[::8, ::8], GeoBox((50, 50), UTM @ Affine.scale(8), 32645))
    found = sites(shapely.box(501_950, 2_597_950, 502_050, 2_598_050), confidence=[0.9])
    plain, sharp = (draw_scene(coarse, [Layer.detections(found)], source=s) for s in (None, MemorySource(fine)))
    assert plain.size == sharp.size
    assert plain.height > draw_scene(coarse, [Layer.detections(found)], insets=0).height
    assert np.asarray(plain).tobytes() != np.asarray(sharp).tobytes()


AWKWARD = {
    "nowhere": scene(crs=None, affine=Affine.identity()),
    "rotated": scene(affine=UTM @ Affine.rotation(40)),
    "one pixel": scene(1, 1),
    "a ribbon": scene(4, 900),
    "a tower": scene(900, 4),
    "grey": scene(bands=1),
    "two bands": scene(bands=2),
    "all nodata": Raster(np.zeros((3, 9, 9)), np.zeros((9, 9), bool), GeoBox((9, 9), UTM, 32645)),
    "NaN": Raster(np.full((3, 9, 9), np.nan, np.float32), np.ones((9, 9), bool), GeoBox((9, 9), UTM, 32645)),
    "the world": scene(90, 180, Affine(2, 0, -180, 0, -2, 90), 4326),
}


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_scenes_and_layers_still_give_a_picture(name: str) -> None:
    mixed = sites(BIG, shapely.Point(500_005, 2_599_995), shapely.Polygon(), None, confidence=[0.9, 0.5, 0.4, 0.3])
    layers = [Layer.truth(sites()), Layer.detections(mixed), Layer.detections(sites(), "none")]
    image = draw_scene(AWKWARD[name], layers, "A title " * 20, "under it " * 30, ["small print " * 40, ""], side=500)
    assert image.mode == "RGB" and image.width >= 500


def test_the_same_input_gives_the_same_picture(tmp_path: Path) -> None:
    layers = [Layer.detections(sites(BIG, confidence=[0.7]))]
    for name in ("a.png", "b.png"):
        save_png(draw_scene(scene(), layers, "t"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    with pytest.raises(OutputError, match="cannot be written"):
        save_png(image, tmp_path / "absent" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        save_png(image, tmp_path / "folder.png")
    save_png(image, tmp_path / "a.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "folder.png"]


def test_a_real_chip_with_its_real_kilns(data_dir: Path) -> None:
    with rasterio.open(data_dir / "kilns_s2" / "chips" / "23.7997_90.0408.tif") as file:
        raster = Raster(file.read(), np.ones(file.shape, bool), GeoBox(file.shape, file.transform, file.crs.to_wkt()))
    kilns = gpd.read_file(data_dir / "kilns_s2" / "kilns.geojson")
    image = draw_scene(raster, [Layer.truth(kilns), Layer.detections(kilns.assign(confidence=0.8))], side=1000)
    shown = np.asarray(image)[MAP_TOP : MAP_TOP + 980, MARGIN : MARGIN + 1000].astype(int)
    red = (np.abs(shown - confidence_colour(0.8)).max(axis=-1) < 30).sum()
    assert 100 < red < 5_000
