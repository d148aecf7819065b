"""Texture of chips in a few numbers that need no training: what tells a site where its colours do not.

Colours change with season, haze and processing; what is rough, straight or patchy stays. On gold mines these
numbers carry over to galleries the ranking never saw, where histograms of colour do not (docs/search.md).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_STEPS = (0.01, 0.04)
"""How much brighter than its middle a neighbour must be, of 1 for white."""
_ROUND = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
"""Neighbours of a pixel, once round."""
_UNEVEN = 9
_ANGLES = 12
_RINGS = (0, 0.03, 0.06, 0.1, 0.15, 0.22, 0.3, 0.5)
"""Cycles a pixel."""
_FEW_BANDS = 4


def texture(display: NDArray[np.float32], valid: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """Descriptors, each [n, feature], of chips [n, band, y, x] brought to 0..1, with valid pixels [n, y, x].

    In this order: local binary patterns at two contrasts, rotation invariant (Ojala, Pietikäinen & Mäenpää 2002);
    how much of the change runs in one direction, whichever it is (straight edges: roofs, racks, roads); covariance
    of colours and of change, by its matrix logarithm (Tuzel, Porikli & Meer 2006; Arsigny et al. 2006); and how
    brightness' energy is spread over sizes. Pixels beside nodata have no part in it.
    """
    brightness = display.mean(axis=1)
    inner = _inner(valid)
    middle = brightness[:, 1:-1, 1:-1]
    steps = np.stack([_shifted(brightness, *way) for way in _ROUND]) - middle
    across, down = (steps[3] - steps[7]) / 2, (steps[5] - steps[1]) / 2
    bent = steps[1] + steps[3] + steps[5] + steps[7]
    own = display if display.shape[1] <= _FEW_BANDS else brightness[:, None]
    planes = np.concatenate([own[:, :, 1:-1, 1:-1], np.abs(np.stack([across, down, bent], axis=1))], axis=1)
    return [
        *(_patterns(steps > least, inner) for least in _STEPS),
        _directions(across, down, inner),
        _covariance(planes, inner),
        _sizes(brightness, valid),
    ]


def _shifted(plane: NDArray[np.float32], down: int, across: int) -> NDArray[np.float32]:
    rows, cols = plane.shape[1:]
    return plane[:, 1 + down : rows - 1 + down, 1 + across : cols - 1 + across]


def _inner(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[n, y - 2, x - 2] pixels that are valid with all their neighbours."""
    if valid.all():
        return valid[:, 1:-1, 1:-1]
    rows, cols = valid.shape[1:]
    around = [valid[:, 1 + y : rows - 1 + y, 1 + x : cols - 1 + x] for y, x in (*_ROUND, (0, 0))]
    whole: NDArray[np.bool_] = np.logical_and.reduce(around)
    return whole


def _patterns(brighter: NDArray[np.bool_], inner: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[n, 10] shares of pixels by how many neighbours in a row are brighter; the last: not in a row."""
    count = brighter.sum(axis=0, dtype=np.int8)
    changes = (brighter != np.roll(brighter, 1, axis=0)).sum(axis=0, dtype=np.int8)
    code = np.where(changes <= 2, count, _UNEVEN)
    return _shares(code, inner.astype(np.float32), _UNEVEN + 1)


def _shares(code: NDArray[np.integer], weight: NDArray[np.float32], kinds: int) -> NDArray[np.float32]:
    """[n, kind] of the weight of each chip."""
    n = len(code)
    place = code.reshape(n, -1) + kinds * np.arange(n)[:, None]
    total = np.bincount(place.ravel(), weight.ravel(), n * kinds).reshape(n, kinds)
    shares: NDArray[np.float32] = (total / (total.sum(axis=1, keepdims=True) + 1e-3)).astype(np.float32)
    return shares


def _directions(
    across: NDArray[np.float32], down: NDArray[np.float32], inner: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """[n, 18] shares of change by its direction, largest first, and how they follow each other."""
    angle = np.arctan2(down, across) % np.pi
    code = np.minimum((angle * (_ANGLES / np.pi)).astype(np.int64), _ANGLES - 1)
    shares = _shares(code, np.hypot(across, down) * inner, _ANGLES)
    waves = np.abs(np.fft.rfft(shares, axis=1))[:, 1:]
    return np.concatenate([np.sort(shares, axis=1)[:, ::-1], waves], axis=1).astype(np.float32)


def _covariance(planes: NDArray[np.float32], inner: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[n, k (k + 1) / 2] of the logarithm of the covariance matrix of k planes."""
    n, k = planes.shape[:2]
    flat, weight = planes.reshape(n, k, -1), inner.reshape(n, 1, -1).astype(np.float32)
    total = np.maximum(weight.sum(axis=2, keepdims=True), 1)
    apart = (flat - (flat * weight).sum(axis=2, keepdims=True) / total) * weight
    matrix = (apart @ apart.transpose(0, 2, 1) / total).astype(np.float64)
    matrix[:, range(k), range(k)] += 1e-5
    values, vectors = np.linalg.eigh(matrix)
    logarithm = (vectors * np.log(np.maximum(values, 1e-9))[:, None]) @ vectors.transpose(0, 2, 1)
    return logarithm[:, *np.triu_indices(k)].astype(np.float32)


def _sizes(brightness: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[n, ring] logarithm of the energy of brightness by frequency."""
    seen = valid.astype(np.float32)
    mean = (brightness * seen).sum(axis=(1, 2), keepdims=True) / np.maximum(seen.sum(axis=(1, 2), keepdims=True), 1)
    taper, rings = _window(*brightness.shape[1:])
    energy = np.abs(np.fft.rfft2((brightness - mean) * seen * taper)) ** 2
    return np.log(energy.reshape(len(energy), -1) @ rings + 1e-4).astype(np.float32)


@lru_cache(maxsize=8)
def _window(rows: int, cols: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(what fades a chip out towards its edges, the mean over each ring [frequency, ring])."""
    taper = np.outer(np.hanning(rows), np.hanning(cols)).astype(np.float32)
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)).ravel()
    twice = np.full(cols // 2 + 1, 2.0)  # each stands for its mirror image too, which is not computed
    twice[0] = 1
    if cols % 2 == 0:
        twice[-1] = 1
    within = np.stack([(frequency >= low) & (frequency < high) for low, high in pairwise(_RINGS)])
    share = within * np.tile(twice, rows)
    mean = share / np.maximum(share.sum(axis=1, keepdims=True), 1)
    return taper, mean.T.astype(np.float32)
