"""Differences between groups: seen where they are, and not where they are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geoslave.errors import EstimateError
from geoslave.estimate.compare import compare_groups
from geoslave.estimate.sample import Assumptions, draw, stratified
from geoslave.estimate.tables import checked_frame
from tests.estimate.tables import region, reviewed


def sampled(truth: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = truth.drop(columns=["sites", "hits"])
    checked = checked_frame(frame)
    return frame, reviewed(draw(checked, stratified(checked, 900, Assumptions()), seed), truth)


def unfair(tiles: int = 4000) -> pd.DataFrame:
    """In the north the detector finds 40 % of the sites, in the south 95 %."""
    truth = region(tiles)
    rng = np.random.default_rng(1)
    truth["hits"] = rng.binomial(truth["sites"], np.where(truth["district"] == "north", 0.4, 0.95))
    return truth.assign(n_flagged=truth["hits"] + rng.poisson(0.02, tiles))


def test_an_unfair_detector_is_seen() -> None:
    recall = compare_groups(*sampled(unfair()), "district", shuffles=299)[0]
    assert recall.measure == "recall" and recall.differs
    assert recall.groups["north"].high < recall.groups["south"].low


def test_a_fair_detector_is_seldom_accused() -> None:
    accused = [
        compare_groups(*sampled(region(2000, seed), seed), "district", shuffles=99, seed=seed)[0].differs
        for seed in range(12)
    ]
    assert sum(accused) <= 3


def test_strata_are_compared_by_their_intervals() -> None:
    precision = compare_groups(*sampled(region(4000)), "stratum", shuffles=9)[1]
    assert precision.measure == "precision" and precision.differs  # single detections are the false ones


def test_calibration_is_one_where_confidences_hold() -> None:
    truth = region(4000)
    share = truth["hits"].sum() / truth["n_flagged"].sum()
    doubled = np.where(truth["district"] == "north", 2.0, 1.0)
    frame, reviews = sampled(truth.assign(expected_hits=truth["n_flagged"] * share * doubled))
    calibration = compare_groups(frame, reviews, "district", shuffles=299)[2]
    assert calibration.measure == "calibration" and calibration.differs
    assert calibration.groups["south"].low < 1 < calibration.groups["south"].high
    assert calibration.groups["north"].low > 1.3


def test_one_group_or_no_column_is_refused() -> None:
    frame, reviews = sampled(region(1000))
    with pytest.raises(EstimateError, match="season"):
        compare_groups(frame, reviews, "season")
    with pytest.raises(EstimateError, match="one value"):
        compare_groups(frame.assign(season="dry"), reviews, "season")


def test_a_column_without_groups_is_refused() -> None:
    with pytest.raises(EstimateError, match="no groups"):
        compare_groups(*sampled(region(3000)), "tile_id", shuffles=9)
