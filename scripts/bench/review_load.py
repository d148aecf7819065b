"""200 reviewers at once on the review page, on SQLite and on PostgreSQL; the server is killed half-way and restarted.

uv run --all-extras scripts/bench/review_load.py            a minute on each database
uv run --all-extras scripts/bench/review_load.py --quick    both within a minute

Each reviewer takes a task, fetches its two pictures, thinks, and votes: about a vote every two seconds. The vote's
answer brings the next task. Reviewers share the server's cores; `server_cpu_ms_per_vote` is what the server (not the
database's own processes) spent, and tells more than latencies where other programs run. A request that
gets no answer is sent again, votes with the same key, as the page does; the time without a server is told apart
(`away_s`) and is no latency. Afterwards every vote that was acknowledged is looked up in the database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import numpy as np
from common import say
from PIL import Image

from geoslave.review.access import COOKIE, Access
from geoslave.review.store import open_store
from geoslave.review.tasks import Picture, Task

EVERY_S = 2.0
PICTURES = 60
SIDE = 440
PATIENCE_S = 20.0


@dataclass
class Tally:
    """What the reviewers saw."""

    latencies_ms: list[float] = field(default_factory=list)
    accepted: dict[str, str] = field(default_factory=dict)
    """Key of each vote the server acknowledged -> its task."""
    answers: Counter[int] = field(default_factory=Counter)
    again: int = 0
    """Requests that were cut off and sent again."""
    bytes: int = 0
    server_cpu_s: float = 0.0
    crowd_cpu_s: float = 0.0


@dataclass
class Shift:
    """Whether people still work."""

    over: bool = False


class Wire(asyncio.Protocol):
    """One connection that is kept. Answers are read as cheaply as can be: the crowd shares the server's cores."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.held = bytearray()
        self.left = -1
        """Bytes of the body still to come; -1 while the head comes."""
        self.head = b""
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.held += data
        if self.left < 0:
            end = self.held.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head = bytes(self.held[:end]).lower()
            self.left = int(self.head.partition(b"content-length:")[2].partition(b"\r")[0])
            del self.held[: end + 4]
        if len(self.held) >= self.left and self.waiting is not None and not self.waiting.done():
            body, self.left = bytes(self.held), -1
            self.held.clear()
            self.waiting.set_result((int(self.head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(ConnectionError("cut off"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        if self.transport is None:
            raise ConnectionError("closed")
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.waiting

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Reviewer:
    """A browser: requests that are sent until they are answered; each vote brings the next task, as in the page."""

    def __init__(self, port: int, cookie: str, tally: Tally) -> None:
        self.port, self.cookie, self.tally = port, cookie, tally
        self.wire: Wire | None = None

    async def work(self, shift: Shift) -> None:
        await asyncio.sleep(random.uniform(0, EVERY_S))
        task: dict[str, Any] | None = None
        while not shift.over:
            began = time.monotonic()
            if task is None:
                task = first_of(await self.ask("POST", "/api/tasks/lease", {"want": 1}))
            for picture in task["pictures"] if task else ():
                await self.ask("GET", picture["url"])
            await self.think(began)
            if task:
                task = await self.vote(task["task_id"])
        self.hang_up()

    async def think(self, began: float) -> None:
        await asyncio.sleep(max(0.0, random.uniform(0.75, 1.25) * EVERY_S - (time.monotonic() - began)))

    async def vote(self, task_id: str) -> dict[str, Any] | None:
        key = uuid4().hex
        sent = {"task_id": task_id, "answer": random.choice(("yes", "yes", "no")), "key": key, "want": 1}
        receipt = await self.ask("POST", "/api/votes", sent)
        if receipt and "vote_id" in receipt:
            self.tally.accepted[key] = task_id
        return first_of(receipt)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer, however often it had to be asked for; None for what is no JSON or was refused."""
        content = json.dumps(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nCookie: {COOKIE}={self.cookie}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        end, wait = time.monotonic() + PATIENCE_S, 0.25
        while time.monotonic() < end:
            try:
                began = time.perf_counter()
                async with asyncio.timeout(PATIENCE_S):
                    status, told = await (await self.connected()).ask(head.encode() + content)
            except (OSError, TimeoutError, ValueError):
                self.tally.again += 1
                self.hang_up()
                await asyncio.sleep(random.uniform(wait / 2, wait))
                wait = min(2 * wait, 2.0)
                continue
            self.tally.latencies_ms.append((time.perf_counter() - began) * 1000)
            self.tally.answers[status] += 1
            self.tally.bytes += len(told)
            return json.loads(told) if status == 200 and told[:1] == b"{" else None
        return None

    async def connected(self) -> Wire:
        if self.wire is None or self.wire.transport is None:
            loop = asyncio.get_running_loop()
            _, self.wire = await loop.create_connection(Wire, "127.0.0.1", self.port)
        return self.wire

    def hang_up(self) -> None:
        if self.wire is not None:
            self.wire.close()
        self.wire = None


def first_of(told: dict[str, Any] | None) -> dict[str, Any] | None:
    return told["tasks"][0] if told and told.get("tasks") else None


def measure(url: str, folder: Path, reviewers: int, seconds: float) -> dict[str, Any]:
    """Load on one database, with a kill in the middle."""
    cookies = fill(url, folder, reviewers, tasks=max(500, int(reviewers * seconds / EVERY_S / 2)))
    tally = Tally()
    port = free_port()
    server = start(url, folder, port)
    try:
        began, spent = time.monotonic(), time.process_time()
        server, away = asyncio.run(load(url, folder, port, server, cookies, seconds, tally))
        took = time.monotonic() - began
        tally.crowd_cpu_s = time.process_time() - spent
        tally.server_cpu_s += cpu_s(server.pid)
    finally:
        server.kill()
        server.wait()
    return told(url, tally, took, away)


async def load(
    url: str, folder: Path, port: int, server: subprocess.Popen[bytes], cookies: list[str], seconds: float, tally: Tally
) -> tuple[subprocess.Popen[bytes], float]:
    """All reviewers at once; returns the second server and how long there was none."""
    shift = Shift()
    idle = cpu_s(server.pid)
    working = [asyncio.create_task(Reviewer(port, cookie, tally).work(shift)) for cookie in cookies]
    await asyncio.sleep(seconds / 2)
    tally.server_cpu_s += cpu_s(server.pid) - idle
    server.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    server.wait()
    server = await asyncio.to_thread(start, url, folder, port)
    away = time.monotonic() - killed
    tally.server_cpu_s -= cpu_s(server.pid)
    await asyncio.sleep(seconds / 2)
    shift.over = True
    await asyncio.gather(*working)
    return server, away


def fill(url: str, folder: Path, reviewers: int, tasks: int) -> list[str]:
    """A review with tasks and people; the cookies of their sessions."""
    pictures = [draw(folder, number) for number in range(PICTURES)]
    with open_store(url) as store:
        views = ((pictures[n % PICTURES], pictures[(n * 7 + 1) % PICTURES]) for n in range(tasks))
        store.add_tasks(Task(uuid4().hex, "validate", f"s{n % 5}", 0.5, pictures=two) for n, two in enumerate(views))
        access = Access(store, login=True)
        return [access.join(access.invite("reviewer"), f"reviewer {n}")[1] for n in range(reviewers)]


def draw(folder: Path, number: int) -> Picture:
    """A picture as heavy as those of `geoslave review create`."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 255, (96, 96, 3), np.uint8)
    path = f"pictures/{number}.png"
    Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / path)
    return Picture(path, "near" if number % 2 else "far", SIDE, SIDE, "2026-03-01")


def cpu_s(pid: int) -> float:
    """Processor seconds a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def told(url: str, tally: Tally, took: float, away: float) -> dict[str, Any]:
    """The figures, and what the database kept of what it acknowledged."""
    with open_store(url) as store:
        kept = Counter(record["vote_id"] for record in store.records() if record["kind"] == "vote")
        stand = Counter((vote.task_id, vote.reviewer_id) for vote in store.votes())
        checked = store.verify()
    p50, p95, p99 = (round(float(p), 1) for p in np.percentile(tally.latencies_ms, [50, 95, 99]))
    return {
        "requests_s": round(len(tally.latencies_ms) / max(took - away, 1e-9), 1),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "votes": len(tally.accepted),
        "votes_s": round(len(tally.accepted) / max(took - away, 1e-9), 1),
        "server_cpu_ms_per_vote": round(1000 * tally.server_cpu_s / max(len(tally.accepted), 1), 2),
        "crowd_cpu_ms_per_vote": round(1000 * tally.crowd_cpu_s / max(len(tally.accepted), 1), 2),
        "megabytes": round(tally.bytes / 1e6),
        "lost_votes": len(set(tally.accepted) - set(kept)),
        "doubled_votes": sum(n - 1 for n in kept.values()) + sum(n - 1 for n in stand.values()),
        "chain": checked.records,
        "errors_5xx": sum(n for status, n in tally.answers.items() if status >= 500),
        "answers": {str(status): n for status, n in sorted(tally.answers.items())},
        "sent_again": tally.again,
        "away_s": round(away, 1),
    }


def start(url: str, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """The server in a process of its own, once it answers."""
    words = [sys.executable, "-m", "geoslave.cli.main", "review", "serve", url, "--pictures", str(folder), "--login"]
    server = subprocess.Popen([*words, "--port", str(port)], stdout=subprocess.DEVNULL)
    for _ in range(1200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as door:
            door.sendall(b"GET /web/icon.svg HTTP/1.0\r\n\r\n")
            if door.recv(12).startswith(b"HTTP"):
                return server
        if server.poll() is not None:
            raise SystemExit("the server ended at once: see above")
        time.sleep(0.05)
    raise SystemExit("the server does not answer")


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A private PostgreSQL on a socket, syncing as it does in earnest."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda home: int(home.parent.name))
    found = shutil.which("initdb")
    home = homes[-1] if homes else Path(found).parent if found else None
    if home is None:
        raise SystemExit("PostgreSQL is not here: install it (Debian: postgresql), or give --database sqlite")
    as_user: list[str] = []
    folder.mkdir(parents=True)
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = str(folder / "data")
    made = [*as_user, str(home / "initdb"), "-D", data, "-A", "trust", "-U", "geoslave"]
    subprocess.run(made, check=True, capture_output=True, cwd="/")
    run = [*as_user, str(home / "postgres"), "-D", data, "-k", str(folder), "-c", "listen_addresses="]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(run, stdout=log, stderr=log, cwd="/")
    try:
        while not (folder / ".s.PGSQL.5432").exists():
            time.sleep(0.1)
        time.sleep(0.5)
        yield f"postgresql://geoslave@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="both databases within a minute")
    parser.add_argument("--reviewers", type=int, default=200)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    options = parser.parse_args()
    seconds = 12.0 if options.quick else 60.0
    found: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(dir="/tmp", prefix="gs-load-") as name:
        Path(name).chmod(0o755)
        folder = Path(name)
        if options.database in ("sqlite", "both"):
            found["sqlite"] = measure(str(folder / "review.sqlite"), folder, options.reviewers, seconds)
            print("sqlite:", found["sqlite"])
        if options.database in ("postgresql", "both"):
            with postgres(folder / "pg") as url:
                found["postgresql"] = measure(url, folder, options.reviewers, seconds)
            print("postgresql:", found["postgresql"])
    worst = {key: max(held[key] for held in found.values()) for key in ("p50_ms", "p95_ms", "p99_ms")}
    lost = {key: sum(held[key] for held in found.values()) for key in ("lost_votes", "doubled_votes")}
    slowest = min(held["requests_s"] for held in found.values())
    say({"reviewers": options.reviewers, "requests_s": slowest, **worst, **lost, "databases": found})


if __name__ == "__main__":
    main()
