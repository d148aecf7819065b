"""Stores on both databases, real ones: the PostgreSQL of this machine, in a folder and on a socket of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from geoslave.review.store import Store, open_store
from geoslave.review.tasks import Task, Vote


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The socket folder of a private PostgreSQL server, without a network port."""
    home = _postgres_home()
    if home is None:
        message = "POSTGRESQL ABSENT: install it (Debian: postgresql); postgres and initdb must be found"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="geoslave-pg-", dir="/tmp"))  # a socket's path must be short
    as_postgres: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = str(folder / "data")
    subprocess.run(
        [*as_postgres, str(home / "initdb"), "-D", data, "-A", "trust", "-U", "geoslave", "--no-sync"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    with (folder / "log").open("w") as log:
        options = ["-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen(
            [*as_postgres, str(home / "postgres"), "-D", data, *options], stdout=log, stderr=log, cwd="/"
        )
        try:
            _wait_for(folder / ".s.PGSQL.5432", server)
            yield str(folder)
        finally:
            server.send_signal(signal.SIGINT)  # without waiting for those who are connected
            server.wait(30)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's address, once on each database."""
    if request.param == "sqlite":
        return str(tmp_path / "review.sqlite")
    import psycopg

    socket = request.getfixturevalue("postgres")
    name = f"r{uuid4().hex[:12]}"
    with psycopg.connect(f"host={socket} user=geoslave dbname=postgres", autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}")
    return f"postgresql://geoslave@/{name}?host={socket}"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        yield opened


@pytest.fixture
def cast() -> Callable[..., Vote]:
    """Makes a vote with a key of its own."""

    def make(task: Task | str, reviewer: str, answer: str = "yes", **more: object) -> Vote:
        task_id = task if isinstance(task, str) else task.task_id
        return Vote(task_id, reviewer, answer, **{"key": str(uuid4()), **more})  # type: ignore[arg-type]

    return make


def _postgres_home() -> Path | None:
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres"):
        return Path(found).parent
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda home: int(home.parent.name))
    return homes[-1] if homes else None


def _wait_for(socket: Path, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    for _ in range(300):
        assert server.poll() is None, (socket.parent / "log").read_text()
        try:
            psycopg.connect(f"host={socket.parent} user=geoslave dbname=postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("PostgreSQL did not start")
