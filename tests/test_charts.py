"""Charts appear whole or not at all, also where there is nothing to draw."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geoslave.charts import Curve, OperatingPoint, draw_precision_recall, draw_reliability, moved_apart
from geoslave.detections.reliability import reliability
from geoslave.errors import MissingExtra, OutputError

RNG = np.random.default_rng(0)
CONFIDENCE = RNG.random(100)
BINS = reliability(CONFIDENCE, RNG.random(100) < CONFIDENCE).bins
CURVE = Curve([0.2, 0.6], [1.0, 0.8], [0, 0.5, 1], [0.8, 0.7, 0.0], [1, 1, 0.9], "average precision 0.55")


def colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as picture:
        assert picture.width >= 800 and picture.format == "PNG"
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}


def test_precision_recall_shows_curve_band_and_operating_point(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "pr.png"
    draw_precision_recall(path, {"a": CURVE}, OperatingPoint(0.5, 0.6, 0.8, (0.5, 0.7), None))
    assert {(0, 114, 178), (213, 94, 0)} <= colours(path)
    draw_precision_recall(path, {"a": CURVE}, overwrite=True)
    assert (213, 94, 0) not in colours(path)


def test_reliability_shows_a_strip_and_points_for_each_series(tmp_path: Path) -> None:
    draw_reliability(tmp_path / "one.png", {"before": BINS})
    draw_reliability(tmp_path / "two.png", {"before": BINS, "after": BINS[:3]})
    assert (213, 94, 0) not in colours(tmp_path / "one.png")
    assert {(0, 114, 178), (213, 94, 0)} <= colours(tmp_path / "two.png")


def test_nothing_to_draw_is_a_chart_that_says_so(tmp_path: Path) -> None:
    draw_precision_recall(tmp_path / "pr.png", {"a": Curve([], [])})
    draw_reliability(tmp_path / "r.png", {"a": ()})
    assert len(colours(tmp_path / "pr.png")) > 2 and len(colours(tmp_path / "r.png")) > 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_labels_of_narrow_bins_stand_apart_and_inside(middles: list[float]) -> None:
    places = moved_apart(sorted(middles), 0.08, most=0.98)
    assert max(places) <= 0.98
    assert all(right - left >= 0.08 - 1e-9 for left, right in pairwise(places))


def test_a_chart_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "pr.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="--overwrite"):
        draw_precision_recall(path, {"a": CURVE})
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"geoslave\[charts\]"):
        draw_reliability(tmp_path / "r.png", {"a": BINS})
    assert not list(tmp_path.iterdir())
