"""A region run as a static STAC catalogue: scenes, score maps, detections and the model, with relative links.

    catalog.json  README.md  release.json  SHA256SUMS
    scenes/collection.json      an item a scene: its place and date; its image only on request
    scores/collection.json      an item a grid: its score map as a cloud-optimized GeoTIFF
    detections/collection.json  one item: the layer as GeoParquet, FlatGeobuf and GeoPackage, its columns described
    model/model.json            the model package as it is, an item with Machine Learning Model fields

A catalogue is made to be handed on and holds exact places: it is a precise export, with purpose and
recipient in it, on record in the log of releases. Addresses of imagery stay, without what they keep
secret; paths of this machine do not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import geopandas as gpd
import shapely
from shapely.geometry.base import BaseGeometry

from geoslave.detect import grid_footprint
from geoslave.detections.export import write_detections
from geoslave.detections.qgisrasters import copy_raster
from geoslave.detections.schema import COLUMNS, STATEMENT
from geoslave.errors import OutputError
from geoslave.imagery.catalog import load_items
from geoslave.imagery.geotiff import shown_path
from geoslave.imagery.items import projection_fields
from geoslave.imagery.raster import SCORE_NODATA, SCORE_STEPS
from geoslave.model.package import ModelPackage, copy_package_files
from geoslave.region.gridrecord import GridRecord
from geoslave.region.job import Job
from geoslave.region.layout import RegionFolder
from geoslave.region.merge import Merged
from geoslave.region.publish import merge_latest
from geoslave.region.scoremaps import join_scores, scored_blocks
from geoslave.release.folder import hand_over

STAC_VERSION = "1.1.0"
_EXTENSIONS = "https://stac-extensions.github.io/{}/schema.json"
PROJECTION, FILE, RASTER, TABLE, CLOUD = (
    _EXTENSIONS.format(name)
    for name in ("projection/v2.0.0", "file/v2.1.0", "raster/v1.1.0", "table/v1.2.0", "eo/v1.1.0")
)
LAYERS = {
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".gpkg": "application/geopackage+sqlite3",
}
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_TEXT = "text/markdown"
_KEPT = ("platform", "constellation", "instruments", "gsd", "eo:cloud_cover")
"""Of a scene's own item."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What was written."""

    folder: Path
    release_id: str
    run: str
    n_scenes: int
    n_score_maps: int
    n_detections: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """What the items of a catalogue are made of."""

    region: str
    job: Job
    records: Mapping[str, GridRecord]
    merged: Merged
    marks: Mapping[str, Any]
    """That it is precise, for whom and for what."""

    @property
    def moment(self) -> str:
        """When the run began: the time of what has no date of its own."""
        return self.job.started


def export_catalogue(
    region: RegionFolder,
    folder: Path,
    *,
    purpose: str,
    recipient: str,
    log: Path,
    with_scenes: bool = False,
    allow_gaps: bool = False,
    overwrite: bool = False,
) -> Catalogue:
    """Write the run that was worked on last as a catalogue, whole or not at all; the log has its line first.

    Args:
        log: of releases.
        with_scenes: copy scenes that are files of this machine into the catalogue.

    Raises:
        GeoslaveError: if there is no run, blocks are missing and `allow_gaps` is false, or purpose or
            recipient say nothing.
        OutputError: if the folder is there already, or folder or log cannot be written.
    """
    job, records, merged = merge_latest(region, allow_gaps)
    counted: dict[str, int] = {}

    def fill(draft: Path, marks: Mapping[str, Any]) -> None:
        counted.update(_fill(draft, _Run(region.name, job, records, merged, marks), with_scenes))

    release_id = hand_over(
        folder,
        fill,
        list(merged.detections["detection_id"]),
        merged.provenance,
        purpose=purpose,
        recipient=recipient,
        log=log,
        overwrite=overwrite,
    )
    found = len(merged.detections)
    return Catalogue(
        folder, release_id, job.run.path.name, counted["scenes"], counted["scores"], found, merged.gaps.missing
    )


# ---------------------------------------------------------------- the folder


def _fill(draft: Path, run: _Run, with_scenes: bool) -> dict[str, int]:
    """Write everything; returns how many items each collection has."""
    scenes = _write_scenes(draft / "scenes", run, with_scenes)
    scores = _write_scores(draft / "scores", run)
    everywhere = [item for item in (*scenes, *scores) if item["geometry"]]
    detections = _write_detections(draft / "detections", run, everywhere)
    _write_model(draft / "model", run.job.package)
    collections = {
        "scenes": ("Scenes that were looked at", scenes),
        "scores": ("Score maps: how much each pixel looks like a site", scores),
        "detections": ("What was found", [detections]),
    }
    written = {name: found for name, found in collections.items() if found[1]}
    for name, (title, items) in written.items():
        for item in items:
            _write_json(draft / name / f"{item['id']}.json", item)
        _write_json(draft / name / "collection.json", _collection(name, title, items, run))
    _write_json(draft / "catalog.json", _root(run, list(written)))
    return {name: len(items) for name, (_, items) in collections.items()}


def _root(run: _Run, collections: Sequence[str]) -> dict[str, Any]:
    children = [_link("child", f"./{name}/collection.json") for name in collections]
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": _plain(f"{run.region}-{run.job.run.path.name}"),
        "title": f"{run.region}: what {run.job.package.model_id} found",
        "description": f"{STATEMENT}\n\n{run.marks['not_for_publication']}",
        "links": [
            _link("root", "./catalog.json"),
            *children,
            _link("item", "./model/model.json", "application/geo+json"),
            _link("about", "./README.md", _TEXT),
        ],
        **_told(run),
    }


def _collection(name: str, title: str, items: Sequence[Mapping[str, Any]], run: _Run) -> dict[str, Any]:
    boxes = [item["bbox"] for item in items if item["geometry"]]
    extensions = sorted({url for item in items for url in item["stac_extensions"] if url in (PROJECTION, FILE)})
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": name,
        "title": title,
        "description": STATEMENT,
        "license": "other",
        "extent": {
            "spatial": {"bbox": [_around(boxes)]},
            "temporal": {"interval": [_span(items)]},
        },
        "summaries": {"geoslave:extensions": extensions} if extensions else {},
        "links": [
            _link("root", "../catalog.json"),
            _link("parent", "../catalog.json"),
            _link("license", "../README.md", _TEXT),
            *(_link("item", f"./{item['id']}.json", "application/geo+json") for item in items),
        ],
        **_told(run),
    }


def _item(
    run: _Run,
    collection: str,
    name: str,
    place: BaseGeometry | None,
    when: Mapping[str, Any],
    extensions: Sequence[str],
    properties: Mapping[str, Any],
    assets: Mapping[str, Any],
    links: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    geometry: dict[str, Any] = {"geometry": None}
    if place is not None and not place.is_empty:
        rounded = shapely.set_precision(place, 1e-6)
        geometry = {"geometry": json.loads(shapely.to_geojson(rounded)), "bbox": _box(rounded)}
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": list(extensions),
        "id": name,
        **geometry,
        "properties": {**when, **properties, **_told(run)},
        "links": [
            _link("root", "../catalog.json"),
            _link("parent", "./collection.json"),
            _link("collection", "./collection.json"),
            *links,
        ],
        "assets": dict(assets),
        "collection": collection,
    }


def _told(run: _Run) -> dict[str, Any]:
    """What every part says of itself."""
    gaps = {"geoslave:blocks_missing": len(run.merged.gaps.missing)} if run.merged.gaps else {}
    return {f"geoslave:{key}": value for key, value in run.marks.items()} | gaps


# ---------------------------------------------------------------- scenes


def _write_scenes(folder: Path, run: _Run, with_scenes: bool) -> list[dict[str, Any]]:
    folder.mkdir()
    own = [
        _scene_of_grid(folder, run, record, with_scenes)
        for record in run.records.values()
        if run.job.inputs[record.name].path is not None
    ]
    named = {name for record in run.records.values() for name in run.job.inputs[record.name].items}
    return [*own, *(_scene_of_item(run, item) for item in _items(run.job) if item["id"] in named)]


def _items(job: Job) -> list[dict[str, Any]]:
    """The STAC items a composite was made of."""
    if not job.items.is_dir():
        return []
    return [item.to_dict(include_self_link=False, transform_hrefs=False) for item in load_items(job.items)]


def _scene_of_grid(folder: Path, run: _Run, record: GridRecord, with_scenes: bool) -> dict[str, Any]:
    """A scene that was read on its own grid."""
    path = str(run.job.inputs[record.name].path)
    properties = {"geoslave:scene_id": record.scene_id, "geoslave:status": record.status}
    assets, extensions = {}, []
    if _is_address(path):
        assets["image"] = {"href": shown_path(path), "roles": ["data"]}
    elif with_scenes and not path.startswith("/vsi"):
        copied = copy_raster(_local(path), folder, placed=False)
        copy = copied.rename(folder / f"{_plain(record.name)}{copied.suffix.lower()}")
        assets["image"] = {**_file(copy), "roles": ["data"], **projection_fields(record.geobox)}
        extensions = [FILE, PROJECTION]
    when = _when(None if record.date is None else f"{record.date}T00:00:00Z", run)
    place = grid_footprint(record.geobox, record.scene_id)
    return _item(run, "scenes", _plain(record.name), place, when, extensions, properties, assets)


def _scene_of_item(run: _Run, item: Mapping[str, Any]) -> dict[str, Any]:
    """A scene of a composite: what its own item says of place and time, and its images that have an address."""
    told = item["properties"]
    properties = {key: told[key] for key in _KEPT if told.get(key) is not None}
    properties["geoslave:scene_id"] = item["id"]
    extensions = [CLOUD] if "eo:cloud_cover" in properties else []
    assets = {
        key: {"href": shown_path(asset["href"]), **{k: asset[k] for k in ("type", "roles", "title") if k in asset}}
        for key, asset in item["assets"].items()
        if _is_address(asset["href"])
    }
    known = told.get("geoslave:date_known") is not False
    when = _when(told.get("datetime") if known else None, run)
    place = None if not item.get("geometry") else shapely.from_geojson(json.dumps(item["geometry"]))
    return _item(run, "scenes", _plain(item["id"]), place, when, extensions, properties, assets)


# ---------------------------------------------------------------- score maps


def _write_scores(folder: Path, run: _Run) -> list[dict[str, Any]]:
    """The score map of each grid that has one."""
    items = []
    for record in run.records.values():
        blocks = scored_blocks(run.job, record)
        if not blocks:
            continue
        folder.mkdir(exist_ok=True)
        path = folder / f"{_plain(record.name)}.tif"
        join_scores(record, blocks, path, run.job.package.spec.classes)
        items.append(_score_item(run, record, path))
    return items


def _score_item(run: _Run, record: GridRecord, path: Path) -> dict[str, Any]:
    bands = [
        {"data_type": "uint8", "nodata": SCORE_NODATA, "scale": 1 / SCORE_STEPS, "offset": 0, "sampling": "area"}
        for _ in run.job.package.spec.classes
    ]
    asset = {
        **_file(path, COG),
        "title": "Scores from 0 to 1, a band for each class",
        "roles": ["data"],
        **projection_fields(record.geobox),
        "raster:bands": bands,
    }
    given = run.job.inputs[record.name]
    sources = [record.name] if given.path is not None else list(given.items)
    properties = {"geoslave:scene_id": record.scene_id, "geoslave:classes": list(run.job.package.spec.classes)}
    links = [_derived(f"../scenes/{_plain(name)}.json") for name in sources] + [_derived("../model/model.json")]
    when = _when(None if record.date is None else f"{record.date}T00:00:00Z", run)
    place = grid_footprint(record.geobox, record.scene_id)
    extensions = (PROJECTION, RASTER, FILE)
    return _item(run, "scores", _plain(record.name), place, when, extensions, properties, {"scores": asset}, links)


# ---------------------------------------------------------------- detections and model


def _write_detections(folder: Path, run: _Run, sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    folder.mkdir()
    detections, origin = run.merged.detections, {**run.merged.provenance, **run.marks}
    assets = {}
    for ending, media in LAYERS.items():
        path = folder / f"detections{ending}"
        write_detections(detections, path, provenance=origin)
        assets[ending[1:]] = {**_file(path, media), "roles": ["data"], "title": f"Detections ({ending})"}
    style = folder / "detections.qml"
    assets["style"] = {**_file(style, "application/xml"), "roles": ["metadata"], "title": "Style for QGIS"}
    place = shapely.union_all([shapely.from_geojson(json.dumps(one["geometry"])) for one in sources])
    links = [_derived(f"../{one['collection']}/{one['id']}.json") for one in sources if one["collection"] == "scores"]
    properties = {
        "title": f"{len(detections)} detections of all confidences",
        **_crs(detections),
        "table:columns": [_column(name, detections) for name in detections.columns],
        "table:primary_geometry": "geometry",
        "table:row_count": len(detections),
        **{f"geoslave:{key}": origin[key] for key in ("model_id", "model_sha256", "threshold_high", "threshold_low")},
    }
    dates = sorted(str(day) for day in detections["date"].dropna())
    when = _when(None, run)
    if dates:
        ends = {"start_datetime": f"{dates[0]}T00:00:00Z", "end_datetime": f"{dates[-1]}T23:59:59Z"}
        when = {"datetime": None, **ends}
    links.append(_derived("../model/model.json"))
    extensions = (PROJECTION, TABLE, FILE)
    return _item(run, "detections", "detections", place, when, extensions, properties, assets, links)


def _column(name: str, detections: gpd.GeoDataFrame) -> dict[str, str]:
    if name == "geometry":
        return {"name": name, "type": "geometry", "description": "Outline of the site"}
    known = COLUMNS.get(name)
    told = {"description": known.meaning} if known else {}
    return {"name": name, "type": known.kind if known else str(detections[name].dtype), **told}


def _crs(detections: gpd.GeoDataFrame) -> dict[str, Any]:
    authority = detections.crs.to_authority()
    told: dict[str, Any] = {"proj:code": ":".join(authority) if authority else None}
    return told if authority else {**told, "proj:wkt2": detections.crs.to_wkt()}


def _write_model(folder: Path, package: ModelPackage) -> None:
    """The package as it is; its item gets the links of the catalogue."""
    copy_package_files(package.folder, folder)
    path = folder / "model.json"
    item = json.loads(path.read_text("utf-8"))
    _write_json(path, {**item, "links": [_link("root", "../catalog.json"), _link("parent", "../catalog.json")]})


# ---------------------------------------------------------------- pieces


def _link(rel: str, href: str, media: str = "application/json") -> dict[str, str]:
    return {"rel": rel, "href": href, "type": media}


def _derived(href: str) -> dict[str, str]:
    return _link("derived_from", href, "application/geo+json")


def _is_address(href: str) -> bool:
    """Whether others can fetch it too."""
    return "://" in href and not href.lower().startswith("file:")


def _local(path: str) -> Path:
    return Path(url2pathname(urlsplit(path).path)) if path.lower().startswith("file:") else Path(path)


def _file(path: Path, media: str = "image/tiff; application=geotiff") -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"href": f"./{path.name}", "type": media, "file:size": path.stat().st_size, "file:checksum": f"1220{digest}"}


def _when(moment: str | None, run: _Run) -> dict[str, Any]:
    if moment is not None:
        return {"datetime": moment}
    return {"datetime": run.moment, "geoslave:date_known": False}


def _span(items: Sequence[Mapping[str, Any]]) -> list[str | None]:
    told = [item["properties"] for item in items]
    first = [one.get("start_datetime") or one["datetime"] for one in told]
    last = [one.get("end_datetime") or one["datetime"] for one in told]
    return [min(first, default=None), max(last, default=None)]


def _box(place: BaseGeometry) -> list[float]:
    """West, south, east, north; across the antimeridian west is more than east (RFC 7946)."""
    west, south, east, north = place.bounds
    parts = [part.bounds for part in getattr(place, "geoms", [place])]
    if west == -180 and east == 180 and len(parts) > 1 and not any(w == -180 and e == 180 for w, _, e, _ in parts):
        west = min(box[0] for box in parts if box[2] == 180)
        east = max(box[2] for box in parts if box[0] == -180)
    return [float(value) for value in (west, south, east, north)]


def _around(boxes: Sequence[Sequence[float]]) -> list[float]:
    if not boxes:
        return [-180.0, -90.0, 180.0, 90.0]
    if any(box[0] > box[2] for box in boxes):
        return [-180.0, min(box[1] for box in boxes), 180.0, max(box[3] for box in boxes)]
    lows, highs = ([fn(box[k] for box in boxes) for k in at] for fn, at in ((min, (0, 1)), (max, (2, 3))))
    return [*lows, *highs]


def _plain(name: str) -> str:
    """A name for files and addresses; different names stay different."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".") or "item"
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path.name} cannot be written ({error.strerror or error}): free some space") from error
