"""Tasks for tests of engines: top-level functions, as a worker finds them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from geoslave.errors import OutputError, SceneError


def double(task: dict[str, Any]) -> int:
    return 2 * int(task["n"])


def loaded(task: dict[str, Any]) -> bool:
    """Whether a module was there before the task came."""
    return task["module"] in sys.modules


def no_op(task: dict[str, Any]) -> dict[str, Any]:
    return {"n": task["n"]}


def fail_first(task: dict[str, Any]) -> str:
    """Fails as often as told; a file counts the attempts."""
    tries = Path(task["count"])
    with tries.open("a") as file:
        file.write("x")
    if tries.stat().st_size <= task["failures"]:
        raise SceneError("the server is busy")
    return "done"


def die_on_odd(task: dict[str, Any]) -> int:
    """As a decoder that crashes, or a worker out of memory."""
    if task["n"] % 2:
        os.kill(os.getpid(), signal.SIGKILL if task["n"] % 4 == 1 else signal.SIGSEGV)
    return int(task["n"])


def sleep(task: dict[str, Any]) -> int:
    time.sleep(task["s"])
    return os.getpid()


def full_disk(_task: dict[str, Any]) -> None:
    raise OutputError("the disk is full")
