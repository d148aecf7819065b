"""The maps of a report, and a section for each kind of figures: count, change, accuracy, comparison, registry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from html import escape
from typing import Any

import geopandas as gpd
import shapely

from geoslave.errors import GeoslaveError
from geoslave.estimate.change import MEANINGS
from geoslave.release.cells import cells_of_detections, count_cells, h3_module
from geoslave.release.report_parts import (
    Numbers,
    drawing_of,
    figure,
    interval,
    row_of,
    sentence,
    short_interval,
    table_of,
)
from geoslave.release.report_svg import Area, Moment, Row, draw_intervals, draw_map, draw_series
from geoslave.release.suppress import K, Tree, protect

Record = Mapping[str, Any]

NOT_PLACES = ("class", "class_name", "stratum", "season", "site_type")
"""Ways to take a count apart that do not tell where."""
_PLAIN_STRATUM = re.compile(r"(un)?flagged( \d[\d+-]*)?|random|all|not searched|(confidence|predicted)[ \d.,+-]*")
"""Strata of our own designs; any other name may be that of a place."""
MOST_ROWS = 40
"""Longer tables are cut, and say so."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What maps are drawn from."""

    detections: gpd.GeoDataFrame | None = None
    provenance: Mapping[str, Any] | None = None
    """Of the detections."""
    areas: gpd.GeoDataFrame | None = None
    """Polygons with a column `name`, in longitude/latitude."""
    precise: bool = False
    """Exact places: for one recipient, never for publication."""

    @property
    def synthetic(self) -> bool:
        """Rendered ground: its places are nowhere."""
        return bool((self.provenance or {}).get("synthetic"))


def map_of_detections(ground: Ground, number: Numbers) -> list[str]:
    found = ground.detections
    if found is None or not len(found):
        return []
    outlines = [] if ground.areas is None else list(ground.areas.geometry)
    if ground.precise:
        points = shapely.point_on_surface(found.geometry.to_crs(4326).to_numpy())
        at = [(float(x), float(y)) for x, y in zip(shapely.get_x(points), shapely.get_y(points), strict=True)]
        drawing = draw_map([], "", "Map of detections", outlines, at)
        told = f"{len(found):,} detections, each at its place; not corrected for misses and false alarms."
        return [drawing_of(drawing, number, told + (" The ground is rendered." if ground.synthetic else ""))]
    try:
        counts = count_cells(cells_of_detections(found), k=K)
    except GeoslaveError as error:
        if len(found) >= K:
            raise
        return [f'<p class="aside">No map: {escape(str(error))}.</p>']
    hexagons = [Area(_hexagon(row.cell), float(row.n_detections), row.cell) for row in counts.cells]
    if not hexagons:
        return ['<p class="aside">No map: the detections are too few, too far apart, to show where they lie.</p>']
    mean = sum(row.area_km2 or 0 for row in counts.cells) / len(hexagons)
    caption = (
        f"Detections by hexagon (H3, resolution {counts.resolution}, about {mean:,.0f} km² each), not corrected for "
        f"errors; {counts.share_in_cells:.0%} of {len(found):,} lie in one that is shown. Hexagons are shown "
        f"from {K} detections on, and some are withheld besides: one that is absent is not empty."
    )
    return [drawing_of(draw_map(hexagons, "detections", "Map of detections", outlines), number, caption)]


def _hexagon(cell: str) -> shapely.Polygon:
    return shapely.Polygon([(lon, lat) for lat, lon in h3_module().cell_to_boundary(cell)])


def _map_of_areas(parts: Mapping[str, Any], published: Iterable[str], ground: Ground, number: Numbers) -> list[str]:
    if ground.areas is None:
        return []
    shown = set(published)
    areas = [
        Area(shape, float(round(parts[name]["value"])) if name in shown else None, name)
        for name, shape in zip(ground.areas["name"].astype(str), ground.areas.geometry, strict=True)
    ]
    if not any(area.value is not None for area in areas):
        return []
    drawing = draw_map(areas, "sites", "Map of estimated sites by area", names=len(areas) <= 20)
    return [drawing_of(drawing, number, "Estimated sites by area, corrected for misses and false alarms.")]


def _count_section(record: Record, ground: Ground, number: Numbers) -> list[str]:
    parts = ["<h2>Counts</h2>"]
    total = record["total"]
    for by, groups in record.get("by", {}).items():
        place = _tells_where(by, groups)
        published = set(groups) if ground.precise or not place else _published(groups, total)
        if by == "area":
            parts += _map_of_areas(groups, published, ground, number)
        rows = [row_of(name, part, name in published) for name, part in groups.items()]
        withheld = len(groups) - len(published)
        told = f"Sites by {by.replace('_', ' ')}, with {total['level']:.0%} intervals."
        if withheld:
            told += (
                f" {withheld} withheld, having fewer than {K} sites or because they would give those away; "
                "or without a site."
            )
        if len(rows) > MOST_ROWS:
            told += f" The first {MOST_ROWS} of {len(rows)} are drawn."
        parts.append(drawing_of(draw_intervals(rows[:MOST_ROWS], "sites", f"Sites by {by}"), number, told))
    parts.append(_sample_table(record, ground, number))
    return [part for part in parts if part] if any(parts[1:]) else []


def _sample_table(record: Record, ground: Ground, number: Numbers) -> str:
    strata = (record.get("sample") or {}).get("strata") or []
    if not strata:
        return ""
    where = not ground.precise and _tells_where("stratum", {row["name"]: None for row in strata})
    head = ["stratum", "tiles", "reviewed"] + ([] if where else ["with sites"])
    rows = [
        [row["name"], f"{row['tiles']:,}", f"{row['reviewed']:,}"] + ([] if where else [f"{row['with_sites']:,}"])
        for row in strata[:MOST_ROWS]
    ]
    return table_of(head, rows, number, "The sample: tiles of the frame and reviewed tiles, by stratum.")


def _change_section(record: Record, _ground: Ground, number: Numbers) -> list[str]:
    parts = ["<h2>Change</h2>"]
    series = record["series"]
    if len(series) > 1 and all("sites" in row for row in series):
        moments = [
            Moment(
                date.fromisoformat(row["date"]),
                row["sites"]["value"],
                row["sites"]["low"],
                row["sites"]["high"],
                row["found"],
            )
            for row in series
        ]
        hidden = max(row["unobservable"] for row in series)
        told = "Sites over time, where somebody could see."
        if hidden:
            told += (
                f" At a date up to {hidden:,} known sites lay under cloud or missing imagery and are not in its count."
            )
        parts.append(drawing_of(draw_series(moments, "Sites over time"), number, told))
    status = record["status"]
    rows = [[name, f"{n:,}", MEANINGS[name]] for name, n in status.items()]
    parts.append(table_of(["status", "sites", "meaning"], rows, number, "What became of every site ever detected."))
    if any("persisted" in row for row in record["changes"]):
        head = ["from", "to", "persisted", "closed", "opened", "net"]
        rows = [
            [row["from"], row["to"], *(short_interval(row[name]) for name in ("persisted", "closed", "opened", "net"))]
            for row in record["changes"]
        ]
        told = "Change from date to date, corrected for what the detector misses, with intervals."
        parts.append(table_of(head, rows, number, told))
    return parts


def _accuracy_section(record: Record, _ground: Ground, number: Numbers) -> list[str]:
    overall = record["overall"]
    head = ["class", "user's accuracy", "producer's accuracy", "area"]
    rows = [
        [name, short_interval(one["users"], 3), short_interval(one["producers"], 3), short_interval(one["area"], 1)]
        for name, one in record["classes"].items()
    ]
    said = (
        f"Overall accuracy {figure(overall, 3)}, {interval(overall, 3)}, from {overall['n_reviewed']:,} sample units."
    )
    told = "Accuracy and area by class, with intervals; areas in the unit of the mapped areas."
    return ["<h2>Accuracy and area</h2>", f"<p>{escape(said)}</p>", table_of(head, rows, number, told)]


def _comparison_section(record: Record, ground: Ground, number: Numbers) -> list[str]:
    parts = ["<h2>Is the detector equally good everywhere?</h2>"]
    for by in dict.fromkeys(one["by"] for one in record["comparisons"]):
        mine = [one for one in record["comparisons"] if one["by"] == by]
        rates = [one for one in mine if one["measure"] in ("recall", "precision")]
        for part, unit, most in ((rates, "share", 1.0), ([one for one in mine if one not in rates], "ratio", None)):
            if not part:
                continue
            shown = [_enough_hits(one, ground) for one in part]
            rows = [row for one, names in zip(part, shown, strict=True) for row in _compared_rows(one, names)]
            told = " ".join(_verdict(one) for one in part)
            if any(len(names) < len(one["groups"]) for one, names in zip(part, shown, strict=True)):
                told += f" Withheld are those with fewer than {K} confirmed hits among the reviewed tiles."
            title = f"{' and '.join(one['measure'] for one in part)} by {by.replace('_', ' ')}"
            parts.append(drawing_of(draw_intervals(rows, unit, title, most), number, told))
    n = len(record["comparisons"])
    if n > 1:
        parts.append(f"<p>{n} tests were made: by chance alone one in twenty has a p below 0.05.</p>")
    return parts


def _compared_rows(one: Mapping[str, Any], shown: set[str]) -> list[Row]:
    groups = list(one["groups"].items())[:MOST_ROWS]
    rows = [row_of(name, part, name in shown, 2) for name, part in groups]
    return [Row(sentence(one["measure"]), heads=True), *rows]


def _enough_hits(one: Mapping[str, Any], ground: Ground) -> set[str]:
    """The groups that may be drawn: of places those whose rate rests on more than a few sites."""
    if ground.precise or not _tells_where(one["by"], one["groups"]):
        return set(one["groups"])
    hits = one.get("hits") or {}
    return {name for name in one["groups"] if hits.get(name, 0) >= K}


def _verdict(one: Mapping[str, Any]) -> str:
    seen = "groups differ more than by chance" if one["differs"] else "no difference beyond chance was seen"
    told = f"{sentence(one['measure'])} by {one['by'].replace('_', ' ')}: {seen} (p = {one['p_value']:.2g})."
    if one["measure"] == "calibration":
        told += " Drawn is expected over confirmed hits: 1 where the confidence holds."
    return told


def _registry_section(record: Record, _ground: Ground, number: Numbers) -> list[str]:
    rows = [[name, f"{n:,}"] for name, n in record["status"].items()]
    total = record["total"]
    said = f"From both lists: {figure(total)} sites, {interval(total)}."
    told = f"{record['n_detections']:,} detections against {record['n_registered']:,} entries of the register."
    return [
        "<h2>Against the official register</h2>",
        table_of(["status", "places"], rows, number, told),
        f"<p>{escape(said)}</p>",
    ]


SECTIONS = {
    "count": _count_section,
    "change": _change_section,
    "accuracy": _accuracy_section,
    "comparison": _comparison_section,
    "registry": _registry_section,
}


# ---------------------------------------------------------------- what may be shown


def _tells_where(by: str, groups: Mapping[str, Any]) -> bool:
    """Whether the parts of a count are places."""
    if by == "stratum":
        return not all(_PLAIN_STRATUM.fullmatch(str(name)) for name in groups)
    return by not in NOT_PLACES


def _published(groups: Mapping[str, Any], total: Mapping[str, Any]) -> set[str]:
    """The parts whose count gives no small one away."""
    root = " all"
    values = {name: (round(part["value"]),) for name, part in groups.items()}
    # rounded parts must add up to the whole, or the rounding would look like a small remainder
    values[root] = (sum(value for (value,) in values.values()),)
    if round(total["value"]) < K:
        return set()
    parent = {**dict.fromkeys(groups, root), root: ""}
    try:
        return set(protect(Tree(parent, values), K)) - {root}
    except GeoslaveError:
        return set()
