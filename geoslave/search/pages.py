"""The desk: the page of chips before the reviewer, with answers that can be undone until the page is handed in.

A page comes from the ranking, from a model (chips with detections it was unsure of), or holds chips with a site that
nobody placed yet. Answers given to it are kept in `draft.json` at once; handing it in gives them to the campaign, which
never forgets, and draws the next page from all answers so far. Killed between any two steps, nothing is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import geopandas as gpd
import shapely
from shapely.geometry.base import BaseGeometry

from geoslave.region.layout import read_json, write_json
from geoslave.search import SearchError
from geoslave.search.campaign import Campaign
from geoslave.search.labels import Answer, BadMark, Marks, label_table
from geoslave.search.pictures import Pictures, Sight, View
from geoslave.search.training import plan, read_unsure
from geoslave.targets import Target

Kind = Literal["ranking", "model", "place", "done"]
"""done: every chip was looked at."""
DRAFT = "draft.json"
_UNDOABLE = 200
_INSIDE = 0.25
"""How far beyond the picture a corner of an outline may lie, as a share of its side."""


class NotOnPage(SearchError):
    """A chip that does not lie on the desk."""


class PageNotDone(SearchError):
    """Chips of the page wait for an answer."""


class NothingToUndo(SearchError):
    """No answer was given since the page was drawn."""


@dataclass(frozen=True, slots=True)
class OnPage:
    """A chip as it lies on the desk."""

    chip: str
    answer: Answer | None
    frame: tuple[float, float]
    marks: tuple[tuple[tuple[float, float], ...], ...]
    """Of each mark its corners, as shares of the small picture's side; a point has one."""
    outline: tuple[tuple[float, float], ...] | None
    """What a model found here."""


class Desk:
    """One page at a time. May be used by several threads; one process at a time."""

    def __init__(self, campaign: Campaign, target: Target) -> None:
        self.campaign = campaign
        self.target = target
        self.marks = Marks(campaign.folder)
        self.pictures = Pictures(campaign.index)
        self._lock = threading.RLock()
        self._round: dict[str, Any] | None = None
        self._draft = self._kept_draft() or self._new_draft("ranking")

    # ------------------------------------------------------------ looking

    def page(self) -> dict[str, Any]:
        """The page: kind, number, chips, how many wait, whether there is something to undo."""
        with self._lock:
            marks, outlines = self.marks.current(), self._outlines()
            chips = [asdict(self._on_page(chip, marks, outlines)) for chip in self._draft["chips"]]
            return {
                "kind": self._draft["kind"],
                "number": self._draft["number"],
                "chips": chips,
                "open": self._open(),
                "undoable": bool(self._draft["history"]),
            }

    def round(self) -> dict[str, Any]:
        """What a round says: clicks, sites, how many remain, whether going on is worth it, what training lacks."""
        with self._lock:
            if self._round is None:
                self._round = self._told()
            return self._round

    def chip(self, chip: str) -> dict[str, Any]:
        """The large view of a chip: its frame, its marks as shares of the large picture, other dates."""
        with self._lock:
            picture = self.pictures.sight(chip, "large")
            shapes = self.marks.current().get(chip, ())
            outline = self._outlines().get(chip)
            return {
                "chip": chip,
                "frame": picture.frame,
                "marks": [picture.to_shares(shape) for shape in shapes],
                "outline": None if outline is None else picture.to_shares(outline),
                "others": self.pictures.others(chip),
            }

    def labels(self) -> gpd.GeoDataFrame:
        """What the campaign has taught so far, pages handed in only."""
        with self._lock:
            return label_table(self.campaign.index.chips, self._known(), self.marks.current(), self.target)

    # ------------------------------------------------------------ answering

    def answer(self, chip: str, answer: Answer | None, at: tuple[float, float] | None = None) -> None:
        """Answer for a chip on the page; None takes the answer back. On the disk when this returns.

        Args:
            at: where the site lies, as shares of the small picture's side; only with yes.

        Raises:
            NotOnPage: if the chip lies not on the desk.
        """
        with self._lock:
            self._must_be_here(chip)
            before = [self._step_back(chip)]
            if at is not None and answer == "yes":
                self.marks.keep(chip, [_shape(self.pictures.sight(chip), [at])])
            self._set([(chip, answer)], before)

    def answer_rest(self, answer: Answer) -> int:
        """Answer for all chips that wait; how many there were. One step to undo."""
        with self._lock:
            waiting = self._open()
            if waiting:
                before = [self._step_back(chip) for chip in waiting]
                self._set([(chip, answer) for chip in waiting], before)
            return len(waiting)

    def mark(self, chip: str, shapes: Sequence[Sequence[tuple[float, float]]], view: View = "large") -> None:
        """Keep where sites lie on a chip: points (one corner) and outlines, as shares of a picture's side.

        Marks say yes; taking all of them away leaves the answer as it is.

        Raises:
            NotOnPage, BadMark.
        """
        with self._lock:
            self._must_be_here(chip)
            picture, before = self.pictures.sight(chip, view), [self._step_back(chip)]
            self.marks.keep(chip, [_shape(picture, corners) for corners in shapes])
            answer: Answer | None = "yes" if shapes else self._draft["answers"].get(chip)
            self._set([(chip, answer)], before)

    def undo(self) -> list[str]:
        """Take the last step on this page back: the chips it was about.

        Raises:
            NothingToUndo.
        """
        with self._lock:
            if not self._draft["history"]:
                raise NothingToUndo("there is nothing to undo on this page: answers of pages handed in stay")
            last = self._draft["history"].pop()
            now = self.marks.current()
            for step in last:
                chip, answer, marks = step["chip"], step["answer"], [shapely.from_wkt(m) for m in step["marks"]]
                if list(now.get(chip, ())) != marks:
                    self.marks.keep(chip, marks)
                self._draft["answers"][chip] = answer
            self._save()
            return [step["chip"] for step in last]

    def hand_in(self, then: Kind | None = None) -> None:
        """Give the page to the campaign and lay out the next one.

        Args:
            then: which kind of page; None: the model's questions and the ranking by turns.

        Raises:
            PageNotDone: if chips wait for an answer.
            SearchError: if there is nothing to place; the page's answers are kept.
        """
        with self._lock:
            waiting = self._open()
            if waiting and self._draft["kind"] != "place":
                raise PageNotDone(f"{len(waiting)} chips of this page wait for an answer: answer them, or all with no")
            self._commit()
            kind: Kind = then or ("model" if self._draft["kind"] != "model" else "ranking")
            self._draft = self._new_draft(kind)

    def lay_out(self, kind: Kind) -> None:
        """Put another kind of page on the desk, if nothing was answered on this one yet.

        Raises:
            PageNotDone: if something was.
        """
        with self._lock:
            if self._draft["history"]:
                raise PageNotDone("this page was begun: hand it in first")
            self._draft = self._new_draft(kind)

    # ------------------------------------------------------------ inside

    def _on_page(
        self, chip: str, marks: dict[str, tuple[BaseGeometry, ...]], outlines: dict[str, BaseGeometry]
    ) -> OnPage:
        picture = self.pictures.sight(chip)
        placed = tuple(tuple(picture.to_shares(shape)) for shape in marks.get(chip, ()))
        found = tuple(picture.to_shares(outlines[chip])) if chip in outlines else None
        return OnPage(chip, self._draft["answers"].get(chip), picture.frame, placed, found)

    def _open(self) -> list[str]:
        return [chip for chip in self._draft["chips"] if self._draft["answers"].get(chip) is None]

    def _must_be_here(self, chip: str) -> None:
        if chip not in self._draft["chips"]:
            raise NotOnPage("this chip is not on the page before you: load the page again")

    def _step_back(self, chip: str) -> dict[str, Any]:
        """What restores a chip as it is now."""
        marks = [shapely.to_wkt(shape, 9) for shape in self.marks.current().get(chip, ())]
        return {"chip": chip, "answer": self._draft["answers"].get(chip), "marks": marks}

    def _set(self, answers: Sequence[tuple[str, Answer | None]], before: list[dict[str, Any]]) -> None:
        self._draft["history"] = [*self._draft["history"], before][-_UNDOABLE:]
        self._draft["answers"] |= dict(answers)
        self._save()

    def _save(self) -> None:
        write_json(self.campaign.folder / DRAFT, self._draft)

    def _commit(self) -> None:
        known, marks, outlines = self._known(), self.marks.current(), self._outlines()
        for chip in self._draft["chips"]:
            answer = self._draft["answers"].get(chip)
            if answer is None:
                continue
            if answer == "yes" and self._draft["kind"] == "model" and not marks.get(chip) and chip in outlines:
                # who says yes to an outlined place says where the site is
                self.marks.keep(chip, [outlines[chip].representative_point()])
            if known.get(chip) != answer:
                self.campaign.answer(chip, answer)
        self._round = None

    def _kept_draft(self) -> dict[str, Any] | None:
        """The page that lay here when the program ended; None where its chips are gone or it was handed in."""
        held = read_json(self.campaign.folder / DRAFT)
        if held is None or not {"kind", "number", "chips", "answers", "history"} <= set(held):
            return None
        if not held["chips"] or any(chip not in self.campaign.index.rows for chip in held["chips"]):
            return None
        known = self._known()
        return None if held["kind"] == "ranking" and all(chip in known for chip in held["chips"]) else held

    def _new_draft(self, kind: Kind) -> dict[str, Any]:
        known, size = self._known(), int(self.campaign.settings["page_size"])
        chips: list[str] = []
        number = 0
        if kind == "place":
            chips = self._without_place()[:size]
            if not chips:
                raise SearchError("every chip with a site has a point or an outline: go on with the next page")
        elif kind == "model":
            chips = [one["chip"] for one in self._asked() if one["chip"] not in known][:size]
        if not chips and all(chip in known for chip in self.campaign.index.rows):
            kind = "done"
        elif not chips:
            kind = "ranking"
            shown = self.campaign.page()
            chips, number = list(shown.open), shown.number
        answers = {chip: known.get(chip) for chip in chips}
        draft = {"kind": kind, "number": number, "chips": chips, "answers": answers, "history": []}
        write_json(self.campaign.folder / DRAFT, draft)
        return draft

    def _known(self) -> dict[str, Any]:
        return self.campaign.known()

    def _without_place(self) -> list[str]:
        marks, rows = self.marks.current(), self.campaign.index.rows
        return [chip for chip, said in self._known().items() if said == "yes" and chip not in marks and chip in rows]

    def _asked(self) -> list[dict[str, Any]]:
        rows = self.campaign.index.rows
        return [one for one in read_unsure(self.campaign.folder) if one["chip"] in rows]

    def _outlines(self) -> dict[str, BaseGeometry]:
        if self._draft_kind() != "model":
            return {}
        found = {one["chip"]: shapely.from_wkt(one["outline"], on_invalid="ignore") for one in self._asked()}
        polygons: dict[str, BaseGeometry] = {}
        for chip, shape in found.items():
            if shape is not None and shape.geom_type == "MultiPolygon":
                shape = max(shape.geoms, key=lambda part: part.area)
            if shape is not None and shape.geom_type == "Polygon":
                polygons[chip] = shape
        return polygons

    def _draft_kind(self) -> Kind:
        kind: Kind = self._draft["kind"]
        return kind

    def _told(self) -> dict[str, Any]:
        standing = self.campaign.standing()
        planned = plan(self.labels())
        known = self._known()
        return {
            **standing.to_dict(),
            "chips": len(self.campaign.index),
            "contradictions": len(standing.contradictions),
            "taught": {**asdict(planned.taught), "sites": planned.taught.sites},
            "missing": list(planned.missing),
            "ready": planned.ready,
            "measured": planned.measured,
            "without_place": len(self._without_place()),
            "asked": sum(one["chip"] not in known for one in self._asked()),
        }

    def forget_round(self) -> None:
        """A model was trained, or answers came from elsewhere: tell anew."""
        with self._lock:
            self._round = None


def _shape(picture: Sight, corners: Sequence[tuple[float, float]]) -> BaseGeometry:
    """A point or an outline on a picture, in longitude and latitude.

    Raises:
        BadMark: if it has two corners, or lies beside the picture.
    """
    if len(corners) in (0, 2):
        raise BadMark("an outline needs at least three corners: set more, or set one point")
    if not all(-_INSIDE <= value <= 1 + _INSIDE for corner in corners for value in corner):
        raise BadMark("a mark lies beside the picture: set it again")
    placed = picture.to_lonlat(corners)
    return shapely.Point(placed[0]) if len(corners) == 1 else shapely.Polygon(placed)
