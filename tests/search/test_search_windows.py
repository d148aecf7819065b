"""Windows of a picture: what is pooled and sorted is what each chip by itself would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoslave.search.windows import Lattice, alone, boxes, percentiles

LATTICE = Lattice(3, 2, 8, 12)


def planes(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (2, 3, *LATTICE.shape)).astype(np.float32)


def chips(values: np.ndarray) -> np.ndarray:
    """[picture * window, plane, y, x], cut one by one."""
    places = [(8 * row, 8 * col) for row in range(3) for col in range(2)]
    return np.concatenate([np.stack([one[:, y : y + 12, x : x + 12] for y, x in places]) for one in values])


@pytest.mark.parametrize("how", [np.add, np.maximum, np.minimum])
def test_pooling_gives_what_each_window_gives(how: np.ufunc) -> None:
    expected = how.reduce(chips(planes()).reshape(12, 3, -1), axis=2)
    assert np.allclose(LATTICE.pooled(planes(), how), expected, atol=1e-4)


def test_counts_are_not_cut_off_at_eight_bits() -> None:
    everywhere = np.ones((1, 1, 100, 100), np.uint8)
    assert alone(100).pooled(everywhere, np.add, np.uint8)[0, 0] == 10_000


def test_the_extremes_are_of_every_pixel_and_the_median_of_some() -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 1, 48, 48)).astype(np.float32)
    values[0, 0, 1, 1], values[0, 0, 2, 1] = 9, -9  # no place that is sorted
    low, median, high = percentiles(values, None, (0, 50, 100), alone(48))[0]
    assert (low, high) == (-9, 9)
    assert abs(median - np.median(values)) < 0.2


def test_percentiles_are_of_valid_pixels_alone() -> None:
    values, valid = planes(), np.ones((2, *LATTICE.shape), bool)
    valid[:, :, 15:] = False
    other = np.where(valid[:, None], values, 50).astype(np.float32)
    one, two = (percentiles(given, valid, (0, 5, 50, 100), LATTICE) for given in (values, other))
    assert np.array_equal(one, two)
    assert one.max() < 9
    nothing = percentiles(values, np.zeros_like(valid), (0, 50, 100), LATTICE)
    assert not nothing.any()


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.3), st.integers(0, 3))
def test_boxes_hold_every_window_that_is_wanted_and_are_no_more_work(seed: int, share: float, rim: int) -> None:
    wanted = np.random.default_rng(seed).random((12, 15)) < share
    held, work = np.zeros_like(wanted), 0
    for rows, cols in boxes(wanted, rim):
        assert not held[rows, cols].any()
        held[rows, cols] = True
        work += (rows.stop - rows.start + 2 * rim) * (cols.stop - cols.start + 2 * rim)
    assert not (wanted & ~held).any()
    assert work <= (12 + 2 * rim) * (15 + 2 * rim)


def test_two_corners_are_two_boxes() -> None:
    wanted = np.zeros((24, 24), bool)
    wanted[:3, :3] = wanted[-3:, -3:] = True
    assert len(boxes(wanted, 2)) == 2
    assert len(boxes(np.ones((24, 24), bool), 2)) == 1
