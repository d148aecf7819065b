"""Reviews made on the spot: tasks with small pictures, people who are signed in, a server in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import shapely
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from geoslave.review.access import COOKIE, Access, Limits
from geoslave.review.app import create_app
from geoslave.review.store import Store
from geoslave.review.tasks import Picture, Place, Task

HERE = "http://127.0.0.1:8765"
SIDE = 96
MANY = Limits(person=(1e6, 10**6), stranger=(1e6, 10**6), joining=(1e6, 10**6))


def add_review(
    store: Store,
    pictures: Path,
    n: int = 6,
    *,
    search: int = 0,
    gold: int = 0,
    tutorial: int = 0,
    before: bool = False,
    zooms: Sequence[str] = ("near", "middle", "far"),
) -> list[Task]:
    """Fill a store: n validate tasks, then search tasks, gold tasks and examples, each with its place."""
    tasks: list[Task] = []
    for number in range(n + search + gold + tutorial):
        kind = "search" if n <= number < n + search else "validate"
        known = number >= n + search
        teaches = number >= n + search + gold
        tasks.append(
            Task(
                f"t{number:03d}-{'abcdef'[number % 6]}",
                kind,  # type: ignore[arg-type]
                "high" if number % 2 else "low",
                0.5,
                gold=("yes" if number % 2 else "no") if known else None,
                pool="gold" if known else "work",
                pictures=tuple(_pictures(pictures, zooms, before, kind == "validate")),
                tutorial="A long oval ring of fired bricks on bare ground." if teaches else "",
            )
        )
    places = [
        Place(
            task.task_id,
            "EPSG:4326",
            {},
            shapely.box(10 + k / 100, 2.0, 10.001 + k / 100, 2.0005).wkt,
            f"d{k}",
            score=0.5,
            class_name="brick_kiln",
            lon=10 + k / 100,
            lat=2.0,
        )
        for k, task in enumerate(tasks)
    ]
    store.add_tasks(tasks, places)
    return tasks


def _pictures(folder: Path, zooms: Sequence[str], before: bool, outlined: bool) -> Iterator[Picture]:
    for zoom in zooms:
        for when in ("now", "before") if before else ("now",):
            path = f"pictures/{zoom}-{when}.png"  # one for all tasks: tests are to be fast
            shade = {"near": 90, "middle": 130, "far": 170}[zoom] + (40 if when == "before" else 0)
            if not (folder / path).exists():
                (folder / "pictures").mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((SIDE, SIDE, 3), shade, np.uint8)).save(folder / path)
            ring = ((30.0, 40.0), (60.0, 40.0), (60.0, 55.0), (30.0, 55.0), (30.0, 40.0))
            date = "2025-02-03" if when == "now" else "2021-01-15"
            yield Picture(path, zoom, SIDE, SIDE, date, when, (ring,) if outlined else ())  # type: ignore[arg-type]


def client_of(store: Store, pictures: Path, *, login: bool = False, limits: Limits = MANY) -> TestClient:
    """The page without a network: a browser on this computer, signed in nowhere."""
    return TestClient(create_app(store, pictures, login=login, limits=limits), base_url=HERE)


def signed_in(store: Store, pictures: Path, name: str, role: str = "reviewer", limits: Limits = MANY) -> TestClient:
    """A browser of somebody who joined by an invitation."""
    client = client_of(store, pictures, login=True, limits=limits)
    token = Access(store, login=True).invite(role)
    answer = client.post("/api/join", json={"token": token, "name": name})
    assert answer.status_code == 200 and COOKIE in client.cookies
    return client


def vote_of(task: dict[str, Any] | Task, answer: str = "yes", key: str = "key-1", **more: Any) -> dict[str, Any]:
    """What a browser sends."""
    task_id = task.task_id if isinstance(task, Task) else task["task_id"]
    return {"task_id": task_id, "answer": answer, "key": key, **more}


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def serving(*arguments: object, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`geoslave review serve` in a process of its own: its address, once it answers."""
    port = port or free_port()
    start = "from geoslave.cli.review_serve import serve; serve()"
    words = [sys.executable, "-c", start, *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process)
        yield address, process
    finally:
        process.kill()
        process.wait(30)


@contextmanager
def threaded(app: FastAPI) -> Iterator[str]:
    """The page in a thread of this process: its address."""
    door = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        door.close()


def _wait_for(address: str, process: subprocess.Popen[str]) -> None:
    for _ in range(400):
        if process.poll() is not None:
            raise AssertionError(f"the server ended: {process.stdout.read() if process.stdout else ''}")
        try:
            httpx.get(f"{address}/web/icon.svg", timeout=2)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server did not answer")
