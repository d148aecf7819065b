"""Augmentation suited to imagery from above.

All of it works on *display* values (1.0 is a bright display pixel, see `imagery.scaling`), before
the one scaling that prediction uses too. What changes the light changes the scene's statistics in
the same way: `Light` is applied to a chip and to a sample of its scene alike.

Chips are drawn beside the network, on its processors, some tens of them for a step. A chip is so small that a call of
numpy costs as much as its work: hence few calls, in place where an array is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, exp, log, pi, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.ndimage import gaussian_filter

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


_NEARLY_BLACK = np.float32(1e-12)
"""Stands in for black: powers of 0 take four times as long."""


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
    angle = uniform(rng, 0, 2 * pi)
    zoomed = _factor(rng, settings.zoom)
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]) / zoomed
    if mirrored:
        turn[:, 0] *= -1
    return _resampled(whole, centre, size, turn)


def cut_square(whole: Patch, centre: tuple[float, float], size: int, quarters: int, mirrored: bool) -> Patch:
    """Cut a square as it is, then turn it by quarters and mirror it; outside is invalid."""
    rows, cols = whole.truth.shape
    top, left = (round(middle - (size - 1) / 2) for middle in centre)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + size, rows), min(left + size, cols)
    here, there = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)), (slice(y0, y1), slice(x0, x1))
    pixels, truth, valid = whole.pixels[:, *there], whole.truth[there], whole.valid[there]
    if truth.shape != (size, size):
        pixels, truth, valid = (
            _framed(layer, size, here, outside) for layer, outside in ((pixels, 0), (truth, IGNORE), (valid, False))
        )
    pixels, truth, valid = (_turned(layer, quarters, mirrored) for layer in (pixels, truth, valid))
    return Patch(display(pixels), truth, valid)


def _framed(part: NDArray[Any], size: int, here: tuple[slice, slice], outside: int) -> NDArray[Any]:
    """A square of `size` pixels that holds a part [..., y, x]; none of it if the part is empty."""
    whole = np.full((*part.shape[:-2], size, size), outside, part.dtype)
    if part.size:
        whole[..., *here] = part
    return whole


def _turned(layer: NDArray[Any], quarters: int, mirrored: bool) -> NDArray[Any]:
    """A copy of [..., y, x], turned by quarters as np.rot90 does, then mirrored in y."""
    if quarters % 2:
        layer = layer.swapaxes(-2, -1)
    step_y = -1 if (quarters in (1, 2)) != mirrored else 1
    step_x = -1 if quarters in (2, 3) else 1
    return layer[..., ::step_y, ::step_x].copy()


def _resampled(whole: Patch, centre: tuple[float, float], size: int, matrix: NDArray[np.float64]) -> Patch:
    """The square whose pixel offsets from the middle, times `matrix`, are offsets from `centre`; bilinear."""
    last = np.array(whole.truth.shape)[:, None] - 1
    offset = np.arange(size) - (size - 1) / 2
    asked = (np.array(centre)[:, None] + matrix[:, :1] * offset)[:, :, None] + (matrix[:, 1:] * offset)[:, None]
    asked = asked.reshape(2, -1)
    place = np.minimum(np.maximum(asked, 0), last)
    inside = (place == asked).all(axis=0)
    before = np.minimum(place.astype(np.intp), np.maximum(last - 1, 0))
    after = (place - before).astype(np.float32)
    # the four pixels around each place, in the order of their weights
    columns = whole.truth.shape[1]
    corners = before[0] * columns + before[1] + np.array([[0], [1], [columns], [columns + 1]])
    share = np.stack([1 - after, after])
    weight = (share[:, None, 0] * share[None, :, 1]).reshape(4, -1)
    around = whole.pixels.reshape(len(whole.pixels), -1).take(corners, axis=1, mode="clip")
    pixels: Floats = np.einsum("bkn,kn->bn", around.astype(np.float32, copy=False), weight)
    if around.dtype == np.uint8:
        pixels *= np.float32(1 / 255)
    seen = inside
    if not whole.valid.all():
        seen = inside & (whole.valid.ravel().take(corners, mode="clip") | (weight < 0.01)).all(axis=0)
    down, right = after >= 0.5
    truth = whole.truth.ravel().take(corners[0] + columns * down + right, mode="clip")
    if not seen.all():
        pixels *= seen
        truth = np.where(seen, truth, np.uint8(IGNORE))
    shape = (size, size)
    return Patch(pixels.reshape(-1, *shape), truth.reshape(shape), seen.reshape(shape))


@dataclass(frozen=True, slots=True)
class Light:
    """A change of light and display that is the same for every pixel of a scene."""

    gamma: float
    mix: Floats
    """[band, band]: what comes into a band of each: the sun and the colours."""
    haze: Floats
    """[band]."""
    brightest: float | None
    """The display is stretched from the scene's darkest value to the one that this share of its values lies below."""
    ceiling: float
    """Display values are cut off there."""
    error: tuple[float, float]
    """Of the scene's percentiles: of their height, as a share of their range, and of this range (logarithmic)."""

    def lit(self, values: Floats) -> Floats:
        """Display values [band, n] in this light, before the display is stretched."""
        return _mixed(values, self.gamma, self.mix, self.haze)


def _mixed(values: Floats, gamma: float, mix: Floats, summand: Floats) -> Floats:
    """Values [band, n] to a power, mixed band by band, and something added."""
    powered = np.maximum(values, _NEARLY_BLACK)
    np.power(powered, np.float32(gamma), out=powered)
    mixed: Floats = mix @ powered
    mixed += summand[:, None]
    return mixed


def draw_light(bands: int, stretched: bool, rng: np.random.Generator, settings: Augmentation) -> Light:
    """Draw a light for a scene of some bands.

    Args:
        stretched: the scene was already stretched from its darkest to its brightest pixel.
    """
    gain = _factor(rng, settings.gain)
    haze = uniform(rng, *settings.haze) * rng.random()  # mostly little
    if stretched and rng.random() < settings.unstretch:
        gain *= uniform(rng, 0.4, 0.9)
    gamma = _factor(rng, settings.gamma)
    gains = gain * np.exp(rng.normal(0, settings.tint, bands))
    hazes = haze * _ramp(0.7, 1.3, bands) * np.exp(rng.normal(0, 0.2, bands))
    saturation = uniform(rng, *settings.saturation) if rng.random() < 0.5 else 1.0
    ceiling = 1 if rng.random() < 0.7 else 4
    brightest = uniform(rng, 0.995, 1) if rng.random() < settings.stretch else None
    height, width = rng.normal(0, settings.statistics, 2)
    mix = (saturation * _identity(bands) + (1 - saturation) / bands) * gains
    return Light(gamma, mix.astype(np.float32), hazes.astype(np.float32), brightest, ceiling, (height, width))


def scaled_in(light: Light, values: Floats, sample: Floats, scaling: Scaling, settings: Augmentation) -> Floats:
    """What the network sees of a chip in a light: scaled by the percentiles that its scene then has.

    Args:
        values: display values [band, n] of the chip.
        sample: the same of its scene.
    """
    ordered = light.lit(sample)
    ordered.sort(axis=1)
    dark, reach = _stretch(ordered, light)
    ordered -= dark[:, None]
    ordered /= reach[:, None]
    np.clip(ordered, 0, light.ceiling, out=ordered)
    low, width = _percentiles(ordered, light, scaling, settings)
    # stretch and scaling are one factor, one summand and one pair of ends
    factor = np.float32(2) / width
    ends = (np.array([[[0]], [[light.ceiling]]], np.float32) - low[:, None]) * factor[:, None] - 1
    least, most = np.clip(ends, *scaling.clip)
    summand = (light.haze - dark) / reach * factor - low * factor - np.float32(1)
    factor /= reach
    scaled = _mixed(values, light.gamma, factor[:, None] * light.mix, summand)
    np.maximum(scaled, least, out=scaled)
    return np.minimum(scaled, most, out=scaled)


def _stretch(ordered: Floats, light: Light) -> tuple[Floats, Floats]:
    """The display value [band] that is stretched to 0, and how far above it lies what is stretched to 1."""
    if light.brightest is None:
        return np.zeros(len(ordered), np.float32), np.ones(len(ordered), np.float32)
    dark = ordered[:, 0].copy()
    return dark, np.maximum(quantile(ordered, light.brightest) - dark, np.float32(0.08))


def _percentiles(ordered: Floats, light: Light, scaling: Scaling, settings: Augmentation) -> tuple[Floats, Floats]:
    """(low, width) [band] that a scene's display values give the scaling, with the light's error."""
    low, high = (quantile(ordered, percent / 100) for percent in scaling.percentiles)
    width = high - low
    low += np.float32(0.4 * light.error[0]) * width
    return low, np.maximum(width * np.float32(exp(light.error[1])), np.float32(narrowest(scaling, settings)))


def quantile(ordered: Floats, share: float) -> Floats:
    """The linear quantile of rows [band, n] that are in order; sorting and this is what np.quantile is, but fast."""
    place = share * (ordered.shape[1] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[1] - 1)
    return np.asarray(ordered[:, below] + np.float32(place - below) * (ordered[:, above] - ordered[:, below]))


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """What rng.uniform draws, at a third of its time."""
    return low + (high - low) * rng.random()


def _factor(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    """A factor between two; half of them are below the root of their product."""
    return exp(uniform(rng, log(ends[0]), log(ends[1])))


@lru_cache
def _identity(bands: int) -> NDArray[np.float64]:
    return np.eye(bands)


@lru_cache
def _ramp(first: float, last: float, bands: int) -> NDArray[np.float64]:
    return np.linspace(first, last, bands)


def narrowest(scaling: Scaling, settings: Augmentation) -> float:
    """The smallest range of display values that training stretches to -1 .. +1."""
    return scaling.min_range if settings.min_range is None else settings.min_range


def degrade(pixels: Floats, rng: np.random.Generator, settings: Augmentation) -> Floats:
    """Blur and noise, in scaled values [band, y, x]."""
    if rng.random() < settings.blur:
        pixels = gaussian_filter(pixels, (0, *(2 * [uniform(rng, 0.3, 0.9)])))
    if settings.noise:
        strength = np.float32(uniform(rng, 0, settings.noise))
        noise = rng.standard_normal(pixels.shape, np.float32)
        noise *= strength
        noise += pixels
        pixels = noise
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
    return _enlarged(blurred[:, y[:, None], x], rows, cols)


def _enlarged(few: NDArray[Any], rows: int, cols: int) -> NDArray[Any]:
    """Few pixels [..., y, x] brought to more, bilinear; beyond the middles of the outermost their values stay."""
    for axis, size in ((-2, rows), (-1, cols)):
        count = few.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * (count / size) - 0.5, 0, count - 1)
        before = np.minimum(place.astype(np.intp), count - 2)
        share = (place - before).astype(few.dtype)
        if axis == -2:
            share = share[:, None]
        first = few.take(before, axis)
        few = few.take(before + 1, axis)
        few -= first
        few *= share
        few += first
    return few


def blotches(pixels: Floats, rng: np.random.Generator, settings: Augmentation) -> Floats:
    """Haze over parts of a chip, in scaled values [band, y, x]; what lies below stays visible."""
    if rng.random() >= settings.blotches:
        return pixels
    bands, rows, cols = pixels.shape
    knots = rng.standard_normal((int(rng.integers(3, 9)),) * 2)
    field = _enlarged(knots, rows, cols)
    softness = (0.02, 0.3, 1.0)[rng.integers(3)]
    cover = np.clip((field - uniform(rng, -0.3, 1.2)) / softness, 0, 1) * uniform(rng, 0.1, 0.5)
    tone = uniform(rng, 0, 2.5) + _ramp(-0.3, 0.3, bands) * uniform(rng, -0.3, 1)
    return np.asarray(pixels * (1 - cover) + cover * tone[:, None, None], np.float32)


def paste(onto: Patch, piece: Patch, centre: tuple[int, int], rng: np.random.Generator) -> Patch:
    """Lay a piece (square, its middle is shown) onto a chip with a soft, uneven edge.

    Args:
        centre: where the piece's middle comes to lie (row, column).
    """
    size, rows, cols = len(piece.truth), *onto.truth.shape
    alpha = _soft_disc(size, rng)
    if not piece.valid.any():
        return onto
    alpha *= piece.valid
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
    offset = np.arange(size) - (size - 1) / 2
    power = uniform(rng, 2, 6)
    stretch = uniform(rng, 0.8, 1.2)
    down, across = np.abs(offset * stretch) ** power, np.abs(offset / stretch) ** power
    radius = (down[:, None] + across) ** (1 / power)
    reach, soft = uniform(rng, 0.62, 0.95) * size / 2, uniform(rng, 0.5, 3.0)
    return np.clip((reach - radius) / soft + 0.5, 0, 1).astype(np.float32)
