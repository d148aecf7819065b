"""What gives a place, a site or a machine away, in text and in tables: the rules of the release linter.

The rules are strict on purpose: a public release needs no number with four decimals, so any is refused. The
only exact coordinates it may hold are corners of the H3 cells that it names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from geoslave.release.cells import FINEST, h3_module

Found = tuple[str, str]
"""Kind of leak, and what was seen of it."""

_NUMBER = r"[-+]?\d{1,9}\.\d+(?:[eE][-+]?\d+)?"
_ANY_NUMBER = re.compile(rf"(?<![\d.]){_NUMBER}(?!\d|\.\d)")
_COMMA_NUMBER = re.compile(r"(?<![\d.,])\d{1,3},\d{4,}(?![\d,])")
_PAIR = re.compile(
    rf"(?<![\d.])({_NUMBER})\s*(?:°|deg)?\s*[NSEWnsew]?[\s,;:/|_&+]{{1,4}}(?:[A-Za-z]{{1,9}}[\s=:_]{{1,3}})?({_NUMBER})(?!\d|\.\d)"
)
_PLACES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("coordinate", re.compile(r"\d{1,3}\s*(?:°|º|deg\b)\s*\d{1,2}(?:\.\d+)?\s*(?:'|′|’|min\b)")),
    ("coordinate", re.compile(r"(?<![A-Za-z0-9])[NS]\s?\d{4,}[\s_,-]*[EW]\s?\d{4,}")),
    ("coordinate", re.compile(r"(?<![\d.])[1-9]\d{5}(?:\.\d+)?[\s,;:/|_EeNnm]{1,6}\d{6,7}(?:\.\d+)?(?![\d.-])")),
    (
        "coordinate",
        re.compile(r"\b\d{1,2}[C-HJ-NP-X]\s?[A-HJ-NP-Z]{2}\s?(?:\d{4}|\d{6}|\d{8}|\d{10}|\d{3,5}\s\d{3,5})\b"),
    ),
    ("coordinate", re.compile(r"(?<![A-Z0-9+])[23456789CFGHJMPQRVWX]{4,8}\+[23456789CFGHJMPQRVWX]{2,7}(?![A-Z0-9+])")),
    (
        "coordinate",
        re.compile(r"\b(?:POINT|LINESTRING|POLYGON|MULTI(?:POINT|POLYGON|LINESTRING))\s*(?:Z|M|ZM)?\s*\(", re.I),
    ),
    (
        "coordinate",
        re.compile(r"(?<![0-9A-Fa-f])(?:010[1-7]0000[0-9A-F]0|00[02468AC]000000[1-7])[0-9A-Fa-f]{32,}", re.I),
    ),
    (
        "coordinate",
        re.compile(
            r"(?:google\.[a-z.]+/maps|maps\.google|goo\.gl/maps|maps\.app\.goo|#map=|geo:-?\d|what3words|w3w\.co)", re.I
        ),
    ),
    ("id", re.compile(r"(?<![0-9A-Za-z])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{16}(?![0-9A-Za-z])")),
    ("id", re.compile(r"(?<![A-Za-z0-9])S[12][ABC]_[A-Z0-9]+_")),
    ("id", re.compile(r"(?<![A-Za-z0-9])T\d{2}[C-HJ-NP-X][A-HJ-NP-Z]{2}(?![A-Za-z0-9])")),
    ("id", re.compile(r"(?<![A-Za-z0-9])r\d{3,}c\d{3,}(?![A-Za-z0-9])")),
    (
        "path",
        re.compile(
            r"(?<![\w:/.])/(?:home|Users|mnt|media|tmp|work|data|root|var|opt|srv|scratch|etc|private|Volumes|gpfs|lustre)/[^\s\"'<>]*"
        ),
    ),
    ("path", re.compile(r"(?<![A-Za-z])[A-Za-z]:\\{1,2}[^\s\\\"'<>]+")),
    ("path", re.compile(r"file://|(?<![\w/~])~[a-z_]*/\w|(?<!\\)\\\\[\w.-]+\\\w")),
)
_PLACE_KEY = re.compile(
    r"^(?:.*_)?(?:lat|lon|lng|long|latitude|longitude|x|y|[xy]m(?:in|ax)|m(?:in|ax)[xy]|easting|northing|utm\w*|mgrs|geohash"
    r"|plus_?code|w3w|what3words|coord\w*|wkt|wkb|geom\w*|bbox|gps\w*|centroid\w*|transform|bounds)(?:_.*)?$",
    re.I,
)
_ID_KEY = re.compile(
    r"^(?:detection|site|scene|tile|chip|task|block|kiln|mine|object|building)s?_?(?:id|ids|name|path)?$", re.I
)
_PERSON_KEY = re.compile(
    r"^(?:reviewers?|user|user_?name|owner|person|login|host|hostname|phone|address|village)(?:_(?:id|name))?$", re.I
)
_CELL = re.compile(r"(?<![0-9A-Za-z])8[0-9a-f]{14}(?![0-9A-Za-z])", re.I)
_CELL_NUMBER = re.compile(r"(?<!\d)[56]\d{17}(?!\d)")
_CHECKSUM = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{40})(?![0-9a-f])")
"""SHA-256 and SHA-1: as any string of digits, they now and then look like something else."""
_CONSTANTS = frozenset({Decimal("298.257223563"), Decimal("0.0174532925199433"), Decimal("0.01745329251994328")})
"""Of coordinate systems' definitions."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the sites that must not be told, and the corners that may be."""

    secrets: frozenset[str] = frozenset()
    """Ids of sites and scenes, to be found wherever they stand."""
    user: str = ""
    corners: frozenset[float] = field(default_factory=frozenset)
    """Longitudes and latitudes of corners of the cells named in a file, five decimals."""

    def with_corners_of(self, text: str) -> Known:
        """With the corners of the cells that a text names."""
        names = frozenset(cell for cell, resolution in _cells(text) if resolution <= FINEST)
        corners = self.corners.union(*(_corners(name) for name in names))
        return Known(self.secrets, self.user, corners)


def in_text(text: str, known: Known) -> Iterator[Found]:
    """What a text gives away."""
    text = _CHECKSUM.sub("#", text)
    for cell, resolution in _cells(text):
        if resolution > FINEST:
            yield "cell", f"{cell[:6]}…, a cell of resolution {resolution}"
    for kind, pattern in _PLACES:
        for match in pattern.finditer(text):
            yield kind, match[0]
    yield from _numbers_in(text, known)
    for word in set(re.findall(r"[\w.:@-]+", text)) & known.secrets if known.secrets else ():
        yield "id", word
    if known.user and re.search(rf"(?<!\w){re.escape(known.user)}(?!\w)", text):
        yield "person", "the name of this machine's user"


def in_value(key: str, value: Any, known: Known) -> Iterator[Found]:
    """What a value under a key (a column, a property) gives away; text is looked at by `in_text` too."""
    if value is None or value == "":
        return
    if _ID_KEY.match(key):
        yield "id", f"{key} = {value}"
    if _PERSON_KEY.match(key) and isinstance(value, str):
        yield "person", f"{key} = {value}"
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        yield from _number(key, value, known)
    elif isinstance(value, str):
        if _PLACE_KEY.match(key) and (number := _decimal(value)) is not None:
            yield from _number(key, number, known)
        if re.match(r"(?:geohash|what3words|w3w)$", key, re.I):
            yield "coordinate", f"{key} = {value}"


def in_coordinates(values: Iterable[float], known: Known) -> Iterator[Found]:
    """Coordinates of a geometry: only corners of named cells may stand there."""
    for value in values:
        if round(float(value), 5) not in known.corners:
            yield "coordinate", f"a geometry that is no named cell ({value:.6g})"
            return


def _numbers_in(text: str, known: Known) -> Iterator[Found]:
    for match in _ANY_NUMBER.finditer(text):
        if _is_precise(number := Decimal(match[0]), known):
            yield "coordinate", f"{match[0]} ({_decimals(number)} decimals)"
    for match in _COMMA_NUMBER.finditer(text):
        yield "coordinate", match[0]
    for match in _PAIR.finditer(text):
        pair = [Decimal(match[1]), Decimal(match[2])]
        if all(_decimals(n) >= 2 and 2 <= abs(n) <= 180 and not _is_corner(n, known) for n in pair):
            yield "coordinate", match[0]


def _number(key: str, value: Any, known: Known) -> Iterator[Found]:
    number = _decimal(value)
    if number is None or _is_corner(number, known):
        return
    if _is_precise(number, known) or (_PLACE_KEY.match(key) and (_decimals(number) >= 2 or abs(number) > 180)):
        yield "coordinate", f"{key} = {value}"
    elif number == number.to_integral_value() and 5 * 10**17 < number < 7 * 10**17:
        yield from (found for found in in_text(str(int(number)), known) if found[0] == "cell")


def _is_precise(number: Decimal, known: Known) -> bool:
    return _decimals(number) >= 4 and number not in _CONSTANTS and not _is_corner(number, known)


def _is_corner(number: Decimal, known: Known) -> bool:
    return round(float(number), 5) in known.corners


def _decimals(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _decimal(value: Any) -> Decimal | None:
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _cells(text: str) -> Iterator[tuple[str, int]]:
    """H3 cells written in a text, as hexadecimals or as whole numbers, with their resolution."""
    h3 = h3_module()
    names = {match[0].lower() for match in _CELL.finditer(text)}
    names |= {f"{int(match[0]):x}" for match in _CELL_NUMBER.finditer(text)}
    for name in sorted(names):
        if h3.is_valid_cell(name):
            yield name, h3.get_resolution(name)


@cache
def _corners(cell: str) -> frozenset[float]:
    return frozenset(round(part, 5) for corner in h3_module().cell_to_boundary(cell) for part in corner)


def walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, and every single value, of nested JSON."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield "", str(name)
            yield from walk(inner, str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from walk(inner, key)
    else:
        yield key, value
