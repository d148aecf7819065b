"""How far a region is, read from disk alone: from another shell, another machine, after the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from geoslave.region.layout import RegionFolder, is_running, read_json, whole_files


@dataclass(frozen=True, slots=True)
class Status:
    """How far the latest run of a region is."""

    region: str
    run: str
    running: bool
    stage: str
    blocks: int
    """Known so far; 0 before scenes were looked at."""
    done: int
    failed: tuple[dict[str, Any], ...]
    """Each with name, reason, attempts, time."""
    objects: int
    mpx_s: float
    seconds_left: float | None
    updated: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def region_status(region: RegionFolder) -> Status:
    """The status of the run that was worked on last.

    Raises:
        GeoslaveError: if there is none yet.
    """
    run = region.ran()
    running = is_running(region)
    told = read_json(run.progress) or {}
    blocks = sum(len(grid["blocks"]) for path in whole_files(run.grids, "*.json") if (grid := read_json(path)))
    done = run.count_done()
    failed = tuple(one for path in sorted(whole_files(run.failures, "*.json")) if (one := read_json(path)))
    stage = str(told.get("stage", "starting"))
    if not running and stage not in ("done", "stopped"):
        stage = "stopped"
    return Status(
        region=region.name,
        run=run.path.name,
        running=running,
        stage=stage,
        blocks=blocks,
        done=done,
        failed=failed,
        objects=int(told.get("objects", 0)),
        mpx_s=float(told.get("mpx_s", 0)) if running else 0.0,
        seconds_left=told.get("seconds_left") if running else None,
        updated=str(told.get("updated", "")),
    )
