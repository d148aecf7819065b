"""Pictures of chips lie where they say, and the same ground is shown at another date."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from rasterio.windows import Window

from geoslave.search.embedder import open_embedder
from geoslave.search.index import Settings, build_index, open_index, scenes_ground
from geoslave.search.pictures import NoSuchChip, Pictures
from tests.search.search_scene import shared, write_scene


def test_shares_of_a_picture_and_places_on_earth_are_each_others_inverse() -> None:
    index, _ = shared()
    pictures = Pictures(index)
    chip = str(index.chips["chip_id"].iloc[20])
    for view in ("small", "large"):
        sight = pictures.sight(chip, view)  # type: ignore[arg-type]
        corners = [(0.0, 0.0), (1.0, 0.25), (0.3, 0.9)]
        outline = shapely.Polygon(sight.to_lonlat(corners))
        assert np.allclose(sight.to_shares(outline), corners, atol=1e-4)
        low, high = sight.frame
        frame = shapely.Polygon(sight.to_lonlat([(low, low), (high, low), (high, high), (low, high)]))
        assert frame.symmetric_difference(index.chips.geometry.iloc[20]).area < 0.01 * frame.area


def test_what_is_bright_in_the_scene_is_bright_at_its_place_in_both_pictures() -> None:
    index, _ = shared()
    pictures, row = Pictures(index), 20
    chip = str(index.chips["chip_id"].iloc[row])
    with index.source(str(index.chips["scene_id"].iloc[row])) as scene:
        window = index.window(row, index.settings.core_px)
        brightness = scene.read(window).pixels.astype(float).mean(axis=0)
        y, x = np.unravel_index(int(brightness.argmax()), brightness.shape)
        lit = scene.read(Window(window.col_off + x, window.row_off + y, 1, 1)).geobox.extent.to_crs("EPSG:4326").geom
    for view in ("small", "large"):
        sight = pictures.sight(chip, view)  # type: ignore[arg-type]
        picture = np.asarray(Image.open(io.BytesIO(pictures.png(chip, view))).convert("L"), float)  # type: ignore[arg-type]
        across, down = np.array(sight.to_shares(lit.centroid)[0]) * len(picture)
        near = picture[round(down) - 2 : round(down) + 3, round(across) - 2 : round(across) + 3].mean()
        assert near > np.percentile(picture, 90)


def test_the_same_ground_at_another_date(tmp_path: Path) -> None:
    scene, _ = write_scene(tmp_path, seed=8, side=96, kilns=1)
    before = shutil.move(scene, tmp_path / "delta_20240115.tif")
    after = shutil.copy(before, tmp_path / "delta_20240720.tif")
    build_index(scenes_ground([before, after]), tmp_path / "index", open_embedder("kiln-s2", threads=1), Settings())
    index = open_index(tmp_path / "index")
    pictures = Pictures(index)
    chip = str(index.chips["chip_id"].iloc[0])
    (other,) = pictures.others(chip)
    assert other == {"scene": "delta_20240720", "date": "2024-07-20"}
    assert pictures.png(chip, "large", other["scene"]) == pictures.png(chip, "large")
    with pytest.raises(NoSuchChip):
        pictures.png(chip, "large", "delta_1999")
