"""Engines: every task has one outcome, whatever happens to the worker that has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from geoslave.errors import GeoslaveError
from geoslave.region.engine import Engine, Lanes, Patience, ProcessEngine, SerialEngine
from tests.chaos import cluster
from tests.region import jobs

SOON = Patience(attempts=2, first_wait_s=0.05, timeout_s=60)


@pytest.fixture(params=["serial", "processes"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made: Engine = SerialEngine(SOON) if request.param == "serial" else ProcessEngine(2, SOON)
    yield made
    made.close()


def test_every_task_has_one_outcome(engine: Engine) -> None:
    outcomes = list(engine.map_unordered(jobs.double, ({"n": n} for n in range(40))))
    assert sorted(outcome.value for outcome in outcomes) == list(range(0, 80, 2))
    assert all(outcome.value == 2 * outcome.task["n"] and outcome.attempts == 1 for outcome in outcomes)


def test_what_fails_is_tried_again_and_then_told_while_others_go_on(engine: Engine, tmp_path: Path) -> None:
    tasks = [{"count": str(tmp_path / str(k)), "failures": k} for k in range(4)]
    outcomes = {o.task["failures"]: o for o in engine.map_unordered(jobs.fail_first, tasks)}
    assert [outcomes[k].value for k in range(4)] == ["done", "done", None, None]
    assert [outcomes[k].attempts for k in range(4)] == [1, 2, 2, 2]
    assert outcomes[3].error == "the server is busy" and outcomes[3].kind == "SceneError"


def test_lanes_are_kept_to_and_the_longest_is_shared_in_the_end() -> None:
    lanes = Lanes([range(6), range(10, 12), range(20, 22)], lambda n: {"n": n})
    order = [(worker, lanes.next_for(worker)) for worker in "abababbbbbaaa"]
    numbers = [(worker, task["n"]) for worker, task in order if task is not None]
    assert [n for w, n in numbers if w == "a"] == [0, 1, 2]
    assert [n for w, n in numbers if w == "b"] == [10, 11, 20, 21, 4, 5, 3]
    assert not lanes and lanes.next_for("a") is None


def test_every_task_of_every_lane_is_done_once(engine: Engine) -> None:
    parts = [range(start, start + length) for start, length in ((0, 9), (100, 1), (200, 0), (300, 5))]
    outcomes = list(engine.map_unordered(jobs.double, Lanes(parts, lambda n: {"n": n})))
    assert sorted(outcome.value for outcome in outcomes) == [2 * n for part in parts for n in part]


def test_a_full_disk_is_not_tried_again(engine: Engine) -> None:
    (outcome,) = engine.map_unordered(jobs.full_disk, [{}])
    assert outcome.attempts == 1 and outcome.kind == "OutputError"


def test_a_crash_costs_its_own_task_only() -> None:
    engine = ProcessEngine(2, SOON)
    try:
        outcomes = {o.task["n"]: o for o in engine.map_unordered(jobs.die_on_odd, ({"n": n} for n in range(8)))}
    finally:
        engine.close()
    assert [outcomes[n].value for n in range(8)] == [0, None, 2, None, 4, None, 6, None]
    assert "out of memory" in str(outcomes[1].error) and f"signal {signal.SIGSEGV:d}" in str(outcomes[3].error)
    assert outcomes[1].attempts == 2


def test_all_workers_start_with_the_first_task_and_load_what_they_will_need() -> None:
    engine = ProcessEngine(3, SOON, ahead="colorsys")
    try:
        (outcome,) = engine.map_unordered(jobs.loaded, [{"module": "colorsys"}])
        assert outcome.value is True and len(engine.processes) == 3
    finally:
        engine.close()


def test_a_task_that_hangs_is_stopped() -> None:
    engine = ProcessEngine(2, Patience(attempts=1, timeout_s=1.5))
    try:
        outcomes = {o.task["s"]: o for o in engine.map_unordered(jobs.sleep, [{"s": 60}, {"s": 0}])}
    finally:
        engine.close()
    assert outcomes[60].kind == "too slow" and outcomes[0].value > 0


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "from tests.region import jobs; from geoslave.region.engine import ProcessEngine\n"
        "engine = ProcessEngine(1)\n"
        "pid = next(iter(engine.map_unordered(jobs.sleep, [{'s': 0}, {'s': 90}]))).value\n"
        "print(pid, flush=True)\n"
        "list(engine.map_unordered(jobs.sleep, [{'s': 90}]))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    for _ in range(100):
        if not _alive(worker):
            break
        time.sleep(0.05)
    assert not _alive(worker)


def test_a_scheduler_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geoslave.region.engine import DaskEngine

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    with cluster(tmp_path, 1) as dask:
        engine = DaskEngine(dask.address, SOON)
        outcomes = engine.map_unordered(jobs.sleep, ({"s": 0.2} for _ in range(50)))
        assert next(outcomes).error is None
        dask.scheduler.kill()
        with pytest.raises(GeoslaveError, match="start it again, then run again"):
            list(outcomes)
        engine.close()


def test_results_that_die_with_their_worker_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker keeps what it has done until the driver fetches it."""
    from geoslave.region.engine import DaskEngine

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    with cluster(tmp_path, 2) as dask:
        engine = DaskEngine(dask.address, SOON)
        outcomes = engine.map_unordered(jobs.sleep, ({"s": 0.4} for _ in range(12)))
        first = next(outcomes)
        time.sleep(2)  # by now both workers hold results
        dask.workers[0].kill()
        time.sleep(0.2)  # it is known to be gone, and what it held is not there again
        rest = list(outcomes)
        engine.close()
    assert [outcome.error for outcome in (first, *rest)] == [None] * 12


def test_an_address_where_nobody_answers_is_told() -> None:
    distributed = pytest.importorskip("distributed")
    from geoslave.region.engine import DaskEngine

    assert distributed
    with pytest.raises(GeoslaveError, match="start it, or mend --dask"):
        DaskEngine("nonsense:")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
