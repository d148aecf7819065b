"""Band scaling: the ONLY one, for training and for prediction.

Pixels take two steps, which end in one multiplication and one addition per band:

1. *to display*: whatever the file stores becomes a number in which 1.0 is a bright display pixel:
   8-bit imagery is divided by 255; reflectance is divided by 0.35 (Sentinel-2's true-colour images
   show reflectance 0 to about 0.35, so both end in the same range).
2. *to network*: the scene's own percentiles are brought to -1 and +1. The range between them is
   never taken narrower than `min_range`, so that a dull scene (forest, water, haze) is not stretched
   into noise. Values beyond are kept up to `clip`: a kiln yard is brighter than 98 % of its scene.

Statistics belong to a *scene*, read once from its overviews, never to a chip: with chip statistics
the same place looks different in two chips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

DISPLAY_REFLECTANCE = 0.35
"""Reflectance shown as full brightness; Sentinel-2 L2A true-colour images saturate at 0.3558 (ESA)."""

SENTINEL2_SCALE = 1e-4
"""Reflectance per digital number in Sentinel-2 products (ESA, quantification value 10,000)."""


@dataclass(frozen=True, slots=True)
class Radiometry:
    """display = stored * gain + bias, one pair per band."""

    gain: tuple[float, ...]
    bias: tuple[float, ...]


class Scaling(BaseModel):
    """How a model wants its pixels. Kept in the model package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    percentiles: tuple[float, float] = (2.0, 98.0)
    """Percentiles of the scene that become -1 and +1."""
    min_range: float = 0.4
    """Smallest distance between the two, in display units (1.0 = 255 in 8 bit = reflectance 0.35).
    Narrower ranges stretch dull chips into false alarms: of 2,100 kiln-free chips, a network trained with 0.25
    saw a kiln (score above 0.9) in 45 at 0.25, in 15 at 0.35, in 7 at 0.45, and the same real kilns."""
    clip: tuple[float, float] = (-2.0, 5.0)
    """Scaled values are kept inside."""


@dataclass(frozen=True, slots=True)
class SceneStatistics:
    """The percentiles of a scene, in display units, one pair per band."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def radiometry(dtype: str, scales: tuple[float, ...], offsets: tuple[float, ...], brightest: float) -> Radiometry:
    """Tell from a file's data type, declared scale and offset, and a bright value what its numbers mean.

    A declared scale or offset makes reflectance. Otherwise: 8-bit integers (or wider types that stay
    below 256) are display values; other integers are Sentinel-2 digital numbers; floating point up
    to 2 is reflectance.

    Args:
        dtype: numpy name of the stored type.
        scales, offsets: as declared by the file, per band (1 and 0 where it declares none).
        brightest: a high percentile of the stored values, over all bands.
    """
    n = len(scales)
    if any(s != 1 for s in scales) or any(o != 0 for o in offsets):
        return Radiometry(
            tuple(s / DISPLAY_REFLECTANCE for s in scales), tuple(o / DISPLAY_REFLECTANCE for o in offsets)
        )
    if dtype in ("uint8", "int8"):
        gain = 1 / 255
    elif dtype.startswith("float") and brightest <= 2:
        gain = 1 / DISPLAY_REFLECTANCE
    elif brightest <= 255:
        gain = 1 / 255
    else:
        gain = SENTINEL2_SCALE / DISPLAY_REFLECTANCE
    return Radiometry((gain,) * n, (0.0,) * n)


def scene_statistics(
    pixels: NDArray[np.generic], valid: NDArray[np.bool_], unit: Radiometry, scaling: Scaling
) -> SceneStatistics:
    """Percentiles of a scene's valid pixels, from an overview.

    Args:
        pixels: [band, y, x] as stored.
        valid: [y, x].

    Raises:
        ValueError: if no pixel is valid.
    """
    if not valid.any():
        raise ValueError("no valid pixel: a scene without data has no statistics")
    sample = pixels[:, valid].astype(np.float64)
    low, high = np.percentile(sample, scaling.percentiles, axis=1)
    gain, bias = np.array(unit.gain), np.array(unit.bias)
    return SceneStatistics(tuple((low * gain + bias).tolist()), tuple((high * gain + bias).tolist()))


def cut_off_share(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> float:
    """Of the valid pixels, the share at the largest value their type holds, in the band with most of them.

    A display stretch ("cut off 2 %") leaves that behind; what was brighter than the rest no longer is.

    Args:
        pixels: [band, n] as stored.
        valid: [n].
    """
    if not np.issubdtype(pixels.dtype, np.integer) or not valid.any():
        return 0.0
    return float(np.mean(pixels[:, valid] == np.iinfo(pixels.dtype).max, axis=1).max())


def coefficients(
    unit: Radiometry, statistics: SceneStatistics, scaling: Scaling
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(factor, summand) per band with scaled = stored * factor + summand."""
    low, high = np.array(statistics.low), np.array(statistics.high)
    width = np.maximum(high - low, scaling.min_range)
    factor = 2 * np.array(unit.gain) / width
    summand = 2 * (np.array(unit.bias) - low) / width - 1
    return factor.astype(np.float32), summand.astype(np.float32)


def scale(
    pixels: NDArray[np.generic],
    valid: NDArray[np.bool_],
    factor: ArrayLike,
    summand: ArrayLike,
    clip: tuple[float, float],
) -> NDArray[np.float32]:
    """Bring stored pixels [band, y, x] to the network's range; 0 where not valid."""
    factor = np.asarray(factor, np.float32)[:, None, None]
    summand = np.asarray(summand, np.float32)[:, None, None]
    scaled = pixels.astype(np.float32)
    # what is no number or nearly the largest one a float holds is nodata or a defect; the clip bounds it
    with np.errstate(over="ignore", invalid="ignore"):
        scaled *= factor
        scaled += summand
    np.clip(scaled, *clip, out=scaled)
    if not valid.all():
        # multiplying would keep NaN
        scaled[:, ~valid] = 0
    return scaled
