"""`geoslave search index`, `query` and `status`: chips as vectors, more like these, and how far a search is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, note, overwrite_option, progress, scene_options

if TYPE_CHECKING:
    import geopandas as gpd

    from geoslave.search.embedder import Embedder
    from geoslave.search.index import ChipIndex, Ground, Settings
    from geoslave.targets import Target


@click.command(
    "index",
    epilog=example(
        "geoslave search index delta",
        "geoslave search index --scenes delta_2024.tif --out delta-index --target fish_camp",
    ),
)
@click.argument("region", required=False)
@click.option("--scenes", "scenes", type=PATH, multiple=True, metavar="FILE", help="Rasters, where there is no region.")
@click.option("--out", type=PATH, help="Folder of the index.  [default: search in the region's folder]")
@click.option("--embedder", metavar="MODEL", help="What sees the chips: imagenet-lite0, a model, a folder with "
              "embedder.json, or plain (colours and texture, no network: three times as fast).  "
              "[default: the one that a finished index was made with, else imagenet-lite0]")  # fmt: skip
@click.option("--target", help="What will be sought: chips are cut to its size.")
@click.option(
    "--chip",
    "chip_px",
    type=click.IntRange(8, 512),
    help="Side of a chip in pixels.  [default: the target's; 48 where none is known]",
)
@click.option(
    "--core",
    "core_px",
    type=click.IntRange(4, 512),
    help="Step from chip to chip.  [default: about two thirds of the chip]",
)
@click.option("--gsd", "gsd_m", type=click.FloatRange(0.01, 1000), help="Metres a pixel.  [default: the embedder's]")
@click.option("--aoi", type=PATH, help="Polygons; with --scenes, only chips that touch them.")
@click.option("--threads", type=click.IntRange(1), help="Threads to compute with.  [default: one a core]")
@click.option("--regions", type=PATH, default=Path("regions"), show_default=True, help="The folder of regions.")
@scene_options
@overwrite_option
@json_option
def index(
    region: str | None,
    scenes: tuple[Path, ...],
    out: Path | None,
    embedder: str | None,
    target: str | None,
    chip_px: int | None,
    core_px: int | None,
    gsd_m: float | None,
    aoi: Path | None,
    threads: int | None,
    regions: Path,
    bands: dict[str, int] | None,
    crs: str | None,
    nodata: Any,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Embed every chip of a REGION (or of --scenes) once, so that asking for more like these takes an instant.

    About 1 kB a chip. Stopped at any moment, the same command goes on where it was. A scene that is replaced
    afterwards is noticed; making the index anew (--overwrite) keeps the answers of its campaigns.
    """
    from geoslave.imagery.aoi import read_aoi
    from geoslave.region.layout import find_region
    from geoslave.search.embedder import open_embedder
    from geoslave.search.index import build_index, made_with, region_ground, scenes_ground
    from geoslave.targets import get_target

    if (region is None) == (not scenes):
        raise click.UsageError("give a REGION, or --scenes with --out")
    if region is not None:
        folder = find_region(region, regions)
        ground = region_ground(folder)
        into = out or folder.path / "search"
    else:
        if out is None:
            raise click.UsageError("--scenes needs --out, the folder of the index")
        area = None if aoi is None else read_aoi(aoi)
        ground = scenes_ground(scenes, aoi=area, bands=bands, crs=crs, nodata=nodata)
        into = out
    opened = open_embedder(embedder, threads) if embedder else made_with(into, threads) or _default(ground, threads)
    gsd_m = gsd_m or (None if embedder else _resolution(ground, opened))
    sought = get_target(target) if target else None if region is None else ground.sought
    settings = _settings(chip_px, core_px, gsd_m, sought, gsd_m or opened.spec.gsd_m)
    with progress(as_json) as step:
        built = build_index(ground, into, opened, settings, overwrite=overwrite, step=step)
    for text in built.notes:
        note(text)
    facts = {name: getattr(built, name) for name in built.__slots__}
    speed = f", {built.chips_per_second:,.0f} chips a second, {built.reading_share:.0%} of the work was reading"
    lines = [
        f"{built.chips:,} chips  ->  {built.folder}  ({built.bytes_per_chip:,.0f} bytes each{speed})"
        if built.parts
        else f"{built.chips:,} chips  ->  {built.folder}",
        f"  next:  geoslave search query {built.folder} --like places.geojson --out ranked.gpkg",
    ]
    answer(as_json, facts, lines)


@click.command(
    "query",
    epilog=example(
        "geoslave search query delta-index --like ten_camps.geojson --out ranked.gpkg",
        "geoslave search query delta-index --like camps.gpkg --unlike not_camps.gpkg --out ranked.gpkg --tasks look",
    ),
)
@click.argument("index", type=PATH)
@click.option(
    "--like",
    type=PATH,
    required=True,
    help="Places of the kind that is sought: any layer or CSV of points; one is enough.",
)
@click.option("--unlike", type=PATH, help="Places that look alike and are not.")
@click.option("--out", type=PATH, required=True, help="A layer: .gpkg, .geojson, .fgb or .parquet.")
@click.option("--limit", type=click.IntRange(1), default=200, show_default=True, help="Chips in the layer.")
@click.option("--kind", default="site", show_default=True, help="Name of the kind, for the layer and the tasks.")
@click.option("--tasks", type=PATH, help="A folder: the chips as review tasks too (geoslave review serve).")
@overwrite_option
@json_option
def query(
    index: Path,
    like: Path,
    unlike: Path | None,
    out: Path,
    limit: int,
    kind: str,
    tasks: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Rank the chips of an INDEX by how much they look like some places: more like these.

    The layer opens in QGIS graded by score. A score ranks; it is no probability. The first twenty are varied: not one
    place twenty times. To go on with answers, page by page, use  geoslave search review.
    """
    import time

    from geoslave.detections.export import check_output, write_detections
    from geoslave.files import refuse_existing
    from geoslave.search.campaign import as_answers, locate_examples, ranked
    from geoslave.search.index import open_index

    check_output(out, overwrite)
    if tasks is not None:
        refuse_existing(tasks, overwrite=False)
    with progress(as_json) as step:
        step("reading the index", 0, 3)
        opened = open_index(index)
        yes = locate_examples(opened, read_places(like))
        no = None if unlike is None else locate_examples(opened, read_places(unlike), "counter-examples")
        began = time.perf_counter()
        step("ranking", 1, 3)
        table = ranked(opened, as_answers(opened, yes, no), limit)
        seconds = time.perf_counter() - began
        step("writing", 2, 3)
        layer = _layer(opened, table, kind)
        told = {"made_by": "geoslave search query", "embedder": opened.facts["embedder"]["name"],
                "examples": len(yes.rows), "score": "ranks chips by likeness; no probability"}  # fmt: skip
        write_detections(layer, out, provenance=told, overwrite=overwrite)
    notes = yes.notes + (no.notes if no else ())
    made = None if tasks is None else _tasks(opened, layer, tasks, kind, as_json)
    for text in notes:
        note(text)
    facts = {"layer": str(out), "chips": len(table), "of": len(opened), "examples": len(yes.rows),
             "seconds": round(seconds, 3), "best_score": float(table["score"].max()), "notes": list(notes),
             "tasks": None if made is None else {"folder": str(tasks), "tasks": made}}  # fmt: skip
    lines = [f"{len(table):,} of {len(opened):,} chips, most likely first  ->  {out}"]
    if made is not None:
        lines.append(f"{made} tasks  ->  {tasks}    next:  geoslave review serve {tasks}")
    answer(as_json, facts, lines)


@click.command(
    "status", epilog=example("geoslave search status delta-index", "geoslave search status delta-index/camps")
)
@click.argument("index", type=PATH)
@json_option
def status(index: Path, as_json: bool) -> None:
    """What an INDEX holds, and how far each of its campaigns is; INDEX/NAME tells of one."""
    from geoslave.search.campaign import list_campaigns, open_campaign
    from geoslave.search.index import open_index

    one = None
    if not (index / "index.json").exists() and not (index / "search" / "index.json").exists():
        index, one = index.parent, index.name
    opened = open_index(index, fresh=False)
    names = list_campaigns(opened) if one is None else [one]
    standings = {name: open_campaign(opened, name).standing() for name in names}
    stale, damaged = opened.changed_scenes(), opened.damaged_files()
    facts = {
        "index": str(opened.folder),
        "chips": len(opened),
        "embedder": opened.facts["embedder"]["name"],
        "scenes": len(opened.facts["scenes"]),
        "changed_scenes": stale,
        "damaged_files": damaged,
        "campaigns": {name: standing.to_dict() for name, standing in standings.items()},
    }
    lines = [f"{len(opened):,} chips of {facts['scenes']} scenes, seen by {facts['embedder']}  ({opened.folder})"]
    if damaged:
        lines.append(f"  damaged ({', '.join(damaged)}): make it anew with --overwrite")
    if stale:
        lines.append(f"  older than its scenes ({', '.join(stale[:3])}): make it anew with --overwrite")
    for name, standing in standings.items():
        lines += [f"{name}: {standing.clicks:,} clicks, {standing.found:,} sites", f"  {standing.advice.words}"]
        if standing.contradictions:
            lines.append(f"  {len(standing.contradictions)} chips were answered differently; the later answer counts")
    answer(as_json, facts, lines)


def _default(ground: Ground, threads: int | None) -> Embedder:
    """What sees the chips where nobody says; the region's model where that one's bands may not be in its scenes."""
    from geoslave.search.embedder import DEFAULT, open_embedder

    opened = open_embedder(DEFAULT, threads)
    if ground.model is None or set(opened.spec.bands) <= set(ground.model.bands):
        return opened
    return open_embedder(ground.config.model, threads)


def _resolution(ground: Ground, embedder: Embedder) -> float | None:
    """Metres a pixel of a region whose model looks at another resolution than the embedder's; None: the embedder's."""
    if ground.model is None or ground.model.gsd_m == embedder.spec.gsd_m:
        return None
    return ground.model.gsd_m


def _settings(
    chip_px: int | None, core_px: int | None, gsd_m: float | None, target: Target | None, gsd: float
) -> Settings:
    from geoslave.search.index import Settings, settings_for

    if chip_px is None and target is not None:
        made = settings_for(target.search_chip_m, gsd)
        chip_px, core_px = made.chip_px, core_px or made.core_px
    side = chip_px or 48
    core = core_px or max(4, side * 2 // 3)
    if core > side:
        raise click.BadParameter(f"a core of {core} pixels is larger than the chip of {side}", param_hint="--core")
    return Settings(chip_px=side, core_px=core - (side - core) % 2, gsd_m=gsd_m)


def read_places(path: Path, target: Target | None = None) -> gpd.GeoDataFrame:
    """Points and outlines as they stand in a layer or a CSV with lon and lat: a point stays a point.

    Raises:
        LabelError: if the file cannot be read, has no CRS, or holds no place.
    """
    from geoslave.labels.formats import read_labels
    from geoslave.targets import get_target

    table = read_labels(path, target=target or get_target("brick_kiln"))  # of any size: points become points again
    points = table.geometry.to_crs("EPSG:6933").centroid.to_crs(table.crs)
    return table.set_geometry(table.geometry.where(table["kind"] != "point", points))


def _layer(index: ChipIndex, table: gpd.GeoDataFrame, kind: str) -> gpd.GeoDataFrame:
    """Ranked chips as a detections table, with rank and valid_fraction."""
    import numpy as np

    from geoslave.detections.measure import areas_m2, sides_m

    shapes = table.geometry.to_numpy()
    length, width = sides_m(shapes, "EPSG:4326")
    # the score grades the layer; its order is the rank's, whose first page is varied
    layer = table.rename(columns={"chip_id": "detection_id"})[["detection_id", "rank", "score", "date", "scene_id",
                                                               "valid_fraction", "geometry"]]  # fmt: skip
    return layer.assign(
        class_name=kind,
        confidence=table["score"].to_numpy(float),
        calibrated=False,
        score_mean=table["score"].to_numpy(float),
        score_max=table["score"].to_numpy(float),
        area_m2=areas_m2(shapes, "EPSG:4326"),
        length_m=length,
        width_m=width,
        model_id=f"search with {index.facts['embedder']['name']} {index.facts['embedder']['version']}",
        truncated=np.zeros(len(table), bool),
        valid_fraction=table["valid_fraction"].to_numpy(float),
    )


def _tasks(index: ChipIndex, layer: gpd.GeoDataFrame, folder: Path, kind: str, quiet: bool) -> int:
    """The chips as tasks of a review; how many."""
    from geoslave.imagery.geotiff import Reading
    from geoslave.review.create import Options, create_review
    from geoslave.search import SearchError

    paths = [scene["input"]["path"] for scene in index.facts["scenes"]]
    if None in paths:
        raise SearchError(
            "tasks are made from scenes on their own grid: look at composites with  geoslave search review"
        )
    config = index.facts["config"]
    fill = None if config["nodata"] in (None, "none") else float(config["nodata"])
    reading = Reading(numbers=config["bands"] or None, crs=config["crs"], nodata=fill,
                      trust_all=config["nodata"] == "none")  # fmt: skip
    options = Options(design="triage", unflagged_share=0.0, gold_share=0.0, looking_for=kind, reading=reading)
    with progress(quiet) as step:
        made = create_review(layer, paths, folder, options, step=step)
    return made.tasks
