"""Batches drawn by processes of their own.

Beside an accelerator they draw ahead of the network, so that it never waits for one. Where the network itself takes all
cores they take turns with it: all of them draw, then the network works through what they drew. Drawing at the
same time would take a core from a network that shares its work evenly among all of them and then waits for the
slowest. What is drawn follows from the step alone (`sampling.draw_batch`), so timing changes nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoslave.errors import GeoslaveError
from geoslave.model.predict import usable_cores
from geoslave.model.recipe import TrainConfig
from geoslave.model.sampling import Batch, draw_batch
from geoslave.model.trainingdata import TrainingData

_MOST_HANDS = 4
AHEAD = 2
"""Batches drawn before they are needed, by each process."""


class Drawer:
    """Batches in the order of the steps, drawn ahead.

    From a step in `barriers` on, batches depend on weights that are known only then: they are asked
    for after `reweigh`.
    """

    def __init__(
        self, hands: Sequence[Hand], start: int, stop: int, barriers: Sequence[int], in_turns: bool = False
    ) -> None:
        self._hands = hands
        self._drawn: deque[Batch] | None = deque() if in_turns else None
        self._asked, self._stop, self._barriers = start, stop, sorted(barriers)

    def reweigh(self, weight: NDArray[np.float64]) -> None:
        """Draw backgrounds with these weights from now on."""
        for hand in self._hands:
            hand.reweigh(weight)

    def __call__(self, step: int) -> Batch:
        """The batch of a step; steps come in order."""
        last = min((b for b in self._barriers if b > step), default=self._stop)
        if self._drawn is None:
            self._ask_until(min(last, step + 1 + AHEAD * len(self._hands)))
            return self._take(step)
        if not self._drawn:
            self._ask_until(min(last, step + len(self._hands)))
            self._drawn.extend(self._take(asked) for asked in range(step, self._asked))
        return self._drawn.popleft()

    def _ask_until(self, step: int) -> None:
        while self._asked < step:
            self._hands[self._asked % len(self._hands)].ask(self._asked)
            self._asked += 1

    def _take(self, step: int) -> Batch:
        return self._hands[step % len(self._hands)].take()


@contextmanager
def drawn_ahead(
    data: TrainingData, config: TrainConfig, start: int = 0, barriers: Sequence[int] = (), *, in_turns: bool = False
) -> Iterator[Drawer]:
    """A drawer for the steps from `start` on.

    Args:
        in_turns: nothing is drawn while the network works, because it takes all cores.

    Processes are forked, so that the data is shared, before anything touches an accelerator. Where
    forking is not safe (outside Linux) a thread draws.
    """
    hands: list[Hand] = []
    try:
        workers = config.workers if config.workers is not None else min(_MOST_HANDS, usable_cores()) if in_turns else 1
        for _ in range(max(1, workers)):
            if workers == 0:
                hands.append(_Here(data, config))
            elif sys.platform == "linux":
                hands.append(_Process(data, config, [hand.pipe for hand in hands if isinstance(hand, _Process)]))
            else:
                hands.append(_Thread(data, config))
        yield Drawer(hands, start, config.steps, barriers, in_turns)
    finally:
        for hand in hands:
            hand.close()


class _Here:
    """Draws when a batch is taken."""

    def __init__(self, data: TrainingData, config: TrainConfig) -> None:
        self._data, self._config = data, config
        self._steps: list[int] = []

    def ask(self, step: int) -> None:
        self._steps.append(step)

    def take(self) -> Batch:
        return draw_batch(self._data, self._config, self._steps.pop(0))

    def reweigh(self, weight: NDArray[np.float64]) -> None:
        if self._data.backgrounds is not None:
            self._data.backgrounds.weight = weight

    def close(self) -> None:
        """Nothing to end."""


class _Thread(_Here):
    """Draws in a thread."""

    def __init__(self, data: TrainingData, config: TrainConfig) -> None:
        super().__init__(data, config)
        self._pool = ThreadPoolExecutor(1)
        self._waiting: list[Future[Batch]] = []

    def ask(self, step: int) -> None:
        self._waiting.append(self._pool.submit(draw_batch, self._data, self._config, step))

    def take(self) -> Batch:
        return self._waiting.pop(0).result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _Process:
    """Draws in a process of its own, which ends when this one does, however it ends."""

    def __init__(self, data: TrainingData, config: TrainConfig, others: Sequence[Connection]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, there = context.Pipe()
        self._process = context.Process(
            target=_draw_on_request, args=(data, config, there, [*others, self.pipe]), daemon=True
        )
        self._process.start()
        there.close()

    def ask(self, step: int) -> None:
        self.pipe.send(step)

    def take(self) -> Batch:
        try:
            batch: Batch | BaseException = self.pipe.recv()
        except EOFError:
            raise GeoslaveError(
                "the process that draws chips was ended (out of memory?): lower 'batch', or set 'workers: 0'"
            ) from None
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def reweigh(self, weight: NDArray[np.float64]) -> None:
        self.pipe.send(weight)

    def close(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join()


Hand = _Here | _Process


def _draw_on_request(data: TrainingData, config: TrainConfig, pipe: Connection, others: Sequence[Connection]) -> None:
    """Answer step numbers with batches and take new weights, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what the command does when it is stopped is not ours to do
    for end in others:  # else this process would hold them open, and nobody would learn that training died
        end.close()
    with suppress(EOFError, OSError):
        while True:
            message: Any = pipe.recv()
            if isinstance(message, np.ndarray):
                assert data.backgrounds is not None
                data.backgrounds.weight = message
                continue
            try:
                pipe.send(draw_batch(data, config, message))
            except Exception as error:
                pipe.send(error)
    os._exit(0)  # what the parent registered to be done at its end is not this process's to do
