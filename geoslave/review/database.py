"""The review's database: engines for SQLite and PostgreSQL, tables, and versioned migrations.

SQLite keeps a write-ahead log and syncs it at every commit, so that an accepted vote outlives a kill
and a power cut. Writers take their lock when they begin (no upgrade from reading to writing, which
SQLite refuses under load) and queue inside the process, which is faster than its polling.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoslave.errors import MissingExtra
from geoslave.review.tasks import ReviewError

try:
    import sqlalchemy as sa
except ImportError:  # pragma: no cover - the core install
    raise MissingExtra("reviewing", "review") from None

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

MODULUS = 2_147_483_647
"""Prime; a task's `spot` lies below it, and a reviewer's order is spot * a + b modulo it."""

_meta = sa.MetaData()
tasks = sa.Table(
    "tasks",
    _meta,
    *(sa.Column(name, sa.Text) for name in ("task_id", "kind", "pool", "stratum", "gold", "tutorial", "pictures")),
    *(sa.Column(name, sa.BigInteger) for name in ("tier", "spot", "n_votes", "votes_wanted")),
    sa.Column("inclusion_probability", sa.Float),
    sa.Column("retired", sa.Text),
    sa.Column("settled", sa.Text),
)
places = sa.Table(
    "places",
    _meta,
    *(
        sa.Column(name, sa.Text)
        for name in (
            *("task_id", "crs", "grids", "outline", "detection_id", "tile_id"),
            *("class_name", "scene_id", "date"),
        )
    ),
    *(sa.Column(name, sa.Float) for name in ("score", "lon", "lat")),
)
records = sa.Table(
    "records",
    _meta,
    sa.Column("seq", sa.BigInteger, primary_key=True),
    *(
        sa.Column(name, sa.Text)
        for name in (
            *("kind", "vote_id", "task_id", "reviewer_id", "answer", "marks", "note", "undoes"),
            *("created_at", "received_at", "source", "previous", "hash"),
        )
    ),
)
standing = sa.Table(
    "standing",
    _meta,
    *(sa.Column(name, sa.Text) for name in ("task_id", "reviewer_id", "vote_id", "answer")),
)
leases = sa.Table(
    "leases",
    _meta,
    *(sa.Column(name, sa.Text) for name in ("task_id", "reviewer_id")),
    sa.Column("expires", sa.Float),
)
chain = sa.Table(
    "chain", _meta, sa.Column("one", sa.BigInteger), sa.Column("seq", sa.BigInteger), sa.Column("hash", sa.Text)
)
settings = sa.Table("settings", _meta, sa.Column("name", sa.Text), sa.Column("value", sa.Text))
reviewers = sa.Table(
    "reviewers",
    _meta,
    *(sa.Column(name, sa.Text) for name in ("id", "name", "role", "token_hash", "created_at")),
    sa.Column("disabled", sa.BigInteger),
    sa.Column("tutorial_done", sa.BigInteger),
)
invitations = sa.Table(
    "invitations",
    _meta,
    *(sa.Column(name, sa.Text) for name in ("hash", "role", "used_at", "reviewer_id")),
    sa.Column("expires", sa.Float),
)

GENESIS = "0" * 64

_V1 = (
    """CREATE TABLE tasks (task_id TEXT PRIMARY KEY, kind TEXT NOT NULL, pool TEXT NOT NULL, stratum TEXT NOT NULL,
        inclusion_probability DOUBLE PRECISION NOT NULL, gold TEXT, tutorial TEXT NOT NULL, pictures TEXT NOT NULL,
        tier BIGINT NOT NULL, spot BIGINT NOT NULL, n_votes BIGINT NOT NULL, votes_wanted BIGINT NOT NULL,
        retired TEXT, settled TEXT)""",
    "CREATE INDEX tasks_open ON tasks (pool, retired, tier, n_votes)",
    """CREATE TABLE places (task_id TEXT PRIMARY KEY REFERENCES tasks, crs TEXT NOT NULL, grids TEXT NOT NULL,
        outline TEXT NOT NULL, detection_id TEXT, tile_id TEXT, class_name TEXT NOT NULL, scene_id TEXT NOT NULL,
        date TEXT, score DOUBLE PRECISION, lon DOUBLE PRECISION, lat DOUBLE PRECISION)""",
    """CREATE TABLE reviewers (id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, token_hash TEXT UNIQUE,
        created_at TEXT NOT NULL, disabled BIGINT NOT NULL, tutorial_done BIGINT NOT NULL)""",
    """CREATE TABLE invitations (hash TEXT PRIMARY KEY, role TEXT NOT NULL, expires DOUBLE PRECISION NOT NULL,
        used_at TEXT, reviewer_id TEXT)""",
    """CREATE TABLE records (seq BIGINT PRIMARY KEY, kind TEXT NOT NULL, vote_id TEXT NOT NULL UNIQUE,
        task_id TEXT NOT NULL REFERENCES tasks, reviewer_id TEXT NOT NULL REFERENCES reviewers, answer TEXT NOT NULL,
        marks TEXT NOT NULL, note TEXT NOT NULL, undoes TEXT UNIQUE, created_at TEXT NOT NULL,
        received_at TEXT NOT NULL, source TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL)""",
    "CREATE INDEX records_reviewer ON records (reviewer_id, seq)",
    """CREATE TABLE standing (task_id TEXT NOT NULL REFERENCES tasks, reviewer_id TEXT NOT NULL REFERENCES reviewers,
        vote_id TEXT NOT NULL UNIQUE REFERENCES records (vote_id), answer TEXT NOT NULL,
        PRIMARY KEY (task_id, reviewer_id))""",
    """CREATE TABLE leases (task_id TEXT NOT NULL REFERENCES tasks, reviewer_id TEXT NOT NULL REFERENCES reviewers,
        expires DOUBLE PRECISION NOT NULL, PRIMARY KEY (task_id, reviewer_id))""",
    "CREATE INDEX standing_reviewer ON standing (reviewer_id)",
    "CREATE INDEX leases_expire ON leases (expires)",
    "CREATE INDEX leases_reviewer ON leases (reviewer_id)",
    "CREATE TABLE chain (one BIGINT PRIMARY KEY, seq BIGINT NOT NULL, hash TEXT NOT NULL)",
    f"INSERT INTO chain VALUES (1, 0, '{GENESIS}')",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
_V2_SQLITE = tuple(
    f"CREATE TRIGGER records_no_{verb.lower()} BEFORE {verb} ON records "
    "BEGIN SELECT RAISE(ABORT, 'votes are append-only'); END"
    for verb in ("UPDATE", "DELETE")
)
_V2_POSTGRES = (
    "CREATE FUNCTION records_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'votes are append-only'; END $$",
    "CREATE TRIGGER records_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON records "
    "FOR EACH STATEMENT EXECUTE FUNCTION records_append_only()",
)
Migration = dict[str, Sequence[str]]
MIGRATIONS: list[Migration] = [
    {"sqlite": _V1, "postgresql": _V1},
    {"sqlite": _V2_SQLITE, "postgresql": _V2_POSTGRES},
]
"""Statements by database; the schema's version is how many were made. Never edit one that was released: add one."""


class Database:
    """An engine, and transactions that fit its kind."""

    def __init__(self, url_or_path: str | Path) -> None:
        self.url = _url(url_or_path)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.name = self._shown()
        self._turn: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()
        self.engine: Engine = self._engine()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent look."""
        with self._told(), self.engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that is on the disk when the block ends, or did not happen.

        Without `durable` a power cut (not a kill) may take it back: enough for a lease, and much faster.
        """
        with self._told(), self._turn, self.engine.connect() as db:
            db = db.execution_options(geoslave_write=True, geoslave_durable=durable)
            with db.begin():
                if not durable and not self.is_sqlite:
                    db.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield db

    def migrate(self) -> int:
        """Bring the schema to this version; returns how many migrations were made.

        Raises:
            ReviewError: if a newer geoslave made the database, or it is something else.
        """
        with self.writing() as db:
            if not self.is_sqlite:
                db.execute(sa.text("SELECT pg_advisory_xact_lock(728311005)"))
            db.execute(sa.text("CREATE TABLE IF NOT EXISTS geoslave_review (version BIGINT PRIMARY KEY)"))
            version = db.execute(sa.text("SELECT max(version) FROM geoslave_review")).scalar() or 0
            if version > len(MIGRATIONS):
                raise ReviewError(
                    f"{self.name} was made by a newer geoslave (version {version} of the store, this one knows "
                    f"{len(MIGRATIONS)}): update geoslave"
                )
            if version == 0:
                self._refuse_strangers(db)
            for number in range(version, len(MIGRATIONS)):
                for statement in MIGRATIONS[number]["sqlite" if self.is_sqlite else "postgresql"]:
                    db.exec_driver_sql(statement)
                db.execute(sa.text("INSERT INTO geoslave_review VALUES (:version)"), {"version": number + 1})
            return len(MIGRATIONS) - version

    def _refuse_strangers(self, db: Connection) -> None:
        if {"tasks", "records"} & set(sa.inspect(db).get_table_names()):
            raise ReviewError(f"{self.name} holds tables of something else: choose another file or database")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the database says, as one line."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            cause = " ".join(str(error.orig).split())
            low = cause.lower()
            if "full" in low or "no space" in low:
                step = "the disk is full: free some space; what was accepted before is kept"
            elif "locked" in low:
                step = "another process holds it: end that, or try again"
            elif "not a database" in low or "malformed" in low:
                step = "it is no review store, or damaged: check the name, or take a backup"
            elif isinstance(error, sa.exc.OperationalError):
                step = "check that it is there and may be written to"
            else:
                step = "please report it"
            raise StoreTrouble(f"{self.name}: {cause[:300]}: {step}") from error

    def _shown(self) -> str:
        if self.is_sqlite:
            return Path(self.url.database or "").name
        return f"the database '{self.url.database}'"

    def _engine(self) -> Engine:
        if not self.is_sqlite:
            return sa.create_engine(self.url, pool_size=10, max_overflow=30, pool_pre_ping=True)
        with contextlib.suppress(OSError):  # it holds places and secrets: for its owner only
            os.close(os.open(str(self.url.database), os.O_CREAT | os.O_EXCL, 0o600))
        engine = sa.create_engine(
            self.url, poolclass=sa.pool.QueuePool, pool_size=8, max_overflow=56, connect_args={"timeout": 30}
        )
        sa.event.listen(engine, "connect", _sqlite_pragmas)
        sa.event.listen(engine, "begin", _sqlite_begin)
        return engine


class StoreTrouble(ReviewError):
    """The database refuses: full disk, damaged, not reachable. Nothing was accepted."""


def concerns_everybody(error: BaseException) -> bool:
    """Whether any other transaction would fail just now too (locked, full, not reachable), whatever it holds."""
    return isinstance(error, StoreTrouble) and isinstance(error.__cause__, sa.exc.OperationalError)


def _url(url_or_path: str | Path) -> sa.URL:
    text = str(url_or_path)
    if "://" not in text:
        path = Path(url_or_path)
        if not path.absolute().parent.is_dir():
            raise ReviewError(f"{path}: its folder is not there: make it, or check the name")
        return sa.URL.create("sqlite", database=str(path.absolute()))
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError:
        raise ReviewError("the database's URL is not understood: write postgresql://user@host/name") from None
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        return url
    raise ReviewError(f"databases of the kind '{url.drivername}' are not known: give a file, or postgresql://...")


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=30000",
        "trusted_schema=OFF",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("geoslave_write"):
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options['geoslave_durable'] else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
