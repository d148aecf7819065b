"""What happens to the process that does a block, and to the job: it is told, and the others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from geoslave.errors import GeoslaveError
from geoslave.region.blocks import run_block
from geoslave.region.engine import Patience
from geoslave.region.publish import export_region
from geoslave.region.run import Choice, run_region
from tests.chaos import geoslave, layers
from tests.region.conftest import MakeRegion, change

SOON = Patience(attempts=2, first_wait_s=0.01)
POISON = "right_20200210-r001c001"


def poisoned(task: dict[str, Any]) -> dict[str, Any]:
    """A block whose imagery crashes the decoder."""
    if task["name"] == POISON:
        os.kill(os.getpid(), signal.SIGSEGV)
    return run_block(task)


def greedy(task: dict[str, Any]) -> dict[str, Any]:
    """A block that wants more memory than its process may have."""
    import resource

    if task["name"] != POISON:
        return run_block(task)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    try:
        return {"kept": len(bytearray(1 << 30))}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def killed_for_memory(task: dict[str, Any]) -> dict[str, Any]:
    """A block whose process the system ends, as when memory is short."""
    if task["name"] == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_block(task)


@pytest.mark.parametrize(
    ("function", "workers", "told"),
    [
        (poisoned, 2, f"signal {signal.SIGSEGV:d}"),
        (killed_for_memory, 2, "out of memory?"),
        (greedy, 0, "out of memory: use fewer workers"),
    ],
)
def test_a_block_that_ends_its_process_is_told_and_the_others_are_done(
    make_region: MakeRegion, function: Any, workers: int, told: str
) -> None:
    region = make_region()
    summary = run_region(region, Choice(workers=workers, patience=SOON), function=function)
    assert list(summary.failures) == [POISON] and told in summary.failures[POISON]
    assert summary.done_now == summary.blocks - 1
    with pytest.raises(GeoslaveError, match="1 block is not done"):
        export_region(region)
    mended = run_region(region, Choice(workers=0, patience=SOON))
    assert (mended.done_now, mended.done_before) == (1, summary.done_now) and not mended.failures
    found = layers(region)
    undisturbed = make_region("undisturbed")
    run_region(undisturbed, Choice(workers=0))
    assert _features(found) == _features(layers(undisturbed))


def test_a_second_run_is_told_by_command(make_region: MakeRegion) -> None:
    region = make_region()
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(region.path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        second = subprocess.run(geoslave(region, "run", "--workers", "0"), capture_output=True, text=True, timeout=120)
        assert second.returncode == 1 and f"by process {holder.pid}" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
    finally:
        holder.kill()
        holder.wait()
    assert not run_region(region, Choice(workers=0)).failures  # the lock of a process that has died is free


_HOLD = """
import sys
from pathlib import Path
from geoslave.region.layout import RegionFolder, locked
with locked(RegionFolder(Path(sys.argv[1]))):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_run_begun_with_other_settings_is_never_mixed_in(make_region: MakeRegion) -> None:
    """Half of the blocks with one threshold, then region.yaml changes: the layer is that of the new one alone."""
    region, fresh = make_region("changed", threshold=0.9), make_region("fresh")
    half = Choice(workers=0, only=(86.9, 23.9, 87.007, 24.1))
    first = run_region(region, half)
    assert first.done_now and first.left_out
    change(region, threshold=None)
    second = run_region(region, Choice(workers=0))
    run_region(fresh, Choice(workers=0))
    assert second.run != first.run and second.done_now == second.blocks
    assert _features(layers(region)) == _features(layers(fresh))


def _features(found: dict[str, bytes]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(found["detections.geojson"])["features"]
    assert len(told) > 10
    return told
