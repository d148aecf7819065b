"""What a campaign has taught, as labels: points grown to the target's footprint, drawn masks, and negatives.

Beside the answers (one word a chip) people may show where a site lies: by a point, or by drawing its outline.
These marks are kept in `marks.jsonl`, one line a change, appended only; the last line about a chip holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import shapely
from shapely.geometry.base import BaseGeometry

from geoslave.files import append_lines
from geoslave.labels.table import COLUMNS, Tally, footprints
from geoslave.search import SearchError
from geoslave.search.index import ChipIndex
from geoslave.targets import Target

Answer = Literal["yes", "no", "unsure"]
MARKS = "marks.jsonl"
MOST_MARKS = 50
"""On one chip."""
MOST_CORNERS = 500
"""Of one outline."""


class BadMark(SearchError):
    """A mark that is no point or outline on its chip."""


@dataclass(frozen=True, slots=True)
class Taught:
    """How much a campaign's labels hold."""

    outlines: int
    points: int
    without_place: int
    """Chips that hold a site, nobody said where: they are neither learned as sites nor as empty."""
    negatives: int

    @property
    def sites(self) -> int:
        """Sites that can be learned."""
        return self.outlines + self.points

    def in_words(self) -> str:
        return (
            f"{self.outlines} drawn outlines, {self.points} points, {self.without_place} chips with a site that nobody "
            f"placed, {self.negatives} chips without one"
        )


class Marks:
    """The points and outlines people set on chips, on disk: appended, never changed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MARKS

    def keep(self, chip: str, shapes: Sequence[BaseGeometry]) -> None:
        """Keep what now stands on a chip; nothing takes its marks away.

        Args:
            shapes: points and polygons in longitude and latitude.

        Raises:
            BadMark: if there are too many, or one has no area.
            SearchError: if the disk refuses.
        """
        if len(shapes) > MOST_MARKS:
            raise BadMark(f"{len(shapes)} marks on one chip: at most {MOST_MARKS} are kept")
        for shape in shapes:
            _refuse_unusable(shape)
        line = {
            "chip": chip,
            "marks": [shapely.geometry.mapping(shape) for shape in shapes],
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            append_lines(self._path, [json.dumps(line)])
        except OSError as error:
            raise SearchError(f"{self._path} cannot be written ({error.strerror}): free some space") from error

    def current(self) -> dict[str, tuple[BaseGeometry, ...]]:
        """Chip -> what stands on it. A line that was cut off by a crash is passed over."""
        held: dict[str, tuple[BaseGeometry, ...]] = {}
        for line in self._lines():
            try:
                told = json.loads(line)
                held[str(told["chip"])] = tuple(shapely.geometry.shape(mark) for mark in told["marks"])
            except (ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError):
                continue
        return {chip: shapes for chip, shapes in held.items() if shapes}

    def _lines(self) -> Iterable[str]:
        if not self._path.is_file():
            return []
        return self._path.read_text(encoding="utf-8", errors="replace").splitlines()


def label_table(
    chips: gpd.GeoDataFrame,
    answers: Mapping[str, Answer],
    marks: Mapping[str, Sequence[BaseGeometry]],
    target: Target,
) -> gpd.GeoDataFrame:
    """The labels table (see `geoslave.labels.table`) of a campaign, in longitude and latitude, with `chip_id`.

    A drawn outline is kept as it was drawn. A point gets the target's typical size. A chip with a site that nobody
    placed, one without, and one nobody could tell are rows of kind `chip`.

    Args:
        chips: with `chip_id`; geometry in any CRS.
        answers: chip id -> the answer that holds.
        marks: chip id -> points and polygons, longitude and latitude. Only those on chips that say yes count.
    """
    rows: list[dict[str, Any]] = []
    asked = chips[chips["chip_id"].isin(list(answers))].to_crs(4326)
    for chip, footprint in zip(asked["chip_id"], asked.geometry, strict=True):
        presence = answers[chip]
        shapes = marks.get(chip, ()) if presence == "yes" else ()
        for shape in shapes:
            kind = "point" if shape.geom_type == "Point" else "outline"
            rows.append({"kind": kind, "presence": "yes", "chip_id": chip, "geometry": shape})
        if not shapes:
            rows.append({"kind": "chip", "presence": presence, "chip_id": chip, "geometry": footprint})
    fixed = {"class_name": target.name, "certainty": 1.0, "source": "search", "date": None}
    columns = [*COLUMNS, "chip_id", "geometry"]
    table = gpd.GeoDataFrame([{**fixed, **row} for row in rows], columns=columns, crs=4326)
    return footprints(table, Tally("the campaign"), target)


def keep_examples(index: ChipIndex, like: gpd.GeoDataFrame, marks: Marks) -> int:
    """Keep the places of examples as marks on their chips; how many were kept. What lies beside the index is left out.

    Of a chip that was marked before the marks stay.
    """
    held = marks.current()
    shapes = [
        shape
        for shape in like.to_crs(4326).geometry.explode(ignore_index=True)
        if shape is not None and not shape.is_empty and shape.geom_type in ("Point", "Polygon")
    ]
    example, row = index.chips.sindex.query([shape.representative_point() for shape in shapes], predicate="intersects")
    placed: dict[str, list[BaseGeometry]] = {}
    taken: set[int] = set()  # an example on the seam of two chips counts once
    for number, at in zip(example.tolist(), row.tolist(), strict=True):
        chip = str(index.chips["chip_id"].iloc[at])
        if number not in taken and chip not in held:
            taken.add(number)
            shape = shapely.force_2d(shapes[number])
            usable = shape.is_valid and len(shapely.get_coordinates(shape)) <= MOST_CORNERS
            placed.setdefault(chip, []).append(shape if usable else shape.representative_point())
    for chip, on_chip in placed.items():
        marks.keep(chip, on_chip[:MOST_MARKS])
    return len(taken)


def counted(labels: gpd.GeoDataFrame) -> Taught:
    """How much a labels table holds."""
    kind, presence = labels["kind"], labels["presence"]
    return Taught(
        outlines=int(((kind == "outline") & (presence == "yes")).sum()),
        points=int(((kind == "point") & (presence == "yes")).sum()),
        without_place=int(((kind == "chip") & (presence == "yes")).sum()),
        negatives=int(((kind == "chip") & (presence == "no")).sum()),
    )


def _refuse_unusable(shape: BaseGeometry) -> None:
    if shape.geom_type not in ("Point", "Polygon") or shape.is_empty:
        raise BadMark("a mark is a point or an outline: draw it again")
    if not all(-180 <= x <= 180 and -90 <= y <= 90 for x, y in shapely.get_coordinates(shape)):
        raise BadMark("a mark lies beyond the earth: draw it again")
    if isinstance(shape, shapely.Polygon):
        if len(shape.exterior.coords) > MOST_CORNERS + 1:
            raise BadMark(f"an outline of {len(shape.exterior.coords) - 1} corners: at most {MOST_CORNERS} are kept")
        if not shape.is_valid or shape.area == 0:
            raise BadMark("the outline crosses itself or has no area: undo its last corners, or draw it again")
