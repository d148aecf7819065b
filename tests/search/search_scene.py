"""A rendered scene with kilns, indexed with the shipped encoder, and a reviewer who knows the truth."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

import geopandas as gpd
import rasterio

from geoslave.labels.synthetic import render_scene
from geoslave.search.campaign import Campaign, start_campaign
from geoslave.search.embedder import open_embedder
from geoslave.search.index import ChipIndex, Settings, build_index, open_index, scenes_ground
from geoslave.targets import get_target


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


@functools.cache
def shared() -> tuple[ChipIndex, gpd.GeoDataFrame]:
    """(an index of 64 chips, the outlines of the kilns in them), made once; each test begins a campaign of its own."""
    folder = Path(tempfile.mkdtemp(prefix="geoslave-search-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    scene, sites = write_scene(folder, seed=5, side=256, kilns=9)
    return make_index(folder / "index", scene), sites


def begin(n_examples: int = 2, page_size: int = 12) -> Campaign:
    """A new campaign over the shared index, with points in some kilns as examples."""
    index, sites = shared()
    like = sites.iloc[:n_examples]
    like = like.set_geometry(like.geometry.representative_point())
    return start_campaign(index, f"c{uuid4().hex[:10]}", like, target=get_target("brick_kiln"), page_size=page_size)
