"""A rendered scene with kilns, indexed with the shipped encoder, and a reviewer who knows the truth."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import rasterio

from geoslave.labels.synthetic import render_scene
from geoslave.search.embedder import open_embedder
from geoslave.search.index import ChipIndex, Settings, build_index, open_index, scenes_ground


def write_scene(folder: Path, seed: int = 5, side: int = 512, kilns: int = 26) -> tuple[Path, gpd.GeoDataFrame]:
    """(a rendered scene on disk, the outlines of its kilns in longitude and latitude)."""
    rendered = render_scene(seed, (side, side), n_kilns=kilns, landscape="plain")
    raster = rendered.raster
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "delta.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=side, width=side, dtype=raster.pixels.dtype,
        crs=raster.geobox.crs.to_wkt(), transform=raster.geobox.affine, photometric="RGB",
    ) as file:  # fmt: skip
        file.write(raster.pixels)
    return path, rendered.sites.to_crs(4326)


def make_index(folder: Path, scene: Path) -> ChipIndex:
    build_index(scenes_ground([scene]), folder, open_embedder("kiln-s2", threads=1), Settings())
    return open_index(folder)


def truth(index: ChipIndex, sites: gpd.GeoDataFrame) -> dict[str, str]:
    """What somebody who sees everything answers to each chip: yes where a kiln's middle lies in its frame."""
    points = sites.geometry.representative_point()
    _, hit = index.chips.sindex.query(points.array, predicate="intersects")
    yes = set(index.chips["chip_id"].to_numpy()[hit])
    return {chip: "yes" if chip in yes else "no" for chip in index.chips["chip_id"]}
