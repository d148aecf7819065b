"""Drawings of a report, as SVG text: intervals, a series, a map. Nothing is loaded from anywhere, print stays sharp.

Colours are those of Okabe and Ito (2008), as in `geoslave.charts`; the map's ramp is one hue from light to
dark. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from html import escape

import numpy as np
import shapely

from geoslave.charts import BLUE, GREY, ORANGE

INK, FAINT = "#1A1E24", "#DFE2E6"
WITHHELD = "#F1F2F4"
RAMP = ("#DCEBF5", "#A9CFE6", "#6BAED6", "#2F86BD", "#0B4F86")
WIDTH, MAP_HEIGHT = 720, 430


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of an interval plot; without figures it is told to be withheld."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    shown: str = ""
    """The figures in words, at the right."""
    heads: bool = False
    """A title over the rows that follow."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A count at a date."""

    when: date
    value: float
    low: float
    high: float
    found: int


@dataclass(frozen=True, slots=True)
class Area:
    """A piece of a map, in longitude/latitude."""

    shape: shapely.Geometry
    value: float | None
    """None: withheld, or only an outline."""
    name: str = ""


def draw_intervals(rows: Sequence[Row], unit: str, title: str, most: float | None = None) -> str:
    """Points with their intervals, a row each, figures at the right.

    Args:
        most: end of the axis; default: the largest upper end.
    """
    left, right, top, step = 190, 190, 8, 26
    height = top + step * len(rows) + 46
    highs = [row.high if row.high is not None else row.value for row in rows]
    end = most or max([high for high in highs if high is not None] or [1.0]) or 1.0
    ticks = nice_ticks(end)
    end = max(end, ticks[-1]) if most is None else end
    across = (WIDTH - left - right) / end
    base = top + step * len(rows) + 4
    parts = []
    for tick in ticks:
        x = left + tick * across
        parts.append(_line(x, top, x, base, FAINT))
        parts.append(_text(x, base + 16, _number(tick), "middle", GREY, 12))
    parts.append(_text(left + (WIDTH - left - right) / 2, base + 34, unit, "middle", GREY, 12))
    for k, row in enumerate(rows):
        y = top + step * k + step / 2
        if row.heads:
            parts.append(_text(0, y + 6, row.name, "start", INK, 13, bold=True))
            continue
        parts.append(_text(left - 12, y + 4, _short(row.name, 27), "end", INK, 13))
        if row.value is None:
            parts.append(_text(left + 6, y + 4, row.shown or "withheld, or none", "start", GREY, 12, italic=True))
            continue
        low, high = (row.value if end_ is None else end_ for end_ in (row.low, row.high))
        x1, x2, x = (left + min(part, end) * across for part in (low, high, row.value))
        parts.append(_line(x1, y, x2, y, BLUE, 2.6))
        parts += [_line(x_, y - 5, x_, y + 5, BLUE, 1.6) for x_ in (x1, x2)]
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{BLUE}" stroke="#fff" stroke-width="1.4"/>')
        parts.append(_text(WIDTH - right + 14, y + 4, row.shown, "start", INK, 13))
    return _svg(height, title, parts)


def draw_series(moments: Sequence[Moment], title: str) -> str:
    """Counts over time with their intervals, and beside them the bare detections."""
    left, right, top, bottom, height = 64, 24, 14, 66, 330
    first, last = moments[0].when, moments[-1].when
    days = max((last - first).days, 1)
    end = max([moment.high for moment in moments] + [float(moment.found) for moment in moments] + [1.0])
    ticks = nice_ticks(end)
    end = max(end * 1.03, ticks[-1])

    def x_of(when: date) -> float:
        return left + 14 + (when - first).days / days * (WIDTH - left - right - 28)

    def y_of(value: float) -> float:
        return height - bottom - value / end * (height - top - bottom)

    parts = []
    for tick in ticks:
        parts.append(_line(left, y_of(tick), WIDTH - right, y_of(tick), FAINT))
        parts.append(_text(left - 8, y_of(tick) + 4, _number(tick), "end", GREY, 12))
    xs = [x_of(moment.when) for moment in moments]
    band = [(x, y_of(m.high)) for x, m in zip(xs, moments, strict=True)]
    band += [(x, y_of(m.low)) for x, m in zip(xs[::-1], moments[::-1], strict=True)]
    parts.append(f'<polygon points="{_points(band)}" fill="{BLUE}" opacity="0.14"/>')
    found = [(x, y_of(m.found)) for x, m in zip(xs, moments, strict=True)]
    parts.append(f'<polyline points="{_points(found)}" fill="none" stroke="{GREY}" stroke-dasharray="5 4"/>')
    parts += [f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{GREY}"/>' for x, y in found]
    middle = [(x, y_of(m.value)) for x, m in zip(xs, moments, strict=True)]
    parts.append(f'<polyline points="{_points(middle)}" fill="none" stroke="{BLUE}" stroke-width="2.2"/>')
    gap = max(1, math.ceil(len(moments) / 9))
    for k, (x, moment) in enumerate(zip(xs, moments, strict=True)):
        parts.append(_line(x, y_of(moment.low), x, y_of(moment.high), BLUE, 2))
        parts.append(f'<circle cx="{x:.1f}" cy="{y_of(moment.value):.1f}" r="5" fill="{BLUE}" stroke="#fff"/>')
        if k % gap == 0:
            parts.append(_text(x, height - bottom + 18, moment.when.strftime("%b %Y"), "middle", GREY, 12))
    y = height - 14
    parts.append(f'<circle cx="{left + 6}" cy="{y - 4}" r="5" fill="{BLUE}"/>')
    parts.append(_text(left + 18, y, "sites, corrected for misses, with interval", "start", INK, 12))
    parts.append(f'<rect x="{left + 300}" y="{y - 8}" width="7" height="7" fill="{GREY}"/>')
    parts.append(_text(left + 314, y, "detections, uncorrected", "start", INK, 12))
    return _svg(height, title, parts)


def draw_map(
    areas: Sequence[Area],
    unit: str,
    title: str,
    outlines: Sequence[shapely.Geometry] = (),
    points: Sequence[tuple[float, float]] = (),
    names: bool = False,
) -> str:
    """Areas coloured by their value, with outlines around them; points only where exact places were asked for.

    Longitude is shrunk by the cosine of the middle latitude. North is up.
    """
    shapes = [*(area.shape for area in areas), *outlines, *(shapely.Point(*at) for at in points)]
    view = _View.around(shapes)
    parts = [f'<rect x="0" y="0" width="{WIDTH}" height="{view.height}" fill="#FBFBFC" stroke="{FAINT}"/>']
    parts += view.graticule()
    parts += [f'<path d="{view.path(shape)}" fill="none" stroke="#B9BEC6"/>' for shape in outlines]
    edges = class_edges([area.value for area in areas if area.value is not None])
    ramp = [RAMP[round(k * (len(RAMP) - 1) / max(len(edges), 1))] for k in range(len(edges) + 1)]
    for area in areas:
        fill = WITHHELD if area.value is None else ramp[int(np.searchsorted(edges, area.value, side="right"))]
        stroke = "#C9CDD3" if area.value is None else "#FFFFFF"
        parts.append(f'<path d="{view.path(area.shape)}" fill="{fill}" stroke="{stroke}" stroke-width="1"/>')
    if names:
        for area in areas:
            figure = "" if area.value is None else f"{area.value:,.0f}"
            at = shapely.point_on_surface(area.shape)
            x, y = view.place(float(shapely.get_x(at)), float(shapely.get_y(at)))
            dark = area.value is not None and ramp[int(np.searchsorted(edges, area.value, side="right"))] in RAMP[3:]
            ink = "#FFFFFF" if dark else INK
            parts.append(_text(x, y - 2, _short(area.name, 18), "middle", ink, 12))
            parts.append(_text(x, y + 14, figure, "middle", ink, 13, bold=True))
    parts += view.scale_bar()
    for lon, lat in points:
        x, y = view.place(lon, lat)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{ORANGE}" stroke="#fff" stroke-width="1"/>')
    legend, depth = _legend([a.value for a in areas], edges, ramp, unit, bool(points), view.height + 12)
    return _svg(view.height + depth, title, [*parts, *legend])


def class_edges(values: Sequence[float]) -> list[float]:
    """Up to four limits between classes of colour, each the least value of its class: classes of like size."""
    if not len(values):
        return []
    quantiles = np.unique(np.quantile(values, [0.2, 0.4, 0.6, 0.8], method="higher"))
    return [float(edge) for edge in quantiles if edge > min(values)]


def nice_ticks(end: float, about: int = 5) -> list[float]:
    """0 and round numbers up to the first at or beyond `end`."""
    raw = max(end, 1e-9) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    return [step * k for k in range(math.ceil(end / step - 1e-9) + 1)]


# ---------------------------------------------------------------- maps


@dataclass(frozen=True, slots=True)
class _View:
    """From longitude/latitude to the drawing."""

    west: float
    north: float
    per_degree: float
    """Pixels a degree of latitude."""
    shrink: float
    """Cosine of the middle latitude."""
    height: int

    @classmethod
    def around(cls, shapes: Sequence[shapely.Geometry]) -> _View:
        west, south, east, north = shapely.total_bounds(np.array(list(shapes), dtype=object))
        pad = 0.04 * max(east - west, north - south, 0.01)
        west, south, east, north = west - pad, south - pad, east + pad, north + pad
        shrink = max(math.cos(math.radians((south + north) / 2)), 0.05)
        per_degree = min(WIDTH / ((east - west) * shrink), MAP_HEIGHT / (north - south))
        # in the middle, where the region is narrower than the page
        west -= (WIDTH / per_degree / shrink - (east - west)) / 2
        return cls(west, north, per_degree, shrink, round((north - south) * per_degree))

    def place(self, lon: float, lat: float) -> tuple[float, float]:
        return (lon - self.west) * self.shrink * self.per_degree, (self.north - lat) * self.per_degree

    def path(self, shape: shapely.Geometry) -> str:
        """The rings of polygons, simplified to half a pixel."""
        simple = shapely.simplify(shape, 0.5 / self.per_degree)
        pieces = np.asarray(shapely.get_parts(simple))
        lines = []
        for ring in shapely.get_rings(pieces[shapely.get_type_id(pieces) == 3]):
            xy = shapely.get_coordinates(ring)
            lines.append("M" + "L".join("{:.1f} {:.1f}".format(*self.place(x, y)) for x, y in xy[:-1]) + "Z")
        return "".join(lines)

    def graticule(self) -> list[str]:
        """A few meridians and parallels at round degrees, named at the edge."""
        parts = []
        wide, high = WIDTH / self.per_degree / self.shrink, self.height / self.per_degree
        step = next(s for s in (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 45) if max(wide, high) / s <= 6 or s == 45)
        for k in range(math.ceil(self.west / step), math.floor((self.west + wide) / step) + 1):
            x, _ = self.place(k * step, 0)
            parts.append(_line(x, 0, x, self.height, "#E9ECEF"))
            if 24 < x < WIDTH - 180:
                parts.append(_text(x + 4, self.height - 6, _degrees(k * step, "E", "W"), "start", "#8A9099", 11))
        for k in range(math.ceil((self.north - high) / step), math.floor(self.north / step) + 1):
            _, y = self.place(0, k * step)
            parts.append(_line(0, y, WIDTH, y, "#E9ECEF"))
            if 14 < y < self.height - 30:
                parts.append(_text(6, y - 4, _degrees(k * step, "N", "S"), "start", "#8A9099", 11))
        return parts

    def scale_bar(self) -> list[str]:
        km = 111.32 / self.per_degree
        length = next((s for s in (1000, 500, 200, 100, 50, 20, 10, 5, 2, 1, 0.5, 0.2) if s / km <= WIDTH / 7), 0.1)
        x2, y = WIDTH - 14, self.height - 12
        x1 = x2 - length / km
        return [
            f'<rect x="{x1 - 8:.1f}" y="{y - 20}" width="{x2 - x1 + 16:.1f}" height="28" fill="#fff" opacity="0.8"/>',
            f'<path d="M{x1:.1f} {y - 5}V{y}H{x2}V{y - 5}" fill="none" stroke="{INK}" stroke-width="1.4"/>',
            _text((x1 + x2) / 2, y - 7, f"{length:g} km", "middle", INK, 11),
        ]


def _legend(
    values: Sequence[float | None], edges: Sequence[float], ramp: Sequence[str], unit: str, points: bool, y: float
) -> tuple[list[str], int]:
    known = [value for value in values if value is not None]
    entries: list[tuple[str, str]] = []
    if known:
        of_class = np.searchsorted(edges, known, side="right")
        held = [[value for value, k in zip(known, of_class, strict=True) if k == number] for number in range(len(ramp))]
        entries = [(colour, _between(min(part), max(part))) for colour, part in zip(ramp, held, strict=True) if part]
    if any(value is None for value in values):
        entries.append((WITHHELD, "withheld, or none"))
    if points:
        entries.append((ORANGE, "a detection"))
    parts, x = [_text(0, y + 12, unit, "start", GREY, 12)], 8 + 6.4 * len(unit)
    for colour, words in entries:
        edge = "#C9CDD3" if colour == WITHHELD else "none"
        if colour == ORANGE:
            parts.append(f'<circle cx="{x + 12:.0f}" cy="{y + 7:.0f}" r="4" fill="{colour}"/>')
        else:
            parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="22" height="14" fill="{colour}" stroke="{edge}"/>')
        parts.append(_text(x + 28, y + 12, words, "start", INK, 12))
        x += 44 + 6.8 * len(words)
    return parts, 36


def _between(low: float, high: float) -> str:
    return _number(low) if round(low) >= round(high) else f"{_number(low)} to {_number(high)}"


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(round(value, 3)):g}° {positive if value >= 0 else negative}"


# ---------------------------------------------------------------- pieces


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'font-family="inherit">{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(
    x: float, y: float, words: str, anchor: str, colour: str, size: int, italic: bool = False, bold: bool = False
) -> str:
    style = (' font-style="italic"' if italic else "") + (' font-weight="600"' if bold else "")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}"{style}>'
        f"{escape(words)}</text>"
    )


def _points(xy: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in xy)


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else f"{value:g}"
