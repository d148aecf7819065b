"""Where work runs: in this process, in processes of its own, or on a dask.distributed cluster.

A task is a top-level function of one dictionary of plain values that gives a dictionary of plain
values: both cross the wire as JSON, arrays never do. An engine never raises for a task: it tries it
again after a while, then tells why it failed, and goes on with the others.
"""

from __future__ import annotations

import heapq
import importlib
import json
import logging
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from geoslave.errors import GeoslaveError, MissingExtra, ModelError, OutputError

Task = Mapping[str, Any]
Function = Callable[[Any], Any] | str
"""A top-level function, or its name (`function_name`): who only hands tasks out need not load it."""

_NOT_TRIED_AGAIN = (*(kind.__name__ for kind in (OutputError, ModelError, MissingExtra, ImportError)), "ReplacedScene")
"""Errors that a second attempt meets again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task."""

    task: Task
    value: Any
    """What the function gave; None if it failed."""
    error: str | None = None
    """Why it failed in the end, on one line."""
    kind: str | None = None
    """The class of the error, or 'died', 'too slow'."""
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how soon a failing task is tried again."""

    attempts: int = 3
    first_wait_s: float = 2
    factor: float = 4
    timeout_s: float = 3600

    def wait_s(self, attempt: int) -> float:
        """Pause after an attempt, counted from 1."""
        return self.first_wait_s * self.factor ** (attempt - 1)


class Lanes:
    """Tasks in lanes: a worker keeps to one, where each task lies beside what it has just read.

    One whose lane is at its end begins another, or takes over half of the longest.

    Args:
        lanes: what tasks are made of, lane by lane.
        make: makes the task when its time has come.
    """

    def __init__(self, lanes: Iterable[Sequence[Any]], make: Callable[[Any], Task]) -> None:
        self._make = make
        self._waiting = deque(lane for lane in map(deque, lanes) if lane)
        self._taken: dict[Hashable, deque[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting) or any(self._taken.values())

    def next_for(self, worker: Hashable) -> Task | None:
        """The next task of a worker; None if there is none left."""
        lane = self._taken.get(worker)
        if not lane:
            lane = self._waiting.popleft() if self._waiting else self._half_of_the_longest()
            self._taken[worker] = lane
        return self._make(lane.popleft()) if lane else None

    def _half_of_the_longest(self) -> deque[Any]:
        longest = max(self._taken.values(), key=len, default=deque())
        rest: deque[Any] = deque()
        for _ in range(-(-len(longest) // 2)):
            rest.appendleft(longest.pop())
        return rest


class Engine(Protocol):
    """Runs tasks."""

    workers: int

    def map_unordered(self, function: Function, tasks: Iterable[Task] | Lanes) -> Iterator[Outcome]:
        """The outcomes of all tasks, as they come. Closing the iterator drops what is under way."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class SerialEngine:
    """In this process, one after the other."""

    workers = 1

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()

    def map_unordered(self, function: Function, tasks: Iterable[Task] | Lanes) -> Iterator[Outcome]:
        queue = _Queue(tasks, self._patience)
        name = function_name(function)
        while (attempt := queue.next_ready()) or queue.waits():
            if attempt is None:
                time.sleep(queue.seconds_to_next())
                continue
            outcome = queue.settle(attempt, guarded(name, dict(attempt.task)))
            if outcome is not None:
                yield outcome

    def close(self) -> None:
        """Nothing to end."""


class ProcessEngine:
    """In worker processes of this machine. One that dies costs its task an attempt, and is replaced.

    Args:
        log: a file for what the workers' libraries print.
        ahead: a module that workers load when they start, which takes seconds, not with their first task.
    """

    def __init__(
        self, workers: int, patience: Patience | None = None, log: Path | None = None, ahead: str | None = None
    ) -> None:
        self.workers = workers
        self._patience = patience or Patience()
        self._log = log
        self._ahead = ahead
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, _Attempt] = {}
        self._selector = selectors.DefaultSelector()

    def map_unordered(self, function: Function, tasks: Iterable[Task] | Lanes) -> Iterator[Outcome]:
        queue = _Queue(tasks, self._patience)
        name = function_name(function)
        if queue.waits():
            self._start_all()
        try:
            while True:
                self._hand_out(name, queue)
                if not self._busy and not queue.waits():
                    return
                yield from self._collect(queue)
        finally:
            for worker in list(self._busy):
                self._drop(worker)

    def close(self) -> None:
        """End the workers; what they were doing is dropped."""
        for worker in [*self._busy, *self._idle]:
            worker.end()
        self._busy.clear()
        self._idle.clear()
        self._selector.close()

    @property
    def processes(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid for worker in [*self._busy, *self._idle]]

    def _start_all(self) -> None:
        """All workers at once, also where there is little to do at first: each takes seconds to load what it needs."""
        while len(self._busy) + len(self._idle) < self.workers:
            self._idle.append(_Worker(self._log, self._ahead))

    def _hand_out(self, name: str, queue: _Queue) -> None:
        while len(self._busy) < self.workers and queue.has_ready():
            worker = self._idle.pop() if self._idle else _Worker(self._log, self._ahead)
            attempt = queue.next_ready(worker)
            assert attempt is not None
            self._busy[worker] = attempt
            self._selector.register(worker.answers, selectors.EVENT_READ, worker)
            worker.give(name, attempt.task)

    def _collect(self, queue: _Queue) -> Iterator[Outcome]:
        now = time.monotonic()
        wait = min([1.0, queue.seconds_to_next(), *(w.seconds_left(now, self._patience) for w in self._busy)])
        if not self._busy:
            time.sleep(max(wait, 0.0))
            return
        for worker in [key.data for key, _ in self._selector.select(max(wait, 0.0))]:
            answer = worker.take()
            if answer is not None:
                yield from self._settle(worker, queue, answer, died=worker.ended)
        now = time.monotonic()
        for worker in [w for w in self._busy if w.seconds_left(now, self._patience) <= 0]:
            told = f"took longer than {self._patience.timeout_s:g} s and was stopped"
            yield from self._settle(worker, queue, {"error": told, "kind": "too slow"}, died=True)

    def _settle(self, worker: _Worker, queue: _Queue, answer: dict[str, Any], *, died: bool) -> Iterator[Outcome]:
        attempt = self._busy[worker]
        if died:
            self._drop(worker)
        else:
            del self._busy[worker]
            self._selector.unregister(worker.answers)
            self._idle.append(worker)
        outcome = queue.settle(attempt, answer)
        if outcome is not None:
            yield outcome

    def _drop(self, worker: _Worker) -> None:
        self._busy.pop(worker, None)
        with suppress(KeyError):
            self._selector.unregister(worker.answers)
        worker.end()


class DaskEngine:
    """On the workers of a dask.distributed cluster, found by its scheduler's address.

    Raises:
        GeoslaveError: if nothing answers there.
    """

    def __init__(self, address: str, patience: Patience | None = None) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise MissingExtra("--dask", "region") from None
        self._patience = patience or Patience()
        self._address = address
        # a scheduler that goes away is told in one line, by us
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
        try:
            self._client = Client(address, timeout=30, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise GeoslaveError(
                f"no dask scheduler answers at {address} ({error}): start it, or mend --dask"
            ) from error
        self.workers = max(1, sum(self._client.nthreads().values()))

    def map_unordered(self, function: Function, tasks: Iterable[Task] | Lanes) -> Iterator[Outcome]:
        from distributed import as_completed

        queue = _Queue(tasks, self._patience)
        name = function_name(function)
        running: dict[Any, _Attempt] = {}
        finished = as_completed(loop=self._client.loop, raise_errors=False)
        try:
            while True:
                # a few more than there are threads: none waits for work, and the scheduler holds few
                while len(running) < 2 * self.workers + 2 and (attempt := queue.next_ready()):
                    future = self._client.submit(guarded, name, dict(attempt.task), pure=False)
                    running[future] = attempt
                    finished.add(future)
                if not running:
                    if not queue.waits():
                        return
                    time.sleep(queue.seconds_to_next())
                    continue
                attempt, answer = self._next(finished, running)
                outcome = queue.settle(attempt, answer)
                if outcome is not None:
                    yield outcome
        finally:
            with suppress(Exception):  # the scheduler may be gone
                self._client.cancel(list(running))

    def close(self) -> None:
        """Leave the cluster as it is."""
        with suppress(Exception):
            self._client.close(timeout=5)

    def _next(self, finished: Any, running: dict[Any, _Attempt]) -> tuple[_Attempt, dict[str, Any]]:
        """What is finished next, and its answer."""
        from distributed import CancelledError

        try:
            future = next(finished)
            while future.status in ("lost", "pending"):
                # its worker died with the result: the scheduler has another make it again
                finished.add(future)
                future = next(finished)
            return running.pop(future), self._answer(future)
        except (OSError, CancelledError) as error:
            raise self._gone() from error

    def _gone(self) -> GeoslaveError:
        return GeoslaveError(
            f"the dask scheduler at {self._address} is gone: start it again, then run again, "
            "it goes on where it stopped"
        )

    def _answer(self, future: Any) -> dict[str, Any]:
        if future.status == "finished":
            answer: dict[str, Any] = future.result()
            return answer
        if future.status == "error":
            error = future.exception()
            if type(error).__name__ == "KilledWorker":
                told = "its dask workers died of it, one after the other (out of memory?): see the workers' logs"
                return {"error": told, "kind": "died", "final": True}
            return {"error": _one_line(error), "kind": type(error).__name__}
        raise self._gone()


def guarded(name: str, task: dict[str, Any]) -> dict[str, Any]:
    """Call a function on a task: {"value"} or {"error", "kind"}."""
    try:
        return {"value": find_function(name)(task)}
    except MemoryError:
        return {"error": "out of memory: use fewer workers or smaller blocks", "kind": "MemoryError"}
    except Exception as error:
        known = isinstance(error, GeoslaveError)
        told = _one_line(error) if known else f"{type(error).__name__}: {_one_line(error)}"
        if os.environ.get("GEOSLAVE_DEBUG"):
            import traceback

            traceback.print_exc()
        return {"error": told, "kind": type(error).__name__}


def function_name(function: Function) -> str:
    """How a top-level function is named to a worker."""
    if isinstance(function, str):
        return function
    return f"{function.__module__}:{function.__qualname__}"


def find_function(name: str) -> Callable[[Any], Any]:
    """The inverse of `function_name`."""
    module, _, function = name.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return found


@dataclass(slots=True)
class _Attempt:
    """A task that is being tried."""

    task: Task
    number: int


@dataclass(slots=True)
class _Queue:
    """Tasks in their order, and failed ones again when their pause is over."""

    tasks: Iterable[Task] | Lanes
    patience: Patience
    _source: Iterator[Task] = field(init=False)
    _next: Task | None = field(init=False, default=None)
    _later: list[tuple[float, int, _Attempt]] = field(init=False, default_factory=list)
    _count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._source = iter(()) if isinstance(self.tasks, Lanes) else iter(self.tasks)
        self._next = next(self._source, None)

    def next_ready(self, worker: Hashable = None) -> _Attempt | None:
        """What can be tried now by a worker, failed ones first."""
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[2]
        if isinstance(self.tasks, Lanes):
            task = self.tasks.next_for(worker)
        else:
            task, self._next = self._next, next(self._source, None)
        return None if task is None else _Attempt(task, 1)

    def has_ready(self) -> bool:
        """True if something can be tried now."""
        return self._begins() or bool(self._later and self._later[0][0] <= time.monotonic())

    def waits(self) -> bool:
        """True while something is still to be tried."""
        return self._begins() or bool(self._later)

    def _begins(self) -> bool:
        """True while something was not tried yet."""
        return bool(self.tasks) if isinstance(self.tasks, Lanes) else self._next is not None

    def seconds_to_next(self) -> float:
        """Until something failed can be tried again; a second if nothing waits for that."""
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else 1.0

    def settle(self, attempt: _Attempt, answer: dict[str, Any]) -> Outcome | None:
        """The outcome of an attempt; None if it will be tried again."""
        if "value" in answer:
            return Outcome(attempt.task, answer["value"], attempts=attempt.number)
        final = answer.get("final") or answer["kind"] in _NOT_TRIED_AGAIN
        if final or attempt.number >= self.patience.attempts:
            return Outcome(attempt.task, None, answer["error"], answer["kind"], attempt.number)
        due = time.monotonic() + self.patience.wait_s(attempt.number)
        self._count += 1
        heapq.heappush(self._later, (due, self._count, _Attempt(attempt.task, attempt.number + 1)))
        return None


class _Worker:
    """A process that is given one task at a time; it ends with the process that started it."""

    def __init__(self, log: Path | None, ahead: str | None = None) -> None:
        # geoslave (and a test's functions) must be found there as they are here
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        errors = log.open("ab") if log is not None else subprocess.DEVNULL
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "geoslave.region.worker", *([ahead] if ahead else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        finally:
            if log is not None:
                errors.close()  # type: ignore[union-attr]
        assert self.process.stdout is not None and self.process.stdin is not None
        self.answers = self.process.stdout
        self._tasks = self.process.stdin
        self._read = b""
        self._since = 0.0
        self.ended = False

    def give(self, name: str, task: Task) -> None:
        """Hand over a task. If the process is dead, `take` will tell."""
        self._since = time.monotonic()
        with suppress(OSError):
            self._tasks.write(json.dumps([name, dict(task)]).encode() + b"\n")
            self._tasks.flush()

    def take(self) -> dict[str, Any] | None:
        """The answer; that it died, if it did; None if it is not all there yet."""
        part = os.read(self.answers.fileno(), 1 << 16)
        self._read += part
        if not part:
            self.ended = True
            return {"error": self._how_it_died(), "kind": "died"}
        if not self._read.endswith(b"\n"):
            return None
        line, self._read = self._read, b""
        answer: dict[str, Any] = json.loads(line)
        return answer

    def seconds_left(self, now: float, patience: Patience) -> float:
        return self._since + patience.timeout_s - now

    def end(self) -> None:
        """Stop at once; what is in the making is dropped."""
        with suppress(OSError):
            self._tasks.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.answers.close()

    def _how_it_died(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.returncode
        if code == -9:
            return "its process was killed (signal 9): out of memory? use fewer workers or smaller blocks"
        how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
        return f"its process died ({how}): what it printed is in workers.log"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
