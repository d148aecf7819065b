"""Cells: cores tile the grid once, whatever its size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoslave.grid import cells_within, chip_grid, partition

SIDES = st.integers(1, 300)


@given(rows=SIDES, cols=SIDES, core=st.integers(1, 120), halo=st.integers(0, 40), multiple=st.sampled_from([1, 16, 32]))
def test_cores_tile_the_grid_exactly_once(rows: int, cols: int, core: int, halo: int, multiple: int) -> None:
    seen = np.zeros((rows, cols), int)
    for cell in partition((rows, cols), core, halo, multiple):
        c, r = cell.core, cell.read
        seen[c.row_off : c.row_off + c.height, c.col_off : c.col_off + c.width] += 1
        assert r.height % multiple == r.width % multiple == 0
        assert r.row_off == max(0, c.row_off - halo) and r.col_off == max(0, c.col_off - halo)
        assert r.row_off + r.height >= min(rows, c.row_off + c.height + halo)
        assert r.col_off + r.width >= min(cols, c.col_off + c.width + halo)
    assert (seen == 1).all()


@given(rows=SIDES, cols=SIDES, size=st.integers(8, 120), share=st.floats(0, 0.99))
def test_chips_cover_the_grid_and_their_cores_tile_it(rows: int, cols: int, size: int, share: float) -> None:
    overlap = int(size * share)
    cores, reads = np.zeros((rows, cols), int), np.zeros((rows, cols), int)
    for cell in chip_grid((rows, cols), size, overlap):
        c, r = cell.core, cell.read
        assert (r.height, r.width) == (size, size)
        assert r.row_off >= 0 and r.col_off >= 0
        cores[c.row_off : c.row_off + c.height, c.col_off : c.col_off + c.width] += 1
        reads[r.row_off : r.row_off + size, r.col_off : r.col_off + size] += 1
        assert r.row_off <= c.row_off and c.row_off + c.height <= r.row_off + size
    assert (cores == 1).all() and (reads >= 1).all()


@given(
    rows=SIDES,
    cols=SIDES,
    core=st.integers(1, 60),
    times=st.integers(1, 4),
    halo=st.integers(0, 40),
    multiple=st.sampled_from([1, 16]),
)
def test_the_cells_of_all_blocks_are_the_cells_of_the_grid(
    rows: int, cols: int, core: int, times: int, halo: int, multiple: int
) -> None:
    shape = (rows, cols)
    within = [
        cell
        for block in partition(shape, core * times)
        for cell in cells_within(shape, core, block.core, halo, multiple)
    ]
    whole = list(partition(shape, core, halo, multiple))
    assert sorted(within, key=lambda cell: (cell.row, cell.col)) == whole


def test_an_extent_chooses_cells_but_never_moves_them() -> None:
    small = {cell.name: cell.read for cell in partition((100, 100), 64, 8)}
    large = {cell.name: cell.read for cell in partition((500, 500), 64, 8)}
    assert small["r000c000"] == large["r000c000"]
    assert small["r001c000"].row_off == large["r001c000"].row_off == 56


@pytest.mark.parametrize("arguments", [((0, 5), 4), ((5, 5), 0), ((5, 5), 4, -1)])
def test_impossible_partitions_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="must"):
        list(partition(*arguments))


def test_an_overlap_that_leaves_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        list(chip_grid((10, 10), 8, 8))
