"""What is put aside for validation or left for the test, and how training is kept from seeing it.

Scenes overlap and sites reach from one into the next, so leaving a scene out is not enough: its ground is
blanked in every other scene that shows it, with the sites that stick out of it. Squares of the ground
(`labels.split`) are blanked with a buffer round them; where that is narrower than their sites are long, a
site would stand on both sides, and that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from geoslave.errors import LabelError
from geoslave.imagery.raster import Raster
from geoslave.labels.split import SpatialBlocks, named
from geoslave.model.augment import IGNORE, Patch
from geoslave.model.placed import PlacedScene, TrainScene, WithheldScene, burn, sample_of
from geoslave.model.recipe import TrainConfig, Validation


@dataclass(frozen=True, slots=True)
class Parted:
    """Scenes on both sides of a split."""

    training: list[TrainScene]
    """What is hidden is blanked in them."""
    aside: list[PlacedScene]
    """To be validated on, each on its footprint."""
    hidden: BaseGeometry
    """What training must not show, in longitude and latitude."""


def put_aside(placed: Sequence[PlacedScene], withheld: Sequence[BaseGeometry], config: TrainConfig) -> Parted:
    """Part scenes into those to train on and those to validate on.

    Args:
        withheld: ground that is tested on, in longitude and latitude: hidden too.

    Raises:
        LabelError: if one side is empty, or a site of what is put aside would be shown in training.
    """
    settings = config.validation
    if settings.by == "none" or not placed:
        rest, aside, hidden = list(placed), [], []
    elif settings.by == "blocks":
        blocks = SpatialBlocks(settings.block_m, settings.buffer_m, settings.share, config.seed)
        rest, aside = list(placed), [part for p in placed if (part := _tested_part(p, blocks)) is not None]
        hidden = [blocks.hidden(p.footprint) for p in placed]
    else:
        rest, aside = _by_scene(placed, settings)
        hidden = [ground(p) for p in aside]
    area = shapely.union_all([*withheld, *hidden])
    shown = [left for p in rest if (left := _blanked(p, area)) is not None]
    if settings.by == "blocks":
        _refuse_an_empty_side(shown, aside, settings)
        _refuse_leaks(shown, aside, settings)
    return Parted([p.scene for p in shown], aside, area)


def ground(placed: PlacedScene | WithheldScene) -> BaseGeometry:
    """What a scene answers for, with the whole of each site that begins in it; in longitude and latitude."""
    sites = _own_sites(placed)
    sticking_out = sites[~shapely.covered_by(sites, placed.footprint)]
    return shapely.union_all([placed.footprint, *shapely.make_valid(sticking_out)])


def _own_sites(placed: PlacedScene | WithheldScene) -> NDArray[np.object_]:
    """Outlines, in longitude and latitude, of the sites that stand in a scene's footprint."""
    outlines = np.asarray(placed.sites.geometry.to_crs(4326).array, object)
    return outlines[shapely.intersects(shapely.point_on_surface(outlines), placed.footprint)]


def _by_scene(placed: Sequence[PlacedScene], settings: Validation) -> tuple[list[PlacedScene], list[PlacedScene]]:
    """(To train on, to validate on): whole scenes, by name or by region."""
    chosen = [p.aside or _is_aside(p.scene, settings) for p in placed]
    aside = [p for p, taken in zip(placed, chosen, strict=True) if taken]
    rest = [p for p, taken in zip(placed, chosen, strict=True) if not taken]
    if not aside or not rest:
        raise LabelError(f"validation by {settings.by} puts {len(aside)} of {len(placed)} scenes aside: change it")
    return rest, aside


def _is_aside(scene: TrainScene, settings: Validation) -> bool:
    if settings.by == "region":
        return scene.region is not None and scene.region in settings.regions
    return named(scene.name, settings.scenes)


def _tested_part(placed: PlacedScene, blocks: SpatialBlocks) -> PlacedScene | None:
    tested = blocks.tested(placed.footprint)
    return replace(placed, footprint=tested) if tested.area > 0 else None


def _blanked(placed: PlacedScene, area: BaseGeometry) -> PlacedScene | None:
    """A scene that no longer shows an area given in longitude and latitude; None if nothing is left of it."""
    scene, patch = placed.scene, placed.scene.patch
    if not shapely.intersects(area, placed.footprint):
        return placed
    hidden = burn(_on(placed, np.array([_near(area, placed.footprint)], object)), _raster(placed))
    valid = patch.valid & ~hidden
    if not valid.any():
        return None
    truth = np.where(hidden, np.uint8(IGNORE), patch.truth)
    kept = Patch(np.where(valid, patch.pixels, patch.pixels.dtype.type(0)), truth, valid)
    row, col = np.rint(scene.sites).astype(int).T
    left = truth[row, col] != IGNORE
    blanked = replace(
        scene, patch=kept, sample=sample_of(kept), sites=scene.sites[left], site_class=scene.site_class[left]
    )
    return replace(placed, scene=blanked)


def _near(area: BaseGeometry, footprint: BaseGeometry) -> BaseGeometry:
    """What of an area lies about a footprint: a CRS makes nonsense of places far from its own."""
    west, south, east, north = footprint.bounds
    wide, high = east - west, north - south
    return shapely.intersection(area, shapely.box(west - wide, south - high, east + wide, north + high))


def _refuse_an_empty_side(shown: Sequence[PlacedScene], aside: Sequence[PlacedScene], settings: Validation) -> None:
    if not aside or not any(len(p.scene.sites) for p in shown):
        raise LabelError(
            f"validation by blocks of {settings.block_m:g} m leaves nothing to {'train' if aside else 'validate'} on: "
            "make block_m smaller, or change 'share' or 'seed'"
        )


def _refuse_leaks(shown: Sequence[PlacedScene], aside: Sequence[PlacedScene], settings: Validation) -> None:
    """No site to be validated on has a pixel in what is trained on."""
    tested = np.concatenate([_own_sites(p) for p in aside])
    seen = {key for p in shown for key in leaks(p, tested)}
    if seen:
        raise LabelError(
            f"{len(seen)} sites put aside for validation reach into what is trained on: the buffer of "
            f"{settings.buffer_m:g} m is narrower than they are long; set a wider validation.buffer_m"
        )


def leaks(placed: PlacedScene, sites: NDArray[np.object_]) -> list[bytes]:
    """Of outlines in longitude and latitude those (as WKB) that a scene to train on shows with a pixel."""
    near = sites[shapely.intersects(sites, placed.footprint)]
    if not len(near):
        return []
    raster = _raster(placed)
    return [
        shapely.to_wkb(shapely.normalize(site))
        for site, on_grid in zip(near, _on(placed, near), strict=True)
        if (burn(gpd.GeoSeries([on_grid]), raster) & raster.valid).any()
    ]


def _raster(placed: PlacedScene) -> Raster:
    return Raster(placed.scene.patch.pixels, placed.scene.patch.valid, placed.geobox)


def _on(placed: PlacedScene, outlines: NDArray[np.object_]) -> gpd.GeoSeries:
    """Outlines given in longitude and latitude, in a scene's CRS."""
    return gpd.GeoSeries(outlines, crs=4326).to_crs(placed.geobox.crs.to_wkt())
