"""The main path as one function: scene -> chips -> scores -> polygons with confidence.

It joins the rooms and holds no science of its own. Scores go to disk first, so memory does not
grow with the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from geoslave import __version__
from geoslave.detections.export import combine, merge_overlapping
from geoslave.detections.measure import to_wgs84
from geoslave.detections.polygonize import Confidence, SiteObject, polygonize, to_detections
from geoslave.detections.schema import empty
from geoslave.errors import EmptyScene, GeoslaveError, SceneError
from geoslave.files import refuse_existing, scratch_folder
from geoslave.grid import Cell, partition
from geoslave.imagery.aoi import aoi_on, choose_cells, touches
from geoslave.imagery.geotiff import Reading, Scene, gdal_environment, open_scene
from geoslave.imagery.names import scene_ids
from geoslave.imagery.raster import SCORE_STEPS
from geoslave.imagery.scorefile import ScoreFile, publish_scores, score_file
from geoslave.model.package import ModelPackage, ModelSpec
from geoslave.model.predict import Network, Predictor, predict_cells

Progress = Callable[[str, int, int], None]
"""(what is done now, steps done, steps in all)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a user may say about a run besides scenes and model."""

    numbers: Mapping[str, int] | None = None
    """Band numbers by common name."""
    crs: str | None = None
    nodata: float | None = None
    trust_all: bool = False
    aoi: gpd.GeoSeries | None = None
    """In longitude and latitude."""
    threshold: float | None = None
    """Score that seeds a detection; None takes the model's."""
    date: date | None = None

    def reading(self, spec: ModelSpec) -> Reading:
        """How a scene is read for a model."""
        return Reading(spec.bands, self.numbers, spec.gsd_m, self.crs, self.nodata, self.trust_all)


@dataclass(frozen=True, slots=True)
class SceneResult:
    """What came out of one scene."""

    detections: gpd.GeoDataFrame
    scene_id: str
    date: date | None
    n_chips: int
    """Chips the network looked at."""
    n_empty: int
    """Chips without a valid pixel, left out."""
    footprint: BaseGeometry
    """Of the scene, in longitude and latitude; two parts if it lies across the antimeridian."""
    notes: tuple[str, ...]
    outside: bool = False
    """The area of interest misses the scene: nothing was looked at."""


Statistic = NDArray[np.float64]


def _quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def detect_scene(
    path: str | Path,
    package: ModelPackage,
    network: Network,
    work: Path,
    request: Request | None = None,
    *,
    scene_id: str | None = None,
    scores: Path | None = None,
    overwrite: bool = False,
    progress: Progress = _quiet,
) -> SceneResult:
    """Find sites in one scene.

    Args:
        work: an existing folder for what is in the making, on a disk with room for one byte a pixel.
        scene_id: the scene's name in the layer; None takes the file's.
        scores: where the score map (COG) goes, if it is wanted.

    Raises:
        SceneError: if the scene cannot be used with this model.
        OutputError: if the disk refuses.
    """
    request = request or Request()
    spec = package.spec
    with gdal_environment(), open_scene(path, request.reading(spec)) as scene:
        scene.scene_id = scene_id or scene.scene_id
        area = None if request.aoi is None else aoi_on(request.aoi, scene.geobox)
        if area is not None and not touches(area, scene.geobox):
            return _nothing(scene, request, why="lies outside the area of interest", outside=True)
        factor, summand = scene.scaling(spec.scaling)
        predictor = Predictor(network, factor, summand, spec.scaling.clip)
        cells = _cells(scene, spec, area)
        making = work / f"{scene.scene_id}-scores.tif"
        cache = scene.cache_bytes(spec.tile + 2 * spec.halo)
        with gdal_environment(cache), score_file(making, scene.geobox, spec.classes, spec.tile) as file:
            n_empty = _write_scores(scene, predictor, cells, file, progress)
            found = _find(file, scene, package, request, progress)
        if scores is not None:
            publish_scores(making, scores, overwrite=overwrite)
        making.unlink()
        return SceneResult(
            detections=found if area is None else inside(found, area, scene.geobox),
            scene_id=scene.scene_id,
            date=request.date or scene.date,
            n_chips=len(cells) - n_empty,
            n_empty=n_empty,
            footprint=scene_footprint(scene),
            notes=_notes(scene, spec),
        )


def provenance(package: ModelPackage, results: Sequence[SceneResult], request: Request, **more: Any) -> dict[str, Any]:
    """Where a layer comes from: flat, without local paths or names of users."""
    high, low = _thresholds(package.spec, request)
    dates = sorted(str(result.date) for result in results if result.date)
    return {
        "geoslave_version": __version__,
        "model_id": package.model_id,
        "model_sha256": package.checksum,
        "target": package.spec.target,
        "scenes": [result.scene_id for result in results],
        "first_date": dates[0] if dates else None,
        "last_date": dates[-1] if dates else None,
        "threshold_high": high,
        "threshold_low": low,
        "confidence": package.spec.confidence.meaning,
        "calibrated": package.spec.confidence.calibrated,
        "operating_confidence": package.spec.confidence.operating,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **more,
    }


def _cells(scene: Scene, spec: ModelSpec, area: BaseGeometry | None) -> list[Cell]:
    cells = partition(scene.geobox.shape, spec.tile, spec.halo, spec.stride)
    if area is None:
        return list(cells)
    return list(choose_cells(cells, area, scene.geobox, spec.sought.length_m[1]))


def _write_scores(
    scene: Scene, predictor: Predictor, cells: Sequence[Cell], file: ScoreFile, progress: Progress
) -> int:
    """Score every cell and store it beside the network's work. Returns the cells without a valid pixel."""
    n_empty = 0
    progress("looking", 0, len(cells))
    with ThreadPoolExecutor(1) as pool:
        writing: Future[None] | None = None
        for done, chip in enumerate(predict_cells(scene, predictor, cells), start=1):
            if writing is not None:
                writing.result()
            if chip.scores is None:
                n_empty += 1
                writing = None
            else:
                writing = pool.submit(file.write, chip.scores, chip.cell.core)
            progress("looking", done, len(cells))
        if writing is not None:
            writing.result()
    return n_empty


def _find(
    file: ScoreFile, scene: Scene, package: ModelPackage, request: Request, progress: Progress
) -> gpd.GeoDataFrame:
    """The detections of a scored scene, all classes."""
    spec = package.spec
    high, low = stored_thresholds(spec, request)
    layers = []
    progress("outlining", 0, len(spec.classes))
    for band, name in enumerate(spec.classes, start=1):
        objects = polygonize(partial(file.read, band=band), tuple(scene.geobox.shape), low, high)
        layers.append(place(objects, scene.geobox, package, name, scene.scene_id, request.date or scene.date))
        progress("outlining", band, len(spec.classes))
    return combine(layers)


def place(
    objects: Sequence[SiteObject],
    geobox: GeoBox,
    package: ModelPackage,
    class_name: str,
    scene_id: str,
    taken: date | None,
) -> gpd.GeoDataFrame:
    """Objects of a scene's score map as detections: those of the size of sites, with the model's confidence."""
    spec = package.spec
    found = to_detections(
        objects,
        geobox,
        target=spec.sought,
        class_name=class_name,
        scene_id=scene_id,
        model_id=package.model_id,
        date=None if taken is None else taken.isoformat(),
        confidence=_confidence(spec),
        calibrated=spec.confidence.calibrated,
    )
    return _with_interval(found, spec)


def _with_interval(detections: gpd.GeoDataFrame, spec: ModelSpec) -> gpd.GeoDataFrame:
    """With `confidence_low` and `confidence_high` (95 %) where the model has a calibration."""
    columns = ("score_mean", "score_max", "area_m2", "length_m", "width_m")
    mean, top, area, length, width = (detections[name].to_numpy(float) for name in columns)
    limits = spec.confidence.interval(mean, top, area, length / np.maximum(width, 1e-3))
    if limits is None:
        return detections
    low, high = (limit.round(4) for limit in limits)
    sure = detections["confidence"]
    # scores are rounded in the table: the interval still holds its confidence
    return detections.assign(confidence_low=np.minimum(low, sure), confidence_high=np.maximum(high, sure))


def stored_thresholds(spec: ModelSpec, request: Request) -> tuple[int, int]:
    """(high, low) in force, as stored scores."""
    high, low = (max(1, round(t * SCORE_STEPS)) for t in _thresholds(spec, request))
    return high, low


def _confidence(spec: ModelSpec) -> Confidence:
    """The model's confidence as a function of an object's scores, size and shape."""

    def confidence(mean: Statistic, top: Statistic, area: Statistic, elongation: Statistic) -> Statistic:
        return spec.confidence.apply(mean, top, area, elongation)

    return confidence


def _thresholds(spec: ModelSpec, request: Request) -> tuple[float, float]:
    """(high, low) in force."""
    high = spec.thresholds.high if request.threshold is None else request.threshold
    return high, min(spec.thresholds.low, high)


def inside(detections: gpd.GeoDataFrame, area: BaseGeometry, geobox: GeoBox) -> gpd.GeoDataFrame:
    """Detections on a grid whose representative point lies in an area given in its pixel coordinates."""
    inverse = ~geobox.affine
    points = detections.representative_point()
    x, y = inverse @ (points.x.to_numpy(), points.y.to_numpy())
    return detections[shapely.contains_xy(area, x, y)]


def _nothing(scene: Scene, request: Request, *, why: str, outside: bool) -> SceneResult:
    """The result for a scene that was not looked at."""
    return SceneResult(
        detections=empty(str(scene.geobox.crs)),
        scene_id=scene.scene_id,
        date=request.date or scene.date,
        n_chips=0,
        n_empty=0,
        footprint=scene_footprint(scene),
        notes=(f"{scene.scene_id} {why}: nothing was looked at",),
        outside=outside,
    )


def _blank(path: str, scene_id: str, package: ModelPackage, request: Request) -> SceneResult:
    """The result for a scene of which every pixel is nodata."""
    with open_scene(path, request.reading(package.spec)) as scene:
        scene.scene_id = scene_id
        return _nothing(scene, request, why="holds no valid pixel", outside=False)


def scene_footprint(scene: Scene) -> BaseGeometry:
    """Where a scene lies, in longitude and latitude; in two parts across the antimeridian."""
    return grid_footprint(scene.geobox, scene.path)


def grid_footprint(geobox: GeoBox, name: str) -> BaseGeometry:
    """Where a grid lies, in longitude and latitude; in two parts across the antimeridian.

    Raises:
        SceneError: that names it, if it is not on Earth.
    """
    rows, cols = geobox.shape
    outline = shapely.segmentize(shapely.box(0, 0, cols, rows), max(rows, cols) / 16)
    placed = shapely.transform(outline, lambda xy: np.column_stack(geobox.affine @ (xy[:, 0], xy[:, 1])))
    crs = geobox.crs.proj
    if crs.is_geographic and np.ptp(placed.bounds[::2]) >= 359:
        return placed.envelope.intersection(shapely.box(-180, -90, 180, 90))  # the whole globe has no seam to cut at
    try:
        return shapely.make_valid(to_wgs84(np.array([placed]), crs)[0])
    except GeoslaveError as error:
        raise SceneError(f"{name} is not on Earth ({crs.name}): give a scene of the Earth") from error


def _notes(scene: Scene, spec: ModelSpec) -> tuple[str, ...]:
    notes = [*scene.remarks()]
    if scene.resampled:
        notes.append(f"{scene.scene_id} was resampled to the model's {spec.gsd_m:g} m")
    return tuple(notes)


def detect_scenes(
    paths: Sequence[str],
    package: ModelPackage,
    network: Network,
    beside: Path | None = None,
    request: Request | None = None,
    *,
    scores: Path | None = None,
    overwrite: bool = False,
    progress: Progress = _quiet,
) -> tuple[gpd.GeoDataFrame, list[SceneResult]]:
    """Find sites in several scenes: one layer, in which a place seen twice is reported once.

    All scenes are opened before the first is looked at, so that a wrong one fails at once.

    Args:
        beside: an output; what is in the making goes into a hidden folder next to it. None: the
            system's folder for temporary files.
        scores: the score map of one scene, or the folder for those of several.

    Raises:
        GeoslaveError: if a scene cannot be used, or every scene misses the area of interest.
    """
    request = request or Request()
    names = scene_ids(paths)
    maps = _score_paths(scores, names, overwrite)
    for path in paths:
        open_scene(path, request.reading(package.spec)).close()
    results = []
    with scratch_folder(beside or Path(gettempdir()) / "geoslave") as work:
        for path, name, score_map in zip(paths, names, maps, strict=True):
            label = "" if len(paths) == 1 else f"{name}: "
            try:
                result = detect_scene(
                    path,
                    package,
                    network,
                    work,
                    request,
                    scene_id=name,
                    scores=score_map,
                    overwrite=overwrite,
                    progress=_labelled(progress, label),
                )
            except EmptyScene:
                if len(paths) == 1:
                    raise
                result = _blank(path, name, package, request)
            results.append(result)
    if all(result.outside for result in results):
        raise GeoslaveError("the area of interest (--aoi) misses every scene: check its CRS and its place")
    if not any(result.n_chips for result in results):
        raise EmptyScene("no scene holds a valid pixel: every pixel is nodata; nothing to look at")
    layer = combine([result.detections for result in results])
    return merge_overlapping(layer, package.spec.sought), results


def _labelled(progress: Progress, label: str) -> Progress:
    """The same progress, with the scene's name before each stage."""
    return lambda stage, done, total: progress(label + stage, done, total)


def _score_paths(scores: Path | None, names: Sequence[str], overwrite: bool) -> list[Path | None]:
    """Where each scene's score map goes."""
    if scores is None:
        return [None] * len(names)
    a_file = scores.suffix.lower() in (".tif", ".tiff")
    single = len(names) == 1 and a_file
    if a_file and not single:
        raise GeoslaveError(f"--scores {scores}: give a .tif for one scene, a folder for several")
    maps = [scores] if single else [scores / f"{name}-scores.tif" for name in names]
    for path in maps:
        refuse_existing(path, overwrite)
    return list(maps)
