"""One thread that does what others ask, as much at a time as waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST = 200


class Writer(Generic[Item, Result]):
    """Collects items from any thread and hands them, many at once, to `work` in a thread of its own."""

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        name: str,
        concerns_all: Callable[[BaseException], bool] = lambda _error: False,
    ) -> None:
        """
        Args:
            work: gives one result for each item; where it fails, the items are tried one by one.
            concerns_all: whether an error would meet each of them too. Then none is tried again: two hundred
                would each wait for the same lock.
        """
        self._work = work
        self._concerns_all = concerns_all
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def submit(self, item: Item) -> Future[Result]:
        """The result is there when what was asked is done, and on the disk where it must be."""
        future: Future[Result] = Future()
        with self._starting:
            self._waiting.put((item, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return future

    def close(self) -> None:
        """What was asked before is still done."""
        with self._starting:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._waiting.put(None)
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._next()
            asked = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if asked:
                self._do(asked)

    def _next(self) -> tuple[list[tuple[Item, Future[Result]]], bool]:
        """What waits (at least one), and whether more may come."""
        batch: list[tuple[Item, Future[Result]]] = []
        while len(batch) < _MOST:
            try:
                one = self._waiting.get(block=not batch)
            except queue.Empty:
                break
            if one is None:
                return batch, False
            batch.append(one)
        return batch, True

    def _do(self, asked: Sequence[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._work([item for item, _ in asked])
        except BaseException as error:
            if len(asked) == 1 or self._concerns_all(error):
                for _, future in asked:
                    future.set_exception(error)
                return
            for one in asked:  # what one asked must not be the others' trouble
                self._do([one])
            return
        for (_, future), result in zip(asked, results, strict=True):
            future.set_result(result)
