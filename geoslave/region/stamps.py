"""What tells that a file is another than before: its size and time, or what its server calls this version.

A region's imagery is stamped when it is looked at first, and looked at again after each block was
read: what was read of a file that was replaced meanwhile is thrown away.
"""

from __future__ import annotations

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

from geoslave.errors import MissingExtra, SceneError
from geoslave.imagery.names import shown_path, without_secrets

PAUSES_S: tuple[float, ...] = (0.5, 1, 2, 4)
"""Seconds before a server that failed is asked again; then it is given up."""
TIMEOUT_S = 30
_HEAD_BYTES = 16_384
"""So much of a file stands for it where its server names no version: a GeoTIFF's list of blocks is there."""
_AT_ONCE = 16
_LATER = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which asking again helps."""


class ReplacedScene(SceneError):
    """A file is not the one that the run began with."""


def stamp(path: str, expected: str | None = None) -> str:
    """What changes when a file does: its size and time, or what its server calls this version.

    Args:
        expected: an answer that needs no second look, where a server names no version.

    Raises:
        SceneError: if it is not there or its server does not answer, also not after a while.
    """
    if path.startswith(("http://", "https://")):
        return _patiently(path, expected)
    if _is_addressed(path):
        return _store_stamp(path)
    try:
        found = Path(path).stat()
    except OSError as error:
        if path.startswith("/vsi") or ":" in path:
            return "unknown"  # GDAL knows what it is; there is no file to look at
        raise SceneError(f"{path} cannot be found ({error.strerror}): check the name") from error
    return f"{found.st_size}-{found.st_mtime_ns}"


def stamps(paths: Iterable[str], expected: Mapping[str, str] | None = None) -> dict[str, str]:
    """The stamps of files, by path; those at addresses are asked for together.

    Raises:
        SceneError: as `stamp`.
    """
    wanted = list(dict.fromkeys(paths))
    known = expected or {}
    if not any(map(_is_addressed, wanted)):
        return {path: stamp(path) for path in wanted}
    with ThreadPoolExecutor(min(_AT_ONCE, len(wanted))) as pool:
        return dict(zip(wanted, pool.map(lambda path: stamp(path, known.get(path)), wanted), strict=True))


def refuse_replaced(before: Mapping[str, str], *, on_disk_only: bool = False) -> None:
    """Make sure that no file has changed since it was stamped.

    Args:
        on_disk_only: look at those only that cost no request.

    Raises:
        ReplacedScene: if one has.
    """
    now = stamps((path for path in before if not (on_disk_only and _is_addressed(path))), before)
    for path, found in now.items():
        if found != before[path]:
            raise ReplacedScene(
                f"{shown_path(path)} was replaced while the run went on: run again, a new run begins with it"
            )


def drop_older(expected: Mapping[str, str]) -> None:
    """Have GDAL drop what this process has read of other versions of files at addresses.

    A worker outlives runs: it would go on with the bytes of a file that was replaced between two of them.
    """
    for path, told in expected.items():
        if _is_addressed(path) and _SEEN.setdefault(path, told) != told:
            from geoslave.imagery.patient import forget

            forget(path)
            _SEEN[path] = told


_SEEN: dict[str, str] = {}
"""Stamps of the files at addresses that this process has read."""


def _is_addressed(path: str) -> bool:
    return "://" in path


def _patiently(url: str, expected: str | None) -> str:
    for pause in (*PAUSES_S, None):
        try:
            return _web_stamp(url, expected)
        except (OSError, HTTPException, ValueError) as error:
            final = isinstance(error, ValueError) or (
                isinstance(error, urllib.error.HTTPError) and error.code not in _LATER
            )
            if final or pause is None:
                told = f"{shown_path(url)} does not answer ({error}): check the address and the network"
                raise SceneError(told) from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def _web_stamp(url: str, expected: str | None) -> str:
    # GET instead of HEAD: addresses that are signed are so for GET
    told, _ = _first_bytes(url, 1)
    version = told.get("ETag") or told.get("Last-Modified")
    if version:
        return f"{version} {_length(told)}"
    before = expected
    for _ in range(len(PAUSES_S) + 1):
        told, head = _first_bytes(url, _HEAD_BYTES)
        found = f"{_length(told)} {hashlib.sha256(head).hexdigest()[:16]}"
        if found == before:  # garbage does not come twice the same
            return found
        before = found
    raise HTTPException("no two answers are the same")


def _first_bytes(url: str, count: int) -> tuple[Mapping[str, str], bytes]:
    """(headers, the first `count` bytes) of what lies at an address."""
    request = urllib.request.Request(url, headers={"Range": f"bytes=0-{count - 1}"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        head = answer.read(count) if count > 1 else b""
        length = answer.headers.get("Content-Length")
        if count > 1 and length is not None and len(head) < min(count, int(length)):
            raise HTTPException("the answer was cut short")
        return answer.headers, head


def _length(told: Mapping[str, str]) -> str:
    """Bytes of the whole file, as far as its server tells."""
    return (told.get("Content-Range") or "").rpartition("/")[2] or "of unknown length"


def _store_stamp(path: str) -> str:
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        return "unknown"
    try:
        store, place = fsspec.core.url_to_fs(path)
        store.invalidate_cache()
        told = store.info(place)
    except ImportError as error:
        raise MissingExtra(f"reading {shown_path(path)} ({error})", "region") from error
    except Exception as error:  # each store's library has errors of its own: no credentials, no such host, ...
        why = without_secrets(" ".join(str(error).split())) or type(error).__name__
        raise SceneError(
            f"{shown_path(path)} cannot be found ({why}): check the address, the store's settings and the network"
        ) from error
    return str(told.get("ETag") or f"{told.get('size')}-{told.get('mtime') or told.get('LastModified')}")
