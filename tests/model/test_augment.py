"""Chips are made with few calls of numpy: the same as the plain, slow ways give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates, zoom

from geoslave.imagery.scaling import Scaling
from geoslave.model.augment import (
    IGNORE,
    Augmentation,
    Patch,
    _enlarged,
    cut,
    cut_square,
    draw_light,
    quantile,
    scaled_in,
    uniform,
)
from geoslave.model.chip_pools import ChipPool, even_weights, pick, running_shares

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chip_is_scaled_as_lit_then_stretched_then_scaled(seed: int) -> None:
    rng, settings, scaling = np.random.default_rng(seed), Augmentation(min_range=0.3), Scaling()
    sample, chip = rng.random((3, 1000), np.float32), rng.random((3, 60), np.float32)
    light = draw_light(3, bool(seed % 2), rng, settings)

    def shown(values: np.ndarray) -> np.ndarray:
        lit, of_sample = (light.mix @ v**light.gamma + light.haze[:, None] for v in (values, sample))
        if light.brightest is not None:
            dark = of_sample.min(axis=1, keepdims=True)
            bright = np.quantile(of_sample, light.brightest, axis=1, keepdims=True)
            lit = (lit - dark) / np.maximum(bright - dark, 0.08)
        return np.clip(lit, 0, light.ceiling)

    low, high = np.percentile(shown(sample), scaling.percentiles, axis=1, keepdims=True)
    width = np.maximum((high - low) * np.exp(light.error[1]), 0.3)
    low = low + 0.4 * light.error[0] * (high - low)
    wanted = np.clip(2 * (shown(chip) - low) / width - 1, *scaling.clip)
    np.testing.assert_allclose(scaled_in(light, chip, sample, scaling, settings), wanted, atol=2e-5)


def test_black_stays_black_in_any_light() -> None:
    settings = Augmentation(haze=(0, 0), stretch=0)
    light = draw_light(3, False, np.random.default_rng(0), settings)
    assert np.abs(light.lit(np.zeros((3, 5), np.float32))).max() < 1e-8


@pytest.mark.parametrize("stored", [np.float32, np.uint8])
def test_a_turned_chip_is_what_bilinear_interpolation_gives(stored: type) -> None:
    rng = np.random.default_rng(1)
    pixels = (
        rng.random((2, 50, 40), np.float32) if stored is np.float32 else rng.integers(0, 255, (2, 50, 40), np.uint8)
    )
    whole = Patch(pixels, rng.integers(0, 2, (50, 40), np.uint8), np.ones((50, 40), bool))
    rows, cols = np.mgrid[0:50, 0:40].astype(np.float32)
    places = Patch(np.stack([rows, cols]), whole.truth, whole.valid)  # resampled, a ramp says where it was taken
    settings = Augmentation(free_turn=1)
    for seed in SEEDS:
        chip, place = (cut(patch, (20, 15), 24, np.random.default_rng(seed), settings) for patch in (whole, places))
        assert chip.valid.any() and np.array_equal(chip.valid, place.valid)
        at = place.pixels[:, place.valid].astype(float)
        for band, taken in zip(whole.pixels, chip.pixels, strict=True):
            wanted = map_coordinates(band.astype(float), at, order=1) / (255 if stored is np.uint8 else 1)
            np.testing.assert_allclose(taken[chip.valid], wanted, atol=2e-5)
        assert not chip.pixels[:, ~chip.valid].any() and (chip.truth[~chip.valid] == IGNORE).all()


def test_what_is_not_valid_is_not_mixed_in() -> None:
    valid = np.ones((30, 30), bool)
    valid[10:12] = False
    whole = Patch(np.where(valid, np.float32(0.5), np.float32(0))[None], np.zeros((30, 30), np.uint8), valid)
    for seed in SEEDS:
        chip = cut(whole, (14, 14), 16, np.random.default_rng(seed), Augmentation(free_turn=1))
        assert 0 < chip.valid.sum() < chip.valid.size
        np.testing.assert_allclose(chip.pixels[0, chip.valid], 0.5, atol=0.01)


@pytest.mark.parametrize("centre", [(9.5, 9.5), (2.0, 17.0), (-30.0, 5.0)])
@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_square_is_padded_turned_and_mirrored(centre: tuple[float, float], quarters: int, mirrored: bool) -> None:
    pixels = np.random.default_rng(0).random((3, 20, 20), np.float32)
    chip = cut_square(
        Patch(pixels, np.ones((20, 20), np.uint8), np.ones((20, 20), bool)), centre, 8, quarters, mirrored
    )
    top, left = (round(middle - 3.5) + 40 for middle in centre)
    wanted = np.pad(pixels, ((0, 0), (40, 40), (40, 40)))[:, top : top + 8, left : left + 8]
    wanted = np.rot90(wanted, quarters, (1, 2))[:, :: -1 if mirrored else 1]
    np.testing.assert_array_equal(chip.pixels, wanted)
    np.testing.assert_array_equal(chip.valid, wanted.any(axis=0))
    np.testing.assert_array_equal(chip.truth, np.where(chip.valid, 1, IGNORE))


@pytest.mark.parametrize("few", [(3, 3), (7, 5), (30, 21)])
def test_few_pixels_are_enlarged_as_scipy_does(few: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((2, *few))
    wanted = zoom(pixels, (1, 48 / few[0], 40 / few[1]), order=1, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(_enlarged(pixels, 48, 40), wanted, atol=1e-12)


def test_draws_are_those_of_numpy() -> None:
    weight = np.random.default_rng(0).random(300)
    ours, theirs = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(50):
        assert uniform(ours, -3, 4.5) == theirs.uniform(-3, 4.5)
        assert pick(running_shares(weight), ours) == theirs.choice(300, p=weight / weight.sum())


def test_a_pool_is_drawn_from_by_the_weights_it_has_now() -> None:
    pool = ChipPool(np.zeros((6, 2, 2, 3), np.uint8), np.zeros(6, np.int64), np.zeros(6), [np.arange(6)])
    pool.weight = even_weights(pool)
    rng = np.random.default_rng(0)
    assert {pool.draw(rng) for _ in range(100)} == set(range(6))
    pool.weight = np.array([0, 0, 0, 1.0, 0, 0])
    assert {pool.draw(rng) for _ in range(100)} == {3}


def test_a_quantile_of_what_is_in_order() -> None:
    ordered = np.sort(np.random.default_rng(0).random((3, 101), np.float32), axis=1)
    for share in (0, 0.02, 0.333, 0.9987, 1):
        np.testing.assert_allclose(quantile(ordered, share), np.quantile(ordered, share, axis=1), atol=1e-6)
