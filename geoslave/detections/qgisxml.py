"""A QGIS project as XML, as QGIS 3.22 and later read it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyproj
from numpy.typing import NDArray

from geoslave.detections.qgislayout import Entry, print_layout
from geoslave.detections.qgissymbols import DOCTYPE


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the project."""

    name: str
    source: str
    """Relative to the folder."""
    kind: str
    """"vector" or "raster"."""
    crs: Any
    style: str
    """XML inside the layer's element."""
    points: NDArray[np.float64]
    """[n, 2] around what it holds, in its CRS."""
    visible: bool = True
    in_legend: bool = True
    """Of print layouts."""
    frames: bool = False
    """The map opens on what it holds."""
    part: int = 1

    @property
    def key(self) -> str:
        """Its id in the project."""
        return re.sub(r"\W", "_", self.source) + ("" if self.part == 1 else f"_{self.part}")

    @property
    def provider(self) -> str:
        return "ogr" if self.kind == "vector" else "gdal"


@dataclass(frozen=True, slots=True)
class Group:
    """Layers under one heading, the uppermost first."""

    name: str
    layers: Sequence[Layer]


@dataclass(frozen=True, slots=True)
class Theme:
    """A choice of visible layers, by their keys."""

    name: str
    layers: Sequence[str]
    layout: str | None = None
    """Name of the print layout that shows it."""


@dataclass(frozen=True, slots=True)
class Project:
    """All that a project file says."""

    title: str
    lines: Sequence[str]
    """Of the title block."""
    statement: str
    crs: pyproj.CRS
    groups: Sequence[Group]
    themes: Sequence[Theme]
    variables: Mapping[str, str]
    span: tuple[str, str] | None
    """First and last day, for the temporal controller."""


def project_xml(project: Project) -> str:
    """The content of a .qgs file."""
    layers = [layer for group in project.groups for layer in group.layers]
    box = extent(layers, project.crs)
    layouts = "".join(_layout(project, theme, layers, box) for theme in project.themes if theme.layout)
    order = "".join(f'<layer id="{layer.key}"/>' for layer in layers)
    return (
        DOCTYPE + f'<qgis projectname={quoteattr(project.title)} version="3.22.16-Białowieża">\n'
        f"<title>{escape(project.title)}</title>\n"
        f"<projectCrs>{_srs(project.crs)}</projectCrs>\n"
        f"<layer-tree-group><customproperties/>{''.join(map(_group, project.groups))}</layer-tree-group>\n"
        '<mapcanvas name="theMapCanvas" annotationsVisible="1"><units>meters</units>'
        f"{_box_xml(box)}<rotation>0</rotation><destinationsrs>{_srs(project.crs)}</destinationsrs></mapcanvas>\n"
        f"<projectlayers>{''.join(map(_map_layer, layers))}</projectlayers>\n"
        f"<layerorder>{order}</layerorder>\n"
        f"{_themes(project, layers)}"
        f"<projectMetadata><title>{escape(project.title)}</title><abstract>{escape(project.statement)}</abstract>"
        "</projectMetadata>\n"
        f"<Layouts>{layouts}</Layouts>\n"
        f"{_time(project.span)}"
        f"{_properties(project)}"
        "</qgis>\n"
    )


def extent(layers: Sequence[Layer], crs: pyproj.CRS, margin: float = 0.03) -> tuple[float, float, float, float]:
    """Everything that frames the map (west, south, east, north), with a margin, in the project's CRS."""
    boxes = []
    for layer in layers:
        if layer.frames and len(layer.points):
            project = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(layer.crs), crs, always_xy=True)
            xy = np.stack(project.transform(*layer.points.T))
            xy = xy[:, np.isfinite(xy).all(axis=0)]
            if xy.size:
                boxes.append((*xy.min(axis=1), *xy.max(axis=1)))
    west, south, east, north = (
        (*np.min(boxes, axis=0)[:2], *np.max(boxes, axis=0)[2:]) if boxes else (0.0, 0.0, 1000.0, 1000.0)
    )
    x, y = (east - west) * margin, (north - south) * margin
    return float(west - x), float(south - y), float(east + x), float(north + y)


def _layout(project: Project, theme: Theme, layers: Sequence[Layer], box: tuple[float, float, float, float]) -> str:
    """A page that shows a theme."""
    entries = [
        Entry(layer.key, _legend_name(layer), layer.source, layer.provider)
        for layer in layers
        if layer.key in theme.layers and layer.in_legend
    ]
    return print_layout(
        str(theme.layout),
        theme.name,
        project.title,
        project.lines,
        project.statement,
        box,
        _metres_per_unit(project.crs),
        _once(entries),
    )


def _legend_name(layer: Layer) -> str:
    return "Scores" if layer.kind == "raster" and layer.part == 1 else layer.name


def _once(entries: Sequence[Entry]) -> list[Entry]:
    """Layers that look alike (scores of many scenes) are in the legend once."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        seen.setdefault(entry.name, entry)
    return list(seen.values())


def _group(group: Group) -> str:
    inside = "".join(
        f'<layer-tree-layer id="{layer.key}" name={quoteattr(layer.name)} source={quoteattr(layer.source)} '
        f'providerKey="{layer.provider}" checked="{_checked(layer.visible)}" '
        f'expanded="{int(layer.kind == "vector" and layer.visible)}"/>'
        for layer in group.layers
    )
    visible = any(layer.visible for layer in group.layers)
    return (
        f'<layer-tree-group name="{group.name}" checked="Qt::Checked" expanded="{int(visible)}">'
        f"{inside}</layer-tree-group>"
    )


def _checked(visible: bool) -> str:
    return "Qt::Checked" if visible else "Qt::Unchecked"


def _map_layer(layer: Layer) -> str:
    geometry = ' geometry="Polygon" wkbType="MultiPolygon"' if layer.kind == "vector" else ""
    labels = f' labelsEnabled="{int("<labeling" in layer.style)}"' if layer.kind == "vector" else ""
    return (
        f'<maplayer type="{layer.kind}"{geometry}{labels} autoRefreshEnabled="0" hasScaleBasedVisibilityFlag="0">'
        f"<id>{layer.key}</id><datasource>{escape(layer.source)}</datasource>"
        f"<layername>{escape(layer.name)}</layername><srs>{_srs(layer.crs)}</srs>"
        f'<provider encoding="UTF-8">{layer.provider}</provider>{layer.style}</maplayer>\n'
    )


def _srs(crs: Any) -> str:
    known = pyproj.CRS.from_user_input(crs)
    authority = known.to_authority()
    return (
        f'<spatialrefsys nativeFormat="Wkt"><wkt>{escape(known.to_wkt())}</wkt>'
        f"<authid>{':'.join(authority) if authority else ''}</authid>"
        f"<description>{escape(known.name)}</description></spatialrefsys>"
    )


def _metres_per_unit(crs: pyproj.CRS) -> float:
    return float(crs.axis_info[0].unit_conversion_factor) if crs.is_projected else 111_320.0


def _box_xml(box: tuple[float, float, float, float]) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<extent>{''.join(f'<{name}>{value!r}</{name}>' for name, value in corners)}</extent>"


def _themes(project: Project, layers: Sequence[Layer]) -> str:
    inside = ""
    for theme in project.themes:
        shown = [layer for layer in layers if layer.key in theme.layers]
        visible = "".join(f'<layer id="{layer.key}" visible="1" style="default"/>' for layer in shown)
        inside += f"<visibility-preset name={quoteattr(theme.name)}>{visible}</visibility-preset>"
    return f"<visibility-presets>{inside}</visibility-presets>\n"


def _time(span: tuple[str, str] | None) -> str:
    if span is None:
        return ""
    start, end = (f"{day}T00:00:00Z" for day in span)
    return (
        '<ProjectTimeSettings timeStepUnit="mon" timeStep="1" frameRate="2" cumulativeTemporalRange="0">'
        f"<TemporalRange><start>{start}</start><end>{end}</end></TemporalRange></ProjectTimeSettings>\n"
    )


def _properties(project: Project) -> str:
    names = "".join(f"<value>{escape(name)}</value>" for name in project.variables)
    values = "".join(f"<value>{escape(value)}</value>" for value in project.variables.values())
    authority = project.crs.to_authority()
    return (
        '<properties><Paths><Absolute type="bool">false</Absolute></Paths><SpatialRefSys>'
        f'<ProjectCrs type="QString">{":".join(authority) if authority else ""}</ProjectCrs>'
        '<ProjectionsEnabled type="int">1</ProjectionsEnabled></SpatialRefSys>'
        f'<Variables><variableNames type="QStringList">{names}</variableNames>'
        f'<variableValues type="QStringList">{values}</variableValues></Variables>'
        '<Gui><CanvasColorRedPart type="int">238</CanvasColorRedPart>'
        '<CanvasColorGreenPart type="int">238</CanvasColorGreenPart>'
        '<CanvasColorBluePart type="int">234</CanvasColorBluePart></Gui>'
        '<TitleLabel><Enabled type="bool">true</Enabled><Placement type="int">4</Placement>'
        f'<Label type="QString">{escape(project.title)}</Label></TitleLabel>'
        '<CopyrightLabel><Enabled type="bool">true</Enabled><Placement type="int">3</Placement>'
        '<Label type="QString">An indicator, not evidence.</Label></CopyrightLabel>'
        "</properties>\n"
    )
