"""Where the sites of a training scene are: outlines on its grid, from a layer, a mask or a YOLO file.

Training reads the labels of each scene when it reads the scene, so that a scene without its label, or with
a mask of another size, is refused; `geoslave labels import` makes one layer of the same files.
"""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import yaml
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import shapes

from geoslave.errors import LabelError
from geoslave.imagery.raster import Raster
from geoslave.labels.formats import read_labels
from geoslave.model.augment import IGNORE
from geoslave.model.package import sha256
from geoslave.model.recipe import LabelledScenes, TrainConfig

Circle = tuple[float, float, float]
"""(row, column, radius) in pixels."""
NOT_LEARNED = -1
"""Class of outlines that are known to be there but are not learned."""
_LISTS = (".yaml", ".yml")


class Outlines:
    """Outlines that are asked for by scene; brought to each CRS once."""

    def __init__(self, table: gpd.GeoDataFrame) -> None:
        self._table = table
        self._placed: dict[str, gpd.GeoDataFrame] = {}

    def on(self, geobox: GeoBox) -> gpd.GeoDataFrame:
        """Those that touch a grid, in its CRS."""
        crs = geobox.crs.to_wkt()
        if crs not in self._placed:
            self._placed[crs] = self._table.to_crs(crs)
        placed = self._placed[crs]
        return placed.iloc[np.sort(placed.sindex.query(geobox.extent.geom, predicate="intersects"))]


def class_indices(outlines: gpd.GeoDataFrame, source: LabelledScenes, config: TrainConfig) -> NDArray[np.int64]:
    """The class of each outline; what is not to be learned is NOT_LEARNED."""
    if not config.classes:
        index = np.zeros(len(outlines), np.int64)
    else:
        if source.class_column not in outlines:
            columns = ", ".join(str(c) for c in outlines.columns if c != "geometry")
            raise LabelError(f"{source.labels} has no column '{source.class_column}', only {columns}")
        names = list(config.classes)
        values = outlines[source.class_column].astype(str)
        index = np.array([names.index(v) if v in names else NOT_LEARNED for v in values], np.int64)
        if (index == NOT_LEARNED).all():
            raise LabelError(f"{source.labels}: no label is of class {' or '.join(names)}; it has {set(values)}")
    return np.where(outlines["certainty"].to_numpy(float) < source.certainty, NOT_LEARNED, index)


def mask_outlines(path: Path, raster: Raster, folder: Path, config: TrainConfig) -> gpd.GeoDataFrame:
    """The areas of a mask of the same name and size as the scene."""
    mask_path = next(
        (p for p in sorted(folder.glob(f"{path.stem}.*")) if p.suffix in (path.suffix, ".tif", ".png")), None
    )
    if mask_path is None:
        raise LabelError(f"{path.name} has no mask of its name in {folder}: add one, or leave the scene out")
    with rasterio.open(path) as scene, rasterio.open(mask_path) as file:
        if (file.height, file.width) != (scene.height, scene.width):
            raise LabelError(
                f"{mask_path} is {file.width} x {file.height} pixels, its scene {scene.width} x {scene.height}: "
                "give a mask of the scene's size"
            )
        mask, affine, crs = file.read(1), scene.transform, scene.crs
    found = [
        (shapely.geometry.shape(area), int(value))
        for area, value in shapes(mask.astype(np.int32), mask != 0, transform=affine)
    ]
    highest = max((value for _, value in found if value != IGNORE), default=0)
    if config.classes and highest > len(config.classes):
        raise LabelError(f"{mask_path} holds class {highest}, but 'classes' names {len(config.classes)}")
    several = len(config.class_names) > 1
    classes = [NOT_LEARNED if value == IGNORE else value - 1 if several else 0 for _, value in found]
    table = gpd.GeoDataFrame({"class_index": classes}, geometry=[area for area, _ in found], crs=crs)
    return table.to_crs(raster.geobox.crs.to_wkt())


def yolo_outlines(path: Path, raster: Raster, folder: Path, config: TrainConfig) -> gpd.GeoDataFrame:
    """Boxes of a YOLO text file: class, then centre and size or four corners, as shares of the image."""
    file = folder / f"{path.stem}.txt"
    if not file.is_file():
        raise LabelError(f"{path.name} has no label file {file}: add one (empty if there is no site)")
    rows, cols = raster.valid.shape
    classes, outlines = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, *values = line.split()
            share = np.array(values, float)
            corners = share.reshape(4, 2) if len(share) == 8 else _box_corners(*share)
            index = int(kind) if config.classes else 0
        except (ValueError, TypeError):
            raise LabelError(f"{file}, line {number}: not a class with a box or four corners: mend it") from None
        if index >= len(config.class_names):
            raise LabelError(f"{file}, line {number}: class {index}, but 'classes' names {len(config.class_names)}")
        x, y = raster.geobox.affine @ (corners[:, 0] * cols, corners[:, 1] * rows)
        classes.append(index)
        outlines.append(shapely.make_valid(shapely.Polygon(np.column_stack([x, y]))))
    return gpd.GeoDataFrame({"class_index": classes}, geometry=outlines, crs=raster.geobox.crs.to_wkt())


def _box_corners(x: float, y: float, width: float, height: float) -> NDArray[np.float64]:
    return np.array([[x, y]]) + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array([[width, height]]) / 2


def read_unsure_places(source: LabelledScenes) -> tuple[dict[str, list[Circle]], Outlines | None]:
    """Unsure places: circles by scene, or outlines."""
    if source.unsure is None:
        return {}, None
    path = Path(source.unsure)
    return (read_unsure(path), None) if path.suffix in _LISTS else ({}, Outlines(read_labels(path)))


def read_unsure(path: Path) -> dict[str, list[Circle]]:
    """Places with which nothing is learned, by scene (`scene_key`): circles in pixels.

    A scene is named by what is in its file, so that a list of unlabelled sites can be shared without
    telling where they are.
    """
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {str(key): [(float(r), float(c), float(size)) for r, c, size in rows] for key, rows in read.items()}
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise LabelError(
            f"{path} is no list of unsure places ({error}): write  SCENE_KEY: [[row, column, radius], ...]"
        ) from error


def scene_key(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    return sha256(path)[:16]
