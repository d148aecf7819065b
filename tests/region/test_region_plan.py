"""A plan says what there is to do, and what is left of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from geoslave.model.predict import load_network
from geoslave.region.blocks import measure_grid
from geoslave.region.plan import Steps, _places, _time_chip, plan_region
from geoslave.region.run import Choice, known_records, prepare, run_region
from geoslave.region.setup import init_region
from tests.region.conftest import MakeRegion, change, country

Run = Callable[..., tuple[int, str, str]]


def test_a_plan_counts_what_the_run_does(make_region: MakeRegion, run: Run, scenes: list[Path]) -> None:
    region = make_region()
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    command = ("region", "plan", "test", "--regions", region.path.parent, "--by", soon, "--json")
    told = json.loads(run(*command)[1])
    summary = run_region(region, Choice(workers=0))
    assert told["blocks"] == summary.blocks and told["blocks_done"] == 0 and told["grids"] == 2
    assert told["mpx"] == pytest.approx(2 * 300 * 250 / 1e6)
    assert told["ground_km2"] == pytest.approx(2 * 3 * 2.5, rel=0.01)
    assert told["valid_share"] == pytest.approx(1 - 30 * 30 / (2 * 300 * 250), abs=0.01)
    assert told["hours"] > 0 and told["workers_by"] == 1 and told["memory_mb"] > 50
    kept = sum(path.stat().st_size for kind in ("scores", "objects") for path in (summary.run.path / kind).rglob("*.*"))
    assert kept / 3 < told["disk_gb"] * 1e9 < kept * 3  # of chips so small the files' headers are a part
    again = json.loads(run(*command)[1])
    assert again["blocks_done"] == again["blocks"] and again["hours"] == again["disk_gb"] == 0
    status, out, _ = run(*command[:-1])
    assert status == 0 and "km²" in out and "slowest" in out


def test_a_plan_times_what_a_run_does(make_region: MakeRegion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network leaves out the halo, as in a run, and nobody waits for the disk."""
    job = prepare(make_region())
    for name in job.inputs:
        measure_grid({"run": str(job.run.path), "grid": name})
    (record, cell), *_ = _places(job, list(known_records(job).values()))
    rows, cols = cell.core_in_read
    network, asked, waited = load_network(job.package, "onnx", 1), [], []

    def seen(batch: np.ndarray, margins: tuple[int, ...] = (0, 0, 0, 0)) -> np.ndarray:
        asked.append(margins)
        return network(batch, margins)

    monkeypatch.setattr("geoslave.region.layout.os.fsync", waited.append)
    times = _time_chip(job, record, cell, seen)
    height, width = cell.read.height, cell.read.width
    assert set(asked) == {(rows.start, cols.start, height - rows.stop, width - cols.stop)} and rows.stop < height
    assert times[2] > 0 and times[4] > 0 and not waited


def test_scenes_in_strips_are_told(
    make_region: MakeRegion, make_scene: Callable[..., Path], bright_model: Path, tmp_path: Path
) -> None:
    assert not any("strips" in text for text in plan_region(make_region(), 1).warnings)  # of tiles
    scene = make_scene(country((200, 400)), name="strips_20200101.tif", compress="deflate", nodata=0)
    region = init_region(tmp_path / "regions" / "strips", None, None, str(bright_model), [str(scene)])
    change(region, block=128)
    (told,) = plan_region(region, 1).warnings
    assert "up to 4 blocks" in told and "gdal_translate -of COG" in told


def test_a_moment_that_has_passed_cannot_be_met(make_region: MakeRegion) -> None:
    assert plan_region(make_region(), 1, datetime(2020, 1, 1, tzinfo=UTC)).workers_by == 0


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        (Steps(5, 1, 2, 0.1), "fetching"),
        (Steps(0, 3, 2, 0.1), "decoding"),
        (Steps(1, 1, 2, 0.1), "the model"),
        (Steps(0, 0, 1, 2), "writing"),
    ],
)
def test_the_slowest_step_is_named(steps: Steps, named: str) -> None:
    assert steps.bottleneck.startswith(named)


def test_more_workers_than_cores_help_only_where_cores_wait() -> None:
    slow_network = Steps(fetch=8, decode=1, network=2, write=0)
    assert slow_network.chip_seconds(4, 2, 1) == pytest.approx(slow_network.chip_seconds(2, 2, 1) / 2)
    busy = Steps(fetch=0, decode=1, network=2, write=0)
    assert busy.chip_seconds(4, 2, 1) == busy.chip_seconds(2, 2, 1) == 1.5
