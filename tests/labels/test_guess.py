"""Guesses of where a weakly labelled site lies."""

import numpy as np

from geoslave.labels.guess import MIDDLE, NONE, bareness

FOREST, TAILINGS, PASTURE_GREEN, SHADOW = (0.16, 0.27, 0.30), (0.62, 0.52, 0.45), (0.26, 0.36, 0.30), (0.10, 0.18, 0.22)


def chip(colour: tuple[float, float, float], patch: tuple[float, float, float]) -> list[np.ndarray]:
    planes = [np.full((48, 48), value, np.float32) for value in colour]
    for plane, value in zip(planes, patch, strict=True):
        plane[10:20, 10:30] = value
    return planes


def test_tailings_in_forest_are_marked_and_the_forest_is_not() -> None:
    bare = bareness(*chip(FOREST, TAILINGS))
    assert (bare[10:20, 10:30] > MIDDLE).all()
    bare[10:20, 10:30] = 0
    assert bare.max() < NONE


def test_green_things_and_shadows_are_not_bare() -> None:
    for other in (PASTURE_GREEN, SHADOW):
        assert bareness(*chip(FOREST, other)).max() < NONE


def test_a_chip_that_is_bare_all_over_is_bare() -> None:
    assert (bareness(*chip(TAILINGS, TAILINGS)) > MIDDLE).all()
