"""Outputs that are whole or absent: written to a temporary name in the same folder, then moved into place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from geoslave.errors import OutputError


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Say early that an output would be overwritten, before hours of work.

    Raises:
        OutputError: if something stands at `path` and `overwrite` is false, or its folder cannot be written to.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another name, or ask for --overwrite")
    standing = next(folder for folder in path.absolute().parents if folder.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {standing} cannot be written to: choose another place for {path.name}")


@contextmanager
def atomic_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it becomes `path`, on any failure it vanishes.

    The temporary name ends as `path` does (some writers choose the format by it). Files that a writer
    leaves beside it (journals, side-cars of the temporary name) vanish too.

    Raises:
        OutputError: if `path` exists and `overwrite` is false, or the disk refuses (full, read-only).
    """
    refuse_existing(path, overwrite)
    draft = path.with_name(f".~{uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}): {_next_step(path)}") from error
    finally:
        for left in path.parent.glob(f"{draft.name}*"):
            with suppress(OSError):
                left.unlink()


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines to a file: on the disk when this returns. What a crash cut off before stays alone on its line.

    Raises:
        OSError: if the disk refuses; then the file is as it was.
    """
    text = "".join(f"{line}\n" for line in lines).encode()
    with path.open("a+b", buffering=0) as file:  # with a buffer, closing would write once more what was refused
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            text = text if file.read(1) == b"\n" else b"\n" + text
        try:
            if file.write(text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder beside an output, for what is in the making; it vanishes at the end, whatever happens."""
    folder = beside.parent / f".~{uuid4().hex[:8]}-scratch"
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_bytes(folder: Path) -> int:
    """Free space on the disk of `folder`."""
    return shutil.disk_usage(folder).free


def _next_step(path: Path) -> str:
    with suppress(OSError):
        if free_bytes(path.parent) < 1 << 20:
            return "the disk is full: free some space or choose another --out"
    return "choose another --out"
