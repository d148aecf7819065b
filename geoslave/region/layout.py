"""A region on disk: where everything lies, files that are whole or absent, and one run at a time.

    regions/<name>/
      region.yaml  region.schema.json  aoi.geojson  scenes/ (STAC items)  addresses.json  blocks.geojson  lock
      runs/<date>_<digest>/
        run.json                 what was asked, with versions and hashes
        aoi.geojson  items/      area and STAC items as they were when the run began
        grids/<grid>.json        one grid's place, scaling and blocks
        scores/<grid>/r003c017.tif   stored scores of the block's core
        objects/<grid>/r003c017.objects  what the block found; it being there means the block is done
        failed/<grid>-r003c017.json
        progress.json  log.jsonl  workers.log
        detections.gpkg ...  qgis/

A file appears under its final name only when it is complete. What a run begins with is on the disk
before run.json says that it has begun, and so is each grid; files of blocks are when the run ends
(`settle`). Every file of a block carries its SHA-256 or is named with it in another: what does not
match, after a power cut too, is made again. For progress.json and blocks.geojson nobody waits.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from geoslave.errors import GeoslaveError, OutputError
from geoslave.files import free_bytes

REGIONS = "regions"
"""The folder of regions, where none is named."""
FORMAT = 2
"""Of what a run keeps on disk; a later one starts anew."""
_OBJECTS = ".objects"
_DRAFT = ".~"
"""How the name of a file in the making begins."""


class AlreadyRunning(GeoslaveError):
    """Another process has the lock."""


@dataclass(frozen=True, slots=True)
class RegionFolder:
    """A region's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "region.yaml"

    @property
    def scenes(self) -> Path:
        """STAC items."""
        return self.path / "scenes"

    @property
    def blocks(self) -> Path:
        return self.path / "blocks.geojson"

    def blocks_run(self) -> str | None:
        """The name of the run whose blocks `blocks` shows; None if it does not say."""
        try:
            with self.blocks.open(encoding="utf-8") as file:
                told = json.loads(file.readline() + "]}").get("run")
        except (OSError, ValueError, AttributeError):
            return None
        return None if told is None else str(told)

    @property
    def addresses(self) -> Path:
        """Which versions of remote files the items' addresses held when they were last asked."""
        return self.path / "addresses.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def run(self, digest: str) -> RunFolder:
        """The folder of the run with a digest: the one that is there, else one named by today."""
        standing = sorted(self.runs.glob(f"*_{digest}"))
        return RunFolder(standing[0] if standing else self.runs / f"{datetime.now(UTC):%Y-%m-%d}_{digest}")

    def latest_run(self) -> RunFolder | None:
        """The run that was worked on last; None if there is none."""
        runs = [path for path in self.runs.glob("*_*") if (path / "run.json").is_file()]
        if not runs:
            return None
        return RunFolder(max(runs, key=lambda path: (_changed(path / "progress.json"), path.name)))

    def ran(self) -> RunFolder:
        """The run that was worked on last.

        Raises:
            GeoslaveError: if there is none.
        """
        run = self.latest_run()
        if run is None:
            raise GeoslaveError(
                f"region {self.name} has not been run yet: start it with  geoslave region run {self.name}"
            )
        return run


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def description(self) -> Path:
        return self.path / "run.json"

    @property
    def aoi(self) -> Path:
        return self.path / "aoi.geojson"

    @property
    def grids(self) -> Path:
        return self.path / "grids"

    def grid(self, name: str) -> Path:
        return self.grids / f"{name}.json"

    def scores(self, grid: str, block: str) -> Path:
        return self.path / "scores" / grid / f"{block}.tif"

    def objects(self, grid: str, block: str) -> Path:
        return Path(f"{self.path}/objects/{grid}/{block}.objects")

    def done_blocks(self, grid: str) -> set[str]:
        """The blocks of a grid that have left their objects, whole or not."""
        return {name.removesuffix(_OBJECTS) for name in _names(self.path / "objects" / grid) if _is_object(name)}

    def failed(self, name: str) -> Path:
        return self.path / "failed" / f"{name}.json"

    @property
    def failures(self) -> Path:
        return self.path / "failed"

    @property
    def progress(self) -> Path:
        return self.path / "progress.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def workers_log(self) -> Path:
        """What libraries in worker processes print."""
        return self.path / "workers.log"

    def remove_drafts(self) -> None:
        """Take away what a killed run left in the making."""
        for folder in (self.path, self.grids, self.failures, *self._block_folders()):
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(_DRAFT) and entry.is_file():
                        Path(entry.path).unlink(missing_ok=True)

    def count_done(self) -> int:
        """Blocks that have left their objects."""
        objects = self.path / "objects"
        return sum(_is_object(name) for grid in _names(objects) for name in _names(objects / grid))

    def _block_folders(self) -> Iterator[Path]:
        for kind in ("scores", "objects"):
            yield from (self.path / kind).glob("*/")


def find_region(name: str, regions: str | Path = REGIONS) -> RegionFolder:
    """A region by its name or folder.

    Raises:
        GeoslaveError: if there is none.
    """
    region = region_named(name, regions)
    if region is not None:
        return region
    known = ", ".join(sorted(path.parent.name for path in Path(regions).glob("*/region.yaml"))) or "none"
    raise GeoslaveError(
        f"no region '{name}' in {regions}/ (there: {known}): make it with  geoslave region init {name} ..."
    )


def whole_files(folder: Path, pattern: str) -> Iterator[Path]:
    """The files under a folder that fit a pattern, without those in the making."""
    return (path for path in folder.glob(pattern) if not path.name.startswith(_DRAFT))


def region_named(name: str, regions: str | Path = REGIONS) -> RegionFolder | None:
    """A region by its name or folder; None if there is none."""
    folders = (Path(regions) / name, Path(name))
    return next((RegionFolder(folder) for folder in folders if (folder / "region.yaml").is_file()), None)


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file that is complete under its name, or absent; an older one of that name is replaced.

    Unlike `files.atomic_file` it lists no folder: the cost does not grow with the files in it.

    Args:
        durable: wait until it is on the disk, so that not even a power cut leaves half of it.

    Raises:
        OutputError: if the disk refuses.
    """
    draft = path.with_name(f"{_DRAFT}{uuid4().hex[:8]}-{path.name}")
    try:
        try:
            file = draft.open("wb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = draft.open("wb")
        with file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written ({error.strerror or error}): {_next_step(path)}") from error
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """A JSON file, whole or absent, with its own checksum."""
    body = json.dumps(content, ensure_ascii=False, sort_keys=True, allow_nan=False)
    sealed = {"sha256": sha256(body.encode()), **content}
    text = json.dumps(sealed, ensure_ascii=False, indent=1, allow_nan=False)
    write_whole(path, text.encode() + b"\n", durable=durable)


def settle(folder: Path) -> None:
    """Wait until all that was written to a folder's file system is on the disk."""
    if not hasattr(os, "sync"):  # Windows
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None).syncfs(handle) == 0:
                return
        finally:
            os.close(handle)
    except (OSError, AttributeError):
        pass  # no Linux: all file systems then
    os.sync()


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None if it is not there, cut, or changed."""
    try:
        content = json.loads(path.read_bytes())
        recorded = content.pop("sha256")
        body = json.dumps(content, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if sha256(body.encode()) == recorded else None


def sha256(content: bytes | memoryview) -> str:
    """Hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest(*parts: Any) -> str:
    """Twelve digits that stand for plain values."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode())[:12]


@contextmanager
def locked(region: RegionFolder) -> Iterator[None]:
    """Let one run work on a region; the lock of a process that has died is free.

    Raises:
        AlreadyRunning: if another run has it, with its process.
        OutputError: if the folder cannot be written to.
    """
    try:
        file = region.lock.open("a+")
    except OSError as error:
        raise OutputError(f"{region.lock} cannot be written ({error.strerror}): choose another folder") from error
    with file:
        if not _take_soon(file):
            raise AlreadyRunning(
                f"region {region.name} is being run already by {_owner(region)}: "
                f"watch it with  geoslave region status {region.name}"
            )
        file.seek(0)
        file.truncate()
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        with suppress(OSError):  # a full disk: the lock holds without a name on it
            file.write(json.dumps(me))
            file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)


def is_running(region: RegionFolder) -> bool:
    """True while a run has the lock."""
    try:
        with region.lock.open("r+") as file:
            return not _take(file)
    except OSError:
        return False


def _take(file: Any) -> bool:
    """Lock an open file until it is closed or its process ends; False if another has it."""
    try:
        import fcntl
    except ImportError:  # Windows: its own lock, of one byte far behind the text
        import msvcrt

        lock: Any = msvcrt
        file.seek(1 << 20)
        try:
            lock.locking(file.fileno(), lock.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _take_soon(file: Any, tries: int = 6) -> bool:
    """As `_take`; another's look at the lock (`is_running`) lasts an instant."""
    for _ in range(tries):
        if _take(file):
            return True
        time.sleep(0.05)
    return False


def _owner(region: RegionFolder) -> str:
    try:
        told = json.loads(region.lock.read_text())
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def _names(folder: Path) -> list[str]:
    """What a folder holds; nothing if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_object(name: str) -> bool:
    return name.endswith(_OBJECTS) and not name.startswith(_DRAFT)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _next_step(path: Path) -> str:
    with suppress(OSError):
        folder = next(parent for parent in path.parents if parent.exists())
        if free_bytes(folder) < 1 << 20:
            return "the disk is full: free some space, then run again, it goes on where it stopped"
    return "mend the folder, then run again, it goes on where it stopped"
