"""MapSwipe: projects out, results back.

Two kinds of project. **Validate image** (type 10) shows pictures: nobody learns where they are.
**Validate** (type 2) shows outlines on public imagery, so it takes coordinates, and whoever asks for it
says to whom they go and why.

Results come back one row a volunteer, or aggregated to counts; an aggregated count becomes as many votes
of people nobody can tell apart, each their own.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shapely

from geoslave.files import atomic_file, refuse_existing, scratch_folder
from geoslave.review.tasks import Place, ReviewError, Task, Vote
from geoslave.review.verdicts import outline_lonlat
from geoslave.review.zooniverse import Tally, copy_outlined, told_time

ANSWERS = {"0": "no", "1": "yes", "2": "unsure", "3": "bad_imagery", "4": "offset"}
"""The values of a project's buttons; 0 to 3 are MapSwipe's own."""
MOST_AGGREGATED = 1_000


def export_images(tasks: Sequence[Task], pictures: Path, folder: Path, base_url: str = "") -> int:
    """Write a validate-image project: images.json (COCO) and the nearest picture of each task.

    Args:
        base_url: where the pictures will be found by MapSwipe; their names follow it.
    """
    asked = _validate_only(tasks)
    refuse_existing(folder, overwrite=False)
    images, boxes = [], []
    with scratch_folder(folder) as draft:
        for number, task in enumerate(asked, start=1):
            picture = task.pictures[0]
            name = copy_outlined(picture, pictures, draft)
            image = {"id": number, "file_name": name, "width": picture.width, "height": picture.height}
            images.append(image | {"coco_url": base_url + name, "task_id": task.task_id})
            if picture.outline:
                x, y = zip(*picture.outline[0], strict=True)
                box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
                boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": box[2] * box[3]})
        told = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "site"}]}
        (draft / "images.json").write_text(json.dumps(told), encoding="utf-8")
        draft.rename(folder)
    return len(asked)


def export_outlines(tasks: Sequence[Task], places: Mapping[str, Place], path: Path, overwrite: bool = False) -> int:
    """Write a validate project: GeoJSON of simple polygons with opaque ids. It tells where the sites are."""
    asked = _validate_only(tasks)
    features = []
    for task in asked:
        ring = _simple(outline_lonlat(places[task.task_id]))
        properties = {"id": task.task_id, "task_id": task.task_id}
        features.append({"type": "Feature", "properties": properties, "geometry": ring})
    with atomic_file(path, overwrite=overwrite) as draft:
        draft.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return len(asked)


def _validate_only(tasks: Sequence[Task]) -> list[Task]:
    asked = [task for task in tasks if task.kind == "validate" and task.pictures]
    if not asked:
        raise ReviewError("MapSwipe's validate projects ask about one site: this review has no such task")
    return asked


def _simple(shape: Any) -> dict[str, Any]:
    """One polygon without holes, to a centimetre; of several parts the largest."""
    parts = list(shapely.get_parts(shape))
    largest = max(parts, key=lambda part: part.area)
    ring = [[round(x, 7), round(y, 7)] for x, y in shapely.get_coordinates(shapely.get_exterior_ring(largest))]
    return {"type": "Polygon", "coordinates": [ring]}


def read_votes(
    path: Path, tasks: Mapping[str, Task], tally: Tally, *, answers: Mapping[str, str] | None = None
) -> Iterator[Vote]:
    """Votes of a results file: CSV or GeoJSON, one row a volunteer (`user_id`, `result`) or aggregated (`0_count` ...).

    Raises:
        ReviewError: if the file is missing or is neither.
    """
    words = ANSWERS | {key.strip().lower(): answer for key, answer in (answers or {}).items()}
    people: set[str] = set()
    for row in _rows(path):
        tally.n_read += 1
        task = next((tasks[row[name]] for name in ("task_id", "id", "idx") if row.get(name) in tasks), None)
        if task is None:
            tally.leave("tasks of another review")
            continue
        made = list(_single(row, task, words) if row.get("user_id") else _aggregated(row, task, words, tally))
        if not made:
            tally.leave("answers that are not understood")
        for vote in made:
            people.add(vote.reviewer_id)
            tally.n_people = len(people)
            tally.n_votes += 1
            yield vote


def _single(row: Mapping[str, str], task: Task, words: Mapping[str, str]) -> Iterator[Vote]:
    answer = words.get(str(row.get("result", "")).strip().lower().removesuffix(".0"))
    if answer:
        person = hashlib.sha256(row["user_id"].encode()).hexdigest()[:16]
        key = f"mapswipe-{task.task_id}-{person}"
        yield Vote(task.task_id, f"m-{person}", answer, (), "", key, told_time(row.get("timestamp", "")), "mapswipe")


def _aggregated(row: Mapping[str, str], task: Task, words: Mapping[str, str], tally: Tally) -> Iterator[Vote]:
    now = datetime.now(UTC)
    number = 0
    for name, value in row.items():
        if not name.endswith("_count") or name == "total_count":
            continue
        answer, count = words.get(name.removesuffix("_count").lower()), _count(value)
        if answer is None or count is None or count > MOST_AGGREGATED:
            if count != 0:
                tally.leave("counts that are not understood")
            continue
        for _ in range(count):
            one = f"{task.task_id}-{number}"
            yield Vote(task.task_id, f"m-{one}", answer, (), "", f"mapswipe-{one}", now, "mapswipe")
            number += 1


def _count(value: Any) -> int | None:
    with suppress(TypeError, ValueError, OverflowError):
        number = float(value or 0)
        return int(number) if number >= 0 and number == int(number) else None
    return None


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise ReviewError(f"{path} is not there: check the name")
    if path.suffix.lower() in (".geojson", ".json"):
        try:
            features = json.loads(path.read_text(encoding="utf-8"))["features"]
            rows = [{key: str(value) for key, value in feature["properties"].items()} for feature in features]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ReviewError(f"{path} is no GeoJSON of MapSwipe's results: check the file") from None
        yield from rows
        return
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(line.replace("\0", "") for line in file)
        if "task_id" not in (reader.fieldnames or []):
            raise ReviewError(f"{path} has no column task_id: it is no results file of MapSwipe")
        try:
            for row in reader:
                yield {str(key): str(value or "") for key, value in row.items() if key}
        except csv.Error as error:
            raise ReviewError(f"{path} cannot be read to its end ({error}): download it again") from error
