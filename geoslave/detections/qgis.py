"""QGIS styles: detections graded by confidence, and the score raster.

An outline in a bright colour lies on a dark casing, so that it stands out on pale soil as on dark
water; the fill is thin, so that the site stays visible. Colour and width both grow with confidence:
the grades can be told apart without seeing colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from geoslave.detections.schema import COLUMNS
from geoslave.imagery.raster import SCORE_NODATA, SCORE_STEPS


@dataclass(frozen=True, slots=True)
class Grade:
    """A range of confidence and how it is drawn."""

    low: float
    high: float
    label: str
    colour: tuple[int, int, int]
    width_mm: float


GRADES: tuple[Grade, ...] = (
    Grade(0.0, 0.2, "0.0 – 0.2 (least confident)", (176, 196, 222), 0.40),
    Grade(0.2, 0.4, "0.2 – 0.4", (77, 208, 225), 0.48),
    Grade(0.4, 0.6, "0.4 – 0.6", (255, 224, 51), 0.56),
    Grade(0.6, 0.8, "0.6 – 0.8", (255, 145, 20), 0.66),
    Grade(0.8, 1.0, "0.8 – 1.0 (most confident)", (255, 30, 140), 0.80),
)

_RAMP = (
    (0.0, (68, 1, 84), 0),
    (0.1, (72, 40, 120), 60),
    (0.25, (59, 82, 139), 130),
    (0.5, (33, 145, 140), 190),
    (0.75, (94, 201, 98), 225),
    (1.0, (253, 231, 37), 255),
)
"""Score, colour (viridis), opacity 0..255: low scores let the imagery through."""

_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

_MAP_TIP = """<b>[% "class_name" %]</b><br/>
confidence <b>[% format_number("confidence", 2) %]</b>[% if("calibrated", '', ' (a score, not a probability)') %]<br/>
[% format_number("length_m", 0) %] × [% format_number("width_m", 0) %] m, \
[% format_number("area_m2", 0) %] m²[% if("truncated", ', cut by the edge of the image', '') %]<br/>
[% coalesce("date", 'date not known') %]<br/>
<i>An indicator, not evidence.</i>"""

_DISPLAY = '"class_name" || \' \' || format_number("confidence", 2)'


def detections_qml(columns: Sequence[str] = (), aliases: Mapping[str, str] | None = None) -> str:
    """The style of a detections layer as QML.

    Args:
        columns: the layer's fields in their order, without the geometry; default: those of the schema.
        aliases: names to show for fields beyond those of the schema.
    """
    names = {name: column.alias for name, column in COLUMNS.items()} | dict(aliases or {})
    fields = list(columns) or list(COLUMNS)
    alias_lines = "".join(
        f"    <alias index={quoteattr(str(i))} field={quoteattr(field)} name={quoteattr(names.get(field, ''))}/>\n"
        for i, field in enumerate(fields)
    )
    ranges = "".join(
        f'      <range symbol="{i}" lower="{grade.low:.15f}" upper="{grade.high:.15f}" '
        f'label="{grade.label}" render="true"/>\n'
        for i, grade in enumerate(GRADES)
    )
    symbols = "".join(_symbol(str(i), grade) for i, grade in enumerate(GRADES))
    return (
        _DOCTYPE
        + '<qgis version="3.22" styleCategories="Symbology|Fields|MapTips|AttributeTable" labelsEnabled="0">\n'
        + '  <renderer-v2 type="graduatedSymbol" attr="confidence" graduatedMethod="GraduatedColor" '
        + 'symbollevels="0" enableorderby="1" forceraster="0">\n'
        + f"    <ranges>\n{ranges}    </ranges>\n    <symbols>\n{symbols}    </symbols>\n"
        # The most confident on top.
        + '    <orderby>\n      <orderByClause asc="1" nullsFirst="1">"confidence"</orderByClause>\n    </orderby>\n'
        + "  </renderer-v2>\n"
        + f"  <aliases>\n{alias_lines}  </aliases>\n"
        + f"  <previewExpression>{_text(_DISPLAY)}</previewExpression>\n"
        + f"  <mapTip>{_text(_MAP_TIP)}</mapTip>\n"
        + "  <layerGeometryType>2</layerGeometryType>\n"
        + "</qgis>\n"
    )


def scores_qml(opacity: float = 0.85) -> str:
    """The style of a score raster (uint8, 0..254, 255 for missing imagery) as QML."""
    items = "".join(
        f'          <item value="{score * SCORE_STEPS:g}" label="{score:g}" '
        f'color="#{r:02x}{g:02x}{b:02x}" alpha="{alpha}"/>\n'
        for score, (r, g, b), alpha in _RAMP
    )
    return (
        _DOCTYPE
        + '<qgis version="3.22" styleCategories="Symbology">\n  <pipe>\n'
        + f'    <rasterrenderer type="singlebandpseudocolor" band="1" alphaBand="-1" opacity="{opacity:g}" '
        + f'nodataColor="" classificationMin="0" classificationMax="{SCORE_STEPS}">\n'
        + "      <rasterTransparency>\n        <singleValuePixelList>\n"
        + f'          <pixelListEntry min="{SCORE_NODATA}" max="{SCORE_NODATA}" percentTransparent="100"/>\n'
        + "        </singleValuePixelList>\n      </rasterTransparency>\n"
        + "      <rastershader>\n"
        + '        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" '
        + f'minimumValue="0" maximumValue="{SCORE_STEPS}">\n{items}        </colorrampshader>\n'
        + "      </rastershader>\n    </rasterrenderer>\n"
        + '    <rasterresampler zoomedOutResampler="bilinear" maxOversampling="2"/>\n'
        + "  </pipe>\n  <blendMode>0</blendMode>\n</qgis>\n"
    )


def _symbol(name: str, grade: Grade) -> str:
    colour = ",".join(map(str, grade.colour))
    fill = _layer("SimpleFill", {"color": f"{colour},34", "style": "solid", "outline_style": "no"})
    line = {"line_width_unit": "MM", "joinstyle": "round", "capstyle": "round", "line_style": "solid"}
    casing = {"line_color": "15,15,25,190", "line_width": f"{grade.width_mm + 0.5:.2f}"} | line
    bright = {"line_color": f"{colour},255", "line_width": f"{grade.width_mm:.2f}"} | line
    return (
        f'      <symbol name="{name}" type="fill" alpha="1" clip_to_extent="1" force_rhr="0">\n'
        + fill
        + _layer("SimpleLine", casing)
        + _layer("SimpleLine", bright)
        + "      </symbol>\n"
    )


def _layer(kind: str, properties: dict[str, str]) -> str:
    """A symbol layer in the two ways in which QGIS before and after 3.26 writes its properties."""
    old = "".join(f'          <prop k="{key}" v="{value}"/>\n' for key, value in properties.items())
    new = "".join(
        f'            <Option type="QString" name="{key}" value="{value}"/>\n' for key, value in properties.items()
    )
    return (
        f'        <layer class="{kind}" enabled="1" pass="0" locked="0">\n'
        f'          <Option type="Map">\n{new}          </Option>\n{old}        </layer>\n'
    )


def _text(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
