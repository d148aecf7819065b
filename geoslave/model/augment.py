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
from scipy.ndimage import gaussian_filter, zoom

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
    """All bands are multiplied by a factor from this range."""
    tint: float = 0.12
    """Standard deviation of each band's own gain (logarithmic)."""
    gamma: tuple[float, float] = (0.75, 1.35)
    """Values are raised to a power from this range."""
    haze: tuple[float, float] = (0.0, 0.18)
    """Light added to every pixel, more in blue than in red."""
    saturation: tuple[float, float] = (0.5, 1.4)
    """How far bands stay from their mean: 0 is grey, 1 as they are."""
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
    """Share of chips that are blurred."""
    noise: float = 0.02
    """Largest standard deviation of noise, in display units (1.0 = 255 in 8 bit)."""
    blotches: float = 0.15
    """Share of chips with haze in patches, soft-edged like thin cloud or hard-edged like a bad composite."""
    stripes: float = 0.0
    """Share of chips with stripes, as the detectors of a scanner leave them."""
    coarsen: float = 0.0
    """Share of chips brought to a coarser resolution (up to 2.5 times) and back: other sensors, other focus."""
    paste: float = 0.35
    """Share of background chips into which a site from another scene is pasted."""
    paste_site: float = 0.0
    """The same for chips of labelled scenes."""
    paste_decoy: float = 0.3
    """Share of chips into which a piece without a site is pasted, so that a pasted edge means nothing."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of imagery with truth."""

    pixels: Floats | NDArray[np.uint8]
    """[band, y, x], display values (as uint8: times 255, a quarter of the memory); 0 where not valid."""
    truth: NDArray[np.uint8]
    """[y, x]: 0 none, 1 and up a class, IGNORE."""
    valid: NDArray[np.bool_]
    """[y, x]."""


def display(pixels: Floats | NDArray[np.uint8]) -> Floats:
    """Display values as such."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) * np.float32(1 / 255)
    return pixels.astype(np.float32, copy=False)


def cut(
    whole: Patch, centre: tuple[float, float], size: int, rng: np.random.Generator, settings: Augmentation
) -> Patch:
    """Cut a turned and mirrored square of `size` pixels about `centre` (row, column); outside is invalid."""
    mirrored = bool(rng.random() < 0.5)
    if rng.random() >= settings.free_turn:
        return cut_square(whole, centre, size, int(rng.integers(4)), mirrored)
    angle = rng.uniform(0, 2 * pi)
    zoomed = np.exp(rng.uniform(*np.log(settings.zoom)))
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]) / zoomed
    if mirrored:
        turn[:, 0] *= -1
    return _resampled(whole, centre, size, turn)


def cut_square(whole: Patch, centre: tuple[float, float], size: int, quarters: int, mirrored: bool) -> Patch:
    """Cut a square as it is, then turn it by quarters and mirror it; outside is invalid."""
    rows, cols = whole.truth.shape
    top, left = (round(middle - (size - 1) / 2) for middle in centre)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + size, rows), min(left + size, cols)
    pixels = np.zeros((len(whole.pixels), size, size), np.float32)
    truth, valid = np.full((size, size), IGNORE, np.uint8), np.zeros((size, size), bool)
    if y0 < y1 and x0 < x1:
        here, there = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)), (slice(y0, y1), slice(x0, x1))
        valid[here], truth[here] = whole.valid[there], whole.truth[there]
        pixels[:, *here] = np.where(valid[here], display(whole.pixels[:, *there]), np.float32(0))
    step = -1 if mirrored else 1
    turned = (np.rot90(layer, quarters, (-2, -1))[..., ::step, :] for layer in (pixels, truth, valid))
    return Patch(*(np.ascontiguousarray(layer) for layer in turned))


def _resampled(whole: Patch, centre: tuple[float, float], size: int, matrix: NDArray[np.float64]) -> Patch:
    """The square whose pixel offsets from the middle, times `matrix`, are offsets from `centre`; bilinear.

    Written out rather than left to scipy: chips are drawn beside the network, on its processors.
    """
    rows, cols = whole.truth.shape
    offset = np.arange(size) - (size - 1) / 2
    y = centre[0] + matrix[0, 0] * offset[:, None] + matrix[0, 1] * offset
    x = centre[1] + matrix[1, 0] * offset[:, None] + matrix[1, 1] * offset
    inside = (y >= 0) & (y <= rows - 1) & (x >= 0) & (x <= cols - 1)
    y, x = np.clip(y, 0, rows - 1).ravel(), np.clip(x, 0, cols - 1).ravel()
    top, left = y.astype(np.intp), x.astype(np.intp)
    down, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    step_down, step_right = np.where(top < rows - 1, cols, 0), (left < cols - 1).astype(np.intp)
    corner = top * cols + left
    flat, known = whole.pixels.reshape(len(whole.pixels), -1), whole.valid.ravel()
    pixels = np.zeros((len(flat), size * size), np.float32)
    seen = inside.ravel()
    for at, weight in (
        (corner, (1 - down) * (1 - right)),
        (corner + step_right, (1 - down) * right),
        (corner + step_down, down * (1 - right)),
        (corner + step_down + step_right, down * right),
    ):
        pixels += weight * flat.take(at, axis=1)
        seen = seen & (known.take(at) | (weight < 0.01))
    nearest = corner + step_down * (down >= 0.5) + step_right * (right >= 0.5)
    truth = np.where(seen, whole.truth.ravel().take(nearest), np.uint8(IGNORE))
    if flat.dtype == np.uint8:
        pixels *= np.float32(1 / 255)
    pixels[:, ~seen] = 0
    shape = (size, size)
    return Patch(pixels.reshape(-1, *shape), truth.reshape(shape), seen.reshape(shape))


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
        return self.stretched(self.lit(values))

    def lit(self, values: Floats) -> Floats:
        """Display values before the stretch: the sun, the haze, the colours."""
        column = (slice(None),) + (None,) * (values.ndim - 1)
        lit = np.maximum(values, np.float32(0))
        np.power(lit, np.float32(self.gamma), out=lit)
        lit *= self.gain[column]
        if self.saturation != 1:
            grey = lit.mean(axis=0, keepdims=True)
            lit -= grey
            lit *= np.float32(self.saturation)
            lit += grey
        lit += self.haze[column]
        return lit

    def stretched(self, lit: Floats) -> Floats:
        """What `lit` gave, stretched and cut off."""
        column = (slice(None),) + (None,) * (lit.ndim - 1)
        shown = (lit - self.dark[column]) * (np.float32(1) / (self.bright - self.dark))[column]
        return np.clip(shown, np.float32(0), np.float32(1 if self.clip else 4), out=shown)


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
    lit = np.sort(neutral.lit(sample), axis=1)
    dark = lit[:, 0]
    bright = np.maximum(quantile(lit, rng.uniform(0.995, 1)), dark + np.float32(0.08)).astype(np.float32)
    return Light(neutral.gamma, neutral.gain, neutral.haze, neutral.saturation, dark, bright, neutral.clip)


def percentiles(
    sample: Floats, scaling: Scaling, rng: np.random.Generator, settings: Augmentation
) -> tuple[Floats, Floats]:
    """(low, width) per band that a scene's sample [band, n] gives the scaling, with some error."""
    ordered = np.sort(sample, axis=1)
    low, high = (quantile(ordered, percent / 100) for percent in scaling.percentiles)
    error = rng.normal(0, settings.statistics, 2)
    width = high - low
    low = low + 0.4 * error[0] * width
    return low.astype(np.float32), np.maximum(width * np.exp(error[1]), narrowest(scaling, settings)).astype(np.float32)


def quantile(ordered: Floats, share: float) -> Floats:
    """The linear quantile of rows [band, n] that are in order; sorting and this is what np.quantile is, but fast."""
    place = share * (ordered.shape[1] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[1] - 1)
    return np.asarray(ordered[:, below] + np.float32(place - below) * (ordered[:, above] - ordered[:, below]))


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


def stripes(pixels: Floats, rng: np.random.Generator, settings: Augmentation) -> Floats:
    """Rows or columns a little brighter or darker than their neighbours, in scaled values [band, y, x]."""
    if not settings.stripes or rng.random() >= settings.stripes:
        return pixels
    bands, rows, cols = pixels.shape
    along = int(rng.integers(2))
    lines = (rows, cols)[along]
    wide = int(rng.integers(1, 4))
    level = np.repeat(rng.standard_normal((bands, -(-lines // wide)), np.float32), wide, axis=1)[:, :lines]
    level *= np.float32(rng.uniform(0.02, 0.15))
    return np.asarray(pixels + (level[:, :, None] if along == 0 else level[:, None, :]), np.float32)


def coarsen(pixels: Floats, rng: np.random.Generator, settings: Augmentation) -> Floats:
    """A coarser resolution and back, in scaled values [band, y, x]."""
    if not settings.coarsen or rng.random() >= settings.coarsen:
        return pixels
    _, rows, cols = pixels.shape
    factor = rng.uniform(1.2, 2.5)
    blurred = gaussian_filter(pixels, (0, 0.4 * factor, 0.4 * factor))
    small = (max(4, round(rows / factor)), max(4, round(cols / factor)))
    y, x = (np.rint(np.linspace(0, n - 1, k)).astype(int) for n, k in zip((rows, cols), small, strict=True))
    few = blurred[:, y][:, :, x]
    back = (1, rows / small[0], cols / small[1])
    return np.asarray(zoom(few, back, order=1, grid_mode=True, mode="nearest"), np.float32)


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
    faint = (alpha > 0.05) & ~shown & (part != 0)
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
