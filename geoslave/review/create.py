"""Tasks made from detections and their scenes: what is drawn, its pictures, and the store.

The folder: review.sqlite, pictures/, detections-or-tiles as they were drawn (drawn.csv) and, where tiles
are reviewed, the whole searched ground (frame.csv), which `geoslave estimate` reads.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from geoslave.files import refuse_existing, scratch_folder
from geoslave.grid import partition
from geoslave.imagery.geotiff import Reading, gdal_environment, open_scene
from geoslave.imagery.preview import ground_window
from geoslave.review import designs
from geoslave.review.pictures import SceneView, Shown, footprint
from geoslave.review.store import open_store
from geoslave.review.tasks import Place, ReviewError, Task

DATABASE = "review.sqlite"
TUTORIAL = {
    "yes": "There is one here: look at its shape, its size and what lies around it.",
    "no": "There is none here, though it looks alike: compare its shape and size.",
}
_TUTORIAL_EACH = 3
_LEAST_SEEN = 0.5  # of a tile, for it to count as searched

Step = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How a review is set up."""

    design: str = "triage"
    kind: Literal["validate", "search"] | None = None
    """Only for `random`; the other designs have one of their own."""
    n: int | None = None
    """Tasks; of census+audit the unflagged tiles audited. None: all; audit as many as are flagged, 100 at least."""
    unflagged_share: float = 0.1
    gold_share: float = 0.1
    urgent: tuple[str, ...] = ()
    tile_m: float = 1_000.0
    votes: int = 3
    seed: int = 0
    looking_for: str = ""
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True)
class Made:
    """What was made."""

    tasks: int
    validate: int
    search: int
    gold: int
    tutorial: int
    pictures: int
    strata: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Scene:
    path: str
    scene_id: str
    footprint: BaseGeometry


def create_review(
    detections: gpd.GeoDataFrame,
    scenes: Sequence[str],
    folder: Path,
    options: Options,
    *,
    before: Sequence[str] = (),
    gold: gpd.GeoDataFrame | None = None,
    database: str | None = None,
    step: Step = lambda *_: None,
) -> Made:
    """Draw places by the design, render them, and put the tasks into a store.

    Args:
        detections: a detections table.
        scenes: the rasters it was found in.
        folder: made whole or not at all; holds the pictures, and the store unless `database` is given.
        before: rasters of an earlier date.
        gold: known places: outlines with a column `presence` (yes or no; yes where there is none), and
            `tutorial` (what a newcomer is told) if you like.
        database: postgresql://...

    Raises:
        ReviewError: if no detection lies on a scene, or the options contradict each other.
        OutputError: if the folder is there already.
    """
    _check(options)
    refuse_existing(folder, overwrite=False)
    rng = np.random.default_rng(options.seed)
    located = _scenes(scenes, options.reading)
    earlier = [(scene.path, scene.footprint) for scene in _scenes(before, options.reading)]
    detections, notes = _on_scenes(detections, located)
    sites, tiles, frame = _draw(detections, located, options, rng, notes)
    known = _gold(gold, located, options, len(sites) + len(tiles), rng, notes)
    with scratch_folder(folder) as draft:
        made = _render(sites, tiles, known, located, earlier, draft, options, step)
        tasks = [task for task, _ in made]
        if not tasks:
            raise ReviewError("the design draws nothing: there are no detections on these scenes, or n is 0")
        with open_store(database or draft / DATABASE) as store:
            _settle_settings(store, options, tasks, detections)
            store.add_tasks(tasks, [place for _, place in made])
        _write_tables(draft, made, frame)
        draft.rename(folder)
    return _summary(tasks, notes)


def _check(options: Options) -> None:
    if options.design not in designs.DESIGNS:
        raise ReviewError(f"the design '{options.design}' is not known: give one of {', '.join(designs.DESIGNS)}")
    if options.kind and options.design != "random":
        raise ReviewError(f"the design {options.design} decides itself what is asked: leave --kind out")
    if options.urgent and options.design != "triage":
        raise ReviewError("urgent rules order a triage: other designs draw at random")


def _scenes(paths: Sequence[str], reading: Reading) -> list[_Scene]:
    found = []
    with gdal_environment():
        for path in paths:
            with open_scene(path, reading) as scene:
                found.append(_Scene(path, scene.scene_id, footprint(scene)))
    return found


def _on_scenes(detections: gpd.GeoDataFrame, scenes: Sequence[_Scene]) -> tuple[gpd.GeoDataFrame, list[str]]:
    """The detections that lie on a scene, with `scene_number`, `lon` and `lat`."""
    points = gpd.GeoSeries(detections.geometry.representative_point(), crs=detections.crs).to_crs(4326)
    held = detections.get("scene_id", pd.Series("", index=detections.index))
    number = [_best(scenes, point, name) for point, name in zip(points, held, strict=True)]
    table = detections.assign(scene_number=number, lon=points.x.to_numpy(), lat=points.y.to_numpy())
    kept = table[table["scene_number"] >= 0].reset_index(drop=True)
    lost = len(table) - len(kept)
    return kept, [f"{lost} detections lie on none of the scenes and are left out"] if lost else []


def _best(scenes: Sequence[_Scene], point: shapely.Point, name: str) -> int:
    """The scene a place was seen in, else the one in which it is farthest from the edge; -1 without."""
    inside = [k for k, scene in enumerate(scenes) if shapely.contains(scene.footprint, point)]
    same = [k for k in inside if scenes[k].scene_id == name]
    if same:
        return same[0]
    depth = [shapely.distance(shapely.boundary(scenes[k].footprint), point) for k in inside]
    return inside[int(np.argmax(depth))] if inside else -1


# ---------------------------------------------------------------- what is drawn


def _draw(
    detections: gpd.GeoDataFrame,
    scenes: Sequence[_Scene],
    options: Options,
    rng: np.random.Generator,
    notes: list[str],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Detections to validate, tiles to search, and the whole frame of tiles."""
    on_tiles = options.design == "census+audit" or (options.design == "random" and options.kind != "validate")
    frame = pd.DataFrame()
    if on_tiles or options.unflagged_share > 0:
        frame = _tiles(scenes, detections, options)
        _note_overlaps(scenes, notes)
    if on_tiles:
        return detections.iloc[:0], _drawn_tiles(frame, options, rng), frame
    if options.design == "triage":
        sites = designs.triage(detections, options.n, options.urgent)
    elif options.design == "stratified":
        sites = designs.stratified(detections, options.n, rng)
    else:
        sites = designs.random(detections, options.n, rng)
    share = options.unflagged_share
    wanted = min(round(len(sites) * share / (1 - share)), int((frame["n_flagged"] == 0).sum())) if share else 0
    blank = designs.unflagged(frame, wanted, rng) if wanted else pd.DataFrame()
    return sites.assign(pool="work"), blank.assign(pool="unflagged"), frame


def _drawn_tiles(frame: pd.DataFrame, options: Options, rng: np.random.Generator) -> pd.DataFrame:
    if options.design == "random":
        return designs.random(frame, options.n, rng).assign(pool="work")
    flagged = int((frame["n_flagged"] > 0).sum())
    tiles = designs.census(frame, max(100, flagged) if options.n is None else options.n, rng)
    return tiles.assign(pool=np.where(tiles["n_flagged"] > 0, "work", "unflagged"))


def _tiles(scenes: Sequence[_Scene], detections: gpd.GeoDataFrame, options: Options) -> pd.DataFrame:
    """Every tile of the scenes that shows ground, with its detections counted."""
    parts = []
    with gdal_environment():
        for number, scene in enumerate(scenes):
            with open_scene(scene.path, options.reading) as opened:
                mine = detections[detections["scene_number"] == number]
                parts.append(_tiles_of(opened, scene, number, mine, options.tile_m))
    return pd.concat(parts, ignore_index=True)


def _tiles_of(opened: Any, scene: _Scene, number: int, mine: gpd.GeoDataFrame, tile_m: float) -> pd.DataFrame:
    centre = scene.footprint.centroid
    core = max(8, ground_window(opened, (centre.x, centre.y), tile_m).height)
    counted, best = _counted(opened, mine, core)
    rows = []
    overview = opened.overview(1024)
    shrink = opened.geobox.shape[0] / overview.valid.shape[0], opened.geobox.shape[1] / overview.valid.shape[1]
    for cell in partition(tuple(opened.geobox.shape), core):
        window = cell.core
        top, left = int(window.row_off / shrink[0]), int(window.col_off / shrink[1])
        bottom, right = (window.row_off + window.height) / shrink[0], (window.col_off + window.width) / shrink[1]
        seen = overview.valid[top : max(int(bottom), top + 1), left : max(int(right), left + 1)].mean()
        flagged = counted.get((cell.row, cell.col), 0)
        if flagged or seen >= _LEAST_SEEN:
            score = best.get((cell.row, cell.col), 0.0)
            at = (window.col_off, window.row_off, window.width, window.height)
            rows.append((f"{scene.scene_id}_{cell.name}", number, flagged, score, at))
    return pd.DataFrame(rows, columns=["tile_id", "scene_number", "n_flagged", "score", "core"])


def _counted(
    opened: Any, mine: gpd.GeoDataFrame, core: int
) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], float]]:
    """Detections by tile, and the highest confidence."""
    counted: dict[tuple[int, int], int] = {}
    best: dict[tuple[int, int], float] = {}
    points = gpd.GeoSeries(gpd.points_from_xy(mine["lon"], mine["lat"]), crs=4326).to_crs(opened.geobox.crs.to_wkt())
    inverse = ~opened.geobox.affine
    for point, confidence in zip(points, mine["confidence"], strict=True):
        col = inverse.a * point.x + inverse.b * point.y + inverse.c
        row = inverse.d * point.x + inverse.e * point.y + inverse.f
        at = int(row // core), int(col // core)
        counted[at] = counted.get(at, 0) + 1
        best[at] = max(best.get(at, 0.0), float(confidence))
    return counted, best


def _note_overlaps(scenes: Sequence[_Scene], notes: list[str]) -> None:
    shapes = [scene.footprint for scene in scenes]
    total, together = sum(shape.area for shape in shapes), shapely.union_all(shapes).area
    if total > 1.01 * together:
        notes.append(
            f"{1 - together / total:.0%} of the scenes' ground is in two of them: tiles there stand twice, "
            "so take one scene a place before you estimate"
        )


def _gold(
    gold: gpd.GeoDataFrame | None,
    scenes: Sequence[_Scene],
    options: Options,
    n_tasks: int,
    rng: np.random.Generator,
    notes: list[str],
) -> pd.DataFrame:
    """Known places to mix in: as many yes as no where there are, and a few for the tutorial."""
    if gold is None or not len(gold):
        notes.append(
            "no gold: reviewers' quality cannot be measured and there is no tutorial; give known sites (--gold)"
        )
        return pd.DataFrame()
    shapes = gold.to_crs(4326)
    shapes = shapes[shapes.geometry.geom_type.isin(("Polygon", "MultiPolygon"))]
    answers = shapes["presence"] if "presence" in shapes else pd.Series("yes", index=shapes.index)
    shapes = shapes.assign(answer=answers.astype(str).str.lower(), confidence=1.0)
    shapes, lost = _on_scenes(shapes[shapes["answer"].isin(("yes", "no"))], scenes)
    notes += [text.replace("detections", "gold places") for text in lost]
    wanted = 2 * _TUTORIAL_EACH + max(2, round(n_tasks * options.gold_share / (1 - options.gold_share)))
    parts = []
    for answer in ("yes", "no"):
        mine = shapes[shapes["answer"] == answer]
        if mine.empty:
            notes.append(f"gold has no place with the answer {answer}: reviewers who always say otherwise go unseen")
            continue
        rows = rng.permutation(len(mine))[: max(1, wanted // 2)]
        chosen = mine.iloc[rows].reset_index(drop=True)
        own = chosen["tutorial"].fillna("") if "tutorial" in chosen else pd.Series("", index=chosen.index)
        taught = chosen.index.to_series() < min(_TUTORIAL_EACH, (len(chosen) + 1) // 2)
        parts.append(chosen.assign(lesson=own.where(own != "", TUTORIAL[answer]).where(taught, "")))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


# ---------------------------------------------------------------- pictures and tasks


def _render(
    sites: pd.DataFrame,
    tiles: pd.DataFrame,
    known: pd.DataFrame,
    scenes: Sequence[_Scene],
    earlier: Sequence[tuple[str, BaseGeometry]],
    folder: Path,
    options: Options,
    step: Step,
) -> list[tuple[Task, Place]]:
    """Tasks with their places, scene by scene, in an order that tells nothing."""
    made: list[tuple[Task, Place]] = []
    total = len(sites) + len(tiles) + len(known)
    with gdal_environment():
        for number, scene in enumerate(scenes):
            parts = [_of_scene(table, number) for table in (sites, tiles, known)]
            if not any(len(part) for part in parts):
                continue
            with SceneView(scene.path, options.reading, earlier) as view:
                for maker, part in zip((_site_task, _tile_task, _gold_task), parts, strict=True):
                    for row in part.to_dict("records"):
                        made.append(maker({str(k): v for k, v in row.items()}, view, scene, folder, sites, known))
                        step("pictures", len(made), total)
    return sorted(made, key=lambda pair: pair[0].task_id)


def _of_scene(table: pd.DataFrame, number: int) -> pd.DataFrame:
    return table[table["scene_number"] == number] if len(table) else table


def _site_task(
    row: dict[str, Any], view: SceneView, scene: _Scene, folder: Path, sites: Any, _known: Any
) -> tuple[Task, Place]:
    shown = view.show_site(row["geometry"], sites.crs, folder)
    task = Task(
        _new_id(),
        "validate",
        row["stratum"],
        float(row["inclusion_probability"]),
        pictures=shown.pictures,
        tier=int(row["tier"]),
    )
    return task, _place(task, shown, row, scene, view, detection_id=str(row["detection_id"]))


def _tile_task(
    row: dict[str, Any], view: SceneView, scene: _Scene, folder: Path, _sites: Any, _known: Any
) -> tuple[Task, Place]:
    shown = view.show_tile(Window(*row["core"]), folder)
    chance = float(row["inclusion_probability"])
    task = Task(_new_id(), "search", row["stratum"], chance, pictures=shown.pictures, pool=row["pool"])
    return task, _place(task, shown, row, scene, view, tile_id=str(row["tile_id"]))


def _gold_task(
    row: dict[str, Any], view: SceneView, scene: _Scene, folder: Path, _sites: Any, known: Any
) -> tuple[Task, Place]:
    shown = view.show_site(row["geometry"], known.crs, folder)
    task = Task(
        _new_id(),
        "validate",
        "gold",
        1.0,
        gold=row["answer"],
        pictures=shown.pictures,
        pool="gold",
        tutorial=row["lesson"],
    )
    return task, _place(task, shown, row, scene, view)


def _place(task: Task, shown: Shown, row: dict[str, Any], scene: _Scene, view: SceneView, **of: str) -> Place:
    outline = shapely.from_wkt(shown.outline)
    point = gpd.GeoSeries([outline.representative_point()], crs=shown.crs).to_crs(4326).iloc[0]
    score = row.get("confidence", row.get("score"))
    return Place(
        task.task_id,
        shown.crs,
        shown.grids,
        shown.outline,
        score=None if score is None or np.isnan(score) else float(score),
        class_name=str(row.get("class_name") or ""),
        scene_id=scene.scene_id,
        date=view.date,
        lon=float(point.x),
        lat=float(point.y),
        **of,
    )


def _new_id() -> str:
    """Opaque: says nothing of the place, the stratum or the order."""
    return secrets.token_hex(8)


def _settle_settings(store: Any, options: Options, tasks: Sequence[Task], detections: gpd.GeoDataFrame) -> None:
    pools = [task.pool for task in tasks if task.pool != "gold"]
    names = list(detections["class_name"].value_counts().index)
    looking_for = options.looking_for or (str(names[0]).replace("_", " ") if names else "")
    store.set_setting("retirement", {"votes": options.votes, "most": max(10, options.votes)})
    store.set_setting("gold_share", options.gold_share if "gold" in {task.pool for task in tasks} else 0.0)
    store.set_setting("unflagged_share", pools.count("unflagged") / max(len(pools), 1))
    store.set_setting("design", {"design": options.design, "seed": options.seed, "tile_m": options.tile_m})
    if looking_for:
        store.set_setting("looking_for", looking_for)


def _write_tables(folder: Path, made: Sequence[tuple[Task, Place]], frame: pd.DataFrame) -> None:
    rows = [
        {
            "task_id": task.task_id,
            "kind": task.kind,
            "pool": task.pool,
            "stratum": task.stratum,
            "inclusion_probability": task.inclusion_probability,
            "detection_id": place.detection_id,
            "tile_id": place.tile_id,
            "lon": place.lon,
            "lat": place.lat,
        }
        for task, place in made
    ]
    pd.DataFrame(rows).to_csv(folder / "drawn.csv", index=False)
    if len(frame):
        told = frame.drop(columns=["scene_number", "core"]).assign(status="ok")
        told.assign(stratum=designs.by_flagged(told["n_flagged"])).to_csv(folder / "frame.csv", index=False)


def _summary(tasks: Sequence[Task], notes: Sequence[str]) -> Made:
    strata = pd.Series([task.stratum for task in tasks]).value_counts().sort_index()
    return Made(
        tasks=len(tasks),
        validate=sum(task.kind == "validate" for task in tasks),
        search=sum(task.kind == "search" for task in tasks),
        gold=sum(task.gold is not None for task in tasks),
        tutorial=sum(task.tutorial != "" for task in tasks),
        pictures=sum(len(task.pictures) for task in tasks),
        strata={str(name): int(n) for name, n in strata.items()},
        notes=tuple(notes),
    )
