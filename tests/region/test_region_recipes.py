"""The recipes of docs/recipes, run as they stand: a queue that is played here, a manifest's own commands."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from geoslave.region.layout import RegionFolder
from geoslave.region.run import Choice, run_region
from tests.chaos import QUIET, forget, layers, make_country
from tests.conftest import ROOT
from tests.region.conftest import MakeRegion

RECIPES = ROOT / "docs" / "recipes"
Programs = Callable[..., dict[str, str]]

SBATCH = """#!/bin/sh
# keeps the script, as sbatch does, and runs it here; the job's id is that of its process group
cp "$1" "$QUEUE/job.$$.sh"
setsid sh "$QUEUE/job.$$.sh" > "$QUEUE/job.$$.log" 2>&1 &
echo $! >> "$QUEUE/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -9 -- "-$job" 2>/dev/null; done; exit 0
"""
SQUEUE = """#!/bin/sh
cat "$QUEUE/jobs"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a queue that runs every job at once, on this machine."""
    queue = tmp_path / "queue"
    queue.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL), ("squeue", SQUEUE)):
        program = queue / name
        program.write_text(text)
        program.chmod(0o755)
    environment = _environment()
    yield {**environment, "QUEUE": str(queue), "PATH": f"{queue}:{environment['PATH']}"}
    for job in (queue / "jobs").read_text().split() if (queue / "jobs").exists() else []:
        with suppress(ProcessLookupError):
            os.killpg(int(job), signal.SIGKILL)


def _environment() -> dict[str, str]:
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _same_sites(one: dict[str, bytes], other: dict[str, bytes]) -> bool:
    """The layers differ in when and in which run they were made."""
    found, expected = (re.findall(rb'"detection_id": ?"([^"]+)"', each["detections.geojson"]) for each in (one, other))
    return found == expected and len(found) > 10


def test_a_queue_of_slurm(bright_model: Path, slurm: dict[str, str], tmp_path: Path) -> None:
    """A job is ended by its queue while it works, as at its wall time: the other goes on."""
    region = make_country(tmp_path, bright_model, 200)
    run_region(region, Choice(workers=0))
    expected = layers(region)
    forget(region)
    where = ("--regions", str(region.path.parent))
    command = [sys.executable, str(RECIPES / "slurm.py"), region.name, *where, "--workers", "2", "--memory", "1GB"]
    recipe = subprocess.Popen(command, env=slurm, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait_for(lambda: _blocks_done(region) > 2, recipe)
        jobs = (Path(slurm["QUEUE"]) / "jobs").read_text().split()
        os.killpg(int(jobs[0]), signal.SIGKILL)
        told, _ = recipe.communicate(timeout=180)
        assert recipe.returncode == 0, told.decode()
    finally:
        recipe.kill()
        recipe.wait()
    assert len(jobs) == 2
    deadline = time.monotonic() + 15
    while any(map(_alive, jobs)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, jobs))  # they have ended with the run
    assert layers(region) == expected


def _alive(job: str) -> bool:
    try:
        return Path(f"/proc/{job}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_manifest_for_kubernetes_runs_as_it_stands(make_region: MakeRegion, tmp_path: Path) -> None:
    region = make_region("bihar")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = (RECIPES / "kubernetes.yaml").read_text().replace("/data/regions", str(region.path.parent))
    text = text.replace("geoslave-scheduler:8786", f"127.0.0.1:{port}").replace('"8786"', f'"{port}"')
    parts = {(part["kind"], part["metadata"]["name"]): part for part in yaml.safe_load_all(text)}
    scheduler, worker, run = (
        _command(parts[key])
        for key in (("Deployment", "geoslave-scheduler"), ("Deployment", "geoslave-workers"), ("Job", "geoslave-run"))
    )
    started = [subprocess.Popen(scheduler, env=_environment(), cwd=tmp_path, **QUIET)]
    try:
        started += [subprocess.Popen(worker, env=_environment(), cwd=tmp_path, **QUIET) for _ in range(2)]
        done = subprocess.run(run, env=_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    finally:
        for process in started:
            process.kill()
            process.wait()
    serial = make_region("serial")
    run_region(serial, Choice(workers=0))
    assert _same_sites(layers(region), layers(serial))


def test_the_parts_of_the_manifest_fit_together() -> None:
    parts = list(yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text()))
    known = {"PersistentVolumeClaim": "v1", "Service": "v1", "Deployment": "apps/v1", "Job": "batch/v1"}
    assert all(known[part["kind"]] == part["apiVersion"] for part in parts)
    claims = {part["metadata"]["name"] for part in parts if part["kind"] == "PersistentVolumeClaim"}
    (service,) = (part for part in parts if part["kind"] == "Service")
    pods = {
        part["metadata"]["name"]: part["spec"]["template"] for part in parts if part["kind"] in ("Deployment", "Job")
    }
    for part in parts:
        if part["kind"] == "Deployment":
            assert part["spec"]["selector"]["matchLabels"] == part["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == pods["geoslave-scheduler"]["metadata"]["labels"]
    port = service["spec"]["ports"][0]["port"]
    for name in ("geoslave-workers", "geoslave-run"):
        pod = pods[name]["spec"]
        (container,) = pod["containers"]
        assert f"tcp://{service['metadata']['name']}:{port}" in container["command"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert (
            mounted == {"data": "/data"} and {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]} == claims
        )


def _command(part: dict[str, Any]) -> list[str]:
    (container,) = part["spec"]["template"]["spec"]["containers"]
    command: list[str] = container["command"]
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


def _blocks_done(region: RegionFolder) -> int:
    return len(list(region.path.glob("runs/*/objects/*/*.objects")))


def _wait_for(reached: Callable[[], Any], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, "it ended, or took too long"
        time.sleep(0.05)
