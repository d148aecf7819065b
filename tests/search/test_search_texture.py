"""Texture tells straight from scattered, whichever way it is turned; nodata has no part in it."""

from __future__ import annotations

import numpy as np
import pytest

from geoslave.search.texture import texture


def noise(n: int = 3, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.6, (n, 3, side, side)).astype(np.float32)


def whole(chips: np.ndarray) -> np.ndarray:
    return np.ones((len(chips), *chips.shape[2:]), bool)


def striped(side: int = 32) -> np.ndarray:
    rows = 0.4 + 0.2 * (np.arange(side) // 4 % 2)
    return np.broadcast_to(rows[None, None, :, None], (1, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_chip_that_is_turned_has_the_same_texture(turns: int) -> None:
    chips = noise()
    turned = np.ascontiguousarray(np.rot90(chips, turns, axes=(2, 3)))
    patterns, fine, directions, _, sizes = texture(chips, whole(chips))
    again = texture(turned, whole(turned))
    for one, other in zip((patterns, fine, sizes), (again[0], again[1], again[4]), strict=True):
        assert np.allclose(one, other, atol=1e-3)
    assert np.allclose(directions[:, :12], again[2][:, :12], atol=0.02)  # a right angle is six of the twelve bins


def test_straight_edges_run_in_one_direction_and_noise_in_all() -> None:
    straight = texture(striped(), whole(striped()))[2][0, 0]
    scattered = texture(noise(), whole(noise()))[2][:, 0]
    assert straight > 0.9
    assert scattered.max() < 0.3


def test_what_lies_beyond_nodata_has_no_part_in_the_texture() -> None:
    chips = noise(2, 40)
    valid = whole(chips)
    valid[:, :, 30:] = False
    other = chips.copy()
    other[:, :, :, 30:] = 5.0
    for one, two in zip(texture(chips, valid), texture(other, valid), strict=True):
        assert np.allclose(one, two, atol=1e-5)


def test_a_chip_without_a_valid_pixel_has_numbers() -> None:
    chips = noise(1)
    assert all(np.isfinite(part).all() for part in texture(chips, np.zeros_like(whole(chips))))


def test_the_texture_of_many_bands_is_that_of_their_brightness() -> None:
    few, many = noise(1), np.random.default_rng(1).uniform(0, 1, (1, 8, 16, 16)).astype(np.float32)
    assert texture(few, whole(few))[3].shape == (1, 21)
    assert texture(many, whole(many))[3].shape == (1, 10)
