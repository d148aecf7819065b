"""Calibration: confidences that mean what they say, also from few verdicts."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoslave.detections.reliability import reliability
from geoslave.model.calibrate import Calibration, Samples, calibrate, move_operating, with_share

TODAY = date(2025, 1, 2)
PLAIN = Calibration(reference_area_m2=4800, reference_elongation=2)


def judged(
    n: int, seed: int = 0, *, intercept: float = -1.2, slope: float = 0.5, size: float = 0.0, groups: int = 5
) -> Samples:
    """Detections whose share of hits is known: logit = intercept + slope * logit(confidence) + size * log(area)."""
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.05, 0.995, n)
    area = 4800 * np.exp(generator.normal(0, 0.6, n))
    z = intercept + slope * np.log(confidence / (1 - confidence)) + size * np.log(area / 4800)
    hit = (generator.uniform(size=n) < 1 / (1 + np.exp(-z))).astype(float)
    return Samples(confidence, 0.8 * confidence, area, np.full(n, 2.0), hit, generator.integers(0, groups, n))


def stepped(n: int, seed: int) -> Samples:
    """A reliability curve that no logistic follows: flat, a step, flat."""
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.02, 0.98, n)
    hit = generator.uniform(size=n) < np.where(confidence > 0.6, 0.9, 0.15)
    return Samples(confidence, confidence, np.full(n, 4800.0), np.full(n, 2.0), hit * 1.0, np.arange(n) % 5)


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20))
def test_without_verdicts_nothing_changes(confidence: list[float]) -> None:
    calibration = calibrate(judged(0), PLAIN, "nothing", TODAY).calibration
    assert calibration.apply(confidence) == pytest.approx(confidence, abs=1e-6)
    assert calibration.apply(confidence, [0.3] * len(confidence), [100.0] * len(confidence)) == pytest.approx(
        confidence, abs=1e-6
    )


@settings(max_examples=30)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 10_000),
    slope=st.floats(-2, 2),
    size=st.sampled_from([0.0, 2.0]),
    low=st.floats(0, 1),
    rise=st.floats(0, 1),
)
def test_a_higher_score_never_means_a_lower_confidence(
    n: int, seed: int, slope: float, size: float, low: float, rise: float
) -> None:
    """Not even when the verdicts say the opposite."""
    calibration = calibrate(judged(n, seed, slope=slope, size=size), PLAIN, "x", TODAY).calibration
    high = low + rise * (1 - low)
    for mean in ([low, low], [low, high]):
        below, above = calibration.apply([low, high], mean, [3000.0] * 2, [1.5] * 2)
        assert 0 <= below <= above + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize("make", [judged, stepped])
def test_known_miscalibration_is_mended_on_fresh_data(make: object) -> None:
    assert callable(make)
    fresh = make(20_000, seed=99)
    outcome = calibrate(make(1_500, seed=1), PLAIN, "x", TODAY)
    assert reliability(fresh.confidence, fresh.hit, n_replicates=0).ece > 0.15
    assert reliability(fresh.through(outcome.calibration), fresh.hit, n_replicates=0).ece <= 0.05
    assert outcome.after.ece < 0.05 < outcome.before.ece
    assert outcome.calibration.held_out_after.brier < outcome.calibration.held_out_before.brier


def test_the_method_follows_the_data() -> None:
    assert calibrate(judged(1_500, 1), PLAIN, "x", TODAY).calibration.method == "logistic"
    assert calibrate(judged(1_500, 1, size=1.0), PLAIN, "x", TODAY).calibration.method == "logistic with shape"
    assert calibrate(stepped(1_500, 1), PLAIN, "x", TODAY).calibration.method == "isotonic"
    assert calibrate(stepped(60, 1), PLAIN, "x", TODAY).calibration.method != "isotonic"


def test_few_verdicts_move_little_and_say_so() -> None:
    width, moved = [], []
    for n in (3, 30, 1_000):
        calibration = calibrate(judged(n, 3), PLAIN, "x", TODAY).calibration
        low, high = calibration.interval(0.8)
        value = calibration.apply(0.8)
        assert low < value < high
        width.append(float(high[0] - low[0]))
        moved.append(abs(float(value[0]) - 0.8))
    assert width[0] > width[1] > width[2]
    assert width[2] < 0.12
    assert moved[0] < moved[2]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth = 1 / (1 + np.exp(-(-1.2 + 0.5 * np.log(0.7 / 0.3))))
    covered = 0
    for seed in range(30):
        low, high = calibrate(judged(80, seed), PLAIN, "x", TODAY).calibration.interval(0.7)
        covered += bool(low[0] <= truth <= high[0])
    assert covered >= 25


def test_held_out_figures_do_not_flatter_a_region_that_differs() -> None:
    """One district of four in which nothing is true: the fit alone cannot know."""
    known = judged(300, 1, groups=3)
    odd = judged(100, 2)
    odd = Samples(odd.confidence, odd.score_mean, odd.area_m2, odd.elongation, odd.hit * 0, np.full(100, 9))
    both = Samples(*(np.concatenate([getattr(known, f), getattr(odd, f)]) for f in Samples.__slots__))
    outcome = calibrate(both, PLAIN, "x", TODAY)
    in_sample = reliability(both.through(outcome.calibration), both.hit, groups=both.group)
    assert outcome.after.ece > in_sample.ece + 0.02
    assert outcome.after.n_groups == 4


def test_a_second_calibration_starts_from_the_first() -> None:
    first = calibrate(judged(2_000, 1), PLAIN, "x", TODAY).calibration
    again = calibrate(judged(0), first, "y", TODAY).calibration
    assert again.apply([0.2, 0.9]) == pytest.approx(first.apply([0.2, 0.9]), abs=1e-6)


def test_another_share_of_true_detections_moves_the_odds_and_keeps_the_order() -> None:
    calibration = calibrate(judged(1_000, 1), PLAIN, "x", TODAY).calibration
    rarer = with_share(calibration, 0.05)
    before, after = calibration.apply([0.1, 0.5, 0.9]), rarer.apply([0.1, 0.5, 0.9])
    assert (after < before).all() and (np.diff(after) > 0).all()
    assert calibration.share is not None
    odds = (after / (1 - after)) / (before / (1 - before))
    assert odds == pytest.approx((0.05 / 0.95) / (calibration.share / (1 - calibration.share)))
    assert "5%" in rarer.origin
    with pytest.raises(ValueError, match="between 0 and 1"):
        with_share(calibration, 1.0)
    with pytest.raises(ValueError, match="without verdicts"):
        with_share(PLAIN, 0.5)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_the_map_keeps_its_detections(size: float) -> None:
    samples = judged(800, 4, size=size)
    new = calibrate(samples, PLAIN, "x", TODAY).calibration
    operating = move_operating(0.6, PLAIN, new, samples)
    assert abs((samples.through(new) >= operating).sum() - (samples.confidence >= 0.6).sum()) <= 1


def test_what_is_kept_is_what_was_fitted() -> None:
    calibration = calibrate(judged(200, 5), PLAIN, "verdicts.csv", TODAY).calibration
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration
    assert "200 detections of verdicts.csv in 5 groups, 2025-01-02" in calibration.origin
