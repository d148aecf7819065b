"""Thumbnails of places, and the sheet they stand on."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from odc.geo.geobox import GeoBox
from PIL import Image

from geoslave.imagery.contact import SIDE, Group, Thumbnail, contact_sheet
from geoslave.imagery.preview import TRUTH, Layer, draw_place
from geoslave.imagery.raster import MemorySource, Raster
from tests.conftest import UTM
from tests.factories import dark_field, with_kilns

PIXELS = with_kilns(dark_field((200, 200)), [(98, 95)])
SOURCE = MemorySource(Raster(PIXELS, np.ones((200, 200), bool), GeoBox((200, 200), UTM, "EPSG:32645")))
MIDDLE = gpd.GeoSeries([shapely.Point(501_000, 2_648_995)], crs=32645)
LONLAT = tuple(np.ravel(MIDDLE.to_crs(4326).get_coordinates().to_numpy()))


def test_a_thumbnail_shows_the_place_in_its_middle_at_the_scale_asked_for() -> None:
    picture = draw_place(SOURCE, SOURCE.raster, LONLAT, 600, side=216)
    bright = np.asarray(picture.convert("L")).astype(float)[:170] > 235  # above the scale bar
    rows, cols = np.nonzero(bright)
    assert picture.size == (216, 216)
    assert cols.mean() == pytest.approx(108, abs=4) and rows.mean() == pytest.approx(108, abs=4)
    assert np.ptp(cols) * 600 / 216 == pytest.approx(100, abs=20)  # a kiln of 10 pixels of 10 m


def test_outlines_are_drawn_on_it() -> None:
    label = gpd.GeoDataFrame(geometry=MIDDLE.buffer(100), crs=32645).to_crs(4326)
    picture = draw_place(SOURCE, SOURCE.raster, LONLAT, 600, [Layer.truth(label)], side=216)
    away = np.abs(np.asarray(picture).astype(int) - TRUTH).sum(axis=2)
    assert (away < 30).sum() > 100


def test_a_place_at_the_edge_is_hatched_where_nothing_was_seen() -> None:
    corner = gpd.GeoSeries([shapely.Point(500_000, 2_650_000)], crs=32645).to_crs(4326)
    picture = draw_place(SOURCE, SOURCE.raster, tuple(np.ravel(corner.get_coordinates().to_numpy())), 600, side=216)
    upper_left = np.asarray(picture.convert("L"))[:100, :100]
    assert upper_left.min() > 190


def test_the_sheet_grows_with_its_groups_and_keeps_its_width() -> None:
    tile = Image.new("RGB", (SIDE, SIDE), (10, 200, 30))
    many = tuple(Thumbnail(tile, f"H{k}", "confidence 0.90", "a" * 200) for k in range(7))
    empty = contact_sheet([Group("Hits", "", (0, 140, 100), ())], "none")
    full = contact_sheet([Group("Hits", "", (0, 140, 100), many)], "seven", legend=[("truth", "label")])
    assert full.width == empty.width and full.height > empty.height + 2 * SIDE
    shown = (np.asarray(full) == (10, 200, 30)).all(axis=2).sum()
    assert shown == 7 * (SIDE - 6) ** 2  # the frame is three pixels wide
