"""The log of what left the house: one JSON object a line, each holding the hash of the line before.

A line that is changed, taken out or put in breaks the chain at that place. Lines cut off at the end cannot be
seen from the file alone: keep the last hash, which every export shows, somewhere else too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geoslave.errors import GeoslaveError, OutputError

NAME = "release-log.jsonl"
"""What a log is called where no other is named."""
START = "0" * 64
"""What the first line has in place of a hash before."""


def append(log: Path, entry: Mapping[str, Any]) -> str:
    """Add a line, on disk before this returns, and return its hash.

    Raises:
        GeoslaveError: if the log's chain is broken.
        OutputError: if it cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a+b") as file:
            _wait_for_turn(file)
            file.seek(0)
            lines = _checked(log, file.read())
            previous = lines[-1]["hash"] if lines else START
            told = {**entry, "logged": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "previous": previous}
            told["hash"] = _hash(told)
            file.write(json.dumps(told, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{log} cannot be written ({error.strerror or error}): nothing leaves unrecorded, choose another --log"
        ) from error
    return str(told["hash"])


def read(log: Path) -> list[dict[str, Any]]:
    """The entries of a log whose chain holds, oldest first.

    Raises:
        GeoslaveError: if it is missing, or a line was changed, taken out or put in; it names the line.
    """
    if not log.is_file():
        raise GeoslaveError(f"{log} is not there: give the log of releases with --log")
    return _checked(log, log.read_bytes())


def _wait_for_turn(file: Any) -> None:
    """Lock an open file until it is closed: two exports at once write one line after the other."""
    try:
        import fcntl
    except ImportError:  # Windows: its own lock, of one byte far behind the text
        import msvcrt

        lock: Any = msvcrt
        file.seek(1 << 40)
        lock.locking(file.fileno(), lock.LK_LOCK, 1)
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _checked(log: Path, data: bytes) -> list[dict[str, Any]]:
    if data and not data.endswith(b"\n"):
        raise GeoslaveError(f"{log}: its last line is cut off: restore it from a copy before anything else leaves")
    return list(_entries(log, data))


def _entries(log: Path, data: bytes) -> Iterator[dict[str, Any]]:
    previous = START
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            entry = json.loads(line)
            whole = entry["previous"] == previous and entry["hash"] == _hash(entry)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise GeoslaveError(f"{log}: line {number} was changed, or one before it taken out: restore it from a copy")
        previous = entry["hash"]
        yield entry


def _hash(entry: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
