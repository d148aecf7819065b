"""What chips are drawn from, read into memory: labelled scenes, backgrounds, weak chips, rendered scenes.

Everything is kept as display values (see `imagery.scaling`). Outlines, masks and YOLO files all
become outlines on a scene's grid first, so that borders, classes and unsure places are treated in one way.
What is put aside for validation is blanked in every training scene that shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import cos, radians
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import MergeAlg
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from geoslave.errors import LabelError
from geoslave.imagery.raster import Raster
from geoslave.labels.formats import read_labels
from geoslave.labels.split import DEGREE_M, SpatialBlocks, named
from geoslave.labels.synthetic import render_scene
from geoslave.model.augment import IGNORE, Floats, Patch, display
from geoslave.model.chip_pools import ChipPool, background_pool
from geoslave.model.outlines import (
    Circle,
    Outlines,
    class_indices,
    mask_outlines,
    read_unsure_places,
    scene_key,
    yolo_outlines,
)
from geoslave.model.recipe import LabelledScenes, TrainConfig, Validation
from geoslave.model.scene_pixels import read_pixels
from geoslave.model.weak_sources import weak_pools


@dataclass(frozen=True, slots=True)
class TrainScene:
    """A scene in memory."""

    patch: Patch
    sample: Floats
    """[band, n] display values from all over the scene."""
    sites: NDArray[np.float64]
    """[n, 2] centres (row, column)."""
    site_class: NDArray[np.int64]
    """[n] 0 and up."""
    stretched: bool
    region: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class PlacedScene:
    """A scene with its place on earth and the outlines on it."""

    scene: TrainScene
    geobox: GeoBox
    sites: gpd.GeoDataFrame
    """In the geobox's CRS, with `class_index`."""
    footprint: BaseGeometry
    """What is answered for, in longitude and latitude."""
    aside: bool = False
    """It belongs to a source for validation."""


class SitePool:
    """Sites of some scenes: a class is drawn first, then a scene that has it, then one of its sites there."""

    def __init__(self, scenes: Sequence[TrainScene]) -> None:
        present = sorted({int(c) for scene in scenes for c in scene.site_class})
        self._classes = [
            [(scene, scene.sites[scene.site_class == c]) for scene in scenes if (scene.site_class == c).any()]
            for c in present
        ]

    def __bool__(self) -> bool:
        return bool(self._classes)

    def draw(self, rng: np.random.Generator) -> tuple[TrainScene, NDArray[np.float64]]:
        """A scene and the centre (row, column) of one of its sites."""
        scenes = self._classes[int(rng.integers(len(self._classes)))]
        scene, centres = scenes[int(rng.integers(len(scenes)))]
        return scene, centres[int(rng.integers(len(centres)))]


@dataclass(frozen=True, slots=True)
class ValidationData:
    """What is put aside."""

    scenes: Sequence[PlacedScene] = ()
    sites: gpd.GeoDataFrame | None = None
    """In longitude and latitude, each once, with `class_index`."""
    weak: Sequence[ChipPool] = ()


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All that chips are drawn from."""

    scenes: Sequence[TrainScene]
    rendered: Sequence[TrainScene]
    backgrounds: ChipPool | None
    weak: Sequence[ChipPool] = ()
    validation: ValidationData = ValidationData()
    sites: SitePool = field(init=False)
    rendered_sites: SitePool = field(init=False)
    donors: SitePool = field(init=False)
    """Sites that are pasted elsewhere; real ones twice as often as rendered ones."""

    def __post_init__(self) -> None:
        for name, scenes in (
            ("sites", self.scenes),
            ("rendered_sites", self.rendered),
            ("donors", [*self.scenes, *self.scenes, *self.rendered]),
        ):
            object.__setattr__(self, name, SitePool(scenes))


def load_data(config: TrainConfig) -> TrainingData:
    """Read and render everything into memory.

    Raises:
        GeoslaveError: if something cannot be read, or there is nothing to learn from.
    """
    placed = [scene for source in config.scenes for scene in _read_source(source, config)]
    training, aside = _put_aside(placed, config)
    weak, weak_aside = weak_pools(config)
    rendered = list(_render(config))
    backgrounds = background_pool(config, weak_aside)
    _refuse_nothing_to_learn([*training, *rendered], weak, config)
    return TrainingData(training, rendered, backgrounds, weak, ValidationData(aside, _sites_once(aside), weak_aside))


def _refuse_nothing_to_learn(scenes: Sequence[TrainScene], weak: Sequence[ChipPool], config: TrainConfig) -> None:
    learned = {int(c) for scene in scenes for c in scene.site_class} | {pool.class_index for pool in weak}
    if not learned:
        raise LabelError("nothing to learn from: no labelled site in any scene; check 'scenes' and 'held_out'")
    absent = [name for index, name in enumerate(config.class_names) if index not in learned]
    if absent:
        raise LabelError(
            f"no site of class {', '.join(absent)} to train on: check 'classes' and 'class_column', or leave it out"
        )


# --- labelled scenes -----------------------------------------------------------------------------


def _read_source(source: LabelledScenes, config: TrainConfig) -> Iterator[PlacedScene]:
    """The scenes of a folder that are not held out."""
    paths = [path for path in sorted(Path(source.scenes).glob(source.files)) if not named(path.name, source.leave_out)]
    if not paths:
        raise LabelError(f"{source.scenes} holds no {source.files}: check 'scenes' in the configuration")
    outlines = None
    if source.labels:
        table = read_labels(source.labels, config.sought)
        outlines = Outlines(table.assign(class_index=class_indices(table, source, config)))
    circles, areas = read_unsure_places(source)
    touched = 0
    for path in paths:
        raster, pixels = read_pixels(path, config, source.centre_in_name)
        here = _sites_on(path, raster, outlines, source, config)
        touched += len(here)
        region = _region(here, source)
        if region is not None and region in source.held_out:
            continue
        placed = here.geometry[:0] if areas is None else areas.on(raster).geometry
        truth = _burn_truth(here, placed, circles.get(scene_key(path), ()) if circles else (), raster, source, config)
        patch = Patch(pixels, truth, raster.valid)
        centres, classes = _centres(here, truth, raster)
        scene = TrainScene(patch, _sample(patch), centres, classes, source.stretched, region, path.name)
        yield PlacedScene(scene, raster.geobox, here, _lonlat(raster.geobox), source.aside)
    if not touched:
        what = source.labels or source.masks or source.yolo
        raise LabelError(
            f"none of the labels of {what} lies on a scene of {source.scenes}: check that both are of the same "
            "place, and the labels' CRS"
        )


def _sites_on(
    path: Path, raster: Raster, outlines: Outlines | None, source: LabelledScenes, config: TrainConfig
) -> gpd.GeoDataFrame:
    """The outlines on a scene, in its CRS, with `class_index`."""
    if outlines is not None:
        return outlines.on(raster)
    if source.masks:
        return mask_outlines(path, raster, Path(source.masks), config)
    return yolo_outlines(path, raster, Path(str(source.yolo)), config)


def _region(here: gpd.GeoDataFrame, source: LabelledScenes) -> str | None:
    """The region most labels of a scene name."""
    if not source.region_column or not len(here):
        return None
    if source.region_column not in here:
        raise LabelError(f"{source.labels} has no column '{source.region_column}': change 'region_column'")
    return str(here[source.region_column].mode()[0])


def _burn_truth(
    sites: gpd.GeoDataFrame,
    areas: gpd.GeoSeries,
    unsure: Sequence[Circle],
    raster: Raster,
    source: LabelledScenes,
    config: TrainConfig,
) -> NDArray[np.uint8]:
    """Truth [y, x]: class + 1; IGNORE round sites, along the edge, on unsure places and where not valid."""
    shape = raster.valid.shape
    truth = np.zeros(shape, np.uint8)
    edge = round(source.edge_m / config.gsd_m)
    truth[:edge], truth[max(0, len(truth) - edge) :], truth[:, :edge] = (IGNORE,) * 3
    truth[:, max(0, shape[1] - edge) :] = IGNORE
    if len(sites):
        truth[_burn(_widened(sites.geometry, config.outline_m, raster.geobox), raster)] = IGNORE
        for index in range(len(config.class_names)):
            truth[_burn(sites.geometry[(sites["class_index"] == index).to_numpy()], raster)] = index + 1
        if config.gap_m:
            near = _widened(sites.geometry, config.gap_m / 2, raster.geobox)
            truth[_burn_count(near, raster) > 1] = 0
    y, x = np.ogrid[: shape[0], : shape[1]]
    for row, column, radius in unsure:
        truth[(y + 0.5 - row) ** 2 + (x + 0.5 - column) ** 2 <= radius**2] = IGNORE
    truth[_burn(areas, raster)] = IGNORE
    truth[~raster.valid] = IGNORE
    return truth


def _widened(outlines: gpd.GeoSeries, by_m: float, geobox: GeoBox) -> gpd.GeoSeries:
    """Outlines grown by some metres, measured at the middle of the grid: for a few metres that is exact enough."""
    crs = geobox.crs.proj
    if crs.is_geographic:
        _, lat = geobox.extent.geom.centroid.coords[0]
        unit = np.array([DEGREE_M * cos(radians(lat)), DEGREE_M])
    else:
        unit = np.full(2, crs.axis_info[0].unit_conversion_factor)
    metres = shapely.transform(np.asarray(outlines.array, object), lambda xy: xy * unit)
    grown = shapely.transform(shapely.buffer(metres, by_m), lambda xy: xy / unit)
    return gpd.GeoSeries(grown, index=outlines.index, crs=outlines.crs)


def _burn_count(outlines: gpd.GeoSeries, raster: Raster) -> NDArray[np.uint8]:
    """How many outlines cover each pixel."""
    counted: NDArray[np.uint8] = rasterize(
        [(outline, 1) for outline in outlines],
        raster.valid.shape,
        transform=raster.geobox.affine,
        merge_alg=MergeAlg.add,
        dtype="uint8",
    )
    return counted


def _burn(outlines: gpd.GeoSeries, raster: Raster) -> NDArray[np.bool_]:
    outlines = outlines[~outlines.is_empty]
    if not len(outlines):
        return np.zeros(raster.valid.shape, bool)
    burnt: NDArray[np.uint8] = rasterize(
        list(outlines), raster.valid.shape, transform=raster.geobox.affine, dtype="uint8"
    )
    return burnt.astype(bool)


def _centres(
    sites: gpd.GeoDataFrame, truth: NDArray[np.uint8], raster: Raster
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres [n, 2] (row, column) and classes [n] of the sites that are learned."""
    if not len(sites):
        return np.zeros((0, 2)), np.zeros(0, np.int64)
    points = sites.geometry.representative_point()
    columns, rows = ~raster.geobox.affine @ (points.x.to_numpy(), points.y.to_numpy())
    centres = np.stack([np.asarray(rows), np.asarray(columns)], axis=1) - 0.5
    classes = sites["class_index"].to_numpy(np.int64)
    inside = ((centres >= 0) & (centres <= np.array(truth.shape) - 1)).all(axis=1) & (classes >= 0)
    centres, classes = centres[inside], classes[inside]
    row, col = np.rint(centres).astype(int).T
    learned = truth[row, col] == classes + 1
    return centres[learned], classes[learned]


def _sample(patch: Patch, count: int = 5_000) -> Floats:
    """Display values [band, n] spread over the valid pixels."""
    values = patch.pixels[:, patch.valid]
    return np.ascontiguousarray(display(values[:, :: max(1, values.shape[1] // count)]))


def _lonlat(geobox: GeoBox) -> BaseGeometry:
    """A grid's outline in longitude and latitude."""
    if geobox.crs.epsg == 4326:
        return geobox.extent.geom
    return gpd.GeoSeries([geobox.extent.geom], crs=geobox.crs.to_wkt()).to_crs(4326).iloc[0]


# --- what is put aside ---------------------------------------------------------------------------


def _put_aside(placed: Sequence[PlacedScene], config: TrainConfig) -> tuple[list[TrainScene], list[PlacedScene]]:
    """Scenes to train on, with what is validated on blanked, and scenes to validate on."""
    settings = config.validation
    if settings.by == "none" or not placed:
        return [p.scene for p in placed], []
    if settings.by == "blocks":
        return _put_blocks_aside(placed, config)
    chosen = [p.aside or _is_aside(p.scene, settings) for p in placed]
    aside = [p for p, taken in zip(placed, chosen, strict=True) if taken]
    rest = [p for p, taken in zip(placed, chosen, strict=True) if not taken]
    if not aside or not rest:
        raise LabelError(f"validation by {settings.by} puts {len(aside)} of {len(placed)} scenes aside: change it")
    area = shapely.union_all([p.footprint for p in aside])
    return [scene for p in rest if (scene := _blanked(p, area)) is not None], aside


def _is_aside(scene: TrainScene, settings: Validation) -> bool:
    if settings.by == "region":
        return scene.region is not None and scene.region in settings.regions
    return named(scene.name, settings.scenes)


def _put_blocks_aside(placed: Sequence[PlacedScene], config: TrainConfig) -> tuple[list[TrainScene], list[PlacedScene]]:
    settings = config.validation
    blocks = SpatialBlocks(settings.block_m, settings.buffer_m, settings.share, config.seed)
    aside, training = [], []
    for p in placed:
        tested = shapely.intersection(shapely.union_all(blocks.test_boxes(p.footprint.bounds)), p.footprint)
        if tested.area > 0:
            aside.append(replace(p, footprint=tested))
        hidden = shapely.union_all(blocks.test_boxes(p.footprint.bounds, settings.buffer_m))
        scene = _blanked(p, hidden)
        if scene is not None:
            training.append(scene)
    if not aside or not any(len(scene.sites) for scene in training):
        raise LabelError(
            f"validation by blocks of {settings.block_m:g} m leaves nothing to {'train' if aside else 'validate'} on: "
            "make block_m smaller, or change 'share' or 'seed'"
        )
    return training, aside


def _blanked(placed: PlacedScene, area: BaseGeometry) -> TrainScene | None:
    """A scene that no longer shows an area given in longitude and latitude; None if nothing is left of it."""
    scene, patch = placed.scene, placed.scene.patch
    if not shapely.intersects(area, placed.footprint):
        return scene
    raster = Raster(patch.pixels, patch.valid, placed.geobox)
    hidden = _burn(gpd.GeoSeries([area], crs=4326).to_crs(placed.geobox.crs.to_wkt()), raster)
    valid = patch.valid & ~hidden
    if not valid.any():
        return None
    truth = np.where(hidden, np.uint8(IGNORE), patch.truth)
    kept = Patch(np.where(valid, patch.pixels, patch.pixels.dtype.type(0)), truth, valid)
    row, col = np.rint(scene.sites).astype(int).T
    left = truth[row, col] != IGNORE
    return replace(scene, patch=kept, sample=_sample(kept), sites=scene.sites[left], site_class=scene.site_class[left])


def _sites_once(aside: Sequence[PlacedScene]) -> gpd.GeoDataFrame | None:
    """The sites of the scenes put aside, each once although scenes overlap."""
    if not aside:
        return None
    tables = [p.sites[["class_index", "geometry"]].to_crs(4326) for p in aside if len(p.sites)]
    known = pd.concat(tables, ignore_index=True) if tables else None
    if known is None or not (known["class_index"] >= 0).any():
        raise LabelError("no site in what is put aside for validation: put other scenes aside")
    return known[~pd.Series(shapely.to_wkb(known.geometry.normalize())).duplicated().to_numpy()].reset_index(drop=True)


# --- rendered scenes -----------------------------------------------------------------------------


def _render(config: TrainConfig) -> Iterator[TrainScene]:
    """Rendered scenes, each a little different."""
    rendered = config.scenes_to_render
    for index in range(rendered.count):
        landscape = rendered.landscapes[index % len(rendered.landscapes)]
        scene = render_scene(
            config.seed * 10_000 + index,
            (rendered.size, rendered.size),
            config.gsd_m,
            rendered.sites,
            n_lookalikes=rendered.lookalikes,
            landscape=landscape,
        )
        raster, sites = scene.raster, scene.sites.assign(class_index=0)
        pixels = (raster.pixels.astype(np.float32) / np.float32(255)).astype(np.float32)
        truth = np.zeros(raster.valid.shape, np.uint8)
        truth[_burn(sites.buffer(config.outline_m), raster)] = IGNORE
        truth[_burn(sites.geometry, raster)] = 1
        patch = Patch(pixels, truth, raster.valid)
        yield TrainScene(
            patch, _sample(patch), *_centres(sites, truth, raster), stretched=False, name=f"rendered {index}"
        )
