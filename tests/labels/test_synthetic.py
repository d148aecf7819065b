"""The rendered scene: the same each time, kilns of the published sizes, truth where the kilns are."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.features import rasterize

from geoslave.labels.synthetic import KILN_SIZES, RenderedScene, render_scene
from geoslave.targets import get_target


@pytest.fixture(scope="module")
def scene() -> RenderedScene:
    return render_scene(7, (400, 500), n_kilns=12)


def test_same_seed_same_scene(scene: RenderedScene) -> None:
    again = render_scene(7, (400, 500), n_kilns=12)
    np.testing.assert_array_equal(scene.raster.pixels, again.raster.pixels)
    assert scene.sites.equals(again.sites)
    assert not np.array_equal(scene.raster.pixels, render_scene(8, (400, 500), n_kilns=12).raster.pixels)


def test_sizes_are_the_published_ones(scene: RenderedScene) -> None:
    target = get_target("brick_kiln")
    assert len(scene.sites) == 12
    for kind, outline in zip(scene.sites["kind"], scene.sites.geometry, strict=True):
        corners = np.array(outline.minimum_rotated_rectangle.exterior.coords)
        width, length = sorted(np.hypot(*np.diff(corners[:3], axis=0).T))
        size = KILN_SIZES[kind]
        assert size.length_m[0] - 1 <= length <= size.length_m[1] + 1
        assert size.width_m[0] - 1 <= width <= size.width_m[1] + 1
        assert target.area_m2[0] <= outline.area <= target.area_m2[1]


def test_truth_lies_on_reddish_kilns(scene: RenderedScene) -> None:
    """Kilns are redder than the land around them, and every outline lies inside the scene."""
    raster = scene.raster
    red, _, blue = raster.pixels.astype(float)
    on_kiln = rasterize(scene.sites.geometry, raster.valid.shape, transform=raster.geobox.affine).astype(bool)
    assert np.median((red - blue)[on_kiln]) > np.percentile((red - blue)[~on_kiln], 90)
    assert raster.geobox.extent.geom.contains(scene.sites.union_all())


def test_kilns_do_not_overlap(scene: RenderedScene) -> None:
    centres = np.array([(p.x, p.y) for p in scene.sites.centroid])
    gaps = np.hypot(*(centres[:, None] - centres[None]).T)
    assert gaps[~np.eye(len(centres), dtype=bool)].min() >= 145


@pytest.mark.parametrize("landscape", ["delta", "plain", "dry", "forest"])
def test_digital_numbers_and_display_agree(landscape: str) -> None:
    """Both data types show the same scene: 255 stands for reflectance 0.35."""
    display = render_scene(3, (64, 64), landscape=landscape).raster.pixels.astype(float)
    numbers = render_scene(3, (64, 64), landscape=landscape, dtype="uint16").raster.pixels
    assert np.abs(np.clip(numbers * 1e-4 / 0.35 * 255, 1, 255) - display).max() <= 0.6


def test_no_kilns_and_odd_grids() -> None:
    empty = render_scene(1, (33, 70), gsd_m=8.0, n_kilns=0)
    assert empty.raster.pixels.shape == (3, 33, 70)
    assert len(empty.sites) == 0
    assert empty.sites.crs == "EPSG:32645"
    with pytest.raises(ValueError, match="positive"):
        render_scene(1, (8, 8))
