"""What chips are drawn from, read into memory: labelled scenes, backgrounds, weak chips, rendered scenes.

Everything is kept as display values (see `imagery.scaling`). Outlines, masks and YOLO files all
become outlines on a scene's grid first, so that borders, classes and unsure places are treated in one way.
What is put aside for validation is blanked in every training scene that shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

from geoslave.errors import LabelError
from geoslave.imagery.raster import Raster
from geoslave.labels.formats import read_labels
from geoslave.labels.split import DEGREE_M, named
from geoslave.labels.synthetic import render_scene
from geoslave.model.aside import ground, put_aside
from geoslave.model.augment import IGNORE, Patch
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
from geoslave.model.placed import PlacedScene, TrainScene, WithheldScene, burn, outline_of, sample_of
from geoslave.model.recipe import LabelledScenes, TrainConfig
from geoslave.model.regions import region_of
from geoslave.model.scene_pixels import grid_of, read_pixels
from geoslave.model.weak_sources import tested_ground, weak_answers, weak_pools


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
    read = [scene for source in config.scenes for scene in _read_source(source, config)]
    placed = [scene for scene in read if isinstance(scene, PlacedScene)]
    answers = weak_answers(config)
    withheld = [ground(scene) for scene in read if isinstance(scene, WithheldScene)]
    parted = put_aside(placed, [*withheld, *tested_ground(answers, config)], config)
    weak, weak_aside = weak_pools(answers, parted.hidden, config)
    rendered = list(_render(config))
    backgrounds = background_pool(config, weak_aside)
    _refuse_nothing_to_learn([*parted.training, *rendered], weak, config)
    validation = ValidationData(parted.aside, _sites_once(parted.aside), weak_aside)
    return TrainingData(parted.training, rendered, backgrounds, weak, validation)


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


def _read_source(source: LabelledScenes, config: TrainConfig) -> Iterator[PlacedScene | WithheldScene]:
    """The scenes of a folder; of those left out and those held out only where they lie."""
    paths = sorted(Path(source.scenes).glob(source.files))
    if all(named(path.name, source.leave_out) for path in paths):
        raise LabelError(f"{source.scenes} holds no {source.files}: check 'scenes' in the configuration")
    outlines = None
    if source.labels:
        table = read_labels(source.labels, config.sought)
        outlines = Outlines(table.assign(class_index=class_indices(table, source, config)))
    circles, areas = read_unsure_places(source)
    touched = 0
    for path in paths:
        if named(path.name, source.leave_out):
            yield from _left_out(path, outlines, source, config)
            continue
        raster, pixels = read_pixels(path, config, source.centre_in_name)
        here = _sites_on(path, raster, outlines, source, config)
        touched += len(here)
        region = region_of(here, source)
        footprint = outline_of(raster.geobox)
        if region is not None and region in source.held_out:
            yield WithheldScene(here, footprint)
            continue
        placed = here.geometry[:0] if areas is None else areas.on(raster.geobox).geometry
        truth = _burn_truth(here, placed, circles.get(scene_key(path), ()) if circles else (), raster, source, config)
        patch = Patch(pixels, truth, raster.valid)
        centres, classes = _centres(here, truth, raster)
        scene = TrainScene(patch, sample_of(patch), centres, classes, source.stretched, region, path.name)
        yield PlacedScene(scene, raster.geobox, here, footprint, source.aside)
    if not touched:
        what = source.labels or source.masks or source.yolo
        if not source.labels:
            raise LabelError(f"no file of {what} holds a site: a network needs some to learn from; check the folder")
        raise LabelError(
            f"none of the labels of {what} lies on a scene of {source.scenes}: check that both are of the same "
            "place, and the labels' CRS"
        )


def _left_out(
    path: Path, outlines: Outlines | None, source: LabelledScenes, config: TrainConfig
) -> Iterator[WithheldScene]:
    """Where a scene for the test lies; nothing if it cannot be opened, for then nobody tests on it."""
    grid = grid_of(path, config, source.centre_in_name)
    if grid is not None:
        # sites of masks and YOLO files end where their scene does
        sites = gpd.GeoDataFrame(geometry=[], crs=4326) if outlines is None else outlines.on(grid)
        yield WithheldScene(sites, outline_of(grid))


def _sites_on(
    path: Path, raster: Raster, outlines: Outlines | None, source: LabelledScenes, config: TrainConfig
) -> gpd.GeoDataFrame:
    """The outlines on a scene, in its CRS, with `class_index`."""
    if outlines is not None:
        return outlines.on(raster.geobox)
    if source.masks:
        return mask_outlines(path, raster, Path(source.masks), config)
    return yolo_outlines(path, raster, Path(str(source.yolo)), config)


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
        truth[burn(_widened(sites.geometry, config.outline_m, raster.geobox), raster)] = IGNORE
        for index in range(len(config.class_names)):
            truth[burn(sites.geometry[(sites["class_index"] == index).to_numpy()], raster)] = index + 1
        if config.gap_m:
            near = _widened(sites.geometry, config.gap_m / 2, raster.geobox)
            truth[_burn_count(near, raster) > 1] = 0
    y, x = np.ogrid[: shape[0], : shape[1]]
    for row, column, radius in unsure:
        truth[(y + 0.5 - row) ** 2 + (x + 0.5 - column) ** 2 <= radius**2] = IGNORE
    truth[burn(areas, raster)] = IGNORE
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
        truth[burn(sites.buffer(config.outline_m), raster)] = IGNORE
        truth[burn(sites.geometry, raster)] = 1
        patch = Patch(pixels, truth, raster.valid)
        yield TrainScene(
            patch, sample_of(patch), *_centres(sites, truth, raster), stretched=False, name=f"rendered {index}"
        )
