"""Everything people label with, brought into one labels table (see geoslave.labels.table), with a report.

    table, report = import_labels([Path("labels_yolo_obb")], Options(get_target("brick_kiln"), images=Path("chips")))
    write_labels(table, Path("kilns.gpkg"))

The format of a source is told by what is in it (`told_format`). Nothing is guessed in silence: what
was repaired, left out or merged stands in the report with a count and a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyogrio.errors import DataSourceError

from geoslave.errors import LabelError, OutputError
from geoslave.files import atomic_file, refuse_existing
from geoslave.labels.annotations import (
    Annotation,
    Annotations,
    chip_columns,
    json_format,
    read_chip_table,
    read_coco,
    read_dota,
    read_json,
    read_labelstudio,
    read_yolo,
    text_files,
    text_format,
)
from geoslave.labels.formats import READABLE, layer_ending, read_csv, read_layer
from geoslave.labels.images import IMAGE_ENDINGS, ImageIndex, Place, file_name, images_in, stem
from geoslave.labels.masks import read_masks
from geoslave.labels.table import DUPLICATE_M, KINDS, PRESENCES, Tally, lonlat_box, merge_duplicates, named, usable
from geoslave.targets import Target

FORMATS = ("vector", "points", "chips", "yolo", "dota", "coco", "labelstudio", "mask")
WRITABLE = (".gpkg", ".geojson", ".fgb", ".parquet")
_IMAGE_FOLDERS = ("images", "imgs", "img", "chips", "JPEGImages")
_DRAWN_ON = "_drawn_on"


@dataclass(frozen=True, slots=True)
class Options:
    """How labels are brought in."""

    target: Target
    """What is labelled: the class where the labels name none, and the size of points."""
    images: Path | None = None
    """A folder of the images that were labelled, or one image. Labels that miss them are refused."""
    format: str = "auto"
    """One of `FORMATS`, or `auto`."""
    classes: tuple[str, ...] = ()
    """One name: the class of every label. Several: names in order of the ids (YOLO from 0, masks from 1)."""
    crs: str | None = None
    """CRS of layers that declare none."""
    layer: str | None = None
    """Of a file with several."""
    gsd_m: float = 10.0
    """Ground sampling distance of images that are not georeferenced, but named by their centre."""
    chip_size: int = 128
    """Side in pixels of such images where they are not at hand."""
    merge_m: float | None = None
    """Labels whose centres are this close are one site; by default 35 m, or less where sites stand closer."""
    keep_duplicates: bool = False
    negatives: bool = False
    """Images that were labelled as empty become chips with the answer `no`."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was read, repaired, left out and merged."""

    sources: tuple[Tally, ...]
    n_labels: int
    classes: dict[str, int]
    kinds: dict[str, int]
    presence: dict[str, int]
    n_duplicates: int
    """Labels that say the same as another; merged unless they were to be kept."""
    duplicates_kept: bool
    merge_m: float
    bounds: tuple[float, float, float, float]
    """West, south, east, north in degrees."""
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "n_read": sum(tally.n_read for tally in self.sources),
            "n_labels": self.n_labels,
            "classes": self.classes,
            "kinds": self.kinds,
            "presence": self.presence,
            "n_duplicates": self.n_duplicates,
            "duplicates_kept": self.duplicates_kept,
            "merge_m": self.merge_m,
            "bounds": list(self.bounds),
            "sources": [tally.to_dict() for tally in self.sources],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = []
        for tally in self.sources:
            lines.append(f"  {tally.name} ({tally.format}): {tally.n_read} read")
            lines.extend(f"    {sentence}" for sentence in tally.sentences())
        lines.append(f"  classes: {_counts(self.classes)}")
        if set(self.kinds) != {"outline"} or set(self.presence) != {"yes"}:
            lines.append(f"  kinds: {_counts(self.kinds)}; site there: {_counts(self.presence)}")
        if self.n_duplicates:
            done = "kept" if self.duplicates_kept else "merged"
            lines.append(f"  labelled more than once: {self.n_duplicates} (centres within {self.merge_m:g} m), {done}")
        return [*lines, *(f"  {note}" for note in self.notes)]


def import_labels(sources: Sequence[Path], options: Options) -> tuple[gpd.GeoDataFrame, ImportReport]:
    """Read sources of any format as one labels table in longitude/latitude, each site once.

    Raises:
        LabelError: if a source cannot be read, holds no label, or does not lie on the images.
    """
    given = _index(options, options.images)
    tallies, tables = [], []
    for source in sources:
        tally = Tally(source.name or str(source.absolute().name))
        tables.append(_read_source(source, options, given, tally))
        tallies.append(tally)
    table = _together(tables)
    if len(options.classes) == 1:
        table["class_name"] = options.classes[0]
    notes = _check_on_imagery(table, given) if options.images is not None else []
    merge_m = min(DUPLICATE_M, options.target.merge_distance_m) if options.merge_m is None else options.merge_m
    table, n_chips = _agreed_chips(table)
    drawn_on = table.pop(_DRAWN_ON).to_numpy(object)
    merged, n_duplicates, n_disagree = merge_duplicates(table, merge_m, drawn_on)
    if n_disagree:
        notes.append(f"{n_disagree} sites that were labelled more than once have different classes")
    if n_chips:
        notes.append(f"{n_chips} chips were answered more than once: 'unsure' where the answers differ")
    table = (table if options.keep_duplicates else merged).reset_index(drop=True)
    west, south, east, north = table.total_bounds
    report = ImportReport(
        sources=tuple(tallies),
        n_labels=len(table),
        classes=_count(table["class_name"]),
        kinds={kind: n for kind in KINDS if (n := int((table["kind"] == kind).sum()))},
        presence={word: n for word in PRESENCES if (n := int((table["presence"] == word).sum()))},
        n_duplicates=n_duplicates,
        duplicates_kept=options.keep_duplicates,
        merge_m=merge_m,
        bounds=(float(west), float(south), float(east), float(north)),
        notes=tuple(notes),
    )
    return table, report


def write_labels(table: gpd.GeoDataFrame, path: Path, overwrite: bool = False) -> None:
    """Write a labels table as GeoPackage, GeoJSON, FlatGeobuf or GeoParquet, whole or not at all.

    Raises:
        OutputError: if the ending is none of these, the file exists, or it cannot be written.
    """
    check_output(path, overwrite)
    try:
        with atomic_file(path, overwrite=overwrite) as draft:
            ending = path.suffix.lower()
            if ending == ".parquet":
                table.to_parquet(draft, index=False, compression="zstd", schema_version="1.1.0")
                return
            layer = {} if ending == ".geojson" else {"layer": "labels"}
            more = {"RFC7946": "YES", "WRITE_NAME": "NO"} if ending == ".geojson" else {}
            _for_gdal(table).to_file(draft, engine="pyogrio", **layer, **more)
    except DataSourceError as error:
        raise OutputError(f"{path} cannot be written ({' '.join(str(error).split())})") from error


def check_output(path: Path, overwrite: bool) -> None:
    """Say early that an output cannot be written.

    Raises:
        OutputError: as `write_labels`.
    """
    if path.suffix.lower() not in WRITABLE:
        raise OutputError(f"{path.name}: labels are written as {', '.join(WRITABLE)}; choose one of these endings")
    refuse_existing(path, overwrite)


def told_format(source: Path, yes: Sequence[str] = ()) -> str:
    """One of `FORMATS`, told by what is in a file or a folder.

    Args:
        yes: words that mean that a site is there: a table of chips is told by its answers.

    Raises:
        LabelError: if nothing tells.
    """
    if not source.exists():
        raise LabelError(f"{source}: there is no such file or folder; check the path to the labels")
    if source.is_dir():
        return _folder_format(source)
    ending = layer_ending(source)
    if ending == ".csv":
        return "chips" if chip_columns(read_csv(source), yes) else "points"
    if ending in (".json", ".geojson"):
        if ending == ".geojson":
            return "vector"
        found = json_format(read_json(source))
        if found is None:
            raise LabelError(
                f"{source.name}: JSON, but neither GeoJSON, COCO nor a Label Studio export "
                "(export a Label Studio project as JSON, not JSON-MIN)"
            )
        return found
    if ending == ".txt":
        return text_format([source]) or "yolo"
    if ending in IMAGE_ENDINGS:
        return "mask"
    if ending in READABLE:
        return "vector"
    raise LabelError(
        f"{source.name}: not a labels file; give one of {', '.join(READABLE)}, a folder of YOLO or DOTA text, "
        "COCO or Label Studio JSON, or masks"
    )


def _folder_format(source: Path) -> str:
    texts = text_files(source)
    if texts:
        return text_format(texts) or "yolo"
    if any(images_in(source)):
        return "mask"
    layers = [path.name for path in sorted(source.iterdir()) if path.suffix.lower() in READABLE]
    if layers:
        raise LabelError(f"{source.name}: a folder of layers ({', '.join(layers[:3])}, ...); name the files themselves")
    raise LabelError(f"{source.name}: the folder holds no labels (.txt) and no masks; check the path to the labels")


def _read_source(source: Path, options: Options, given: ImageIndex, tally: Tally) -> gpd.GeoDataFrame:
    if not source.exists():
        raise LabelError(f"{source}: there is no such file or folder; check the path to the labels")
    told = told_format(source, _yes_words(options)) if options.format == "auto" else options.format
    tally.format = told
    if told in ("vector", "points"):
        imagery = given.footprint() if options.images is not None else None
        table = read_layer(source, tally, options.target, options.layer, options.crs, imagery).to_crs(4326)
        table[_DRAWN_ON] = None
        return table
    if told == "mask":
        table = usable(read_masks(source, given, tally, options.classes), tally)
        table[_DRAWN_ON] = [f"{source}|{image}" for image in table["image"]]
        tally.format = told
        return named(table, source.name, options.target)
    images = given if options.images is not None else _index(options, images_beside(source))
    read = _read_annotations(source, told, options, tally)
    if options.negatives:
        read.items.extend(read.empty)
    elif read.empty:
        tally.note(f"{len(read.empty)} images were looked at and hold no site (--negatives keeps them as answers 'no')")
    if not read.items:
        raise LabelError(f"{tally.name}: holds no label ({_why(tally)}); give labels with at least one site")
    _look_up(read, images, tally, explicit=options.images is not None)
    table = usable(_placed(read.items, images, tally, source), tally)
    return named(table, source.name, options.target)


def _read_annotations(source: Path, told: str, options: Options, tally: Tally) -> Annotations:
    yes = _yes_words(options)
    if told == "yolo":
        return read_yolo(source, tally, options.classes)
    if told == "dota":
        return read_dota(source, tally)
    if told == "chips":
        return read_chip_table(source, tally, yes)
    content: Any = None if source.is_dir() else read_json(source)
    if json_format(content) != told:
        raise LabelError(f"{source.name}: is no {told} export; leave out --format and it is told by its content")
    return read_coco(source, content, tally) if told == "coco" else read_labelstudio(source, content, tally, yes)


def _yes_words(options: Options) -> tuple[str, ...]:
    return (options.target.name, options.target.title, *options.classes)


def images_beside(source: Path) -> Path | None:
    """Where the images of labels usually are: in the folder itself, or in images/ or chips/ beside it."""
    folder = source if source.is_dir() else source.parent
    if any(images_in(folder) if source.is_dir() else _direct_images(folder)):
        return folder
    for name in _IMAGE_FOLDERS:
        for place in (folder / name, folder.parent / name, folder.parent.parent / name / folder.name):
            if (source.is_dir() or place.parent == folder) and place.is_dir() and any(images_in(place)):
                return place
    return None


def _direct_images(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS]


def _index(options: Options, root: Path | None) -> ImageIndex:
    index = ImageIndex(root, options.gsd_m, (options.chip_size, options.chip_size))
    if root is not None and not len(index):
        raise LabelError(f"{root}: holds no image ({', '.join(IMAGE_ENDINGS[:5])}, ...); check the path to the images")
    return index


def _look_up(read: Annotations, images: ImageIndex, tally: Tally, explicit: bool) -> None:
    """Tell which images the labels miss and which labels miss their image; refuse if none match."""
    if not len(images):
        return
    pairs = {(a.image, a.besides) for a in (*read.items, *read.empty)}
    absent = sorted(file_name(name) for name, besides in pairs if images.find(name, besides) is None)
    folder = images.root.name if images.root else ""
    if not explicit and len(absent) == len(pairs):
        return  # images that happen to lie there are others
    if explicit and len(absent) == len(pairs):
        raise LabelError(
            f"{tally.name}: none of the {len(pairs)} images it speaks about (the first: {absent[0]}) is among the "
            f"{len(images)} in {folder}; check --images"
        )
    if absent:
        tally.note(f"{len(absent)} of {len(pairs)} images that the labels speak about are not in {folder}: {absent[0]}")
    if images.unasked():
        tally.note(f"{images.unasked()} of {len(images)} images in {folder} have no labels")


def _placed(items: Sequence[Annotation], images: ImageIndex, tally: Tally, source: Path) -> gpd.GeoDataFrame:
    """Labels in pixels laid on earth; those of images without a place are left out and counted."""
    rows, shapes, crs = [], [], []
    places: dict[Any, Place | None] = {}
    for item in items:
        asked = (item.image, item.besides, item.lonlat, item.gsd_m, item.size)
        if asked not in places:
            places[asked] = images.place(*asked)
        place = places[asked]
        if place is None:
            tally.leave_out("labels of images without a place (not georeferenced, no centre in the name)", 1)
            continue
        shape = _on_grid(item, place, tally.name)
        if shape is None:
            tally.leave_out("labels that lie off their image", 1)
            continue
        drawn_on = "|".join((str(source), item.besides or "", stem(file_name(item.image)), item.labeller))
        ids = {} if item.class_id is None else {"class_id": item.class_id}
        rows.append(
            {
                **item.more,
                **ids,
                "class_name": item.class_name,
                "certainty": item.certainty,
                "image": file_name(item.image) if not item.image.endswith(".txt") else stem(item.image),
                "kind": "chip" if item.outline is None else "outline",
                "presence": item.presence,
                _DRAWN_ON: drawn_on,
            }
        )
        shapes.append(shape)
        crs.append(place.geobox.crs)
    if not rows:
        raise LabelError(
            f"{tally.name}: no label can be placed on earth ({_why(tally)}); give georeferenced images "
            "(--images), or name images by their centre: LAT_LON.png"
        )
    return gpd.GeoDataFrame(pd.DataFrame(rows), geometry=_to_lonlat(shapes, crs), crs=4326)


def _on_grid(item: Annotation, place: Place, source: str) -> shapely.Geometry | None:
    """An annotation in its image's CRS; None where it does not touch the image."""
    rows, cols = place.geobox.shape
    if item.outline is None:
        return place.geobox.extent.geom
    if item.unit == "pixel" and item.size and place.size and item.size != place.size:
        raise LabelError(
            f"{source}: its labels were drawn on an image {file_name(item.image)} of {item.size[1]} x {item.size[0]} "
            f"pixels, but the image has {place.size[1]} x {place.size[0]}; give the images that were labelled"
        )
    scale = (cols, rows) if item.unit == "share" else (1, 1)
    pixels = shapely.transform(item.outline, lambda xy: xy * scale)
    finite = np.isfinite(shapely.get_coordinates(pixels)).all()
    if finite and not shapely.envelope(pixels).intersects(shapely.box(0, 0, cols, rows)):
        return None
    return shapely.transform(pixels, lambda xy: np.column_stack(place.geobox.affine @ (xy[:, 0], xy[:, 1])))


def _to_lonlat(shapes: list[Any], crs: list[Any]) -> np.ndarray:
    """Each shape from its own CRS into longitude and latitude."""
    lonlat = np.array(shapes, dtype=object)
    codes = np.array([str(each) for each in crs], dtype=object)
    for code in set(codes):
        here = codes == code
        lonlat[here] = np.asarray(gpd.GeoSeries(list(lonlat[here]), crs=code).to_crs(4326).array, dtype=object)
    return lonlat


def _together(tables: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    whole = gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=4326)
    whole[_DRAWN_ON] = whole[_DRAWN_ON].astype(object).where(whole[_DRAWN_ON].notna(), None)
    if "class_id" in whole and pd.api.types.is_numeric_dtype(whole["class_id"]):
        whole["class_id"] = whole["class_id"].astype("Int64")
    return whole


def _check_on_imagery(table: gpd.GeoDataFrame, images: ImageIndex) -> list[str]:
    """Refuse layers that do not overlap the images; tell how many labels lie outside.

    Labels that were drawn on images need no such check: where they lie follows from the images.
    """
    table = table[table[_DRAWN_ON].isna()]
    if table.empty:
        return []
    cover = images.footprint()
    off = int((~table.intersects(cover)).sum())
    if off == len(table):
        raise LabelError(
            f"none of the {len(table)} labels overlaps the images: the labels cover {lonlat_box(table)}, the images "
            f"{lonlat_box(gpd.GeoSeries([cover], crs=4326))}; check that both are of the same place, and the CRS"
        )
    return [f"{off} of {len(table)} labels lie outside the images"] if off else []


def _agreed_chips(table: gpd.GeoDataFrame) -> tuple[gpd.GeoDataFrame, int]:
    """Each chip once; `unsure` where its answers differ. Second: how many rows went."""
    chips = table[table["kind"] == "chip"]
    if chips.empty or "image" not in chips:
        return table, 0
    place = chips["image"].astype(str) + chips.geometry.to_wkb(hex=True)
    again = place.duplicated()
    differ = chips.groupby(place)["presence"].transform("nunique") > 1
    table.loc[chips.index[differ], "presence"] = "unsure"
    return table.drop(index=chips.index[again]).reset_index(drop=True), int(again.sum())


def _for_gdal(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Column names that differ without regard to case, and none that a format keeps for itself; plain values."""
    names: dict[str, str] = {}
    seen = {"fid", "ogc_fid", table.geometry.name.lower()}
    for column in table.columns:
        if column == table.geometry.name:
            continue
        name = str(column)
        while name.lower() in seen:
            name += "_in_file"
        seen.add(name.lower())
        names[column] = name
    plain = table.rename(columns=names)
    for column in names.values():
        if plain[column].dtype == object:
            plain[column] = plain[column].map(_plain_value)
    return plain


def _plain_value(value: Any) -> Any:
    if isinstance(value, (list, tuple, dict, np.ndarray)):
        return str(value)
    return None if value is None or value is pd.NA or value != value else value


def _count(values: pd.Series) -> dict[str, int]:
    return {str(name): int(n) for name, n in values.value_counts().items()}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _why(tally: Tally) -> str:
    return tally.losses() or "nothing in it"
