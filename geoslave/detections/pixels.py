"""Agreement of areas: which ground is called a site and which is labelled one, pixel by pixel or by outlines.

Only counted ground is looked at (`geoslave.detections.ground`): no margins along the edges, every
place once however many scenes show it. With TP, FP and FN the areas (m2) that are called and
labelled, called only, and labelled only: IoU = TP / (TP + FP + FN), precision = TP / (TP + FP),
recall = TP / (TP + FN). Labels are drawn outlines: at 10 m a site is about 10 x 5 pixels, so one
pixel more or less along its rim moves the IoU by a third while nothing is wrong with the map.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from geoslave.detections import bootstrap
from geoslave.detections.bootstrap import Weights
from geoslave.detections.ground import Ground
from geoslave.detections.match import Floats, Geometries, lonlat
from geoslave.detections.measure import areas_m2
from geoslave.imagery.scoremosaic import MergedScores

Facts = dict[str, Any]


def by_pixel(
    windows: Iterable[MergedScores], labels: gpd.GeoDataFrame, ground: Ground, threshold: int, weight: Weights
) -> Facts:
    """Agreement of the score mask with the labels.

    Args:
        windows: of all scenes, overlap counted once.
        labels: any CRS; a pixel is labelled if its centre lies in one.
        threshold: stored score (0..254) from which a pixel is called a site.
        weight: of the bootstrap over `ground.blocks`.
    """
    outlines = lonlat(labels, "labels")
    trees = shapely.STRtree(outlines), shapely.STRtree(ground.blocks)
    table = np.zeros((3, max(len(ground.blocks), 1)))
    n_pixels = 0
    for window in windows:
        extent = _extent(window.geobox)
        block = _burn(ground.blocks, trees[1].query(extent), window.geobox, numbered=True)
        counted = window.own & (block > 0)
        if not counted.any():
            continue
        labelled = _burn(outlines, trees[0].query(extent), window.geobox)[counted] > 0
        called = window.scores[counted] >= threshold
        table += _pixel_m2(window.geobox) * _counts(called, labelled, block[counted] - 1, table.shape[1])
        n_pixels += int(counted.sum())
    return {"of": "score mask", "threshold": threshold / 254, "n_pixels": n_pixels, **_figures(table, weight)}


def by_outline(detections: Geometries, labels: gpd.GeoDataFrame, ground: Ground, weight: Weights) -> Facts:
    """Agreement of detections' outlines (longitude/latitude) with the labels, where there is no score mask."""
    outlines = lonlat(labels, "labels")
    trees = shapely.STRtree(detections), shapely.STRtree(outlines)
    table = np.zeros((3, max(len(ground.blocks), 1)))
    for number, block in enumerate(ground.blocks):
        called, labelled = (
            shapely.intersection(shapely.union_all(shapes[tree.query(block)]), block)
            for tree, shapes in zip(trees, (detections, outlines), strict=True)
        )
        both = shapely.intersection(called, labelled)
        all_called, all_labelled, common = areas_m2(np.array([_areal(s) for s in (called, labelled, both)]), 4326)
        table[:, number] = common, max(all_called - common, 0), max(all_labelled - common, 0)
    return {"of": "outlines", "threshold": None, "n_pixels": None, **_figures(table, weight)}


def _figures(table: Floats, weight: Weights) -> Facts:
    """Rates from TP, FP and FN [3, block] in m2."""
    right, extra, lacking = table
    return {
        **bootstrap.share(right, right + extra + lacking, weight, counted=False).named("iou"),
        **bootstrap.share(right, right + extra, weight, counted=False).named("precision"),
        **bootstrap.share(right, right + lacking, weight, counted=False).named("recall"),
        "called_km2": float((right + extra).sum() / 1e6),
        "labelled_km2": float((right + lacking).sum() / 1e6),
    }


def _counts(called: NDArray[np.bool_], labelled: NDArray[np.bool_], block: NDArray[Any], n_blocks: int) -> Floats:
    """TP, FP and FN pixels in each block: [3, block]."""
    cases = (called & labelled, called & ~labelled, ~called & labelled)
    return np.stack([np.bincount(block[case], minlength=n_blocks) for case in cases]).astype(np.float64)


def _burn(outlines: Geometries, rows: NDArray[Any], geobox: GeoBox, *, numbered: bool = False) -> NDArray[np.int32]:
    """Some outlines (longitude/latitude) on a grid: 1, or their position + 1; 0 elsewhere."""
    if not len(rows):
        return np.zeros(geobox.shape, np.int32)
    shapes = gpd.GeoSeries(outlines[rows], crs=4326).to_crs(geobox.crs.to_wkt())
    values = rows + 1 if numbered else np.ones(len(rows), np.int64)
    pairs = [(shape, int(value)) for shape, value in zip(shapes, values, strict=True) if not shape.is_empty]
    burnt: NDArray[np.int32] = rasterize(
        pairs, out_shape=tuple(geobox.shape), transform=geobox.affine, fill=0, dtype="int32"
    )
    return burnt


def _extent(geobox: GeoBox) -> shapely.Geometry:
    """A grid's box in longitude/latitude."""
    outline = gpd.GeoSeries([geobox.extent.geom], crs=geobox.crs.to_wkt())
    return shapely.box(
        *outline.segmentize(max(geobox.resolution.x, -geobox.resolution.y) * 64).to_crs(4326).total_bounds
    )


def _pixel_m2(geobox: GeoBox) -> float:
    """Area of a pixel, on average over the grid."""
    return float(areas_m2(np.array([geobox.extent.geom]), geobox.crs.to_wkt())[0] / np.prod(geobox.shape))


def _areal(shape: shapely.Geometry) -> shapely.Geometry:
    """The polygons of a shape; what only touches has none."""
    parts = shapely.get_parts(shapely.get_parts(shape))  # collections may hold multipolygons
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])
