"""Verdicts as people write them down."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import pytest
import shapely

from geoslave.detections.verdicts import read_verdicts
from geoslave.errors import LabelError


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_answers_become_probabilities_and_unsure_is_left_out(tmp_path: Path) -> None:
    path = table(tmp_path / "v.csv", "detection_id,answer,district\n07,Yes,a\nb, no ,b\nc,unsure,b\nd,,b\nb,yes,b\n")
    read = read_verdicts(path).set_index("detection_id")
    assert read["probability"].to_dict() == {"07": 1.0, "b": 0.5}
    assert read.loc["07", "district"] == "a"


def test_probabilities_of_a_consensus_in_a_layer(tmp_path: Path) -> None:
    path = tmp_path / "v.gpkg"
    layer = {"detection_id": ["a", "b"], "probability": [0.25, None]}
    gpd.GeoDataFrame(layer, geometry=[shapely.Point(1, 2)] * 2, crs=4326).to_file(path)
    assert read_verdicts(path)[["detection_id", "probability"]].values.tolist() == [["a", 0.25]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("detection_id,answer\na,perhaps not\n", "'perhaps not' is not understood"),
        ("detection_id,probability\na,1.5\n", "between 0 and 1"),
        ("detection_id,probability\na,high\n", "between 0 and 1"),
        ("detection_id,comment\na,nice\n", "neither 'answer'"),
        ("id,answer\na,yes\n", "no column 'detection_id'"),
        ("", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LabelError, match=words) as caught:
        read_verdicts(table(tmp_path / "v.csv", text))
    assert "v.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="is not there"):
        read_verdicts(tmp_path / "v.csv")
