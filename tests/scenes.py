"""Sentinel-2 products made on the spot: COGs of a band each, a scene classification, and their STAC item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.io import MemoryFile

BANDS = {"red": "B04", "green": "B03", "blue": "B02"}


def write_cog(path: Path, pixels: np.ndarray, transform: Affine, crs: str = "EPSG:32645", **options: Any) -> Path:
    """Pixels [band, y, x] as a deflated cloud-optimized GeoTIFF with blocks of 256."""
    count, rows, cols = pixels.shape
    facts = {"width": cols, "height": rows, "count": count, "dtype": pixels.dtype, "crs": crs, "transform": transform}
    path.parent.mkdir(parents=True, exist_ok=True)
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **facts, **options) as file:
            file.write(pixels)
        with memory.open() as file:
            rasterio.shutil.copy(file, path, driver="COG", compress="DEFLATE", blocksize=256)
    return path


def make_product(
    folder: Path,
    name: str,
    pixels: np.ndarray,
    *,
    classes: np.ndarray | None = None,
    origin: tuple[float, float] = (500_000, 2_650_000),
    gsd: float = 10.0,
    epsg: int = 32645,
    taken: str = "2024-01-10T04:30:00Z",
    cloud: float = 0.0,
    base: str | None = None,
    properties: dict[str, Any] | None = None,
    raster: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes reflectances [red, green, blue] (stored, uint16) and classes (20 m) as COGs; answers the STAC item.

    Args:
        base: address under which `folder` is served; without it assets are local paths.
        raster: what `raster:bands` says of each band.
    """
    place = Affine(gsd, 0, origin[0], 0, -gsd, origin[1])
    rows, cols = pixels.shape[1:]
    files = {}
    for (band, number), layer in zip(BANDS.items(), pixels, strict=True):
        path = write_cog(folder / name / f"{number}.tif", layer[None], place, f"EPSG:{epsg}", nodata=0)
        names = [{"name": number, "common_name": band}]
        files[band] = (
            path,
            {"eo:bands": names, "raster:bands": [{"nodata": 0, "data_type": "uint16", **(raster or {})}]},
        )
    if classes is not None:
        scl = write_cog(
            folder / name / "SCL.tif", classes[None].astype(np.uint8), place * Affine.scale(2), f"EPSG:{epsg}"
        )
        files["scl"] = (scl, {})
    x0, y0 = origin
    project = Transformer.from_crs(f"EPSG:{epsg}", "OGC:CRS84", always_xy=True)
    outline = shapely.transform(
        shapely.segmentize(shapely.box(x0, y0 - rows * gsd, x0 + cols * gsd, y0), 1000),
        lambda xy: np.column_stack(project.transform(xy[:, 0], xy[:, 1])),
    )
    assets = {
        key: {
            "href": str(path) if base is None else f"{base}/{path.relative_to(folder).as_posix()}",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            **fields,
        }
        for key, (path, fields) in files.items()
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": shapely.geometry.mapping(outline),
        "bbox": list(outline.bounds),
        "properties": {
            "datetime": taken,
            "eo:cloud_cover": cloud,
            "proj:epsg": epsg,
            "proj:shape": [rows, cols],
            "proj:transform": list(place)[:6],
            **(properties or {}),
        },
        "links": [],
        "assets": assets,
    }


def reflectances(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Uint16 [3, y, x] of dull ground, about 500 to 1500."""
    return np.random.default_rng(seed).integers(500, 1500, (3, *shape)).astype(np.uint16)
