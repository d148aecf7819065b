"""A report that can be attached to a paper: one HTML file with figures, intervals, methods, limits, provenance.

Everything is in the file: drawings are SVG, there is no script, and a content policy forbids the browser to
load anything. Figures come from the records of `geoslave estimate` (count, change, accuracy, compare,
registry). Unless exact places are asked for, the map shows hexagons of at least five detections, and
counts by place are withheld as in a public release (`geoslave.release.suppress`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely

from geoslave import __version__
from geoslave.detections.schema import STATEMENT
from geoslave.errors import EstimateError, GeoslaveError
from geoslave.files import atomic_file
from geoslave.release import report_words as words
from geoslave.release.cells import cells_of_detections, count_cells, h3_module
from geoslave.release.report_svg import Area, Moment, Row, draw_intervals, draw_map, draw_series
from geoslave.release.suppress import K, Tree, protect

Record = Mapping[str, Any]

NOT_PLACES = ("class", "class_name", "stratum", "season", "site_type")
"""Ways to take a count apart that do not tell where."""
_PLAIN_STRATA = ("flagged", "unflagged", "random", "all", "confidence", "not searched", "predicted")
ALL_REVIEWED = "all were reviewed"
"""In place of an interval where nothing was left to a sample."""
MOST_ROWS = 40
"""Longer tables are cut, and say so."""


@dataclass(frozen=True, slots=True)
class Cover:
    """What stands at the top."""

    title: str
    place: str = ""
    authors: tuple[str, ...] = ()
    notice: str = ""
    """Something a reader must see first, e.g. that all is synthetic."""
    written: date | None = None


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


def write_report(
    out: Path, records: Sequence[Record], cover: Cover, ground: Ground | None = None, *, overwrite: bool = False
) -> None:
    """Write a report as one HTML file.

    Args:
        records: see `geoslave.estimate.record`.

    Raises:
        EstimateError: if there is nothing to report, or a record is not whole.
        MissingExtra: if a map of hexagons is wanted, and h3 is not installed.
        OutputError: if `out` exists and `overwrite` is false, or it cannot be written.
    """
    try:
        text = page(records, cover, ground or Ground())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EstimateError(
            f"the figures are not whole ({type(error).__name__}: {error}): make them again with geoslave estimate"
        ) from error
    with atomic_file(out, overwrite=overwrite) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def page(records: Sequence[Record], cover: Cover, ground: Ground) -> str:
    """The report as HTML.

    Raises:
        EstimateError, MissingExtra: as write_report.
    """
    told = [record for record in records if record.get("kind") in words.OF_KIND]
    if not told:
        raise EstimateError("there is no figure to report: give what geoslave estimate count, change or others wrote")
    number = _Numbers()
    body = [_head(cover, ground), *(_headline(record) for record in _of(told, "count"))]
    body += _map_of_detections(ground, number)
    for record in told:
        body += _SECTIONS[record["kind"]](record, ground, number)
    body += [*_methods(told, ground), _provenance(told, cover, ground)]
    return _TEMPLATE.format(title=escape(cover.title), style=_STYLE, body="\n".join(part for part in body if part))


class _Numbers:
    """Figures and tables are numbered as they come."""

    def __init__(self) -> None:
        self._last = {"Figure": 0, "Table": 0}

    def next(self, what: str) -> str:
        self._last[what] += 1
        return f"{what} {self._last[what]}"


# ---------------------------------------------------------------- the top


def _head(cover: Cover, ground: Ground) -> str:
    about = " · ".join(part for part in (cover.place, ", ".join(cover.authors)) if part)
    parts = [f"<h1>{escape(cover.title)}</h1>"]
    if about:
        parts.append(f'<p class="about">{escape(about)}</p>')
    if cover.notice:
        parts.append(f'<p class="notice">{escape(cover.notice)}</p>')
    if ground.precise and not ground.synthetic:
        parts.append('<p class="notice">This report shows exact places. Do not publish it, do not pass it on.</p>')
    parts.append(f'<p class="statement"><strong>An indicator, not evidence.</strong> {escape(STATEMENT)}</p>')
    return f"<header>{''.join(parts)}</header>"


def _headline(record: Record) -> str:
    total = record["total"]
    cards = [_card("sites", _figure(total), _interval(total))]
    for name in ("recall", "precision"):
        if name in record:
            cards.append(_card(f"{name} of the detector", _figure(record[name], 2), _interval(record[name], 2)))
    said = f"An estimate of {_figure(total)} sites, {_interval(total)}, from {total['n_reviewed']:,} reviewed tiles"
    sample = record.get("sample")
    if sample:
        said += f" of {sample['tiles']:,}"
    half = _half_width(total)
    if _certain(total):
        said = f"A count of {_figure(total)} sites: of {total['n_reviewed']:,} tiles none was left out"
    elif half is not None:
        said += f". Half the interval is {half:.0%} of the estimate"
    return f'<section class="cards">{"".join(cards)}</section><p class="lead">{escape(said)}.</p>'


def _card(name: str, figure: str, interval: str) -> str:
    return f"<div><b>{figure}</b><span>{escape(name)}</span><small>{escape(interval)}</small></div>"


# ---------------------------------------------------------------- maps


def _map_of_detections(ground: Ground, number: _Numbers) -> list[str]:
    found = ground.detections
    if found is None or not len(found):
        return []
    outlines = [] if ground.areas is None else list(ground.areas.geometry)
    if ground.precise:
        points = shapely.point_on_surface(found.geometry.to_crs(4326).to_numpy())
        at = [(float(x), float(y)) for x, y in zip(shapely.get_x(points), shapely.get_y(points), strict=True)]
        drawing = draw_map([], "", "Map of detections", outlines, at)
        told = f"{len(found):,} detections, each at its place; not corrected for misses and false alarms."
        return [_drawing(drawing, number, told + (" The ground is rendered." if ground.synthetic else ""))]
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
    return [_drawing(draw_map(hexagons, "detections", "Map of detections", outlines), number, caption)]


def _hexagon(cell: str) -> shapely.Polygon:
    return shapely.Polygon([(lon, lat) for lat, lon in h3_module().cell_to_boundary(cell)])


def _map_of_areas(parts: Mapping[str, Any], published: Iterable[str], ground: Ground, number: _Numbers) -> list[str]:
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
    return [_drawing(drawing, number, "Estimated sites by area, corrected for misses and false alarms.")]


# ---------------------------------------------------------------- one section a kind of figures


def _count_section(record: Record, ground: Ground, number: _Numbers) -> list[str]:
    parts = ["<h2>Counts</h2>"]
    total = record["total"]
    for by, groups in record.get("by", {}).items():
        place = _tells_where(by, groups)
        published = set(groups) if ground.precise or not place else _published(groups, total)
        if by == "area":
            parts += _map_of_areas(groups, published, ground, number)
        rows = [_row(name, part, name in published) for name, part in groups.items()]
        withheld = len(groups) - len(published)
        told = f"Sites by {by.replace('_', ' ')}, with {total['level']:.0%} intervals."
        if withheld:
            told += (
                f" {withheld} withheld, having fewer than {K} sites or because they would give those away; "
                "or without a site."
            )
        if len(rows) > MOST_ROWS:
            told += f" The first {MOST_ROWS} of {len(rows)} are drawn."
        parts.append(_drawing(draw_intervals(rows[:MOST_ROWS], "sites", f"Sites by {by}"), number, told))
    parts.append(_sample_table(record, ground, number))
    return [part for part in parts if part] if any(parts[1:]) else []


def _sample_table(record: Record, ground: Ground, number: _Numbers) -> str:
    strata = (record.get("sample") or {}).get("strata") or []
    if not strata:
        return ""
    where = not ground.precise and _tells_where("stratum", {row["name"]: None for row in strata})
    head = ["stratum", "tiles", "reviewed"] + ([] if where else ["with sites"])
    rows = [
        [row["name"], f"{row['tiles']:,}", f"{row['reviewed']:,}"] + ([] if where else [f"{row['with_sites']:,}"])
        for row in strata[:MOST_ROWS]
    ]
    return _table(head, rows, number, "The sample: tiles of the frame and reviewed tiles, by stratum.")


def _change_section(record: Record, _ground: Ground, number: _Numbers) -> list[str]:
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
        parts.append(_drawing(draw_series(moments, "Sites over time"), number, told))
    status = record["status"]
    rows = [[name, f"{n:,}", _STATUS[name]] for name, n in status.items()]
    parts.append(_table(["status", "sites", "meaning"], rows, number, "What became of every site ever detected."))
    if any("persisted" in row for row in record["changes"]):
        head = ["from", "to", "persisted", "closed", "opened", "net"]
        rows = [
            [row["from"], row["to"], *(_short_interval(row[name]) for name in ("persisted", "closed", "opened", "net"))]
            for row in record["changes"]
        ]
        told = "Change from date to date, corrected for what the detector misses, with intervals."
        parts.append(_table(head, rows, number, told))
    return parts


_STATUS = {
    "persisted": "seen at the last date, and not new",
    "appeared": "seen at the last date, after an observed absence",
    "not redetected": "not seen where it could be, too seldom to say more",
    "closed": "observably absent often enough",
    "unobservable": "nobody could have seen: cloud or nodata",
}


def _accuracy_section(record: Record, _ground: Ground, number: _Numbers) -> list[str]:
    overall = record["overall"]
    head = ["class", "user's accuracy", "producer's accuracy", "area"]
    rows = [
        [name, _short_interval(one["users"], 3), _short_interval(one["producers"], 3), _short_interval(one["area"], 1)]
        for name, one in record["classes"].items()
    ]
    said = (
        f"Overall accuracy {_figure(overall, 3)}, {_interval(overall, 3)}, from {overall['n_reviewed']:,} sample units."
    )
    told = "Accuracy and area by class, with intervals; areas in the unit of the mapped areas."
    return ["<h2>Accuracy and area</h2>", f"<p>{escape(said)}</p>", _table(head, rows, number, told)]


def _comparison_section(record: Record, _ground: Ground, number: _Numbers) -> list[str]:
    parts = ["<h2>Is the detector equally good everywhere?</h2>"]
    for by in dict.fromkeys(one["by"] for one in record["comparisons"]):
        mine = [one for one in record["comparisons"] if one["by"] == by]
        rates = [one for one in mine if one["measure"] in ("recall", "precision")]
        for part, unit, most in ((rates, "share", 1.0), ([one for one in mine if one not in rates], "ratio", None)):
            if not part:
                continue
            rows = [row for one in part for row in _compared_rows(one)]
            told = " ".join(_verdict(one) for one in part)
            title = f"{' and '.join(one['measure'] for one in part)} by {by.replace('_', ' ')}"
            parts.append(_drawing(draw_intervals(rows, unit, title, most), number, told))
    n = len(record["comparisons"])
    if n > 1:
        parts.append(f"<p>{n} tests were made: by chance alone one in twenty has a p below 0.05.</p>")
    return parts


def _compared_rows(one: Mapping[str, Any]) -> list[Row]:
    groups = list(one["groups"].items())[:MOST_ROWS]
    rows = [Row(name, part["value"], part["low"], part["high"], _short_interval(part, 2)) for name, part in groups]
    return [Row(_sentence(one["measure"]), heads=True), *rows]


def _verdict(one: Mapping[str, Any]) -> str:
    seen = "groups differ more than by chance" if one["differs"] else "no difference beyond chance was seen"
    told = f"{_sentence(one['measure'])} by {one['by'].replace('_', ' ')}: {seen} (p = {one['p_value']:.2g})."
    if one["measure"] == "calibration":
        told += " Drawn is expected over confirmed hits: 1 where the confidence holds."
    return told


def _registry_section(record: Record, _ground: Ground, number: _Numbers) -> list[str]:
    rows = [[name, f"{n:,}"] for name, n in record["status"].items()]
    total = record["total"]
    said = f"From both lists: {_figure(total)} sites, {_interval(total)}."
    told = f"{record['n_detections']:,} detections against {record['n_registered']:,} entries of the register."
    return [
        "<h2>Against the official register</h2>",
        _table(["status", "places"], rows, number, told),
        f"<p>{escape(said)}</p>",
    ]


_SECTIONS = {
    "count": _count_section,
    "change": _change_section,
    "accuracy": _accuracy_section,
    "comparison": _comparison_section,
    "registry": _registry_section,
}


# ---------------------------------------------------------------- the end


def _methods(records: Sequence[Record], ground: Ground) -> list[str]:
    methods: list[str] = []
    assumed: list[str] = []
    cited: list[str] = []
    for record in records:
        for known, more in zip((methods, assumed, cited), words.OF_KIND[record["kind"]](record), strict=True):
            known += [part for part in more if part not in known]
    warned = sorted({warning for record in records for warning in _warnings(record)})
    reviewers = "joseph" in cited
    parts = ["<h2>Methods</h2>", *(f"<p>{escape(part)}</p>" for part in methods)]
    if not ground.precise:
        parts.append(
            f"<p>To protect people and places, no exact position is in this report. Counts by place are shown from {K} "
            "sites on, and more are withheld where subtracting from a total would give a small one away.</p>"
        )
    parts += ["<h2>Assumptions</h2>", _list(assumed)]
    parts += ["<h2>Warnings</h2>", _list([_sentence(part) for part in warned] or ["None of the estimates warns."])]
    parts += ["<h2>What these figures cannot tell</h2>", _list(words.limits(reviewers))]
    if cited:
        references = [words.REFERENCES[name] for name in cited]
        parts += ["<h2>References</h2>", _list(sorted(references), "references")]
    return parts


def _warnings(told: Any) -> Iterable[str]:
    """Every warning in a record, wherever it stands."""
    if isinstance(told, Mapping):
        # what is taken for granted stands under the assumptions
        given = [str(warning) for warning in told.get("warnings") or ()]
        yield from (warning for warning in given if not warning.startswith(("assumes ", "misses are taken")))
        for key, value in told.items():
            if key != "warnings":
                yield from _warnings(value)
    elif isinstance(told, list):
        for value in told:
            yield from _warnings(value)


def _provenance(records: Sequence[Record], cover: Cover, ground: Ground) -> str:
    origins = [dict(record.get("provenance") or {}) for record in records]
    files = {
        (one.get("sha256"), one.get("role")): one for origin in origins for one in origin.get("inputs") or ()
    }.values()
    models = [ground.provenance or {}, *files]
    when = cover.written.isoformat() if cover.written else ""
    rows = [("Report written", f"{when} by geoslave {__version__}".strip())]
    rows += _lines("Estimates made", (_made(r["kind"], o) for r, o in zip(records, origins, strict=True) if o))
    rows += _lines("Model", (_model(one) for one in models))
    rows += _lines("Imagery", (_imagery(one, ground.precise) for one in models))
    rows += _lines("Thresholds", (_thresholds(one) for one in models))
    rows += _lines("Confidence", (str(one["confidence"]) for one in models if one.get("confidence")))
    reviewed = [_reviewed(origin) for origin in origins]
    rows += _lines("Reviewed", reviewed)
    rows += _lines("Tables", (f"{one['role']}: {one['file']}, SHA-256 {one['sha256']}" for one in files))
    shown = "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f'<h2>Provenance</h2><table class="provenance">{shown}</table>'


def _lines(name: str, values: Iterable[str]) -> list[tuple[str, str]]:
    """One row of the provenance; what is said twice is said once."""
    known = list(dict.fromkeys(value for value in values if value))
    return [(name, "<br>".join(escape(value) for value in known))] if known else []


def _made(kind: str, origin: Mapping[str, Any]) -> str:
    told = [f"{kind}: {origin.get('made', 'date not known')}, geoslave {origin.get('geoslave_version', 'not known')}"]
    told += [f"{key.replace('_', ' ')} {origin[key]}" for key in ("method", "level", "seed") if key in origin]
    return ", ".join(told)


def _model(told: Mapping[str, Any]) -> str:
    if not told.get("model_id"):
        return ""
    digest = f", SHA-256 {told['model_sha256']}" if told.get("model_sha256") else ""
    return f"{told['model_id']}{digest}"


def _imagery(told: Mapping[str, Any], precise: bool) -> str:
    scenes = told.get("scenes") or ()
    if not scenes and not told.get("first_date"):
        return ""
    dates = " to ".join(dict.fromkeys(str(told[k]) for k in ("first_date", "last_date") if told.get(k)))
    named = ": " + ", ".join(str(scene) for scene in scenes) if precise else ""
    count = f"{len(scenes):,} scene{'' if len(scenes) == 1 else 's'}{named}" if scenes else ""
    return ", ".join(part for part in (count, dates or "day of the image not known") if part)


def _thresholds(told: Mapping[str, Any]) -> str:
    names = {"threshold_high": "score", "threshold_low": "outline down to", "min_confidence": "confidence from"}
    return ", ".join(
        f"{words_} {told[key]:g}" for key, words_ in names.items() if isinstance(told.get(key), int | float)
    )


def _reviewed(origin: Mapping[str, Any]) -> str:
    if "n_reviewed" not in origin:
        return ""
    people = f", by {origin['n_reviewers']:,} people" if origin.get("n_reviewers") else ""
    return f"{origin['n_reviewed']:,} tiles{people}"


# ---------------------------------------------------------------- what may be shown


def _tells_where(by: str, groups: Mapping[str, Any]) -> bool:
    """Whether the parts of a count are places."""
    if by == "stratum":
        return not all(str(name).startswith(_PLAIN_STRATA) for name in groups)
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


def _of(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


# ---------------------------------------------------------------- pieces


def _row(name: str, part: Mapping[str, Any], shown: bool) -> Row:
    if not shown:
        return Row(name)
    return Row(name, part["value"], part["low"], part["high"], _short_interval(part))


def _figure(told: Mapping[str, Any], digits: int = 0) -> str:
    return "not known" if told.get("value") is None else f"{told['value']:,.{digits}f}"


def _interval(told: Mapping[str, Any], digits: int = 0) -> str:
    if _certain(told):
        return ALL_REVIEWED
    return f"{told['level']:.0%} interval {_ends(told, digits)}"


def _certain(told: Mapping[str, Any]) -> bool:
    exact = told.get("low") is not None and told["low"] == told.get("value") == told.get("high")
    return exact and bool(told.get("n_reviewed"))


def _ends(told: Mapping[str, Any], digits: int) -> str:
    if _certain(told):
        return ALL_REVIEWED
    low, high = told.get("low"), told.get("high")
    if low is None or high is None:
        return "without an end" if low is None else f"from {low:,.{digits}f} without an upper end"
    return f"{low:,.{digits}f} to {high:,.{digits}f}"


def _short_interval(told: Mapping[str, Any], digits: int = 0) -> str:
    return f"{_figure(told, digits)} ({_ends(told, digits)})"


def _half_width(total: Mapping[str, Any]) -> float | None:
    if not total.get("value") or total.get("high") is None:
        return None
    return float(total["high"] - total["low"]) / 2 / float(total["value"])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _list(items: Sequence[str], kind: str = "") -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(_sentence(item))}</li>" for item in items) + "</ul>"


def _drawing(svg: str, number: _Numbers, caption: str) -> str:
    told = f"<b>{number.next('Figure')}.</b> {escape(caption)}"
    return f"<figure>{svg}<figcaption>{told}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], number: _Numbers, caption: str) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    told = f"<b>{number.next('Table')}.</b> {escape(caption)}"
    return f"<table><caption>{told}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 47rem; padding: 2.6rem 1.4rem 4rem; color: #1A1E24; background: #fff;
  font: 16px/1.55 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid #DFE2E6;
  break-after: avoid; }
p { margin: .6rem 0; }
.about { color: #6B7079; margin: 0 0 1rem; }
.statement { border-left: 4px solid #0072B2; padding: .55rem .9rem; background: #F3F7FA; font-size: .94rem; }
.notice { border-left: 4px solid #D55E00; padding: .55rem .9rem; background: #FDF4EE; font-weight: 600; }
.aside { color: #6B7079; font-style: italic; }
.cards { display: flex; flex-wrap: wrap; gap: .9rem; margin: 1.6rem 0 .4rem; }
.cards div { flex: 1 1 12rem; border: 1px solid #DFE2E6; border-radius: 6px; padding: .8rem 1rem; }
.cards b { display: block; font-size: 2.1rem; line-height: 1.1; font-variant-numeric: tabular-nums; }
.cards span { display: block; color: #1A1E24; }
.cards small { color: #6B7079; font-size: .9rem; }
.lead { color: #3A4048; }
figure { margin: 1.5rem 0; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; }
figcaption, caption { color: #4A515A; font-size: .9rem; line-height: 1.45; text-align: left; }
figcaption { margin-top: .5rem; }
caption { margin-bottom: .4rem; caption-side: top; }
table { border-collapse: collapse; width: 100%; margin: 1.3rem 0; font-size: .93rem; break-inside: avoid; }
th, td { text-align: left; padding: .32rem .7rem .32rem 0; border-bottom: 1px solid #E9ECEF; vertical-align: top;
  font-variant-numeric: tabular-nums; }
thead th { border-bottom: 1.5px solid #1A1E24; font-weight: 600; }
.provenance th { width: 9rem; font-weight: 600; }
.provenance td { overflow-wrap: anywhere; font-size: .86rem; }
.provenance { break-inside: auto; }
ul { margin: .5rem 0; padding-left: 1.2rem; }
li { margin: .3rem 0; }
.references { font-size: .9rem; }
footer { margin-top: 2.6rem; color: #6B7079; font-size: .86rem; }
@page { size: A4; margin: 18mm 17mm 19mm;
  @bottom-right { content: counter(page) " / " counter(pages); color: #6B7079; font-size: 8.5pt; } }
@media print { body { padding: 0; max-width: none; font-size: 10.5pt; } h1 { font-size: 20pt; }
  .cards b { font-size: 22pt; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<footer>Written by geoslave. Everything in this file is in it: it loads nothing.</footer>
</body>
</html>
"""
