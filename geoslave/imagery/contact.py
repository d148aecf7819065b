"""A contact sheet: thumbnails of places in groups, all of one size, for the eye to compare.

Nothing here knows what the groups mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from geoslave.imagery import preview
from geoslave.imagery.preview import Colour

SIDE = 216
"""Pixels a side of a thumbnail."""
COLUMNS = 5
_GAP, _MARGIN = 14, 34
_CAPTION = 50
_PAPER, _INK, _GREY = (252, 252, 250), (26, 30, 36), (104, 110, 118)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One place."""

    picture: Image.Image
    """`SIDE` pixels square (`geoslave.imagery.preview.draw_place`)."""
    name: str
    """Short, e.g. F3."""
    caption: str
    detail: str = ""
    """A second, smaller line."""


@dataclass(frozen=True, slots=True)
class Group:
    """Thumbnails under one heading."""

    title: str
    note: str
    colour: Colour
    thumbnails: tuple[Thumbnail, ...]


def contact_sheet(
    groups: Sequence[Group], title: str, subtitle: str = "", legend: Sequence[tuple[preview.Kind, str]] = ()
) -> Image.Image:
    """A page with the groups one below the other.

    Args:
        legend: kinds of outlines and what they are, as `draw_place` draws them.
    """
    width = COLUMNS * SIDE + (COLUMNS - 1) * _GAP + 2 * _MARGIN
    height = 108 + sum(_group_height(group) for group in groups) + 46 + _MARGIN
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page, "RGBA")
    draw.text((_MARGIN, 24), title, font=preview.typeface(32), fill=_INK)
    draw.text((_MARGIN, 66), subtitle, font=preview.typeface(19), fill=_GREY)
    y = 108
    for group in groups:
        _draw_group(page, group, y)
        y += _group_height(group)
    x = float(_MARGIN)
    for kind, text in legend:
        preview.draw_key(page, x, y + 22, kind, text)
        x += 50 + preview.typeface(19).getlength(text) + (300 if kind == "detections" else 0) + 34
    return page


def _group_height(group: Group) -> int:
    rows = max(1, -(-len(group.thumbnails) // COLUMNS))
    return 58 + rows * (SIDE + _CAPTION + _GAP) if group.thumbnails else 58 + 44


def _draw_group(page: Image.Image, group: Group, top: int) -> None:
    draw = ImageDraw.Draw(page, "RGBA")
    draw.line((_MARGIN, top, page.width - _MARGIN, top), fill=(214, 214, 208), width=1)
    draw.rounded_rectangle((_MARGIN, top + 18, _MARGIN + 16, top + 40), 3, fill=group.colour)
    draw.text((_MARGIN + 28, top + 29), group.title, font=preview.typeface(24), fill=_INK, anchor="lm")
    beside = _MARGIN + 28 + draw.textlength(group.title, font=preview.typeface(24)) + 16
    draw.text((beside, top + 31), group.note, font=preview.typeface(17), fill=_GREY, anchor="lm")
    if not group.thumbnails:
        draw.text((_MARGIN + 28, top + 72), "none", font=preview.typeface(19), fill=_GREY, anchor="lm")
    for number, thumbnail in enumerate(group.thumbnails):
        row, column = divmod(number, COLUMNS)
        _draw_thumbnail(
            page,
            thumbnail,
            _MARGIN + column * (SIDE + _GAP),
            top + 58 + row * (SIDE + _CAPTION + _GAP),
            group.colour,
        )


def _draw_thumbnail(page: Image.Image, thumbnail: Thumbnail, x: int, y: int, colour: Colour) -> None:
    """The picture in a frame of its group's colour, its name and captions below."""
    page.paste(thumbnail.picture, (x, y))
    draw = ImageDraw.Draw(page, "RGBA")
    draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=(*colour, 255), width=3)
    draw.text((x, y + SIDE + 6), thumbnail.name, font=preview.typeface(18), fill=colour, stroke_width=0.4)
    beside = x + draw.textlength(thumbnail.name, font=preview.typeface(18)) + 9
    draw.text((beside, y + SIDE + 6), thumbnail.caption, font=preview.typeface(18), fill=_INK)
    draw.text((x, y + SIDE + 29), _fitted(draw, thumbnail.detail), font=preview.typeface(15), fill=_GREY)


def _fitted(draw: ImageDraw.ImageDraw, text: str) -> str:
    """Text that fits under a thumbnail, cut with an ellipsis where it is longer."""
    font = preview.typeface(15)
    if draw.textlength(text, font=font) <= SIDE:
        return text
    while text and draw.textlength(f"{text}…", font=font) > SIDE:
        text = text[:-1]
    return f"{text}…"
