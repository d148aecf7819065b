"""What reviewers are asked, and what they answer.

A **validate** task asks about one detection: yes, no, unsure, bad_imagery, offset. A **search** task
shows a tile without the model's opinion and asks to mark every site in it. A task is what a reviewer's
browser may see, plus what the house keeps to itself (`Task.for_reviewer` draws the line): its stratum
and its inclusion probability, without which no design-based interval is possible later, and the known
answer of a gold task. Where it lies is no part of it: that is a `Place`, stored apart and never sent.

Pixels: (x, y) from the picture's upper left corner, x right, y down, as browsers count.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from geoslave.errors import GeoslaveError

TaskKind = Literal["validate", "search"]
Pool = Literal["work", "unflagged", "gold"]
ANSWERS = ("yes", "no", "unsure", "bad_imagery", "offset")
"""`offset`: there is a site, but the outline lies beside it."""
MAX_NOTE = 2_000
MAX_MARKS = 500
Point = tuple[float, float]

_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,80}")


class ReviewError(GeoslaveError):
    """Something about tasks, votes or their store."""


class BadVote(ReviewError):
    """A vote that says nothing that could be counted."""


class NoteTooLong(BadVote):
    """A note longer than `MAX_NOTE` characters."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One rendered view of a task's place."""

    path: str
    """Relative to the review's folder, with forward slashes; opaque."""
    zoom: Literal["near", "middle", "far"]
    width: int
    height: int
    date: str | None = None
    """YYYY-MM-DD."""
    when: Literal["now", "before"] = "now"
    outline: tuple[tuple[Point, ...], ...] = ()
    """Rings of the site that is asked about, in this picture's pixels; in a search the tile's edge."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A site that a reviewer marked."""

    x: float
    y: float
    picture: str
    """The path of the picture it was made on."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question to a reviewer."""

    task_id: str
    """Opaque: says nothing of the place."""
    kind: TaskKind
    stratum: str
    inclusion_probability: float
    """Chance this task had to be drawn, in (0, 1]; 1 in a census."""
    gold: str | None = None
    """The known answer of a gold task: yes or no. In a search, yes: there is a site to be marked."""
    pictures: tuple[Picture, ...] = ()
    pool: Pool = "work"
    """What it is mixed from: `unflagged` and `gold` are dealt out by share."""
    tier: int = 0
    """Lower first: urgent rules, then what is most useful. Inside a tier each reviewer has an own order."""
    tutorial: str = ""
    """What a newcomer is told after answering this gold task; empty: no part of the tutorial."""

    def __post_init__(self) -> None:
        if not is_id(self.task_id):
            raise ReviewError(f"task_id '{self.task_id[:80]}' is none: letters, digits and _.:@- only, at most 80")
        if not 0 < self.inclusion_probability <= 1:
            raise ReviewError(f"task {self.task_id}: inclusion_probability must be above 0 and at most 1")
        if self.gold not in (None, "yes", "no"):
            raise ReviewError(f"task {self.task_id}: a gold answer is yes or no, not '{self.gold}'")
        if (self.gold is not None) != (self.pool == "gold"):
            raise ReviewError(f"task {self.task_id}: the gold pool holds tasks with a known answer, and only those")

    @property
    def images(self) -> tuple[str, ...]:
        """Relative paths of all pictures."""
        return tuple(picture.path for picture in self.pictures)

    def for_reviewer(self) -> dict[str, Any]:
        """What a reviewer's browser may see: no stratum, score, gold answer or place."""
        return {
            "task_id": self.task_id,
            "kind": self.kind,
            "pictures": [picture_to_dict(picture) for picture in self.pictures],
        }


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task lies. Stays in the store; reviewers never receive it."""

    task_id: str
    crs: str
    """WKT or EPSG:N of the pictures' grids and of `outline`."""
    grids: dict[str, tuple[float, float, float, float, float, float]]
    """Picture path -> affine (a, b, c, d, e, f) from picture pixels to `crs`."""
    outline: str
    """WKT, in `crs`: the detection's outline, or the tile's."""
    detection_id: str | None = None
    tile_id: str | None = None
    score: float | None = None
    class_name: str = ""
    scene_id: str = ""
    date: str | None = None
    """Of the imagery, YYYY-MM-DD."""
    lon: float | None = None
    lat: float | None = None
    """Degrees, WGS84: a point inside."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One reviewer's answer to one task."""

    task_id: str
    reviewer_id: str
    answer: str
    """One of ANSWERS; in a search: yes with marks, or no."""
    marks: tuple[Mark, ...] = ()
    note: str = ""
    key: str = ""
    """Made by the client (a uuid), the same however often the vote is sent: it counts once."""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    source: str = "page"
    """page, zooniverse or mapswipe."""

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise BadVote(f"the answer '{str(self.answer)[:40]}' is not known: give one of {', '.join(ANSWERS)}")
        if not is_id(self.key):
            raise BadVote("a vote needs a key of its own (a uuid): letters, digits and - only, at most 80")
        if len(self.note) > MAX_NOTE:
            raise NoteTooLong(f"the note has {len(self.note)} characters: {MAX_NOTE} are the most")
        if len(self.marks) > MAX_MARKS:
            raise BadVote(f"the vote has {len(self.marks)} marks: {MAX_MARKS} are the most")
        if not all(math.isfinite(mark.x) and math.isfinite(mark.y) for mark in self.marks):
            raise BadVote("a mark lies nowhere: its x and y must be numbers")
        if self.created_at.tzinfo is None:
            raise BadVote("created_at has no time zone: give UTC")
        if self.note:
            object.__setattr__(self, "note", plain_text(self.note))


@dataclass(frozen=True, slots=True)
class Retirement:
    """When a task has been looked at often enough."""

    votes: int = 3
    """Votes each task gets at first."""
    agreement: float = 2 / 3
    """Done where at least this share of the votes says the same (yes and offset are one)."""
    most: int = 10
    """With so many votes and no agreement it is a conflict, for a coordinator to settle."""

    def __post_init__(self) -> None:
        if not (1 <= self.votes <= self.most and 0.5 <= self.agreement <= 1):
            raise ReviewError("retirement: 1 or more votes, at most as many as `most`; agreement from 0.5 to 1")


def is_id(text: object) -> bool:
    """Whether it could be an id of a task, a reviewer or a vote."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def plain_text(text: str) -> str:
    """Text as every database holds it: no NUL or other control characters but line breaks and tabs."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in text if c in "\n\t" or (c >= " " and c != "\x7f"))


def picture_to_dict(picture: Picture) -> dict[str, Any]:
    """As JSON holds it."""
    return {
        "path": picture.path,
        "zoom": picture.zoom,
        "width": picture.width,
        "height": picture.height,
        "date": picture.date,
        "when": picture.when,
        "outline": [[list(point) for point in ring] for ring in picture.outline],
    }


def picture_from_dict(held: dict[str, Any]) -> Picture:
    """The reverse of `picture_to_dict`."""
    rings = tuple(tuple((float(x), float(y)) for x, y in ring) for ring in held["outline"])
    return Picture(**{**held, "outline": rings})
