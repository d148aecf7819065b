"""Zooniverse: a subject set that is ready to be uploaded, and classifications that come back as votes.

Metadata is copied into every public export, so a manifest holds nothing but an opaque task id. The
outline that is asked about is drawn into the uploaded pictures, since Zooniverse draws none.

Exports of many years hold duplicates, several versions of a workflow, people who were not logged in and
rows that are cut or no JSON. What can be read becomes votes, and what cannot is counted with its reason.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from geoslave.errors import OutputError
from geoslave.files import refuse_existing, scratch_folder
from geoslave.imagery.preview import TRUTH, save_png
from geoslave.review.tasks import MAX_MARKS, Mark, Picture, ReviewError, Task, Vote

MANIFEST = "manifest.csv"
ID_COLUMN = "#task_id"
"""Hidden from volunteers; in exports it is the subject's metadata."""
LARGEST_BYTES = 1_048_576
ANSWERS = {
    "yes": "yes",
    "no": "no",
    "unsure": "unsure",
    "not sure": "unsure",
    "maybe": "unsure",
    "i don't know": "unsure",
    "dont know": "unsure",
    "bad imagery": "bad_imagery",
    "bad image": "bad_imagery",
    "cannot see": "bad_imagery",
    "offset": "offset",
    "yes, but beside the outline": "offset",
}
"""What volunteers pressed -> the answer; small letters, without a final full stop."""
NEEDED = ("classification_id", "annotations", "subject_data")
_CASING = (18, 22, 28)


@dataclass(slots=True)
class Tally:
    """What an import read, and what it left and why."""

    n_read: int = 0
    n_votes: int = 0
    left: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """Votes by workflow and its version."""
    n_people: int = 0

    def leave(self, why: str, n: int = 1) -> None:
        self.left[why] = self.left.get(why, 0) + n


# ---------------------------------------------------------------- there


def export(tasks: Sequence[Task], pictures: Path, folder: Path) -> int:
    """Write a subject set: manifest.csv and the pictures it names; returns how many subjects.

    Args:
        pictures: the folder the tasks' pictures lie in.
        folder: made whole or not at all.

    Raises:
        ReviewError: without a task.
        OutputError: if the folder is there, or a picture is missing or too heavy.
    """
    if not tasks:
        raise ReviewError("there is no task to be exported: make some first")
    refuse_existing(folder, overwrite=False)
    most = max(len(task.pictures) for task in tasks)
    with scratch_folder(folder) as draft:
        with (draft / MANIFEST).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([ID_COLUMN, *(f"image_{k + 1}" for k in range(most))])
            for task in tasks:
                names = [copy_outlined(picture, pictures, draft) for picture in task.pictures]
                writer.writerow([task.task_id, *names, *[""] * (most - len(names))])
        draft.rename(folder)
    return len(tasks)


def check_manifest(folder: Path) -> list[str]:
    """What Zooniverse would refuse in a subject set, one line each."""
    wrong: list[str] = []
    with (folder / MANIFEST).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        wrong.append("the manifest has no rows")
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        names = [value for column, value in row.items() if column.startswith("image_") and value]
        if not names:
            wrong.append(f"line {number} names no picture")
        if row.get(ID_COLUMN, "") in seen:
            wrong.append(f"line {number} repeats a task")
        seen.add(row.get(ID_COLUMN, ""))
        wrong += [f"line {number}: {fault}" for name in names if (fault := _fault(folder / name))]
    return wrong


def _fault(path: Path) -> str:
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        return f"{path.name} is no PNG or JPEG"
    if not path.is_file() or not path.stat().st_size:
        return f"{path.name} is missing or empty"
    return f"{path.name} is larger than {LARGEST_BYTES} bytes" if path.stat().st_size > LARGEST_BYTES else ""


def copy_outlined(picture: Picture, pictures: Path, folder: Path) -> str:
    """The picture with its outline drawn in; returns its name."""
    source = pictures / picture.path
    name = source.name
    if not source.is_file():
        raise OutputError(f"{picture.path} is missing in {pictures}: give the folder the review was made in")
    if picture.outline:
        with Image.open(source) as image:
            save_png(outlined(image.convert("RGB"), picture), folder / name)
    else:
        shutil.copyfile(source, folder / name)
    fault = _fault(folder / name)
    if fault:
        raise OutputError(f"{fault}: Zooniverse refuses it")
    return name


def outlined(image: Image.Image, picture: Picture) -> Image.Image:
    """The picture with its outline, light on a dark casing."""
    draw = ImageDraw.Draw(image)
    for width, colour in ((5, _CASING), (2, TRUTH)):
        for ring in picture.outline:
            draw.line([(float(x), float(y)) for x, y in ring], fill=colour, width=width, joint="curve")
    return image


# ---------------------------------------------------------------- and back


def read_votes(
    path: Path,
    tasks: Mapping[str, Task],
    tally: Tally,
    *,
    answers: Mapping[str, str] | None = None,
    workflow: str | None = None,
) -> Iterator[Vote]:
    """Votes of a classification export, row by row; `tally` grows while they are read.

    Args:
        tasks: task_id -> task.
        answers: what volunteers pressed -> yes, no, unsure, bad_imagery or offset, over ANSWERS.
        workflow: only this workflow_id.

    Raises:
        ReviewError: if the file is missing or is no classification export.
    """
    words = ANSWERS | {text.strip().lower(): answer for text, answer in (answers or {}).items()}
    seen: set[str] = set()
    people: set[str] = set()
    for row in _rows(path, tally):
        if workflow is not None and row.get("workflow_id") != workflow:
            tally.leave("another workflow")
            continue
        vote, why = _vote(row, tasks, words)
        if vote is not None and vote.key in seen:
            vote, why = None, "the same classification again"
        if vote is None:
            tally.leave(why)
            continue
        seen.add(vote.key)
        people.add(vote.reviewer_id)
        tally.n_people = len(people)
        version = f"{row.get('workflow_id') or '?'} v{row.get('workflow_version') or '?'}"
        tally.versions[version] = tally.versions.get(version, 0) + 1
        tally.n_votes += 1
        yield vote


def _rows(path: Path, tally: Tally) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise ReviewError(f"{path} is not there: check the name")
    csv.field_size_limit(min(sys.maxsize, 1 << 24))
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(line.replace("\0", "") for line in file)
        header = next(reader, [])
        if not set(NEEDED) <= set(header):
            raise ReviewError(f"{path} is no classification export: it lacks {', '.join(set(NEEDED) - set(header))}")
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                tally.n_read += 1
                tally.leave("a line that is no CSV")
                continue
            if not cells:
                continue
            tally.n_read += 1
            if len(cells) != len(header):
                tally.leave("too few or too many cells")
                continue
            yield dict(zip(header, cells, strict=True))


def _vote(row: Mapping[str, str], tasks: Mapping[str, Task], words: Mapping[str, str]) -> tuple[Vote | None, str]:
    """The vote of a row, or why there is none."""
    number = row["classification_id"].strip()
    if not number.isdigit() or len(number) > 20:
        return None, "no classification_id"
    try:
        task_id, annotations = _task_id(row["subject_data"]), _read(row["annotations"])
    except (ValueError, RecursionError):
        return None, "cells that are no JSON"
    if task_id is None:
        return None, "subjects without our task id"
    task = tasks.get(task_id)
    if task is None:
        return None, "tasks of another review"
    if not isinstance(annotations, list):
        return None, "annotations that are no list"
    answer, marks = _answer(annotations, task, words)
    if answer is None:
        return None, "answers that are not understood"
    key = f"zooniverse-{number}"
    return Vote(task_id, _person(row), answer, marks, "", key, told_time(row.get("created_at", "")), "zooniverse"), ""


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> Any:
    """JSON; most people press one of a few buttons, so that most cells have been read before. Not to be changed."""
    return json.loads(text)


@functools.lru_cache(maxsize=20_000)
def _task_id(text: str) -> str | None:
    """Our id among a subject's metadata; each subject comes as often as it was classified."""
    subjects = json.loads(text)
    if not isinstance(subjects, dict):
        return None
    for subject in subjects.values():
        if isinstance(subject, dict):
            for name in (ID_COLUMN, "task_id", "!task_id", "%task_id", "//task_id"):
                if isinstance(subject.get(name), str):
                    return str(subject[name])
    return None


def _answer(annotations: list[Any], task: Task, words: Mapping[str, str]) -> tuple[str | None, tuple[Mark, ...]]:
    values = [item.get("value") for item in annotations if isinstance(item, dict)]
    said = [words.get(text.strip().lower().rstrip(".")) for value in values for text in _texts(value)]
    known = [answer for answer in said if answer]
    if task.kind == "validate":
        return (known[0] if known else None), ()
    drawn = [shape for value in values if isinstance(value, list) for shape in value if isinstance(shape, dict)]
    marks = tuple(mark for shape in drawn if (mark := _mark(shape, task)))[:MAX_MARKS]
    if marks:
        return "yes", marks
    if known and known[0] != "yes":
        return known[0], ()
    nothing = any(isinstance(value, list) and not value for value in values)
    return ("no" if nothing and not known else known[0] if known else None), ()


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _mark(shape: Mapping[str, Any], task: Task) -> Mark | None:
    """A drawn point, or the middle of a drawn shape, inside its picture."""
    with suppress(TypeError, ValueError, IndexError, KeyError):
        picture = task.pictures[int(shape.get("frame") or 0)]
        x, y = float(shape["x"]), float(shape["y"])
        x += float(shape.get("width") or 0) / 2
        y += float(shape.get("height") or 0) / 2
        if 0 <= x <= picture.width and 0 <= y <= picture.height:
            return Mark(round(x, 2), round(y, 2), picture.path)
    return None


def _person(row: Mapping[str, str]) -> str:
    """An opaque id: names stay with Zooniverse. Without login and address everyone is a person of their own."""
    name = row.get("user_id") or row.get("user_name") or row.get("user_ip") or f"row {row['classification_id']}"
    return _opaque(name)


@functools.lru_cache(maxsize=20_000)
def _opaque(name: str) -> str:
    return f"z-{hashlib.sha256(name.strip().encode()).hexdigest()[:16]}"


def told_time(text: str) -> datetime:
    with suppress(ValueError):
        told = datetime.fromisoformat(text.strip().replace(" UTC", "+00:00").replace("Z", "+00:00"))
        return told if told.tzinfo else told.replace(tzinfo=UTC)
    return datetime(1970, 1, 1, tzinfo=UTC)
