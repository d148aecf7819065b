"""A search that goes on: examples, pages, answers, and what they say so far. Survives being killed.

    <index>/campaigns/<name>/
      campaign.json      what is sought, page size, seed
      target.yaml        its sizes
      answers.jsonl      one line an answer, appended and never changed; a line cut by a crash is left out
      marks.jsonl        where sites lie (geoslave.search.labels)
      pages/0001.json    what was shown and how it was chosen: written before anybody sees it

Answers name chips by their id, which is made from content: a new index of the same chips keeps them. Where a
chip was answered twice the later answer counts, and both are told of.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoslave.errors import OutputError
from geoslave.files import append_lines
from geoslave.region.layout import digest, read_json, write_json, write_whole
from geoslave.search import SearchError
from geoslave.search.index import ChipIndex
from geoslave.search.labels import MARKS, Answer, Marks, keep_examples
from geoslave.search.ranking import (
    Answers,
    Ranker,
    considered,
    diverse_page,
    fit,
    next_page,
)
from geoslave.search.remaining import Advice, AuditDraw, Remaining, audit_share, remaining, worth_going_on
from geoslave.targets import Target, target_yaml

ANSWERS: tuple[Answer, ...] = get_args(Answer)
CAMPAIGNS = "campaigns"
TARGET = "target.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
_RECENT = 40
"""Likely chips by which the yield is judged."""


@dataclass(frozen=True, slots=True)
class Located:
    """Examples brought to chips."""

    rows: NDArray[np.int64]
    """Chips that hold an example, none twice."""
    notes: tuple[str, ...]
    """Examples left out, and why."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A page as it is shown."""

    number: int
    """From 1."""
    chip_ids: tuple[str, ...]
    how: tuple[str, ...]
    """likely, uncertain or audit; not for the reviewer's eyes."""
    audit_probability: tuple[float | None, ...]
    """Chance of those that the audit drew; None of those that the ranking chose."""
    score: tuple[float, ...]
    answered: tuple[str | None, ...]
    """What was answered already."""

    @property
    def open(self) -> tuple[str, ...]:
        """Chips that wait for an answer."""
        return tuple(chip for chip, told in zip(self.chip_ids, self.answered, strict=True) if told is None)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A chip that was answered differently."""

    chip_id: str
    answers: tuple[str, ...]
    """In the order they came; the last one counts."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a campaign is: what a round says."""

    clicks: int
    """Answers given, examples left out."""
    examples: int
    found: int
    """Chips answered with yes, examples with them."""
    refused: int
    unsure: int
    pages: int
    """Answered whole."""
    remaining: Remaining
    advice: Advice
    contradictions: tuple[Contradiction, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        told = asdict(self)
        advice = told.pop("advice")
        return {**told, "go_on": advice["go_on"], "advice": advice["words"]}


def locate_examples(index: ChipIndex, points: gpd.GeoDataFrame, what: str = "examples") -> Located:
    """The chips that examples lie in; of shapes that are no points, a point inside.

    Raises:
        SearchError: if there is none, they have no CRS, or none of them lies on a chip, with the likely reason.
    """
    if points.crs is None:
        raise SearchError(f"the {what} have no CRS, so nobody knows where they lie: save them with one")
    shapes = points.geometry[points.geometry.notna() & ~points.geometry.is_empty]
    if shapes.empty:
        raise SearchError(f"the {what} hold no place: give at least one point")
    stored = shapes.representative_point()
    lonlat = stored.to_crs(4326)
    finite = np.isfinite(lonlat.x) & np.isfinite(lonlat.y)
    if not finite.any():
        raise SearchError(f"the {what} lie where their CRS ({points.crs.name}) gives no place on earth: mend their CRS")
    places = lonlat[finite].to_numpy()
    found, wanted = _chips_of(index, places)
    if not len(found):
        raise SearchError(_why_nowhere(index, shapely.get_coordinates(places), what))
    notes = _left_out(index, places, wanted, len(shapes) - int(finite.sum()), what)
    return Located(np.unique(found), notes)


def as_answers(index: ChipIndex, yes: Located, no: Located | None = None) -> Answers:
    """Examples and counter-examples as answers.

    Raises:
        SearchError: if a chip holds both.
    """
    others = np.zeros(0, np.int64) if no is None else no.rows
    both = np.intersect1d(yes.rows, others)
    if len(both):
        ids = ", ".join(str(chip) for chip in index.chips["chip_id"].iloc[both[:3]])
        raise SearchError(f"{len(both)} chips hold both an example and a counter-example ({ids}): take one of them out")
    return Answers.of({int(row): row not in others for row in np.concatenate([yes.rows, others])})


@dataclass
class Campaign:
    """A campaign that is opened. One process at a time writes to it; threads may share it."""

    folder: Path
    index: ChipIndex
    settings: dict[str, Any]
    _lines: list[dict[str, Any]] = field(default_factory=list, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def places(self) -> NDArray[np.float64]:
        """[chip, 2] longitude and latitude of the middles."""
        if "places" not in self._kept:
            self._kept["places"] = shapely.get_coordinates(shapely.centroid(self.index.chips.geometry.to_numpy()))
        return self._kept["places"]

    def known(self) -> dict[str, str]:
        """The answer that counts, by chip_id."""
        with self._lock:
            return {line["chip_id"]: line["answer"] for line in self._lines}

    def labels(self) -> gpd.GeoDataFrame:
        """Chips that were answered: chip_id, answer, how, page, and the index's columns, with their cores."""
        with self._lock:
            last = {line["chip_id"]: line for line in self._lines if line["chip_id"] in self.index.rows}
        rows = [self.index.rows[chip] for chip in last]
        table = self.index.chips.iloc[rows].reset_index(drop=True)
        told = {name: [line[name] for line in last.values()] for name in ("answer", "how", "page")}
        return table.assign(**told)

    def page(self) -> Shown:
        """The page to answer: the one that is not done yet, else a new one.

        Raises:
            SearchError: if every chip was looked at.
        """
        with self._lock:
            number = self._last_page()
            if number and (shown := self._shown(number)).open:
                return shown
            self._draw(number + 1)
            return self._shown(number + 1)

    def answer(self, chip_id: str, answer: str, reviewer: str = "") -> None:
        """Keep an answer: on the disk when this returns.

        Raises:
            SearchError: if the chip or the answer is not known.
            OutputError: if the disk refuses; then nothing is kept.
        """
        if answer not in ANSWERS:
            raise SearchError(f"the answer '{str(answer)[:40]}' is not known: give one of {', '.join(ANSWERS)}")
        if chip_id not in self.index.rows:
            raise SearchError(f"no chip '{str(chip_id)[:40]}' in this index: take the ids that the page gives")
        with self._lock:
            page, how, chance = self._shown_as(chip_id)
            self._append([_line(chip_id, answer, how, page, chance, reviewer)])

    def ranker(self) -> Ranker:
        """The classifier that all answers so far make.

        Raises:
            SearchError: if no answer is a site.
        """
        return fit(self.index.vectors, self._answers(), self.index.background)

    def ranking(self, limit: int | None = None) -> gpd.GeoDataFrame:
        """Chips nobody has answered for, most likely first, varied at the top: rank, score, and the index's columns."""
        with self._lock:
            answers = self._answers()
        return ranked(self.index, answers, limit, self.places)

    def standing(self) -> Standing:
        """What is known so far, how many may remain, and whether going on is worth it."""
        with self._lock:
            known, here, chips = self.known(), self._known_here(), self.index.rows
            found = sum(told == "yes" for told in here.values())
            done = [number for number in range(1, self._last_page() + 1) if not self._shown(number).open]
            left = remaining(self._draws(done, here), len(chips), found, len(chips) - len(here))
            recent = self._recent(here)
            lost = len(known) - len(here)
            return Standing(
                clicks=sum(line["how"] != "example" for line in self._lines),
                examples=len({line["chip_id"] for line in self._lines if line["how"] == "example"}),
                found=found,
                refused=sum(told == "no" for told in here.values()),
                unsure=sum(told == "unsure" for told in here.values()),
                pages=len(done),
                remaining=left,
                advice=worth_going_on(left, recent),
                contradictions=self._contradictions(),
                notes=(f"{lost} answers are about chips that are no longer in the index",) if lost else (),
            )

    # ------------------------------------------------------------ inside

    def _known_here(self) -> dict[str, str]:
        """Answers by chip, of chips that are in the index: another one may lack some."""
        return {chip: told for chip, told in self.known().items() if chip in self.index.rows}

    def _answers(self) -> Answers:
        known = {self.index.rows[chip]: told for chip, told in self._known_here().items()}
        clear = Answers.of({row: told == "yes" for row, told in known.items() if told != "unsure"})
        unclear = np.array(sorted(row for row, told in known.items() if told == "unsure"), np.int64)
        return Answers(clear.rows, clear.sites, unclear)

    def _last_page(self) -> int:
        numbers = [int(path.stem) for path in (self.folder / "pages").glob("[0-9]*.json") if path.stem.isdigit()]
        return max(numbers, default=0)

    def _draw(self, number: int) -> None:
        answers = self._answers()
        drawn = next_page(
            self.index.vectors,
            self.places,
            answers,
            self.settings["page_size"],
            seed=self.settings["seed"] + 7_919 * number,
            audit_share=self._audit_share(),
            background=self.index.background,
            apart_m=self.settings["apart_m"],
        )
        if not len(drawn.rows):
            raise SearchError(f"campaign {self.name}: every chip was looked at; there is nothing more to show")
        ids = [str(chip) for chip in self.index.chips["chip_id"].iloc[drawn.rows]]
        known = self.known()
        content = {
            "page": number,
            "chip_ids": ids,
            "how": list(drawn.how),
            "audit_probability": [None if np.isnan(value) else float(value) for value in drawn.audit_probability],
            "score": [round(float(value), 6) for value in drawn.score],
            "unseen": len(self.index) - sum(chip in self.index.rows for chip in known),
            "lines": len(self._lines),
            "chips": self._chips_mark(),
        }
        write_json(self.folder / "pages" / f"{number:04d}.json", content)

    def _audit_share(self) -> float:
        told: float | None = self.settings["audit_share"]
        return audit_share(self._recent(self._known_here())) if told is None else told

    def _chips_mark(self) -> str:
        """Stands for the chips of the index, whatever their vectors are."""
        if "mark" not in self._kept:
            self._kept["mark"] = digest(list(self.index.chips["chip_id"]))
        return str(self._kept["mark"])

    def _told(self, number: int) -> dict[str, Any]:
        pages: dict[int, dict[str, Any]] = self._kept.setdefault("pages", {})
        if number not in pages:
            path = self.folder / "pages" / f"{number:04d}.json"
            content = read_json(path)
            if content is None:
                raise SearchError(f"{path} is missing or damaged: bring it back from a copy; answers are not lost")
            pages[number] = content
        return pages[number]

    def _shown(self, number: int) -> Shown:
        told, known = self._told(number), self.known()
        there = [chip in self.index.rows for chip in told["chip_ids"]]  # another index may lack some
        cut = {key: [v for v, here in zip(told[key], there, strict=True) if here] for key in
               ("chip_ids", "how", "audit_probability", "score")}  # fmt: skip
        return Shown(
            number=number,
            chip_ids=tuple(cut["chip_ids"]),
            how=tuple(cut["how"]),
            audit_probability=tuple(cut["audit_probability"]),
            score=tuple(cut["score"]),
            answered=tuple(known.get(chip) for chip in cut["chip_ids"]),
        )

    def _shown_as(self, chip_id: str) -> tuple[int | None, str, float | None]:
        """(page, how, audit probability) of a chip that is answered now: as the latest page showed it, or by hand."""
        for number in range(self._last_page(), 0, -1):
            told = self._told(number)
            if chip_id in told["chip_ids"]:
                at = told["chip_ids"].index(chip_id)
                return number, told["how"][at], told["audit_probability"][at]
        return None, "by hand", None

    def _draws(self, done: Sequence[int], known: dict[str, str]) -> list[AuditDraw]:
        """The audit draws of pages answered whole, in the order of drawing, as the estimate takes them.

        'unsure' is no site: a site is a chip that is answered with yes. What was found before a page is counted by
        the answers that hold now, as the sites in all chips are: an answer corrected later counts on both sides.
        """
        draws: list[AuditDraw] = []
        before: set[str] = set()
        found_before = at = 0
        for number in done:
            told = self._told(number)
            new = {line["chip_id"] for line in self._lines[at : told["lines"]]} - before
            found_before += sum(known.get(chip) == "yes" for chip in new)
            before, at = before | new, told["lines"]
            if told["chips"] != self._chips_mark():
                continue  # drawn from other chips: says nothing about these
            unseen, found = told["unseen"], found_before
            for chip, how in zip(told["chip_ids"], told["how"], strict=True):
                if how == "audit" and chip in known:
                    site = known[chip] == "yes"
                    draws.append(AuditDraw(unseen, found, site))
                    unseen, found = unseen - 1, found + site
        return draws

    def _recent(self, known: dict[str, str]) -> list[bool]:
        likely: dict[str, None] = {}
        for line in self._lines:
            if line["how"] == "likely":
                likely[line["chip_id"]] = None
        return [known[chip] == "yes" for chip in list(likely)[-_RECENT:] if chip in known]

    def _contradictions(self) -> tuple[Contradiction, ...]:
        told: dict[str, list[str]] = {}
        for line in self._lines:
            told.setdefault(line["chip_id"], []).append(line["answer"])
        return tuple(
            Contradiction(chip, tuple(answers))
            for chip, answers in told.items()
            if len({one for one in answers if one != "unsure"}) > 1
        )

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        path = self.folder / "answers.jsonl"
        try:
            append_lines(path, (json.dumps(line, ensure_ascii=False, sort_keys=True) for line in lines))
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): free some space, then answer again"
            ) from error
        self._lines += lines


def start_campaign(
    index: ChipIndex,
    name: str,
    like: gpd.GeoDataFrame,
    unlike: gpd.GeoDataFrame | None = None,
    *,
    target: Target | None = None,
    page_size: int = 20,
    audit_share: float | None = None,
    apart_m: float | None = None,
    seed: int = 0,
) -> Campaign:
    """Begin a campaign from examples; one is enough. Their places are kept as marks.

    Killed on the way, it was never begun: the same call begins it anew.

    Args:
        like: places of the kind that is sought, in any CRS.
        unlike: places that look alike and are not.
        target: what is sought; kept beside the campaign.
        audit_share: of each page that is drawn at random, to tell how many remain. None: a tenth while likely chips
            bring sites, half when they bring none.
        apart_m: chips of one page are farther apart; None: two chips' widths.

    Raises:
        SearchError: if examples do not fit the index or contradict each other, or the name is taken.
    """
    folder = _campaign_folder(index, name)
    if (folder / "campaign.json").exists():
        raise SearchError(f"campaign {name} is there already: go on with it, or choose another name")
    if not (1 <= page_size <= 500 and 0 <= (audit_share or 0) <= 1):
        raise SearchError("a page holds 1 to 500 chips, and the audit's share lies between 0 and 1")
    yes = locate_examples(index, like)
    no = None if unlike is None else locate_examples(index, unlike, "counter-examples")
    as_answers(index, yes, no)
    width = index.settings.core_px * index.facts["reading"]["gsd_m"]
    settings = {
        "name": name,
        "target": "" if target is None else target.name,
        "page_size": page_size,
        "audit_share": audit_share,
        "apart_m": 2.0 * width if apart_m is None else apart_m,
        "seed": seed,
        "index": index.facts["mark"],
        "notes": list(yes.notes + (no.notes if no else ())),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pages").mkdir(exist_ok=True)
    for left in ("answers.jsonl", MARKS, TARGET):  # of a start that was killed: campaign.json comes last
        (folder / left).unlink(missing_ok=True)
    campaign = Campaign(folder, index, settings)
    told = [(yes.rows, "yes")] + ([] if no is None else [(no.rows, "no")])
    ids_ = index.chips["chip_id"].to_numpy()
    campaign._append(
        [_line(str(ids_[row]), answer, "example", None, None, "") for rows, answer in told for row in rows]
    )
    keep_examples(index, like, Marks(folder))
    if target is not None:
        write_whole(folder / TARGET, target_yaml(target).encode())
    write_json(folder / "campaign.json", settings)
    return campaign


def open_campaign(index: ChipIndex, name: str) -> Campaign:
    """Go on with a campaign.

    Raises:
        SearchError: if there is none of this name.
    """
    folder = _campaign_folder(index, name)
    settings = read_json(folder / "campaign.json")
    if settings is None:
        known = ", ".join(list_campaigns(index)) or "none"
        raise SearchError(f"no campaign '{name}' in {index.folder} (there: {known}): begin it with examples")
    return Campaign(folder, index, settings, _read_lines(folder / "answers.jsonl"))


def list_campaigns(index: ChipIndex) -> list[str]:
    """Names of the campaigns of an index."""
    return sorted(path.parent.name for path in (index.folder / CAMPAIGNS).glob("*/campaign.json"))


def ranked(
    index: ChipIndex,
    answers: Answers,
    limit: int | None = None,
    places: NDArray[np.float64] | None = None,
    first_page: int = 20,
) -> gpd.GeoDataFrame:
    """Chips that were not answered, most likely first, the first page varied: rank, score, and the index's columns.

    Raises:
        SearchError: if no answer is a site.
    """
    ranker = fit(index.vectors, answers, index.background)
    seen = np.union1d(answers.rows, answers.seen)
    among = _candidates(index, ranker, limit, len(seen))
    logits = ranker.logits(index.vectors[among])
    order = np.argsort(-logits, kind="stable")
    top = np.sort(order[: considered(first_page) + len(seen)])
    if places is None:
        places = np.zeros((len(index), 2))  # only those of the top are looked at
        places[among[top]] = shapely.get_coordinates(shapely.centroid(index.chips.geometry.to_numpy()[among[top]]))
    width = index.settings.core_px * index.facts["reading"]["gsd_m"]
    first = diverse_page(
        logits[top],
        index.vectors,
        places,
        min(first_page, len(index)),
        seen=seen,
        apart_m=2 * width,
        candidates=among[top],
    )
    rest = order[~np.isin(among[order], np.union1d(seen, first))]
    at = np.concatenate([np.searchsorted(among, first), rest])[: len(index) if limit is None else limit]
    rows = among[at]
    table = index.chips.iloc[rows].reset_index(drop=True)
    table.insert(0, "rank", np.arange(1, len(rows) + 1))
    table.insert(1, "score", np.round(1 / (1 + np.exp(-np.clip(logits[at], -60, 60))), 6).astype(float))
    return table


# ---------------------------------------------------------------- small parts


def _candidates(index: ChipIndex, ranker: Ranker, limit: int | None, seen: int) -> NDArray[np.int64]:
    """Rows [n], ascending, among which the likeliest are: all, or as many as lie nearest to the ranker's direction.

    Vectors have length one, so that these lie farthest along it. A score in full costs a product with every known chip.
    """
    wanted = 10 * (limit or len(index)) + seen + 200
    if wanted >= len(index):
        return np.arange(len(index))
    return np.sort(index.nearest(ranker.weights, wanted)[0])


def _chips_of(index: ChipIndex, places: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(rows of the chips that hold places, which places [n] are held). On an edge the first chip takes it."""
    tree = index.chips.sindex
    place, chip = tree.query(places, predicate="intersects")
    held = np.zeros(len(places), bool)
    held[place] = True
    first = pd.Series(chip).groupby(place).min()
    return first.to_numpy(np.int64), held


def _why_nowhere(index: ChipIndex, lonlat: NDArray[np.float64], what: str) -> str:
    west, south, east, north = index.facts["bounds"]

    def inside(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
        return bool(((x >= west) & (x <= east) & (y >= south) & (y <= north)).any())

    if inside(lonlat[:, 1], lonlat[:, 0]):
        return f"the {what} lie outside of the index, but inside with longitude and latitude swapped: mend them"
    if inside(lonlat[:, 0], lonlat[:, 1]):
        return f"the {what} lie where the index has no chip (nodata, or outside the area): give places with imagery"
    return (
        f"the {what} lie outside of the index (near {lonlat[0, 0]:.3f}, {lonlat[0, 1]:.3f}; it covers {west:.3f} to "
        f"{east:.3f} east, {south:.3f} to {north:.3f} north): check their CRS, or index their scene"
    )


def _left_out(index: ChipIndex, places: NDArray[Any], held: NDArray[np.bool_], lost: int, what: str) -> tuple[str, ...]:
    west, south, east, north = index.facts["bounds"]
    xy = shapely.get_coordinates(places[~held])
    within = (xy[:, 0] >= west) & (xy[:, 0] <= east) & (xy[:, 1] >= south) & (xy[:, 1] <= north)
    notes = []
    if (n := int((~within).sum()) + lost) > 0:
        notes.append(f"{n} of the {what} lie outside of the index and are left out")
    if (n := int(within.sum())) > 0:
        notes.append(f"{n} of the {what} lie on nodata or outside the area and are left out")
    return tuple(notes)


def _campaign_folder(index: ChipIndex, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise SearchError(f"'{name[:60]}' is no name for a campaign: letters, digits and _.- only, at most 60")
    return index.folder / CAMPAIGNS / name


def _line(
    chip_id: str, answer: str, how: str, page: int | None, audit_probability: float | None, reviewer: str
) -> dict[str, Any]:
    return {
        "chip_id": chip_id,
        "answer": answer,
        "how": how,
        "page": page,
        "audit_probability": audit_probability,
        "reviewer": reviewer,
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
    }


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; one that a crash cut is left out."""
    lines = []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SearchError(f"{path} cannot be read ({error.strerror}): bring it back from a copy") from error
    for raw in content.split(b"\n"):
        try:
            line = json.loads(raw)
            if line["answer"] in ANSWERS and isinstance(line["chip_id"], str):
                lines.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return lines
