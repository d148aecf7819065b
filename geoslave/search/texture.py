"""Texture of chips in a few numbers that need no training: what tells a site where its colours do not.

Colours change with season, haze and processing; what is rough, straight or patchy stays. On gold mines these
numbers carry over to galleries the ranking never saw, where histograms of colour do not (docs/search.md).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from geoslave.search.windows import Lattice, alone

_STEPS = (0.01, 0.04)
"""How much brighter than its middle a neighbour must be, of 1 for white."""
_ROUND = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
"""Neighbours of a pixel, once round."""
_UNEVEN = 9
_NEITHER = 255
_ANGLES = 12
_RINGS = (0, 0.03, 0.06, 0.1, 0.15, 0.22, 0.3, 0.5)
"""Cycles a pixel."""
_FEW_BANDS = 4


def texture(
    display: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice | None = None
) -> list[NDArray[np.float32]]:
    """Descriptors, each [window, feature], of pictures [n, band, y, x] brought to 0..1, with valid pixels [n, y, x].

    In this order: local binary patterns at two contrasts, rotation invariant (Ojala, Pietikäinen & Mäenpää 2002);
    how much of the change runs in one direction, whichever it is (straight edges: roofs, racks, roads); covariance
    of colours and of change, by its matrix logarithm (Tuzel, Porikli & Meer 2006; Arsigny et al. 2006); and how
    brightness' energy is spread over sizes. Pixels beside nodata have no part in it.

    Args:
        lattice: the windows of a picture; None: it is one chip.
    """
    lattice = lattice or alone(display.shape[-1])
    brightness = display.mean(axis=1)
    seen, inside = None if valid.all() else _inner(valid), lattice.within(1)
    middle = brightness[:, 1:-1, 1:-1]
    steps = np.stack([_shifted(brightness, *way) for way in _ROUND]) - middle
    across, down = (steps[3] - steps[7]) / 2, (steps[5] - steps[1]) / 2
    bent = steps[1] + steps[3] + steps[5] + steps[7]
    own = display if display.shape[1] <= _FEW_BANDS else brightness[:, None]
    planes = np.concatenate([own[:, :, 1:-1, 1:-1], np.abs(np.stack([across, down, bent], axis=1))], axis=1)
    return [
        *(_patterns(steps > least, seen, inside) for least in _STEPS),
        _directions(across, down, seen, inside),
        _covariance(planes, seen, inside),
        _sizes(brightness, valid, lattice),
    ]


def _shifted(plane: NDArray[np.float32], down: int, across: int) -> NDArray[np.float32]:
    rows, cols = plane.shape[1:]
    return plane[:, 1 + down : rows - 1 + down, 1 + across : cols - 1 + across]


def _inner(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[n, y - 2, x - 2] pixels that are valid with all their neighbours."""
    rows, cols = valid.shape[1:]
    around = [valid[:, 1 + y : rows - 1 + y, 1 + x : cols - 1 + x] for y, x in (*_ROUND, (0, 0))]
    whole: NDArray[np.bool_] = np.logical_and.reduce(around)
    return whole


def _patterns(brighter: NDArray[np.bool_], seen: NDArray[np.bool_] | None, lattice: Lattice) -> NDArray[np.float32]:
    """[window, 10] shares of pixels by how many neighbours in a row are brighter; the last: not in a row."""
    bits = brighter[0].view(np.uint8).copy()
    for number in range(1, len(_ROUND)):
        bits |= brighter[number].view(np.uint8) << number
    kind = _KINDS[bits]
    if seen is not None:
        kind[~seen] = _NEITHER
    each = np.stack([kind == one for one in range(_UNEVEN + 1)], axis=1).view(np.uint8)
    return _shares(lattice.pooled(each, np.add, np.uint8 if lattice.side < 256 else np.uint16))


def _kinds() -> NDArray[np.uint8]:
    """[256] kind of pattern by which neighbours are brighter, a bit for each."""
    bits = np.arange(256)[:, None] >> np.arange(len(_ROUND)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, bits.sum(axis=1), _UNEVEN).astype(np.uint8)


_KINDS = _kinds()


def _shares(total: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, kind] of what each kind weighs."""
    return total / (total.sum(axis=1, keepdims=True) + np.float32(1e-3))


def _directions(
    across: NDArray[np.float32], down: NDArray[np.float32], seen: NDArray[np.bool_] | None, lattice: Lattice
) -> NDArray[np.float32]:
    """[window, 18] shares of change by its direction, largest first, and how they follow each other."""
    # a direction and its opposite are one: upwards, an angle between 0 and half a turn
    angle = np.arctan2(np.abs(down), np.where(down < 0, -across, across))
    code = np.minimum((angle * np.float32(_ANGLES / np.pi)).astype(np.uint8), _ANGLES - 1)
    weight = np.sqrt(across**2 + down**2)
    if seen is not None:
        weight *= seen
    shares = _shares(lattice.pooled(np.stack([weight * (code == one) for one in range(_ANGLES)], axis=1), np.add))
    waves = np.abs(np.fft.rfft(shares, axis=1))[:, 1:]
    return np.concatenate([np.sort(shares, axis=1)[:, ::-1], waves], axis=1).astype(np.float32)


def _covariance(planes: NDArray[np.float32], seen: NDArray[np.bool_] | None, lattice: Lattice) -> NDArray[np.float32]:
    """[window, k (k + 1) / 2] of the logarithm of the covariance matrix of k planes."""
    k = planes.shape[1]
    one, other = np.triu_indices(k)
    weight = np.ones_like(planes[:, :1]) if seen is None else seen[:, None].astype(np.float32)
    all_of = (planes * weight).sum(axis=(2, 3), keepdims=True) / np.maximum(weight.sum(axis=(2, 3), keepdims=True), 1)
    apart = (planes - all_of) * weight  # small numbers, whose squares lose little
    total = np.maximum(lattice.pooled(weight, np.add).astype(np.float64), 1)
    mean = lattice.pooled(apart, np.add) / total
    sums = [lattice.pooled(apart[:, [at]] * apart[:, at:], np.add) for at in range(k)]
    product = np.concatenate(sums, axis=1) / total
    matrix = np.empty((len(mean), k, k))
    matrix[:, one, other] = product - mean[:, one] * mean[:, other]
    matrix[:, other, one] = matrix[:, one, other]
    matrix[:, range(k), range(k)] += 1e-5
    values, vectors = np.linalg.eigh(matrix)
    logarithm = (vectors * np.log(np.maximum(values, 1e-9))[:, None]) @ vectors.transpose(0, 2, 1)
    return logarithm[:, one, other].astype(np.float32)


def _sizes(brightness: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice) -> NDArray[np.float32]:
    """[window, ring] logarithm of the energy of brightness by frequency."""
    side = lattice.side
    chips, seen = (lattice.spread_out(one[:, None]).reshape(-1, side, side) for one in (brightness, valid))
    mean = (chips * seen).sum(axis=(1, 2), keepdims=True) / np.maximum(seen.sum(axis=(1, 2), keepdims=True), 1)
    taper, rings = _window(side, side)
    energy = np.abs(np.fft.rfft2((chips - mean.astype(np.float32)) * seen * taper)) ** 2
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
