"""Confidence as a colour: the one definition for pictures, pages and QGIS.

From pale yellow (doubtful) through orange to crimson (sure): ordered in lightness, so that the order
can be seen without seeing colours, and apart from the light blue of known sites. Each line is drawn
on a dark casing, so that it reads on dark forest and on bright soil alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Grade:
    """A range of confidence and how it is drawn."""

    low: float
    high: float
    label: str
    colour: Colour
    width_mm: float
    """Of an outline on a map: it grows with confidence, too."""

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


GRADES: tuple[Grade, ...] = (
    Grade(0.0, 0.2, "0 – 20 % (least confident)", (255, 244, 176), 0.40),
    Grade(0.2, 0.4, "20 – 40 %", (255, 213, 64), 0.48),
    Grade(0.4, 0.6, "40 – 60 %", (255, 156, 28), 0.56),
    Grade(0.6, 0.8, "60 – 80 %", (244, 84, 34), 0.66),
    Grade(0.8, 1.0, "80 – 100 % (most confident)", (222, 8, 72), 0.80),
)

RAMP: tuple[tuple[float, Colour], ...] = tuple((grade.middle, grade.colour) for grade in GRADES)
"""Confidence -> colour, linear between the grades' middles, level beyond the first and the last."""


def confidence_colour(confidence: float) -> Colour:
    """The colour of a confidence on `RAMP`."""
    stops = [stop for stop, _ in RAMP]
    channels = zip(*(colour for _, colour in RAMP), strict=True)
    red, green, blue = (round(float(np.interp(confidence, stops, channel))) for channel in channels)
    return red, green, blue
