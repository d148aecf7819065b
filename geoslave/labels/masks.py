"""Masks as rasters: every patch of one value becomes an outline.

0 is background; nodata and what a mask's own validity mask hides are ignored. In 8-bit masks that
declare no nodata, 255 is a class where it is the only value besides 0 (black and white), and ignored
beside other classes, as is the custom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import shapes

from geoslave.errors import LabelError
from geoslave.labels.images import ImageIndex, georeference, images_in, stem
from geoslave.labels.table import Tally

MOST_CLASSES = 64
"""A raster with more different values is a picture, not a mask."""
_SUFFIXES = ("_mask", "-mask", "_label", "_labels", "_gt", "_seg")


@dataclass(frozen=True, slots=True)
class _Mask:
    values: NDArray[Any]
    """[y, x]"""
    site: NDArray[np.bool_]
    """[y, x], True where a value stands for a site."""


def read_masks(source: Path, images: ImageIndex, tally: Tally, classes: Sequence[str] = ()) -> gpd.GeoDataFrame:
    """The outlines of one mask or of a folder of masks, in longitude/latitude.

    Pixels that touch at a corner belong together. A mask without a georeference takes that of the
    image of its name (`a.png` or `a_mask.png` beside `a.tif`, or among `images`).

    Args:
        classes: names of the values 1, 2, ...; `class_id` is the value.

    Raises:
        LabelError: if a mask has another size than its image, several bands, values that are no
            classes, or no place on earth; or if no mask holds a site.
    """
    tables = []
    paths = _mask_files(source, tally)
    if not paths:
        raise LabelError(f"{source.name}: holds no raster, so no mask; check the path to the masks")
    for path in paths:
        geobox = _grid(path, images)
        mask = _read(path, tally)
        table = _outlines(mask, geobox, classes, path, tally)
        tally.n_read += len(table)
        if table.empty:
            tally.note("some masks hold no site")
        else:
            tables.append(table)
    if not tables:
        raise LabelError(f"{source.name}: no site in any of {len(paths)} masks; is 0 the background in them?")
    return gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=4326)


def _mask_files(source: Path, tally: Tally) -> list[Path]:
    """The masks of a folder: what is called so, else the files of one band."""
    paths = list(images_in(source))
    if source.is_file() or not paths:
        return paths
    called = [path for path in paths if stem(path.name).endswith(_SUFFIXES)]
    if called:
        return called
    single = [path for path in paths if _bands(path) == 1]
    if single and len(single) < len(paths):
        tally.note(f"{len(paths) - len(single)} files with several bands are images, not masks")
    return single or paths


def _bands(path: Path) -> int:
    with catch_warnings():
        simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as file:
                return int(file.count)
        except RasterioError as error:
            raise LabelError(
                f"{path.name}: cannot be opened as a mask ({' '.join(str(error).split())}); is it whole?"
            ) from error


def _grid(path: Path, images: ImageIndex) -> GeoBox:
    geobox, size = georeference(path)
    image = _image_of(path, images)
    if image is not None:
        other, other_size = georeference(image)
        if other_size != size:
            raise LabelError(
                f"{path.name}: the mask is {size[1]} x {size[0]} pixels, its image {image.name} "
                f"{other_size[1]} x {other_size[0]}; give the mask that was drawn on this image"
            )
        geobox = geobox or other
    if geobox is None:
        place = images.place(_plain(path), shape=size)
        geobox = place.geobox if place is not None else None
    if geobox is None:
        raise LabelError(
            f"{path.name}: the mask is not georeferenced and no georeferenced image has its name; "
            "put it beside its image or name the folder of images (--images)"
        )
    return geobox


def _image_of(path: Path, images: ImageIndex) -> Path | None:
    found = images.find(_plain(path))
    if found is not None and found.resolve() != path.resolve():
        return found
    names = {stem(path.name), _plain(path)}
    beside = [other for other in images_in(path.parent) if other.parent == path.parent and other != path]
    matching = [other for other in beside if stem(other.name) in names]
    return matching[0] if len(matching) == 1 else None


def _plain(path: Path) -> str:
    name = stem(path.name)
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.endswith(suffix)), name)


def _read(path: Path, tally: Tally) -> _Mask:
    bands = _bands(path)
    if bands != 1:
        raise LabelError(f"{path.name}: has {bands} bands, a mask has one; is it the image?")
    with catch_warnings():
        simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            values, valid = file.read(1), file.dataset_mask() > 0
            declared = file.nodata is not None
    valid &= np.isfinite(values)
    present = np.unique(values[valid])
    if len(present) > MOST_CLASSES or (present != np.rint(present)).any() or (present < 0).any():
        raise LabelError(
            f"{path.name}: its values are no classes ({len(present)} different ones, {present.min():g} to "
            f"{present.max():g}); a mask has 0 for nothing and whole numbers for the classes"
        )
    site = valid & (values != 0)
    if not declared and 255 in present and len(set(present.tolist()) - {0}) > 1:
        site &= values != 255
        tally.note("255 was taken for 'not known' in masks that have other classes too")
    return _Mask(values, site)


def _outlines(mask: _Mask, geobox: GeoBox, classes: Sequence[str], path: Path, tally: Tally) -> gpd.GeoDataFrame:
    kind = np.uint8 if mask.values.max(initial=0) <= 255 else np.int32
    found = list(
        shapes(mask.values.astype(kind), mask=mask.site, connectivity=8, transform=geobox.affine)
        if mask.site.any()
        else ()
    )
    geometry = shapely.make_valid([shapely.geometry.shape(shape) for shape, _ in found])
    ids = [int(value) for _, value in found]
    black_and_white = set(ids) == {255}
    if len(classes) > 1 and ids and not black_and_white and max(ids) > len(classes):
        raise LabelError(
            f"{path.name}: value {max(ids)} is beyond the {len(classes)} classes ({', '.join(classes)}); "
            "name every class in order of the values 1, 2, ..."
        )
    names = [classes[i - 1] if len(classes) > 1 and i <= len(classes) else None for i in ids]
    columns = {"class_name": pd.Series(names, dtype=object), "class_id": ids, "image": path.name}
    return gpd.GeoDataFrame(columns, geometry=list(geometry), crs=geobox.crs.to_wkt()).to_crs(4326)
