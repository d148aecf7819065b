"""What a block leaves on disk: its score map and its objects, both with their checksum.

An `.objects` file is three things in a row: the SHA-256 of what follows, as 64 letters and a new
line; one line of JSON with facts; what `label_block` found, class by class, deflated: one line of JSON
with the lengths of its arrays, then their bytes, little-endian (numpy's .npz took ten times as long to
read). It is written last: its being there means the block is done.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoslave.region.layout import RunFolder, sha256, write_whole

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from geoslave.detections.polygonize import BlockObjects, Parts

_PARTS = {"n_pixels": "<i8", "score_sum": "<i8", "score_max": "|u1", "truncated": "|b1", "corners": "<i4"}
"""Columns of `Parts` and their types on disk."""
_CORNER, _RUN = 4, 6
"""Numbers that make a corner, and a run."""


class Done(NamedTuple):
    """What a block that is done counts for."""

    objects: int
    pixels: int


def pack(found: Sequence[BlockObjects]) -> bytes:
    """What was found, one entry a class."""
    lengths, content = [], []
    for objects in found:
        parts = (objects.whole, objects.pieces)
        lengths.append([objects.high, len(objects.runs), *(n for one in parts for n in (len(one), len(one.corners)))])
        content.append(np.ascontiguousarray(objects.runs, "<i4").tobytes())
        for one in parts:
            content += [np.ascontiguousarray(getattr(one, name), kind).tobytes() for name, kind in _PARTS.items()]
    return zlib.compress(json.dumps(lengths).encode() + b"\n" + b"".join(content), 1)


def unpack(packed: bytes) -> list[BlockObjects]:
    """The inverse of `pack`."""
    from geoslave.detections.polygonize import BlockObjects

    content = zlib.decompress(packed)
    start = content.index(b"\n") + 1
    arrays = _Arrays(content, start)
    found = []
    for high, n_runs, *parts in json.loads(content[:start]):
        runs = arrays.take("<i4", n_runs * _RUN).reshape(-1, _RUN)
        whole, pieces = (_parts(arrays, *parts[k : k + 2]) for k in (0, 2))
        found.append(BlockObjects(whole=whole, pieces=pieces, runs=runs, high=high))
    return found


@dataclass(slots=True)
class _Arrays:
    """Arrays that lie one behind the other."""

    content: bytes
    at: int

    def take(self, kind: str, count: int) -> NDArray[Any]:
        values = np.frombuffer(self.content, kind, count, self.at)
        self.at += values.nbytes
        return values


def _parts(arrays: _Arrays, count: int, n_corners: int) -> Parts:
    from geoslave.detections.polygonize import Parts

    n_pixels, score_sum, score_max, truncated = (arrays.take(_PARTS[name], count) for name in list(_PARTS)[:4])
    corners = arrays.take(_PARTS["corners"], n_corners * _CORNER).reshape(-1, _CORNER)
    return Parts(n_pixels, score_sum, score_max, truncated, corners)


def write_record(run: RunFolder, grid: str, block: str, facts: dict[str, Any], found: bytes) -> None:
    """Write the file that says a block is done.

    The disk is not waited for (10 ms and more a file): what a power cut leaves of it is known by its
    checksum and made again, and a run ends with `layout.settle`.

    Raises:
        OutputError: if the disk refuses.
    """
    body = json.dumps(facts, ensure_ascii=False).encode() + b"\n" + found
    write_whole(run.objects(grid, block), sha256(body).encode() + b"\n" + body, durable=False)


def read_record(run: RunFolder, grid: str, block: str) -> tuple[dict[str, Any], bytes] | None:
    """(facts, what was found, packed); None if it is not there, cut, or changed."""
    try:
        with run.objects(grid, block).open("rb", buffering=0) as file:
            content = file.readall()
    except OSError:
        return None
    body = memoryview(content)[65:]
    if content[:65] != sha256(body).encode() + b"\n":
        return None
    line, _, found = bytes(body).partition(b"\n")
    facts: dict[str, Any] = json.loads(line)
    return facts, found


def finished(run: RunFolder, grid: str, block: str) -> Done | None:
    """What a block that is done and whole, its score map included, counts for; None if it must be done (again)."""
    record = read_record(run, grid, block)
    if record is None:
        return None
    facts = record[0]
    recorded = facts["scores_sha256"]
    whole = recorded is None or scores_whole(run.scores(grid, block), recorded)
    return Done(facts["n_objects"], facts["n_pixels"]) if whole else None


def scores_geotiff(stored: NDArray[np.uint8], geobox: GeoBox, classes: Sequence[str]) -> bytes:
    """A block's stored scores [class, y, x] as a GeoTIFF."""
    from rasterio.io import MemoryFile

    from geoslave.imagery.raster import SCORE_NODATA, SCORE_STEPS

    count, rows, cols = stored.shape
    profile = {
        "driver": "GTiff", "height": rows, "width": cols, "count": count, "dtype": "uint8", "crs": str(geobox.crs),
        "transform": geobox.affine, "nodata": SCORE_NODATA, "tiled": True, "blockxsize": 256, "blockysize": 256,
        "interleave": "band", "compress": "DEFLATE", "zlevel": 1,
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(stored)
            for number, name in enumerate(classes, start=1):
                file.set_band_description(number, name)
                file.update_tags(number, scale=f"score = value / {SCORE_STEPS}")
        return bytes(memory.getbuffer())


def scores_whole(path: Path, recorded: str | None) -> bool:
    """Whether a block's score map is what its record says; without a word of it, anything is."""
    if recorded is None:
        return True
    try:
        return sha256(path.read_bytes()) == recorded
    except OSError:
        return False
