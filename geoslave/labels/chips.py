"""Chips and masks cut from a scene, with an index.

    out/
      chips/  <scene>_r003c017.tif    pixels as stored, georeferenced, with a validity mask inside
      masks/  <scene>_r003c017.tif    uint8: 1 site, 0 none, 255 not valid (only where labels are given)
      index.parquet                   GeoParquet, a row a chip; opens in QGIS

As PNG, chips are 8-bit: display imagery as it is, other imagery stretched between the scene's 2nd
and 98th percentile (the scene's, never the chip's). 0 means not valid there; valid pixels start at
1. A world file (.pgw) and GDAL's .aux.xml carry the georeference.

The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.windows import Window

from geoslave.errors import OutputError, SceneError
from geoslave.grid import Cell, chip_grid
from geoslave.imagery.geotiff import geotiff_profile, write_geotiff
from geoslave.imagery.raster import Raster, Source, window_geobox
from geoslave.labels.formats import labels_on

MASK_NODATA = 255
INDEX = "index.parquet"
_PERCENTILES = (2.0, 98.0)
_SAMPLE_WINDOWS = 36  # read for the stretch of PNG chips: spread over the scene, bounded in number
_SAMPLE_SIDE = 256

Format = Literal["tif", "png"]
Progress = Callable[[int, int], None]
"""Called with (chips done, chips in all)."""


@dataclass(frozen=True, slots=True)
class ChipIndex:
    """What was cut."""

    folder: Path
    index: Path
    n_written: int
    n_empty: int
    """Chips without a valid pixel: left out."""
    n_with_sites: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "folder": str(self.folder),
            "index": str(self.index),
            "n_written": self.n_written,
            "n_empty": self.n_empty,
            "n_with_sites": self.n_with_sites,
        }


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Stored values that become 1 and 255, per band."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def cut_chips(
    source: Source,
    out_dir: str | Path,
    size: int = 256,
    overlap: int = 32,
    labels: gpd.GeoDataFrame | None = None,
    format: Format = "tif",
    scene_id: str = "scene",
    band_names: tuple[str, ...] | None = None,
    scales: tuple[float, ...] = (),
    offsets: tuple[float, ...] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ChipIndex:
    """Cut a scene into chips of one size that overlap, every valid pixel in at least one.

    Chips at the right and lower edge hang over and are filled with not-valid pixels. The index has
    `chip` and `mask` (paths relative to the folder), `row`, `col`, `x_off`, `y_off`, `width`,
    `height` (the window in scene pixels), `valid_fraction` (of the chip), `label_share` (of the
    chip's valid pixels), `n_sites` (labels that touch the chip; one in an overlap is in several
    chips), `scene_id`, and the footprint in longitude/latitude. Without labels, `mask`,
    `label_share` and `n_sites` are empty: nobody looked.

    Args:
        size, overlap: in pixels.
        labels: sites in any CRS; a pixel is a site's when its centre is inside.
        format: "tif" keeps type and bands; "png" has red, green, blue, or one band.
        scene_id: goes into file names; letters, digits, `-`, `_` and `.` are kept.
        band_names: written as band descriptions; "red", "green", "blue" choose the bands of a PNG.
        scales, offsets: of the stored values, per band, as the scene declares them; kept in a chip as tif.
        overwrite: replace a folder of chips. A folder that holds anything else is never replaced.

    Raises:
        SceneError: if the scene has no CRS or no valid pixel.
        LabelError: if no label touches the scene.
        OutputError: if the folder exists or cannot be written.
    """
    out_dir = Path(out_dir).resolve()  # through a link, so that what it points to is replaced, not the link
    if source.geobox.crs is None:
        raise SceneError(f"{scene_id}: no CRS, so chips cannot be placed on earth; assign one (gdal_edit.py -a_srs)")
    cells = list(chip_grid(tuple(source.geobox.shape), size, overlap))
    _check_target(out_dir, overwrite)
    sites = None if labels is None else labels_on(labels, source.geobox)
    writer = _png_writer(source, band_names) if format == "png" else _tif_writer(band_names, scales, offsets)
    partial = _partial_folder(out_dir)
    try:
        rows = list(_cut(source, cells, partial, sites, writer, format, _safe(scene_id), progress))
        if not rows:
            raise SceneError(f"{scene_id}: no valid pixel in the whole scene, so there is nothing to cut")
        _write_index(rows, source, scene_id, partial / INDEX)
        _put_in_place(partial, out_dir)
    except (OSError, RasterioError) as error:
        reason = " ".join(str(error).split())
        raise OutputError(f"{out_dir}: chips cannot be written ({reason}); check space and permissions") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ChipIndex(
        folder=out_dir,
        index=out_dir / INDEX,
        n_written=len(rows),
        n_empty=len(cells) - len(rows),
        n_with_sites=sum(bool(row["n_sites"]) for row in rows),
    )


Writer = Callable[[Path, Raster], None]


def _cut(
    source: Source,
    cells: list[Cell],
    folder: Path,
    sites: gpd.GeoDataFrame | None,
    write: Writer,
    ending: str,
    name: str,
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    """Write chips and masks; yields one row of the index for each chip that has a valid pixel."""
    for done, cell in enumerate(cells, start=1):
        raster = source.read(cell.read)
        if raster.valid.any():
            chip = f"chips/{name}_{cell.name}.{ending}"
            write(folder / chip, raster)
            row = {
                "chip": chip,
                "mask": None,
                "row": cell.row,
                "col": cell.col,
                "x_off": cell.read.col_off,
                "y_off": cell.read.row_off,
                "width": cell.read.width,
                "height": cell.read.height,
                "valid_fraction": float(raster.valid.mean()),
                "label_share": None,
                "n_sites": None,
            }
            if sites is not None:
                here = sites.geometry.iloc[sites.sindex.query(raster.geobox.extent.geom, predicate="intersects")]
                mask = site_mask(here, raster)
                row["mask"] = f"masks/{name}_{cell.name}.{ending}"
                row["label_share"] = float((mask == 1).sum() / raster.valid.sum())
                row["n_sites"] = len(here)
                _write_mask(folder / str(row["mask"]), mask, raster)
            yield row
        if progress:
            progress(done, len(cells))


def site_mask(sites: gpd.GeoSeries, raster: Raster) -> NDArray[np.uint8]:
    """[y, x]: 1 where a pixel's centre lies in a site, 0 elsewhere, 255 where the pixel is not valid.

    `sites` are in the raster's CRS.
    """
    shape, affine = tuple(raster.geobox.shape), raster.geobox.affine
    mask = np.zeros(shape, np.uint8)
    if len(sites):
        mask = rasterize(list(sites), out_shape=shape, transform=affine, default_value=1, dtype="uint8")
    mask[~raster.valid] = MASK_NODATA
    return mask


def _tif_writer(band_names: tuple[str, ...] | None, scales: tuple[float, ...], offsets: tuple[float, ...]) -> Writer:
    def write(path: Path, raster: Raster) -> None:
        write_geotiff(raster, path, band_names or (), scales=scales, offsets=offsets)

    return write


def _png_writer(source: Source, band_names: tuple[str, ...] | None) -> Writer:
    sample = _sample(source)
    bands = _display_bands(sample.shape[0], band_names)
    stretch = _stretch(sample[bands])

    def write(path: Path, raster: Raster) -> None:
        _write_png(path, to_8bit(raster.pixels[bands], raster.valid, stretch), raster, nodata=0)

    return write


def to_8bit(pixels: NDArray[np.generic], valid: NDArray[np.bool_], stretch: _Stretch) -> NDArray[np.uint8]:
    """Stored values [band, y, x] as 1..255, 0 where not valid."""
    low, width = stretch.low[:, None, None], (stretch.high - stretch.low)[:, None, None]
    share = (np.nan_to_num(pixels.astype(np.float64)) - low) / width
    shown = (1 + np.clip(np.rint(share * 254), 0, 254)).astype(np.uint8)
    shown[:, ~valid] = 0
    return shown


def _stretch(sample: NDArray[np.generic]) -> _Stretch:
    """The range shown: all of it for 8-bit imagery, else between percentiles of the sample [band, n]."""
    n = sample.shape[0]
    if sample.dtype == np.uint8:
        return _Stretch(np.full(n, 1.0), np.full(n, 255.0))
    low, high = np.percentile(sample.astype(np.float64), _PERCENTILES, axis=1)
    return _Stretch(low, np.where(high > low, high, low + 1))


def _sample(source: Source) -> NDArray[np.generic]:
    """Valid pixels [band, n] of windows spread evenly over the scene."""
    rows, cols = source.geobox.shape
    steps = int(np.sqrt(_SAMPLE_WINDOWS))
    tops = np.unique(np.linspace(0, max(rows - _SAMPLE_SIDE, 0), steps).astype(int)).tolist()
    lefts = np.unique(np.linspace(0, max(cols - _SAMPLE_SIDE, 0), steps).astype(int)).tolist()
    height, width = min(rows, _SAMPLE_SIDE), min(cols, _SAMPLE_SIDE)
    rasters = [source.read(Window(left, top, width, height)) for top in tops for left in lefts]
    sample = np.concatenate([r.pixels[:, r.valid] for r in rasters], axis=1)
    if not sample.shape[1]:
        raise SceneError("no valid pixel where the scene was sampled for its brightness; cut chips as tif instead")
    return sample


def _display_bands(n_bands: int, band_names: tuple[str, ...] | None) -> list[int]:
    """Positions of red, green, blue; the first three bands where they have no names; else the first."""
    names = [name.lower() for name in band_names or ()]
    if {"red", "green", "blue"} <= set(names):
        return [names.index(colour) for colour in ("red", "green", "blue")]
    return [0, 1, 2] if n_bands >= 3 else [0]


def _write_mask(path: Path, mask: NDArray[np.uint8], raster: Raster) -> None:
    if path.suffix == ".png":
        _write_png(path, mask[None], raster, MASK_NODATA)
        return
    with rasterio.open(path, "w", **geotiff_profile(raster.geobox, mask.dtype, 1), nodata=MASK_NODATA) as file:
        file.write(mask, 1)


def _write_png(path: Path, pixels: NDArray[np.uint8], raster: Raster, nodata: int) -> None:
    """A PNG with its place beside it: GDAL's .aux.xml (CRS, transform, nodata) and a world file."""
    bands, rows, cols = pixels.shape
    affine = raster.geobox.affine
    with rasterio.open(
        path,
        "w",
        driver="PNG",
        width=cols,
        height=rows,
        count=bands,
        dtype="uint8",
        crs=raster.geobox.crs.to_wkt(),
        transform=affine,
        nodata=nodata,
    ) as file:
        file.write(pixels)
    x, y = affine @ (0.5, 0.5)  # a world file speaks of the centre of the first pixel
    lines = (affine.a, affine.d, affine.b, affine.e, x, y)
    path.with_suffix(".pgw").write_text("".join(f"{value!r}\n" for value in lines))


def _write_index(rows: list[dict[str, Any]], source: Source, scene_id: str, path: Path) -> None:
    """The table of chips. Footprints end at the scene's edge, though chips hang over it."""
    whole = source.geobox.extent.geom
    outlines = []
    for row in rows:
        window = Window(row["x_off"], row["y_off"], row["width"], row["height"])
        outlines.append(shapely.intersection(window_geobox(source.geobox, window).extent.geom, whole))
    try:
        footprints = gpd.GeoSeries(outlines, crs=source.geobox.crs.to_wkt()).to_crs(4326)
    except ProjError as error:
        raise SceneError(f"{scene_id}: its CRS cannot be brought to longitude/latitude ({error})") from error
    index = gpd.GeoDataFrame(rows, geometry=footprints.array, crs=4326).assign(scene_id=scene_id)
    index = index.astype({"n_sites": "Int64", "label_share": "Float64", "mask": "string"})
    index.to_parquet(path, write_covering_bbox=True)


def _check_target(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise OutputError(f"{out_dir}: is a file; give a folder for the chips")
    if not any(out_dir.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{out_dir}: the folder is not empty; give another one, or overwrite the chips in it")
    if not {path.name for path in out_dir.iterdir()} <= {INDEX, "chips", "masks"}:
        raise OutputError(f"{out_dir}: holds other things than chips, so it is not overwritten; give another folder")


def _partial_folder(out_dir: Path) -> Path:
    """A new folder beside the final one, so that putting it in place is a rename."""
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.partial-", dir=out_dir.parent))
        partial.chmod(0o755)
        (partial / "chips").mkdir()
        (partial / "masks").mkdir()
    except OSError as error:
        raise OutputError(f"{out_dir}: cannot be made ({error.strerror}); give a folder you may write to") from error
    return partial


def _put_in_place(partial: Path, out_dir: Path) -> None:
    if not any((partial / "masks").iterdir()):
        (partial / "masks").rmdir()
    if not out_dir.exists():
        partial.rename(out_dir)
        return
    old = partial.with_name(f"{partial.name}-old")
    out_dir.rename(old)
    try:
        partial.rename(out_dir)
    except OSError:
        old.rename(out_dir)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _safe(name: str) -> str:
    """A scene id as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or "scene"
