"""Augmentation suited to imagery from above.

All of it works on *display* values (1.0 is a bright display pixel, see `imagery.scaling`), before
the one scaling that prediction uses too. What changes the light changes the scene's statistics in
the same way: `Light` is applied to a chip and to a sample of its scene alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.ndimage import affine_transform, gaussian_filter, zoom

from geoslave.imagery.scaling import Scaling

Floats = NDArray[np.float32]

IGNORE = 255
"""Truth where nothing is learned: unsure, invalid, or beside a site's outline."""


class Augmentation(BaseModel):
    """How far training strays from the imagery as it is. Ranges are (low, high)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    free_turn: float = 0.5
    """Share of chips turned by any angle and resampled; the others by quarter turns only (all are mirrored)."""
    zoom: tuple[float, float] = (0.8, 1.25)
    """Resolution jitter of the chips that are resampled."""
    gain: tuple[float, float] = (0.6, 1.5)
    tint: float = 0.12
    """Standard deviation of each band's own gain (logarithmic)."""
    gamma: tuple[float, float] = (0.75, 1.35)
    haze: tuple[float, float] = (0.0, 0.18)
    """Light added to every pixel, more in blue than in red."""
    saturation: tuple[float, float] = (0.5, 1.4)
    stretch: float = 0.45
    """Share of chips whose scene is stretched from its darkest to its brightest pixel, as some archives do."""
    unstretch: float = 0.6
    """Share of chips from already stretched scenes that are brought back to a plausible dull range."""
    statistics: float = 0.15
    """Standard deviation of the error of the scene's percentiles, as a share of the range between them."""
    min_range: float | None = None
    """Overrides the scaling's in training: a smaller one stretches dull scenes harder than prediction will,
    so that what looks like a site in stretched noise is seen, and learned, before it can raise an alarm."""
    blur: float = 0.3
    noise: float = 0.02
    blotches: float = 0.15
    """Share of chips with haze in patches, soft-edged like thin cloud or hard-edged like a bad composite."""
    paste: float = 0.35
    """Share of background chips into which a site from another scene is pasted."""
    paste_decoy: float = 0.3
    """Share of chips into which a piece without a site is pasted, so that a pasted edge means nothing."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of imagery with truth."""

    pixels: Floats
    """[band, y, x], display values; 0 where not valid."""
    truth: NDArray[np.uint8]
    """[y, x]: 0 none, 1 and up a class, IGNORE."""
    valid: NDArray[np.bool_]
    """[y, x]."""


def cut(
    whole: Patch, centre: tuple[float, float], size: int, rng: np.random.Generator, settings: Augmentation
) -> Patch:
    """Cut a turned and mirrored square of `size` pixels about `centre` (row, column); outside is invalid."""
    free = rng.random() < settings.free_turn
    angle = rng.uniform(0, 2 * pi) if free else rng.integers(4) * pi / 2
    zoom = np.exp(rng.uniform(*np.log(settings.zoom))) if free else 1.0
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    matrix = turn @ np.diag([rng.choice([-1, 1]), 1.0]) / zoom
    offset = np.array(centre) - matrix @ np.full(2, (size - 1) / 2)
    if not free:
        matrix, offset = np.rint(matrix), np.rint(offset)
    order, shape = (1 if free else 0), (size, size)
    pixels = np.stack([affine_transform(b, matrix, offset, shape, order=order) for b in whole.pixels])
    seen = affine_transform(whole.valid.astype(np.float32), matrix, offset, shape, order=order) > 0.99
    truth = affine_transform(whole.truth, matrix, offset, shape, order=0, cval=IGNORE)
    return Patch(np.where(seen, pixels, 0).astype(np.float32), truth, seen)


@dataclass(frozen=True, slots=True)
class Light:
    """A change of light and display that is the same for every pixel of a scene."""

    gamma: float
    gain: Floats
    """[band]."""
    haze: Floats
    """[band]."""
    saturation: float
    dark: Floats
    bright: Floats
    """[band]: the display values that are stretched to 0 and 1."""
    clip: bool

    def __call__(self, values: Floats) -> Floats:
        """Display values [band, ...] in this light."""
        column = (slice(None),) + (None,) * (values.ndim - 1)
        lit = np.maximum(values, 0) ** np.float32(self.gamma) * self.gain[column]
        grey = lit.mean(axis=0, keepdims=True)
        lit = grey + np.float32(self.saturation) * (lit - grey) + self.haze[column]
        lit = (lit - self.dark[column]) / (self.bright - self.dark)[column]
        return np.clip(lit, 0, 1 if self.clip else 4).astype(np.float32)


def draw_light(sample: Floats, stretched: bool, rng: np.random.Generator, settings: Augmentation) -> Light:
    """Draw a light for a scene.

    Args:
        sample: display values [band, n] of the scene.
        stretched: the scene was already stretched from its darkest to its brightest pixel.
    """
    bands = len(sample)
    gain = float(np.exp(rng.uniform(*np.log(settings.gain))))
    haze = rng.uniform(*settings.haze) * rng.random()  # mostly little
    if stretched and rng.random() < settings.unstretch:
        gain *= rng.uniform(0.4, 0.9)
    neutral = Light(
        gamma=float(np.exp(rng.uniform(*np.log(settings.gamma)))),
        gain=(gain * np.exp(rng.normal(0, settings.tint, bands))).astype(np.float32),
        haze=(haze * np.linspace(0.7, 1.3, bands) * np.exp(rng.normal(0, 0.2, bands))).astype(np.float32),
        saturation=rng.uniform(*settings.saturation) if rng.random() < 0.5 else 1.0,
        dark=np.zeros(bands, np.float32),
        bright=np.ones(bands, np.float32),
        clip=bool(rng.random() < 0.7),
    )
    if rng.random() >= settings.stretch:
        return neutral
    lit = neutral(sample)
    dark = lit.min(axis=1)
    bright = np.maximum(np.percentile(lit, rng.uniform(99.5, 100), axis=1), dark + 0.08).astype(np.float32)
    return Light(neutral.gamma, neutral.gain, neutral.haze, neutral.saturation, dark, bright, neutral.clip)


def percentiles(
    sample: Floats, scaling: Scaling, rng: np.random.Generator, settings: Augmentation
) -> tuple[Floats, Floats]:
    """(low, width) per band that a scene's sample [band, n] gives the scaling, with some error."""
    low, high = np.percentile(sample, scaling.percentiles, axis=1)
    error = rng.normal(0, settings.statistics, 2)
    width = high - low
    low = low + 0.4 * error[0] * width
    return low.astype(np.float32), np.maximum(width * np.exp(error[1]), narrowest(scaling, settings)).astype(np.float32)


def narrowest(scaling: Scaling, settings: Augmentation) -> float:
    """The smallest range of display values that training stretches to -1 .. +1."""
    return scaling.min_range if settings.min_range is None else settings.min_range


def degrade(pixels: Floats, rng: np.random.Generator, settings: Augmentation) -> Floats:
    """Blur and noise, in scaled values [band, y, x]."""
    if rng.random() < settings.blur:
        pixels = gaussian_filter(pixels, (0, *(2 * [rng.uniform(0.3, 0.9)])))
    if settings.noise:
        pixels = pixels + rng.uniform(0, settings.noise) * rng.standard_normal(pixels.shape, np.float32)
    return np.asarray(pixels, np.float32)


def blotches(pixels: Floats, rng: np.random.Generator, settings: Augmentation) -> Floats:
    """Haze over parts of a chip, in scaled values [band, y, x]; what lies below stays visible."""
    if rng.random() >= settings.blotches:
        return pixels
    bands, rows, cols = pixels.shape
    knots = rng.standard_normal((int(rng.integers(3, 9)),) * 2)
    field = zoom(knots, (rows / len(knots), cols / len(knots)), order=1, grid_mode=True, mode="nearest")
    softness = rng.choice([0.02, 0.3, 1.0])
    cover = np.clip((field - rng.uniform(-0.3, 1.2)) / softness, 0, 1) * rng.uniform(0.1, 0.5)
    tone = rng.uniform(0, 2.5) + np.linspace(-0.3, 0.3, bands) * rng.uniform(-0.3, 1)
    return np.asarray(pixels * (1 - cover) + cover * tone[:, None, None], np.float32)


def paste(onto: Patch, piece: Patch, centre: tuple[int, int], rng: np.random.Generator) -> Patch:
    """Lay a piece (square, its middle is shown) onto a chip with a soft, uneven edge.

    Args:
        centre: where the piece's middle comes to lie (row, column).
    """
    size, rows, cols = len(piece.truth), *onto.truth.shape
    alpha = _soft_disc(size, rng) * piece.valid
    top, left = centre[0] - size // 2, centre[1] - size // 2
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + size, rows), min(left + size, cols)
    if y0 >= y1 or x0 >= x1:
        return onto
    here = (slice(y0, y1), slice(x0, x1))
    there = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    alpha = alpha[there] * onto.valid[here]
    pixels, truth = onto.pixels.copy(), onto.truth.copy()
    pixels[:, *here] = (1 - alpha) * pixels[:, *here] + alpha * piece.pixels[:, *there]
    shown, part = alpha > 0.5, piece.truth[there]
    # what the soft edge half covers is neither
    faint = (alpha > 0.05) & ~shown & (part == 1)
    truth[here] = np.where(faint, IGNORE, np.where(shown, part, truth[here]))
    return Patch(pixels, truth, onto.valid)


def _soft_disc(size: int, rng: np.random.Generator) -> Floats:
    """Weights [size, size]: 1 in the middle, 0 at the rim, round to square, with a drawn width."""
    y, x = np.mgrid[0:size, 0:size] - (size - 1) / 2
    power = rng.uniform(2, 6)
    stretch = rng.uniform(0.8, 1.2)
    radius = (np.abs(y * stretch) ** power + np.abs(x / stretch) ** power) ** (1 / power)
    reach, soft = rng.uniform(0.62, 0.95) * size / 2, rng.uniform(0.5, 3.0)
    return np.clip((reach - radius) / soft + 0.5, 0, 1).astype(np.float32)
