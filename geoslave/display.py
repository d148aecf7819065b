"""What results look like in a notebook: small pieces of HTML that hold no script and ask no server.

Every text is escaped. Colours follow the page, so that a dark notebook stays readable.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_BAR = "#0072b2"
_BOX = "max-width:960px;font:14px/1.45 system-ui,sans-serif"
_WIDTH, _ROW, _LABELS, _FIGURES = 760, 30, 190, 200


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure with its interval, as one row of a chart."""

    name: str
    value: float
    low: float
    high: float


def page(title: str, *parts: str, small: str = "") -> str:
    """A result: a title, pieces of HTML, and small print.

    Args:
        title, small: plain text.
        parts: HTML made by the functions below.
    """
    foot = f'<p style="opacity:.75;font-size:12px;margin:.5em 0 0">{escape(small)}</p>' if small else ""
    return f'<div style="{_BOX}"><p style="margin:0 0 .4em"><b>{escape(title)}</b></p>{"".join(parts)}{foot}</div>'


def line(text: str) -> str:
    """A line of plain text."""
    return f'<p style="margin:0 0 .4em">{escape(text)}</p>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of plain values, the first column to the left and the others to the right."""
    cell = "padding:2px 12px 2px 0;border:0;background:none"

    def aligned(position: int) -> str:
        return f"{cell};text-align:{'left' if position == 0 else 'right'}"

    head = "".join(f'<th style="{aligned(i)};opacity:.75">{escape(name)}</th>' for i, name in enumerate(columns))
    body = "".join(
        f'<tr style="background:none">{"".join(_cell(value, aligned(i)) for i, value in enumerate(row))}</tr>'
        for row in rows
    )
    return (
        f'<table style="border-collapse:collapse;margin:0"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def picture(image: Image.Image, text: str) -> str:
    """A picture inside the page itself.

    Args:
        text: what it shows, for people who cannot see it.
    """
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=88)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{escape(text, quote=True)}" src="data:image/jpeg;base64,{data}" style="max-width:100%">'


def intervals(bars: Sequence[Bar], digits: int = 0, top: float | None = None) -> str:
    """Figures with their intervals on one axis that begins at 0; an interval without an end runs out of the chart.

    Args:
        digits: of the figures that stand beside the bars.
        top: where the axis ends. None: a round number above all.
    """
    finite = [value for bar in bars for value in (bar.value, bar.high) if math.isfinite(value)]
    end = _round_up(max(finite, default=1.0)) if top is None else top
    left, right = _LABELS, _WIDTH - _FIGURES
    height = _ROW * len(bars) + 24

    def at(value: float) -> float:
        return left + (right - left) * min(max(value, 0), end) / end if math.isfinite(value) else right

    drawn = [_axis(end, height)]
    for number, bar in enumerate(bars):
        y = _ROW * number + _ROW / 2
        drawn.append(
            f'<text x="0" y="{y + 5:g}" fill="currentColor">{escape(_cut(bar.name))}</text>'
            f'<line x1="{at(bar.low):.1f}" x2="{at(bar.high):.1f}" y1="{y:g}" y2="{y:g}" stroke="{_BAR}" '
            'stroke-width="7" stroke-linecap="round" opacity=".45"/>'
            f'<circle cx="{at(bar.value):.1f}" cy="{y:g}" r="5.5" fill="{_BAR}"/>'
            f'<text x="{_WIDTH}" y="{y + 5:g}" text-anchor="end" fill="currentColor">{escape(said(bar, digits))}</text>'
        )
    told = escape("; ".join(f"{bar.name}: {said(bar, digits)}" for bar in bars), quote=True)
    return (
        f'<svg role="img" aria-label="{told}" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'style="max-width:100%;height:auto;font:14px system-ui,sans-serif">{"".join(drawn)}</svg>'
    )


def said(bar: Bar, digits: int = 0) -> str:
    """A figure with its interval in words."""
    value, low, high = (number(part, digits) for part in (bar.value, bar.low, bar.high))
    return f"{value}  [{low}, {high}]"


def number(value: float | None, digits: int = 0) -> str:
    """A number as people read it."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:,.{digits}f}"


def _cell(value: object, style: str) -> str:
    return f'<td style="{style}">{escape("–" if value is None else str(value))}</td>'


def _axis(top: float, height: int) -> str:
    marks = []
    for share in (0, 0.5, 1):
        x = _LABELS + (_WIDTH - _FIGURES - _LABELS) * share
        label = f"{top * share:,.0f}" if top > 2 else f"{top * share:g}"
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 20}" stroke="currentColor" opacity=".18"/>'
            f'<text x="{x:.1f}" y="{height - 4}" text-anchor="middle" font-size="11" fill="currentColor" '
            f'opacity=".7">{label}</text>'
        )
    return "".join(marks)


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 4, 5, 8 times a power of ten; shares keep to 1."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return scale * next(step for step in (1, 2, 2.5, 4, 5, 8, 10) if step * scale >= value * (1 - 1e-9))


def _cut(text: str, longest: int = 26) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
