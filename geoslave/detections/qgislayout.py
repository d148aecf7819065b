"""The print layout of a QGIS project as XML: a page in A4 with title, map, legend, scale, north, and what it is not."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid5
from xml.sax.saxutils import quoteattr

from geoslave.detections import qgissymbols as draw
from geoslave.detections.qgissymbols import FONT
from geoslave.imagery.grades import Colour
from geoslave.imagery.preview import scale_bar

PAGE = (297.0, 210.0)
MAP = (9.0, 25.0, 208.0, 159.0)
"""Left, top, width, height in mm."""
_GREY: Colour = (96, 102, 110)
_BAR: Colour = (40, 20, 34)
_ITEM = {"page": 65638, "map": 65639, "picture": 65640, "label": 65641, "legend": 65642, "shape": 65643, "bar": 65646}
_ARROW = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 56">'
    '<path d="M20 2 L34 42 L20 34 Z" fill="#12161c" stroke="#fcfcfa" stroke-width="1.6" stroke-linejoin="round"/>'
    '<path d="M20 2 L6 42 L20 34 Z" fill="#fcfcfa" stroke="#12161c" stroke-width="1.6" stroke-linejoin="round"/>'
    '<path d="M15.5 54 V45 L24.5 54 V45" fill="none" stroke="#fcfcfa" stroke-width="4.6" stroke-linejoin="round"/>'
    '<path d="M15.5 54 V45 L24.5 54 V45" fill="none" stroke="#12161c" stroke-width="2.2" stroke-linejoin="round"/>'
    "</svg>"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A layer in the legend."""

    key: str
    name: str
    source: str
    provider: str


def map_extent(box: tuple[float, float, float, float], margin: float = 0.0) -> tuple[float, float, float, float]:
    """A box (west, south, east, north) widened to the shape of the page's map."""
    west, south, east, north = box
    width, height = max(east - west, 1e-9) * (1 + 2 * margin), max(north - south, 1e-9) * (1 + 2 * margin)
    ratio = MAP[2] / MAP[3]
    width, height = max(width, height * ratio), max(height, width / ratio)
    x, y = (west + east) / 2, (south + north) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def print_layout(
    name: str,
    theme: str,
    title: str,
    lines: Sequence[str],
    statement: str,
    box: tuple[float, float, float, float],
    metres_per_unit: float,
    legend: Sequence[Entry],
) -> str:
    """The layout.

    Args:
        name: of the layout.
        theme: the map theme that it shows, whatever is ticked on the screen.
        title, lines: the title block; `[% @min_confidence %]` and the like are worked out by QGIS.
        statement: what the map is not, at its foot.
        box: what the map shows, in the project's CRS.
        metres_per_unit: of the project's CRS.
        legend: the layers in it.
    """
    west, south, east, north = map_extent(box)
    first, _, rest = statement.partition(". ")
    items = [
        _map((west, south, east, north), theme),
        _label(title, (9, 6, 279, 10), 19, bold=True),
        _label("   ·   ".join(lines), (9, 16, 279, 6), 8.5, colour=_GREY),
        _legend((220, MAP[1]), legend),
        _scale_bar((MAP[0] + 4, MAP[1] + MAP[3] - 14), (east - west) * metres_per_unit),
        _north((MAP[0] + MAP[2] - 14, MAP[1] + 4, 10, 14)),
        _shape((0, 189, PAGE[0], 21), _BAR),
        _label("INDICATOR, NOT EVIDENCE", (9, 191.5, 76, 8), 14, bold=True, colour=(255, 255, 255)),
        _label("Keep precise places safe.", (9, 199.5, 76, 6), 8.5, colour=(236, 205, 214)),
        _label(f"{first}. {rest}", (88, 191, 200, 16), 9, colour=(246, 240, 243), middle=True),
    ]
    # the last is on top
    body = "".join(item.replace('zValue="0"', f'zValue="{k}"') for k, item in enumerate(items, start=1))
    page = _item("page", "page", (0, 0, *PAGE), _PAGE_SYMBOL, background=True)
    return (
        f'<Layout name={quoteattr(name)} units="mm" printResolution="200" worldFileMap="">'
        '<Snapper snapToItems="1" tolerance="5" snapToGrid="0" snapToGuides="1"/>'
        '<Grid resUnits="mm" offsetX="0" offsetUnits="mm" offsetY="0" resolution="10"/>'
        f'<PageCollection>{_PAGE_SYMBOL}{page}<GuideCollection visible="1"/></PageCollection>{body}'
        '<customproperties><Option type="Map"><Option value="true" type="bool" name="singleFile"/></Option>'
        '</customproperties><Atlas coverageLayer="" filterFeatures="0" sortFeatures="0" hideCoverage="0" enabled="0" '
        'pageNameExpression="" filenamePattern=""/></Layout>'
    )


_PAGE_SYMBOL = draw.fill_symbol(draw.filled((255, 255, 255), 255)).format(name="")


def _uuid(name: str) -> str:
    return f"{{{uuid5(NAMESPACE_URL, f'geoslave/layout/{name}')}}}"


def _item(
    kind: str,
    name: str,
    box: tuple[float, float, float, float],
    inside: str = "",
    attributes: str = "",
    *,
    frame: bool = False,
    background: bool = False,
    paper: Colour = (255, 255, 255),
) -> str:
    """An item of the page; box is left, top, width, height in mm."""
    left, top, width, height = box
    place = f"{left:g},{top:g},mm"
    uuid = _uuid(name)
    return (
        f'<LayoutItem type="{_ITEM[kind]}" id="{name}" uuid="{uuid}" templateUuid="{uuid}" zValue="0" '
        f'position="{place}" positionOnPage="{place}" size="{width:g},{height:g},mm" referencePoint="0" '
        f'frame="{str(frame).lower()}" frameJoinStyle="miter" outlineWidthM="0.25,mm" '
        f'background="{str(background).lower()}" visibility="1" positionLock="false" opacity="1" blendMode="0" '
        f'itemRotation="0" groupUuid="" excludeFromExports="0" {attributes}>'
        '<FrameColor red="60" green="64" blue="70" alpha="255"/>'
        f"{_colour('BackgroundColor', paper)}{inside}</LayoutItem>"
    )


def _map(extent: tuple[float, float, float, float], theme: str) -> str:
    west, south, east, north = extent
    inside = (
        f'<Extent xmin="{west!r}" ymin="{south!r}" xmax="{east!r}" ymax="{north!r}"/><LayerSet/>'
        '<AtlasMap atlasDriven="0" scalingMode="2" margin="0.1"/><labelBlockingItems/>'
    )
    attributes = (
        f'mapRotation="0" labelMargin="0,mm" isTemporal="0" followPreset="true" followPresetName={quoteattr(theme)} '
        'keepLayerSet="false" mapFlags="1" drawCanvasItems="true"'
    )
    return _item("map", "map", MAP, inside, attributes, frame=True, background=True, paper=(238, 238, 234))


def _label(
    text: str,
    box: tuple[float, float, float, float],
    size_pt: float,
    *,
    bold: bool = False,
    colour: Colour = draw.INK,
    middle: bool = False,
) -> str:
    inside = _font("LabelFont", size_pt, bold) + _colour("FontColor", colour)
    name = "label-" + "".join(character for character in text.lower()[:24] if character.isalnum())
    attributes = (
        f'labelText={quoteattr(text)} htmlState="0" halign="1" valign="{128 if middle else 32}" marginX="0" marginY="0"'
    )
    return _item("label", name, box, inside, attributes)


def _legend(corner: tuple[float, float], entries: Sequence[Entry]) -> str:
    styles = "".join(
        f'<style name="{name}" indent="0" alignment="1" marginTop="{top}" marginBottom="{bottom}" '
        f'marginLeft="{left}">{_font("styleFont", size, bold)}</style>'
        for name, size, bold, top, bottom, left in (
            ("title", 11, True, 0, 2, 0),
            ("group", 9, True, 2.5, 0, 0),
            ("subgroup", 8.5, True, 2.6, 0.4, 0),
            ("symbol", 7.5, False, 1.0, 0, 0),
            ("symbolLabel", 7.5, False, 0.6, 0, 1.6),
        )
    )
    tree = "".join(
        f"<layer-tree-layer id={quoteattr(entry.key)} name={quoteattr(entry.name)} source={quoteattr(entry.source)} "
        f'providerKey="{entry.provider}" checked="Qt::Checked" expanded="1" legend_exp="" patch_size="-1,-1" '
        'legend_split_behavior="0"><customproperties><Option type="Map">'
        '<Option type="QString" name="legend/title-style" value="subgroup"/>'
        f'<Option type="QString" name="legend/title-label" value={quoteattr(entry.name)}/>'
        # of a ramp the bar, wide, without the band's name above it
        + (
            '<Option type="QString" name="legend/node-order" value="1"/>'
            '<Option type="QString" name="legend/symbol-size-1" value="42,4"/>'
            if entry.provider == "gdal"
            else ""
        )
        + "</Option></customproperties>"
        "</layer-tree-layer>"
        for entry in entries
    )
    attributes = (
        f'title="Legend" map_uuid="{_uuid("map")}" columnCount="1" splitLayer="0" resizeToContents="1" '
        'symbolWidth="7" symbolHeight="4" boxSpace="0" columnSpace="2" lineSpacing="1" titleAlignment="1" '
        'symbolAlignment="1" equalColumnWidth="0" wrapChar="" fontColor="#12161c" legendFilterByAtlas="0" '
        'rasterBorder="1" rasterBorderColor="0,0,0,255" rasterBorderWidth="0" wmsLegendWidth="50" '
        'wmsLegendHeight="25" minSymbolSize="0" maxSymbolSize="0"'
    )
    inside = f"<styles>{styles}</styles><layer-tree-group><customproperties/>{tree}</layer-tree-group>"
    return _item("legend", "legend", (*corner, 68, 150), inside, attributes)


def _scale_bar(corner: tuple[float, float], metres_across: float) -> str:
    """Two segments, together at most a quarter of the map."""
    length_mm, text = scale_bar(metres_across / MAP[2], MAP[2] / 5)
    in_km = text.endswith("km")
    whole = float(text.split()[0])
    unit = ("km", "km") if in_km else ("meters", "m")
    attributes = (
        f'style="Single Box" mapUuid="{_uuid("map")}" unitType="{unit[0]}" unitLabel="{unit[1]}" '
        f'numMapUnitsPerScaleBarUnit="1" numUnitsPerSegment="{whole / 2:g}" numSegments="2" numSegmentsLeft="0" '
        'segmentSizeMode="0" segmentMillimeters="20" minBarWidth="20" maxBarWidth="80" height="2.2" '
        'labelBarSpace="1" boxContentSpace="1.6" alignment="0" outlineWidth="0.2" numSubdivisions="1" '
        'subdivisionsHeight="1.5" lineJoinStyle="miter" lineCapStyle="square" labelHorizontalPlacement="0" '
        'labelVerticalPlacement="0"'
    )
    text_style = (
        f'<text-style fontFamily="{FONT}" fontSize="8" fontSizeUnit="Point" namedStyle="Regular" fontWeight="50" '
        f'textColor="{draw.colour_text(draw.INK)}" textOpacity="1" multilineHeight="1"/>'
    )
    line = '<symbol name="{}" type="line" alpha="1">' + draw.outline(draw.INK, 0.2) + "</symbol>"
    fill = '<symbol name="" type="fill" alpha="1">{}</symbol>'
    inside = (
        f'{text_style}<fillColor red="18" green="22" blue="28" alpha="255"/>'
        '<fillColor2 red="255" green="255" blue="255" alpha="255"/>'
        '<strokeColor red="18" green="22" blue="28" alpha="255"/>'
        f"<lineSymbol>{line.format('')}</lineSymbol><divisionLineSymbol>{line.format('')}</divisionLineSymbol>"
        f"<subdivisionLineSymbol>{line.format('')}</subdivisionLineSymbol>"
        f"<fillSymbol1>{fill.format(draw.filled(draw.INK, 255))}</fillSymbol1>"
        f"<fillSymbol2>{fill.format(draw.filled((255, 255, 255), 255))}</fillSymbol2>"
    )
    return _item("bar", "scale-bar", (*corner, length_mm + 14, 10.5), inside, attributes, background=True)


def _north(box: tuple[float, float, float, float]) -> str:
    picture = base64.b64encode(_ARROW.encode()).decode()
    attributes = (
        f'file="base64:{picture}" mapUuid="{_uuid("map")}" northMode="1" northOffset="0" mode="2" resizeMode="0" '
        'anchorPoint="4" pictureRotation="0" svgFillColor="255,255,255,255" svgBorderColor="0,0,0,255" '
        'svgBorderWidth="0.2" pictureWidth="10" pictureHeight="14"'
    )
    return _item("picture", "north", box, "", attributes)


def _shape(box: tuple[float, float, float, float], colour: Colour) -> str:
    symbol = draw.fill_symbol(draw.filled(colour, 255)).format(name="")
    return _item("shape", "foot", box, symbol, 'shapeType="1" cornerRadiusMeasure="0,mm"')


def _font(element: str, size_pt: float, bold: bool) -> str:
    style = "Bold" if bold else "Regular"
    return f'<{element} description="{FONT},{size_pt:g},-1,5,{75 if bold else 50},0,0,0,0,0" style="{style}"/>'


def _colour(element: str, colour: Colour) -> str:
    red, green, blue = colour
    return f'<{element} red="{red}" green="{green}" blue="{blue}" alpha="255"/>'
