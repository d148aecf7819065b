"""The pieces of a QGIS style as XML: symbols, renderers, labels. Read by QGIS 3.22 and later.

Properties are written twice, as QGIS before and after 3.26 reads them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from geoslave.imagery.grades import Colour

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
FONT = "Arial"
"""Its metric twins (Liberation Sans, Arimo) stand in where it is missing."""
INK: Colour = (18, 22, 28)
PAPER: Colour = (252, 252, 250)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a filter lets through and how it is drawn."""

    label: str
    where: str
    """An expression; "ELSE" is what no other rule took."""
    symbol: str
    """XML with `{name}` for its name."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Words beside features."""

    expression: str
    size_pt: float = 8.0
    colour: Colour = PAPER
    halo: Colour = INK
    bold: bool = True
    smallest_scale: float | None = None
    """No labels beyond 1 : this."""
    show: str | None = None
    """An expression: which features get one."""
    inside: bool = False
    """Within a polygon, level; else beside it, where there is room."""


def colour_text(colour: Colour, alpha: int = 255) -> str:
    """As QGIS writes colours."""
    return ",".join(map(str, (*colour, alpha)))


def layer(kind: str, properties: Mapping[str, object], enabled: str | None = None, inside: str = "") -> str:
    """A symbol layer.

    Args:
        enabled: an expression that says whether it is drawn.
        inside: a symbol within it.
    """
    old = "".join(f"<prop k={quoteattr(key)} v={quoteattr(str(value))}/>" for key, value in properties.items())
    new = "".join(_option(key, value) for key, value in properties.items())
    defined = "" if enabled is None else _data_defined("data_defined_properties", {"enabled": enabled})
    return (
        f'<layer class="{kind}" enabled="1" pass="0" locked="0"><Option type="Map">{new}</Option>'
        f"{old}{defined}{inside}</layer>"
    )


def fill_symbol(*layers: str) -> str:
    """A polygon's symbol."""
    return _symbol("fill", layers)


def marker_symbol(*layers: str) -> str:
    """A point's symbol."""
    return _symbol("marker", layers)


def line_symbol(*layers: str) -> str:
    return _symbol("line", layers)


def filled(colour: Colour, alpha: int, enabled: str | None = None, style: str = "solid") -> str:
    """A plain fill without an outline."""
    return layer(
        "SimpleFill", {"color": colour_text(colour, alpha), "style": style, "outline_style": "no"}, enabled=enabled
    )


def outline(
    colour: Colour,
    width_mm: float,
    alpha: int = 255,
    dash: str = "solid",
    enabled: str | None = None,
) -> str:
    """An outline with round corners."""
    return layer(
        "SimpleLine",
        {
            "line_color": colour_text(colour, alpha),
            "line_width": f"{width_mm:.2f}",
            "line_width_unit": "MM",
            "line_style": dash,
            "joinstyle": "round",
            "capstyle": "round",
        },
        enabled=enabled,
    )


def hatched(colour: Colour, distance_mm: float = 2.2, width_mm: float = 0.3, alpha: int = 255, angle: int = 45) -> str:
    """Parallel lines."""
    line = outline(colour, width_mm, alpha)
    return layer(
        "LinePatternFill",
        {"angle": angle, "distance": f"{distance_mm:g}", "distance_unit": "MM"},
        inside=line_symbol(line).format(name="@0@0"),
    )


def dot(shape: str, colour: Colour, size_mm: float, stroke: Colour = INK, stroke_mm: float = 0.2) -> str:
    """A marker: circle, square, diamond, triangle, star, cross2 (x), ..."""
    return layer(
        "SimpleMarker",
        {
            "name": shape,
            "color": colour_text(colour),
            "size": f"{size_mm:.2f}",
            "size_unit": "MM",
            "outline_color": colour_text(stroke),
            "outline_style": "solid",
            "outline_width": f"{stroke_mm:.2f}",
            "outline_width_unit": "MM",
        },
    )


def badge(colour: Colour, sign: str, size_mm: float, offset_mm: float = 0.0) -> str:
    """A coloured disc with a sign in white.

    Args:
        sign: an SVG path in a box of 20 by 20.
        offset_mm: to the right and up.
    """
    disc = "#{:02x}{:02x}{:02x}".format(*colour)
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 20">'
        f'<circle cx="10" cy="10" r="9" fill="{disc}" stroke="#fcfcfa" stroke-width="1.6"/>'
        f'<path d="{sign}" fill="none" stroke="#ffffff" stroke-width="2.6" stroke-linecap="round" '
        'stroke-linejoin="round"/></svg>'
    )
    return layer(
        "SvgMarker",
        {
            "name": "base64:" + base64.b64encode(picture.encode()).decode(),
            "size": f"{size_mm:.2f}",
            "size_unit": "MM",
            "offset": f"{offset_mm:g},{-offset_mm:g}",
            "offset_unit": "MM",
        },
    )


def centroid(*markers: str, enabled: str | None = None) -> str:
    """Markers on the middle of a polygon, for scales at which it is a speck."""
    properties = {"point_on_surface": 0, "point_on_all_parts": 0}
    return layer("CentroidFill", properties, enabled=enabled, inside=marker_symbol(*markers).format(name="@0@0"))


def rules_renderer(rules: Sequence[Rule], order_by: str | None = None) -> str:
    """Every feature by the rules it meets; each has a box to tick in the legend."""
    inside = "".join(
        f"<rule key={quoteattr(f'{{geoslave-rule-{i}}}')} symbol={quoteattr(str(i))} label={quoteattr(rule.label)} "
        f"filter={quoteattr(rule.where)}/>"
        for i, rule in enumerate(rules)
    )
    symbols = "".join(rule.symbol.format(name=i) for i, rule in enumerate(rules))
    ordered = int(order_by is not None)
    return (
        f'<renderer-v2 type="RuleRenderer" symbollevels="0" forceraster="0" enableorderby="{ordered}">'
        f'<rules key="{{geoslave-rules}}">{inside}</rules><symbols>{symbols}</symbols>{_order(order_by)}'
        "</renderer-v2>\n"
    )


def graduated_renderer(
    attribute: str, ranges: Sequence[tuple[float, float, str, str]], order_by: str | None = None
) -> str:
    """Ranges (low, high, label, symbol) of an attribute or expression."""
    inside = "".join(
        f'<range symbol="{i}" lower="{low:.15f}" upper="{high:.15f}" label={quoteattr(label)} render="true"/>'
        for i, (low, high, label, _) in enumerate(ranges)
    )
    symbols = "".join(symbol.format(name=i) for i, (*_, symbol) in enumerate(ranges))
    return (
        f'<renderer-v2 type="graduatedSymbol" attr={quoteattr(attribute)} graduatedMethod="GraduatedColor" '
        f'symbollevels="0" enableorderby="{int(order_by is not None)}" forceraster="0">'
        f"<ranges>{inside}</ranges><symbols>{symbols}</symbols>{_order(order_by)}</renderer-v2>\n"
    )


def labeling(labels: Labels) -> str:
    """Labels with a halo."""
    scale = labels.smallest_scale
    placement = (
        'placement="1" centroidInside="1" centroidWhole="1" quadOffset="4"'
        if labels.inside
        else 'placement="8" polygonPlacementFlags="2" dist="0.6"'
    )
    shown = {} if labels.show is None else {"Show": labels.show}
    return (
        '<labeling type="simple"><settings calloutType="simple">'
        f'<text-style fieldName={quoteattr(labels.expression)} isExpression="1" fontFamily="{FONT}" '
        f'namedStyle="{"Bold" if labels.bold else "Regular"}" fontWeight="{75 if labels.bold else 50}" '
        f'fontSize="{labels.size_pt:g}" fontSizeUnit="Point" textColor="{colour_text(labels.colour)}" '
        'textOpacity="1" multilineHeight="1">'
        f'<text-buffer bufferDraw="1" bufferSize="0.7" bufferSizeUnits="MM" bufferColor="{colour_text(labels.halo)}" '
        'bufferOpacity="0.85" bufferJoinStyle="128" bufferNoFill="0"/></text-style>'
        '<text-format multilineAlign="1"/>'
        f'<placement {placement} distUnits="MM" offsetUnits="MM" priority="5"/>'
        f'<rendering scaleVisibility="{int(scale is not None)}" scaleMin="1" scaleMax="{scale or 0:.0f}" '
        'drawLabels="1" obstacle="0" displayAll="0" limitNumLabels="0" maxNumLabels="2000"/>'
        f"{_data_defined('dd_properties', shown)}</settings></labeling>\n"
    )


def inside_of(qml: str) -> str:
    """What stands within a style's outermost element: a project's layer holds the same."""
    found = re.search(r"<qgis[^>]*>(.*)</qgis>", qml, re.S)
    assert found is not None
    return found[1]


def _symbol(kind: str, layers: Sequence[str]) -> str:
    inside = "".join(layers).replace("{", "{{").replace("}", "}}")
    return f'<symbol name="{{name}}" type="{kind}" alpha="1" clip_to_extent="1" force_rhr="0">{inside}</symbol>'


def _order(expression: str | None) -> str:
    if expression is None:
        return ""
    clause = f'<orderByClause asc="1" nullsFirst="1">{escape(expression)}</orderByClause>'
    return f"<orderby>{clause}</orderby>"


def _option(key: str, value: object) -> str:
    return f'<Option type="QString" name={quoteattr(key)} value={quoteattr(str(value))}/>'


def _data_defined(element: str, expressions: Mapping[str, str]) -> str:
    inside = "".join(
        f'<Option type="Map" name="{name}"><Option type="bool" name="active" value="true"/>'
        f'<Option type="QString" name="expression" value={quoteattr(expression)}/>'
        '<Option type="int" name="type" value="3"/></Option>'
        for name, expression in expressions.items()
    )
    return (
        f'<{element}><Option type="Map"><Option type="QString" name="name" value=""/>'
        f'<Option type="Map" name="properties">{inside}</Option>'
        f'<Option type="QString" name="type" value="collection"/></Option></{element}>'
    )
