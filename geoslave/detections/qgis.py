"""QGIS styles of what geoslave writes: detections, scores, verdicts, errors, blocks, counts, changes.

Detections are graded by confidence. An outline in a bright colour lies on a dark casing, so that it
stands out on pale soil as on dark water; the fill is thin, so that the site stays visible. Colour and
width both grow with confidence: the grades can be told apart without seeing colours. Where a site is
a speck on the map, a dot stands for it.

The project variable `min_confidence`, where a project has one, hides what is below it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from geoslave.detections import qgissymbols as draw
from geoslave.detections.qgissymbols import Labels, Rule
from geoslave.detections.schema import COLUMNS
from geoslave.imagery.grades import GRADES, Colour, Grade
from geoslave.imagery.raster import SCORE_NODATA, SCORE_STEPS

SIDE_M = 90.0
"""Side of a site where nobody says how large sites are."""
_SPECK_MM, _LABELLED_MM = 1.8, 3.0
"""Sites smaller than this on the map are dots; larger than that they have labels."""

_RAMP = (
    (0.0, (68, 1, 84), 0),
    (0.1, (72, 40, 120), 60),
    (0.25, (59, 82, 139), 130),
    (0.5, (33, 145, 140), 190),
    (0.75, (94, 201, 98), 225),
    (1.0, (253, 231, 37), 255),
)
"""Score, colour (viridis), opacity 0..255: low scores let the imagery through."""

GREEN: Colour = (0, 140, 100)
PURPLE: Colour = (170, 75, 130)
ORANGE: Colour = (213, 94, 0)
BLUE: Colour = (60, 150, 255)
GREY: Colour = (158, 164, 170)

LEAST = "coalesce(to_real(@min_confidence), 0)"
_SHOWN = f'if("confidence" >= {LEAST}, "confidence", NULL)'

_MAP_TIP = """<b>[% "class_name" %]</b><br/>
confidence <b>[% format_number("confidence", 2) %]</b>[% if("calibrated", '', ' (a score, not a probability)') %]<br/>
[% format_number("length_m", 0) %] × [% format_number("width_m", 0) %] m, \
[% format_number("area_m2", 0) %] m²[% if("truncated", ', cut by the edge of the image', '') %]<br/>
[% coalesce("date", 'date not known') %]<br/>
<i>An indicator, not evidence.</i>"""

_DISPLAY = '"class_name" || \' \' || format_number("confidence", 2)'
_PERCENT = "format_number(100 * \"confidence\", 0) || ' %'"


def detections_qml(
    columns: Sequence[str] = (), aliases: Mapping[str, str] | None = None, side_m: float = SIDE_M
) -> str:
    """The style of a detections layer as QML.

    Args:
        columns: the layer's fields in their order, without the geometry; default: those of the schema.
        aliases: names to show for fields beyond those of the schema.
        side_m: of a typical site, in metres; it decides at which scale sites become dots and get labels.
    """
    names = {name: column.alias for name, column in COLUMNS.items()} | dict(aliases or {})
    ranges = [
        (grade.low, grade.high, grade.label, _site(grade.colour, grade.width_mm, _far(side_m))) for grade in GRADES
    ]
    # The most confident on top.
    renderer = draw.graduated_renderer(_SHOWN, ranges, order_by='"confidence"')
    labels = Labels(_PERCENT, smallest_scale=_near(side_m), show=f'"confidence" >= {LEAST}')
    return _vector(renderer, list(columns) or list(COLUMNS), names, _MAP_TIP, _DISPLAY, labels)


def verdicts_qml(columns: Sequence[str] = (), side_m: float = SIDE_M) -> str:
    """The style of verdicts: what people say of a detection (yes, no, unsure, bad_imagery)."""
    far = _far(side_m)
    rules = [
        Rule(label, where, _verdict(colour, sign, far))
        for label, where, colour, sign in (
            ("yes: people see such a site", "\"answer\" = 'yes'", GREEN, "M5.5 10.5 L8.8 13.8 L14.8 6.8"),
            ("no: people see none", "\"answer\" = 'no'", PURPLE, "M6.5 6.5 L13.5 13.5 M13.5 6.5 L6.5 13.5"),
            (
                "unsure",
                "\"answer\" = 'unsure'",
                BLUE,
                "M7 7.6 C7 4 13 4 13 7.6 C13 9.8 10 9.6 10 12 M10 15.2 L10 15.3",
            ),
            ("imagery too bad to say", "ELSE", GREY, "M6 10 L14 10"),
        )
    ]
    word = "replace(coalesce(\"answer\", ''), '_', ' ')"
    share = "coalesce(' ' || format_number(100 * \"probability\", 0) || ' %', '')"
    tip = (
        f"<b>[% {word} %]</b><br/>probability that it is a site: "
        "[% coalesce(format_number(\"probability\", 2), 'none') %]<br/>"
        "[% \"n_votes\" %] votes[% coalesce(', ' || \"status\", '') %]<br/><i>An indicator, not evidence.</i>"
    )
    aliases = {
        "answer": "Verdict",
        "probability": "Probability that it is a site",
        "n_votes": "Votes",
        "agreement": "Agreement",
        "status": "Status of the task",
        "task_id": "Task",
        "detection_id": "Detection",
        "class_name": "Kind of site",
        "score": "Confidence of the detector",
    }
    labels = Labels(f"{word} || {share}", smallest_scale=_near(side_m))
    return _vector(draw.rules_renderer(rules), columns, aliases, tip, word, labels)


OUTCOMES: Mapping[str, Colour] = {
    "hit": GREEN,
    "miss": PURPLE,
    "false alarm": ORANGE,
    "ignored": GREY,
}
"""What became of an object in an evaluation, and its colour."""


def errors_qml(columns: Sequence[str] = (), side_m: float = SIDE_M) -> str:
    """The style of an evaluation's objects: hits, misses, false alarms, ignored ones."""
    far = _far(side_m)
    marks = {"hit": ("circle", "solid"), "miss": ("diamond", "solid"), "false alarm": ("triangle", "solid")}
    rules = [
        Rule(name, f"\"outcome\" = '{name}'", _site(OUTCOMES[name], 0.7, far, *marks[name], draw.PAPER))
        for name in ("false alarm", "miss", "hit")
    ]
    rules.append(Rule("ignored (margin, or outside)", "ELSE", _site(GREY, 0.4, far, "square", "dot", draw.INK)))
    tip = (
        '<b>[% "outcome" %]</b><br/>confidence [% coalesce(format_number("confidence", 2), \'none\') %]<br/>'
        "[% coalesce('on the contact sheet: ' || \"contact_sheet\", '') %]"
    )
    aliases = {
        "outcome": "Outcome",
        "confidence": "Confidence",
        "distance_m": "Distance to the label (m)",
        "iou": "Overlap with the label (IoU)",
        "area_m2": "Area (m²)",
        "site": "Label",
        "contact_sheet": "On the contact sheet",
    }
    word = "\"outcome\" || coalesce(' ' || format_number(100 * \"confidence\", 0) || ' %', '')"
    labels = Labels(word, smallest_scale=_near(side_m))
    return _vector(draw.rules_renderer(rules), columns, aliases, tip, word, labels)


_SEAM: Colour = (176, 196, 208)


def blocks_qml(columns: Sequence[str] = ()) -> str:
    """The style of a region's blocks: done with and without sites, failed, still to do."""
    seam, light = draw.outline(_SEAM, 0.3, 220), draw.outline(_SEAM, 0.3, 220, "dash")
    rules = [
        Rule("done, sites found", "\"status\" = 'done'", draw.fill_symbol(seam)),
        Rule(
            "done, nothing found",
            "\"status\" = 'empty'",
            draw.fill_symbol(draw.filled(_SEAM, 34), light),
        ),
        Rule(
            "failed",
            "\"status\" = 'failed'",
            draw.fill_symbol(
                draw.filled((130, 20, 40), 70),
                draw.hatched((255, 70, 90), 2.4, 0.4),
                draw.outline((255, 70, 90), 0.7),
            ),
        ),
        Rule(
            "still to do",
            "ELSE",
            draw.fill_symbol(draw.hatched(GREY, 2.4, 0.3, 200), draw.outline(GREY, 0.5, 255, "dash")),
        ),
    ]
    tip = (
        '<b>[% "block" %]</b>, [% "status" %]<br/>[% coalesce("n_objects" || \' objects\', \'\') %]<br/>'
        "[% coalesce(\"reason\", '') %]"
    )
    aliases = {
        "grid": "Scene or grid",
        "block": "Block",
        "status": "Status",
        "n_objects": "Objects above the threshold",
        "reason": "Why it failed",
    }
    labels = Labels(
        "\"block\" || '\n' || wordwrap(coalesce(\"reason\", ''), 32)",
        size_pt=7,
        colour=(255, 214, 220),
        show="\"status\" = 'failed'",
        inside=True,
        bold=False,
    )
    return _vector(draw.rules_renderer(rules), columns, aliases, tip, '"block"', labels)


_COUNT_COLOURS: tuple[Colour, ...] = (
    (208, 225, 242),
    (148, 180, 220),
    (106, 124, 196),
    (92, 64, 160),
    (66, 12, 110),
)
UNCERTAIN = 0.5
"""Half an interval as a share of the count, beyond which an area is hatched."""


def counts_qml(values: Sequence[float], columns: Sequence[str] = ()) -> str:
    """The style of estimated counts by area, with each interval in its label.

    Args:
        values: the estimates; their quantiles, rounded, are the classes.
    """
    known = [value for value in values if np.isfinite(value)]
    edges = class_edges(known, len(_COUNT_COLOURS))
    rules = []
    for k, (low, high) in enumerate(pairwise(edges)):
        last = k == len(edges) - 2
        where = f'"sites" >= {low:g} AND "sites" {"<=" if last else "<"} {high:g}'
        colour = _COUNT_COLOURS[round(k * (len(_COUNT_COLOURS) - 1) / max(1, len(edges) - 2))]
        rules.append(Rule(f"{low:,.0f} – {high:,.0f} sites", where, _area(colour)))
    uncertain = f'"sites" IS NOT NULL AND "high" - "low" > {2 * UNCERTAIN:g} * "sites"'
    rules.append(
        Rule(
            f"uncertain: ± {UNCERTAIN:.0%} or more",
            uncertain,
            draw.fill_symbol(
                draw.hatched((60, 50, 90), 3.2, 0.55, 150, 135), draw.hatched((255, 255, 255), 3.2, 0.22, 235, 135)
            ),
        )
    )
    rules.append(
        Rule(
            "no estimate",
            '"sites" IS NULL',
            draw.fill_symbol(draw.hatched(GREY, 2.2, 0.2, 200), draw.outline(GREY, 0.3)),
        )
    )
    interval = "'[' || format_number(\"low\", 0) || ' – ' || format_number(\"high\", 0) || ']'"
    figures = f"format_number(\"sites\", 0) || '\n' || {interval}"
    tip = (
        '<b>[% "area" %]</b><br/>about <b>[% format_number("sites", 0) %]</b> sites, '
        '[% format_number(100 * "level", 0) %] % interval [% format_number("low", 0) %] to '
        '[% format_number("high", 0) %]<br/>[% "n_reviewed" %] tiles reviewed<br/>'
        "<i>Estimated from a sample that people reviewed.</i>"
    )
    aliases = {
        "area": "Area",
        "sites": "Sites (estimate)",
        "low": "Interval, low end",
        "high": "Interval, high end",
        "level": "Level of the interval",
        "n_reviewed": "Tiles reviewed",
        "method": "Method",
    }
    expression = f"\"area\" || '\n' || coalesce({figures}, 'no estimate')"
    labels = Labels(expression, size_pt=8, colour=draw.INK, halo=draw.PAPER, inside=True)
    return _vector(draw.rules_renderer(rules), columns, aliases, tip, '"area"', labels)


def changes_qml(columns: Sequence[str] = (), side_m: float = SIDE_M) -> str:
    """The style of sites with their history; the temporal controller shows each until it was absent."""
    far = _far(side_m)
    looks = {
        "appeared": ("appeared", (255, 120, 0), "triangle", "solid"),
        "persisted": ("persisted", (240, 240, 235), "circle", "solid"),
        "closed": ("closed: not there twice in a row", (0, 175, 255), "cross_fill", "dash"),
        "not redetected": ("not seen again, once", (140, 190, 235), "diamond", "dot"),
    }
    rules = [
        Rule(label, f"\"status\" = '{name}'", _site(colour, 0.6, far, shape, dash))
        for name, (label, colour, shape, dash) in looks.items()
    ]
    rules.append(Rule("nobody could see", "ELSE", _site(GREY, 0.4, far, "square", "dot")))
    tip = (
        '<b>[% "status" %]</b><br/>first seen [% "first_seen" %], last seen [% "last_seen" %]<br/>'
        "[% coalesce('not there on ' || \"gone_by\", '') %]<br/><i>An indicator, not evidence.</i>"
    )
    aliases = {
        "status": "What became of it",
        "states": "Seen (P), absent (A), not observable (U)",
        "n_present": "Dates it was seen",
        "n_absent_since": "Absences since",
        "first_seen_after": "Not there on",
        "first_seen": "First seen",
        "last_seen": "Last seen",
        "gone_by": "Absent on",
        "shown_until": "Shown until it was absent",
    }
    word = '"status" || \' \' || year("first_seen")'
    labels = Labels(word, smallest_scale=_near(side_m), show="\"status\" <> 'persisted'")
    temporal = (
        '<temporal enabled="1" mode="2" startField="first_seen" endField="shown_until" accumulate="0" limitMode="0" '
        'fixedDuration="0" durationUnit="min" durationField="" startExpression="" endExpression="">'
        "<fixedRange><start/><end/></fixedRange></temporal>"
    )
    return _vector(draw.rules_renderer(rules), columns, aliases, tip, word, labels, temporal)


def area_qml(columns: Sequence[str] = ()) -> str:
    """The style of the area of interest."""
    symbol = draw.fill_symbol(draw.outline(draw.INK, 0.9, 170), draw.outline(draw.PAPER, 0.45, 255, "dash"))
    return _vector(draw.rules_renderer([Rule("area of interest", "TRUE", symbol)]), columns, {}, "", "")


def scores_qml(opacity: float = 0.85, band: int = 1) -> str:
    """The style of a score raster (uint8, 0..254, 255 for missing imagery) as QML."""
    items = "".join(
        f'          <item value="{score * SCORE_STEPS:g}" label="{score:g}" '
        f'color="#{r:02x}{g:02x}{b:02x}" alpha="{alpha}"/>\n'
        for score, (r, g, b), alpha in _RAMP
    )
    stops = ":".join(f"{score:g};{draw.colour_text(colour, alpha)}" for score, colour, alpha in _RAMP[1:-1])
    ends = {"color1": draw.colour_text(*_RAMP[0][1:]), "color2": draw.colour_text(*_RAMP[-1][1:])}
    ramp = {**ends, "discrete": "0", "rampType": "gradient", "stops": stops}
    return (
        draw.DOCTYPE
        + '<qgis version="3.22" styleCategories="Symbology">\n  <pipe>\n'
        + f'    <rasterrenderer type="singlebandpseudocolor" band="{band}" alphaBand="-1" opacity="{opacity:g}" '
        + f'nodataColor="" classificationMin="0" classificationMax="{SCORE_STEPS}">\n'
        + "      <rasterTransparency>\n        <singleValuePixelList>\n"
        + f'          <pixelListEntry min="{SCORE_NODATA}" max="{SCORE_NODATA}" percentTransparent="100"/>\n'
        + "        </singleValuePixelList>\n      </rasterTransparency>\n"
        + "      <rastershader>\n"
        + '        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" '
        + f'minimumValue="0" maximumValue="{SCORE_STEPS}">\n'
        + '          <colorramp type="gradient" name="[source]">'
        + "".join(f"<prop k={quoteattr(key)} v={quoteattr(value)}/>" for key, value in ramp.items())
        + "</colorramp>\n"
        + f"{items}"
        + '          <rampLegendSettings useContinuousLegend="1" minimumLabel="score 0" maximumLabel="1" prefix="" '
        + 'suffix="" direction="0" orientation="1"/>\n'
        + "        </colorrampshader>\n"
        + "      </rastershader>\n    </rasterrenderer>\n"
        + '    <rasterresampler zoomedOutResampler="bilinear" maxOversampling="2"/>\n'
        + "  </pipe>\n  <blendMode>0</blendMode>\n</qgis>\n"
    )


def embed_style(path: Path, layer: str, qml: str, name: str, created: str | None = None) -> None:
    """Put a style into a GeoPackage, as QGIS itself does: it loads with the layer.

    Args:
        name: of the style, as QGIS shows it.
        created: as a GeoPackage writes times; None takes a fixed one, so that bytes do not follow the clock.
    """
    with closing(sqlite3.connect(path)) as database, database:
        add_style(database, layer, qml, name, created or "1970-01-01T00:00:00.000Z")


def add_style(database: sqlite3.Connection, layer: str, qml: str, name: str, created: str) -> None:
    """The table QGIS itself writes; catalog and schema must be '' and not NULL."""
    there = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'layer_styles'").fetchone()
    if there is None:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), "
            "f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), "
            "styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), "
            "update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        list_table(database, "layer_styles", created)
    database.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
        "styleQML, styleSLD, useAsDefault, description, owner, update_time) VALUES ('', '', ?, 'geom', ?, ?, '', 1, "
        "?, '', ?)",
        (layer, name[:30], qml, name, created),
    )


def list_table(database: sqlite3.Connection, name: str, created: str) -> None:
    """A table without geometry in a GeoPackage's contents."""
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change, srs_id) "
        "VALUES (?, 'attributes', ?, '', ?, 0)",
        (name, name, created),
    )


def class_edges(values: Sequence[float], most: int) -> list[float]:
    """Whole, rounded limits of at most so many classes with about as many values in each."""
    if not len(values):
        return [0.0, 1.0]
    top = max(float(np.ceil(max(values))), 1.0)
    inner = np.quantile(values, np.linspace(0, 1, most + 1)[1:-1])
    edges = sorted({0.0, *(_rounded(float(edge)) for edge in inner)} - {top})
    return [edge for edge in edges if edge < top] + [top]


def _rounded(value: float) -> float:
    """Two leading digits, whole."""
    if value < 10:
        return float(round(value))
    power = 10 ** (np.floor(np.log10(value)) - 1)
    return float(round(value / power) * power)


def _far(side_m: float) -> float:
    """The scale beyond which a site is a speck."""
    return max(side_m, 1.0) * 1000 / _SPECK_MM


def _near(side_m: float) -> float:
    """The scale up to which sites have labels."""
    return max(side_m, 1.0) * 1000 / _LABELLED_MM


def _site(
    colour: Colour,
    width_mm: float,
    far: float,
    shape: str = "circle",
    dash: str = "solid",
    casing: Colour = (15, 15, 25),
) -> str:
    """An outline on its casing; a dot where the map's scale makes it a speck."""
    large, small = f"coalesce(@map_scale <= {far:.0f}, true)", f"coalesce(@map_scale > {far:.0f}, false)"
    size = 1.3 + 1.6 * width_mm
    return draw.fill_symbol(
        draw.filled(colour, 34, large),
        draw.outline(casing, width_mm + 0.5, 190, "solid", large),
        draw.outline(colour, width_mm, 255, dash, large),
        draw.centroid(draw.dot(shape, colour, size, casing), enabled=small),
    )


def _verdict(colour: Colour, sign: str, far: float) -> str:
    """A badge on a tinted site: the detection's own outline or dot stays to be seen."""
    large = f"coalesce(@map_scale <= {far:.0f}, true)"
    return draw.fill_symbol(draw.filled(colour, 70, large), draw.centroid(draw.badge(colour, sign, 2.9, 1.0)))


def _area(colour: Colour) -> str:
    return draw.fill_symbol(draw.filled(colour, 150), draw.outline((250, 250, 252), 0.5, 230))


def _vector(
    renderer: str,
    columns: Sequence[str],
    aliases: Mapping[str, str],
    tip: str,
    display: str,
    labels: Labels | None = None,
    temporal: str = "",
) -> str:
    """A vector layer's style: symbols, labels, names of fields, the tip that shows under the mouse."""
    names = "".join(
        f"    <alias index={quoteattr(str(i))} field={quoteattr(field)} name={quoteattr(aliases.get(field, ''))}/>\n"
        for i, field in enumerate(columns)
    )
    return (
        draw.DOCTYPE
        + '<qgis version="3.22" styleCategories="Symbology|Labeling|Fields|MapTips|AttributeTable|Temporal" '
        + f'labelsEnabled="{int(labels is not None)}">\n'
        + f"  {temporal}\n  {renderer}"
        + ("" if labels is None else f"  {draw.labeling(labels)}")
        + f"  <aliases>\n{names}  </aliases>\n"
        + f"  <previewExpression>{escape(display)}</previewExpression>\n"
        + f"  <mapTip>{escape(tip)}</mapTip>\n"
        + "  <layerGeometryType>2</layerGeometryType>\n"
        + "</qgis>\n"
    )


__all__ = [
    "GRADES",
    "Grade",
    "add_style",
    "area_qml",
    "blocks_qml",
    "changes_qml",
    "counts_qml",
    "detections_qml",
    "embed_style",
    "errors_qml",
    "scores_qml",
    "verdicts_qml",
]
