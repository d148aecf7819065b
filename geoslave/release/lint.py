"""The release linter: opens every file of a folder, and what is packed inside, and says what gives a site away.

What cannot be opened is refused: nobody can say what is in it.
"""

from __future__ import annotations

import base64
import binascii
import csv
import gzip
import hashlib
import html
import io
import json
import re
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from geoslave.errors import GeoslaveError
from geoslave.release import patterns
from geoslave.release.patterns import Found, Known

SUMS = "SHA256SUMS"
ABOUT = "release.json"
MOST_BYTES = 256 << 20
"""Larger files, packed or unpacked, are refused."""
DEEPEST = 4
"""Archives within archives."""
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"GIF8", b"BM")
_GEO_TAGS = {33550: "pixel scale", 33922: "tie point", 34264: "transform", 34735: "geo keys"}
_SIDECARS = re.compile(r"\.(?:[pjtbg][gpi]?[fp]?w|wld|aux\.xml|ovr|prj|tab|map|points)$", re.I)
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{4}\s?){16,}={0,2}")
_PASSED_OVER = re.compile(r"gpkg_spatial_ref_sys$|rtree_.*_(?:node|parent|rowid)$")
"""Tables that are not looked into: definitions of coordinate systems, full of digits; and the pages of a spatial
index, whose boxes are read through the index itself."""
_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Leak:
    """Something a public release must not hold."""

    file: str
    """Path in the release; what is packed inside comes after a '!'."""
    kind: str
    """coordinate, id, path, person, cell, picture, small count, precise, unreadable, damaged."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}: {self.what}"


def lint_folder(folder: Path, secrets: Iterable[str] = (), user: str = "", pictures_seen: bool = False) -> list[Leak]:
    """Everything in a folder that a public release must not hold; empty if it may go out.

    Args:
        secrets: ids of the sites and scenes, to be found wherever they stand; words without a digit are no ids.
        user: the name of this machine's user.
        pictures_seen: a person has looked at the pictures: none is a chip.

    Raises:
        GeoslaveError: if there is no such folder.
    """
    if not folder.is_dir():
        raise GeoslaveError(f"{folder} is no folder: give the folder of a release")
    known = Known(frozenset(secret for secret in secrets if len(secret) >= 6 and re.search(r"\d", secret)), user)
    leaks: list[Leak] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            leaks.append(Leak(name, "path", "a link to somewhere else"))
        elif path.is_file():
            leaks += _file(name, path, known, pictures_seen)
        elif path.is_dir():
            leaks += (Leak(name, kind, what) for kind, what in patterns.in_text(_spaced(path.name), known))
    leaks += _sums(folder)
    leaks += _about(folder)
    return list(dict.fromkeys(leaks))


def _file(name: str, path: Path, known: Known, pictures_seen: bool) -> list[Leak]:
    if path.stat().st_size > MOST_BYTES:
        return [Leak(name, "unreadable", f"larger than {MOST_BYTES >> 20} MiB: split it")]
    return _content(name, path.read_bytes(), known, pictures_seen)


def _content(name: str, data: bytes, known: Known, pictures_seen: bool, depth: int = 0) -> list[Leak]:
    """The leaks of one file, its name included."""
    found: list[Found] = list(patterns.in_text(_spaced(PurePosixPath(name.split("!")[-1]).name), known))
    if _SIDECARS.search(name):
        found.append(("coordinate", "a file that puts a picture on the map"))
    packed = _unpacked(data)
    leaks = [] if packed is None else _packed(name, packed, known, pictures_seen, depth)
    if packed is not None and not data.startswith(_IMAGES):  # an archive can stand behind a picture
        return [*(Leak(name, kind, _short(what)) for kind, what in found), *leaks]
    try:
        found += _opened(name, data, known, pictures_seen, depth)
    except Exception as error:  # whatever a damaged file makes a reader say
        found.append(("unreadable", f"cannot be looked into ({type(error).__name__})"))
    return [*(Leak(name, kind, _short(what)) for kind, what in found), *leaks]


def _opened(name: str, data: bytes, known: Known, pictures_seen: bool, depth: int) -> Iterator[Found]:
    looks: tuple[tuple[Callable[[bytes], bool], Callable[[bytes, Known], Iterator[Found]]], ...] = (
        (lambda b: b.startswith(b"SQLite format 3\0"), _sqlite),
        (lambda b: b.startswith(b"PAR1"), _parquet),
        (lambda b: b.startswith(b"fgb"), _flatgeobuf),
        (lambda b: b.startswith(_IMAGES) or b[8:12] == b"WEBP", _image),
    )
    for fits, look in looks:
        if fits(data[:16]):
            if look is _image and not pictures_seen:
                yield "picture", "it could be a chip: look at it, then say --pictures-seen"
            yield from look(data, known)
            if look in (_image, _sqlite):  # they can hold more than their readers show
                yield from patterns.in_text(_strings(data), known.with_corners_of(_strings(data)))
            return
    text = _decoded(data)
    if text is None:
        yield "unreadable", "a kind of file that cannot be looked into"
        return
    yield from _text(text, known.with_corners_of(text), depth)


# ---------------------------------------------------------------- packed


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes | None]] | None:
    """Members of an archive, None in place of what is too large; None for what is no archive."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _zip_members(data)
    if data.startswith(b"\x1f\x8b"):
        return _gzip_member(data)
    if data[257:262] == b"ustar":
        return _tar_members(data)
    return None


def _packed(
    name: str, members: Iterator[tuple[str, bytes | None]], known: Known, pictures_seen: bool, depth: int
) -> list[Leak]:
    if depth >= DEEPEST:
        return [Leak(name, "unreadable", "archives within archives within archives")]
    leaks: list[Leak] = []
    try:
        for member, data in members:
            inner = f"{name}!{member}"
            if data is None:
                leaks.append(Leak(inner, "unreadable", "too large, or locked"))
            else:
                leaks += _content(inner, data, known, pictures_seen, depth + 1)
    except Exception as error:  # whatever a damaged archive makes a reader say
        leaks.append(Leak(name, "unreadable", f"cannot be unpacked ({type(error).__name__})"))
    return leaks


def _zip_members(data: bytes) -> Iterator[tuple[str, bytes | None]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.comment:
            yield "comment", archive.comment
        if not archive.infolist():
            yield "content", None
        for member in archive.infolist():
            if member.is_dir():
                continue
            locked = member.flag_bits & 1 or member.file_size > MOST_BYTES
            yield member.filename, None if locked else archive.read(member)


def _gzip_member(data: bytes) -> Iterator[tuple[str, bytes | None]]:
    with gzip.open(io.BytesIO(data)) as packed:
        content = packed.read(MOST_BYTES + 1)
    yield "content", content if len(content) <= MOST_BYTES else None


def _tar_members(data: bytes) -> Iterator[tuple[str, bytes | None]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() and member.size <= MOST_BYTES else None
            yield member.name, file.read() if file is not None else None if member.isfile() else b""


# ---------------------------------------------------------------- text


def _decoded(data: bytes) -> str | None:
    encodings = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",)
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            return None
        return None if "\0" in text else text
    return None


def _text(text: str, known: Known, depth: int = 0) -> Iterator[Found]:
    for form in dict.fromkeys((text, html.unescape(text), unquote(text))):
        yield from patterns.in_text(form, known)
    parsed = _json(text)
    if parsed is not None:
        yield from _values(patterns.walk(parsed), known, depth)
    else:
        yield from _columns(text, known)
    yield from _hidden(text, known, depth)


def _json(text: str) -> Any:
    try:
        parsed = json.loads(text, parse_float=Decimal)
    except ValueError:
        return None
    return parsed if isinstance(parsed, (dict, list)) else None


def _values(pairs: Iterable[tuple[str, Any]], known: Known, depth: int = 0) -> Iterator[Found]:
    """Keys and values, of JSON or of a table."""
    for key, value in pairs:
        if isinstance(value, bytes):
            yield from _bytes(value, known, depth)
            continue
        yield from patterns.in_value(key, value, known)
        if isinstance(value, str):
            yield from patterns.in_text(value, known)


def _columns(text: str, known: Known) -> Iterator[Found]:
    """Text with a header, as CSV: the header says what the numbers are."""
    head = text.split("\n", 1)[0]
    for separator in (",", ";", "\t", "|"):
        if separator in head:
            rows = csv.DictReader(io.StringIO(text), delimiter=separator)
            for row in rows:
                pairs = ((str(key or "").strip().strip('"'), value) for key, value in row.items())
                yield from _values(((k, v) for k, v in pairs if isinstance(v, str)), known)
            return


def _hidden(text: str, known: Known, depth: int) -> Iterator[Found]:
    """What stands in base64, as pictures do in notebooks."""
    for match in _BASE64.finditer(text):
        run = re.sub(r"\s", "", match[0]).replace("-", "+").replace("_", "/")
        try:
            data = base64.b64decode(run + "=" * (-len(run) % 4))
        except (binascii.Error, ValueError):
            continue
        yield from _bytes(data, known, depth, sure=False)


def _bytes(data: bytes, known: Known, depth: int, sure: bool = True) -> Iterator[Found]:
    """Bytes inside a table or a text: a geometry, a picture, an archive, text."""
    coordinates = _geometry(data)
    if coordinates is not None:
        yield from patterns.in_coordinates(coordinates, known)
    elif data.startswith((*_IMAGES, b"PK\3\4", b"\x1f\x8b", b"SQLite format 3", b"PAR1", b"fgb")):
        yield from ((leak.kind, f"inside: {leak.what}") for leak in _content("", data, known, False, depth + 1))
    elif (text := _decoded(data)) is not None:
        yield from patterns.in_text(text, known)
    elif sure:
        yield "unreadable", "bytes in a table that cannot be looked into"


# ---------------------------------------------------------------- tables


def _sqlite(data: bytes, known: Known) -> Iterator[Found]:
    """Every table of a database, a GeoPackage's too."""
    data = data[:18] + b"\1\1" + data[20:]  # read what was written with a log as if without
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(data)
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        if database.execute("PRAGMA freelist_count").fetchone()[0]:
            yield "unreadable", "deleted rows may still stand in it: VACUUM it"
        tables = database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        for name, sql in tables:
            yield from patterns.in_text(f"{name} {sql}", known)
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
        names = [name for name in names if not _PASSED_OVER.match(name)]
        for name in names:
            rows = database.execute(f'SELECT * FROM "{name}"')
            known = known.with_corners_of(" ".join(str(v) for row in rows for v in row if isinstance(v, (str, int))))
        for name in names:
            yield from _sqlite_table(database, name, known)


def _sqlite_table(database: sqlite3.Connection, name: str, known: Known) -> Iterator[Found]:
    index = name.startswith("rtree_")
    rows = database.execute(f'SELECT * FROM "{name}"')
    keys = [column[0] for column in rows.description]
    for row in rows:
        if index:
            yield from _boxes(row[1:], known)
        else:
            yield from _values(zip(keys, row, strict=True), known)


def _boxes(row: Iterable[Any], known: Known) -> Iterator[Found]:
    """Boxes of a spatial index hold rounded (32 bit) corners."""
    for value in row:
        if not any(abs(value - corner) < 1e-4 for corner in known.corners):
            yield "coordinate", f"a box in a spatial index ({value:.6g})"
            return


def _parquet(data: bytes, known: Known) -> Iterator[Found]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data))
    table = file.read()
    names = list(table.column_names)
    texts = " ".join(str(v) for c in names for v in table[c].to_pylist() if isinstance(v, (str, int)))
    known = known.with_corners_of(texts)
    for key, value in (table.schema.metadata or {}).items():
        parsed = _json(value.decode("utf-8", "replace"))
        if key == b"ARROW:schema":
            continue
        if isinstance(parsed, dict):
            yield from _values(patterns.walk(_without_crs(parsed)), known)
        else:
            yield from _bytes(value, known, 0)
    yield from _frame({name: table[name].to_pylist() for name in names}, known)


def _flatgeobuf(data: bytes, known: Known) -> Iterator[Found]:
    import pyogrio
    import shapely

    table = pyogrio.read_dataframe(io.BytesIO(data))
    plain = {column: table[column].tolist() for column in table.columns if column != "geometry"}
    known = known.with_corners_of(" ".join(str(value) for values in plain.values() for value in values))
    yield from _frame(plain, known)
    yield from patterns.in_coordinates(shapely.get_coordinates(table.geometry.to_numpy()).ravel(), known)


def _frame(columns: Mapping[str, list[Any]], known: Known) -> Iterator[Found]:
    for name, values in columns.items():
        yield from patterns.in_text(_spaced(name), known)
        yield from _values((pair for value in values for pair in patterns.walk(value, name)), known)


def _without_crs(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_crs(inner) for key, inner in value.items() if key not in ("crs", "geometry_types")}
    return value


def _geometry(data: bytes) -> Any:
    """Coordinates of WKB, plain or as a GeoPackage keeps it; None for other bytes."""
    import shapely

    if data[:2] == b"GP" and len(data) > 8:
        envelope = (0, 32, 48, 48, 64, 0, 0, 0)[data[3] >> 1 & 7]
        data = data[8 + envelope :]
    if data[:1] not in (b"\0", b"\1") or len(data) < 9:
        return None
    try:
        return shapely.get_coordinates(shapely.from_wkb(data)).ravel()
    except shapely.errors.GEOSException:
        return None


# ---------------------------------------------------------------- pictures


def _image(data: bytes, known: Known) -> Iterator[Found]:
    """What a picture says besides its pixels."""
    from PIL import ExifTags, Image

    with Image.open(io.BytesIO(data)) as picture:
        exif = picture.getexif()
        if exif.get_ifd(ExifTags.IFD.GPSInfo):
            yield "coordinate", "GPS in the picture's EXIF"
        for tag, meaning in _GEO_TAGS.items():
            if tag in exif:
                yield "coordinate", f"the picture is georeferenced ({meaning})"
        told = [*picture.info.values(), *exif.values(), *exif.get_ifd(ExifTags.IFD.Exif).values()]
    for value in told:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if isinstance(text, str):
            yield from patterns.in_text(text, known)


# ---------------------------------------------------------------- the release as a whole


def _sums(folder: Path) -> Iterator[Leak]:
    """Every file is listed with its checksum, and nothing else is there."""
    path = folder / SUMS
    if not path.is_file():
        yield Leak(SUMS, "damaged", "it is not there: nobody can tell if the release is whole")
        return
    lines = [line.split("  ", 1) for line in path.read_text("utf-8").splitlines() if "  " in line]
    listed = {name: checksum for checksum, name in lines}
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p != path}
    for name in sorted(listed.keys() - there.keys()):
        yield Leak(name, "damaged", f"listed in {SUMS}, but not there")
    for name in sorted(there.keys() - listed.keys()):
        yield Leak(name, "damaged", f"not listed in {SUMS}: it was put there afterwards")
    for name in sorted(there.keys() & listed.keys()):
        if hashlib.sha256(there[name].read_bytes()).hexdigest() != listed[name]:
            yield Leak(name, "damaged", f"not as {SUMS} says: it was changed afterwards")


def _about(folder: Path) -> Iterator[Leak]:
    """The release says it is public, and its counts give nothing away."""
    path = folder / ABOUT
    if not path.is_file():
        yield Leak(ABOUT, "damaged", "it is not there: this is no release of geoslave")
        return
    try:
        about = json.loads(path.read_text("utf-8"))
        if about["kind"] != "public":
            yield Leak(ABOUT, "precise", "this is a precise export for one recipient, no public release")
            return
        yield from _small_counts(folder / "cells.csv", int(about["k"]))
    except (ValueError, KeyError, TypeError, OSError) as error:
        yield Leak(ABOUT, "unreadable", f"not as geoslave writes it ({type(error).__name__})")


def _small_counts(path: Path, k: int) -> Iterator[Leak]:
    """Counts below k, published or left by subtraction."""
    h3 = patterns.h3_module()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for measure in ("n_detections", "estimate"):
        counts = {row["h3_cell"]: int(row[measure]) for row in rows if row[measure]}
        around = {
            cell: next((up for up in _up(h3, cell) if up in counts), "total") for cell in counts if cell != "total"
        }
        for cell, count in counts.items():
            if count < k:
                yield Leak(path.name, "small count", f"{measure} of {cell} is below {k}")
            inside = sum(counts[part] for part, node in around.items() if node == cell)
            if inside and 0 < count - inside < k:
                yield Leak(path.name, "small count", f"{measure} of {cell} minus its parts is below {k}")


def _up(h3: Any, cell: str) -> Iterator[str]:
    return (h3.cell_to_parent(cell, r) for r in range(h3.get_resolution(cell) - 1, -1, -1))


def _strings(data: bytes) -> str:
    """Runs of eight and more printable characters, one a line."""
    return "\n".join(run.decode("ascii") for run in re.findall(rb"[\x20-\x7e]{8,}", data))


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _short(what: str) -> str:
    """Enough to find it, not enough to pass it on in a log."""
    what = " ".join(what.split())
    return what if len(what) <= 2 * _SHOWN or not re.search(r"\d\.\d{3}|/", what) else what[:_SHOWN] + "…"
