"""One scaling: 8-bit display imagery and reflectance end in the same range, dull scenes are not stretched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoslave.imagery.scaling import Scaling, coefficients, radiometry, scale, scene_statistics

SCALING = Scaling()


def scaled(pixels: np.ndarray, valid: np.ndarray | None = None, **declared: tuple[float, ...]) -> np.ndarray:
    valid = np.ones(pixels.shape[1:], bool) if valid is None else valid
    n = pixels.shape[0]
    unit = radiometry(
        str(pixels.dtype),
        declared.get("scales", (1.0,) * n),
        declared.get("offsets", (0.0,) * n),
        float(np.nanpercentile(pixels, 98)),
    )
    factor, summand = coefficients(unit, scene_statistics(pixels, valid, unit, SCALING), SCALING)
    return scale(pixels, valid, factor, summand, SCALING.clip)


def reflectance(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.02, 0.34, (3, 40, 40))


def test_display_and_reflectance_end_in_the_same_range() -> None:
    truth = reflectance()
    display = np.rint(truth / 0.35 * 255).astype(np.uint8)
    numbers = np.rint(truth * 10_000).astype(np.uint16)
    assert np.abs(scaled(display) - scaled(numbers)).max() < 0.03
    assert np.abs(scaled(truth.astype(np.float32)) - scaled(numbers)).max() < 0.01


def test_a_declared_offset_changes_nothing() -> None:
    """Sentinel-2 since baseline 04.00: reflectance = (number - 1000) / 10000."""
    numbers = np.rint(reflectance() * 10_000).astype(np.uint16)
    shifted = (numbers + 1000).astype(np.uint16)
    declared = scaled(shifted, scales=(1e-4,) * 3, offsets=(-0.1,) * 3)
    assert np.abs(declared - scaled(numbers)).max() < 1e-3
    # and neither does one that the file forgets to declare
    assert np.abs(scaled(shifted) - scaled(numbers)).max() < 1e-3


def test_percentiles_of_a_lively_scene_become_minus_one_and_one() -> None:
    result = scaled(np.rint(reflectance() * 10_000).astype(np.uint16))
    assert np.percentile(result, 2) == pytest.approx(-1, abs=0.02)
    assert np.percentile(result, 98) == pytest.approx(1, abs=0.02)


@given(spread=st.integers(1, 12))
def test_a_dull_scene_is_not_stretched_into_noise(spread: int) -> None:
    dull = np.random.default_rng(1).integers(60, 60 + spread + 1, (3, 50, 50)).astype(np.uint8)
    result = scaled(dull)
    assert result.max() - result.min() <= 2 * (spread / 255) / SCALING.min_range + 1e-6


def test_invalid_pixels_are_zero_even_if_they_are_nan() -> None:
    pixels = reflectance().astype(np.float32)
    pixels[:, :5] = np.nan
    valid = np.isfinite(pixels).all(axis=0)
    result = scaled(pixels, valid)
    assert np.isfinite(result).all()
    assert (result[:, :5] == 0).all()


def test_a_scene_without_data_has_no_statistics() -> None:
    pixels = np.zeros((1, 4, 4), np.uint8)
    unit = radiometry("uint8", (1.0,), (0.0,), 0)
    with pytest.raises(ValueError, match="no valid pixel"):
        scene_statistics(pixels, np.zeros((4, 4), bool), unit, SCALING)
