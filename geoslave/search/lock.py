"""One process at a time on an index, a campaign or a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from geoslave.region.layout import AlreadyRunning, RegionFolder, locked
from geoslave.search import SearchError


@contextmanager
def alone(folder: Path, why: str) -> Iterator[None]:
    """Let one process work on a folder; the lock of one that died is free.

    Args:
        why: what is said where another one has it.

    Raises:
        SearchError: if another one is at it.
        OutputError: if the folder cannot be written to.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(RegionFolder(folder)))
        except AlreadyRunning as error:
            raise SearchError(f"{folder}: {why}") from error
        yield
