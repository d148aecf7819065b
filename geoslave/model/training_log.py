"""What a training writes down as it goes: a CSV file, and TensorBoard's events where it is installed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLUMNS = ("step", "loss", "loss_pixels", "loss_chips", "learning_rate", "seconds", "f1", "average_precision", "auc")
NAME = "log.csv"


class TrainingLog:
    """A row a step. Without a folder nothing is written."""

    def __init__(self, folder: Path | None, step: int) -> None:
        """
        Args:
            step: steps already done; rows of later ones, from before an interruption, are dropped.
        """
        self._file: Any = None
        self._board: Any = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_log(folder) if int(row["step"]) <= step]
        self._file = (folder / NAME).open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._writer.writeheader()
        self._writer.writerows(kept)
        self._board = _tensorboard(folder / "tensorboard", step)

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Note what a step gave."""
        if self._file is None:
            return
        row = {name: "" if figures.get(name) is None else f"{figures[name]:.6g}" for name in COLUMNS[1:]}
        self._writer.writerow({"step": step, **row})
        self._file.flush()  # a checkpoint must never be ahead of its log
        if self._board is not None:
            for name, value in figures.items():
                if value is not None:
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        for end in (self._file, self._board):
            if end is not None:
                end.close()


@contextmanager
def training_log(folder: Path | None, step: int) -> Iterator[TrainingLog]:
    """A log that is closed whatever happens."""
    log = TrainingLog(folder, step)
    try:
        yield log
    finally:
        log.close()


def read_log(folder: Path) -> list[dict[str, str]]:
    """The rows of a folder's log; none if there is no log. A row cut off in the writing is left out."""
    path = folder / NAME
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    return [{name: row.get(name, "") for name in COLUMNS} for row in rows if row.get("step", "").isdigit()]


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer of events, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
