"""What a campaign taught as labels: points grow, drawn outlines stay, negatives count, nothing that was set is lost."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoslave.labels.table import COLUMNS
from geoslave.search.labels import MARKS, MOST_MARKS, BadMark, Marks, counted, label_table
from geoslave.targets import get_target

KILN = get_target("brick_kiln")


def chips(n: int = 6) -> gpd.GeoDataFrame:
    """A row of chips of about 330 m."""
    boxes = [shapely.box(90 + 0.003 * k, 24, 90 + 0.003 * (k + 1), 24.003) for k in range(n)]
    return gpd.GeoDataFrame({"chip_id": [f"c{k}" for k in range(n)]}, geometry=boxes, crs=4326)


def test_points_grow_drawn_outlines_stay_and_what_nobody_placed_is_weak() -> None:
    drawn = shapely.box(90.0031, 24.001, 90.0043, 24.0015)
    marks = {"c0": [shapely.Point(90.001, 24.001)], "c1": [drawn], "c4": [shapely.Point(90.013, 24.001)]}
    answers = {"c0": "yes", "c1": "yes", "c2": "yes", "c3": "no", "c4": "no", "c5": "unsure"}
    table = label_table(chips(), answers, marks, KILN).set_index("chip_id")
    assert set(COLUMNS) <= set(table.columns)
    assert table.loc["c0", "kind"] == "point"
    assert table.loc[["c0"]].to_crs(32646).area.iloc[0] == pytest.approx(100 * 48, rel=0.02)
    assert table.loc["c1", "kind"] == "outline" and table.loc["c1", "geometry"].equals(drawn)
    assert tuple(table.loc["c2", ["kind", "presence"]]) == ("chip", "yes")
    # a mark on a chip that was answered with no does not make it a site
    assert tuple(table.loc["c4", ["kind", "presence"]]) == ("chip", "no")
    taught = counted(table.reset_index())
    assert (taught.outlines, taught.points, taught.without_place, taught.negatives) == (1, 1, 1, 2)


def test_marks_hold_over_a_restart_the_last_ones_count_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    marks.keep("a", [shapely.Point(90, 24)])
    marks.keep("b", [shapely.box(90, 24, 90.1, 24.1)])
    marks.keep("a", [shapely.Point(90.5, 24.5), shapely.Point(90.6, 24.5)])
    marks.keep("b", [])
    with (tmp_path / MARKS).open("ab") as file:
        file.write(b'{"chip": "a", "marks": [{"type": "Poi')
    again = Marks(tmp_path)
    assert {chip: len(shapes) for chip, shapes in again.current().items()} == {"a": 2}
    again.keep("c", [shapely.Point(91, 24)])
    assert set(Marks(tmp_path).current()) == {"a", "c"}


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), "crosses itself"),
        (shapely.LineString([(0, 0), (1, 1)]), "point or an outline"),
        (shapely.Point(), "point or an outline"),
        (shapely.Point(200, 0), "beyond the earth"),
        (shapely.Point(np.nan, 0), "point or an outline|beyond the earth"),
    ],
)
def test_what_is_no_mark_is_refused_and_nothing_is_kept(tmp_path: Path, shape: shapely.Geometry, said: str) -> None:
    marks = Marks(tmp_path)
    with pytest.raises(BadMark, match=said):
        marks.keep("a", [shape])
    with pytest.raises(BadMark, match="at most"):
        marks.keep("a", [shapely.Point(0, 0)] * (MOST_MARKS + 1))
    assert marks.current() == {}


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_no_file_of_marks_whatever_stops_a_campaign(lines: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MARKS).write_bytes(b"\n".join(lines))
        marks = Marks(Path(folder))
        marks.keep("mine", [shapely.Point(1, 2)])
        assert marks.current()["mine"] == (shapely.Point(1, 2),)
